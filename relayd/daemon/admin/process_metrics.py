"""Process metrics: how this process and its way to the state are doing, for /metrics.

Rule: reads, bounded, and cheap enough for a scrape every few seconds. A figure that this system does not give is left
out. Names of `process_...` are those that Prometheus's own client libraries use.
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from relayd import __version__
from relayd.core.ailments import KINDS, Standing
from relayd.daemon.admin.prometheus import Family, family, gauge
from relayd.daemon.net.server import ServerStatistics
from relayd.daemon.store.batcher import Batcher

_PROC = Path("/proc/self")


def process_families(started: float) -> list[Family]:
    """CPU, memory and descriptors. `started`: Unix time, s."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = [
        gauge("relayd_build_info", "The version that runs.", 1, version=__version__),
        gauge("process_start_time_seconds", "When the process started.", started),
        _counter("process_cpu_seconds_total", "CPU time, user and system.", used.ru_utime + used.ru_stime),
    ]
    try:
        pages = int((_PROC / "statm").read_text().split()[1])
        found.append(gauge("process_resident_memory_bytes", "Resident memory.", pages * os.sysconf("SC_PAGE_SIZE")))
        found.append(gauge("process_open_fds", "Open file descriptors.", len(os.listdir(_PROC / "fd"))))
    except (OSError, ValueError, IndexError):
        pass
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [*found, gauge("process_max_fds", "Most descriptors that may be open.", limit)]


def traffic_families(calls: int, connections: ServerStatistics, tasks: int, draining: bool) -> list[Family]:
    """What is under way."""
    return [
        gauge("relayd_calls_in_flight", "Calls under way.", calls),
        gauge("relayd_connections_open", "Open client connections.", connections.open),
        _counter("relayd_connections_accepted_total", "Client connections accepted.", connections.accepted),
        _counter("relayd_connections_refused_total", "Client connections over max_connections.", connections.refused),
        gauge("relayd_tasks", "Tasks of the event loop.", tasks),
        gauge("relayd_draining", "1 while the daemon is about to stop.", draining),
    ]


def account_families(rows: Iterable[Mapping[str, Any]]) -> list[Family]:
    """Accounts, from the rows of `relayd status`."""
    rows = list(rows)
    return [
        family(
            "relayd_account_serves",
            "gauge",
            "1 while an account would take a call; `relayd status` says why not.",
            {(("account", row["id"]),): float(row["serves"]) for row in rows},
        ),
        family(
            "relayd_account_calls_in_flight",
            "gauge",
            "Attempts on an account that have not ended.",
            {(("account", row["id"]),): float(row["in_flight"]) for row in rows},
        ),
    ]


def ailment_families(found: Standing) -> list[Family]:
    """What is wrong, by kind, and which groups are served."""
    count, service = Counter(one.kind for one in found.ailments), found.service
    well = {group for one in service.accounts if not one.why_not(service.now) for group in one.groups}
    return [
        gauge("relayd_well", "1 while nothing is wrong; `relayd status` says what is.", not found.ailments),
        gauge("relayd_ready", "1 while /readyz is 200.", not found.unready),
        family(
            "relayd_ailments",
            "gauge",
            "What is wrong, by kind; `relayd status` says it in words.",
            {(("kind", kind),): float(count[kind]) for kind in KINDS},
        ),
        family(
            "relayd_group_serves",
            "gauge",
            "1 while some account of a group that keys use can serve.",
            {(("group", group),): float(group in well) for group in service.used_groups},
        ),
    ]


def state_families(state: Batcher) -> list[Family]:
    """The way to the state store."""
    stats, losses = attrs.asdict(state.stats), state.losses()
    counters = {
        "operations": "Operations carried out.",
        "batches": "Batches that they went in.",
        "unanswered": "Questions that failed, because the store was away or late.",
        "journaled": "Settlements written to the journal on disk.",
        "replayed": "Settlements replayed from it.",
        "told_again": "Settlements told again to a store that had been replaced.",
        "dropped": "Operations without lasting effect that were given up.",
        "failed": "Operations that the store refused.",
        "outages": "Times that the store went away.",
    }
    return [
        gauge("relayd_state_up", "1 while the state store answers.", state.up),
        gauge("relayd_state_reached", "1 once the state store has answered since the start.", state.reached),
        gauge("relayd_state_queued", "Operations that wait for the store.", state.queued),
        *(_counter(f"relayd_state_{name}_total", meaning, stats[name]) for name, meaning in counters.items()),
        gauge("relayd_state_dead_letters", "Refused settlements in this node's dead-letter file.", losses.count),
        _counter("relayd_state_set_aside_total", "Settlements that the store refused, set aside.", losses.set_aside),
        _counter("relayd_state_lost_total", "Of the refused, those that could not be set aside.", losses.unwritten),
        _counter("relayd_state_journal_damaged_total", "Journal lines that did not add up.", losses.damaged),
        _counter("relayd_state_journal_dropped_total", "Journal entries lost to a full disk.", losses.dropped),
    ]


def _counter(name: str, meaning: str, value: float) -> Family:
    return family(name, "counter", meaning, {(): value})
