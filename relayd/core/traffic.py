"""Traffic: what calls came to over the last hour, day, week and month, on this node since its start.

Rule: sync and bounded: four rings of intervals, fed with receipts. The books know every call of all nodes, by the day;
this is for the shape of the last hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from relayd.core.receipt import Receipt

Span = Literal["hour", "day", "week", "month"]

# Length of an interval, s, and how many make the span.
INTERVALS: dict[Span, tuple[int, int]] = {
    "hour": (60, 60),
    "day": (900, 96),
    "week": (7200, 84),
    "month": (28_800, 93),
}


@attrs.define(kw_only=True)
class Interval:
    """The calls that ended within one interval.

    Args:
        start: Unix time, s.
        errors: calls that ended with an error of the upstream, cut, or by a fault of ours.
        refused: by relayd.
        cost: micro-USD, of calls that have a price.
        seconds, first_byte: sums over calls; `begun` of them sent a first byte.
    """

    start: int
    calls: int = 0
    errors: int = 0
    refused: int = 0
    tokens: int = 0
    cost: int = 0
    seconds: float = 0.0
    first_byte: float = 0.0
    begun: int = 0

    def add(self, receipt: Receipt) -> None:
        """Count one call."""
        self.calls += 1
        self.errors += receipt.outcome in ("upstream", "cut", "failed")
        self.refused += receipt.outcome == "refused"
        self.tokens += receipt.usage.total
        self.cost += receipt.cost or 0
        self.seconds += receipt.seconds
        if receipt.first_byte is not None:
            self.first_byte += receipt.first_byte
            self.begun += 1

    @property
    def latency(self) -> float | None:
        """Mean duration of a call, s."""
        return self.seconds / self.calls if self.calls else None

    @property
    def first_byte_latency(self) -> float | None:
        """Mean time to the first byte, s."""
        return self.first_byte / self.begun if self.begun else None


@attrs.define(eq=False)
class Traffic:
    """Rings of intervals, the newest last."""

    _rings: dict[Span, list[Interval]] = attrs.field(factory=lambda: {span: [] for span in INTERVALS})

    def record(self, receipt: Receipt) -> None:
        """Count one call, at its end."""
        ended = receipt.started + receipt.seconds
        for span, (length, count) in INTERVALS.items():
            ring = self._rings[span]
            start = int(ended) // length * length
            while ring and ring[-1].start > start:  # the clock was set back
                ring.pop()
            if not ring or ring[-1].start != start:
                ring.append(Interval(start=start))
                del ring[:-count]
            ring[-1].add(receipt)

    def of(self, span: Span, now: float) -> Sequence[Interval]:
        """Every interval of a span up to now, the quiet ones too."""
        length, count = INTERVALS[span]
        last = int(now) // length * length
        known = {one.start: one for one in self._rings[span]}
        starts = range(last - (count - 1) * length, last + 1, length)
        return [known.get(start) or Interval(start=start) for start in starts]
