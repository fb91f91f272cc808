"""The body of an answer on its way: keep-alive, silence, cuts, and what the client is told."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import anthropic
import httpx2
import msgspec
import pytest
import trio
from fakes import Cut, Pair, ScriptedSource, events_of, exchanging, recorded_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from waiting import PATIENCE

from relayd.core.balancing.outcomes import Unreachable
from relayd.daemon.net.transport_errors import ReadError
from relayd.daemon.proxy.streaming import COMMENT, GATHER_LIMIT, EventStream, first_event, gather, pass_through
from relayd.wire.anthropic import error_body
from relayd.wire.meter import Meter
from relayd.wire.refusal import Refusal
from relayd.wire.sse import Event, EventDecoder

STREAM = recorded_stream()
EVENTS = events_of(STREAM)
RESET = ReadError("connection reset by the upstream")
ERROR = b"event: error\ndata: " + error_body("overloaded_error", "Overloaded", "req_1") + b"\n\n"
HALF = EVENTS[3][:-20]


def passing(pair: Pair, source: ScriptedSource, *, keepalive: float = 15.0, idle: float = 300.0) -> EventStream:
    return EventStream(
        exchange=pair.exchange,
        source=source,
        meter=Meter(),
        translator=None,
        keepalive=keepalive,
        idle=idle,
        request_id="req_test",
    )


async def passed(*lines: bytes | float | Exception, keepalive: float = 15.0, idle: float = 300.0) -> bytes:
    """What a client reads of a stream whose source follows `lines`."""
    async with exchanging() as pair:
        stream = passing(pair, ScriptedSource(list(lines)), keepalive=keepalive, idle=idle)
        pair.exchange.start(200, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, stream)
            return (await pair.client.answer()).body


async def _run(stream: EventStream) -> Refusal | None:
    return await stream.run(b"", ended=False)


def read(stream: bytes) -> list[Event]:
    return EventDecoder().feed(stream)


def errors(stream: bytes) -> list[tuple[str, str]]:
    """Type and message of each error event."""
    found = [msgspec.json.decode(event.data)["error"] for event in read(stream) if event.name == "error"]
    return [(error["type"], error["message"]) for error in found]


@cache
def sdk_reads(stream: bytes) -> tuple[list[str], str]:
    """The events as the official SDK decodes them, and the type of the error that it raises at the end, or ""."""
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    names: list[str] = []
    with (
        httpx2.Client(transport=httpx2.MockTransport(lambda request: answer), timeout=PATIENCE) as http,
        anthropic.Anthropic(api_key="x", base_url="http://relay", http_client=http, max_retries=0) as sdk,
        sdk.messages.create(model="m", max_tokens=1, messages=[], stream=True) as events,
    ):
        try:
            names.extend(event.type for event in events)
        except anthropic.APIStatusError as error:
            return names, str(error.type)
    return names, ""


# Passing on.


async def test_a_stream_passes_unchanged(autojump_clock: MockClock) -> None:
    assert await passed(*EVENTS) == STREAM


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=30))
@settings(deadline=None, max_examples=60)
def test_a_stream_passes_unchanged_however_it_was_cut_into_pieces(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[at:to] for at, to in pairwise(places) if to > at]
    assert trio.run(passed, *pieces) == STREAM


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
async def test_a_stream_passes_unchanged_byte_by_byte(newline: bytes, autojump_clock: MockClock) -> None:
    stream = STREAM.replace(b"\n", newline)
    assert await passed(*(stream[at : at + 1] for at in range(len(stream)))) == stream


async def test_unknown_events_comments_and_fields_pass_unchanged(autojump_clock: MockClock) -> None:
    strange = [b": hello\n\n", b"event: tomorrow\nid: 7\nretry: 5\ndata: {\ndata: }\n\n", b"data: no name\n\n"]
    assert await passed(*strange, *EVENTS) == b"".join(strange) + STREAM


async def test_what_has_come_does_not_wait_for_what_has_not(autojump_clock: MockClock) -> None:
    async with exchanging() as pair, trio.open_nursery() as nursery:
        stream = passing(pair, ScriptedSource([10.0, EVENTS[1], 10.0]))
        pair.exchange.start(200, [])
        nursery.start_soon(lambda: stream.run(EVENTS[0], ended=False))
        await trio.sleep(1)
        assert pair.heard().endswith(EVENTS[0] + b"\r\n")
        await trio.sleep(10)
        assert pair.heard().endswith(EVENTS[1] + b"\r\n")
        nursery.cancel_scope.cancel()


async def test_an_event_larger_than_any_buffer_passes_unchanged() -> None:
    large = b'event: content_block_delta\ndata: {"x":"' + b"y" * 3_000_000 + b'"}\n\n'
    pieces = [large[at : at + 60_000] for at in range(0, len(large), 60_000)]
    assert await passed(EVENTS[0], *pieces, *EVENTS[1:]) == EVENTS[0] + large + b"".join(EVENTS[1:])


# Silence.


async def test_a_comment_goes_out_after_each_silence_and_the_stream_goes_on(autojump_clock: MockClock) -> None:
    body = await passed(EVENTS[0], 40.0, *EVENTS[1:], keepalive=15.0)
    assert body == EVENTS[0] + 2 * COMMENT + b"".join(EVENTS[1:])


async def test_no_comment_goes_out_while_events_come(autojump_clock: MockClock) -> None:
    lines = [line for event in EVENTS for line in (14.0, event)]
    assert await passed(*lines, keepalive=15.0) == STREAM


async def test_before_the_first_event_a_comment_keeps_the_client_awake(autojump_clock: MockClock) -> None:
    assert await passed(20.0, *EVENTS, keepalive=15.0) == COMMENT + STREAM


async def test_keep_alive_can_be_turned_off(autojump_clock: MockClock) -> None:
    assert await passed(EVENTS[0], 200.0, *EVENTS[1:], keepalive=0.0) == STREAM


@pytest.mark.parametrize("at", range(1, len(EVENTS[3]), 7))
async def test_a_comment_never_stands_inside_an_event(at: int, autojump_clock: MockClock) -> None:
    before, event, after = EVENTS[:3], EVENTS[3], EVENTS[4:]
    body = await passed(*before, event[:at], 20.0, event[at:], *after, keepalive=15.0)
    assert event in body
    assert body.replace(COMMENT, b"") == STREAM


async def test_no_comment_stands_inside_an_event_that_is_too_large_to_hold_back(autojump_clock: MockClock) -> None:
    large = b'event: content_block_delta\ndata: {"x":"' + b"y" * 600_000 + b'"}\n\n'
    body = await passed(EVENTS[0], large[:500_000], 40.0, large[500_000:], 20.0, *EVENTS[1:], keepalive=15.0)
    assert body == EVENTS[0] + large + COMMENT + b"".join(EVENTS[1:])


async def test_an_upstream_that_goes_silent_ends_the_stream_with_an_error_event(autojump_clock: MockClock) -> None:
    body = await passed(*EVENTS[:5], 1000.0, *EVENTS[5:], keepalive=15.0, idle=100.0)
    assert body.startswith(b"".join(EVENTS[:5]) + COMMENT)
    assert body.count(COMMENT) == 6
    assert errors(body) == [("timeout_error", "the upstream went silent in the middle of its answer")]
    assert trio.current_time() == pytest.approx(100.0)


async def test_comments_of_ours_do_not_hide_a_dead_upstream_but_pings_of_its_own_do(autojump_clock: MockClock) -> None:
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    body = await passed(*EVENTS[:5], 90.0, ping, 90.0, ping, 90.0, *EVENTS[5:], keepalive=60.0, idle=100.0)
    assert body.replace(COMMENT, b"").replace(2 * ping, b"").count(b"event: error") == 0
    assert body.endswith(EVENTS[-1])


async def test_a_client_that_does_not_read_is_no_silent_upstream(autojump_clock: MockClock) -> None:
    piece = b'event: content_block_delta\ndata: {"x":"' + b"y" * 60_000 + b'"}\n\n'
    async with exchanging(write_timeout=1000.0) as pair:
        stream = passing(pair, ScriptedSource([EVENTS[0], *[piece] * 20, *EVENTS[1:]]), idle=10.0)
        pair.exchange.start(200, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, stream)
            await trio.sleep(100.0)
            body = (await pair.client.answer()).body
    assert body == EVENTS[0] + piece * 20 + b"".join(EVENTS[1:])


# Cuts.


@pytest.mark.parametrize("neat", [True, False], ids=["neat", "broken"])
async def test_a_cut_at_any_byte_gives_an_sdk_whole_events_and_then_one_error(neat: bool) -> None:
    end = [] if neat else [RESET]
    names = [event.name for event in read(STREAM) if event.name != "ping"]
    for at in range(1, len(STREAM), 7 if neat else 1):
        body = await passed(STREAM[:at], *end)
        whole = read(STREAM[:at])
        assert read(body)[:-1] == whole, f"cut at {at}"
        assert errors(body) == [("api_error", "the upstream broke off its answer")], f"cut at {at}"
        assert sdk_reads(body) == (names[: len(sdk_reads(body)[0])], "api_error"), f"cut at {at}"


@pytest.mark.parametrize("at", range(1, len(STREAM), 41))
async def test_a_cut_in_two_pieces_is_a_cut(at: int, autojump_clock: MockClock) -> None:
    body = await passed(STREAM[: at // 2], 1.0, STREAM[at // 2 : at], 1.0, RESET)
    assert errors(body) == [("api_error", "the upstream broke off its answer")]


async def test_a_neat_end_without_message_stop_is_an_error(autojump_clock: MockClock) -> None:
    body = await passed(*EVENTS[:-1])
    assert body.startswith(b"".join(EVENTS[:-1]))
    assert errors(body) == [("api_error", "the upstream broke off its answer")]


async def test_an_empty_stream_is_an_error(autojump_clock: MockClock) -> None:
    assert errors(await passed()) == [("api_error", "the upstream broke off its answer")]


async def test_an_error_event_of_the_upstream_passes_and_is_not_doubled(autojump_clock: MockClock) -> None:
    assert await passed(*EVENTS[:5], ERROR) == b"".join(EVENTS[:5]) + ERROR


async def test_an_error_event_followed_by_a_cut_is_not_doubled(autojump_clock: MockClock) -> None:
    assert await passed(*EVENTS[:5], ERROR, RESET) == b"".join(EVENTS[:5]) + ERROR


async def test_a_cut_behind_message_stop_is_a_proper_end(autojump_clock: MockClock) -> None:
    assert await passed(*EVENTS, RESET) == STREAM


async def test_a_connection_left_open_behind_message_stop_is_a_proper_end(autojump_clock: MockClock) -> None:
    assert (await passed(*EVENTS, 1000.0, idle=100.0)).replace(COMMENT, b"") == STREAM


async def test_a_cut_inside_the_upstreams_error_event_is_told_once(autojump_clock: MockClock) -> None:
    body = await passed(*EVENTS[:5], ERROR[:-30], RESET)
    assert errors(body) == [("api_error", "the upstream broke off its answer")]


async def test_a_cut_inside_an_event_too_large_to_hold_back_is_still_told(autojump_clock: MockClock) -> None:
    large = b'event: content_block_delta\ndata: {"x":"' + b"y" * 3_000_000
    body = await passed(EVENTS[0], large, RESET)
    assert errors(body) == [("api_error", "the upstream broke off its answer")]


async def test_a_stream_that_is_cancelled_ends_with_an_error_event_and_visibly_cut(autojump_clock: MockClock) -> None:
    async with exchanging() as pair:
        source = ScriptedSource([*EVENTS[:4], HALF, 1000.0])
        stream = passing(pair, source)
        pair.exchange.start(200, [])
        with trio.move_on_after(5):
            await stream.run(b"", ended=False)
        with pytest.raises(Cut) as caught:
            await pair.client.answer()
    assert errors(caught.value.told.body) == [("api_error", "the relay is stopping")]
    assert stream.meter.usage.input > 0


async def test_a_client_that_left_ends_the_stream_quietly(autojump_clock: MockClock) -> None:
    async with exchanging() as pair:
        stream = passing(pair, ScriptedSource([*EVENTS, *EVENTS, *EVENTS]))
        await pair.client.leave("close")
        pair.exchange.start(200, [])
        await stream.run(b"", ended=False)
        assert pair.exchange.gone


# What is known before a byte is passed on.


async def test_the_first_event_is_the_first_that_counts(autojump_clock: MockClock) -> None:
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    opening, first = await first_event(ScriptedSource([b": hello\n\n", ping, 1.0, *EVENTS]), 15.0)
    assert first == "message_start"
    assert opening.data == b": hello\n\n" + ping + EVENTS[0]
    assert not opening.ended


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (b'event: message_start\ndata: {"a":1}\n\n', "message_start"),
        (b'event: message_start\ndata: {"a":1}\nevent: error\n\n', "error"),  # the last name holds
        (b'event: message_start\ndata: {"a":1}\nevent: ping\n\n' + ERROR, "error"),
        (b'event: message_start\ndata: {"a":1,\ndata: "b":2}\n\n', "message_start"),
        (b'event: message_start\r\ndata: {"a":1}\r\n\r\n', "message_start"),
        (b'event: message_start_of_another_kind\ndata: {"a":1}\n\n', "message_start_of_another_kind"),
    ],
)
async def test_the_usual_beginning_is_taken_for_nothing_else(
    stream: bytes, name: str, autojump_clock: MockClock
) -> None:
    for pieces in ([stream], [stream[at : at + 1] for at in range(len(stream))], [stream[:30], stream[30:]]):
        opening, first = await first_event(ScriptedSource(list[bytes | float | Exception | trio.Event](pieces)), 15.0)
        assert (opening.data.rstrip(), first) == (stream.rstrip(), name)


async def test_a_first_event_in_single_bytes_is_read(autojump_clock: MockClock) -> None:
    opening, first = await first_event(ScriptedSource([ERROR[at : at + 1] for at in range(len(ERROR))]), 15.0)
    assert (opening.data, first) == (ERROR, "error")


async def test_long_thought_before_the_first_event_is_no_fault(autojump_clock: MockClock) -> None:
    opening, first = await first_event(ScriptedSource([100.0, *EVENTS]), 15.0)
    assert (opening.data, first) == (b"", "unknown")
    assert trio.current_time() == pytest.approx(15.0)


async def test_pings_before_the_first_event_reach_the_client_in_time(autojump_clock: MockClock) -> None:
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    opening, first = await first_event(ScriptedSource([10.0, ping] * 20), 15.0)
    assert (opening.data, first) == (ping, "unknown")
    assert trio.current_time() == pytest.approx(15.0)


async def test_a_stream_that_ends_or_breaks_before_its_first_event_is_told_apart(autojump_clock: MockClock) -> None:
    opening, first = await first_event(ScriptedSource([b": hello\n\n"]), 15.0)
    assert (opening.ended, first) == (True, "")
    opening, outcome = await first_event(ScriptedSource([b": hello\n\n", RESET]), 15.0)
    assert opening.cut == str(RESET)
    assert outcome == Unreachable(kind="reset", reason=str(RESET))


async def test_a_first_event_without_an_end_is_not_gathered_for_ever(autojump_clock: MockClock) -> None:
    source = ScriptedSource([b"event: message_start\ndata: ", *[b"x" * 60_000] * 100])
    opening, first = await first_event(source, 15.0)
    assert first == "unknown"
    assert len(opening.data) < 150_000


async def test_a_short_body_is_gathered_whole(autojump_clock: MockClock) -> None:
    opening = await gather(ScriptedSource([b"ab", 5.0, b"cd"]), 10.0)
    assert (opening.data, opening.ended, opening.cut) == (b"abcd", True, "")


async def test_a_long_body_is_gathered_up_to_a_bound(autojump_clock: MockClock) -> None:
    source = ScriptedSource([b"x" * 65536] * 100)
    opening = await gather(source, 10.0)
    assert not opening.ended
    assert GATHER_LIMIT < len(opening.data) <= GATHER_LIMIT + 65536
    assert source.taken == len(opening.data)


async def test_a_body_that_breaks_or_goes_silent_is_cut(autojump_clock: MockClock) -> None:
    assert (await gather(ScriptedSource([b"ab", RESET]), 10.0)).cut == str(RESET)
    assert (await gather(ScriptedSource([b"ab", 11.0, b"cd"]), 10.0)).cut == "went silent"


# Bodies that are no event streams.


async def test_a_large_body_passes_unchanged() -> None:
    async with exchanging() as pair:
        pair.exchange.start(200, [], 6 * 65536)
        source = ScriptedSource([b"b" * 65536, *[b"c" * 65536] * 4])
        told = []

        async def read_it() -> None:
            told.append(await pair.client.answer())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_it)
            assert await pass_through(pair.exchange, source, b"a" * 65536, 10.0) == ""
    assert told[0].body == b"a" * 65536 + b"b" * 65536 + 4 * b"c" * 65536


async def test_a_large_body_that_breaks_is_visibly_cut(autojump_clock: MockClock) -> None:
    for end, why in ((RESET, str(RESET)), (11.0, "went silent")):
        async with exchanging() as pair:
            pair.exchange.start(200, [], 1000)
            assert await pass_through(pair.exchange, ScriptedSource([b"b", end, b"c"]), b"a", 10.0) == why
            with pytest.raises(Cut):
                await pair.client.answer()
