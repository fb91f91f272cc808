"""Reservation: which limits one call has to pass, and what it reserves of them.

Rule: pure. The store checks and charges; the words for a denial are in limit_answers.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from relayd.config.snapshot import Account, ApiKey, Price, Snapshot
from relayd.core.access.permissions import Plan
from relayd.core.quota.call_estimate import NOTHING, Estimate, dearest_percent, estimate, prompt_bound
from relayd.core.quota.learned import LearnedUsage
from relayd.core.quota.limit_answers import unpriced
from relayd.core.quota.limits import LEASE_MS, Slots, Term, counting_terms, has_cost_limit, key_terms, pace_term, terms
from relayd.core.quota.model_names import ModelNames
from relayd.core.quota.prices import price_of, shipped
from relayd.core.quota.usage_record import UsageRecord, orphan_of
from relayd.noun import noun
from relayd.wire.call import OBJECTS, Call


@noun(kw_only=True)
class Quota:
    """What to ask of the store for one call.

    Args:
        terms: every limit, in order.
        orphan: what is booked if nobody settles the call.
        most: what the call may consume at most.
        reserved: what is held of token and cost limits until it is settled.
        likely_ms: how long that will likely be.
    """

    terms: tuple[Term, ...]
    orphan: UsageRecord
    most: Estimate
    reserved: Estimate
    likely_ms: int = 0

    @property
    def has_slots(self) -> bool:
        """Whether the call is one of a limited number."""
        return any(isinstance(term, Slots) for term in self.terms)


def quota(
    plan: Plan,
    snapshot: Snapshot,
    now_ms: int,
    names: ModelNames,
    learned: LearnedUsage,
    lease_ms: int = LEASE_MS,
) -> Quota:
    """The limits of a message call. Raises: Refusal 403 where the policy denies a model without a price."""
    call, key, relay = plan.call, plan.key, snapshot.relay
    # Making an object is a request and consumes no tokens; what a batch's results cost is not metered.
    makes = call.endpoint in OBJECTS
    most = reserve = NOTHING
    if not makes:
        priced = names.priced(plan.model, plan.groups, snapshot)
        priced += tuple((name, price_of(name, snapshot.prices)) for name in call.named.models)
        prices = [price for _, price in priced]
        if None in prices and relay.policy.unknown_model_cost == "deny" and has_cost_limit(key.limits):
            raise unpriced(key, plan.model, priced[prices.index(None)][0])
        if call.named.any_model:
            prices += [*shipped().values(), *snapshot.prices.values()]
        most = max((_most(call, price) for price in prices), key=_dearness)
        reserve = most if key.limits.reserve == "worst-case" else learned.expected(key.id, plan.model, most)
    zone = relay.state.timezone
    return Quota(
        terms=terms(key, relay.server, call.endpoint, reserve, now_ms, zone, lease_ms),
        orphan=orphan_of(key.id, names.of(plan.model, snapshot), most, now_ms, zone),
        most=most,
        reserved=reserve,
        likely_ms=learned.likely_ms(key.id, plan.model),
    )


def _most(call: Call, price: Price | None) -> Estimate:
    room = call.max_tokens if call.room is None else call.room
    if room is not None and call.named.max_tokens is not None:
        room = max(room, call.named.max_tokens)
    percent = 100 if price is None else dearest_percent(price, fast=call.fast or call.named.fast)
    return estimate(prompt_bound(len(call.body), call.wide), room, price, percent)


def _dearness(one: Estimate) -> int:
    return -1 if one.cost is None else one.cost


def account_terms(account: Account, lease_ms: int = LEASE_MS) -> tuple[Term, ...]:
    """The operator's own ceilings on an account, which hold over all processes: `max_concurrency` and `pace`."""
    found: list[Term] = []
    scope, most, pace = f"account/{account.id}", account.max_concurrency, account.pace.requests_per_minute
    if most:
        name = f"{most} calls in flight for {scope}"
        found.append(Slots(counter=f"{scope}/slots", name=name, limit=most, ttl=lease_ms))
    if pace:
        found.append(pace_term(scope, pace))
    return tuple(found)


def account_slots(accounts: Iterable[Account]) -> list[str]:
    """The counters of the slots that attempts on these accounts hold."""
    return [term.counter for account in accounts for term in account_terms(account) if isinstance(term, Slots)]


def shown_terms(key: ApiKey, snapshot: Snapshot, now_ms: int) -> tuple[Term, ...]:
    """The limits that `GET /usage` shows."""
    return key_terms(key, NOTHING, now_ms, snapshot.relay.state.timezone) + counting_terms(key, 0)
