"""Key usage: what a key has used and what is left to it, for its holder (`GET /usage`).

Rule: asking counts as nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.quota.limit_answers import usage_document
from relayd.core.quota.limits import Term
from relayd.core.quota.reservation import shown_terms
from relayd.core.quota.windows import day_of
from relayd.daemon.store.failsafe import RETRY
from relayd.daemon.store.state_client import StateClient
from relayd.state.contract import Peek, Report, Reported, StoreUnavailable, TermLevels
from relayd.state.report import totals_of
from relayd.wire.refusal import Refusal


async def usage_of(key: ApiKey, snapshot: Snapshot, state: StateClient | None, wall: Callable[[], float]) -> bytes:
    """The document, as JSON.

    Args:
        wall: Unix time, s.
    Raises: Refusal 503 while the state store is away.
    """
    try:
        if state is None:
            raise StoreUnavailable("there is none")
        return await _document(key, snapshot, state, round(wall() * 1000))
    except StoreUnavailable:
        raise Refusal(
            status=503,
            message="The relay cannot tell what has been used right now: its state store is unavailable.",
            retry_after=RETRY,
            code="state_unavailable",
        ) from None


async def _document(key: ApiKey, snapshot: Snapshot, state: StateClient, now_ms: int) -> bytes:
    zone = snapshot.relay.state.timezone
    terms = shown_terms(key, snapshot, now_ms)
    peeked = await _peek(state, terms)
    if shown_terms(key, snapshot, peeked.now) != terms:  # at midnight the store's clock decides what day it is
        terms = shown_terms(key, snapshot, peeked.now)
        peeked = await _peek(state, terms)
    day = day_of(peeked.now, zone)
    booked = await state.main.ask(Report(first=day, last=day, keys=(key.id,)))
    rows = booked.rows if isinstance(booked, Reported) else ()
    document = usage_document(key, terms, peeked.levels, peeked.now)
    return msgspec.json.encode({**document, "today": {"day": day, **totals_of(rows)}})


async def _peek(state: StateClient, terms: tuple[Term, ...]) -> TermLevels:
    answer = await state.main.ask(Peek(terms=terms))
    if not isinstance(answer, TermLevels):
        raise StoreUnavailable(str(answer))
    return answer
