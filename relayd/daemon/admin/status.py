"""Status: what the daemon runs, what it would rather run and why it does not, as one JSON document.

Rule: sync, reads only; no secret, no prompt. Fields are only ever added. The metrics are made from the same facts.
"""

from __future__ import annotations

import datetime
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from relayd import __version__
from relayd.config.problems.report import as_dict
from relayd.config.snapshot import ApiKey, Snapshot
from relayd.config.source.history import Skipped, Summary
from relayd.core.balancing.pool import Pool
from relayd.core.cluster import Drift, Node, doubled
from relayd.core.cluster import drift as drift_of
from relayd.core.inventory import Inventory, ending_within, take_inventory
from relayd.core.live import InFlight, Live
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.admin.process_metrics import account_families, process_families, traffic_families
from relayd.daemon.admin.prometheus import (
    ConfigFacts,
    Family,
    Histogram,
    config_metrics,
    exposition,
    fleet_metrics,
    inventory_metrics,
)
from relayd.daemon.net.server import ServerStatistics
from relayd.daemon.reload.cluster import Cluster
from relayd.daemon.reload.reloader import Reloader
from relayd.daemon.reload.requests import ConfigOrigin, PendingTree, ReloadResult
from relayd.daemon.reload.watch import Watcher

PROBLEMS_SHOWN = 20
KEYS_SHOWN = 50
MANY_ALIVE = 16  # configs that calls still hold; more are streams that never end, or a leak
SOON = 30 * 86_400.0  # s; a key that ends within it is named


@attrs.frozen(kw_only=True)
class StatusSources:
    """Where the facts come from.

    Args:
        connections: asked afresh each time.
        started: Unix time, s.
        clock: trio's clock, s, which the watcher's last look is on.
        tasks: how many there are in this process.
        draining: the daemon is about to stop.
        more_metrics: of the rest of the daemon.
        tree: the directory that the daemon follows.
        damaged: what the state store has found unreadable and set aside.
    """

    live: Live
    reloader: Reloader
    watching: Watcher | None
    pool: Pool
    in_flight: InFlight
    connections: Callable[[], ServerStatistics]
    node: str
    started: float
    clock: Callable[[], float]
    tasks: Callable[[], int]
    draining: Callable[[], bool]
    fleet: Cluster
    credentials: Credentials
    tree: str
    more_metrics: Callable[[], list[Family | Histogram]] = list
    damaged: Callable[[], tuple[str, ...]] = tuple
    stock: Stock = attrs.field(factory=lambda: Stock())


@attrs.define(eq=False)
class Stock:
    """The inventory of the running config, made once for each."""

    _of: weakref.ref[Snapshot] | None = None
    _taken: Inventory = attrs.field(factory=Inventory)

    def of(self, snapshot: Snapshot) -> Inventory:
        """What `take_inventory` says."""
        if self._of is None or self._of() is not snapshot:
            self._of, self._taken = weakref.ref(snapshot), take_inventory(snapshot)
        return self._taken


def status_document(sources: StatusSources, now: float) -> dict[str, Any]:
    """Everything about this node, for `relayd status` and the admin listener.

    Args:
        now: Unix time, s.
    """
    snapshot, reloader = sources.live.snapshot, sources.reloader
    accounts, nodes = account_rows(sources, now), sources.fleet.nodes()
    drift = drift_of(nodes)
    wrong = ailments(reloader, accounts) + _piled_up(sources.live) + fleet_ailments(nodes, drift, now)
    wrong += [f"state: a damaged counter was set aside and begins anew: {one}" for one in sources.damaged()]
    stock = sources.stock.of(snapshot)
    ending = ending_within(stock, SOON, now)
    return {
        "version": __version__,
        "node": sources.node,
        "realm": snapshot.relay.realm,
        "started": _time(sources.started),
        "now": _time(now),
        "tree": sources.tree,
        "well": not wrong,
        "ailments": wrong,
        "running": _running(reloader.running, sources.live.generation),
        "candidate": _candidate(reloader.candidate, now),
        "degraded": reloader.degraded,
        "held_generation": reloader.hold,
        "restart_required": list(reloader.restart_required),
        "generations_live": sources.live.alive(),
        "watch": _watch(sources),
        "reloads": {f"{trigger}.{result}": n for (trigger, result), n in sorted(reloader.rounds.items())},
        "accounts": accounts,
        "keys": _key_counts(snapshot, now),
        "keys_ending": [{"id": name, "expires": _time(end)} for name, end in ending[:KEYS_SHOWN]],
        "more_keys_ending": max(0, len(ending) - KEYS_SHOWN),
        "secrets": _secrets(sources.credentials, stock),
        "nodes": [_node(node, sources.fleet.life) for node in nodes],
        "nodes_problem": sources.fleet.problem,
        "drift": _drift(drift, now),
        "calls": sources.in_flight.count(),
        "connections": attrs.asdict(sources.connections()),
        "tasks": sources.tasks(),
        "draining": sources.draining(),
    }


def ailments(reloader: Reloader, accounts: list[dict[str, Any]]) -> list[str]:
    """What somebody should look at; [] when all is well. `accounts` as `account_rows` gives them."""
    found = []
    if reloader.degraded:
        found.append(f"degraded: {reloader.degraded}; generation {reloader.running.stored} serves")
    if reloader.hold:
        found.append(f"held: a rollback keeps generation {reloader.hold} (`relayd resume` ends it)")
    elif reloader.candidate is not None:
        found.append(f"out of step: the tree on disk is {reloader.candidate.outcome.result}")
    if reloader.restart_required:
        found.append(f"restart required: {', '.join(reloader.restart_required)}")
    if accounts and not any(row["serves"] for row in accounts):
        found.append("no account can serve now")
    return found


def _piled_up(live: Live) -> list[str]:
    alive = live.alive()
    return [f"{alive} configs are in use: calls that began under old ones do not end"] if alive > MANY_ALIVE else []


def fleet_ailments(nodes: Sequence[Node], drift: Drift | None, now: float) -> list[str]:
    """What is wrong between the nodes."""
    found = [f"node name {name}: more than one process has it (give each its own: --node)" for name in doubled(nodes)]
    if drift is not None and drift.lasts(now):
        lead = drift.lead
        found += [
            f"DRIFT: node {one.node.name} has {_tree(one.node)}, not {_tree(lead)} as {lead.name},"
            f" since {_time(one.since)}" + (f" ({one.node.result})" if one.node.result != "applied" else "")
            for one in drift.behind
        ]
    return found


def _tree(node: Node) -> str:
    return f"tree {node.tree[:12]}"


def account_rows(sources: StatusSources, now: float) -> list[dict[str, Any]]:
    """Each account: does it serve, and why (not)? In the order of ids."""
    snapshot = sources.live.snapshot
    groups = tuple(sorted({group for account in snapshot.accounts.values() for group in account.groups}))
    said = {reason.account: reason for reason in sources.pool.explain(snapshot, groups, "", now=now)}
    rows = []
    for name, account in sorted(snapshot.accounts.items()):
        reason = said.get(name)
        rows.append(
            {
                "id": name,
                "name": account.name,
                "kind": account.kind,
                "enabled": account.enabled,
                "serves": reason.ok if reason is not None else False,
                "reason": reason.text if reason is not None else "it is in no group",
                "in_flight": sources.pool.in_flight(name),
            }
        )
    return rows


def result_document(result: ReloadResult) -> dict[str, Any]:
    """A reload's result for programs: the answer of the control socket and of the admin listener."""
    return {
        "result": result.result,
        "generation": result.generation,
        "digest": result.digest,
        "revision": result.revision,
        "commit": result.commit,
        "dirty": None if result.dirty is None else list(result.dirty),
        "model_digest": result.model,
        "problems": [as_dict(problem) for problem in result.problems],
        "reasons": list(result.reasons),
        "changes": result.changes.as_json() if result.changes is not None else None,
        "changes_text": result.changes.as_text() if result.changes is not None and not result.changes.empty else "",
        "restart_required": list(result.restart_required),
        "dry_run": result.dry_run,
        "accept": result.accept,
    }


def diff_document(sources: StatusSources, result: ReloadResult) -> dict[str, Any]:
    """What runs, and what the tree on disk would change of it: the answer to `relayd diff`.

    Args:
        result: of a dry run.
    """
    return {
        "tree": sources.tree,
        "running": _running(sources.reloader.running, sources.live.generation),
        "candidate": result_document(result),
    }


def generations_document(stored: Sequence[Summary | Skipped], reloader: Reloader) -> list[dict[str, Any]]:
    """The stored generations, the newest first. One that cannot be used says why in `problem`."""
    running = reloader.running.digest
    usable = [one.number for one in stored if isinstance(one, Summary) and one.meta.digest != running]
    return [_generation(one, reloader, usable[:1]) for one in stored]


def _generation(one: Summary | Skipped, reloader: Reloader, next_back: list[int]) -> dict[str, Any]:
    if isinstance(one, Skipped):
        return {"number": one.number, "problem": one.reason}
    meta = one.meta
    return {
        "number": one.number,
        "problem": "",
        "digest": meta.digest,
        "commit": meta.commit,
        "dirty": None if meta.dirty is None else list(meta.dirty),
        "realm": meta.realm,
        "stored": _time(meta.saved),
        "trigger": meta.trigger,
        "files": one.files,
        "bytes": one.size,
        "runs": meta.digest == reloader.running.digest,
        "held": one.number == reloader.hold,
        "next": one.number in next_back,
    }


def metrics_text(sources: StatusSources, now: float) -> str:
    """All metrics in Prometheus's text format."""
    return exposition(metric_families(sources, now))


def metric_families(sources: StatusSources, now: float) -> list[Family | Histogram]:
    """All metrics, as they are now."""
    return [
        *config_metrics(config_facts(sources, now)),
        *inventory_metrics(sources.stock.of(sources.live.snapshot), now),
        *(fleet_metrics(sources.fleet.nodes(), now) if sources.fleet.known else ()),
        *traffic_families(sources.in_flight.count(), sources.connections(), sources.tasks(), sources.draining()),
        *account_families(account_rows(sources, now)),
        *sources.more_metrics(),
        *process_families(sources.started),
    ]


def config_facts(sources: StatusSources, now: float) -> ConfigFacts:
    """The numbers behind the config metrics."""
    reloader, running = sources.reloader, sources.reloader.running
    candidate = reloader.candidate
    return ConfigFacts(
        now=now,
        digest=running.digest,
        commit=running.commit,
        dirty=_dirty(running),
        in_step=candidate is None,
        out_since=candidate.since if candidate is not None else 0.0,
        succeeded=reloader.succeeded,
        rounds={(trigger, result): n for (trigger, result), n in reloader.rounds.items()},
        seconds=reloader.seconds,
        held=bool(reloader.hold) or (candidate is not None and candidate.outcome.result == "held"),
        degraded=bool(reloader.degraded),
        restart_required=len(reloader.restart_required),
        generation=sources.live.generation,
        generations_live=sources.live.alive(),
        backend=sources.watching.backend if sources.watching is not None else "off",
        objects=_objects(sources.live.snapshot, now),
    )


def _running(running: ConfigOrigin, generation: int) -> dict[str, Any]:
    return {
        "generation": generation,
        "digest": running.digest,
        "model_digest": running.model,
        "revision": running.revision,
        "commit": running.commit,
        "dirty": None if running.dirty is None else list(running.dirty),
        "source": running.source,
        "since": _time(running.since),
        "trigger": running.trigger,
        "stored_generation": running.stored,
    }


def _dirty(running: ConfigOrigin) -> str:
    return "unknown" if running.dirty is None else "true" if running.dirty else "false"


def _candidate(candidate: PendingTree | None, now: float) -> dict[str, Any] | None:
    if candidate is None:
        return None
    outcome = candidate.outcome
    return {
        "result": outcome.result,
        "digest": outcome.digest,
        "commit": outcome.commit,
        "dirty": None if outcome.dirty is None else list(outcome.dirty),
        "since": _time(candidate.since),
        "out_of_sync_seconds": round(max(0.0, now - candidate.since), 1),
        "reasons": list(outcome.reasons),
        "accept": outcome.accept,
        "problems": [as_dict(problem) for problem in outcome.problems[:PROBLEMS_SHOWN]],
        "more_problems": max(0, len(outcome.problems) - PROBLEMS_SHOWN),
    }


def _node(node: Node, ours: str) -> dict[str, Any]:
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
        "result_since": _time(node.stands),
        "since": _time(node.since),
        "started": _time(node.started),
        "heard": _time(node.seen),
        "draining": node.draining,
    }


def _drift(drift: Drift | None, now: float) -> dict[str, Any] | None:
    """Also while it is younger than a change takes to arrive; `lasting` tells."""
    if drift is None:
        return None
    return {
        "since": _time(drift.since),
        "seconds": round(drift.seconds(now), 1),
        "lasting": drift.lasts(now),
        "digest": drift.lead.tree,
        "lead": drift.lead.name,
        "behind": [
            {"node": one.node.name, "life": one.node.life, "digest": one.node.tree, "since": _time(one.since)}
            for one in drift.behind
        ],
    }


def _secrets(credentials: Credentials, stock: Inventory) -> dict[str, Any]:
    """Which identities this node has, and for whom the values of its config are sealed."""
    names = {one.kid: one.name for one in stock.recipients}
    kids = sorted(identity.public.kid for identity in credentials.identities)
    return {
        "identities": [{"kid": kid, "name": names.get(kid, "")} for kid in kids],
        "recipients": [attrs.asdict(one) for one in stock.recipients],
    }


def _watch(sources: StatusSources) -> dict[str, Any]:
    watching = sources.watching
    if watching is None:
        return {"backend": "off", "rearms": 0, "failure": "", "last_look_seconds": None}
    ago = sources.clock() - watching.last_look
    return {
        "backend": watching.backend,
        "rearms": watching.rearms,
        "failure": watching.failure,
        "last_look_seconds": round(ago, 3) if ago < 1e9 else None,
    }


def _key_counts(snapshot: Snapshot, now: float) -> dict[str, int]:
    count = Counter(_key_state(key, snapshot, now) for key in snapshot.keys.values())
    return {
        "total": len(snapshot.keys),
        **{state: count[state] for state in ("active", "disabled", "denied", "expired")},
    }


def _key_state(key: ApiKey, snapshot: Snapshot, now: float) -> str:
    deny = snapshot.deny
    if not key.enabled:
        return "disabled"
    if key.id in deny.keys or (deny.sha256 and all(entry.sha256 in deny.sha256 for entry in key.hashes)):
        return "denied"
    return "expired" if key.expires is not None and now >= key.expires.timestamp() else "active"


def _objects(snapshot: Snapshot, now: float) -> Mapping[tuple[str, str], int]:
    count: Counter[tuple[str, str]] = Counter()
    for account in snapshot.accounts.values():
        denied = account.id in snapshot.deny.accounts
        count["account", "denied" if denied else "active" if account.enabled else "disabled"] += 1
    for key in snapshot.keys.values():
        count["key", _key_state(key, snapshot, now)] += 1
    return count


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
