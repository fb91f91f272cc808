"""Config orders: how all workers come to run what the reloader decides.

Rule: a config is prepared by all or taken by none. A worker that does not do what all others do within some seconds is
killed: its successor begins with the newest config, and no answer under an old one follows the verdict.

Theory: a copy goes to everybody who is there; it is made against the last one, which everybody has by then, because a
channel keeps the order. Whoever is made meanwhile begins with the last one, and is told what is pending.
"""

from __future__ import annotations

import logging
import os

import attrs
import trio

from relayd.config.snapshot import Snapshot
from relayd.daemon.workers.messages import Commit, Follow
from relayd.daemon.workers.roster import Roster, Worker
from relayd.noun import noun

PREPARING = 60.0  # s for a config to be prepared by everybody
IN_STEP = 5.0  # s for everybody to run it

log = logging.getLogger("relayd.workers")


@noun(kw_only=True)
class PendingConfig:
    """A config that is being prepared. `copy`: a descriptor."""

    snapshot: Snapshot
    number: int
    copy: int


@attrs.define(eq=False)
class ConfigOrders:
    """The workers as followers of a reloader.

    Args:
        roster: everybody.
        base: the config that all of them run, or will, before they carry out anything else.
    """

    roster: Roster
    base: Snapshot
    _number: int = attrs.field(default=0, init=False)
    _pending: PendingConfig | None = attrs.field(default=None, init=False)

    async def prepare(self, snapshot: Snapshot) -> tuple[str, ...]:
        """Have everybody prepare a config. Returns why somebody cannot."""
        try:
            copy = await trio.to_thread.run_sync(_copy_of, snapshot, self.base) if self.roster.workers else -1
        except OSError as error:
            return (f"no copy of it can be made for the workers: {error.strerror or error}",)
        self._number += 1
        pending = self._pending = PendingConfig(snapshot=snapshot, number=self._number, copy=copy)
        for worker in self.roster.workers:
            self._order_pending(worker)
        try:
            reasons = await self._answers(pending.number)
        except BaseException:
            self._end_pending(run=False)
            raise
        if reasons:
            self._end_pending(run=False)
        return reasons

    def commit(self) -> None:
        """Everybody runs what was prepared."""
        if self._pending is not None:
            self.base = self._pending.snapshot
            self._end_pending(run=True)

    def amend(self, snapshot: Snapshot) -> None:
        """Everybody runs this config, unprepared."""
        if self.roster.workers:
            copy = _copy_of(snapshot, self.base)
            self._number += 1
            self._order(Follow(number=self._number, at_once=True), (copy,))
            os.close(copy)
        self.base = snapshot

    async def in_step(self) -> None:
        """Wait until everybody runs what the reloader runs; kill whoever does not get there."""
        with trio.move_on_after(IN_STEP):
            await self._all_in_step()
            return
        for worker in self.roster.workers:
            if not worker.in_step:
                log.error("worker.out_of_step", extra={"worker": worker.number, "pid": worker.pid})
                worker.kill()
        await self._all_in_step()

    # --- newcomers

    async def first_copy(self) -> int:
        """A descriptor with the config that a newcomer begins with; see `welcome`."""
        while True:
            base = self.base
            copy = await trio.to_thread.run_sync(_copy_of, base, None)
            if base is self.base:
                return copy
            os.close(copy)

    def welcome(self, worker: Worker) -> None:
        """Somebody new, who was given `first_copy` at this very moment. Sync."""
        self.roster.workers.append(worker)
        if self._pending is not None:
            self._order_pending(worker)

    # --- within

    def _order_pending(self, worker: Worker) -> None:
        assert self._pending is not None
        if self._pending.copy < 0:  # nobody was there when it was made
            self._pending = attrs.evolve(self._pending, copy=_copy_of(self._pending.snapshot, self.base))
        worker.ordered = self._pending.number
        worker.channel.post(Follow(number=worker.ordered), (self._pending.copy,))

    def _end_pending(self, *, run: bool) -> None:
        pending, self._pending = self._pending, None
        if pending is not None and pending.copy >= 0:
            os.close(pending.copy)
        self._number += 1
        self._order(Commit(number=self._number, run=run))

    def _order(self, order: Follow | Commit, fds: tuple[int, ...] = ()) -> None:
        for worker in self.roster.workers:
            worker.ordered = order.number
        self.roster.post_all(order, fds)

    async def _answers(self, number: int) -> tuple[str, ...]:
        """Why somebody could not carry out an order."""
        with trio.move_on_after(PREPARING):
            await self._all_in_step()
        late = [worker for worker in self.roster.workers if not worker.in_step]
        found = [reason for worker in self.roster.workers if worker.confirmed == number for reason in worker.reasons]
        found += [f"worker {worker.number} (pid {worker.pid}) has not prepared it in time" for worker in late]
        return tuple(dict.fromkeys(found))

    async def _all_in_step(self) -> None:
        while not all(worker.in_step for worker in self.roster.workers):
            await self.roster.news()


def _copy_of(snapshot: Snapshot, base: Snapshot | None) -> int:
    from relayd.daemon.workers.snapshot_copy import copy_of  # it brings pickle: not for a node without workers

    return copy_of(snapshot, base)
