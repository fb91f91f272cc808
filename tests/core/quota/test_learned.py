"""What is reserved follows what calls of a key and model use, within bounds that hold for whatever comes."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from relayd.core.quota.call_estimate import Estimate
from relayd.core.quota.learned import (
    LEAST_OUTPUT,
    LIKELY_MS,
    MEMORY,
    MOST_KNOWN,
    MOST_RATES,
    TOKENS_PER_SECOND,
    LearnedUsage,
    Quantiles,
)

# 64,000 tokens at $25 for a million, and a prompt of 100,000 that may all be written to the cache at $10
MOST = Estimate(input=100_000, output=64_000, cost=2_600_000, input_cost=1_000_000)

counts = st.integers(0, 10**9)
bounds = st.builds(
    lambda prompt, output, before, after: Estimate(input=prompt, output=output, cost=before + after, input_cost=before),
    *[st.integers(0, 10**6)] * 4,
)


def learned(*outputs: int, prompt: int = 50_000, cost: int | None = None, key: str = "dev") -> LearnedUsage:
    found = LearnedUsage()
    for output in outputs:
        paid = output * 25 + prompt // 2 if cost is None else cost
        found.learn(key, "opus", MOST, prompt=prompt, output=output, cost=paid, seconds=output / 50)
    return found


@given(st.lists(st.tuples(bounds, counts, counts, st.none() | counts, st.floats(0, 1e6)), max_size=30), bounds)
def test_no_more_is_expected_than_a_call_can_use_and_no_less_than_an_answer_has(
    past: list[tuple[Estimate, int, int, int | None, float]], most: Estimate
) -> None:
    known = LearnedUsage()
    for bound, prompt, output, cost, seconds in past:
        known.learn("dev", "opus", bound, prompt=prompt, output=output, cost=cost, seconds=seconds)
    found = known.expected("dev", "opus", most)

    assert min(most.output, LEAST_OUTPUT) <= found.output <= most.output
    assert 0 <= found.input <= most.input
    assert found.cost is not None
    assert most.cost is not None
    assert found.input_cost is not None
    assert most.input_cost is not None
    assert 0 <= found.input_cost <= most.input_cost
    assert found.input_cost <= found.cost <= most.cost
    assert known.likely_ms("dev", "opus") >= 0


@given(st.lists(counts, min_size=1, max_size=100), st.integers(1, 1000))
def test_a_quantile_is_exceeded_by_no_more_than_its_share_and_is_a_fifth_too_large_at_most(
    values: list[int], per_mille: int
) -> None:
    found = Quantiles()
    for value in values:
        found.add(value)
    quantile = found.quantile(per_mille)

    assert quantile is not None
    assert sum(value <= quantile for value in values) * 1000 >= per_mille * len(values)
    exact = sorted(values)[-(-len(values) * per_mille // 1000) - 1]
    assert exact <= quantile <= exact + exact // 4


def test_the_past_fades() -> None:
    known = learned(*[60_000] * 100, *[300] * 20 * MEMORY)
    assert known.expected("dev", "opus", MOST).output == LEAST_OUTPUT


def test_a_key_that_nothing_is_known_of_reserves_its_prompt_and_a_common_answer() -> None:
    found = LearnedUsage().expected("dev", "opus", MOST)
    assert (found.input, found.output) == (100_000, LEAST_OUTPUT)
    assert found.cost == 1_000_000 + LEAST_OUTPUT * 25


def test_what_calls_use_is_learned_for_each_key_and_model() -> None:
    known = learned(*[10_000] * 20)
    found = known.expected("dev", "opus", MOST)
    assert 10_000 <= found.output <= 12_500
    assert 50_000 <= found.input <= 62_500
    assert found.cost is not None
    assert found.input_cost is not None
    assert 25_000 <= found.input_cost <= 32_000  # read from the cache for a fortieth
    assert 10_000 * 25 <= found.cost - found.input_cost <= 12_500 * 25
    assert known.expected("ops", "opus", MOST).output == LEAST_OUTPUT
    assert known.expected("dev", "haiku", MOST).output == LEAST_OUTPUT


def test_a_model_without_a_price_has_its_tokens_learned() -> None:
    known, free = LearnedUsage(), attrs.evolve(MOST, cost=None, input_cost=None)
    known.learn("dev", "m", free, prompt=1000, output=9000, cost=None, seconds=1)
    found = known.expected("dev", "m", free)
    assert (found.cost, found.input_cost) == (None, None)
    assert 9000 <= found.output <= 11_250
    assert found.input < 2000


def test_one_long_answer_in_a_hundred_does_not_decide() -> None:
    assert learned(*[200] * 99, 60_000, *[200] * 99).expected("dev", "opus", MOST).output == LEAST_OUTPUT


def test_memory_is_bounded_and_what_is_in_use_stays() -> None:
    known = learned(*[20_000] * 5)
    for number in range(2 * MOST_KNOWN):
        known.learn(f"k{number}", "opus", MOST, prompt=1, output=1, cost=1, seconds=1)
        known.learn("dev", "opus", MOST, prompt=1, output=20_000, cost=1, seconds=1)
        known.learn_rate(f"m{number}", 1000, 10)
    assert known.expected("dev", "opus", MOST).output > 19_999
    assert len(known._known) == MOST_KNOWN
    assert len(known._rates) == MOST_RATES


def test_how_long_a_call_takes_is_learned() -> None:
    assert LearnedUsage().likely_ms("dev", "opus") == LIKELY_MS
    assert 20_000 <= learned(*[1000] * 9).likely_ms("dev", "opus") <= 25_000


def test_the_rate_of_a_model_is_learned_from_answers_that_are_long_enough() -> None:
    known = LearnedUsage()
    assert known.written_in("opus", 10) == 10 * TOKENS_PER_SECOND
    known.learn_rate("opus", 99, 1)
    known.learn_rate("opus", 10_000, 0.9)
    assert known.written_in("opus", 10) == 10 * TOKENS_PER_SECOND
    for seconds in (9.0, 10.0, 11.0):
        known.learn_rate("opus", 1000, seconds)
    assert 1000 <= known.written_in("opus", 10) <= 1250
    assert known.written_in("opus", -1) == 0
