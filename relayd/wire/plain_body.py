"""Content coding: the plain bytes of an answer that came compressed although identity was asked.

Rule: bounded. What unfolds to more than a read of a stream, or a message, can hold is given up, and so is what does
not decode; the caller sees which. Only gzip is known: the API and the proxies before it send nothing else unasked.
"""

from __future__ import annotations

import zlib

import attrs

GZIP = 0x1F  # the first byte of gzip (RFC 1952, 2.3.1), which begins neither JSON nor an event stream
_WBITS = 16 + zlib.MAX_WBITS  # zlib: expect a gzip header
MOST_OF_A_READ = 1024 * 1024  # bytes; a read is at most 64 KiB, and text shrinks to a tenth
MOST_OF_A_MESSAGE = 16 * 1024 * 1024  # bytes; far more than the longest answer


def plain_bytes(body: bytes) -> bytes:
    """A whole body without its compression; as it is when it has none, or cannot be unfolded."""
    if not body or body[0] != GZIP:
        return body
    try:
        unfolding = zlib.decompressobj(_WBITS)
        plain = unfolding.decompress(body, MOST_OF_A_MESSAGE)
    except zlib.error:
        return body
    return body if unfolding.unconsumed_tail else plain


@attrs.define(eq=False)
class PlainBody:
    """A compressed body that comes in pieces."""

    broken: bool = False  # it could not be unfolded to its end
    _unfolding: zlib._Decompress = attrs.field(factory=lambda: zlib.decompressobj(_WBITS), init=False)

    def feed(self, data: bytes) -> bytes:
        """The plain bytes of the next piece; nothing once it is broken."""
        if self.broken:
            return b""
        try:
            plain = self._unfolding.decompress(data, MOST_OF_A_READ)
        except zlib.error:
            self.broken = True
            return b""
        self.broken = bool(self._unfolding.unconsumed_tail)
        return plain
