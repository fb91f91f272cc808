"""Comparison: past calls under a config against how they went, or against another config, added up by key and model.

Rule: pure. A call is counted once, under the first of these that is true of it: refused, served again, moved; and
beside that, whether it would cost otherwise.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable

import attrs

from relayd.config.snapshot import Snapshot
from relayd.core.replay.past_call import PastCall
from relayd.core.replay.play import Played, Player
from relayd.noun import noun


@attrs.define(eq=False, kw_only=True)
class Tally:
    """Calls of one key and model.

    Args:
        refused: would get a no, and were served; by reason in `reasons`.
        served: would be served, and got a no.
        moved: would go to another account; `ways` has from where to where.
        repriced: would cost otherwise, `cost_before` and `cost_after` together (micro-USD).
    """

    key: str
    model: str
    calls: int = 0
    refused: int = 0
    served: int = 0
    moved: int = 0
    repriced: int = 0
    cost_before: int = 0
    cost_after: int = 0
    reasons: Counter[str] = attrs.field(factory=Counter)
    ways: Counter[str] = attrs.field(factory=Counter)

    @property
    def differs(self) -> bool:
        """Whether anything would be otherwise."""
        return bool(self.refused or self.served or self.moved or self.repriced)

    def count(self, call: PastCall, before: Played, after: Played, *, based: bool) -> None:
        """One call.

        Args:
            based: `before` is what another config says, not how it went.
        """
        self.calls += 1
        if after.refused or before.refused:
            if not before.refused:
                self.refused += 1
                self.reasons[after.refused] += 1
            elif not after.refused:
                self.served += 1
            return
        if way := _way(call, before, after, based=based):
            self.moved += 1
            self.ways[way] += 1
        was, will = before.cost or 0, after.cost or 0  # what has no price costs nothing, as far as is known
        if was != will:
            self.repriced += 1
            self.cost_before += was
            self.cost_after += will


def _way(call: PastCall, before: Played, after: Played, *, based: bool) -> str:
    """From which account to which; "" for a call that stays. Without another config it is not known whether an account
    that still may serve was the first choice, so only one that may not is left."""
    was = call.account
    if not was or not after.able:
        return ""
    leaves = was not in after.able and was in before.able
    overtaken = based and was in before.first and was not in after.first
    return f"{was} -> {', '.join(after.first)}" if leaves or overtaken else ""


@noun(kw_only=True)
class Replay:
    """What a replay came to.

    Args:
        calls: that were read; `judged` of them could be, and `keyless` had no key.
        first, last: when the first and the last of them began; None without any.
        rows: by key and model.
        damaged: lines that could not be read.
        even: they were made of the books' sums (past_call.py).
    """

    calls: int = 0
    judged: int = 0
    keyless: int = 0
    first: datetime.datetime | None = None
    last: datetime.datetime | None = None
    rows: tuple[Tally, ...] = ()
    damaged: int = 0
    even: bool = False

    def total(self, name: str) -> int:
        """A figure of all rows together."""
        return sum(getattr(row, name) for row in self.rows)


def replay(calls: Iterable[PastCall], candidate: Snapshot, base: Snapshot | None = None) -> Replay:
    """Play calls, in order of their beginning, under a config.

    Args:
        base: the config to compare with; None = with how the calls went.
    """
    after = Player(candidate)
    before = Player(base) if base is not None else None
    tallies: dict[tuple[str, str], Tally] = {}
    number = judged = keyless = 0
    first = last = None
    even = False
    for call in calls:
        number += 1
        first, last = first or call.time, call.time
        even = even or call.even
        if not call.is_judged:
            keyless += not call.key
            continue
        judged += 1
        place = call.key, call.model
        tally = tallies.get(place)
        if tally is None:
            tally = tallies[place] = Tally(key=call.key, model=call.model)
        was = _went(call) if before is None else before.play(call)
        tally.count(call, was, after.play(call), based=before is not None)
    rows = sorted(tallies.values(), key=lambda row: (-row.refused, -row.moved, -row.repriced, row.key, row.model))
    return Replay(calls=number, judged=judged, keyless=keyless, first=first, last=last, rows=tuple(rows), even=even)


def _went(call: PastCall) -> Played:
    """How it went."""
    if call.refused:
        return Played(refused=call.reason or "refused")
    return Played(able=(call.account,), first=(call.account,), cost=call.cost)
