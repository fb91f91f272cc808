"""Throttling: addresses that keep sending bad keys are answered 429 for a while.

Rule: one node's own memory, bounded; nothing of it is shared or kept. It protects the log and the CPU from a loop, not
the keys (256 random bits need no protection from guessing).
"""

from __future__ import annotations

import attrs

from relayd.wire.refusal import Refusal

BAD_PER_MINUTE = 30  # a person who mistypes never gets here; a client that retries a 401 in a loop does
_MINUTE = 60.0
_MOST_ADDRESSES = 10_000


@attrs.define(eq=False)
class BadKeys:
    """Refused keys (or, as `what` says, something like them) by address, in windows of one minute."""

    what: str = "invalid API keys"
    _counts: dict[str, tuple[float, int]] = attrs.field(factory=dict)

    def check(self, address: str, now: float) -> None:
        """Raises: Refusal 429 while the address has used up its minute."""
        start, count = self._counts.get(address, (now, 0))
        left = start + _MINUTE - now
        if count >= BAD_PER_MINUTE and left > 0:
            raise Refusal(
                status=429,
                message=f"Rate limit exceeded: {BAD_PER_MINUTE} {self.what} per minute from this address",
                retry_after=int(left) + 1,
                should_retry=False,
                code="bad_keys",
            )

    def note(self, address: str, now: float) -> None:
        """Count one refused key."""
        start, count = self._counts.get(address, (now, 0))
        if now - start >= _MINUTE:
            start, count = now, 0
        if address not in self._counts and len(self._counts) >= _MOST_ADDRESSES:
            self._counts.pop(next(iter(self._counts)))
        self._counts[address] = (start, count + 1)
