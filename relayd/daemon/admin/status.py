"""Status document: what the daemon runs, what it would rather run and why it does not.

Rule: sync, reads only; no secret, no prompt. Fields are only ever added. The metrics are made from the same facts.
"""

from __future__ import annotations

import os
from typing import Any

import attrs
import trio

from relayd import __version__
from relayd.config.source.own_commit import own_commit
from relayd.core.cluster import drift
from relayd.core.inventory import Inventory, ending_within
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.admin.alerts import target_rows
from relayd.daemon.admin.documents import (
    candidate_document,
    drift_document,
    losses_document,
    node_document,
    origin_document,
    source_document,
    utc_text,
    worker_document,
)
from relayd.daemon.admin.process_metrics import known_descriptors
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.reload.watch import Watcher

KEYS_SHOWN = 50
SOON = 30 * 86_400.0  # s; a key that ends within it is named


def status_document(sources: StatusSources, now: float) -> dict[str, Any]:
    """Everything about this node, for `relayd status` and the admin listener.

    Args:
        now: Unix time, s.
    """
    snapshot, record = sources.live.snapshot, sources.record
    accounts, nodes = account_rows(sources, now), sources.cluster.nodes()
    apart, store = drift(nodes), sources.state.session
    losses = store.losses()
    found = sources.standing(now)
    inventory = sources.inventory.of(snapshot)
    ending = ending_within(inventory, SOON, now)
    return {
        "version": __version__,
        "commit": own_commit(),
        "pid": os.getpid(),
        "listen": list(sources.listen),
        "node": sources.node,
        "realm": snapshot.relay.realm,
        "started": utc_text(sources.started),
        "now": utc_text(now),
        "tree": sources.tree,
        "well": not found.ailments,
        "ailments": [one.text for one in found.ailments],
        "ailment_details": [{"kind": one.kind, "subject": one.subject, "text": one.text} for one in found.ailments],
        "ready": not found.unready,
        "unready": list(found.unready),
        "running": origin_document(record.origin, sources.live.generation),
        "candidate": candidate_document(record.candidate, now) if record.candidate is not None else None,
        "degraded": record.degraded,
        "held_generation": record.hold,
        "restart_required": list(record.restart_required),
        "deny_problem": record.deny_problem,
        "state": {"up": store.up, "reached": store.reached, "reason": store.reason},
        "generations_live": sources.live.alive(),
        "watch": _watch(sources.watcher),
        "source": source_document(sources.source, now) if sources.source is not None else None,
        "reloads": {f"{trigger}.{result}": n for (trigger, result), n in sorted(record.rounds.items())},
        "accounts": accounts,
        "keys": {"total": len(snapshot.keys), **inventory.key_counts(now)},
        "keys_ending": [{"id": name, "expires": utc_text(end)} for name, end in ending[:KEYS_SHOWN]],
        "more_keys_ending": max(0, len(ending) - KEYS_SHOWN),
        "secrets": _secrets(sources.credentials, inventory),
        "nodes": [node_document(node, sources.cluster.life) for node in nodes],
        "nodes_problem": sources.cluster.problem,
        "store_clock_ahead": round(sources.cluster.store_ahead, 1),
        "drift": drift_document(apart, now) if apart is not None else None,
        "losses": losses_document(losses),
        "alerts": target_rows(sources.alerting, now),
        "calls": sources.calls,
        "connections": attrs.asdict(sources.connections()),
        "descriptors": known_descriptors(),
        "tasks": task_count() + sum(one.report.tasks for one in sources.workers),
        "workers_wanted": sources.crew.wanted(),
        "workers": [worker_document(one) for one in sorted(sources.workers, key=lambda one: one.number)],
        "draining": sources.draining(),
    }


def task_count() -> int:
    """How many tasks there are in this process."""
    return trio.lowlevel.current_statistics().tasks_living


def account_rows(sources: StatusSources, now: float) -> list[dict[str, Any]]:
    """Each account: does it serve, and why (not)? In the order of ids."""
    snapshot = sources.live.snapshot
    groups = tuple(sorted({group for account in snapshot.accounts.values() for group in account.groups}))
    reasons = {reason.account: reason for reason in sources.pool.explain(snapshot, groups, "", now=now)}
    rows, defects = [], sources.pool.defects()
    for name, account in sorted(snapshot.accounts.items()):
        reason = reasons.get(name)
        rows.append(
            {
                "id": name,
                "name": account.name,
                "kind": account.kind,
                "enabled": account.enabled,
                "serves": reason.ok if reason is not None else False,
                "reason": reason.text if reason is not None else "it is in no group",
                "in_flight": sources.attempts(name),
                "defect": defects.get(name, ""),
            }
        )
    return rows


def _secrets(credentials: Credentials, inventory: Inventory) -> dict[str, Any]:
    """Which identities this node has, and for whom the values of its config are sealed."""
    names = {one.kid: one.name for one in inventory.recipients}
    kids = sorted(identity.public.kid for identity in credentials.identities)
    return {
        "identities": [{"kid": kid, "name": names.get(kid, "")} for kid in kids],
        "recipients": [attrs.asdict(one) for one in inventory.recipients],
    }


def _watch(watcher: Watcher | None) -> dict[str, Any]:
    if watcher is None:
        return {"backend": "off", "rearms": 0, "failure": "", "last_look_seconds": None}
    ago = trio.current_time() - watcher.last_look
    return {
        "backend": watcher.backend,
        "rearms": watcher.rearms,
        "failure": watcher.failure,
        "last_look_seconds": round(ago, 3) if ago < 1e9 else None,
    }
