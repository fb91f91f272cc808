"""Admission: a call's limits are checked and charged in the state store, or waited for where that is worth while.

Rule: whoever is admitted settles; see accounting.py. How long a call waits is decided in core/quota/patience.py.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.access.permissions import Plan
from relayd.core.alerts.limit_watch import LimitWatch
from relayd.core.quota.call_estimate import NOTHING
from relayd.core.quota.learned import LearnedUsage
from relayd.core.quota.limit_answers import denial, limit_headers
from relayd.core.quota.limits import Slots, Term, TermLevel, counting_terms, terms
from relayd.core.quota.model_names import ModelNames
from relayd.core.quota.patience import patience
from relayd.core.quota.reservation import Quota, quota
from relayd.core.quota.usage_record import orphan_of
from relayd.daemon.proxy.admission_queue import AdmissionQueues
from relayd.daemon.store.failsafe import FailsafeStore
from relayd.noun import noun
from relayd.state.contract import (
    Acquire,
    Admit,
    Closed,
    Denied,
    Granted,
    Peek,
    Stale,
    StoreUnavailable,
    TermLevels,
    Void,
)
from relayd.wire.call import Endpoint
from relayd.wire.http import HeaderPairs
from relayd.wire.refusal import Refusal


@noun(kw_only=True)
class Admitted:
    """The right to go on, and how the key's limits stood then. `at`: on trio's clock, s."""

    quota: Quota  # its orphan is what the call is booked with if nothing better is known
    levels: tuple[TermLevel, ...]
    now_ms: int
    at: float

    def headers(self) -> HeaderPairs:
        """The key's own `anthropic-ratelimit-*`."""
        return limit_headers(self.quota.terms, self.levels, self.now_ms)


@noun(kw_only=True)
class NoRoom:
    """A limit has no room.

    Args:
        line: where to wait for it.
        patience: how long, from the first denial on, s.
    """

    refusal: Refusal
    line: str
    patience: float


def slots_line(key: ApiKey) -> str:
    """Where calls wait for a slot of their key."""
    return f"slots/{key.id}"


def held_line(key: ApiKey) -> str:
    """Where calls wait for what others of their key have reserved."""
    return f"held/{key.id}"


@attrs.define(eq=False, kw_only=True)
class Admission:
    """Admits message calls.

    Args:
        wall: Unix time, s.
    """

    store: FailsafeStore
    wall: Callable[[], float]
    model_names: ModelNames
    learned: LearnedUsage
    limits: LimitWatch = attrs.field(factory=LimitWatch)
    queues: AdmissionQueues = attrs.field(factory=AdmissionQueues)

    async def admit(self, call_id: str, plan: Plan, snapshot: Snapshot) -> Admitted:
        """Pass every limit of a message call. Raises: Refusal 429, 529, 503, 403."""
        began, key = trio.current_time(), plan.key
        line, patient, refusal = slots_line(key), float(key.limits.wait), None
        if not patient or not self.queues.busy(line):  # else others came first
            found = await self._ask(call_id, plan, snapshot)
            if isinstance(found, Admitted):
                return found
            line, patient, refusal = found.line, found.patience, found.refusal
        if patient:
            with self.queues.place(line) as place:
                while place is not None and await place.turn(began + patient):
                    found = await self._ask(call_id, plan, snapshot)
                    if isinstance(found, Admitted):
                        return found
                    patient, refusal = found.patience, found.refusal
        if refusal is None:  # its turn never came
            found = await self._ask(call_id, plan, snapshot)
            if isinstance(found, Admitted):
                return found
            refusal = found.refusal
        raise refusal

    def released(self, key: ApiKey) -> None:
        """A call of the key has been settled. Sync."""
        self.queues.released(slots_line(key))
        self.queues.released(held_line(key))

    async def pass_in_advance(self, call_id: str, endpoint: Endpoint, key: ApiKey, snapshot: Snapshot) -> None:
        """Refuse before a large body is read what is refused whatever is in it: no slot or no request is left.

        Nothing is charged, so the call may still be refused when it is admitted. Where the store shows no room, it is
        asked for an admission, which knows exactly when there will be some; should it be granted after all, it is
        undone. A call that may wait for room is read meanwhile.

        Raises: Refusal 429, 529.
        """
        now_ms, zone, store = round(self.wall() * 1000), snapshot.relay.state.timezone, self.store
        asked = terms(key, snapshot.relay.server, endpoint, NOTHING, now_ms, zone, store.lease_ms)
        if not asked or endpoint == "count_tokens":  # whose bound is charged at once
            return
        try:
            levels = await store.main.ask(Peek(terms=asked))
            if not isinstance(levels, TermLevels) or all(map(_has_room, asked, levels.levels)):
                return
            orphan = orphan_of(key.id, "", NOTHING, now_ms, zone)
            probe = Admit(call=f"{call_id}.probe", terms=asked, orphan=orphan, ttl=store.lease_ms)
            answer = await store.main.ask(probe)
        except StoreUnavailable:
            return  # the admission says so, or goes on without it
        if not isinstance(answer, Denied):
            store.main.submit_nowait(Void(call=probe.call))
            return
        self._note_refusal(key, asked[answer.term], answer)
        found = _no_room(asked[answer.term], answer, key)
        if not found.patience:
            raise found.refusal

    def _note_refusal(self, key: ApiKey, term: Term, answer: Denied) -> None:
        if not answer.held:
            self.limits.note_refusal(key.id, term)

    async def _ask(self, call_id: str, plan: Plan, snapshot: Snapshot) -> Admitted | NoRoom:
        now_ms = round(self.wall() * 1000)
        for _ in range(3):  # a call at midnight may find that the store's day is another one
            asked = quota(plan, snapshot, now_ms, self.model_names, self.learned, self.store.lease_ms)
            op = Admit(
                call=call_id, terms=asked.terms, orphan=asked.orphan, ttl=self.store.lease_ms, likely=asked.likely_ms
            )
            answer = await self.store.admit(op)
            match answer:
                case Granted():
                    self.limits.note(plan.key.id, asked.terms, answer.levels)
                    return Admitted(quota=asked, levels=answer.levels, now_ms=answer.now, at=trio.current_time())
                case Denied():
                    self._note_refusal(plan.key, asked.terms[answer.term], answer)
                    return _no_room(asked.terms[answer.term], answer, plan.key)
                case Stale():
                    now_ms = answer.now
                case Closed():
                    raise RuntimeError("a fresh call id was settled before")
        raise _clocks_apart()


def _no_room(term: Term, answer: Denied, key: ApiKey) -> NoRoom:
    return NoRoom(
        refusal=denial(term, answer.retry, answer.now, held=answer.held),
        line=slots_line(key) if isinstance(term, Slots) else held_line(key),
        patience=patience(term, key.limits, held=answer.held, retry_ms=answer.retry),
    )


def _has_room(term: Term, level: TermLevel) -> bool:
    cost = 1 if isinstance(term, Slots) else term.cost
    return level.used + cost <= term.limit


async def admit_count(store: FailsafeStore, call_id: str, key: ApiKey) -> None:
    """Pass the bound on token counting; nothing is left to settle. Raises: Refusal 429, 503."""
    bound = counting_terms(key, 1)
    if not bound:
        return
    answer = await store.lease(Acquire(holder=call_id, terms=bound))
    if isinstance(answer, Denied):
        raise denial(bound[answer.term], answer.retry, answer.now)


def _clocks_apart() -> Refusal:
    return Refusal(
        status=503,
        message="this node and its state store do not agree on what day it is",
        retry_after=5,
        code="clocks_apart",
    )
