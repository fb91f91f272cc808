"""Status: what the daemon runs, what it would rather run and why it does not, as one JSON document.

Rule: sync, reads only; no secret, no prompt. Fields are only ever added. The metrics are made from the same facts.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from relayd import __version__
from relayd.config.report import as_dict
from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.live import Live
from relayd.core.live import Running as InFlight
from relayd.core.pool import Pool
from relayd.daemon.metrics import ConfigFacts, Family, Histogram, config_metrics, exposition
from relayd.daemon.reload import Reloader
from relayd.daemon.server import Statistics
from relayd.daemon.ticket import Candidate, Result, Running
from relayd.daemon.vitals import account_families, process_families, traffic_families
from relayd.daemon.watch import Watcher

PROBLEMS_SHOWN = 20


@attrs.frozen(kw_only=True)
class Sources:
    """Where the facts come from.

    Args:
        connections: asked afresh each time.
        started: Unix time, s.
        clock: trio's clock, s, which the watcher's last look is on.
        tasks: how many there are in this process.
        draining: the daemon is about to stop.
        more_metrics: of the rest of the daemon.
    """

    live: Live
    reloader: Reloader
    watching: Watcher | None
    pool: Pool
    in_flight: InFlight
    connections: Callable[[], Statistics]
    node: str
    started: float
    clock: Callable[[], float]
    tasks: Callable[[], int]
    draining: Callable[[], bool]
    more_metrics: Callable[[], list[Family | Histogram]] = list


def status_document(sources: Sources, now: float) -> dict[str, Any]:
    """Everything about this node, for `relayd status` and the admin listener.

    Args:
        now: Unix time, s.
    """
    snapshot, reloader = sources.live.snapshot, sources.reloader
    accounts = account_rows(sources, now)
    wrong = ailments(reloader, accounts)
    return {
        "version": __version__,
        "node": sources.node,
        "realm": snapshot.relay.realm,
        "started": _time(sources.started),
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


def account_rows(sources: Sources, now: float) -> list[dict[str, Any]]:
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


def result_document(result: Result) -> dict[str, Any]:
    """A reload's result for programs: the answer of the control socket and of the admin listener."""
    return {
        "result": result.result,
        "generation": result.generation,
        "digest": result.digest,
        "revision": result.revision,
        "commit": result.commit,
        "problems": [as_dict(problem) for problem in result.problems],
        "reasons": list(result.reasons),
        "changes": result.changes.as_json() if result.changes is not None else None,
        "changes_text": result.changes.as_text() if result.changes is not None and not result.changes.empty else "",
        "restart_required": list(result.restart_required),
        "dry_run": result.dry_run,
    }


def metrics_text(sources: Sources, now: float) -> str:
    """All metrics in Prometheus's text format."""
    rows = account_families(account_rows(sources, now))
    traffic = traffic_families(sources.in_flight.count(), sources.connections(), sources.tasks(), sources.draining())
    config = config_metrics(config_facts(sources, now))
    return exposition([*config, *traffic, *rows, *sources.more_metrics(), *process_families(sources.started)])


def config_facts(sources: Sources, now: float) -> ConfigFacts:
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


def _running(running: Running, generation: int) -> dict[str, Any]:
    return {
        "generation": generation,
        "digest": running.digest,
        "revision": running.revision,
        "commit": running.commit,
        "dirty": None if running.dirty is None else list(running.dirty),
        "source": running.source,
        "since": _time(running.since),
        "trigger": running.trigger,
        "stored_generation": running.stored,
    }


def _dirty(running: Running) -> str:
    return "unknown" if running.dirty is None else "true" if running.dirty else "false"


def _candidate(candidate: Candidate | None, now: float) -> dict[str, Any] | None:
    if candidate is None:
        return None
    outcome = candidate.outcome
    return {
        "result": outcome.result,
        "digest": outcome.digest,
        "commit": outcome.commit,
        "since": _time(candidate.since),
        "out_of_sync_seconds": round(max(0.0, now - candidate.since), 1),
        "reasons": list(outcome.reasons),
        "problems": [as_dict(problem) for problem in outcome.problems[:PROBLEMS_SHOWN]],
        "more_problems": max(0, len(outcome.problems) - PROBLEMS_SHOWN),
    }


def _watch(sources: Sources) -> dict[str, Any]:
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
