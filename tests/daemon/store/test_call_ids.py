"""Ids of calls: unlike each other, ascending, also while the clock stands still or goes back."""

import itertools
import os

from relayd.daemon.store.call_ids import TICKS, CallIds


def test_ids_of_a_process_ascend_whatever_the_clock_does():
    times = iter([1_800_000_000.0] * 500 + [1_799_999_000.0] * 500 + [1_800_000_001.0] * 500)
    made = [CallIds("req_1234abcd", lambda: next(times), os.urandom)] * 1500
    ids = [each.new() for each in made]
    assert ids == sorted(set(ids))
    assert {(one[:12], len(one)) for one in ids} == {("req_1234abcd", 28)}


def test_time_leads_and_chance_follows():
    clock, bytes_ = itertools.count(1_800_000_000), iter([b"\x00\x00\x00", b"\xff\xff\xff"])
    ids = CallIds("req_", lambda: next(clock), lambda size: next(bytes_)[:size])
    first, second = ids.new(), ids.new()
    assert int(second[4:15], 16) - int(first[4:15], 16) == TICKS
    assert (first[15:], second[15:]) == ("00000", "fffff")
