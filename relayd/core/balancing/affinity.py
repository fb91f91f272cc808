"""Affinity: a conversation stays on the account where its prompt is cached.

Rule: a pin is set by a delivered answer, to the account that gave it. So it moves only when its account could not
serve, and then stays moved, since the new account is now the one that answered. Token counting looks and never pins.

Theory: the pins of this process are a bounded memory in front of the state store, which has all of them: one look-up in
there is a round trip, and a conversation mostly comes back to the same process.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import attrs

from relayd.wire.call import Endpoint

MOST_PINS = 100_000  # about 30 MB


def affinity_id(key_id: str, conversation: str) -> str:
    """The name of a conversation within one API key; "" when there is none. No client can reach another key's pins."""
    if not conversation:
        return ""
    return hashlib.blake2b(f"{key_id}\0{conversation}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def sets_pin(endpoint: Endpoint) -> bool:
    """Whether a delivered answer of this endpoint leaves a prompt in its account's cache."""
    return endpoint == "messages"


@attrs.define(eq=False)
class Pins:
    """Conversations and their accounts, those used last at the end."""

    most: int = MOST_PINS
    _pins: OrderedDict[str, tuple[str, float, float]] = attrs.field(factory=OrderedDict)  # account, used, told

    def __len__(self) -> int:
        return len(self._pins)

    def look(self, affinity: str, now: float, keep: float) -> str | None:
        """The account of a conversation. Looking does not prolong anything.

        Args:
            now: Unix time, s.
            keep: `[routing].affinity`, s: how long a pin holds after its last call; 0 = there are no pins.
        """
        pin = self._pins.get(affinity)
        return pin[0] if pin is not None and abs(now - pin[1]) < keep else None

    def pin(self, affinity: str, account: str, now: float, keep: float) -> bool:
        """An account has answered.

        Returns: whether the store should be told: the conversation is new or has moved, or a quarter of its time has
            passed since the store was told.
        """
        if not affinity:
            return False
        before = self._pins.pop(affinity, None)
        tell = before is None or before[0] != account or abs(now - before[2]) >= keep / 4
        self._pins[affinity] = (account, now, now if before is None or tell else before[2])
        if len(self._pins) > self.most:
            self._pins.popitem(last=False)
        return tell
