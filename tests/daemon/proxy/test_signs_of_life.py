"""A stream whose upstream is silent before its head: the client hears something, and the truth afterwards."""

from __future__ import annotations

from typing import Any

import builders
import pytest
import trio
from fakes import ASK, ASK_STREAM, House, answering, events_of, failing, recorded_stream, streaming, upstream_account
from fakes import relaying as relaying_tree
from scripted import Conversation, serving
from trio.testing import MockClock

from relayd.config.snapshot import Deny, Policy, Routing, Seconds, Server, Upstream

STREAM = recorded_stream()
HEAD_AFTER, EVERY = 2.0, 1.0
ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"too busy"}}\n\n'
PATHS = ("/v1/messages", "/v1/chat/completions", "/v1/responses")


def silent_for(seconds: float, answer: bytes):
    async def upstream(conversation: Conversation) -> None:
        while await conversation.request():
            await trio.sleep(seconds)
            await conversation.send(answer)

    return upstream


def tree(ports: list[int], server: Server, upstream: Upstream | None = None):
    names = zip("ab", ports, strict=False)
    accounts = tuple(upstream_account(name, port, priority=place) for place, (name, port) in enumerate(names))
    relay: dict[str, Any] = {
        "server": server,
        "policy": Policy(on_revoke="cut"),
        "routing": Routing(strategy="priority", affinity=Seconds(0.0)),
    }
    return builders.snapshot(accounts=accounts, relay=relay | ({"upstream": upstream} if upstream else {}))


def body_for(path: str) -> bytes:
    return ASK_STREAM.replace(b"messages", b"input") if "responses" in path else ASK_STREAM


async def told_by(house: House, path: str = "/v1/messages", body: bytes | None = None):
    client = await house.connect()
    client.patience = 1e6
    await client.post(body_for(path) if body is None else body, path)
    return await client.answer()


ON = Server(sse_head_after=Seconds(HEAD_AFTER), sse_keepalive=Seconds(EVERY))


@pytest.mark.parametrize("path", PATHS)
async def test_a_late_stream_follows_its_signs_of_life(jumping_clock: MockClock, path: str) -> None:
    async with serving(silent_for(5, streaming(STREAM))) as there, relaying_tree(tree([there.port], ON)) as house:
        told = await told_by(house, path)
        receipt = await house.receipt()
    comments, _, rest = told.body.rpartition(b": keep-alive\n\n")
    assert told.status == 200
    assert told["content-type"] == "text/event-stream" or told["content-type"].startswith("text/event-stream;")
    assert told["request-id"] == told["relayd-request-id"] == receipt.call_id
    assert 2 <= comments.count(b": keep-alive\n\n") + 1 <= 4
    assert rest == STREAM if path == "/v1/messages" else rest.startswith((b"data: {", b"event: response.created"))
    assert (receipt.outcome, receipt.status) == ("ok", 200)
    assert receipt.usage.output > 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("answer", "said", "outcome"),
    [
        (failing(529, "overloaded_error", "too busy"), b"too busy", "upstream"),
        (streaming(ERROR), b"too busy", "upstream"),
        (answering(502, b"<html>\nbad gateway"), b"502", "upstream"),
        (answering(200, b'{"type":"message"}'), b"without a stream", "refused"),
        (b"", b"", "refused"),
    ],
    ids=["an error", "an error event", "a page", "no stream", "no answer"],
)  # fmt: skip
async def test_what_goes_wrong_then_is_an_error_event_and_no_other_account_is_asked(
    jumping_clock: MockClock, path: str, answer: bytes, said: bytes, outcome: str
) -> None:
    async def silent(conversation: Conversation) -> None:
        if await conversation.request():
            await trio.sleep(4)
            if answer:
                await conversation.send(answer)

    async def other(conversation: Conversation) -> None:
        raise AssertionError("the call was committed to the first account")

    async with (
        serving(silent) as first,
        serving(other) as second,
        relaying_tree(tree([first.port, second.port], ON)) as house,
    ):
        told = await told_by(house, path)
        receipt = await house.receipt()
    assert told.status == 200
    last = events_of(told.body)[-1]
    assert said in last
    if path == "/v1/messages":
        assert last.startswith(b'event: error\ndata: {"type":"error"')
    elif path == "/v1/responses":
        assert last.startswith(b"event: response.failed")
    else:
        assert last.startswith(b'data: {"error":')
    assert [one.account for one in receipt.attempts] == ["a"]
    assert (receipt.outcome, receipt.status >= 500) == (outcome, True)


async def test_a_failure_that_comes_sooner_is_failed_over(jumping_clock: MockClock) -> None:
    first, second = silent_for(1, failing(529, "overloaded_error")), silent_for(1, streaming(STREAM))
    async with (
        serving(first) as one,
        serving(second) as two,
        relaying_tree(tree([one.port, two.port], ON)) as house,
    ):
        told = await told_by(house)
    assert told.body == STREAM


@pytest.mark.parametrize(
    "server",
    [
        Server(sse_head_after=Seconds(0.0), sse_keepalive=Seconds(EVERY)),
        Server(sse_head_after=Seconds(HEAD_AFTER), sse_keepalive=Seconds(0.0)),
    ],
    ids=["off", "no comments"],
)
async def test_it_can_be_turned_off(jumping_clock: MockClock, server: Server) -> None:
    async with (
        serving(silent_for(5, failing(400, "invalid_request_error"))) as there,
        relaying_tree(tree([there.port], server)) as house,
    ):
        assert (await told_by(house)).status == 400


async def test_a_plain_call_never_gets_a_head_before_its_answer(jumping_clock: MockClock) -> None:
    async with (
        serving(silent_for(5, failing(400, "invalid_request_error"))) as there,
        relaying_tree(tree([there.port], ON)) as house,
    ):
        assert (await told_by(house, body=ASK)).status == 400


@pytest.mark.parametrize("why", ["revoked", "out of time"])
async def test_a_call_that_is_ended_meanwhile_says_so(jumping_clock: MockClock, why: str) -> None:
    async with serving(silent_for(50, b"")) as there:
        upstream = Upstream(total_timeout=Seconds(4.0)) if why == "out of time" else Upstream()
        config = tree([there.port], ON, upstream)
        async with relaying_tree(config) as house:
            client = await house.connect()
            client.patience = 1e6
            await client.post(ASK_STREAM)
            await client.head()
            if why == "revoked":
                newer = builders.changed(config, deny=Deny(keys=("dev",)), revision="000000000001")
                house.live.swap(newer)
                house.app.calls.in_flight.revoked(config, newer)
            told = await client.rest()
            receipt = await house.receipt()
    last = events_of(told.body)[-1]
    assert last.startswith(b"event: error")
    assert (b"revoked" if why == "revoked" else b"total timeout") in last
    assert receipt.status == (401 if why == "revoked" else 504)
