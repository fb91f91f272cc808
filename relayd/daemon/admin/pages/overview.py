"""Overview: what this node does now, and what ails it."""

from __future__ import annotations

import attrs

from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, Route, Visit
from relayd.daemon.admin.status import StatusSources, status_document

AILMENTS = (Column(name="kind"), Column(name="subject"), Column(name="text"))
NODES = (
    Column(name="node"),
    Column(name="version"),
    Column(name="revision"),
    Column(name="result"),
    Column(name="heard"),
)


@attrs.define(eq=False, kw_only=True)
class Overview:
    """The first page."""

    sources: StatusSources

    def routes(self) -> tuple[Route, ...]:
        return (Route(method="GET", pattern=ROOT, need="viewer", handler=self.show),)

    async def show(self, visit: Visit) -> Page:
        """Also as the document that `relayd status --json` prints."""
        status = status_document(self.sources, visit.now)
        tables = (
            PageTable(name="ailments", columns=AILMENTS, rows=status["ailment_details"]),
            PageTable(name="nodes", columns=NODES, rows=status["nodes"]),
        )
        return Page(
            template="overview", title="overview.title", values={"status": status}, tables=tables, document=status
        )
