"""The gate: rests, strikes, recovery."""

from __future__ import annotations

import random

import pytest

from relayd.config.snapshot import Breaker
from relayd.core.balancing.breaker import Gate, jittered

CONFIG = Breaker()  # 5 failures within 60 s
RNG = random.Random(3)


def strike(gate: Gate, now: float, trial: bool = False) -> bool:
    return gate.strike(CONFIG, 10.0, "outage", "500 from upstream", now, RNG, trial)


def tripped(now: float = 0.0) -> Gate:
    gate = Gate()
    for _ in range(5):
        strike(gate, now)
    return gate


def test_a_new_gate_is_open() -> None:
    assert Gate().open
    assert Gate().admits(0.0)


def test_four_failures_do_nothing_and_the_fifth_trips() -> None:
    gate = Gate()

    assert [strike(gate, now) for now in (0.0, 1.0, 2.0, 3.0, 4.0)] == [False] * 4 + [True]
    assert gate.soft
    assert not gate.admits(13.9)
    assert gate.admits(16.1)


def test_failures_far_apart_never_trip() -> None:
    gate = Gate()

    assert not any(strike(gate, now) for now in range(0, 1000, 20))


def test_a_success_makes_up_for_a_failure_so_a_tenth_of_failures_never_trips() -> None:
    gate = Gate()
    for call in range(2000):
        if call % 10 == 0:
            assert not strike(gate, call / 100)
        else:
            gate.succeed(call / 100, trial=False)
    assert gate.open


def test_a_rest_holds_until_its_time_plus_at_most_a_fifth() -> None:
    gate = Gate()
    assert gate.rest(100.0, "rate", "429 from upstream", 0.0, RNG)

    assert 100.0 <= gate.until <= 120.0
    assert not gate.admits(99.9)
    assert gate.admits(120.0)
    assert not gate.soft


def test_a_shorter_rest_does_not_shorten_a_longer_one() -> None:
    gate = Gate()
    gate.rest(1000.0, "rate", "long", 0.0, RNG)
    until = gate.until

    assert not gate.rest(10.0, "rate", "short", 1.0, RNG)
    assert (gate.until, gate.reason) == (until, "long")
    assert not gate.rest(5000.0, "rate", "longer", 2.0, RNG)  # extended, though nothing has turned
    assert gate.until > until


def test_strikes_during_a_rest_change_nothing() -> None:
    gate = tripped()
    until = gate.until

    assert not any(strike(gate, 1.0) for _ in range(20))
    assert gate.until == until


def test_recovery_admits_one_trial_and_doubles_with_each_success() -> None:
    gate = tripped()
    now = gate.until
    admitted = []
    for _ in range(6):
        wave = 0
        while gate.admits(now) and wave < 100:
            gate.trials += 1
            wave += 1
        admitted.append(wave)
        gate.trials -= wave
        gate.succeed(now, trial=True)
    assert admitted == [1, 2, 4, 8, 16, 100]


def test_a_failed_trial_rests_the_gate_again_for_twice_as_long_up_to_five_minutes() -> None:
    gate = tripped()
    lengths = []
    for _ in range(8):
        now = gate.until
        assert strike(gate, now, trial=True)
        lengths.append(gate.until - now)
    for length, expected in zip(lengths, [20, 40, 80, 160, 300, 300, 300, 300], strict=True):
        assert expected <= length <= expected * 1.2


def test_a_failed_call_after_an_asked_rest_is_one_strike_only() -> None:
    gate = Gate()
    gate.rest(10.0, "rate", "429 from upstream", 0.0, RNG)

    assert not strike(gate, gate.until, trial=True)
    assert gate.admits(gate.until)


def test_a_success_that_began_before_the_rest_does_not_end_it() -> None:
    gate = tripped()

    assert not gate.succeed(1.0, trial=False)
    assert not gate.admits(1.0)


def test_a_full_recovery_forgets_how_often_it_tripped() -> None:
    gate = tripped()
    strike(gate, gate.until, trial=True)
    assert gate.level == 2
    now = gate.until
    assert [gate.succeed(now, trial=True) for _ in range(5)] == [False] * 4 + [True]

    assert (gate.level, gate.open, gate.until) == (0, True, 0.0)


@pytest.mark.parametrize("seconds", [0.0, 1.0, 60.0, 18000.0])
def test_jitter_is_up_to_a_fifth_and_never_above_half_a_minute(seconds: float) -> None:
    rests = [jittered(seconds, RNG) for _ in range(200)]

    assert min(rests) >= seconds
    assert max(rests) <= seconds + min(seconds / 5, 30.0)
    assert seconds == 0.0 or max(rests) - min(rests) > 0.1 * min(seconds / 5, 30.0)


DAY = 86400.0


def test_a_rest_of_many_days_is_questioned_by_one_call_a_day() -> None:
    gate = Gate()
    gate.rest(7 * DAY, "rate", "429 from upstream", 0.0, RNG)
    assert not gate.admits(DAY - 1)
    assert gate.admits(DAY)

    gate.trials += 1
    assert not gate.admits(DAY)  # one at a time
    gate.trials -= 1
    gate.rest(60.0, "rate", "429 from upstream", DAY, RNG)  # it still has to rest
    assert gate.until >= 7 * DAY
    assert not gate.admits(2 * DAY - 1)
    assert gate.admits(2 * DAY)

    gate.succeed(2 * DAY, trial=True)  # it was wrong
    assert gate.admits(2 * DAY)
    assert not gate.resting(2 * DAY)


def test_a_rest_of_hours_is_not_questioned() -> None:
    gate = Gate()
    gate.rest(20 * 3600.0, "rate", "429 from upstream", 0.0, RNG)

    assert not any(gate.admits(hour * 3600.0) for hour in range(20))


def test_what_a_wrong_clock_dated_is_forgotten_and_what_a_right_one_did_is_kept() -> None:
    for ahead, forgotten in ((4 * 365 * DAY, True), (700.0, True), (30.0, False), (-5.0, False)):
        gate = Gate()
        gate.rest(300.0, "rate", "429 from upstream", ahead, random.Random(1))
        strike(gate, ahead)
        assert gate.redate(0.0) is forgotten
        assert gate.open is forgotten
        assert gate.redate(0.0) is False
    struck = Gate()
    for _ in range(4):
        strike(struck, 4 * 365 * DAY)
    struck.redate(0.0)
    assert not strike(struck, 0.0)
