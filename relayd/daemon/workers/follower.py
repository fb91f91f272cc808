"""Follower: the configs of a worker, as its supervisor orders them.

Rule: what can fail is done in a thread, before the config runs; the swap and what follows it are sync, as in a reload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs
import trio

from relayd.config.snapshot import Snapshot
from relayd.core.live import Live
from relayd.daemon.reload.adoption import Adoption
from relayd.daemon.reload.prepare import Preparation, Unprepared
from relayd.daemon.workers.snapshot_copy import from_copy

log = logging.getLogger("relayd.workers")


@attrs.define(eq=False, kw_only=True)
class Follower:
    """Runs one config after the other.

    Args:
        preparation: opens secrets; it has no listeners.
        adoption: what follows a swap.
    """

    live: Live
    preparation: Preparation
    adoption: Adoption
    _prepared: Snapshot | None = attrs.field(default=None, init=False, repr=False)

    async def prepare(self, fd: int) -> tuple[str, ...]:
        """Prepare the config of a copy. Returns why it cannot be run here; () when it can."""
        old = self.live.snapshot
        try:
            new = await trio.to_thread.run_sync(from_copy, fd, old)
            prepared = await trio.to_thread.run_sync(self.preparation.prepare, old, new)
        except Unprepared as error:
            return error.reasons
        except Exception as error:
            log.exception("worker.prepare_failed")
            return (f"an internal error of a worker: {type(error).__name__}",)
        self._prepared = prepared.snapshot
        return ()

    def commit(self, *, run: bool) -> None:
        """Run what was prepared, or forget it. Sync."""
        prepared, self._prepared = self._prepared, None
        if run and prepared is not None:
            self._change(self.live.swap, prepared)

    async def take(self, fd: int) -> None:
        """Run the config of a copy at once: what changes in it needs no preparation."""
        new = await trio.to_thread.run_sync(from_copy, fd, self.live.snapshot)
        try:
            new = (await trio.to_thread.run_sync(self.preparation.prepare, self.live.snapshot, new)).snapshot
        except Unprepared as error:
            log.warning("worker.unprepared", extra={"reasons": list(error.reasons)})
        self._change(self.live.amend, new)

    def _change(self, put: Callable[[Snapshot], None], new: Snapshot) -> None:
        old = self.live.snapshot
        put(new)
        try:
            self.adoption.adopt(old, new)
        except Exception:  # the new config runs; what only follows it must not undo that
            log.exception("reload.adopt_failed")
