"""How soon a worker's place is filled again."""

from __future__ import annotations

from relayd.daemon.workers.pace import (
    FRESH,
    GROWN_UP,
    LASTING,
    LONGEST,
    STARTING,
    Renewals,
    Restarts,
    Silence,
    Vacancies,
)


def test_a_place_is_filled_at_once_and_then_ever_more_slowly() -> None:
    restarts, now, pauses = Restarts(), 1000.0, []
    for _ in range(10):
        assert restarts.due(1, now)
        pauses.append(restarts.died(1, 0.1, now))
        assert restarts.due(1, now) == (pauses[-1] == 0)
        now += pauses[-1]

    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, LONGEST, LONGEST, LONGEST]
    assert restarts.due(2, now)
    assert "10 times" in restarts.told(1)


def test_who_has_lived_long_is_replaced_at_once() -> None:
    restarts = Restarts()
    restarts.died(1, 0.1, 0.0)
    restarts.died(1, 0.1, 0.0)

    assert restarts.died(1, GROWN_UP, 100.0) == 0.0
    assert restarts.told(1) == ""


def test_a_bound_that_all_pass_soon_is_followed_ever_more_slowly() -> None:
    renewals = Renewals()
    assert not renewals.due(1, FRESH / 2)
    assert renewals.due(1, FRESH)
    assert not renewals.due(1, FRESH)
    assert renewals.due(1, 2 * FRESH)
    assert not renewals.due(1, 3 * FRESH)
    assert renewals.due(1, LASTING)  # it took its time
    assert renewals.due(1, FRESH)
    assert renewals.due(2, FRESH)


def test_a_place_counts_as_vacant_once_a_start_should_be_over_and_no_longer_than_it_is() -> None:
    places = Vacancies()
    places.see({1, 2}, 100.0)
    assert not places.lasts(1, 100.0 + STARTING - 1)
    places.see({1}, 105.0)
    places.see({1, 2}, 106.0)
    assert places.lasts(1, 100.0 + STARTING)
    assert not places.lasts(2, 100.0 + STARTING)
    assert not places.lasts(3, 1000.0)


def test_a_worker_hangs_after_its_time_but_not_for_the_time_in_which_nobody_listened() -> None:
    silence, heard, now = Silence(30.0), 0.0, 0.0
    for now in range(1, 31):
        assert silence.stood_still(float(now)) == 0.0
        assert not silence.hangs(heard, float(now))
    assert silence.hangs(heard, 30.5)

    still = silence.stood_still(30.0 + 3600)  # the machine was suspended, or this process was stopped
    assert still == 3600
    assert not silence.hangs(heard + still, 3630.0)
    assert silence.stood_still(3631.0) == 0.0
    assert silence.hangs(heard + still, 3631.0), "what it had said nothing for before counts on"


def test_somebody_who_looks_is_told_of_silence_long_before_it_counts_as_hanging() -> None:
    silence = Silence(30.0)
    assert [silence.lasts(100.0, now) for now in (100.0, 110.0, 110.5)] == [False, False, True]
