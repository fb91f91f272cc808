"""Failsafe store: what happens to calls while the state store is away, as `state.on_outage` says.

Rule: a call is settled where it was admitted. "deny" refuses with 503. "allow" enforces the same limits in a store of
this host (the *side* store: a SQLite file beside the journal), and the settlement is charged to the real store too, at
once or from the journal, under an id of its own: the same id may have been voided there after a timed-out admission.

Theory: the side store outlives the process, so a call that a killed process had admitted during an outage is reaped
from it later, and its estimate is booked where all others are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import attrs

from relayd.core.quota.limits import LEASE_MS, Slots, Term
from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.store.batcher import Batcher
from relayd.state.contract import (
    Acquire,
    Admit,
    Answer,
    Closed,
    Denied,
    Granted,
    Reap,
    Reaped,
    Release,
    Renew,
    Renewed,
    Settle,
    Stale,
    StoreUnavailable,
    Void,
)
from relayd.wire.refusal import Refusal

RETRY = 5  # s; most outages are restarts and failovers
_SIDE = "~side"  # what ids from the side store have behind them in the main one
_AGAIN = "~again"  # what the id of a call has behind it that was asked for before, in vain
_MOST_AGAIN = 5  # times that it is asked for
_UNLIMITED = "~"  # what the id of a call that no store answered for has behind it in the side store
_REAP, _LOOK = Reap(), Reap(limit=1000, look=True)

log = logging.getLogger("relayd.state")


@attrs.define(eq=False)
class FailsafeStore:
    """What a call asks of the state, in good times and bad.

    Args:
        main: the batcher of the real store.
        side: the batcher of the side store; it needs no journal.
        policy: `state.on_outage` of the current snapshot.
        lease_ms: how long a call and its slots are held without a heartbeat.
    """

    main: Batcher
    side: Batcher
    policy: Callable[[], Literal["allow", "deny"]]
    lease_ms: int = LEASE_MS
    # Calls that were admitted to the side store: how (perhaps under another id), and when.
    _side_calls: dict[str, tuple[Admit, int]] = attrs.field(factory=dict, init=False)
    _side_leases: set[str] = attrs.field(factory=set, init=False)
    _renamed: dict[str, str] = attrs.field(factory=dict, init=False)  # ids of calls in the main store, where others

    async def admit(self, op: Admit) -> Granted | Denied | Stale | Closed:
        """Admit a call. Raises: Refusal 503 when the store is away and the policy is "deny"."""
        try:
            return await self._admit_main(op)
        except StoreUnavailable:
            self._refuse_or_go_on()
        try:
            answer = _admission(await self.side.ask(op))
        except StoreUnavailable as error:
            # "allow" means: keep serving. The call is not limited, but it is booked; and as soon as the side store can
            # write it down, also if this process is killed. Under another id, for its own is being voided there.
            log.warning("state.side_unavailable", extra={"reason": str(error)})
            unlimited = attrs.evolve(op, call=op.call + _UNLIMITED)
            self.side.submit_nowait(attrs.evolve(unlimited, terms=()))
            self._side_calls[op.call] = (unlimited, 0)
            return Granted(now=0)
        if isinstance(answer, Granted):
            self._side_calls[op.call] = (op, answer.now)
        return answer

    async def _admit_main(self, op: Admit) -> Granted | Denied | Stale | Closed:
        """Ask the main store, under another id if the first was voided.

        So it is with a call that waits for room and whose last question got no answer.
        """
        answer, asked = _admission(await self.main.ask(op)), op.call
        for again in range(1, _MOST_AGAIN):
            if not isinstance(answer, Closed):
                break
            asked = f"{op.call}{_AGAIN}{again}"
            answer = _admission(await self.main.ask(attrs.evolve(op, call=asked)))
        if isinstance(answer, Granted) and asked != op.call:
            self._renamed[op.call] = asked
        return answer

    async def lease(self, op: Acquire) -> Granted | Denied | Stale:
        """Lease slots on an account. Raises: Refusal 503 as `admit` does."""
        try:
            answer = _admission(await self.main.ask(op))
        except StoreUnavailable:
            self._refuse_or_go_on()
            try:
                answer = _admission(await self.side.ask(op))
                if any(isinstance(term, Slots) for term in op.terms):  # only those are given back
                    self._side_leases.add(op.holder)
            except StoreUnavailable:
                answer = Granted(now=0)
        assert not isinstance(answer, Closed)
        return answer

    def settle(self, call: str, record: UsageRecord, kept: Callable[[], None] | None = None) -> None:
        """Settle a call. Sync; nothing is lost whatever the state of the store.

        Args:
            kept: called as soon as that is so. Somebody waits for it, so the settlement does not lie for a while.
        """
        found = self._side_calls.pop(call, None)
        if found is None:
            settle = Settle(call=self._renamed.pop(call, call), record=record)
            self.main.submit_nowait(settle, kept=kept, urgent=kept is not None)
            return
        admitted, at = found
        self._settle_late(admitted.call, record, admitted.terms, at, kept)

    def release(self, op: Release) -> None:
        """Give a lease back. Sync."""
        batcher = self.side if op.holder in self._side_leases else self.main
        self._side_leases.discard(op.holder)
        batcher.submit_nowait(op)

    def renew(
        self,
        calls: Mapping[str, UsageRecord | None],
        leases: Iterable[tuple[str, str]],
        lost: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        """The heartbeat of this process: every open call with what it consumed up to now, every lease. Sync.

        Args:
            leases: pairs of counter and holder.
            lost: told which calls and holders hold nothing any more.
        """
        leases = tuple(leases)
        for batcher, here in ((self.main, False), (self.side, True)):
            mine = tuple(
                (self._side_calls[call][0].call if here else self._renamed.get(call, call), record)
                for call, record in calls.items()
                if (call in self._side_calls) == here
            )
            held = tuple(pair for pair in leases if (pair[1] in self._side_leases) == here)
            if mine or held:
                batcher.submit_nowait(Renew(calls=mine, leases=held, ttl=self.lease_ms), _tell(lost))

    def restore(self, op: Admit) -> None:
        """Admit a call in flight again, where the store has lost it. Sync; nobody waits for the answer."""
        found = self._side_calls.get(op.call)
        if found is not None:
            call = found[0].call
            self.side.submit_nowait(op if call == op.call else attrs.evolve(op, call=call, terms=()))
        else:
            self.main.submit_nowait(attrs.evolve(op, call=self._renamed.get(op.call, op.call)))

    def restore_lease(self, op: Acquire) -> None:
        """The same of a lease."""
        batcher = self.side if op.holder in self._side_leases else self.main
        batcher.submit_nowait(op)

    def reap(self) -> None:
        """Settle what dead processes left behind, in both stores. Sync; call it now and then on any node."""
        self._reap_main()
        self.side.submit_nowait(_LOOK, self._book_left)

    async def bury(self, owner: str, leases: tuple[str, ...]) -> bool:
        """Settle what a dead process of this host left, in both stores. False when that cannot be done now.

        Args:
            owner: how its ids begin.
            leases: counters of slots that it may have held.
        """
        op = Reap(owner=owner, leases=leases)
        try:
            answer = await self.main.ask(op)
            while isinstance(answer, Reaped) and len(answer.calls) >= op.limit:
                self._told_buried(answer)
                answer = await self.main.ask(op)
            self._told_buried(answer)
            self._book_left(await self.side.ask(attrs.evolve(_LOOK, owner=owner)))
        except StoreUnavailable:
            return False
        return isinstance(answer, Reaped)

    def _told_buried(self, answer: Answer) -> None:
        if isinstance(answer, Reaped) and answer.calls:
            log.info("state.buried", extra={"calls": len(answer.calls)})

    def _reap_main(self) -> None:
        self.main.submit_nowait(_REAP, self._told_reaped)

    def _told_reaped(self, answer: Answer) -> None:
        if not isinstance(answer, Reaped) or not answer.calls:
            return
        log.info("state.reaped", extra={"calls": len(answer.calls)})
        if len(answer.calls) >= _REAP.limit:
            self._reap_main()

    def _book_left(self, answer: Answer) -> None:
        """Book what dead processes left in the side store; here too it lets go of each call last."""
        alive = {op.call for op, _ in self._side_calls.values()}
        for call, record in answer.calls if isinstance(answer, Reaped) else ():
            if call not in alive:
                self._settle_late(call, record, (), 0)

    def _settle_late(
        self,
        call: str,
        record: UsageRecord,
        terms: tuple[Term, ...],
        at: int,
        told: Callable[[], None] | None = None,
    ) -> None:
        """Settle a call that the side store admitted: in the main store, and once that is safe, in the side store.

        So whatever moment this process is killed at, somebody still has the call. The main store may have admitted it
        too, in vain; its Void may have died with the process that gave up waiting.
        """
        here = Settle(call=call, record=record)
        self.main.submit_nowait(Void(call=call.removesuffix(_UNLIMITED)))
        late = Settle(call=call + _SIDE, record=record, terms=terms, at=at)

        def kept() -> None:
            self.side.submit_nowait(here, kept=told, urgent=told is not None)

        self.main.submit_nowait(late, kept=kept, urgent=told is not None)

    def _refuse_or_go_on(self) -> None:
        if self.policy() == "deny":
            raise Refusal(
                status=503,
                message="The relay cannot count requests right now: its state store is unavailable.",
                retry_after=RETRY,
                code="state_unavailable",
            )


def _admission(answer: Answer) -> Granted | Denied | Stale | Closed:
    if isinstance(answer, Granted | Denied | Stale | Closed):
        return answer
    raise StoreUnavailable(str(answer))


def _tell(lost: Callable[[tuple[str, ...]], None] | None) -> Callable[[Answer], None] | None:
    if lost is None:
        return None

    def then(answer: Answer) -> None:
        if isinstance(answer, Renewed) and answer.lost:
            lost(tuple(name.partition(_AGAIN)[0].removesuffix(_UNLIMITED) for name in answer.lost))

    return then
