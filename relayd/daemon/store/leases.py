"""Leases: the right to an attempt on an account whose ceilings hold over all processes.

Rule: a lease that was taken is given back in a `finally`; giving back is sync.

Theory: the pool knows the calls of its own process and asks nobody, which is enough to choose. Where an account has a
`max_concurrency` or a `pace`, the store has the last word: it leases a slot for the time of the attempt, renewed with
the heartbeat of calls, and charges the pace. A denial is told to the pool as a block, so that the other calls of this
process do not ask the same again.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from relayd.core.balancing.eligibility import full_elsewhere
from relayd.core.balancing.pool import Pool
from relayd.core.quota.limits import Slots, Term
from relayd.daemon.store.failsafe import FailsafeStore
from relayd.state.contract import Acquire, Denied, Release


@attrs.define(eq=False)
class Leases:
    """The leases of this process.

    Args:
        wall: Unix time, s.
    """

    failsafe: FailsafeStore
    pool: Pool
    wall: Callable[[], float]
    _held: dict[str, tuple[Slots, ...]] = attrs.field(factory=dict, init=False)  # by holder

    async def take(self, holder: str, account: str, terms: tuple[Term, ...]) -> bool:
        """Take a lease; False, and the pool knows why, when there is none. Raises: Refusal 503 as an admission does.

        Args:
            holder: names the attempt.
            terms: `account_terms`.
        """
        answer = await self.failsafe.lease(Acquire(holder=holder, terms=terms))
        if isinstance(answer, Denied):
            self.pool.block(full_elsewhere(account, terms[answer.term], answer.retry, self.wall()))
            return False
        slots = tuple(term for term in terms if isinstance(term, Slots))
        if slots:
            self._held[holder] = slots
        return True

    def give_back(self, holder: str) -> None:
        """Sync. A second time does nothing."""
        slots = self._held.pop(holder, None)
        if slots is not None:
            self.failsafe.release(Release(holder=holder, counters=tuple(slot.counter for slot in slots)))

    def count(self) -> int:
        """How many attempts hold one."""
        return len(self._held)

    def held(self) -> list[tuple[str, str]]:
        """Pairs of counter and holder, for the heartbeat."""
        return [(slot.counter, holder) for holder, slots in self._held.items() for slot in slots]

    def restore(self, holder: str) -> None:
        """Take the slots of an attempt under way again, where the store has lost them. Sync; no pace is charged."""
        slots = self._held.get(holder)
        if slots is not None:
            self.failsafe.restore_lease(Acquire(holder=holder, terms=slots))
