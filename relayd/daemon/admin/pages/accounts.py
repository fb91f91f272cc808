"""Accounts: who serves, who rests and why, what their windows have left, and the same of one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from relayd.config.snapshot import Account, ObjectId
from relayd.core.quota.limits import day_of
from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.admin.books import NOTHING, usage_rows, used_by
from relayd.daemon.admin.pages.calls import COLUMNS as CALL_COLUMNS
from relayd.daemon.admin.pages.calls import row_of
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.admin.status import StatusSources, account_rows
from relayd.daemon.store.recent_calls import RecentCalls
from relayd.state.contract import FindCalls, StoreUnavailable
from relayd.state.report import days_up_to
from relayd.wire.refusal import Refusal

PER_PAGE = 100  # on a page for people
CALLS_SHOWN = 20

COLUMNS = (
    Column(name="account", link="link"),
    Column(name="name"),
    Column(name="kind"),
    Column(name="groups"),
    Column(name="state"),
    Column(name="reason"),
    Column(name="since", kind="time"),
    Column(name="until", kind="time"),
    Column(name="in_flight", kind="number"),
    Column(name="room", kind="number"),
    Column(name="window_left", kind="left"),
    Column(name="unused", kind="left"),
    Column(name="last_used", kind="time"),
    Column(name="calls", kind="number"),
    Column(name="errors", kind="number"),
    Column(name="cost", kind="money"),
)
WINDOWS = (
    Column(name="window"),
    Column(name="model"),
    Column(name="window_left", kind="left"),
    Column(name="resets", kind="time"),
)
HISTORY = (
    Column(name="day"),
    Column(name="calls", kind="number"),
    Column(name="errors", kind="number"),
    Column(name="tokens", kind="number"),
    Column(name="cost", kind="money"),
)


@attrs.define(eq=False, kw_only=True)
class AccountPages:
    """The accounts of the running config, as this node knows them."""

    sources: StatusSources
    recent: RecentCalls

    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute(method="GET", pattern=f"{ROOT}/accounts", need="viewer", handler=self.show_all),
            PageRoute(method="GET", pattern=f"{ROOT}/accounts/{{account}}", need="viewer", handler=self.show_one),
        )

    async def show_all(self, visit: Visit) -> Page:
        """Every account in one table; `?state=` and `?q=` filter it. Raises: Refusal 503."""
        rows = self.rows(visit.now, await self._today(visit.now))
        state, words = visit.query.get("state", ""), visit.query.get("q", "").lower()
        shown = [row for row in rows if (not state or row["state"] == state) and (not words or _has(row, words))]
        table = PageTable(name="accounts", columns=COLUMNS, rows=shown)
        if visit.as_form == "html":  # programs get all of them at once
            table = _part(table, visit)
        counts = Counter(row["state"] for row in rows)
        values = {"counts": dict(sorted(counts.items())), "state": state, "q": visit.query.get("q", "")}
        return Page(template="accounts", title="menu.accounts", values=values, tables=(table,))

    async def show_one(self, visit: Visit) -> Page:
        """One account: its windows, its last days, its last calls. Raises: Refusal 404, 503."""
        name = visit.captured["account"]
        account = self.sources.live.snapshot.accounts.get(ObjectId(name))
        if account is None:
            raise Refusal(status=404, message="there is no such account in the running config", code="unknown_account")
        days = last_days(visit.now, self._zone, 14)
        rows = [row for row in await usage_rows(self.sources.state, days[0], days[-1]) if row.account == name]
        (row,) = self.rows(visit.now, rows, only=name)
        try:
            calls = (await self.recent.find(FindCalls(account=name, limit=CALLS_SHOWN))).calls
        except StoreUnavailable:
            calls = ()
        tables = (
            PageTable(name="windows", columns=WINDOWS, rows=row["windows"]),
            PageTable(name="history", columns=HISTORY, rows=by_day(rows, days)),
            PageTable(name="calls", columns=CALL_COLUMNS, rows=[row_of(call) for call in calls]),
        )
        document = {table.name: table.as_json()["rows"] for table in tables} | {
            column.name: row[column.name] for column in COLUMNS
        }
        values = {"row": row, "account": account}
        return Page(template="account", title=name, plain_title=True, values=values, tables=tables, document=document)

    @property
    def _zone(self) -> str:
        return self.sources.live.snapshot.relay.state.timezone

    async def _today(self, now: float) -> list[UsageRecord]:
        day = day_of(round(now * 1000), self._zone)
        return await usage_rows(self.sources.state, day, day)

    def rows(self, now: float, books: Iterable[UsageRecord], only: str = "") -> list[dict[str, Any]]:
        """A row for each account, or for one; calls, errors and cost are those of `books`."""
        snapshot, pool = self.sources.live.snapshot, self.sources.pool
        used = used_by(books, "account")
        rests = pool.rests(snapshot, now)
        rows = []
        for known in account_rows(self.sources, now):
            name = known["id"]
            if only not in ("", name):
                continue
            account, block, windows = snapshot.accounts[name], rests.get(name), self._windows(snapshot.accounts[name])
            gate = pool.snapshot_health(name)["account"]["gate"]
            rows.append(
                {
                    "account": name,
                    "link": f"{ROOT}/accounts/{name}",
                    "name": account.name,
                    "kind": account.kind,
                    "groups": ", ".join(account.groups),
                    "state": _state(known, resting=block is not None),
                    "reason": known["reason"],
                    "since": gate.get("changed") if gate and gate["until"] > now else None,
                    "until": block.until if block is not None and block.until < now + 1e8 else None,
                    "in_flight": known["in_flight"],
                    "room": account.max_concurrency or None,
                    "window_left": min((window["window_left"] for window in windows), default=None),
                    "unused": _going_unused(windows, now),
                    "windows": windows,
                    "last_used": pool.last_used(name) or None,
                    **used.get(name, NOTHING),
                }
            )
        return rows

    def _windows(self, account: Account) -> list[dict[str, Any]]:
        """What the upstream said is left of each of its windows."""
        health = self.sources.pool.snapshot_health(account.id)
        parts = [("", health["account"]), *health["models"].items()]
        return [
            {"window": window, "model": model, "window_left": left, "resets": resets}
            for model, part in parts
            for window, left, resets, _ in part["gauges"]
        ]


def _part(table: PageTable, visit: Visit) -> PageTable:
    """The rows after those that have been shown, as many as a page has room for."""
    left = [row for row in table.rows if row["account"] > visit.query.get("after", "")]
    more = visit.url(after=left[PER_PAGE - 1]["account"]) if len(left) > PER_PAGE else ""
    return attrs.evolve(table, rows=left[:PER_PAGE], after=more)


def _state(known: dict[str, Any], *, resting: bool) -> str:
    if not known["enabled"]:
        return "disabled"
    if known["defect"]:
        return "defect"
    if known["serves"]:
        return "serves"
    return "resting" if resting else "idle"


def _going_unused(windows: Sequence[dict[str, Any]], now: float) -> float | None:
    """The share of the longest window that will be left when it resets within a day: it is lost then."""
    ending = [window for window in windows if window["window"] == "7d" and window["resets"] - now < 86_400]
    return max((window["window_left"] for window in ending), default=None)


def _has(row: dict[str, Any], words: str) -> bool:
    return any(words in str(row[name]).lower() for name in ("account", "name", "kind", "groups", "reason"))


def last_days(now: float, zone: str, count: int) -> list[str]:
    """The last days up to today, YYYY-MM-DD in a time zone."""
    return days_up_to(day_of(round(now * 1000), zone), count)


def by_day(records: Sequence[UsageRecord], days: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each day, also for those without a call; the newest first."""
    used = used_by(records, "day")
    return [{"day": day, **used.get(day, NOTHING)} for day in reversed(days)]
