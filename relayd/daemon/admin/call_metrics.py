"""Call metrics: what calls add up to since the start, for /metrics.

Rule: fed with receipts, one a call, after its end; nothing here is on the way of a byte. Label values are ids of the
config and fixed words; a key or account beyond MOST_NAMES is counted under OTHERS, so there is a bound on series.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from relayd.core.durations import Durations
from relayd.core.receipt import Receipt
from relayd.daemon.admin import metric_list as m
from relayd.daemon.admin.exposition import Family, Histogram
from relayd.wire.usage import Usage

MOST_NAMES = 1000
OTHERS = "_others"  # no id begins with an underscore
MICRO = 1_000_000

# Upper bounds, s: from a cached answer to the longest generation.
FIRST_BYTE = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DURATION = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0)
KINDS = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")


def _zeros() -> defaultdict[Any, int]:
    """Counts by key. A Counter finds its `__setitem__` anew for each `+=`, at twice the price."""
    return defaultdict(int)


@attrs.define(eq=False)
class CallMetrics:
    """Sums over the calls of this process.

    Args:
        model_of: the name under which a receipt's tokens are counted: one of the config, or of a few fixed ones.
    """

    model_of: Callable[[Receipt], str]
    calls: defaultdict[tuple[str, str, int], int] = attrs.field(factory=_zeros)  # dialect, outcome, status
    attempts: defaultdict[tuple[str, int], int] = attrs.field(factory=_zeros)  # account, status
    verdicts: defaultdict[tuple[str, str, str], int] = attrs.field(factory=_zeros)  # account, blame, kind
    tokens: defaultdict[tuple[str, str], int] = attrs.field(factory=_zeros)  # account, kind
    cost: defaultdict[str, int] = attrs.field(factory=_zeros)  # account: micro-USD
    unpriced: defaultdict[str, int] = attrs.field(factory=_zeros)  # account
    key_calls: defaultdict[str, int] = attrs.field(factory=_zeros)
    key_tokens: defaultdict[str, int] = attrs.field(factory=_zeros)
    key_cost: defaultdict[str, int] = attrs.field(factory=_zeros)  # micro-USD
    model_calls: defaultdict[str, int] = attrs.field(factory=_zeros)
    model_tokens: defaultdict[tuple[str, str], int] = attrs.field(factory=_zeros)  # model, kind
    model_cost: defaultdict[str, int] = attrs.field(factory=_zeros)  # micro-USD
    first_byte: Durations = attrs.field(factory=lambda: Durations(FIRST_BYTE))
    seconds: Durations = attrs.field(factory=lambda: Durations(DURATION))
    _keys: set[str] = attrs.field(factory=set)
    _accounts: set[str] = attrs.field(factory=set)
    _models: set[str] = attrs.field(factory=set)

    def record(self, receipt: Receipt) -> None:
        """Add one call. Sync, does not raise."""
        self.calls[receipt.dialect, receipt.outcome, receipt.status] += 1
        self.seconds.add(receipt.seconds)
        if receipt.first_byte is not None:
            self.first_byte.add(receipt.first_byte)
        for attempt in receipt.attempts:
            account = _bounded(attempt.account, self._accounts)
            self.attempts[account, attempt.status] += 1
            self.verdicts[account, attempt.blame, attempt.kind] += 1
        if receipt.key:
            self.key_calls[_bounded(receipt.key, self._keys)] += 1
        if receipt.usage.total:
            self._spend(receipt, receipt.usage)

    def _spend(self, receipt: Receipt, usage: Usage) -> None:
        account, key = _bounded(receipt.account, self._accounts), _bounded(receipt.key, self._keys)
        model = _bounded(self.model_of(receipt), self._models)
        for kind in KINDS:
            if amount := getattr(usage, kind):
                self.tokens[account, kind] += amount
                self.model_tokens[model, kind] += amount
        self.key_tokens[key] += usage.total
        self.model_calls[model] += 1
        if receipt.cost is None:
            self.unpriced[account] += 1
        else:
            self.cost[account] += receipt.cost
            self.key_cost[key] += receipt.cost
            self.model_cost[model] += receipt.cost

    def keys(self) -> frozenset[str]:
        """Ids of keys that have called."""
        return frozenset(self._keys)

    def families(self) -> list[Family | Histogram]:
        """`relayd_...` of calls, accounts and keys."""
        return [
            m.CALLS.by({(dialect, outcome, str(status)): n for (dialect, outcome, status), n in self.calls.items()}),
            m.FIRST_BYTE.of(self.first_byte),
            m.DURATION.of(self.seconds),
            m.ATTEMPTS.by({(account, str(status)): n for (account, status), n in self.attempts.items()}),
            m.VERDICTS.by(self.verdicts),
            m.TOKENS.by(self.tokens),
            m.COST.each(_dollars(self.cost)),
            m.UNPRICED.each(self.unpriced),
            m.KEY_CALLS.each(self.key_calls),
            m.KEY_TOKENS.each(self.key_tokens),
            m.KEY_COST.each(_dollars(self.key_cost)),
            m.MODEL_CALLS.each(self.model_calls),
            m.MODEL_TOKENS.by(self.model_tokens),
            m.MODEL_COST.each(_dollars(self.model_cost)),
        ]


def _bounded(name: str, known: set[str]) -> str:
    if name in known:
        return name
    if len(known) >= MOST_NAMES:
        return OTHERS
    known.add(name)
    return name


def _dollars(micro: Mapping[str, int]) -> dict[str, float]:
    return {name: amount / MICRO for name, amount in micro.items()}
