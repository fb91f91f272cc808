"""An upstream that echoes what it was sent: our credential reaches no client, no log and no receipt."""

from __future__ import annotations

import pytest
from builders import api_key, snapshot
from fakes import (
    ASK,
    ASK_STREAM,
    STREAM_HEAD,
    Reception,
    ScriptedSource,
    answering,
    chunked,
    failing,
    message,
    recorded_stream,
    relaying,
    streaming,
    upstream_account,
)
from scripted import Conversation, serving

from relayd.daemon.accounts.upstreams import BlottedBody
from relayd.wire.blot import Blotter

SECRET = "sk-ant-test-a"
STARS = "*" * len(SECRET)
STREAM = recorded_stream()


async def answer_of(*answers: bytes, ask: bytes = ASK, path: str = "/v1/messages", endpoints: tuple[str, ...] = ()):
    """What a client is told, and the receipt."""
    key = api_key(endpoints=("messages", "openai", "models", *endpoints))
    async with serving(Reception(list(answers))) as upstream:
        tree = snapshot(keys=(key,), accounts=(upstream_account("a", upstream.port),))
        async with relaying(tree) as house:
            told = await house.ask(ask, path)
            return told, await house.receipt()


async def test_an_echo_in_a_whole_answer_is_blotted_out_and_the_length_stays() -> None:
    told, _ = await answer_of(answering(body=message(f"you sent {SECRET}, right?"), x_debug=f"key={SECRET};"))

    assert told.json["content"][0]["text"] == f"you sent {STARS}, right?"
    assert told["x-debug"] == f"key={STARS};"


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
async def test_an_echo_in_an_error_reaches_neither_client_nor_receipt(status: int) -> None:
    told, receipt = await answer_of(failing(status, "invalid_request_error", f"bad credential {SECRET}"))

    assert SECRET not in repr(told)
    assert SECRET not in repr(receipt)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/responses"])
async def test_an_echo_in_a_stream_is_blotted_out_wherever_it_is_cut(path: str) -> None:
    echoing = STREAM.replace(b'"text":"', b'"text":"' + SECRET.encode() + b" ")
    assert echoing.count(SECRET.encode()) > 3
    at = echoing.index(SECRET.encode())
    ask = ASK_STREAM if path != "/v1/responses" else ASK_STREAM.replace(b'"messages"', b'"input"')
    bodies = {}
    for cut in (at, at + 1, at + 7, at + len(SECRET) - 1, at + len(SECRET)):
        told, _ = await answer_of(streaming(echoing[:cut], echoing[cut:]), ask=ask, path=path)
        bodies[cut] = told.body
        assert SECRET.encode() not in told.body
        assert STARS.encode() in told.body
    if path == "/v1/messages":
        assert set(bodies.values()) == {echoing.replace(SECRET.encode(), STARS.encode())}


async def test_a_stream_cut_within_an_echo_tells_nothing_of_it() -> None:
    piece = STREAM.replace(b'"text":"', b'"text":"' + SECRET.encode())
    end = piece.index(SECRET.encode()) + len(SECRET) - 1

    async def breaks_off(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(STREAM_HEAD + chunked(piece[:end]))

    async with serving(breaks_off) as upstream:
        tree = snapshot(accounts=(upstream_account("a", upstream.port),))
        async with relaying(tree) as house:
            told = await house.ask(ASK_STREAM)
    assert b"event: error" in told.body
    assert SECRET[:-1].encode() not in told.body


async def test_what_speaks_for_the_upstreams_origin_does_not_pass() -> None:
    told, _ = await answer_of(
        answering(
            body=message(),
            x_api_key=SECRET,
            authorization=f"Bearer {SECRET}",
            cookie="a=b",
            via="1.1 cache",
            alt_svc='h3=":443"',
            access_control_allow_origin="*",
            access_control_allow_credentials="true",
            request_id="req_up",
        )
    )

    assert {name for name, _ in told.pairs} <= {
        "content-type",
        "content-length",
        "date",
        "request-id",
        "relayd-request-id",
        "relayd-config",
    }
    assert told["request-id"] == "req_up"


async def test_what_merely_begins_like_a_credential_passes() -> None:
    told, _ = await answer_of(answering(body=message(SECRET[:-1] + "! sk-ant-test")))

    assert told.json["content"][0]["text"] == SECRET[:-1] + "! sk-ant-test"


async def test_a_piece_that_is_held_back_whole_does_not_hide_what_has_come_behind_it() -> None:
    """Nothing may tell a second time that there is something: "nothing yet" has to be true."""
    secret = SECRET.encode()
    body = BlottedBody(ScriptedSource([secret[:4], secret[4:6], b"! and ", secret[:9]]), Blotter(secret))
    assert body.take() == secret[:6] + b"! and "
    assert body.take() == secret[:9]  # the end has come: it was not the secret
    assert body.take() == b""
