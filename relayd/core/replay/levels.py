"""Levels: what is used of the limits of a config while past calls are played, in memory.

Rule: no clock; moments are Unix ms and never go back. The same windows as in the stores: a rolling one is kept in
sixty buckets and forgets a bucket with the last of its events; a calendar one begins anew; slots are held to the end of
the call.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

import attrs

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term

BUCKETS = 60  # of a rolling window, as in the stores


@attrs.define(eq=False)
class Bucket:
    """Some events of a window that are forgotten together. `last`: Unix ms of the last of them."""

    number: int
    last: int
    amount: int = 0


@attrs.define(eq=False)
class RollingLevel:
    """What was used within the last `window` ms."""

    window: int
    used: int = 0
    _buckets: deque[Bucket] = attrs.field(factory=deque, init=False)

    def has_room(self, now: int, amount: int, limit: int) -> bool:
        buckets, oldest = self._buckets, now - self.window
        while buckets and buckets[0].last <= oldest:
            self.used -= buckets.popleft().amount
        return self.used + amount <= limit

    def take(self, now: int, amount: int) -> None:
        number = now // max(1, -(-self.window // BUCKETS))
        if not self._buckets or self._buckets[-1].number != number:
            self._buckets.append(Bucket(number, now))
        bucket = self._buckets[-1]
        bucket.last = now
        bucket.amount += amount
        self.used += amount


@attrs.define(eq=False)
class CalendarLevel:
    """What was used since a day, week or month began."""

    start: int = -1
    end: int = -1
    used: int = 0

    def begin(self, term: Calendar) -> None:
        """The period that a term is about; another one than before begins empty."""
        if term.start != self.start:
            self.start, self.end, self.used = term.start, term.end, 0

    def has_room(self, _now: int, amount: int, limit: int) -> bool:
        return self.used + amount <= limit

    def take(self, _now: int, amount: int) -> None:
        self.used += amount


@attrs.define(eq=False)
class SlotLevel:
    """Calls in flight, by when they end."""

    _ends: list[int] = attrs.field(factory=list, init=False)

    def has_room(self, now: int, limit: int, wait: int) -> bool:
        """Whether there is a slot, at the latest after `wait` ms."""
        ends = self._ends
        while ends and ends[0] <= now:
            heappop(ends)
        return len(ends) < limit or (len(ends) == limit and ends[0] <= now + wait)

    def take(self, end: int) -> None:
        heappush(self._ends, end)


Level = RollingLevel | CalendarLevel | SlotLevel


def level_of(term: Term, known: dict[str, Level]) -> Level:
    """The level of a term, by the name of its counter."""
    level = known.get(term.counter)
    if level is None:
        match term:
            case Rolling():
                level = RollingLevel(term.window)
            case Calendar():
                level = CalendarLevel()
            case Slots():
                level = SlotLevel()
        known[term.counter] = level
    if isinstance(term, Calendar) and isinstance(level, CalendarLevel):
        level.begin(term)
    return level
