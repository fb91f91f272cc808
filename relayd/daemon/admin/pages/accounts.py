"""Accounts: who serves, who rests and why, what their windows have left, and the same of one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import trio

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import Account, ObjectId
from relayd.core.quota.windows import day_of
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.admin.books import NOTHING, from_books, used_by
from relayd.daemon.admin.pages.calls import call_fields_of
from relayd.daemon.admin.pages.edit_tree import EditedTree
from relayd.daemon.admin.pages.table import Column, PageTable, plain
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.admin.status import account_rows
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.store.recent_calls import RecentCalls
from relayd.state.contract import FindCalls, KeptCall, Report, StoreUnavailable
from relayd.state.report import days_up_to
from relayd.wire.refusal import Refusal

PER_PAGE = 100  # on a page for people
ATTEMPTS_SHOWN = 30
LOOKED_AT = 300  # of the newest calls of all accounts, for those that went on to another one
RESTS = (600, 3600, 28_800, 86_400)  # s that a person can have an account rest

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
ATTEMPTS = (
    Column(name="at", kind="time"),
    Column(name="id", link="link"),
    Column(name="key", link="key_link"),
    Column(name="model"),
    Column(name="status", kind="number"),
    Column(name="reason"),
    Column(name="seconds", kind="duration"),
    Column(name="call_outcome"),
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
    keeper: OAuthKeeper
    tree: EditedTree

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
        """One account. Raises: Refusal 404, 503."""
        return await self.page(visit, visit.captured["account"])

    async def page(self, visit: Visit, name: str, **more: Any) -> Page:
        """One account: its windows, its credential, its last days, its last attempts; and what was done to it.

        Args:
            more: values for the template.
        Raises: Refusal 404, 503.
        """
        account = self.account(name)
        days = last_days(visit.now, self._zone, 14)
        asked = Report(first=days[0], last=days[-1], account=name, by=("day",))
        used = await from_books(self.sources.reader, asked, lambda rows: used_by(rows, "day"))
        (row,) = self.rows(visit.now, {name: used.get(days[-1], NOTHING)}, only=name)
        since = await trio.to_thread.run_sync(self.tree.credential_since, account)
        tables = (
            PageTable(name="windows", columns=WINDOWS, rows=row["windows"]),
            PageTable(name="history", columns=HISTORY, rows=by_day(used, days)),
            PageTable(name="attempts_here", columns=ATTEMPTS, rows=await self._attempts(name, row["since"])),
        )
        tokens = next((one for one in self.keeper.statuses() if one.account == name), None)
        credential = {
            "since": since,
            "refreshed": visit.now - tokens.age if tokens is not None and tokens.age is not None else None,
            "expires": tokens.expires_at if tokens is not None else None,
            "trouble": tokens.trouble if tokens is not None else "",
        }
        document = {table.name: table.as_json()["rows"] for table in tables} | {
            column.name: plain(row[column.name], column.kind) for column in COLUMNS
        }
        document["credential"] = {
            field: plain(value, "text" if field == "trouble" else "time") for field, value in credential.items()
        }
        values = {
            "row": row,
            "account": account,
            "credential": credential,
            "signs_in": ACCOUNT_KINDS[account.kind].refreshes,
            "sealed": ACCOUNT_KINDS[account.kind].has_credential,
            "rests": RESTS,
            "days": len(days),
            "done": "",
            "check": None,
            **more,
        }
        return Page(template="account", title=name, plain_title=True, values=values, tables=tables, document=document)

    def account(self, name: str) -> Account:
        """An account of the running config. Raises: Refusal 404."""
        found = self.sources.live.snapshot.accounts.get(ObjectId(name))
        if found is None:
            raise Refusal(status=404, message="there is no such account in the running config", code="unknown_account")
        return found

    async def _attempts(self, name: str, since: float | None) -> list[dict[str, Any]]:
        """The last attempts on an account, also of calls that another one served in the end.

        Args:
            since: when its rest began; the calls before that say why.
        """
        asked = [FindCalls(account=name, limit=ATTEMPTS_SHOWN), FindCalls(limit=LOOKED_AT)]
        if since is not None:
            asked.append(FindCalls(limit=LOOKED_AT, before=(int(since * 1000) + 1, "")))
        try:
            answers = [await self.recent.find(one) for one in asked]
        except StoreUnavailable:
            return []
        found = {call.id: call for answer in answers for call in answer.calls}
        return await self.sources.reader.beside.run(attempts_on, name, tuple(found.values()))

    @property
    def _zone(self) -> str:
        return self.sources.live.snapshot.relay.state.timezone

    async def _today(self, now: float) -> dict[str, Mapping[str, int]]:
        day = day_of(round(now * 1000), self._zone)
        asked = Report(first=day, last=day, by=("account",))
        return await from_books(self.sources.reader, asked, lambda rows: used_by(rows, "account"))

    def rows(self, now: float, used: Mapping[str, Mapping[str, int]], only: str = "") -> list[dict[str, Any]]:
        """A row for each account, or for one; calls, errors and cost are those of `used`."""
        snapshot, pool = self.sources.live.snapshot, self.sources.pool
        rests = pool.rests(snapshot, now)
        rows = []
        for known in account_rows(self.sources, now):
            name = known["id"]
            if only not in ("", name):
                continue
            account, block, windows = snapshot.accounts[name], rests.get(name), self._windows(snapshot.accounts[name])
            rows.append(
                {
                    "account": name,
                    "link": f"{ROOT}/accounts/{name}",
                    "name": account.name,
                    "kind": account.kind,
                    "groups": ", ".join(account.groups),
                    "state": _state(known, resting=block is not None),
                    "reason": known["reason"],
                    "since": pool.rested_since(name, now),
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
        return [
            {"window": gauge.window, "model": model, "window_left": gauge.left, "resets": gauge.resets}
            for model, gauge in self.sources.pool.windows(account.id)
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


def by_day(used: Mapping[str, Mapping[str, int]], days: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each day from the first one with a call on; the newest first."""
    since = min(used, default="~")
    return [{"day": day, **used.get(day, NOTHING)} for day in reversed(days) if day >= since]


def attempts_on(account: str, calls: Sequence[KeptCall]) -> list[dict[str, Any]]:
    """The attempts of some calls on one account, the newest first."""
    found = []
    for call in sorted(calls, key=lambda one: -one.at):
        row = {"at": call.at / 1000, "id": call.id, "link": f"{ROOT}/calls/{call.id}", "key": call.key}
        row |= {"key_link": f"{ROOT}/keys/{call.key}" if call.key else "", "model": call.model}
        found += [
            {**row, "status": one["status"], "reason": one["reason"], "seconds": one["ms"] / 1000}
            | {"call_outcome": call.outcome}
            for one in call_fields_of(call).get("attempts", [])
            if one["account"] == account
        ]
    return found[:ATTEMPTS_SHOWN]
