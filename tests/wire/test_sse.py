"""The event-stream codec, fed whole, byte by byte and at random cuts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.sse import Event, EventDecoder, TooLong, encode

LINES = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"data:  two", b"event: x", b"event:y", b": note", b"id: 1", b"retry: 5", b"",
     "data: gr\u00fc\u00dfe \u2600 \U0001f600".encode(), b"unknown: z", b"data: {\"k\": 1}"]
)  # fmt: skip
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=40).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


def decode(*pieces: bytes) -> list[Event]:
    decoder = EventDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_the_standard_ends_a_line(end: bytes) -> None:
    stream = end.join([b"event: a", b"data: 1", b"", b"data: 2", b"data: 3", b"", b""])
    assert decode(stream) == [Event("a", b"1"), Event("", b"2\n3")]


def test_comments_and_events_without_data_are_no_events() -> None:
    assert decode(b": keep-alive\n\nevent: x\n\nid: 4\n\ndata: y\n\n") == [Event("", b"y")]


def test_only_one_space_after_the_colon_is_taken_away() -> None:
    assert decode(b"data:  a\ndata:b\ndata\n\n") == [Event("", b" a\nb\n")]


def test_a_byte_order_mark_at_the_start_is_skipped_and_later_ones_are_not() -> None:
    assert decode(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n") == [Event("", b"a")]


def test_a_cr_at_the_end_of_a_chunk_ends_the_event_at_once() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\r\r") == [Event("", b"a")]
    assert decoder.feed(b"\ndata: b\r\n\r") == [Event("", b"b")]
    assert decoder.feed(b"\n") == []


def test_an_unfinished_event_at_the_end_is_no_event() -> None:
    assert decode(b"data: a\n") == []


@pytest.mark.parametrize("piece", [b"x" * 60, b"data: " + b"x" * 20 + b"\n"])
def test_an_event_beyond_the_bound_is_refused_before_it_fills_the_memory(piece: bytes) -> None:
    decoder = EventDecoder(max_event=100)
    decoder.feed(b"data: fine\n\n" * 50)
    pieces = [piece] * 10
    with pytest.raises(TooLong, match="longer than 100 bytes"):
        list(map(decoder.feed, pieces))


def test_many_small_events_are_no_long_event() -> None:
    decoder = EventDecoder(max_event=20)
    assert len(decoder.feed(b"data: 1234567890\n\n" * 1000)) == 1000


@settings(deadline=None, max_examples=150)
@given(STREAMS, st.lists(st.integers(0, 400), max_size=10))
def test_cuts_make_no_difference(stream: bytes, cuts: list[int]) -> None:
    expected = decode(stream)
    assert decode(*(stream[at : at + 1] for at in range(len(stream)))) == expected
    marks = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert decode(*(stream[a:b] for a, b in pairwise(marks))) == expected


@settings(deadline=None, max_examples=100)
@given(st.text(min_size=1), st.text(st.characters(categories=["L", "N"]), max_size=10))
def test_what_is_encoded_comes_back(data: str, name: str) -> None:
    (event,) = decode(encode(data.encode(), name))
    assert event.name == name
    assert event.data == data.replace("\r\n", "\n").replace("\r", "\n").encode()
