"""Config: what runs, what is on the disk and why it does not run, and the way back and forth between them.

Rule: what changes anything goes through the same queue as every other reload, and is written into the audit trail.
"""

from __future__ import annotations

from typing import Any

import attrs
import trio

from relayd.core.cluster import drift
from relayd.daemon.admin.documents import (
    candidate_document,
    drift_document,
    history_document,
    node_document,
    origin_document,
    result_document,
)
from relayd.daemon.admin.pages.audit import AuditEntry, AuditTrail
from relayd.daemon.admin.pages.edit_flow import PROBLEMS, problem_rows
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.reload.history import History
from relayd.daemon.reload.requests import Operation, Reload, ReloadResult, RequestQueue, Resume, Rollback, Trigger
from relayd.wire.refusal import Refusal

NODES = (
    Column(name="node"),
    Column(name="revision"),
    Column(name="commit"),
    Column(name="result"),
    Column(name="since", kind="moment"),
    Column(name="heard", kind="moment"),
    Column(name="version"),
)
STORED = (
    Column(name="number", kind="number"),
    Column(name="stored", kind="moment"),
    Column(name="trigger"),
    Column(name="commit"),
    Column(name="digest"),
    Column(name="problem"),
)


@attrs.define(eq=False, kw_only=True)
class ConfigPages:
    """The running config and its reloads."""

    sources: StatusSources
    queue: RequestQueue
    history: History
    audit: AuditTrail

    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute(method="GET", pattern=f"{ROOT}/config", need="viewer", handler=self.show),
            PageRoute(method="POST", pattern=f"{ROOT}/config/reload", need="editor", handler=self.reload),
            PageRoute(method="POST", pattern=f"{ROOT}/config/rollback", need="editor", handler=self.roll_back),
            PageRoute(method="POST", pattern=f"{ROOT}/config/resume", need="editor", handler=self.resume),
        )

    async def show(self, visit: Visit) -> Page:
        """The state of things; nothing is read from the tree for it."""
        return await self._page(visit, None)

    async def reload(self, visit: Visit) -> Page:
        """Take the tree as it is; with the field `accept` one that is held, with `dry_run` only say what would be."""
        dry_run = visit.form.get("dry_run") == "yes"
        asked = Reload(accept=visit.form.get("accept", "")[:64], dry_run=dry_run)
        what = "reload.check" if dry_run else "reload.accept" if asked.accept else "reload"
        return await self._ask(visit, "http", asked, what, asked.accept)

    async def roll_back(self, visit: Visit) -> Page:
        """Go back to a stored generation, and stay there until `resume`; with `allow_unrevoke` also to one that lets
        revoked keys in again. Raises: Refusal 400."""
        number = visit.form.get("generation", "")
        if not number.isdecimal() or len(number) > 9:
            raise Refusal(status=400, message="generation: expected a number", code="form")
        anyway = visit.form.get("allow_unrevoke") == "yes"
        operation = Rollback(generation=int(number), allow_unrevoke=anyway)
        page = await self._ask(visit, "rollback", operation, "rollback.unrevoke" if anyway else "rollback", number)
        verdict = page.values["verdict"]
        refused = verdict["result"] == "rejected" and verdict["changes"] is not None and not anyway
        return attrs.evolve(page, values={**page.values, "back_to": number if refused else ""})

    async def resume(self, visit: Visit) -> Page:
        """Follow the tree again."""
        return await self._ask(visit, "resume", Resume(), "resume", "")

    async def _ask(self, visit: Visit, trigger: Trigger, operation: Operation, what: str, subject: str) -> Page:
        result = await self.queue.request(trigger, operation).wait()
        self.audit.note(
            AuditEntry(
                at=visit.now,
                who=visit.visitor.name,
                what=what,
                subject=subject,
                address=visit.address,
                result=result.result if result.result != "applied" else "ok",
            )
        )
        return await self._page(visit, result)

    async def _page(self, visit: Visit, result: ReloadResult | None) -> Page:
        record, live = self.sources.record, self.sources.live
        stored = history_document(await trio.to_thread.run_sync(self.history.listed), record)
        candidate = candidate_document(record.candidate, visit.now) if record.candidate is not None else None
        verdict = result_document(result) if result is not None else None
        problems = record.candidate.outcome.problems if record.candidate is not None else ()
        problems = result.problems if result is not None else problems
        nodes, life = self.sources.cluster.nodes(), self.sources.cluster.life
        apart = drift(nodes)
        tables = (
            PageTable(name="problems", columns=PROBLEMS, rows=problem_rows(problems)),
            PageTable(name="nodes", columns=NODES, rows=[node_document(node, life) for node in nodes]),
            PageTable(name="stored", columns=STORED, rows=[_whole(one) for one in stored]),
        )
        document = {
            "running": origin_document(record.origin, live.generation),
            "candidate": candidate,
            "drift": drift_document(apart, visit.now) if apart is not None else None,
            "verdict": verdict,
            "stored": stored,
        }
        values: dict[str, Any] = {
            **document,
            "back_to": "",
            "held": record.hold,
            "degraded": record.degraded,
            "tree": self.sources.tree,
        }
        values["restart_required"] = list(record.restart_required)
        return Page(template="config", title="menu.config", values=values, tables=tables, document=document)


def _whole(stored: dict[str, Any]) -> dict[str, Any]:
    return {**dict.fromkeys((column.name for column in STORED), ""), "runs": False, "held": False, **stored}
