"""Blotting out: a known secret in passing bytes is replaced, wherever they are cut.

Rule: pure, and as many bytes come out as went in, so that a promised content-length stays true.

Theory: a piece that ends with a beginning of the secret keeps that end back until the next piece shows what it is.
Events and JSON documents end with a byte that no credential has, so in practice nothing waits, and where the secret is
absent the cost is one search.
"""

from __future__ import annotations

import attrs

# Shorter ones are words that any answer may hold ("dummy", where no key is needed). Real ones have about 100 bytes.
SHORTEST = 12


@attrs.define(eq=False)
class Blotter:
    """Takes a secret out of one body, piece by piece. `repr` shows nothing."""

    _secret: bytes = attrs.field(repr=False)
    _held: bytes = attrs.field(default=b"", repr=False, init=False)

    def feed(self, data: bytes) -> bytes:
        """The next piece without the secret; maybe less than came in, the rest is kept back."""
        if self._held:
            data = self._held + data
        data = blotted(data, self._secret)
        kept = self._begun(data)
        self._held = data[len(data) - kept :] if kept else b""
        return data[:-kept] if kept else data

    def rest(self) -> bytes:
        """What was kept back when the body ended: it was not the secret."""
        held, self._held = self._held, b""
        return held

    def _begun(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of the secret."""
        secret = self._secret
        if data[-1:] not in secret:
            return 0
        at = data.find(secret[:1], max(0, len(data) - len(secret) + 1))
        while at >= 0:
            if secret.startswith(data[at:]):
                return len(data) - at
            at = data.find(secret[:1], at + 1)
        return 0


def blotted(data: bytes, secret: bytes) -> bytes:
    """`data` with asterisks in place of a secret; a secret that is too short to be one is left."""
    if len(secret) < SHORTEST or secret not in data:
        return data
    return data.replace(secret, b"*" * len(secret))
