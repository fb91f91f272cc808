"""Process metrics: how this process and its way to the state are doing, for /metrics.

Rule: reads, bounded, and cheap enough for a scrape every few seconds. A figure that this system does not give is left
out. Names of `process_...` are those that Prometheus's own client libraries use.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from relayd import __version__
from relayd.config.snapshot import Account
from relayd.config.source.own_commit import own_commit
from relayd.core.ailments import KINDS, Standing
from relayd.core.durations import Durations
from relayd.daemon.admin import metric_list as m
from relayd.daemon.admin.exposition import Family, Histogram
from relayd.daemon.net.server import ServerStatistics
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.telemetry.trace_queue import TraceQueue

_PROC = Path("/proc/self")


def process_families(started: float) -> list[Family]:
    """CPU, memory and descriptors. `started`: Unix time, s."""
    found = [
        m.BUILD.by({(__version__, own_commit()[:12]): 1}),
        m.STARTED.at(started),
        m.CPU.at(cpu_seconds()),
    ]
    try:
        found.append(m.MEMORY.at(resident()))
        found.append(m.FDS.at(open_descriptors()))
    except (OSError, ValueError, IndexError):
        pass
    return [*found, m.MAX_FDS.at(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]


def cpu_seconds() -> float:
    """s that this process has computed."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def open_descriptors() -> int:
    """How many this process has open; of a daemon only itself and root can see that. Raises: OSError without /proc."""
    return len(os.listdir(_PROC / "fd"))


def known_descriptors() -> int | None:
    """The same; None without /proc."""
    with contextlib.suppress(OSError):
        return open_descriptors()
    return None


def resident() -> int:
    """Bytes of memory that this process has now. Raises: OSError, ValueError, IndexError where nobody says so."""
    return int((_PROC / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def traffic_families(
    calls: int, streams: int, connections: ServerStatistics, tasks: int, draining: bool
) -> list[Family]:
    """What is under way."""
    return [
        m.CALLS_IN_FLIGHT.at(calls),
        m.STREAMS_OPEN.at(streams),
        m.CONNECTIONS_OPEN.at(connections.open),
        m.CONNECTIONS_ACCEPTED.at(connections.accepted),
        m.CONNECTIONS_REFUSED.at(connections.refused),
        m.TASKS.at(tasks),
        m.DRAINING.at(draining),
    ]


def account_families(rows: Iterable[Mapping[str, Any]], accounts: Iterable[Account]) -> list[Family]:
    """Accounts. `rows`: those of `relayd status`."""
    rows = list(rows)
    ceilings = {str(one.id): one.max_concurrency for one in accounts if one.max_concurrency}
    return [
        m.ACCOUNT_SERVES.each({row["id"]: row["serves"] for row in rows}),
        m.ACCOUNT_CONCURRENCY.each(ceilings),
    ]


def attempt_families(accounts: Iterable[str], attempts: Callable[[str], int], leases: int) -> list[Family]:
    """What this process has under way on accounts. `leases`: how many it holds in the store."""
    return [m.ACCOUNT_IN_FLIGHT.each({account: attempts(account) for account in accounts}), m.LEASES.at(leases)]


def ailment_families(found: Standing) -> list[Family]:
    """What is wrong, by kind, and which groups are served."""
    count, service = Counter(one.kind for one in found.ailments), found.service
    well = {group for one in service.accounts if not one.why_not(service.now) for group in one.groups}
    return [
        m.WELL.at(not found.ailments),
        m.READY.at(not found.unready),
        m.AILMENTS.each({kind: count[kind] for kind in KINDS}),
        m.GROUP_SERVES.each({group: group in well for group in service.used_groups}),
    ]


def state_families(state: Batcher) -> list[Family | Histogram]:
    """The way to the state store."""
    session, losses = state.session, state.session.losses()
    stats = session.stats
    return [
        m.STATE_UP.at(session.up),
        m.STATE_REACHED.at(session.reached),
        m.STATE_INFO.each({"sqlite" if session.store.name.startswith("sqlite") else "redis": 1}),
        m.STATE_SECONDS.of(stats.took),
        m.STATE_QUEUED.at(state.queued),
        *(metric.at(getattr(stats, name)) for name, metric in m.STATE_COUNTS.items()),
        m.STATE_LETTERS.at(losses.count),
        m.STATE_SET_ASIDE.at(losses.set_aside),
        m.STATE_LOST.at(losses.unwritten),
        m.STATE_DAMAGED.at(losses.damaged),
        m.STATE_DROPPED.at(losses.dropped),
    ]


def loop_families(lag: Durations, lost: int) -> list[Family | Histogram]:
    """The event loop, and the log's own thread. `lost`: lines."""
    return [m.LOOP_LAG.of(lag), m.LOG_LOST.at(lost)]


def trace_families(traces: TraceQueue) -> list[Family]:
    """Traces on their way to a collector."""
    counts = {"sent": traces.sent, "dropped": traces.dropped, "failed": traces.failed}
    return [m.SPANS.each(counts), m.SPANS_QUEUED.at(traces.queued)]
