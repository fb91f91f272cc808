"""Overview: what runs now, what ails the relay, and what all nodes did in the last hours, days and weeks.

Rule: each figure says where it is from. Hours and times are what nodes tell each other; whole days are from the books.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import attrs

from relayd.core.traffic import Interval, Span, added_up
from relayd.daemon.admin.books import NOTHING, from_books, used_by
from relayd.daemon.admin.pages.accounts import HISTORY, last_days
from relayd.daemon.admin.pages.charts import Chart, Series, chart
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.admin.status import status_document
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.store.shared_traffic import SharedTraffic
from relayd.state.contract import Report
from relayd.wire.refusal import Refusal

AILMENTS = (Column(name="kind"), Column(name="subject"), Column(name="text"))
NODES = (
    Column(name="node"),
    Column(name="version"),
    Column(name="revision"),
    Column(name="result"),
    Column(name="heard", kind="moment"),
)
WORKERS = (
    Column(name="worker", kind="number"),
    Column(name="pid"),
    Column(name="stage"),
    Column(name="calls", kind="number"),
    Column(name="connections", kind="number"),
    Column(name="memory", kind="number"),
    Column(name="revision"),
)
TIMES = (Column(name="latency", kind="duration"), Column(name="first_byte_latency", kind="duration"))
TRAFFIC = (
    Column(name="at", kind="time"),
    Column(name="calls", kind="number"),
    Column(name="errors", kind="number"),
    Column(name="refused", kind="number"),
    Column(name="tokens", kind="number"),
    Column(name="cost", kind="money"),
    *TIMES,
)
SPANS: tuple[Span, ...] = get_args(Span)
FROM_BOOKS: Mapping[Span, int] = {"week": 7, "month": 31}  # days


@attrs.define(eq=False, kw_only=True)
class Overview:
    """The first page."""

    sources: StatusSources
    traffic: SharedTraffic

    def routes(self) -> tuple[PageRoute, ...]:
        return (PageRoute(method="GET", pattern=ROOT, need="viewer", handler=self.show),)

    async def show(self, visit: Visit) -> Page:
        """Also as the document that `relayd status --json` prints; as CSV the traffic of `?span=`."""
        await self.sources.look_now()
        span = next((one for one in SPANS if one == visit.query.get("span")), SPANS[0])
        intervals = added_up(await self.traffic.all(), span, visit.now)
        booked = await self._booked(FROM_BOOKS[span], visit.now) if span in FROM_BOOKS else None
        rows = booked or [_row(one) for one in intervals]
        status = status_document(self.sources, visit.now)
        workers = [{**one, "pid": str(one["pid"]), "memory": one["memory_bytes"] >> 20} for one in status["workers"]]
        tables = (
            PageTable(name="traffic", columns=HISTORY if booked else TRAFFIC, rows=rows),
            PageTable(name="ailments", columns=AILMENTS, rows=status["ailment_details"]),
            PageTable(name="nodes", columns=NODES, rows=status["nodes"]),
            PageTable(name="workers", columns=WORKERS, rows=workers),
        )
        values = {
            "status": status,
            "span": span,
            "spans": SPANS,
            "charts": (*_charts(rows, refused=not booked), time_chart(intervals)),
            "totals": {name: sum(row[name] for row in rows) for name in NOTHING},
            "busy": any(row["calls"] for row in rows),
            "booked": bool(booked),
            "alone": not self.traffic.complete,
        }
        return Page(template="overview", title="overview.title", values=values, tables=tables, document=status)

    async def _booked(self, count: int, now: float) -> list[dict[str, Any]] | None:
        """The last days from the books of all nodes; None while the store is away."""
        days = last_days(now, self.sources.live.snapshot.relay.state.timezone, count)
        asked = Report(first=days[0], last=days[-1], by=("day",))
        try:
            used = await from_books(self.sources.reader, asked, lambda rows: used_by(rows, "day"))
        except Refusal:
            return None
        return [{"day": day, "at": noon_of(day), **used.get(day, NOTHING)} for day in days]


def _row(one: Interval) -> dict[str, Any]:
    return {column.name: getattr(one, column.name) for column in TRAFFIC if column.name != "at"} | {"at": one.start}


def _charts(rows: Sequence[Mapping[str, Any]], *, refused: bool) -> tuple[Chart, ...]:
    """Calls, tokens and cost."""
    starts = [float(row["at"]) for row in rows]

    def line(name: str) -> Series:
        return Series(name=name, values=[row[name] for row in rows])

    calls = (line("calls"), line("errors"), *((line("refused"),) if refused else ()))
    return (
        chart("calls", "number", starts, *calls),
        chart("tokens", "number", starts, line("tokens")),
        chart("cost", "money", starts, line("cost")),
    )


def time_chart(intervals: Sequence[Interval]) -> Chart:
    """How long calls took."""
    starts = [float(one.start) for one in intervals]
    lines = [Series(name=time.name, values=[getattr(one, time.name) for one in intervals]) for time in TIMES]
    return chart("time", "duration", starts, *lines)


def noon_of(day: str) -> float:
    """Where a day stands on an axis: its noon, UTC, which is the same day nearly everywhere. Unix time, s."""
    return datetime.datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp()
