"""Durations: how long things took, as counts by bucket, for histograms.

Rule: sync, clock-free, bounded: one list of counts, whatever comes.
"""

from __future__ import annotations

from bisect import bisect_left

import attrs


@attrs.define(eq=False)
class Durations:
    """Counts by duration, s: `counts[n]` lie at or below `bounds[n]` and above the bound before; the last above all.

    Two threads that add at once may lose one of the two; no sum of money hangs on it.
    """

    bounds: tuple[float, ...]
    counts: list[int] = attrs.field(init=False)
    total: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds
