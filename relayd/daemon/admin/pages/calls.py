"""Calls: the recent ones, and one with the timeline of its attempts.

Rule: what a call was about is not kept, and so not shown. Texts of clients and upstreams (models, reasons) are shown as
texts.
"""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from relayd.core.live import Live
from relayd.daemon.admin.books import store_is_away
from relayd.daemon.admin.pages.choices import choices_of
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.store.recent_calls import RecentCalls
from relayd.state.contract import CALL_FILTERS, FindCalls, FoundCalls, KeptCall, StoreUnavailable
from relayd.wire.refusal import Refusal

PER_PAGE = 50
OUTCOMES = ("ok", "refused", "upstream", "cut", "left", "failed")

COLUMNS = (
    Column(name="at", kind="time"),
    Column(name="id", link="link"),
    Column(name="key", link="key_link"),
    Column(name="client"),
    Column(name="model"),
    Column(name="account", link="account_link"),
    Column(name="status", kind="number"),
    Column(name="outcome"),
    Column(name="seconds", kind="duration"),
    Column(name="first_byte", kind="duration"),
    Column(name="tokens_in", kind="number"),
    Column(name="tokens_out", kind="number"),
    Column(name="cost", kind="money"),
)
ATTEMPTS = (
    Column(name="account", link="account_link"),
    Column(name="status", kind="number"),
    Column(name="reason"),
    Column(name="seconds", kind="duration"),
)


@attrs.define(eq=False, kw_only=True)
class CallPages:
    """What became of calls."""

    live: Live
    recent: RecentCalls

    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute(method="GET", pattern=f"{ROOT}/calls", need="viewer", handler=self.show_all),
            PageRoute(method="GET", pattern=f"{ROOT}/calls/{{call}}", need="viewer", handler=self.show_one),
        )

    async def show_all(self, visit: Visit) -> Page:
        """The newest first, filtered by the fields of the URL. Raises: Refusal 400, 503."""
        wanted = wanted_calls(visit)
        found = await self._find(wanted)
        table = calls_table(found, visit)
        values = {"filters": {name: visit.query.get(name, "") for name in CALL_FILTERS}, "outcomes": OUTCOMES}
        values["choices"] = choices_of(self.live.snapshot)
        return Page(
            template="calls", title="calls.title", values={**values, "kept": self.recent.most()}, tables=(table,)
        )

    async def show_one(self, visit: Visit) -> Page:
        """One call, by the `relayd-request-id` of its answer. Raises: Refusal 404, 503."""
        found = await self._find(FindCalls(id=visit.captured["call"][:100], limit=1))
        if not found.calls:
            message = "this call is not kept: it is older, was on another relay, or [admin].calls = 0"
            raise Refusal(status=404, message=message, code="unknown_call")
        call = found.calls[0]
        document = call_fields_of(call)
        table = PageTable(name="attempts", columns=ATTEMPTS, rows=attempt_rows(document))
        values = {"call": row_of(call), "fields": document, "timeline": timeline(document)}
        return Page(template="call", title=call.id, plain_title=True, values=values, tables=(table,), document=document)

    async def _find(self, wanted: FindCalls) -> FoundCalls:
        try:
            return await self.recent.find(wanted)
        except StoreUnavailable as error:
            raise store_is_away(error) from None


def wanted_calls(visit: Visit) -> FindCalls:
    """What the fields of a URL ask for. Raises: Refusal 400."""
    words = {name: visit.query.get(name, "")[:200] for name in CALL_FILTERS if name != "status"}
    status, before = visit.query.get("status", ""), visit.query.get("before", "")
    at, _, name = before.partition("_")
    if not (status.isdecimal() or not status) or not (at.isdecimal() or not before) or len(status + at) > 20:
        raise Refusal(status=400, message="status and before are numbers", code="query")
    place = (min(int(at), 1 << 52), name[:100]) if before else None
    return FindCalls(limit=PER_PAGE, before=place, status=int(status or 0) % 1000, **words)


def calls_table(found: FoundCalls, visit: Visit) -> PageTable:
    """Calls in rows."""
    after = visit.url(before=f"{found.after[0]}_{found.after[1]}") if found.after is not None else ""
    return PageTable(name="calls", columns=COLUMNS, rows=[row_of(call) for call in found.calls], after=after)


def row_of(call: KeptCall) -> dict[str, Any]:
    """A call as a row."""
    fields = call_fields_of(call)
    first_byte, cost = fields.get("first_byte_ms"), fields.get("cost_usd")
    return {
        "at": call.at / 1000,
        "id": call.id,
        "link": f"{ROOT}/calls/{call.id}",
        "key": call.key,
        "key_link": f"{ROOT}/keys/{call.key}" if call.key else "",
        "client": call.client,
        "model": call.model,
        "account": call.account,
        "account_link": f"{ROOT}/accounts/{call.account}" if call.account else "",
        "status": call.status,
        "outcome": call.outcome,
        "reason": fields.get("reason", ""),
        "seconds": fields.get("ms", 0.0) / 1000,
        "first_byte": None if first_byte is None else first_byte / 1000,
        "tokens_in": fields.get("tokens_in", 0) + fields.get("cache_write", 0) + fields.get("cache_read", 0),
        "tokens_out": fields.get("tokens_out", 0),
        "cost": None if cost is None else round(float(cost) * 1_000_000),
        "stream": fields.get("stream", False),
    }


def call_fields_of(call: KeptCall) -> dict[str, Any]:
    """What the store keeps of a call; nothing where that cannot be read."""
    try:
        found = msgspec.json.decode(call.body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def attempt_rows(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Each attempt, in order."""
    return [
        {**one, "seconds": one["ms"] / 1000, "account_link": f"{ROOT}/accounts/{one['account']}"}
        for one in fields.get("attempts", [])
    ]


def timeline(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The attempts as bars on one line of time: where each began and how long it took, as shares of the call.

    What passed between them (waiting for a place, reading the body) comes first: attempts follow each other, and the
    last one ends with the call.
    """
    whole = max(fields.get("ms", 0.0), sum(one["ms"] for one in fields.get("attempts", [])), 0.001)
    bars, end = [], whole
    for number, one in reversed(list(enumerate(fields.get("attempts", []), 1))):
        start = max(0.0, end - one["ms"])
        bars.append({"number": number, "start": start / whole, "share": (end - start) / whole, **one})
        end = start
    return list(reversed(bars))
