"""A scrape of /metrics, without holding up the loop.

Rule: the numbers are taken at one instant, on the loop; what takes time is done before and after it in threads: the
inventory of a new config, what is used of limits (the store is asked for it), and the text.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from relayd.daemon.admin.exposition import exposition
from relayd.daemon.admin.key_limits import ask_levels, limit_families, limited_keys
from relayd.daemon.admin.metrics import metric_families
from relayd.daemon.admin.status_sources import StatusSources


async def scrape(sources: StatusSources, wall: Callable[[], float]) -> str:
    """All metrics in Prometheus's text format."""
    snapshot = sources.live.snapshot
    await trio.to_thread.run_sync(sources.inventory.of, snapshot)
    keys = await trio.to_thread.run_sync(limited_keys, snapshot, sources.call_metrics.keys(), round(wall() * 1000))
    levels = await ask_levels(sources.state, keys)
    limits = await trio.to_thread.run_sync(limit_families, levels) if levels is not None else ()
    await sources.look_now()
    return await trio.to_thread.run_sync(exposition, metric_families(sources, wall(), limits))
