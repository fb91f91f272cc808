"""Admission: a call's limits are checked and charged in the state store.

Rule: whoever is admitted settles; see accounting.py.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.access.permissions import Plan
from relayd.core.quota.limits import (
    NOTHING,
    Slots,
    Term,
    TermLevel,
    counting_terms,
    denial,
    limit_headers,
    terms,
)
from relayd.core.quota.model_names import ModelNames
from relayd.core.quota.reservation import Quota, quota
from relayd.core.quota.usage_record import orphan_of
from relayd.daemon.store.failsafe import FailsafeStore
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


@attrs.frozen(kw_only=True)
class Admitted:
    """The right to go on, and how the key's limits stood then."""

    quota: Quota  # its orphan is what the call is booked with if nothing better is known
    levels: tuple[TermLevel, ...]
    now_ms: int

    def headers(self) -> HeaderPairs:
        """The key's own `anthropic-ratelimit-*`."""
        return limit_headers(self.quota.terms, self.levels, self.now_ms)


async def admit(
    store: FailsafeStore,
    call_id: str,
    plan: Plan,
    snapshot: Snapshot,
    wall: Callable[[], float],
    model_names: ModelNames,
) -> Admitted:
    """Pass every limit of a message call. Raises: Refusal 429, 529, 503, 403."""
    now_ms = round(wall() * 1000)
    for _ in range(3):  # a call at midnight may find that the store's day is another one
        asked = quota(plan, snapshot, now_ms, model_names, store.lease_ms)
        op = Admit(call=call_id, terms=asked.terms, orphan=asked.orphan, ttl=store.lease_ms)
        answer = await store.admit(op)
        match answer:
            case Granted():
                return Admitted(quota=asked, levels=answer.levels, now_ms=answer.now)
            case Denied():
                raise denial(asked.terms[answer.term], answer.retry, answer.now)
            case Stale():
                now_ms = answer.now
            case Closed():
                raise RuntimeError("a fresh call id was settled before")
    raise _clocks_apart()


async def pass_in_advance(
    store: FailsafeStore, call_id: str, endpoint: Endpoint, key: ApiKey, snapshot: Snapshot, wall: Callable[[], float]
) -> None:
    """Refuse before a large body is read what is refused whatever is in it: no slot or no request is left.

    Nothing is charged, so the call may still be refused when it is admitted. Where the store shows no room, it is asked
    for an admission, which knows exactly when there will be some; should it be granted after all, it is undone.

    Raises: Refusal 429, 529.
    """
    now_ms, zone = round(wall() * 1000), snapshot.relay.state.timezone
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
    if isinstance(answer, Denied):
        raise denial(asked[answer.term], answer.retry, answer.now)
    store.main.submit_nowait(Void(call=probe.call))


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
