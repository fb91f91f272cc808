"""Queueing before admission: how long a call waits for room in a limit before it is refused.

Rule: pure. What frees itself within moments may be waited for; a window that is used up is refused at once.

Theory: a slot, or an estimate that is given back, comes free when a call in flight ends, which nobody can tell to the
second. A client that is refused sleeps for whole seconds; one that waits here is served in the moment there is room.
"""

from __future__ import annotations

from relayd.config.snapshot import Limits
from relayd.core.quota.limits import Slots, Term

# For what calls in flight have reserved, s: less than what a client would sleep after a 429.
HELD_WAIT = 2.0


def patience(term: Term, limits: Limits, *, held: bool, retry_ms: int) -> float:
    """How long a call waits from its first denial on, s.

    Args:
        term: the limit that has no room.
        held: only what calls in flight have reserved is in the way.
        retry_ms: until there is likely room.
    """
    if isinstance(term, Slots):
        return limits.wait if term.counter.startswith("key/") else 0.0
    return HELD_WAIT if held and retry_ms <= HELD_WAIT * 1000 else 0.0
