"""How long a call waits before it is refused."""

from __future__ import annotations

from relayd.config.snapshot import Limits, Seconds
from relayd.core.quota.limits import Calendar, Slots
from relayd.core.quota.patience import HELD_WAIT, patience

DAY = Calendar(counter="key/dev/cost/day", name="", unit="cost", limit=9, cost=3, start=0, end=10**10)
SLOTS = Slots(counter="key/dev/slots", name="", limit=1)
WAITING = Limits(concurrency=1, wait=Seconds(20.0))


def test_a_slot_is_waited_for_as_long_as_the_key_says() -> None:
    assert patience(SLOTS, WAITING, held=False, retry_ms=60_000) == 20
    assert patience(SLOTS, Limits(concurrency=1), held=False, retry_ms=1) == 0


def test_the_relay_as_a_whole_is_not_waited_for() -> None:
    assert patience(Slots(counter="relay/slots", name="", limit=1), WAITING, held=False, retry_ms=1) == 0


def test_what_others_have_reserved_is_waited_for_if_it_will_likely_be_free_in_time() -> None:
    assert patience(DAY, Limits(), held=True, retry_ms=2000) == HELD_WAIT
    assert patience(DAY, Limits(), held=True, retry_ms=2001) == 0


def test_a_window_that_is_used_up_is_not_waited_for() -> None:
    assert patience(DAY, WAITING, held=False, retry_ms=500) == 0
