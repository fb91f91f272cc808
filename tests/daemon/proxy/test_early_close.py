"""A client that closes at the last word of a stream was served; one that closes before has left."""

from __future__ import annotations

import pytest
import trio
from fakes import ASK_STREAM, STREAM_HEAD, chunked, recorded_stream, through
from scripted import Conversation, serving

STREAM = recorded_stream()
LAST_WORDS = {
    "/v1/messages": b'"type":"message_stop"',
    "/v1/chat/completions": b"[DONE]",
    "/v1/responses": b'"type":"response.completed"',
}


def upstream_that_sends(stream: bytes):
    """An upstream that never ends its answer."""

    async def upstream(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(STREAM_HEAD + chunked(stream))
        await trio.sleep_forever()

    return upstream


@pytest.mark.parametrize("path", LAST_WORDS)
@pytest.mark.parametrize("whole", [True, False], ids=["at the last word", "before"])
async def test_whether_a_client_that_closes_was_served(path: str, whole: bool) -> None:
    sent = STREAM if whole else STREAM[: STREAM.rindex(b"event: message_stop")]
    body = ASK_STREAM.replace(b"messages", b"input") if "responses" in path else ASK_STREAM
    async with serving(upstream_that_sends(sent)) as upstream, through(upstream) as house:
        client = await house.connect()
        await client.post(body, path)
        seen = b""
        while (LAST_WORDS[path] if whole else b"data: ") not in seen:
            with trio.fail_after(client.patience):
                seen += await client.stream.receive_some(65536)
        await client.leave("close")
        receipt = await house.receipt()
    assert (receipt.outcome, receipt.reason) == (("ok", "") if whole else ("left", "the client left"))
    assert receipt.status == 200
    assert receipt.usage.output > 0
