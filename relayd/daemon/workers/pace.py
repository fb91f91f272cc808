"""Pace: when a worker counts as hung or as missing, and when its place is filled again: what cannot work must not spin.

Rule: pure; `now` is an argument, in s.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import attrs

FIRST, LONGEST = 0.5, 30.0  # s before a worker that died early is replaced: from the second time on, doubling
GROWN_UP = 30.0  # s; one that lived so long was well, and its death is the first again
FRESH = 1.0  # s before a worker may be replaced for its size; the next ones twice as long each, if they grow as quickly
STARTING = 10.0  # s in which a worker starts, and nobody need be told that it does not serve yet
STILL = 5.0  # s between two looks, of which one comes every second, after which whoever looks has stood still itself
LASTING = 600.0  # s; one that took so long to grow did so by its work


@attrs.define(eq=False)
class Restarts:
    """Deaths, by place."""

    _early: dict[int, int] = attrs.field(factory=dict)  # how many in a row
    _due: dict[int, float] = attrs.field(factory=dict)

    def due(self, number: int, now: float) -> bool:
        """Whether a place may be filled now."""
        return now >= self._due.get(number, now)

    def repeated(self, number: int) -> bool:
        """Whether its workers have died time and again."""
        return self._early.get(number, 0) > 1

    def told(self, number: int) -> str:
        """How often its workers have died lately, in words to append."""
        return f": it has died {self._early[number]} times in a row" if self.repeated(number) else ""

    def died(self, number: int, lived: float, now: float) -> float:
        """A worker has died. Returns how long its place stays empty, s."""
        early = 0 if lived >= GROWN_UP else self._early.get(number, 0)
        self._early[number] = early + 1
        pause = min(LONGEST, FIRST * 2 ** (early - 1)) if early else 0.0
        self._due[number] = now + pause
        return pause


@attrs.define(eq=False)
class Renewals:
    """Replacements for size, by place."""

    _patience: dict[int, float] = attrs.field(factory=dict)

    def due(self, number: int, lived: float) -> bool:
        """Whether a worker that is too large is replaced; if so, its successor has to have lived longer."""
        patience = self._patience.get(number, FRESH)
        if lived < patience:
            return False
        self._patience[number] = FRESH if lived >= LASTING else min(LASTING, patience * 2)
        return True


@attrs.define(eq=False)
class Vacancies:
    """Places at which nobody serves."""

    _since: dict[int, float] = attrs.field(factory=dict)

    def see(self, vacant: Collection[int], now: float) -> None:
        """These are all that there are now."""
        self._since = {number: self._since.get(number, now) for number in vacant}

    def lasts(self, number: int, now: float) -> bool:
        """Whether a place has been vacant for longer than a start takes."""
        return now - self._since.get(number, now) >= STARTING


@attrs.define(eq=False)
class Silence:
    """How long is too long for a worker to say nothing.

    While this process does not look (it was stopped, or its machine or container was), it hears nothing either, and
    they may have been stopped along with it.

    Args:
        most: s.
    """

    most: float
    _looked: float = math.inf

    def stood_still(self, now: float) -> float:
        """A look at everybody begins. Returns: s since the last one that count against nobody."""
        gap, self._looked = now - self._looked, now
        return gap if gap > STILL else 0.0

    def hangs(self, heard: float, now: float) -> bool:
        """Whether one that was heard last then does nothing any more."""
        return now - heard > self.most

    def lasts(self, heard: float, now: float) -> bool:
        """Whether whoever looks is told that it says nothing: after a third of that time."""
        return now - heard > self.most / 3
