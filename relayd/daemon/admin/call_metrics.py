"""Call metrics: what calls add up to since the start, for /metrics.

Rule: fed with receipts, one a call, after its end; nothing here is on the way of a byte. Label values are ids of the
config and fixed words; a key or account beyond MOST_NAMES is counted under OTHERS, so there is a bound on series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

import attrs

from relayd.core.receipt import Receipt
from relayd.daemon.admin.prometheus import Family, Histogram, family
from relayd.wire.usage import Usage

MOST_NAMES = 1000
OTHERS = "_others"  # no id begins with an underscore
MICRO = 1_000_000

# Upper bounds, s: from a cached answer to the longest generation.
FIRST_BYTE = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DURATION = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0)
KINDS = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")


@attrs.define(eq=False)
class Durations:
    """Counts by duration: `counts[n]` lie at or below `bounds[n]` and above the bound before; the last above all."""

    bounds: Sequence[float]
    counts: list[int] = attrs.field(init=False)
    total: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def family(self, name: str, meaning: str) -> Histogram:
        return Histogram(name, meaning, tuple(self.bounds), tuple(self.counts), self.total)


@attrs.define(eq=False)
class CallMetrics:
    """Sums over the calls of this process."""

    calls: Counter[tuple[str, str, int]] = attrs.field(factory=Counter)  # dialect, outcome, status
    attempts: Counter[tuple[str, int]] = attrs.field(factory=Counter)  # account, status
    tokens: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # account, kind
    cost: Counter[str] = attrs.field(factory=Counter)  # account: micro-USD
    unpriced: Counter[str] = attrs.field(factory=Counter)  # account
    key_calls: Counter[str] = attrs.field(factory=Counter)
    key_tokens: Counter[str] = attrs.field(factory=Counter)
    key_cost: Counter[str] = attrs.field(factory=Counter)  # micro-USD
    first_byte: Durations = attrs.field(factory=lambda: Durations(FIRST_BYTE))
    seconds: Durations = attrs.field(factory=lambda: Durations(DURATION))
    _keys: set[str] = attrs.field(factory=set)
    _accounts: set[str] = attrs.field(factory=set)

    def record(self, receipt: Receipt) -> None:
        """Add one call. Sync, does not raise."""
        self.calls[receipt.dialect, receipt.outcome, receipt.status] += 1
        self.seconds.add(receipt.seconds)
        if receipt.first_byte is not None:
            self.first_byte.add(receipt.first_byte)
        for attempt in receipt.attempts:
            self.attempts[_bounded(attempt.account, self._accounts), attempt.status] += 1
        if receipt.key:
            self.key_calls[_bounded(receipt.key, self._keys)] += 1
        if receipt.usage.total:
            self._spend(receipt, receipt.usage)

    def _spend(self, receipt: Receipt, usage: Usage) -> None:
        account, key = _bounded(receipt.account, self._accounts), _bounded(receipt.key, self._keys)
        for kind in KINDS:
            if amount := getattr(usage, kind):
                self.tokens[account, kind] += amount
        self.key_tokens[key] += usage.total
        if receipt.cost is None:
            self.unpriced[account] += 1
        else:
            self.cost[account] += receipt.cost
            self.key_cost[key] += receipt.cost

    def families(self) -> list[Family | Histogram]:
        """`relayd_...` of calls, accounts and keys."""
        return [
            family(
                "relayd_calls_total",
                "counter",
                "Calls that have ended, by how and with which status.",
                {(("dialect", d), ("outcome", o), ("status", str(s))): n for (d, o, s), n in self.calls.items()},
            ),
            self.first_byte.family("relayd_call_first_byte_seconds", "From the request head to the first byte sent."),
            self.seconds.family("relayd_call_duration_seconds", "From the request head to the end of the answer."),
            family(
                "relayd_attempts_total",
                "counter",
                "Tries on accounts, by the upstream's status; 0 = no answer.",
                {(("account", a), ("status", str(s))): n for (a, s), n in self.attempts.items()},
            ),
            family(
                "relayd_tokens_total",
                "counter",
                "Tokens consumed, by account and kind.",
                {(("account", a), ("kind", kind)): n for (a, kind), n in self.tokens.items()},
            ),
            _by("relayd_cost_usd_total", "Cost of priced calls.", "account", _dollars(self.cost)),
            _by(
                "relayd_unpriced_calls_total",
                "Calls of a model that has no price (prices.toml): no cost limit sees them.",
                "account",
                self.unpriced,
            ),
            _by("relayd_key_calls_total", "Calls that have ended, by key.", "key", self.key_calls),
            _by("relayd_key_tokens_total", "Tokens consumed, by key.", "key", self.key_tokens),
            _by("relayd_key_cost_usd_total", "Cost of priced calls, by key.", "key", _dollars(self.key_cost)),
        ]


def _bounded(name: str, known: set[str]) -> str:
    if name in known:
        return name
    if len(known) >= MOST_NAMES:
        return OTHERS
    known.add(name)
    return name


def _by(name: str, meaning: str, label: str, values: dict[str, float] | Counter[str]) -> Family:
    return family(name, "counter", meaning, {((label, value),): amount for value, amount in values.items()})


def _dollars(micro: Counter[str]) -> dict[str, float]:
    return {name: amount / MICRO for name, amount in micro.items()}
