"""A known secret does not pass, however the bytes around it are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.blot import SHORTEST, Blotter, blotted

SECRET = b"sk-ant-api03-sk-ant-s3cret"
STARS = b"*" * len(SECRET)


def through(pieces: list[bytes], secret: bytes = SECRET) -> bytes:
    blotter = Blotter(secret)
    return b"".join([*(blotter.feed(piece) for piece in pieces), blotter.rest()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


PIECES = st.sampled_from([SECRET, SECRET[:5], SECRET[:-1], SECRET[1:], b"s", b"sk-ant-", b"\n", b"text", b"sk-"])


@given(st.lists(PIECES, max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_cuts_change_nothing_and_the_length_stays(pieces: list[bytes], places: list[int]) -> None:
    data = b"".join(pieces)

    out = through(cut(data, places))

    assert out == data.replace(SECRET, STARS)
    assert SECRET not in out
    assert len(out) == len(data)


def test_byte_by_byte() -> None:
    data = b"x" + SECRET + SECRET[:-1] + b"|" + SECRET
    assert through([data[at : at + 1] for at in range(len(data))]) == b"x" + STARS + SECRET[:-1] + b"|" + STARS


def test_what_ends_an_event_is_not_kept_back() -> None:
    assert Blotter(SECRET).feed(b"data: sk-ant-\n\n") == b"data: sk-ant-\n\n"
    assert Blotter(SECRET).feed(b"data: sk-ant-") == b"data: "


@pytest.mark.parametrize("short", [b"", b"dummy", b"s" * (SHORTEST - 1)])
def test_a_word_that_any_answer_may_hold_is_left(short: bytes) -> None:
    assert blotted(b"a dummy " + short, short) == b"a dummy " + short


def test_nothing_of_it_is_shown() -> None:
    assert "s3cret" not in repr(Blotter(SECRET))
