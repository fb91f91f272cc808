"""How far a limit is exceeded: by what calls in flight use beyond their reservations, and by nothing else."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from relayd.config.snapshot import ApiKey, Limits, MicroUsd, ObjectId
from relayd.core.quota.call_estimate import Estimate, estimate
from relayd.core.quota.learned import LearnedUsage
from relayd.core.quota.limits import key_terms
from relayd.core.quota.prices import price_of
from relayd.core.quota.usage_record import UsageRecord, orphan_of
from relayd.state.contract import Admit, Denied, Granted, Settle
from relayd.state.sqlite import SqliteStore

NOW = 1_800_000_000_000
PRICE = price_of("claude-opus-5-5", {})
LIMIT = 2_000_000  # micro-USD


@attrs.frozen(kw_only=True)
class Asked:
    """A call, and what share of what it may use it will have used (per mille)."""

    prompt: int
    most_output: int
    share: int
    ends: int  # so many calls end before it is admitted

    @property
    def most(self) -> Estimate:
        return estimate(self.prompt, self.most_output, PRICE)


calls = st.builds(
    Asked,
    prompt=st.integers(1, 20_000),
    most_output=st.integers(1, 64_000),
    share=st.one_of(st.integers(0, 100), st.integers(0, 1000)),
    ends=st.integers(0, 3),
)


def day_of_calls(asked: list[Asked], how: str) -> tuple[int, int]:
    """What a day of these calls costs, and by how much those in flight at one time exceeded their reservations."""
    learned, store = LearnedUsage(), SqliteStore(":memory:", clock=lambda: NOW)
    key = ApiKey(id=ObjectId("dev"), hashes=(), limits=Limits(daily_cost=MicroUsd(LIMIT)))
    spent, beyond, flying = 0, 0, list[tuple[str, Asked, int]]()

    def end() -> None:
        nonlocal spent
        call, one, _ = flying.pop(0)
        cost = one.most.cost * one.share // 1000 if one.most.cost else 0
        output = one.most_output * one.share // 1000
        learned.learn("dev", "m", one.most, prompt=one.prompt, output=output, cost=cost, seconds=1)
        spent += cost
        record = UsageRecord(day="2027-01-15", key="dev", account="a", model="m", output=output, cost=cost)
        store.apply([Settle(call=call, record=record)])

    for number, one in enumerate(asked):
        for _ in range(min(one.ends, len(flying))):
            end()
        held = one.most if how == "worst-case" else learned.expected("dev", "m", one.most)
        orphan = orphan_of("dev", "m", one.most, NOW, "UTC")
        terms = key_terms(key, held, NOW, "UTC")
        (answer,) = store.apply([Admit(call=f"c{number}", terms=terms, orphan=orphan)])
        if isinstance(answer, Granted):
            flying.append((f"c{number}", one, min(held.cost or 0, LIMIT)))
            assert spent + sum(reserved for _, _, reserved in flying) <= LIMIT
        else:
            assert isinstance(answer, Denied)
        more = [(one.most.cost or 0) * one.share // 1000 - reserved for _, one, reserved in flying]
        beyond = max(beyond, sum(max(amount, 0) for amount in more))
    while flying:
        end()
    store.close()
    return spent, beyond


@given(st.lists(calls, max_size=40))
def test_a_limit_is_exceeded_by_no_more_than_what_calls_in_flight_use_beyond_what_is_reserved(
    asked: list[Asked],
) -> None:
    spent, beyond = day_of_calls(asked, "expected")
    assert spent <= LIMIT + beyond


@given(st.lists(calls.filter(lambda one: (one.most.cost or 0) <= LIMIT), max_size=40))
def test_with_worst_case_a_limit_is_exact(asked: list[Asked]) -> None:
    spent, beyond = day_of_calls(asked, "worst-case")
    assert beyond == 0
    assert spent <= LIMIT


def test_a_small_budget_serves_a_thousand_small_calls_that_may_be_large() -> None:
    """Claude Code always asks for 64,000 tokens and gets some hundred."""
    small = Asked(prompt=5000, most_output=64_000, share=1, ends=1)
    assert day_of_calls([small] * 1000, "expected")[0] == 1000 * ((small.most.cost or 0) // 1000)
