"""Overview: what this node does now, what it did in the last hours, and what ails it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import attrs

from relayd.core.traffic import Interval, Span, Traffic
from relayd.daemon.admin.pages.charts import Chart, Series, chart
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.admin.status import StatusSources, status_document

AILMENTS = (Column(name="kind"), Column(name="subject"), Column(name="text"))
NODES = (
    Column(name="node"),
    Column(name="version"),
    Column(name="revision"),
    Column(name="result"),
    Column(name="heard", kind="moment"),
)
TRAFFIC = (
    Column(name="at", kind="time"),
    Column(name="calls", kind="number"),
    Column(name="errors", kind="number"),
    Column(name="refused", kind="number"),
    Column(name="tokens", kind="number"),
    Column(name="cost", kind="money"),
    Column(name="latency", kind="duration"),
    Column(name="first_byte_latency", kind="duration"),
)
SPANS: tuple[Span, ...] = get_args(Span)


@attrs.define(eq=False, kw_only=True)
class Overview:
    """The first page."""

    sources: StatusSources
    traffic: Traffic

    def routes(self) -> tuple[PageRoute, ...]:
        return (PageRoute(method="GET", pattern=ROOT, need="viewer", handler=self.show),)

    async def show(self, visit: Visit) -> Page:
        """Also as the document that `relayd status --json` prints; as CSV the traffic of `?span=`."""
        status = status_document(self.sources, visit.now)
        span = next((one for one in SPANS if one == visit.query.get("span")), SPANS[0])
        intervals = self.traffic.of(span, visit.now)
        rows = [{name: getattr(one, name) for name in _FIGURES} | {"at": one.start} for one in intervals]
        tables = (
            PageTable(name="traffic", columns=TRAFFIC, rows=rows),
            PageTable(name="ailments", columns=AILMENTS, rows=status["ailment_details"]),
            PageTable(name="nodes", columns=NODES, rows=status["nodes"]),
        )
        values = {
            "status": status,
            "span": span,
            "spans": SPANS,
            "charts": traffic_charts(intervals),
            "started": self.sources.started,
            "busy": any(one.calls for one in intervals),
        }
        return Page(template="overview", title="overview.title", values=values, tables=tables, document=status)


_FIGURES = tuple(column.name for column in TRAFFIC if column.name != "at")


def traffic_charts(intervals: Sequence[Interval]) -> tuple[Chart, ...]:
    """Calls, tokens, cost and how long they took."""
    starts = [float(one.start) for one in intervals]

    def line(name: str) -> Series:
        return Series(name=name, values=[getattr(one, name) for one in intervals])

    return (
        chart("calls", "number", starts, line("calls"), line("errors"), line("refused")),
        chart("tokens", "number", starts, line("tokens")),
        chart("cost", "money", starts, line("cost")),
        chart("time", "duration", starts, line("latency"), line("first_byte_latency")),
    )
