"""Reload tasks: everything that runs for the sake of reloads.

Rule: no decision here. A task that fails is started again: reload may be late, it must not take the daemon with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import attrs
import trio

from relayd.core.alerts.node_events import ReloadDegraded
from relayd.daemon.accounts.node_defects import NodeDefects
from relayd.daemon.events import Events
from relayd.daemon.reload.cluster import Cluster
from relayd.daemon.reload.history import HistoryKeeper
from relayd.daemon.reload.record import ReloadRecord
from relayd.daemon.reload.reloader import Reloader
from relayd.daemon.reload.watch import Watcher
from relayd.noun import noun

if TYPE_CHECKING:
    from relayd.daemon.source.keeper import SourceKeeper

log = logging.getLogger("relayd.reload")

REMIND = 60.0  # s between reminders that the daemon is degraded
RESTART = 1.0  # s before a task that failed is started again


@noun(kw_only=True)
class ReloadTasks:
    """The tasks of one process.

    Args:
        watcher: None where nobody looks for changes on disk.
        source: None where the tree is not pulled.
    """

    defects: NodeDefects
    reloader: Reloader
    record: ReloadRecord
    keeper: HistoryKeeper
    cluster: Cluster
    watcher: Watcher | None
    source: SourceKeeper | None = None
    events: Events = attrs.field(factory=Events)

    async def run(self) -> None:
        """Run them for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reloader.run)
            nursery.start_soon(_again, "remind", self._remind)
            nursery.start_soon(_again, "store", self.keeper.run)
            nursery.start_soon(_again, "fleet", self.cluster.run)
            nursery.start_soon(_again, "defects", self.defects.run)
            if self.watcher is not None:
                nursery.start_soon(_again, "watch", self.watcher.run)
            if self.source is not None:
                if self.source.settings.interval is not None:
                    nursery.start_soon(self._follow, self.source)
                nursery.start_soon(_again, "source", self.source.run)

    async def _follow(self, source: SourceKeeper) -> None:
        """Ask for a reload whenever another commit was taken. Nodes fetch at different times, so none has to wait."""
        while True:
            await source.moved.wait()
            self.reloader.queue.request("source", hurry=True)

    async def _remind(self) -> None:
        while True:
            if self.record.degraded:
                stored = self.record.origin.stored
                self.events.tell(ReloadDegraded(reason=self.record.degraded, stored=stored))
            await trio.sleep(REMIND)


async def _again(name: str, task: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await task()
        except Exception:
            log.exception("reload.task_failed", extra={"task": name})
            await trio.sleep(RESTART)
