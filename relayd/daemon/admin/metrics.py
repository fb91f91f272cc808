"""Metrics of the whole daemon, as a scrape gets them.

Rule: sync, reads only; made from the same sources as the status document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import add

import attrs

from relayd.config.snapshot import Snapshot
from relayd.daemon.admin import metric_list as m
from relayd.daemon.admin.alerts import alert_families
from relayd.daemon.admin.config_metrics import (
    ConfigFacts,
    cluster_metrics,
    config_metrics,
    inventory_metrics,
    source_metrics,
)
from relayd.daemon.admin.exposition import Family, Histogram, exposition
from relayd.daemon.admin.process_metrics import (
    account_families,
    ailment_families,
    attempt_families,
    loop_families,
    process_families,
    state_families,
    trace_families,
    traffic_families,
)
from relayd.daemon.admin.status import account_rows, task_count
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.workers.crew import Crew
from relayd.daemon.workers.figures import summed


def metrics_text(sources: StatusSources, now: float) -> str:
    """All metrics in Prometheus's text format but those that the store has to be asked for. `now`: Unix time, s."""
    return exposition(metric_families(sources, now))


def metric_families(sources: StatusSources, now: float, limits: Sequence[Family] = ()) -> list[Family | Histogram]:
    """All metrics of this node, as they are now.

    Args:
        now: Unix time, s.
        limits: how the limits of keys stand; () where the store could not be asked.
    """
    ours = own_families(sources, now, limits)
    return [*together(ours, sources.crew), *worker_families(sources.crew)]


def own_families(sources: StatusSources, now: float, limits: Sequence[Family]) -> list[Family | Histogram]:
    """Those of this process, and what the node has but once."""
    calls, connections = sources.in_flight.count(), sources.server.statistics
    accounts = sources.live.snapshot.accounts.values()
    pulled = sources.source.record if sources.source is not None else None
    return [
        *config_metrics(config_facts(sources, now)),
        *(source_metrics(pulled.age(now), pulled.held is not None, pulled.fetches) if pulled is not None else ()),
        *inventory_metrics(sources.inventory.of(sources.live.snapshot), now),
        *(cluster_metrics(sources.cluster.nodes(), now, sources.cluster.store_ahead) if sources.cluster.known else ()),
        *traffic_families(calls, sources.streams(), connections, task_count(), sources.draining()),
        *account_families(account_rows(sources, now), accounts),
        *attempt_families(sources.live.snapshot.accounts, sources.pool.in_flight, sources.leases()),
        *limits,
        *ailment_families(sources.standing(now)),
        *sources.call_metrics.families(),
        *state_families(sources.state),
        *alert_families(sources.alerting),
        *loop_families(sources.lag.durations, sources.output.lost),
        *(trace_families(sources.traces) if sources.traces is not None else ()),
        *process_families(sources.started),
    ]


def config_facts(sources: StatusSources, now: float) -> ConfigFacts:
    """The numbers behind the config metrics."""
    record, origin, candidate = sources.record, sources.record.origin, sources.record.candidate
    return ConfigFacts(
        now=now,
        digest=origin.digest,
        commit=origin.commit,
        applied=origin.since,
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


def together(ours: Iterable[Family | Histogram], crew: Crew) -> list[Family | Histogram]:
    """Our families, each with what the workers have of it, those included that have ended."""
    figures = [one for worker in crew.workers for one in worker.report.figures]
    more = {one.name: one for one in summed([*figures, *crew.past.figures])}
    found: list[Family | Histogram] = []
    for one in ours:
        other = more.get(one.metric.name)
        if other is not None and isinstance(one, Histogram):
            counts = tuple(map(add, one.counts, other.counts))
            one = attrs.evolve(one, counts=counts, total=one.total + other.samples[0][1])
        elif other is not None and isinstance(one, Family):
            values = Counter(dict(one.samples))
            values.update(dict(other.samples))
            one = attrs.evolve(one, samples=tuple(sorted(values.items())))
        found.append(one)
    return found


def worker_families(crew: Crew) -> list[Family]:
    """The workers themselves."""
    stages = Counter(one.stage for one in crew.workers)
    reports = {str(one.number): one.report for one in crew.workers if one.stage == "serving"}
    return [
        m.WORKERS.each({stage: stages[stage] for stage in ("starting", "serving", "draining")}),
        m.WORKERS_REPLACED.each({reason: crew.past.replaced[reason] for reason in ("died", "memory", "asked")}),
        m.WORKER_MEMORY.each({number: report.memory for number, report in reports.items()}),
        m.WORKER_CALLS.each({number: report.calls for number, report in reports.items()}),
        m.WORKER_CONNECTIONS.each({number: report.connections.open for number, report in reports.items()}),
    ]
