"""Explain: who would serve a call of a key, and why each other account would not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from relayd.config.snapshot import ObjectId, Snapshot
from relayd.core.explanation import ENDPOINTS, explanation, reasons_for
from relayd.daemon.admin.pages.choices import choices_of
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit, part_of
from relayd.daemon.admin.status_sources import StatusSources
from relayd.wire.refusal import Refusal

COLUMNS = (Column(name="account", link="link"), Column(name="groups"), Column(name="serves"), Column(name="reason"))
FIELDS = ("key", "model", "client", "address", "endpoint")
PER_PAGE = 100
DRAWN = 8  # accounts of a group


@attrs.define(eq=False, kw_only=True)
class ExplainPage:
    """The same decisions as for a real call; nothing is taken."""

    sources: StatusSources

    def routes(self) -> tuple[PageRoute, ...]:
        return (PageRoute(method="GET", pattern=f"{ROOT}/explain", need="viewer", handler=self.show),)

    async def show(self, visit: Visit) -> Page:
        """The form, and below it the answer. Raises: Refusal 400, 404."""
        snapshot = self.sources.live.snapshot
        asked = {name: visit.query.get(name, "")[:200] for name in FIELDS}
        asked["endpoint"] = asked["endpoint"] or "messages"
        values: dict[str, Any] = {"asked": asked, "endpoints": ENDPOINTS, "found": None}
        values["choices"] = choices_of(snapshot)
        if not asked["key"]:
            return Page(template="explain", title="menu.explain", values=values)
        if asked["key"] not in snapshot.keys:
            raise Refusal(status=404, message="there is no such key in the running config", code="unknown_key")
        if asked["endpoint"] not in ENDPOINTS:
            raise Refusal(status=400, message=f"endpoint: expected one of {', '.join(ENDPOINTS)}", code="query")
        reasons = reasons_for(snapshot, self.sources.pool, key=asked["key"], model=asked["model"], now=visit.now)

        def explained() -> dict[str, Any]:
            return explanation(snapshot, reasons, now=visit.now, **asked)

        found = await self.sources.reader.beside.run(explained)
        rows = [
            {
                "account": one["id"],
                "link": f"{ROOT}/accounts/{one['id']}",
                "groups": ", ".join(snapshot.accounts[one["id"]].groups),
                "serves": one["serves"],
                "reason": one["reason"],
            }
            for one in found["accounts"]
        ]
        table = part_of(PageTable(name="choice", columns=COLUMNS, rows=rows), visit, PER_PAGE)
        groups = snapshot.keys[ObjectId(asked["key"])].groups
        values |= {"found": found, "route": route_of(groups, rows, snapshot)}
        return Page(template="explain", title="menu.explain", values=values, tables=(table,), document=found)


def route_of(groups: Sequence[str], rows: Sequence[dict[str, Any]], snapshot: Snapshot) -> list[dict[str, Any]]:
    """The groups of a key in order, each with its accounts as far as they can be drawn: those that serve first."""
    drawn = []
    for group in groups:
        inside = [row for row in rows if group in snapshot.accounts[row["account"]].groups]
        drawn.append({"group": group, "accounts": inside[:DRAWN], "more": max(0, len(inside) - DRAWN)})
    return drawn
