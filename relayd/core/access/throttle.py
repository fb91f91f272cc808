"""Throttling: bad keys from an address that keeps sending them are answered 429 for a while.

Rule: only what would be answered 401 is held off, so nobody with a good key is refused because of others behind the
same address (an office, a load balancer). One node's own memory, bounded; nothing of it is kept. The processes of a
node tell each other what they count.

Theory: looking a key up takes one hash, whoever asks. So the limit protects no CPU and no key (256 random bits need no
protection from guessing): it tells clients that retry a 401 in a loop to stop.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from relayd.wire.refusal import Refusal

BAD_PER_MINUTE = 30  # a person who mistypes never gets here; a client that retries a 401 in a loop does
_MINUTE = 60.0
_MOST_ADDRESSES = 10_000


@attrs.define(eq=False)
class BadKeys:
    """Refused keys (or, as `what` says, something like them) by address, in windows of one minute.

    Args:
        told: hears the address of each that was counted here.
    """

    what: str = "invalid API keys"
    told: Callable[[str], None] = lambda address: None
    _counts: dict[str, tuple[float, int]] = attrs.field(factory=dict)

    def answer(self, refusal: Refusal, address: str, now: float) -> Refusal:
        """What to answer in place of a refusal: itself, or 429 to a bad key whose address has used up its minute.

        Args:
            now: Unix time, s. A minute that would begin after it (the clock was set back) counts as over.
        """
        if refusal.status != 401:
            return refusal
        start, count = self._window(address, now)
        if count >= BAD_PER_MINUTE:
            return self._held_off(start + _MINUTE - now)
        self.count(address, now)
        self.told(address)
        return refusal

    def count(self, address: str, now: float) -> None:
        """One more bad key, here or in another process of this node."""
        start, count = self._window(address, now)
        if address not in self._counts and len(self._counts) >= _MOST_ADDRESSES:
            self._counts.pop(next(iter(self._counts)))
        self._counts[address] = (start, count + 1)

    def _window(self, address: str, now: float) -> tuple[float, int]:
        start, count = self._counts.get(address, (now, 0))
        return (start, count) if 0 <= now - start < _MINUTE else (now, 0)

    def _held_off(self, left: float) -> Refusal:
        return Refusal(
            status=429,
            message=f"Rate limit exceeded: {BAD_PER_MINUTE} {self.what} per minute from this address",
            retry_after=int(left) + 1,
            should_retry=False,
            code="bad_keys",
        )
