"""Rate limits and quotas: which counters a call touches, and what they allow.

Rule: no clock, no store. A call's limits become a list of terms; the store checks all of them and then charges all of
them, or none; its answer is put into words by limit_answers.py.

Theory: three kinds of term are enough. A *rolling* window holds at most `limit` within any span of its length. A
*calendar* window is a counter with a beginning and an end, computed from the time zone (windows.py) and verified by the
store against its own clock. *Slots* are leases with a time to live: calls in flight.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import attrs

from relayd.config.model.types import write_seconds
from relayd.config.snapshot import ApiKey, Limits, Rate, Server, Window
from relayd.core.quota.call_estimate import Estimate
from relayd.core.quota.windows import FOREVER, window_length, window_of
from relayd.noun import noun
from relayd.wire.call import Endpoint

Unit = Literal["requests", "tokens", "cost"]

# The largest number that is counted: tokens, micro-USD, requests.
LARGEST = FOREVER

LEASE_MS = 60_000  # a call's slots stay its own this long without a renewal


def bounded(amount: int) -> int:
    """A count that every store can hold: 0 to LARGEST. Raises: ValueError, TypeError, OverflowError on no number."""
    if type(amount) is int and 0 <= amount <= LARGEST:  # nearly always, and asked some twenty times a call
        return amount
    return min(max(int(amount), 0), LARGEST)


@noun(kw_only=True)
class Rolling:
    """At most `limit` within any `window` ms. `cost` is what this call takes."""

    counter: str
    name: str
    unit: Unit
    limit: int = attrs.field(converter=bounded)
    cost: int = attrs.field(converter=bounded)
    window: int = attrs.field(converter=bounded)


@noun(kw_only=True)
class Calendar:
    """At most `limit` from `start` up to, not including, `end` (Unix ms)."""

    counter: str
    name: str
    unit: Unit
    limit: int = attrs.field(converter=bounded)
    cost: int = attrs.field(converter=bounded)
    start: int
    end: int


@noun(kw_only=True)
class Slots:
    """At most `limit` holders at once, each for `ttl` ms unless renewed."""

    counter: str
    name: str
    limit: int = attrs.field(converter=bounded)
    ttl: int = LEASE_MS


Term = Rolling | Calendar | Slots


@noun
class TermLevel:
    """How a term stands: what is used, and when the window is empty again (Unix ms) if nothing more comes."""

    used: int
    resets_at: int


@noun(kw_only=True)
class _Template:
    """One limit of a key, without the call: window is ms for a rolling window, else a calendar word or "total"."""

    unit: Unit
    window: int | str
    label: str  # "1m", "day": part of the counter's name
    name: str
    limit: int


def terms(
    key: ApiKey,
    server: Server,
    endpoint: Endpoint,
    reserve: Estimate,
    now_ms: int,
    tz: str,
    lease_ms: int = LEASE_MS,
) -> tuple[Term, ...]:
    """Every limit that a call has to pass, the relay's own first.

    Args:
        endpoint: "count_tokens" has a bound of its own and none of the others, for clients fire dozens at once.
        now_ms: Unix ms; with `tz` it says which day, week and month it is.
        lease_ms: how long slots are held without a renewal.
    """
    if endpoint == "count_tokens":
        return counting_terms(key, 1)
    return relay_terms(server, lease_ms) + key_terms(key, reserve, now_ms, tz, lease_ms)


def relay_terms(server: Server, lease_ms: int = LEASE_MS) -> tuple[Term, ...]:
    """The limits of the whole relay: `[server] max_concurrent_requests` and `rate`."""
    found: list[Term] = []
    if server.max_concurrent_requests:
        name = f"{server.max_concurrent_requests} concurrent requests for the whole relay"
        found.append(Slots(counter="relay/slots", name=name, limit=server.max_concurrent_requests, ttl=lease_ms))
    if server.rate.requests:
        found.append(_rolling_requests("relay/requests", server.rate, " for the whole relay"))
    return tuple(found)


def counting_terms(key: ApiKey, cost: int) -> tuple[Term, ...]:
    """The bound on token counting."""
    limit = key.limits.count_tokens
    if not limit:
        return ()
    name = f"{limit} token counts per 1m"
    counter = f"key/{key.id}/counts/1m"
    return (Rolling(counter=counter, name=name, unit="requests", limit=limit, cost=cost, window=60_000),)


def key_terms(key: ApiKey, reserve: Estimate, now_ms: int, tz: str, lease_ms: int = LEASE_MS) -> tuple[Term, ...]:
    """The limits of a key on message calls.

    A call whose estimate is larger than a whole window is charged just the whole window: it gets in when nothing else
    is in there, instead of never.
    """
    found: list[Term] = []
    if key.limits.concurrency:
        name = f"{key.limits.concurrency} concurrent requests"
        counter = f"key/{key.id}/slots"
        found.append(Slots(counter=counter, name=name, limit=key.limits.concurrency, ttl=lease_ms))
    wanted = {"requests": 1, "tokens": reserve.tokens, "cost": reserve.cost or 0}
    for one in _templates(key.limits):
        counter = f"key/{key.id}/{one.unit}/{one.label}"
        cost = min(wanted[one.unit], one.limit)
        if isinstance(one.window, int):
            found.append(
                Rolling(counter=counter, name=one.name, unit=one.unit, limit=one.limit, cost=cost, window=one.window)
            )
            continue
        start, end = window_of(one.window, now_ms, tz)
        found.append(
            Calendar(counter=counter, name=one.name, unit=one.unit, limit=one.limit, cost=cost, start=start, end=end)
        )
    return tuple(found)


def pace_term(scope: str, requests: int, window_ms: int = 60_000) -> Rolling:
    """A ceiling on requests of something that is not a key, such as an account's `pace`."""
    label = _spelled(window_ms)
    name = f"{requests} requests per {label} for {scope}"
    counter = f"{scope}/requests/{label}"
    return Rolling(counter=counter, name=name, unit="requests", limit=requests, cost=1, window=window_ms)


def has_cost_limit(limits: Limits) -> bool:
    """Whether any limit is counted in money, so that an unknown price matters."""
    return any(one.unit == "cost" for one in _templates(limits))


def _rolling_requests(scope: str, rate: Rate, suffix: str) -> Rolling:
    window = round(rate.window * 1000)
    label = _spelled(window)
    name = f"{rate.requests} requests per {label}{suffix}"
    counter = f"{scope}/{label}"
    return Rolling(counter=counter, name=name, unit="requests", limit=rate.requests, cost=1, window=window)


@lru_cache(maxsize=4096)
def _templates(limits: Limits) -> tuple[_Template, ...]:
    """All windows of a key. Of two limits on one window and unit the smaller is kept: one counter, one charge."""
    windows: list[tuple[Unit, int | str, int]] = [
        ("requests", round(limits.rate.window * 1000), limits.rate.requests),
        ("tokens", 60_000, limits.tokens_per_minute),
        ("requests", "day", limits.daily_requests),
        ("requests", "month", limits.monthly_requests),
        ("tokens", "day", limits.daily_tokens),
        ("tokens", "month", limits.monthly_tokens),
        ("cost", "day", limits.daily_cost),
        ("cost", "month", limits.monthly_cost),
        ("cost", "total", limits.total_cost),
    ]
    for window in limits.windows:
        windows += _parts(window)
    smallest: dict[tuple[Unit, int | str], int] = {}
    for unit, length, limit in windows:
        if limit:
            smallest[unit, length] = min(limit, smallest.get((unit, length), limit))
    return tuple(_template(unit, length, limit) for (unit, length), limit in smallest.items())


def _parts(window: Window) -> list[tuple[Unit, int | str, int]]:
    length = window_length(window.window)
    return [("requests", length, window.requests), ("tokens", length, window.tokens), ("cost", length, window.cost)]


def _template(unit: Unit, length: int | str, limit: int) -> _Template:
    label = _spelled(length) if isinstance(length, int) else length
    return _Template(unit=unit, window=length, label=label, name=_name(unit, length, label, limit), limit=limit)


_ADJECTIVE = {"day": "daily", "week": "weekly", "month": "monthly", "total": "total"}


def _name(unit: Unit, length: int | str, label: str, limit: int) -> str:
    """What people call it: "100 requests per 1m", "daily cost $5.00"."""
    amount = dollars(limit) if unit == "cost" else str(limit)
    if isinstance(length, str):
        return f"{_ADJECTIVE[length]} {unit} {amount}"
    return f"{amount} per {label}" if unit == "cost" else f"{amount} {unit} per {label}"


def dollars(micro: int) -> str:
    """Micro-USD for people: at least two decimals, none lost. `5_000_000` is "$5.00"."""
    whole, rest = divmod(micro, 1_000_000)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"${whole}.{decimals}"


def _spelled(ms: int) -> str:
    return write_seconds(ms / 1000)
