"""Content codings of bodies: gzip, deflate, br and zstd, undone piece by piece (RFC 9110 section 8.4.1).

Rule: bounded before it is believed. What comes out is counted as it comes: neither more than a body may have, nor out
of proportion to what came in. A body that is cut, damaged or followed by more is refused, never served in part.

Theory: each library is a state machine that is asked for so many bytes at the most. It is fed small slices, since all
of them copy what they have not used yet. br and zstd are imported when the first such body comes.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from relayd.noun import noun
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

# Apache's mod_deflate takes no body that grows more than 200-fold (DeflateInflateRatioLimit); JSON grows 3- to 20-fold.
# Up to FLOOR nobody is hurt, and a short text that repeats itself may well grow more.
RATIO = 200
FLOOR = 1 << 20
_SLICE = 64 << 10
_MOST_MEMBERS = 256  # gzip members or zstd frames of one body; each costs a copy of the rest of a slice
_ZSTD_WINDOW = 23  # 8 MiB: RFC 9659. The format would allow a frame to claim gigabytes


class _Machine(Protocol):
    """A decoder of one member. `hungry`: it wants more input; `rest`: what came after its end."""

    @property
    def hungry(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    @property
    def rest(self) -> bytes: ...
    def take(self, data: bytes, most: int) -> bytes: ...


class _Deflated:
    """zlib's, for gzip and deflate."""

    def __init__(self, window_bits: int) -> None:
        self._inner = zlib.decompressobj(window_bits)
        self.hungry = True

    def take(self, data: bytes, most: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, most)
        self.hungry = not self._inner.unconsumed_tail and len(out) < most
        return out

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data


class _Brotli:
    rest = b""  # what comes after the end is an error of its own

    def __init__(self) -> None:
        import brotli  # type: ignore[import-untyped]

        self._inner = brotli.Decompressor()
        self.hungry = True

    def take(self, data: bytes, most: int) -> bytes:
        out = bytes(self._inner.process(data, output_buffer_limit=most))
        self.hungry = len(out) < most and bool(self._inner.can_accept_more_data())
        return out

    @property
    def ended(self) -> bool:
        return bool(self._inner.is_finished())


class _Zstd:
    def __init__(self) -> None:
        zstd = _zstd()
        self._inner = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW})

    def take(self, data: bytes, most: int) -> bytes:
        return bytes(self._inner.decompress(data, most))

    @property
    def hungry(self) -> bool:
        return bool(self._inner.needs_input)

    @property
    def ended(self) -> bool:
        return bool(self._inner.eof)

    @property
    def rest(self) -> bytes:
        return bytes(self._inner.unused_data)


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _zlib_or_raw(beginning: bytes) -> _Machine:
    """RFC 9110 means zlib's format by deflate; some clients send the bare stream. Source: RFC 1950 section 2.2."""
    wrapped = len(beginning) > 1 and beginning[0] & 15 == 8 and int.from_bytes(beginning[:2], "big") % 31 == 0
    return _Deflated(15 if wrapped else -15)


@noun(kw_only=True)
class _Coding:
    """How a coding is undone.

    Args:
        machine: given how a body begins, `told_by` bytes of it.
        joined: several members may stand one behind the other.
        told_by: bytes that tell in which form it comes.
    """

    machine: Callable[[bytes], _Machine]
    joined: bool
    module: str
    told_by: int = 0


_CODINGS: Mapping[str, _Coding] = {
    "gzip": _Coding(machine=lambda _: _Deflated(31), joined=True, module="zlib"),
    "deflate": _Coding(machine=_zlib_or_raw, joined=False, module="zlib", told_by=2),
    "br": _Coding(machine=lambda _: _Brotli(), joined=False, module="brotli"),
    "zstd": _Coding(
        machine=lambda _: _Zstd(),
        joined=True,
        module="compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
    ),
}
CODINGS = tuple(_CODINGS)
_OTHER_NAMES = {"identity": "", "x-gzip": "gzip"}  # RFC 9110 sections 8.4.1.3 and 12.5.3


def coding_of(headers: Headers) -> str:
    """The coding of a request's body, in lower case; "" for none."""
    name = headers.text(b"content-encoding").lower()
    return _OTHER_NAMES.get(name, name)


def unsupported(coding: str, known: tuple[str, ...]) -> Refusal:
    """The refusal of a coding. Source: RFC 9110 section 15.5.16."""
    wanted = f"want {', '.join(known)} or none" if known else "send the body as it is"
    return Refusal(
        status=415,
        message=f"content-encoding: {coding[:40]!a} is not understood ({wanted})",
        headers=((b"accept-encoding", ", ".join(known or ("identity",)).encode()),),
        code="unsupported_encoding",
    )


def is_loaded(coding: str) -> bool:
    """Whether its library is there already; else the first use reads it from disk."""
    return _CODINGS[coding].module in sys.modules


class BodyDecoder:
    """Undoes the coding of one body.

    Args:
        coding: one of CODINGS.
        data: the whole body, as it came.
        limit: bytes that the decoded body may have.

    Attributes:
        size: bytes that have been decoded.
        ended: all of it has been.
    """

    def __init__(self, coding: str, data: bytes, limit: int) -> None:
        self.size = 0
        self.ended = not data  # nothing is nothing in every coding
        self._coding = _CODINGS[coding]
        self._name = coding
        self._data = memoryview(data)
        self._at = 0
        self._limit = limit
        self._pieces: list[bytes] = []
        self._members = 1
        self._machine = self._coding.machine(data[: self._coding.told_by])

    def run(self, most: int) -> int:
        """Decode about `most` bytes further. Returns: how many it were.

        Raises: Refusal 400 when the body is not what it is said to be, 413 when it becomes too large.
        """
        before = self.size
        while not self.ended and (room := most - (self.size - before)) > 0:
            try:
                piece = self._machine.take(self._slice() if self._machine.hungry else b"", min(room, _SLICE))
            except Refusal:
                raise
            except Exception as error:  # zlib's, brotli's or zstd's own
                raise self._bad("damaged") from error
            self._keep(piece)
            if self._machine.ended:
                self._next_member()
        return self.size - before

    def whole(self) -> bytes:
        """The decoded body."""
        return b"".join(self._pieces)

    def _slice(self) -> bytes:
        if self._at >= len(self._data):
            raise self._bad("cut off")
        piece = bytes(self._data[self._at : self._at + _SLICE])
        self._at += len(piece)
        return piece

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size += len(piece)
        if self.size > self._limit:
            raise _too_large(f"larger than {self._limit} bytes once decoded")
        if self.size > max(FLOOR, RATIO * len(self._data)):
            raise _too_large(f"{self._name} of more than {RATIO} times its size")

    def _next_member(self) -> None:
        self._at -= len(self._machine.rest)
        if self._at == len(self._data):
            self.ended = True
            return
        self._members += 1
        if not self._coding.joined or self._members > _MOST_MEMBERS:
            raise self._bad("followed by something else")
        self._machine = self._coding.machine(b"")

    def _bad(self, what: str) -> Refusal:
        return Refusal(status=400, message=f"request body: {self._name} that is {what}")


def _too_large(what: str) -> Refusal:
    return Refusal(status=413, message=f"request body {what}")


class CodingDamaged(ValueError):
    """A body is not what its coding says."""


class PieceDecoder:
    """Undoes the coding of a body that comes in pieces, in pieces that are bounded too.

    Args:
        coding: one of CODINGS.

    Attributes:
        ended: a whole body has come.
    """

    def __init__(self, coding: str) -> None:
        self.ended = False
        self._coding = _CODINGS[coding]
        self._machine: _Machine | None = None
        self._input = b""

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        self._input += data

    def take(self, most: int) -> bytes:
        """About so many decoded bytes at the most; none when more has to be fed first. Raises: CodingDamaged."""
        try:
            return self._take(most)
        except CodingDamaged:
            raise
        except Exception as error:  # zlib's, brotli's or zstd's own
            raise CodingDamaged(str(error)) from None

    def _take(self, most: int) -> bytes:
        while self._input or (self._machine is not None and not self._machine.hungry):
            if self._machine is None:
                if self.ended and not self._coding.joined:
                    raise CodingDamaged("something follows its end")
                if len(self._input) < self._coding.told_by:
                    return b""
                self._machine, self.ended = self._coding.machine(self._input[: self._coding.told_by]), False
            given, self._input = (self._input, b"") if self._machine.hungry else (b"", self._input)
            piece = self._machine.take(given, most)
            if self._machine.ended:
                self._input, self._machine, self.ended = self._machine.rest + self._input, None, True
            if piece:
                return piece
        return b""
