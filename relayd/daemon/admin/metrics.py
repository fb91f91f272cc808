"""Metrics of the whole daemon, as a scrape gets them.

Rule: sync, reads only; made from the same sources as the status document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from relayd.config.snapshot import Snapshot
from relayd.daemon.admin.process_metrics import (
    account_families,
    ailment_families,
    log_families,
    process_families,
    state_families,
    traffic_families,
)
from relayd.daemon.admin.prometheus import (
    ConfigFacts,
    Family,
    Histogram,
    cluster_metrics,
    config_metrics,
    exposition,
    inventory_metrics,
    source_metrics,
)
from relayd.daemon.admin.status import StatusSources, account_rows, task_count


def metrics_text(sources: StatusSources, now: float) -> str:
    """All metrics in Prometheus's text format. `now`: Unix time, s."""
    return exposition(metric_families(sources, now))


def metric_families(sources: StatusSources, now: float) -> list[Family | Histogram]:
    """All metrics, as they are now. `now`: Unix time, s."""
    calls, connections = sources.in_flight.count(), sources.server.statistics
    pulled = sources.source.record if sources.source is not None else None
    return [
        *config_metrics(config_facts(sources, now)),
        *(source_metrics(pulled.age(now), pulled.held is not None, pulled.fetches) if pulled is not None else ()),
        *inventory_metrics(sources.inventory.of(sources.live.snapshot), now),
        *(cluster_metrics(sources.cluster.nodes(), now) if sources.cluster.known else ()),
        *traffic_families(calls, connections, task_count(), sources.draining()),
        *account_families(account_rows(sources, now)),
        *ailment_families(sources.standing(now)),
        *sources.call_metrics.families(),
        *state_families(sources.state),
        *log_families(sources.output.lost),
        *process_families(sources.started),
    ]


def config_facts(sources: StatusSources, now: float) -> ConfigFacts:
    """The numbers behind the config metrics."""
    record, origin, candidate = sources.record, sources.record.origin, sources.record.candidate
    return ConfigFacts(
        now=now,
        digest=origin.digest,
        commit=origin.commit,
        dirty="unknown" if origin.dirty is None else "true" if origin.dirty else "false",
        in_step=candidate is None,
        out_since=candidate.since if candidate is not None else 0.0,
        succeeded=record.succeeded,
        rounds={(trigger, result): n for (trigger, result), n in record.rounds.items()},
        seconds=record.seconds,
        held=bool(record.hold) or (candidate is not None and candidate.outcome.result == "held"),
        degraded=bool(record.degraded),
        restart_required=len(record.restart_required),
        generation=sources.live.generation,
        generations_live=sources.live.alive(),
        backend=sources.watcher.backend if sources.watcher is not None else "off",
        objects=_objects(sources.live.snapshot, sources.inventory.of(sources.live.snapshot).key_counts(now)),
    )


def _objects(snapshot: Snapshot, keys: Mapping[str, int]) -> Mapping[tuple[str, str], int]:
    """How many accounts and keys there are, by kind and state."""
    count: Counter[tuple[str, str]] = Counter()
    for account in snapshot.accounts.values():
        denied = account.id in snapshot.deny.accounts
        count["account", "denied" if denied else "active" if account.enabled else "disabled"] += 1
    return count + Counter({("key", state): number for state, number in keys.items()})
