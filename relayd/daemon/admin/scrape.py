"""A scrape of /metrics, without holding up the loop.

Rule: the numbers are taken at one instant, on the loop; what takes time is done before and after it in a thread: the
inventory of a new config, and the text.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from relayd.daemon.admin.metrics import metric_families
from relayd.daemon.admin.prometheus import exposition
from relayd.daemon.admin.status import StatusSources


async def scrape(sources: StatusSources, wall: Callable[[], float]) -> str:
    """All metrics in Prometheus's text format."""
    await trio.to_thread.run_sync(sources.inventory.of, sources.live.snapshot)
    return await trio.to_thread.run_sync(exposition, metric_families(sources, wall()))
