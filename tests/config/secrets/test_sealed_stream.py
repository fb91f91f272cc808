"""Streams that only recipients open: what was written comes out, whole or not at all."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import Identity, new_identity
from relayd.config.secrets.sealed_stream import CHUNK, OpeningReader, SealingWriter, StreamHead, read_head

US, OTHER = new_identity(os.urandom), new_identity(os.urandom, 2)
HEAD = StreamHead(realm="example", id="b1", created="2026-11-22T00:00:00Z")
HEAD_LINES = 3


def sealed(data: bytes, *, pieces: int = 1, recipients: tuple[Identity, ...] = (US,)) -> bytes:
    file = io.BytesIO()
    writer = SealingWriter(file, HEAD, [one.public for one in recipients], os.urandom)
    size = max(1, len(data) // pieces)
    for at in range(0, len(data), size):
        assert writer.write(data[at : at + size]) == len(data[at : at + size])
    writer.finish()
    return file.getvalue()


def opened(raw: bytes, identity: Identity = US) -> bytes:
    file = io.BytesIO(raw)
    return io.BufferedReader(OpeningReader(file, *read_head(file), [identity])).read()


def body_of(raw: bytes) -> int:
    """Where the chunks begin."""
    return len(b"".join(io.BytesIO(raw).readlines()[:HEAD_LINES]))


@settings(max_examples=25)
@given(st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5]), st.integers(1, 5), st.randoms())
def test_what_was_written_comes_out_at_any_length_and_cut(length: int, pieces: int, rng: object) -> None:
    data = os.urandom(length)
    assert opened(sealed(data, pieces=pieces)) == data


def test_each_recipient_opens_it_and_nobody_else() -> None:
    raw = sealed(b"data", recipients=(US, OTHER))
    assert opened(raw, US) == opened(raw, OTHER) == b"data"
    with pytest.raises(SealError, match="is loaded"):
        opened(raw, new_identity(os.urandom))


def test_nothing_of_it_is_in_clear() -> None:
    assert b"data in clear" not in sealed(b"data in clear" * 1000)


def chunk(raw: bytes, number: int) -> slice:
    start = body_of(raw) + number * (CHUNK + 16)
    return slice(start, start + CHUNK + 16)


def test_a_stream_that_was_cut_swapped_or_altered_does_not_open() -> None:
    raw = sealed(os.urandom(3 * CHUNK))
    swapped = bytearray(raw)
    swapped[chunk(raw, 0)], swapped[chunk(raw, 1)] = raw[chunk(raw, 1)], raw[chunk(raw, 0)]
    flipped = bytearray(raw)
    flipped[-1] ^= 1
    head = raw.replace(b'"created": "2026', b'"created": "2025')
    doubled = raw[: chunk(raw, 1).start] + raw[chunk(raw, 0)] + raw[chunk(raw, 1).start :]
    cut = [raw[: chunk(raw, 2).start], raw[:-1], raw[: body_of(raw)], raw + b"x"]
    for broken in (*cut, bytes(swapped), bytes(flipped), head, doubled):
        with pytest.raises(SealError, match="cut or altered"):
            opened(broken)


def test_the_key_is_bound_to_realm_and_id() -> None:
    raw = sealed(b"x")
    with pytest.raises(SealError, match="sealed for another place"):
        opened(raw.replace(b'"realm": "example"', b'"realm": "another"'))


def test_what_is_no_backup_says_so() -> None:
    with pytest.raises(SealError, match="not a backup"):
        opened(b"PK\x03\x04" * 100)
    with pytest.raises(SealError, match="newer relayd"):
        opened(b"relayd-backup 9\n{}\n")
    with pytest.raises(SealError, match="cut or edited"):
        opened(b"relayd-backup 1\n{}\n")
