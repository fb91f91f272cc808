"""Quota: which limits one call has to pass, and what it reserves of them.

Rule: pure. The store checks and charges; the words for a denial are in limits.py.
"""

from __future__ import annotations

import attrs

from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.ledger import Record, orphan_of
from relayd.core.limits import (
    LEASE_MS,
    NOTHING,
    Term,
    counting_terms,
    estimate,
    has_cost_limit,
    key_terms,
    terms,
    unpriced,
)
from relayd.core.prices import price_of
from relayd.core.route import Plan


@attrs.frozen(kw_only=True)
class Quota:
    """What to ask of the store for one call.

    Args:
        terms: every limit, in order.
        orphan: what is booked if nobody settles the call.
    """

    terms: tuple[Term, ...]
    orphan: Record


def quota(plan: Plan, snapshot: Snapshot, now_ms: int, lease_ms: int = LEASE_MS) -> Quota:
    """The limits of a message call. Raises: Refusal 403 where the policy denies a model without a price."""
    call, key, relay = plan.call, plan.key, snapshot.relay
    # Making a batch or a file is a request and consumes no tokens; what a batch's results cost is not metered.
    makes = call.endpoint in ("batches", "files")
    reserve = NOTHING if makes else estimate(len(call.body), call.max_tokens, price_of(plan.model, snapshot.prices))
    if reserve.cost is None and relay.policy.unknown_model_cost == "deny" and has_cost_limit(key.limits):
        raise unpriced(key, plan.model)
    zone = relay.state.timezone
    return Quota(
        terms=terms(key, relay.server, call.endpoint, reserve, now_ms, zone, lease_ms),
        orphan=orphan_of(key.id, plan.model, reserve, now_ms, zone),
    )


def shown_terms(key: ApiKey, snapshot: Snapshot, now_ms: int) -> tuple[Term, ...]:
    """The limits that `GET /usage` shows."""
    return key_terms(key, NOTHING, now_ms, snapshot.relay.state.timezone) + counting_terms(key, 0)
