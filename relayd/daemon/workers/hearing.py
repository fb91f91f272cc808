"""Hearing: what workers say, and what is made of it in their supervisor, until each of them is gone.

Rule: a worker is attended until what it left in the state store is settled. Its last report stays in the node's sums.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import attrs
import trio

from relayd.core.access.throttle import BadKeys
from relayd.core.alerts.limit_watch import LimitWatch
from relayd.core.balancing.pool import Pool
from relayd.core.receipt import Receipt
from relayd.daemon.events import Events
from relayd.daemon.workers.figures import PastWorkers
from relayd.daemon.workers.messages import (
    BadKeySeen,
    ChannelMessage,
    EndedCalls,
    Leaving,
    OrderDone,
    ToldEvents,
    WorkerReport,
    WorkerUp,
)
from relayd.daemon.workers.pace import Restarts
from relayd.daemon.workers.roster import Roster, Worker

if TYPE_CHECKING:
    from relayd.daemon.workers.forking import Exited

ENDED = 2.0  # s between the end of a channel and word of how its process ended
MOST_CODES = 512

log = logging.getLogger("relayd.workers")


@attrs.define(eq=False, kw_only=True)
class Hearing:
    """Hears all workers.

    Args:
        record: takes the receipts of the workers' calls; sync, must not raise.
        events: this process's, which hears of theirs for the alerts.
        bad_keys, limits, pool: this process's, which hear what theirs have noted.
        bury: settles what a worker left that died, given its life.
        patience: s that the calls of one that is replaced may go on.
        wall: Unix time, s.
        attended: how many are heard, or were and left something that is being settled.
    """

    roster: Roster
    restarts: Restarts
    record: Callable[[Receipt], None]
    events: Events
    bad_keys: BadKeys
    limits: LimitWatch
    pool: Pool
    bury: Callable[[str], Awaitable[None]]
    patience: Callable[[], float]
    wall: Callable[[], float]
    past: PastWorkers = attrs.field(factory=PastWorkers, init=False)
    attended: int = attrs.field(default=0, init=False)
    _codes: dict[int, int] = attrs.field(factory=dict, init=False)  # how processes ended, by pid

    async def attend(self, worker: Worker) -> None:
        """Hear what a worker says, until it is gone and all that it left is settled."""
        self.attended += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.channel.deliver)
                while (found := await worker.channel.receive()) is not None:
                    worker.heard = trio.current_time()
                    self._hear(worker, found[0])
                nursery.cancel_scope.cancel()
            await self._see_off(worker)
        finally:
            self.attended -= 1
            self.roster.tell()

    def hear_end(self, ended: Exited) -> None:
        """A process has ended. Sync."""
        if any(worker.pid == ended.pid for worker in self.roster.workers) or len(self._codes) < MOST_CODES:
            self._codes[ended.pid] = ended.code
        self.roster.tell()

    def part_with(self, worker: Worker) -> None:
        """A worker is gone. Sync."""
        worker.channel.close()
        self.roster.workers.remove(worker)
        worker.row.clear()
        self.past.add(worker.report)
        self.roster.tell()

    async def _see_off(self, worker: Worker) -> None:
        self.part_with(worker)
        async with trio.open_nursery() as nursery:  # its slots are free at once, and what is said of it takes its time
            if worker.life:
                nursery.start_soon(self.bury, worker.life)
            await self._tell_end(worker)

    async def _tell_end(self, worker: Worker) -> None:
        if worker.leaving:
            extra = {"worker": worker.number, "pid": worker.pid, "code": await self._code_of(worker)}
            log.info("worker.ended", extra=extra)
        else:
            self.past.replaced["died"] += 1
            now = trio.current_time()
            pause = self.restarts.died(worker.number, now - worker.born, now)
            self.roster.tell()
            extra = {"worker": worker.number, "pid": worker.pid, "code": await self._code_of(worker)}
            log.error("worker.died", extra={**extra, "calls": worker.report.calls, "again_s": pause})

    async def _code_of(self, worker: Worker) -> int | None:
        """How its process ended; None where nobody knows."""
        with trio.move_on_after(ENDED):
            while worker.pid not in self._codes:
                await self.roster.news()
        return self._codes.pop(worker.pid, None)

    # --- what they say

    def _hear(self, worker: Worker, said: ChannelMessage) -> None:
        match said:
            case EndedCalls():
                for receipt in said.receipts:
                    self.record(receipt)
                return
            case WorkerReport():
                self._hear_report(worker, said)
            case ToldEvents():
                import pickle  # loaded since there are workers

                for event in pickle.loads(said.pickled):
                    self.events.pass_on(event)
            case OrderDone():
                worker.confirmed, worker.reasons = said.number, said.reasons
            case WorkerUp():
                self._hear_up(worker, said.life)
            case Leaving():
                worker.stage = "draining"
                self.past.replaced["asked"] += 1
            case BadKeySeen():
                self._hear_bad_key(worker, said)
            case _:
                raise AssertionError(f"a worker does not say {type(said).__name__}")
        self.roster.tell()

    def _hear_report(self, worker: Worker, report: WorkerReport) -> None:
        worker.report, worker.answered = report, max(worker.answered, report.number)
        self.limits.hear(report.near)
        for account, at in report.used.items():
            self.pool.hear_used(account, at)

    def _hear_up(self, worker: Worker, life: str) -> None:
        worker.life = life
        if worker.leaving:
            return
        worker.stage = "serving"
        log.info("worker.serves", extra={"worker": worker.number, "pid": worker.pid})
        for other in self.roster.workers:
            if other is not worker and other.number == worker.number and not other.leaving:
                other.dismiss(self.patience(), gently=True)

    def _hear_bad_key(self, worker: Worker, said: BadKeySeen) -> None:
        self.bad_keys.count(said.address, self.wall())
        for other in self.roster.workers:
            if other is not worker:
                other.channel.post(said)
