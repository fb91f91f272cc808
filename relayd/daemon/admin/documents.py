"""JSON documents of the reload, cluster and store nouns: the one place where each of them becomes JSON.

Rule: pure; no secret. Fields are only ever added: `relayd status`, scripts and other programs read them.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from relayd.config.problems.report import as_dict
from relayd.config.source.history import Meta, Skipped, Summary
from relayd.core.cluster import Drift, Node
from relayd.daemon.reload.record import ConfigOrigin, PendingTree, ReloadRecord
from relayd.daemon.reload.requests import ReloadResult
from relayd.daemon.source.keeper import SourceKeeper
from relayd.daemon.store.dead_letters import Losses
from relayd.daemon.workers.roster import Worker

PROBLEMS_SHOWN = 20
COMMITS_SHOWN = 100


def utc_text(seconds: float) -> str:
    """A point in time for people and programs. `seconds`: Unix time."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _provenance(one: ConfigOrigin | ReloadResult | Meta) -> dict[str, Any]:
    return {"digest": one.digest, "commit": one.commit, "dirty": None if one.dirty is None else list(one.dirty)}


def origin_document(origin: ConfigOrigin, generation: int) -> dict[str, Any]:
    """The running config."""
    return {
        "generation": generation,
        **_provenance(origin),
        "model_digest": origin.model,
        "revision": origin.revision,
        "source": origin.source,
        "since": utc_text(origin.since),
        "trigger": origin.trigger,
        "stored_generation": origin.stored,
    }


def result_document(result: ReloadResult) -> dict[str, Any]:
    """What a reload came to."""
    changes = result.changes
    brief = result.brought if result.result == "unchanged" else changes
    return {
        "result": result.result,
        "generation": result.generation,
        **_provenance(result),
        "revision": result.revision,
        "model_digest": result.model,
        "problems": [as_dict(problem) for problem in result.problems],
        "reasons": list(result.reasons),
        "changes": changes.as_json() if changes is not None else None,
        "changes_text": changes.as_text() if changes is not None and not changes.empty else "",
        "brief": brief.brief() if brief is not None else "",
        "restart_required": list(result.restart_required),
        "dry_run": result.dry_run,
        "unexpected": result.unexpected,
        "accept": result.accept,
    }


def candidate_document(candidate: PendingTree, now: float) -> dict[str, Any]:
    """The tree on disk that does not run; of its problems the first ones."""
    outcome = candidate.outcome
    return {
        "result": outcome.result,
        **_provenance(outcome),
        "since": utc_text(candidate.since),
        "out_of_sync_seconds": round(max(0.0, now - candidate.since), 1),
        "reasons": list(outcome.reasons),
        "accept": outcome.accept,
        "problems": [as_dict(problem) for problem in outcome.problems[:PROBLEMS_SHOWN]],
        "more_problems": max(0, len(outcome.problems) - PROBLEMS_SHOWN),
    }


def source_document(source: SourceKeeper, now: float) -> dict[str, Any]:
    """Where the tree is pulled from, and how that goes. `now`: Unix time, s."""
    record, held = source.record, source.record.held
    return {
        "url": str(source.settings.at),
        "interval_seconds": source.settings.interval,
        "signed": bool(source.settings.signers),
        "taken": record.taken,
        "head": record.head,
        "fetched": utc_text(record.fetched) if record.fetched else None,
        "age_seconds": round(record.age(now), 1),
        "error": record.error,
        "failures": record.failures,
        "held": None
        if held is None
        else {"commit": held.commit, "reasons": list(held.reasons), "unsigned": list(held.unsigned[:COMMITS_SHOWN])},
        "accept": source.accept,
    }


def history_document(stored: Sequence[Summary | Skipped], record: ReloadRecord) -> list[dict[str, Any]]:
    """The stored generations, the newest first. One that cannot be used says why in `problem`."""
    running = record.origin.digest
    usable = [one.number for one in stored if isinstance(one, Summary) and one.meta.digest != running]
    return [_generation(one, record, usable[:1]) for one in stored]


def _generation(one: Summary | Skipped, record: ReloadRecord, next_back: list[int]) -> dict[str, Any]:
    if isinstance(one, Skipped):
        return {"number": one.number, "problem": one.reason}
    return {
        "number": one.number,
        "problem": "",
        **_provenance(one.meta),
        "realm": one.meta.realm,
        "stored": utc_text(one.meta.saved),
        "trigger": one.meta.trigger,
        "files": one.files,
        "bytes": one.size,
        "runs": one.meta.digest == record.origin.digest,
        "held": one.number == record.hold,
        "next": one.number in next_back,
    }


def node_document(node: Node, ours: str) -> dict[str, Any]:
    """One node. `ours`: the life of the node that tells."""
    return {
        "node": node.name,
        "life": node.life,
        "this": node.life == ours,
        "version": node.version,
        "digest": node.tree,
        "model_digest": node.model,
        "revision": node.revision,
        "commit": node.commit,
        "dirty": node.dirty,
        "result": node.result,
        "result_since": utc_text(node.stands),
        "since": utc_text(node.since),
        "started": utc_text(node.started),
        "heard": utc_text(node.seen),
        "draining": node.draining,
    }


def worker_document(worker: Worker) -> dict[str, Any]:
    """One worker, as its last report says."""
    report = worker.report
    return {
        "worker": worker.number,
        "pid": worker.pid,
        "stage": worker.stage,
        "since": utc_text(worker.since),
        "calls": report.calls,
        "connections": report.connections.open,
        "memory_bytes": report.memory,
        "descriptors": report.descriptors,
        "cpu_seconds": round(report.cpu, 2),
        "revision": report.revision,
        "state_problem": report.store,
    }


def drift_document(drift: Drift, now: float) -> dict[str, Any]:
    """Also while it is younger than a change takes to arrive; `lasting` tells."""
    return {
        "since": utc_text(drift.since),
        "seconds": round(drift.seconds(now), 1),
        "lasting": drift.lasts(now),
        "digest": drift.lead.tree,
        "lead": drift.lead.name,
        "behind": [
            {"node": one.node.name, "life": one.node.life, "digest": one.node.tree, "since": utc_text(one.since)}
            for one in drift.behind
        ],
    }


def losses_document(losses: Losses) -> dict[str, Any]:
    """What did not reach the books by itself."""
    return {
        "dead_letters": losses.count,
        "newest": utc_text(losses.newest) if losses.count else None,
        "path": losses.path,
        "set_aside": losses.set_aside,
        "unwritten": losses.unwritten,
        "journal_damaged": losses.damaged,
        "journal_dropped": losses.dropped,
        "journal_waiting": losses.waiting,
    }
