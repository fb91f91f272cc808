"""Quantile estimates: what calls of a key and model really use, so that no more is reserved of its limits.

Rule: pure, deterministic and bounded: no clock, no random number, and a fixed share of memory whatever comes. What is
expected of a call is never more than it could use, and never less than LEAST_OUTPUT tokens of output (or all that it
may write, where that is less).

Theory: clients ask for far more than they use: Claude Code says `max_tokens` 64000 and gets some hundred. How much
calls use differs between keys and models and little from hour to hour, so the past is a good guide: a histogram with
buckets that grow by a fifth holds each quantity; old calls fade because all counts are halved now and then. Of the
prompt the *share* of its upper bound is learned, in tokens and in money, because most of a long conversation is read
from a cache for a tenth of the price.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import attrs

from relayd.core.quota.call_estimate import Estimate
from relayd.noun import noun

LEAST_OUTPUT = 4096  # tokens that are reserved for an answer at least
UPPER = 950  # per mille of calls that use no more than what is reserved for them
MEDIAN = 500
MEMORY = 256  # observations of a histogram; then all counts are halved
MOST_KNOWN = 2000  # pairs of key and model, some 5 kB each
MOST_RATES = 200  # models
WHOLE = 1000  # shares are per mille

# Until a model's own rate is known. Source: Artificial Analysis, November 2025: Opus 4.1 45, Sonnet 4.5 63 tokens/s.
TOKENS_PER_SECOND = 50
# A rate is learned from answers that are long enough to have one.
RATE_TOKENS, RATE_SECONDS = 100, 1.0

LIKELY_MS = 10_000  # a call's time until anything is known


K = TypeVar("K")
V = TypeVar("V")


def _bucket(value: int) -> int:
    """The bucket of a number: its three leading binary digits and how many follow."""
    shift = max(value.bit_length() - 3, 0)
    return 4 * shift + (value >> shift)


def _largest(bucket: int) -> int:
    """The largest number in a bucket."""
    shift = max(bucket // 4 - 1, 0)
    return ((bucket - 4 * shift + 1) << shift) - 1


@attrs.define(eq=False)
class Quantiles:
    """How often which numbers came, of those of late."""

    _counts: dict[int, int] = attrs.field(factory=dict, init=False)
    _order: list[int] = attrs.field(factory=list, init=False)  # the buckets, the highest first
    _total: int = attrs.field(default=0, init=False)

    def add(self, value: int) -> None:
        """Count a number, from 0 on."""
        bucket = _bucket(max(value, 0))
        before = self._counts.get(bucket, 0)
        self._counts[bucket] = before + 1
        self._total += 1
        if self._total >= MEMORY:
            self._counts = {bucket: count // 2 for bucket, count in self._counts.items() if count > 1}
            self._total = sum(self._counts.values())
        elif before:
            return
        self._order = sorted(self._counts, reverse=True)

    def quantile(self, per_mille: int) -> int | None:
        """A number that so many of those that came do not exceed; None when none has come."""
        left = self._total
        if not left:
            return None
        wanted = -(-left * per_mille // WHOLE)
        for bucket in self._order:
            left -= self._counts[bucket]
            if left < wanted:  # without this bucket and those above it there are not so many
                return _largest(bucket)
        raise AssertionError("a total that is not the sum of the counts")


@noun(eq=False)
class _Known:
    """What is known of the calls of a key and model."""

    output: Quantiles = attrs.field(factory=Quantiles)  # tokens
    prompt: Quantiles = attrs.field(factory=Quantiles)  # tokens, per mille of the upper bound
    prompt_cost: Quantiles = attrs.field(factory=Quantiles)  # per mille of the upper bound
    ms: Quantiles = attrs.field(factory=Quantiles)  # from admission to settlement


@attrs.define(eq=False)
class LearnedUsage:
    """What one process has learned."""

    _known: OrderedDict[tuple[str, str], _Known] = attrs.field(factory=OrderedDict, init=False)
    _rates: OrderedDict[str, Quantiles] = attrs.field(factory=OrderedDict, init=False)  # tokens/s by model

    def expected(self, key: str, model: str, most: Estimate) -> Estimate:
        """What a call will hardly exceed.

        Args:
            most: what it can use at most.
        """
        known = self._known.get((key, model), _NOTHING_KNOWN)
        output = min(most.output, max(LEAST_OUTPUT, known.output.quantile(UPPER) or 0))
        prompt = _part(most.input, known.prompt)
        if most.cost is None or most.input_cost is None:
            return attrs.evolve(most, input=prompt, output=output)
        input_cost = _part(most.input_cost, known.prompt_cost)
        output_cost = -(-(most.cost - most.input_cost) * output // max(most.output, 1))
        return Estimate(input=prompt, output=output, cost=input_cost + output_cost, input_cost=input_cost)

    def likely_ms(self, key: str, model: str) -> int:
        """How long a call will likely take, ms."""
        known = self._known.get((key, model), _NOTHING_KNOWN)
        median = known.ms.quantile(MEDIAN)
        return LIKELY_MS if median is None else median

    def learn(
        self, key: str, model: str, most: Estimate, *, prompt: int, output: int, cost: int | None, seconds: float
    ) -> None:
        """A call has ended as it should.

        Args:
            most: what it could use at most.
            prompt, output: tokens that it used.
            cost: micro-USD; None without a price.
            seconds: from its admission to its end.
        """
        known = _recent(self._known, (key, model), _Known, MOST_KNOWN)
        known.output.add(output)
        known.ms.add(round(seconds * 1000))
        if most.input:
            known.prompt.add(min(prompt * WHOLE // most.input, WHOLE))
        if cost is not None and most.cost is not None and most.input_cost:
            output_cost = (most.cost - most.input_cost) * output // max(most.output, 1)
            known.prompt_cost.add(min(max(cost - output_cost, 0) * WHOLE // most.input_cost, WHOLE))

    def learn_rate(self, model: str, output: int, seconds: float) -> None:
        """A model took so long for so many tokens, s from its first byte to its last."""
        if output >= RATE_TOKENS and seconds >= RATE_SECONDS:
            _recent(self._rates, model, Quantiles, MOST_RATES).add(round(output / seconds))

    def written_in(self, model: str, seconds: float) -> int:
        """How many tokens a model likely writes in a time, s."""
        rate = self._rates[model].quantile(MEDIAN) if model in self._rates else None
        return int(max(seconds, 0.0) * (rate or TOKENS_PER_SECOND))


def _part(most: int, shares: Quantiles) -> int:
    """The part of an upper bound that is hardly exceeded; all of it until something is known."""
    share = shares.quantile(UPPER)
    return most if share is None else min(most, -(-most * share // WHOLE))


def _recent(known: OrderedDict[K, V], name: K, fresh: Callable[[], V], most: int) -> V:
    """What is known under a name, made if it is new; what was not asked for longest makes room."""
    found = known.pop(name, None) or fresh()
    known[name] = found
    if len(known) > most:
        known.popitem(last=False)
    return found


_NOTHING_KNOWN = _Known()
