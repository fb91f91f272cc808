"""An upstream that compresses although identity was asked: the client gets it plain, and all of it is read."""

from __future__ import annotations

import gzip

import pytest
import trio
from builders import snapshot
from fakes import (
    ASK,
    ASK_STREAM,
    STREAM_HEAD,
    Reception,
    answering,
    chunked,
    failing,
    message,
    recorded_stream,
    relaying,
    upstream_account,
)
from scripted import Conversation, serving

from relayd.config.snapshot import Seconds, Server

SECRET = "sk-ant-test-a"
STREAM = recorded_stream()
PACKED_HEAD = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")


async def answer_of(*answers: bytes, ask: bytes = ASK, path: str = "/v1/messages", accounts: str = "a"):
    """What a client is told, and the receipt."""
    async with serving(Reception(list(answers))) as upstream:
        tree = snapshot(accounts=tuple(upstream_account(name, upstream.port) for name in accounts))
        async with relaying(tree) as house:
            told = await house.ask(ask, path)
            return told, await house.receipt()


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_a_whole_answer_comes_plain_and_is_booked(path: str) -> None:
    packed = gzip.compress(message(f"you sent {SECRET}", input_tokens=7, output_tokens=5))
    told, receipt = await answer_of(answering(body=packed, content_encoding="gzip"), path=path)
    assert told.status == 200
    assert "content-encoding" not in dict(told.pairs)
    assert b"you sent *************" in told.body
    assert (receipt.usage.input, receipt.usage.output) == (7, 5)


@pytest.mark.parametrize("size", [1, 50, 100_000])
async def test_a_stream_comes_plain_and_is_metered(size: int) -> None:
    packed = gzip.compress(STREAM)
    pieces = [packed[start : start + size] for start in range(0, len(packed), size)]
    told, receipt = await answer_of(PACKED_HEAD + chunked(*pieces) + b"0\r\n\r\n", ask=ASK_STREAM)
    assert told.body == STREAM
    assert receipt.outcome == "ok"
    assert receipt.usage.output > 0


async def test_comments_stand_between_the_events_of_such_a_stream(jumping_clock: trio.testing.MockClock) -> None:
    first = STREAM.index(b"\n\n") + 2
    packed = [gzip.compress(STREAM[:first]), gzip.compress(STREAM[first:])]

    async def pauses(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(PACKED_HEAD + chunked(packed[0]))
        await trio.sleep(20)
        await conversation.send(chunked(packed[1]) + b"0\r\n\r\n")

    async with serving(pauses) as upstream:
        relay = {"server": Server(sse_keepalive=Seconds(15.0))}
        async with relaying(snapshot(accounts=(upstream_account("a", upstream.port),), relay=relay)) as house:
            told = await house.ask(ASK_STREAM)
    assert told.body == STREAM[:first] + b": keep-alive\n\n" + STREAM[first:]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_an_error_is_read_in_each_dialect(path: str) -> None:
    packed = gzip.compress(failing(400, "invalid_request_error", "too long").partition(b"\r\n\r\n")[2])
    told, _ = await answer_of(answering(400, packed, content_encoding="gzip"), path=path)
    assert told.status == 400
    assert told.json["error"]["message"] == "too long"


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(message())[:-9]], ids=["damaged", "cut"])
async def test_what_cannot_be_decoded_is_a_failure_of_that_account(body: bytes) -> None:
    told, receipt = await answer_of(
        answering(body=body, content_encoding="gzip"), answering(body=message()), accounts="ab"
    )
    assert told.status == 200
    assert len(receipt.attempts) == 2
