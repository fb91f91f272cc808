"""Reports: what was used and what it cost, by day, key, owner, account or model, from the books of all nodes."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from relayd.config.snapshot import Snapshot
from relayd.core.quota.limits import day_of
from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.admin.books import usage_rows
from relayd.daemon.admin.pages.charts import Series, chart
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.admin.status import StatusSources
from relayd.daemon.log import scrub
from relayd.state.report import days_between, days_up_to, grouped, report_document, span
from relayd.wire.refusal import Refusal

DIMENSIONS = ("key", "owner", "account", "model", "day", "month")
_FIELDS = {"owner": "key", "month": "day"}  # which field of a record stands for it
FIGURES = (
    Column(name="calls", kind="number"),
    Column(name="errors", kind="number"),
    Column(name="tokens", kind="number"),
    Column(name="input", kind="number"),
    Column(name="output", kind="number"),
    Column(name="cache_read", kind="number"),
    Column(name="cost", kind="money"),
    Column(name="unpriced", kind="number"),
)
LONGEST = 92  # days of one page


@attrs.define(eq=False, kw_only=True)
class ReportPage:
    """Usage and cost of some days."""

    sources: StatusSources

    def routes(self) -> tuple[PageRoute, ...]:
        return (PageRoute(method="GET", pattern=f"{ROOT}/reports", need="viewer", handler=self.show),)

    async def show(self, visit: Visit) -> Page:
        """`?from=` and `?to=` (days; the default is the last seven), `?by=`. Raises: Refusal 400, 503."""
        by = visit.query.get("by") or "key"
        if by not in DIMENSIONS:
            raise Refusal(status=400, message=f"by: expected one of {', '.join(DIMENSIONS)}", code="query")
        first, last = self._span(visit)
        rows = await usage_rows(self.sources.state, first, last)
        owners = owners_of(self.sources.live.snapshot)
        return report_page(rows, (first, last), (by,), owners)

    def _span(self, visit: Visit) -> tuple[str, str]:
        today = day_of(round(visit.now * 1000), self.sources.live.snapshot.relay.state.timezone)
        last = visit.query.get("to") or today
        try:
            week_before = days_up_to(last, 7)[0]
            first, last = span("", visit.query.get("from") or week_before, last, today)
        except (ValueError, OverflowError) as error:
            raise Refusal(status=400, message=scrub(str(error)[:200]), code="query") from None
        if len(days_between(first, last)) > LONGEST:
            raise Refusal(status=400, message=f"at most {LONGEST} days on one page", code="query")
        return first, last


def owners_of(snapshot: Snapshot) -> Mapping[str, str]:
    """Whose each key is; one without an owner is its own."""
    return {name: key.owner or name for name, key in snapshot.keys.items()}


def report_page(
    rows: Sequence[UsageRecord], days: tuple[str, str], by: tuple[str, ...], owners: Mapping[str, str]
) -> Page:
    """Usage of some days as a page.

    Args:
        days: the first and the last.
        by: some of DIMENSIONS.
    """
    every = days_between(*days)
    table = PageTable(
        name="report", columns=(*(Column(name=name) for name in by), *FIGURES), rows=_rows(rows, by, owners)
    )
    values = {
        "first": days[0],
        "last": days[1],
        "by": by[0],
        "dimensions": DIMENSIONS,
        "report": report_document(rows, *days, ("day",)),
        "charts": daily_charts(rows, every) if len(every) > 1 else (),
    }
    return Page(template="reports", title="menu.reports", values=values, tables=(table,))


def _rows(rows: Sequence[UsageRecord], by: tuple[str, ...], owners: Mapping[str, str]) -> list[dict[str, Any]]:
    if "owner" in by:
        rows = [attrs.evolve(row, key=owners.get(row.key, row.key)) for row in rows]
    if "month" in by:
        rows = [attrs.evolve(row, day=row.day[:7]) for row in rows]
    fields = {name: _FIELDS.get(name, name) for name in by}
    found = grouped(rows, tuple(fields.values()))
    return [_figures(row) | {name: getattr(row, field) for name, field in fields.items()} for row in found]


def _figures(row: UsageRecord) -> dict[str, Any]:
    named = {column.name: getattr(row, column.name) for column in FIGURES if column.name != "calls"}
    return {**named, "calls": row.requests}


def daily_charts(rows: Sequence[UsageRecord], days: Sequence[str]) -> tuple[Any, ...]:
    """Calls, tokens and cost by day."""
    by_day = {row.day: row for row in grouped(rows, ("day",))}
    starts = [datetime.datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp() for day in days]
    found = [by_day.get(day) for day in days]
    return (
        chart(
            "calls",
            "number",
            starts,
            Series(name="calls", values=[row.requests if row else 0 for row in found]),
            Series(name="errors", values=[row.errors if row else 0 for row in found]),
        ),
        chart("tokens", "number", starts, Series(name="tokens", values=[row.tokens if row else 0 for row in found])),
        chart("cost", "money", starts, Series(name="cost", values=[row.cost if row else 0 for row in found])),
    )
