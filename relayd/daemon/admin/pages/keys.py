"""Keys: their limits as bars, what they used and who holds them; one key; and the page of a key's holder.

Rule: a holder sees its own key and nothing else. A page asks the store for the limits of the keys that it shows, not of
all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

import attrs

from relayd.config.snapshot import ApiKey, ObjectId, Snapshot
from relayd.core.access.auth import best_state
from relayd.core.live import PerConfig
from relayd.core.quota.limit_answers import usage_document
from relayd.core.quota.reservation import shown_terms
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import day_of
from relayd.daemon.admin.books import NOTHING, from_books, store_is_away, used_by
from relayd.daemon.admin.pages.accounts import HISTORY, by_day, last_days
from relayd.daemon.admin.pages.calls import COLUMNS as CALL_COLUMNS
from relayd.daemon.admin.pages.calls import row_of
from relayd.daemon.admin.pages.charts import Chart, Series, chart
from relayd.daemon.admin.pages.overview import noon_of
from relayd.daemon.admin.pages.table import Column, PageTable, plain
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.store.recent_calls import RecentCalls
from relayd.daemon.store.shared_traffic import SharedTraffic
from relayd.state.contract import FindCalls, KeptCall, Peek, Report, StoreUnavailable, TermLevels
from relayd.wire.refusal import Refusal

PER_PAGE = 50
CALLS_SHOWN = 20
DAYS_SHOWN = 31

COLUMNS = (
    Column(name="key", link="link"),
    Column(name="name"),
    Column(name="owner"),
    Column(name="state"),
    Column(name="last_used", kind="time"),
    Column(name="expires", kind="time"),
    Column(name="limit"),
    Column(name="used_share", kind="share"),
    Column(name="resets", kind="moment"),
    Column(name="calls", kind="number"),
    Column(name="errors", kind="number"),
    Column(name="tokens", kind="number"),
    Column(name="cost", kind="money"),
)
LIMITS = (
    Column(name="limit_name"),
    Column(name="unit"),
    Column(name="used"),
    Column(name="limit"),
    Column(name="used_share", kind="share"),
    Column(name="resets_at", kind="moment"),
)
MODELS = (
    Column(name="model"),
    Column(name="calls", kind="number"),
    Column(name="errors", kind="number"),
    Column(name="tokens", kind="number"),
    Column(name="cost", kind="money"),
)
CLIENTS = (Column(name="client"), Column(name="last_used", kind="time"))
DAY_MODELS = 4  # models that the chart of a key tells apart; the others are one

KeyTexts = list[tuple[str, str]]  # ids and texts


@attrs.define(eq=False, kw_only=True)
class KeyPages:
    """The API keys of the running config."""

    sources: StatusSources
    recent: RecentCalls
    traffic: SharedTraffic
    _listed: PerConfig[KeyTexts] = attrs.field(factory=lambda: PerConfig(key_texts), init=False)

    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute(method="GET", pattern=f"{ROOT}/keys", need="viewer", handler=self.show_all),
            PageRoute(method="GET", pattern=f"{ROOT}/keys/{{key}}", need="viewer", handler=self.show_one),
            PageRoute(method="GET", pattern=f"{ROOT}/my-key", need="key", handler=self.show_own),
        )

    async def show_all(self, visit: Visit) -> Page:
        """Keys by id, some at a time; `?q=` filters by id, name and owner, `?after=` goes on. Raises: Refusal 503."""
        words, after = visit.query.get("q", "").lower(), visit.query.get("after", "")
        snapshot, beside = self.sources.live.snapshot, self.sources.reader.beside
        found = await beside.run(self._found, snapshot, words, after)
        shown = [snapshot.keys[ObjectId(name)] for name in found[:PER_PAGE]]
        limits = await self._limits(shown, visit.now)
        await self.traffic.all()
        day = day_of(round(visit.now * 1000), snapshot.relay.state.timezone)
        asked = Report(first=day, last=day, keys=tuple(key.id for key in shown), by=("key",))
        today = await from_books(self.sources.reader, asked, lambda rows: used_by(rows, "key")) if shown else {}
        rows = [
            {**self._row(key, found, visit.now), **today.get(key.id, NOTHING)}
            for key, found in zip(shown, limits, strict=True)
        ]
        more = visit.url(after=shown[-1].id) if len(found) > PER_PAGE else ""
        table = PageTable(name="keys", columns=COLUMNS, rows=rows, after=more)
        values = {"q": visit.query.get("q", ""), "total": len(snapshot.keys)}
        return Page(template="keys", title="menu.keys", values=values, tables=(table,))

    def _found(self, snapshot: Snapshot, words: str, after: str) -> list[str]:
        """Ids behind `after` whose id, name or owner has the words, in order, and one more than a page shows."""
        listed = self._listed.of(snapshot)
        fitting = (name for name, text in listed[bisect_right(listed, after, key=itemgetter(0)) :] if words in text)
        return list(islice(fitting, PER_PAGE + 1))

    async def show_one(self, visit: Visit) -> Page:
        """One key. Raises: Refusal 404, 503."""
        return await self._page(visit, visit.captured["key"], own=False)

    async def show_own(self, visit: Visit) -> Page:
        """The key of whoever is signed in with it. Raises: Refusal 404 for admins, who have none."""
        if visit.visitor.role != "key":
            raise Refusal(status=404, message="this page is for holders of a key", code="unknown_path")
        return await self._page(visit, visit.visitor.name, own=True)

    async def _page(self, visit: Visit, name: str, *, own: bool) -> Page:
        key = self.sources.live.snapshot.keys.get(ObjectId(name))
        if key is None:
            raise Refusal(status=404, message="there is no such key in the running config", code="unknown_key")
        days = last_days(visit.now, self.sources.live.snapshot.relay.state.timezone, DAYS_SHOWN)
        asked = Report(first=days[0], last=days[-1], keys=(key.id,), by=("day", "model"))
        records = await from_books(self.sources.reader, asked, tuple)
        (limits,) = await self._limits([key], visit.now)
        await self.traffic.all()
        calls = await self._calls(key)
        used = used_by(records, "day")
        tables = (
            PageTable(name="limits", columns=LIMITS, rows=limits),
            PageTable(name="models", columns=MODELS, rows=_by_model(records)),
            PageTable(name="history", columns=HISTORY, rows=by_day(used, days)),
            PageTable(
                name="clients",
                columns=CLIENTS,
                rows=[{"client": name, "last_used": at} for name, at in self.traffic.uses.of(key.id).items()],
            ),
            PageTable(
                name="calls", columns=_own_columns() if own else CALL_COLUMNS, rows=[row_of(one) for one in calls]
            ),
        )
        last_used = self.traffic.uses.last(key.id)
        values = {
            "key": key,
            "state": best_state(key, self.sources.live.snapshot, visit.now),
            "last_used": last_used,
            "total": {name: sum(row[name] for row in used.values()) for name in NOTHING},
            "chart": cost_chart(records, days) if any(record.cost for record in records) else None,
            "days": DAYS_SHOWN,
        }
        document = {"key": key.id, "owner": key.owner, "state": values["state"], "last_used": plain(last_used, "time")}
        document |= {table.name: table.as_json()["rows"] for table in tables}
        return Page(
            template="key",
            title=name,
            plain_title=True,
            values={**values, "own": own},
            tables=tables,
            document=document,
        )

    async def _calls(self, key: ApiKey) -> Sequence[KeptCall]:
        try:
            return (await self.recent.find(FindCalls(key=key.id, limit=CALLS_SHOWN))).calls
        except StoreUnavailable:
            return ()

    async def _limits(self, keys: Sequence[ApiKey], now: float) -> list[list[dict[str, Any]]]:
        """Of each key its limits, with what is used of them. Raises: Refusal 503."""
        snapshot = self.sources.live.snapshot
        terms = [shown_terms(key, snapshot, round(now * 1000)) for key in keys]
        try:
            answer = await self.sources.reader.ask(Peek(terms=tuple(term for some in terms for term in some)))
        except StoreUnavailable as error:
            raise store_is_away(error) from None
        if not isinstance(answer, TermLevels):
            raise store_is_away(StoreUnavailable(str(answer)))
        levels = iter(answer.levels)
        found = []
        for key, some in zip(keys, terms, strict=True):
            own = tuple(next(levels) for _ in some)
            rows = usage_document(key, some, own, answer.now)["limits"]
            shares = [level.used / term.limit if term.limit else 0.0 for term, level in zip(some, own, strict=True)]
            found.append([{**row, "used_share": min(share, 1.0)} for row, share in zip(rows, shares, strict=True)])
        return found

    def _row(self, key: ApiKey, limits: Sequence[dict[str, Any]], now: float) -> dict[str, Any]:
        """A key, with the limit that is nearest to its end."""
        tightest = max(limits, key=lambda row: row["used_share"], default=None)
        return {
            "key": key.id,
            "link": f"{ROOT}/keys/{key.id}",
            "name": key.name,
            "owner": key.owner,
            "state": best_state(key, self.sources.live.snapshot, now),
            "last_used": self.traffic.uses.last(key.id),
            "expires": key.expires.timestamp() if key.expires is not None else None,
            "limit": tightest["limit_name"] if tightest else "",
            "used_share": tightest["used_share"] if tightest else None,
            "resets": (tightest["resets_at"] or "") if tightest else "",
        }


def key_texts(snapshot: Snapshot) -> KeyTexts:
    """The keys of a config in order, each with the text in which words are looked for."""
    return sorted((str(key.id), f"{key.id}\n{key.name}\n{key.owner}".lower()) for key in snapshot.keys.values())


def _own_columns() -> tuple[Column, ...]:
    """What a holder may see of its calls: no account, no links to pages of admins."""
    shown = [column for column in CALL_COLUMNS if column.name != "account"]
    return tuple(attrs.evolve(column, link="") for column in shown)


def _by_model(rows: Sequence[UsageRecord]) -> list[dict[str, Any]]:
    return [{"model": model, **used} for model, used in used_by(rows, "model").items()]


def cost_chart(records: Sequence[UsageRecord], days: Sequence[str]) -> Chart:
    """Cost by day, the dearest models each with its line."""
    dearest = list(used_by(records, "model"))[:DAY_MODELS]
    costs: dict[tuple[str, str], int] = {}
    for record in records:
        place = record.day, record.model if record.model in dearest else ""
        costs[place] = costs.get(place, 0) + record.cost
    if any(model == "" for _, model in costs):
        dearest = [*dearest[: DAY_MODELS - 1], ""]
    lines = [Series(name=model, values=[costs.get((day, model), 0) for day in days]) for model in dearest]
    return chart("cost", "money", [noon_of(day) for day in days], *lines)
