"""Content codings of request bodies are undone within bounds, wherever the library stops."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import zlib
from functools import partial

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.content_coding import CODINGS, FLOOR, RATIO, BodyDecoder, CodingDamaged, PieceDecoder, coding_of
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 8 << 20
PACK = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": partial(brotli.compress, quality=5),
    "zstd": zstd.compress,
}
assert tuple(PACK) == CODINGS


def unpacked(coding: str, data: bytes, limit: int = LIMIT, portion: int = 1 << 20) -> bytes:
    decoder = BodyDecoder(coding, data, limit)
    while not decoder.ended:
        decoder.run(portion)
    whole = decoder.whole()
    assert len(whole) == decoder.size
    return whole


def refused(coding: str, data: bytes, limit: int = LIMIT) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        unpacked(coding, data, limit)
    return caught.value.status, caught.value.message


@given(coding=st.sampled_from(CODINGS), seed=st.integers(0, 1 << 30), size=st.integers(0, 200_000))
@settings(deadline=None, max_examples=60)
def test_what_was_packed_comes_out_whatever_the_portions(coding: str, seed: int, size: int) -> None:
    rng = random.Random(seed)
    text = rng.randbytes(size // 4) + bytes(rng.choices(b'{"role": user}', k=size - size // 4))
    assert unpacked(coding, PACK[coding](text), portion=rng.choice((1000, 65536, 1 << 20))) == text


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_may_be_as_large_as_the_limit_and_no_larger(coding: str) -> None:
    noise = random.Random(1).randbytes(300_000)
    assert unpacked(coding, PACK[coding](noise), limit=len(noise)) == noise
    assert refused(coding, PACK[coding](noise), len(noise) - 1)[0] == 413


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_stopped_by_its_proportion_long_before_the_limit(coding: str) -> None:
    bomb = PACK[coding](bytes(8 << 20))
    decoder = BodyDecoder(coding, bomb, 1 << 30)
    with pytest.raises(Refusal, match=f"more than {RATIO} times its size"):
        decoder.run(1 << 30)
    assert decoder.size <= max(FLOOR, RATIO * len(bomb)) + (1 << 18)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_short_text_may_repeat_itself(coding: str) -> None:
    assert unpacked(coding, PACK[coding](b" " * FLOOR)) == b" " * FLOOR


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_is_cut_damaged_or_followed_by_more_is_refused(coding: str) -> None:
    whole = PACK[coding](random.Random(2).randbytes(5000))
    assert refused(coding, whole[:-1]) == (400, f"request body: {coding} that is cut off")
    assert refused(coding, whole[:1])[0] == 400
    assert refused(coding, b"{" + whole) == (400, f"request body: {coding} that is damaged")
    assert refused(coding, whole + b"{}")[0] == 400


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_members_are_joined_up_to_a_number(coding: str) -> None:
    assert unpacked(coding, PACK[coding](b"a") + PACK[coding](b"") + PACK[coding](b"b")) == b"ab"
    assert refused(coding, PACK[coding](b"") * 1000)[0] == 400


@pytest.mark.parametrize("coding", ["br", "deflate"])
def test_a_coding_without_members_has_one(coding: str) -> None:
    assert refused(coding, PACK[coding](b"a") * 2)[0] == 400


def test_deflate_is_understood_with_and_without_its_wrapping() -> None:
    bare = zlib.compressobj(wbits=-15)
    assert unpacked("deflate", bare.compress(b'{"a": 1}') + bare.flush()) == b'{"a": 1}'


def test_a_zstd_frame_may_not_claim_more_memory_than_the_standard_lets_it() -> None:
    options = {zstd.CompressionParameter.window_log: 27}
    packer = zstd.ZstdCompressor(options=options)
    wide = packer.compress(b"x" * 1000) + packer.flush()
    assert refused("zstd", wide) == (400, "request body: zstd that is damaged")


@pytest.mark.parametrize("coding", CODINGS)
def test_nothing_is_nothing_in_every_coding(coding: str) -> None:
    assert unpacked(coding, b"") == b""


def test_codings_are_known_by_the_names_of_the_standard() -> None:
    names = {b"GZIP": "gzip", b"x-gzip": "gzip", b"identity": "", b"": "", b"zstd": "zstd", b"gzip, br": "gzip, br"}
    for said, meant in names.items():
        assert coding_of(Headers([(b"content-encoding", said)])) == meant
    assert coding_of(Headers([])) == ""


def test_the_libraries_wait_for_the_first_body_that_needs_them() -> None:
    names = "{'brotli', 'backports.zstd', 'compression.zstd'}"
    probe = f"import sys, relayd.wire.content_coding; print(sorted({names} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def decoded(coding: str, pieces: list[bytes], most: int) -> bytes:
    decoder, found = PieceDecoder(coding), []
    for piece in pieces:
        decoder.feed(piece)
        while more := decoder.take(most):
            assert len(more) <= most + (128 << 10)  # brotli hands out what its ring holds
            found.append(more)
    assert decoder.ended
    return b"".join(found)


@given(coding=st.sampled_from(CODINGS), seed=st.integers(0, 1 << 30), size=st.integers(0, 100_000))
@settings(deadline=None, max_examples=60)
def test_an_answer_comes_out_however_it_is_cut(coding: str, seed: int, size: int) -> None:
    rng = random.Random(seed)
    text = bytes(rng.choices(b'{"role": user}', k=size)) + rng.randbytes(100)
    packed, step = PACK[coding](text), rng.choice((1, 7, 1000, 65536))
    pieces = [packed[start : start + step] for start in range(0, len(packed), step)]
    assert decoded(coding, pieces, rng.choice((100, 4096, 1 << 20))) == text


@pytest.mark.parametrize("coding", CODINGS)
def test_an_answer_that_unfolds_a_thousandfold_comes_in_small_pieces(coding: str) -> None:
    assert decoded(coding, [PACK[coding](bytes(5_000_000))], 65536) == bytes(5_000_000)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_damaged_answer_is_known(coding: str) -> None:
    decoder = PieceDecoder(coding)
    decoder.feed(b"\xff\xfe\xfd no coding at all" * 10)
    with pytest.raises(CodingDamaged):
        decoder.take(1000)
    cut = PieceDecoder(coding)
    cut.feed(PACK[coding](random.Random(1).randbytes(1000))[:-5])
    while cut.take(1000):
        pass
    assert not cut.ended


def test_an_answer_of_no_bytes_may_be_one_byte_long() -> None:
    assert decoded("br", [brotli.compress(b"")], 1000) == b""


@pytest.mark.parametrize("coding", CODINGS)
def test_a_byte_behind_an_answer_is_not_taken_for_its_end(coding: str) -> None:
    decoder = PieceDecoder(coding)
    decoder.feed(PACK[coding](b"text"))
    assert decoder.take(1000) == b"text"
    decoder.feed(b"x")
    try:
        assert decoder.take(1000) == b""
    except CodingDamaged:
        return
    assert not decoder.ended
