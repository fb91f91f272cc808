"""Figures: what the metrics of several processes come to.

Rule: pure. What a worker counted does not go away with it: of one that is gone its counters stay, its gauges do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import add

import attrs

from relayd.daemon.net.server import ServerStatistics
from relayd.daemon.workers.messages import CountedFigures, WorkerReport


def summed(figures: Iterable[CountedFigures]) -> list[CountedFigures]:
    """One of each name: samples added up by their labels, buckets one by one."""
    found: dict[str, CountedFigures] = {}
    for one in figures:
        before = found.get(one.name)
        found[one.name] = one if before is None else _together(before, one)
    return list(found.values())


def _together(one: CountedFigures, other: CountedFigures) -> CountedFigures:
    values = dict(one.samples)
    for labels, value in other.samples:
        values[labels] = values.get(labels, 0.0) + value
    counts = tuple(map(add, one.counts, other.counts)) if one.counts else other.counts
    return CountedFigures(name=one.name, samples=tuple(values.items()), counts=counts)


LASTING = "_total"  # what the names of counters end with


@attrs.define(eq=False)
class PastWorkers:
    """What is left of workers that have ended.

    Args:
        replaced: how many, by "died", "memory" and "asked" (somebody else has told it to end).
        connections: that they had accepted and turned away.
    """

    replaced: Counter[str] = attrs.field(factory=Counter, init=False)
    connections: ServerStatistics = attrs.field(default=ServerStatistics(), init=False)
    figures: tuple[CountedFigures, ...] = attrs.field(default=(), init=False)

    def add(self, last: WorkerReport) -> None:
        """A worker is gone; its last report."""
        self.connections += attrs.evolve(last.connections, open=0)
        self.figures = tuple(
            summed([*self.figures, *(one for one in last.figures if one.name.endswith(LASTING) or one.counts)])
        )
