"""What is used of limits while calls are played is what the stores would say."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from oracle import Oracle

from relayd.core.quota.limits import Calendar, Rolling, Slots
from relayd.core.replay.levels import BUCKETS, CalendarLevel, Level, RollingLevel, SlotLevel, level_of
from relayd.state import contract

ROLLING = Rolling(counter="key/k/tokens/1m", name="t", unit="tokens", limit=100, cost=0, window=60_000)


def test_buckets_are_those_of_the_stores() -> None:
    assert BUCKETS == contract.BUCKETS


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 60)), max_size=40))
def test_a_rolling_window_admits_what_a_store_admits(calls: list[tuple[int, int]]) -> None:
    oracle, level, now = Oracle(), RollingLevel(ROLLING.window), 1_000_000
    for number, (pause, amount) in enumerate(calls):
        now += pause
        term = attrs.evolve(ROLLING, cost=amount)
        oracle.now = oracle.seen = now
        wanted = oracle.wait(term, str(number)) is None
        if wanted:
            oracle.take((term,), str(number))

        assert level.has_room(now, amount, term.limit) is wanted
        if wanted:
            level.take(now, amount)


def test_a_calendar_window_begins_empty() -> None:
    term = Calendar(counter="c", name="day", unit="cost", limit=10, cost=0, start=0, end=100)
    known: dict[str, Level] = {}
    level = level_of(term, known)
    assert isinstance(level, CalendarLevel)
    level.take(5, 10)
    assert not level.has_room(6, 1, 10)

    assert level_of(attrs.evolve(term, start=100, end=200), known) is level
    assert level.has_room(101, 10, 10)


def test_a_slot_is_free_when_its_call_has_ended_or_will_in_time() -> None:
    level = level_of(Slots(counter="s", name="one at once", limit=1), {})
    assert isinstance(level, SlotLevel)
    assert level.has_room(0, 1, wait=0)
    level.take(1000)

    assert not level.has_room(999, 1, wait=0)
    assert level.has_room(900, 1, wait=100)
    assert level.has_room(1000, 1, wait=0)
