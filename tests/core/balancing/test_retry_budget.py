"""The retry budget."""

from __future__ import annotations

import pytest
from pool_world import World, accounts, answered, snapshot, unreachable

from relayd.config.snapshot import Breaker, Routing
from relayd.core.balancing.outcomes import Outcome
from relayd.core.balancing.retry_budget import CAP, RetryBudget


def test_a_full_bucket_stays_full() -> None:
    budget = RetryBudget()
    budget.earn()

    assert budget.tokens == CAP


def test_ten_calls_earn_one_retry() -> None:
    budget = RetryBudget(0.0)
    assert not budget.spend()
    for _ in range(11):
        budget.earn()

    assert budget.spend()
    assert not budget.spend()


@pytest.mark.parametrize("outcome", [answered(529), answered(500), unreachable("connect"), unreachable("timeout")])
@pytest.mark.parametrize("failures", [5, 1_000_000])  # with the breaker, and as if there were none
def test_a_dead_upstream_costs_at_most_1_12_attempts_a_call(outcome: Outcome, failures: int) -> None:
    routing = Routing(breaker=Breaker(failures=failures))
    world = World(snapshot(*accounts(*"abcdefghij"), routing=routing))
    attempts = 0
    for _ in range(1000):
        attempts += len(world.deliver(lambda account: outcome).attempts)
        world.now += 0.005

    assert 1000 <= attempts <= 1120


def test_after_a_dead_minute_the_first_calls_are_served_at_once() -> None:
    world = World(snapshot(*accounts(*"abcde")))
    for _ in range(600):
        world.deliver(lambda account: answered(529))
        world.now += 0.1
    served = sum(bool(world.deliver(lambda account: answered(200)).served_by) for _ in range(100))

    assert served == 100


def test_a_wave_of_429_fails_over_however_empty_the_budget_is() -> None:
    world = World(snapshot(*accounts(*"abc")))
    world.budget.tokens = 0.0

    assert world.deliver(lambda account: answered(429 if account != "c" else 200), affinity="a").served_by == "c"
