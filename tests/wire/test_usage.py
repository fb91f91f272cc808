"""The meter reads the same counts however the stream is cut, and looks into no other event."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.meter import Meter
from relayd.wire.usage import Usage, usage_of_message

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":21,'
    b'"cache_creation_input_tokens":1200,"cache_read_input_tokens":8000,"cache_creation":{"ephemeral_5m_input_tokens":'
    b'1000,"ephemeral_1h_input_tokens":200},"output_tokens":3,"service_tier":"standard"}}}\n\n'
)
TEXT = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":"an event: message_delta with an error is only text \xe2\x82\xac"}}\n\n'
)
DELTA = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":'
    b'{"output_tokens":87,"server_tool_use":{"web_search_requests":2}}}\n\n'
)
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
STREAM = START + b"event: ping\ndata: {}\n\n" + TEXT * 3 + DELTA + STOP
EXPECTED = Usage(
    input=21,
    cache_write_5m=1000,
    cache_write_1h=200,
    cache_read=8000,
    output=87,
    web_searches=2,
    service_tier="standard",
)


def fed(pieces: Iterable[bytes]) -> Meter:
    meter = Meter()
    for piece in pieces:
        meter.feed(piece)
    return meter


def test_usage_of_a_stream_is_read_whole_and_byte_by_byte() -> None:
    for pieces in ([STREAM], [bytes([byte]) for byte in STREAM]):
        meter = fed(pieces)

        assert meter.usage == EXPECTED
        assert meter.seen
        assert meter.finished
        assert not meter.failed


@given(st.lists(st.integers(0, len(STREAM)), max_size=30), st.booleans())
@settings(deadline=None, max_examples=150)
def test_usage_does_not_depend_on_where_the_reads_cut(cuts: list[int], dos: bool) -> None:
    stream = STREAM.replace(b"\n", b"\r\n") if dos else STREAM
    edges = [0, *sorted(cuts), len(stream)]
    meter = fed(stream[a:b] for a, b in itertools.pairwise(edges) if a != b)

    assert meter.usage == EXPECTED
    assert meter.finished


@given(st.integers(0, len(STREAM)))
@settings(deadline=None, max_examples=100)
def test_a_comment_may_stand_exactly_where_an_event_has_ended(cut: int) -> None:
    whole = fed([STREAM[:cut]]) if cut else Meter()
    bits = fed(bytes([byte]) for byte in STREAM[:cut])

    expected = cut == 0 or STREAM[:cut].endswith(b"\n\n")
    assert whole.at_boundary == expected
    assert bits.at_boundary == expected


def test_words_in_text_are_not_taken_for_events() -> None:
    meter = fed([TEXT * 5])

    assert not meter.seen
    assert not meter.finished
    assert not meter.failed


def test_an_error_event_is_noticed_at_every_cut() -> None:
    for cut in range(len(ERROR)):
        meter = fed(piece for piece in (START + TEXT + ERROR[:cut], ERROR[cut:]) if piece)

        assert meter.failed
        assert meter.usage.input == 21


@pytest.mark.parametrize("before", [b"x\r", b"x" * 50 + b"\r"])
def test_a_line_that_ends_with_a_carriage_return_ends_there_at_every_cut(before: bytes) -> None:
    stream = before + b"event: message_stop\n"
    for cut in range(1, len(stream)):
        assert fed([stream[:cut], stream[cut:]]).finished, cut


def test_later_counts_replace_and_never_add() -> None:
    more = DELTA.replace(b"87", b"90")

    assert fed([START + DELTA + more]).usage.output == 90


def test_a_total_beyond_the_known_split_counts_as_five_minute_writes() -> None:
    delta = DELTA.replace(b'"output_tokens":87', b'"output_tokens":87,"cache_creation_input_tokens":1500')

    usage = fed([START + delta]).usage
    assert (usage.cache_write_5m, usage.cache_write_1h) == (1300, 200)


@pytest.mark.parametrize("bad", [b'{"usage": 5}', b"not json", b'{"usage": {"input_tokens": "x"}}', b"[" * 5000])
def test_a_report_that_makes_no_sense_changes_nothing_that_was_read(bad: bytes) -> None:
    meter = fed([START, b"event: message_delta\ndata: " + bad + b"\n\n", STOP])

    assert meter.usage.input == 21
    assert meter.finished
    assert meter.usage.doubts
    assert not meter.final
    told = usage_of_message(bad)
    assert told is None or told.doubts


def test_an_endless_event_does_not_fill_memory() -> None:
    meter = fed([b"event: message_start\ndata: ", *([b"x" * 60000] * 20), b"\n\n", DELTA, STOP])

    assert meter.finished
    assert meter.usage.output == 87


def test_a_whole_answer_tells_its_usage() -> None:
    body = b'{"id":"msg_1","content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":5,"output_tokens":7}}'

    assert usage_of_message(body) == Usage(input=5, output=7)
    assert usage_of_message(b'{"type":"error"}') is None
