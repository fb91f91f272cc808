"""Status document: what the daemon runs, what it would rather run and why it does not.

Rule: sync, reads only; no secret, no prompt. Fields are only ever added. The metrics are made from the same facts.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio

from relayd import __version__
from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.access.auth import best_state
from relayd.core.balancing.pool import Pool
from relayd.core.cluster import Drift, Node, doubled, drift
from relayd.core.in_flight import InFlight
from relayd.core.inventory import Inventory, ending_within, take_inventory
from relayd.core.live import Live
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.admin.call_metrics import CallMetrics
from relayd.daemon.admin.documents import (
    candidate_document,
    drift_document,
    losses_document,
    node_document,
    origin_document,
    utc_text,
)
from relayd.daemon.net.server import HttpServer
from relayd.daemon.reload.cluster import Cluster
from relayd.daemon.reload.record import ReloadRecord
from relayd.daemon.reload.watch import Watcher
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.dead_letters import loss_ailments

KEYS_SHOWN = 50
MANY_ALIVE = 16  # configs that calls still hold; more are streams that never end, or a leak
SOON = 30 * 86_400.0  # s; a key that ends within it is named


@attrs.define(eq=False)
class InventoryCache:
    """The inventory of the running config, made once for each."""

    _of: weakref.ref[Snapshot] | None = None
    _taken: Inventory = attrs.field(factory=Inventory)

    def of(self, snapshot: Snapshot) -> Inventory:
        """What `take_inventory` says."""
        if self._of is None or self._of() is not snapshot:
            self._of, self._taken = weakref.ref(snapshot), take_inventory(snapshot)
        return self._taken


@attrs.frozen(kw_only=True)
class StatusSources:
    """Where the facts come from.

    Args:
        watcher: None where nobody looks for changes.
        server: the public listener's, whose connections are counted.
        state: the shared store.
        started: Unix time, s.
        draining: the daemon is about to stop.
        tree: the directory that the daemon follows.
    """

    live: Live
    record: ReloadRecord
    watcher: Watcher | None
    pool: Pool
    in_flight: InFlight
    server: HttpServer
    credentials: Credentials
    cluster: Cluster
    state: Batcher
    call_metrics: CallMetrics
    node: str
    tree: str
    started: float
    draining: Callable[[], bool]
    inventory: InventoryCache = attrs.field(factory=InventoryCache)


def status_document(sources: StatusSources, now: float) -> dict[str, Any]:
    """Everything about this node, for `relayd status` and the admin listener.

    Args:
        now: Unix time, s.
    """
    snapshot, record = sources.live.snapshot, sources.record
    accounts, nodes = account_rows(sources, now), sources.cluster.nodes()
    apart, losses = drift(nodes), sources.state.losses()
    wrong = (
        ailments(record, accounts)
        + _defects(sources.pool)
        + _piled_up(sources.live)
        + cluster_ailments(nodes, apart, now)
        + loss_ailments(losses)
    )
    inventory = sources.inventory.of(snapshot)
    ending = ending_within(inventory, SOON, now)
    return {
        "version": __version__,
        "node": sources.node,
        "realm": snapshot.relay.realm,
        "started": utc_text(sources.started),
        "now": utc_text(now),
        "tree": sources.tree,
        "well": not wrong,
        "ailments": wrong,
        "running": origin_document(record.origin, sources.live.generation),
        "candidate": candidate_document(record.candidate, now) if record.candidate is not None else None,
        "degraded": record.degraded,
        "held_generation": record.hold,
        "restart_required": list(record.restart_required),
        "generations_live": sources.live.alive(),
        "watch": _watch(sources.watcher),
        "reloads": {f"{trigger}.{result}": n for (trigger, result), n in sorted(record.rounds.items())},
        "accounts": accounts,
        "keys": _key_counts(snapshot, now),
        "keys_ending": [{"id": name, "expires": utc_text(end)} for name, end in ending[:KEYS_SHOWN]],
        "more_keys_ending": max(0, len(ending) - KEYS_SHOWN),
        "secrets": _secrets(sources.credentials, inventory),
        "nodes": [node_document(node, sources.cluster.life) for node in nodes],
        "nodes_problem": sources.cluster.problem,
        "drift": drift_document(apart, now) if apart is not None else None,
        "losses": losses_document(losses),
        "calls": sources.in_flight.count(),
        "connections": attrs.asdict(sources.server.statistics),
        "tasks": task_count(),
        "draining": sources.draining(),
    }


def task_count() -> int:
    """How many tasks there are in this process."""
    return trio.lowlevel.current_statistics().tasks_living


def ailments(record: ReloadRecord, accounts: list[dict[str, Any]]) -> list[str]:
    """What somebody should look at; [] when all is well. `accounts` as `account_rows` gives them."""
    found = []
    if record.degraded:
        found.append(f"degraded: {record.degraded}; generation {record.origin.stored} serves")
    if record.hold:
        found.append(f"held: a rollback keeps generation {record.hold} (`relayd resume` ends it)")
    elif record.candidate is not None:
        found.append(f"out of step: the tree on disk is {record.candidate.outcome.result}")
    if record.restart_required:
        found.append(f"restart required: {', '.join(record.restart_required)}")
    if accounts and not any(row["serves"] for row in accounts):
        found.append("no account can serve now")
    return found


def _defects(pool: Pool) -> list[str]:
    return [f"account {name} cannot be used on this node: {why}" for name, why in sorted(pool.defects().items())]


def _piled_up(live: Live) -> list[str]:
    alive = live.alive()
    return [f"{alive} configs are in use: calls that began under old ones do not end"] if alive > MANY_ALIVE else []


def cluster_ailments(nodes: Sequence[Node], apart: Drift | None, now: float) -> list[str]:
    """What is wrong between the nodes."""
    found = [f"node name {name}: more than one process has it (give each its own: --node)" for name in doubled(nodes)]
    if apart is not None and apart.lasts(now):
        lead = apart.lead
        found += [
            f"DRIFT: node {one.node.name} has {_tree(one.node)}, not {_tree(lead)} as {lead.name},"
            f" since {utc_text(one.since)}" + (f" ({one.node.result})" if one.node.result != "applied" else "")
            for one in apart.behind
        ]
    return found


def _tree(node: Node) -> str:
    return f"tree {node.tree[:12]}"


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
                "in_flight": sources.pool.in_flight(name),
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


def _key_counts(snapshot: Snapshot, now: float) -> dict[str, int]:
    count = Counter(key_state(key, snapshot, now) for key in snapshot.keys.values())
    return {
        "total": len(snapshot.keys),
        **{state: count[state] for state in ("active", "disabled", "denied", "expired")},
    }


def key_state(key: ApiKey, snapshot: Snapshot, now: float) -> str:
    state = best_state(key, snapshot, now)
    return "expired" if state == "rotated" else state
