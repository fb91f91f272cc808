"""Explain: who would serve a call of a key, and why each other account would not."""

from __future__ import annotations

from typing import Any

import attrs

from relayd.config.snapshot import ObjectId
from relayd.core.explanation import ENDPOINTS, explanation
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.admin.status import StatusSources
from relayd.wire.refusal import Refusal

COLUMNS = (Column(name="account", link="link"), Column(name="groups"), Column(name="serves"), Column(name="reason"))
FIELDS = ("key", "model", "client", "address", "endpoint")
KEYS_OFFERED = 500


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
        values["keys"] = sorted(snapshot.keys)[:KEYS_OFFERED]
        if not asked["key"]:
            return Page(template="explain", title="menu.explain", values=values)
        if asked["key"] not in snapshot.keys:
            raise Refusal(status=404, message="there is no such key in the running config", code="unknown_key")
        if asked["endpoint"] not in ENDPOINTS:
            raise Refusal(status=400, message=f"endpoint: expected one of {', '.join(ENDPOINTS)}", code="query")
        found = explanation(snapshot, self.sources.pool, now=visit.now, **asked)
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
        table = PageTable(name="choice", columns=COLUMNS, rows=rows)
        values |= {"found": found, "groups": snapshot.keys[ObjectId(asked["key"])].groups}
        return Page(template="explain", title="menu.explain", values=values, tables=(table,), document=found)
