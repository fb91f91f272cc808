"""Outage: what happens to calls while the state store is away, as `state.on_outage` says.

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

from relayd.core.ledger import Record
from relayd.core.limits import LEASE_MS, Slots
from relayd.daemon.statepump import Pump
from relayd.state.contract import (
    Admit,
    Answer,
    Closed,
    Denied,
    Granted,
    Lease,
    Reap,
    Reaped,
    Release,
    Renew,
    Renewed,
    Settle,
    Stale,
    StoreUnavailable,
)
from relayd.wire.refusal import Refusal

RETRY = 5  # s; most outages are restarts and failovers
_SIDE = "~side"

log = logging.getLogger("relayd.state")


@attrs.define(eq=False)
class Counting:
    """What a call asks of the state, in good times and bad.

    Args:
        main: the pump of the real store.
        side: the pump of the side store; it needs no journal.
        policy: `state.on_outage` of the current snapshot.
    """

    main: Pump
    side: Pump
    policy: Callable[[], Literal["allow", "deny"]]
    _side_calls: dict[str, tuple[Admit, int]] = attrs.field(factory=dict, init=False)  # with the moment of admission
    _side_leases: set[str] = attrs.field(factory=set, init=False)

    async def admit(self, op: Admit) -> Granted | Denied | Stale | Closed:
        """Admit a call. Raises: Refusal 503 when the store is away and the policy is "deny"."""
        try:
            return _admission(await self.main.ask(op))
        except StoreUnavailable:
            self._refuse_or_go_on()
        try:
            answer = _admission(await self.side.ask(op))
        except StoreUnavailable as error:
            # "allow" means: keep serving. The call is not limited, but it is booked.
            log.warning("state.side_unavailable", extra={"reason": str(error)})
            answer = Granted(now=0)
        if isinstance(answer, Granted):
            self._side_calls[op.call] = (op, answer.now)
        return answer

    async def lease(self, op: Lease) -> Granted | Denied | Stale:
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

    def settle(self, call: str, record: Record) -> None:
        """Settle a call. Sync; nothing is lost whatever the state of the store."""
        op = Settle(call=call, record=record)
        found = self._side_calls.pop(call, None)
        if found is None:
            self.main.submit_nowait(op)
            return
        admitted, at = found
        self.side.submit_nowait(op)
        self.main.submit_nowait(Settle(call=call + _SIDE, record=record, terms=admitted.terms, at=at))

    def release(self, op: Release) -> None:
        """Give a lease back. Sync."""
        pump = self.side if op.holder in self._side_leases else self.main
        self._side_leases.discard(op.holder)
        pump.submit_nowait(op)

    def renew(
        self,
        calls: Mapping[str, Record | None],
        leases: Iterable[tuple[str, str]],
        lost: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        """The heartbeat of this process: every open call with what it consumed up to now, every lease. Sync.

        Args:
            leases: pairs of counter and holder.
            lost: told which calls and holders hold nothing any more.
        """
        leases = tuple(leases)
        for pump, here in ((self.main, False), (self.side, True)):
            mine = tuple((call, record) for call, record in calls.items() if (call in self._side_calls) == here)
            held = tuple(pair for pair in leases if (pair[1] in self._side_leases) == here)
            if mine or held:
                pump.submit_nowait(Renew(calls=mine, leases=held, ttl=LEASE_MS), _tell(lost))

    def reap(self) -> None:
        """Settle what dead processes left behind, in both stores. Sync; call it now and then on any node."""
        self.main.submit_nowait(Reap(), self._reaped)
        self.side.submit_nowait(Reap(), self._book_reaped)

    def _reaped(self, answer: Answer) -> None:
        if _more_to_reap(answer):
            self.main.submit_nowait(Reap(), self._reaped)

    def _book_reaped(self, answer: Answer) -> None:
        if isinstance(answer, Reaped):
            for call, record in answer.calls:
                if call not in self._side_calls:
                    self.main.submit_nowait(Settle(call=call + _SIDE, record=record))
        if _more_to_reap(answer):
            self.side.submit_nowait(Reap(), self._book_reaped)

    def _refuse_or_go_on(self) -> None:
        if self.policy() == "deny":
            raise Refusal(
                status=503,
                message="The relay cannot count requests right now: its state store is unavailable.",
                retry_after=RETRY,
                code="state_unavailable",
            )


def _more_to_reap(answer: Answer) -> bool:
    """Whether there were more than are reaped at once, as after the end of a process with many streams."""
    return isinstance(answer, Reaped) and len(answer.calls) >= Reap().limit


def _admission(answer: Answer) -> Granted | Denied | Stale | Closed:
    if isinstance(answer, Granted | Denied | Stale | Closed):
        return answer
    raise StoreUnavailable(str(answer))


def _tell(lost: Callable[[tuple[str, ...]], None] | None) -> Callable[[Answer], None] | None:
    if lost is None:
        return None

    def then(answer: Answer) -> None:
        if isinstance(answer, Renewed) and answer.lost:
            lost(answer.lost)

    return then
