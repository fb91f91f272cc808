"""Audit page: the newest acts on this node."""

from __future__ import annotations

import attrs

from relayd.daemon.admin.pages.audit import AuditTrail
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit

COLUMNS = (
    Column(name="at", kind="time"),
    Column(name="who"),
    Column(name="what"),
    Column(name="subject"),
    Column(name="address"),
    Column(name="result"),
)


@attrs.define(eq=False, kw_only=True)
class AuditPage:
    """Who did what."""

    audit: AuditTrail

    def routes(self) -> tuple[PageRoute, ...]:
        return (PageRoute(method="GET", pattern=f"{ROOT}/audit", need="viewer", handler=self.show),)

    async def show(self, visit: Visit) -> Page:
        """The acts that are kept, the newest first."""
        rows = [attrs.asdict(act) for act in self.audit.newest()]
        return Page(template="audit", title="audit.title", tables=(PageTable(name="acts", columns=COLUMNS, rows=rows),))
