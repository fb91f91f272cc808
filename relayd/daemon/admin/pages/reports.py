"""Reports: what was used and what it cost, by day, key, owner, account or model, from the books of all nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import add, attrgetter
from typing import Any

import attrs

from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import day_of
from relayd.core.traffic import Traffic
from relayd.daemon.admin.books import NOTHING, from_books, used_by
from relayd.daemon.admin.pages.charts import Series, chart
from relayd.daemon.admin.pages.overview import noon_of
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit, part_of, start_of
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.log import scrub
from relayd.daemon.store.shared_traffic import SharedTraffic
from relayd.state.contract import Report
from relayd.state.report import MADE_OF, days_between, days_up_to, grouped, name_in, owners_of, span
from relayd.wire.refusal import Refusal

DIMENSIONS = ("key", "owner", "account", "model", "client", "day", "month")
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
_FIGURES_OF = attrgetter(*("requests" if column.name == "calls" else column.name for column in FIGURES))
CLIENT_FIGURES = ("calls", "errors", "tokens", "cost")  # what nodes tell each other of clients
LONGEST = 92  # days of one page
PER_PAGE = 100  # rows, for people


@attrs.define(eq=False, kw_only=True)
class ReportPage:
    """Usage and cost of some days."""

    sources: StatusSources
    traffic: SharedTraffic

    def routes(self) -> tuple[PageRoute, ...]:
        return (PageRoute(method="GET", pattern=f"{ROOT}/reports", need="viewer", handler=self.show),)

    async def show(self, visit: Visit) -> Page:
        """`?from=` and `?to=` (days; the default is the last seven), `?by=`. Raises: Refusal 400, 503."""
        by = visit.query.get("by") or "key"
        if by not in DIMENSIONS:
            raise Refusal(status=400, message=f"by: expected one of {', '.join(DIMENSIONS)}", code="query")
        first, last = self._span(visit)
        reader, every = self.sources.reader, days_between(first, last)
        days = await from_books(reader, Report(first=first, last=last, by=("day",)), tuple)
        models: Sequence[UsageRecord] = ()
        if any(row.unpriced for row in days):
            models = await from_books(reader, Report(first=first, last=last, by=("model",)), tuple)
        start = start_of(visit)
        people = visit.as_form == "html"
        if by == "client":
            rows = client_rows(await self.traffic.all(), every)
        else:
            # One dimension of the books is put in order by the store; what is made of two of them needs all.
            most = start + PER_PAGE + 1 if people and by not in MADE_OF else 0
            make = partial(_rows, by=(by,), owners=owners_of(self.sources.live.snapshot) if by == "owner" else {})
            asked = Report(first=first, last=last, by=(MADE_OF.get(by, by),), most=most)
            rows = await from_books(reader, asked, make)
        figures = [column for column in FIGURES if by != "client" or column.name in CLIENT_FIGURES]
        table = PageTable(name="report", columns=(Column(name=by), *figures), rows=rows)
        return _page(part_of(table, visit, PER_PAGE), (first, last), by, days, models)

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


def report_page(
    rows: Sequence[UsageRecord], span_of: tuple[str, str], by: tuple[str, ...], owners: Mapping[str, str]
) -> Page:
    """Usage of some days as a page.

    Args:
        span_of: the first and the last day.
        by: some of DIMENSIONS but "client".
    """
    table = PageTable(
        name="report", columns=(*(Column(name=name) for name in by), *FIGURES), rows=_rows(rows, by, owners)
    )
    return _page(table, span_of, by[0], grouped(rows, ("day",)), grouped(rows, ("model",)))


def _page(
    table: PageTable, span_of: tuple[str, str], by: str, days: Sequence[UsageRecord], models: Sequence[UsageRecord]
) -> Page:
    every = days_between(*span_of)
    values = {
        "first": span_of[0],
        "last": span_of[1],
        "by": by,
        "dimensions": DIMENSIONS,
        "totals": next(iter(used_by([attrs.evolve(row, day="") for row in days], "day").values()), NOTHING),
        "unpriced_models": sorted(row.model for row in models if row.unpriced),
        "charts": daily_charts(days, every) if len(every) > 1 else (),
    }
    return Page(template="reports", title="menu.reports", values=values, tables=(table,))


def client_rows(parts: Sequence[Traffic], days: Sequence[str]) -> list[dict[str, Any]]:
    """What each client did on some days, the dearest first."""
    sums: dict[str, list[int]] = {}
    for part in parts:
        for day in part.clients.keys() & set(days):
            for name, row in part.clients[day].items():
                sums[name] = [one + more for one, more in zip(sums.get(name, (0, 0, 0, 0)), row, strict=True)]
    rows = [{"client": name, **dict(zip(CLIENT_FIGURES, row, strict=True))} for name, row in sums.items()]
    return sorted(rows, key=lambda row: (-row["cost"], -row["calls"], row["client"]))


def _rows(rows: Sequence[UsageRecord], by: tuple[str, ...], owners: Mapping[str, str]) -> list[dict[str, Any]]:
    """Added up, days and months in their order, all else the dearest first."""
    sums: dict[tuple[str, ...], tuple[int, ...]] = {}
    for row in rows:
        names, figures = tuple(name_in(row, one, owners) for one in by), _FIGURES_OF(row)
        known = sums.get(names)
        sums[names] = figures if known is None else tuple(map(add, known, figures))
    columns = [column.name for column in FIGURES]
    found = [dict(zip((*by, *columns), (*names, *figures), strict=True)) for names, figures in sums.items()]
    times = [name for name in by if name in ("day", "month")]
    rest = [name for name in by if name not in times]
    return sorted(
        found,
        key=lambda row: ([row[name] for name in times], -row["cost"], -row["calls"], [row[name] for name in rest]),
    )


def daily_charts(rows: Sequence[UsageRecord], days: Sequence[str]) -> tuple[Any, ...]:
    """Calls, tokens and cost by day."""
    by_day = {row.day: row for row in grouped(rows, ("day",))}
    starts = [noon_of(day) for day in days]
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
