"""Crew: the workers of a node, made, watched and replaced by their supervisor.

Rule: there are as many as `[server].workers` says. One that dies is replaced, at once the first time and ever more
slowly where it keeps dying (pace.py); one that hangs is killed first; one that has become too large is drained once its
successor serves. With one process wanted there are none: this one serves by itself.

Theory: every second, and whenever something happens, the crew looks at what there is and does what is missing. How one
is made (making.py), what is made of what they say (hearing.py) and who accepts (shared_sockets.py) is told there.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count

import attrs
import trio

from relayd.config.snapshot import Server
from relayd.core.live import Live
from relayd.daemon.workers.figures import PastWorkers
from relayd.daemon.workers.hearing import ENDED, Hearing
from relayd.daemon.workers.making import WorkerMaker
from relayd.daemon.workers.messages import AskReport, CutCalls, DrainWorker, ReopenLog, StopAhead, ToldOffers
from relayd.daemon.workers.pace import Renewals, Restarts, Silence, Vacancies
from relayd.daemon.workers.roster import Roster, Worker
from relayd.daemon.workers.shared_sockets import SharedSockets

LOOK = 1.0  # s between looks at everybody
ASKED = 1.0  # s that somebody who looks waits for reports
LAST_WORDS = 10.0  # s for calls that are cut to be told so, booked and journaled
STAY = 20.0  # s that workers serve on while their supervisor begins anew; it takes a second or two as a rule

POSSIBLE = hasattr(os, "memfd_create")  # where a node can have several processes: Linux

log = logging.getLogger("relayd.workers")


@attrs.define(eq=False, kw_only=True)
class Crew:
    """All workers of a node.

    Args:
        sockets: that they serve on, or this process while no worker does.
        offers: what upstreams have told this process of their models, by account: another table once there is more.
        silence: who has said nothing for too long.
        asked: how many processes a config wants to serve on this node.
    """

    live: Live
    roster: Roster
    sockets: SharedSockets
    hearing: Hearing
    maker: WorkerMaker
    restarts: Restarts
    offers: Callable[[], Mapping[str, object]]
    silence: Silence
    asked: Callable[[Server], int]
    _renewals: Renewals = attrs.field(factory=Renewals, init=False)
    _vacancies: Vacancies = attrs.field(factory=Vacancies, init=False)
    _let_go: bool = attrs.field(default=False, init=False)
    _warned: bool = attrs.field(default=False, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _next: Callable[[], int] = attrs.field(factory=lambda: count(1).__next__, init=False, repr=False)

    @property
    def workers(self) -> Sequence[Worker]:
        """Everybody; nobody where this process serves by itself."""
        return self.roster.workers

    @property
    def past(self) -> PastWorkers:
        """What is left of those that have ended."""
        return self.hearing.past

    @property
    def _settings(self) -> Server:
        return self.live.snapshot.relay.server

    # --- life

    def wanted(self) -> int:
        """How many processes are to serve; 1 = this one."""
        wanted = self.asked(self._settings)
        if wanted == 1 or POSSIBLE:
            return wanted
        if not self._warned:
            log.warning("worker.unsupported", extra={"wanted": wanted, "hint": "run one relayd for each processor"})
            self._warned = True
        return 1

    async def run(
        self, sockets: Iterable[socket.socket], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve on `sockets`, which are owned from now on, until drained. Our own server must run already."""
        self.sockets.accepts = self.wanted() == 1
        async with trio.open_nursery() as nursery:
            making = await nursery.start(self.maker.run)
            try:
                for sock in sockets:
                    self.sockets.listen(sock)
                while not self._stopping and not self.sockets.accepts and not self._complete():
                    await self._look()
                task_status.started()
                while not self._let_go and (not self._stopping or self._somebody()):
                    await self._look()
            finally:
                if not self._let_go:
                    with trio.CancelScope(shield=True):
                        await self._end()
                making.cancel()

    def announce_stop(self) -> None:
        """Have every /readyz tell that the node is about to stop. Sync."""
        self.roster.post_all(StopAhead())

    def drain(self, patience: float) -> None:
        """Accept no more, anywhere; calls may go on for `patience` s. Sync."""
        self._stopping = True
        for worker in self.workers:
            worker.dismiss(patience, gently=False)
        self.sockets.close()
        self.roster.tell()

    def let_go(self) -> None:
        """Leave everybody alone: they serve on for STAY s without us, then finish. The sockets stay open. Sync."""
        self._stopping = self._let_go = True
        for worker in self.workers:
            worker.channel.post(DrainWorker(patience=self._settings.drain_timeout, gently=True, stay=STAY))
        self.sockets.let_go()
        self.roster.tell()

    def reopen(self) -> None:
        """Have everybody open the log's file anew. Sync."""
        self.roster.post_all(ReopenLog())

    async def _look(self) -> None:
        """See to everybody; then wait for something to happen."""
        now = trio.current_time()
        if not self._stopping:
            self._see_to_places(self.wanted(), now)
            self._tell_offers()
        still = self.silence.stood_still(now)
        for worker in self.workers:
            worker.heard = min(now, worker.heard + still)
            self._note_silence(worker, now)
            if worker.pid and not worker.killed and self.silence.hangs(worker.heard, now):
                log.error("worker.hangs", extra={"worker": worker.number, "pid": worker.pid})
                worker.kill()
        with trio.move_on_after(LOOK):
            await self.roster.news()

    def _note_silence(self, worker: Worker, now: float) -> None:
        """Say once that a worker is silent: a stop, or whoever waits for its last calls, waits for it alone maybe."""
        silent = bool(worker.pid) and not worker.killed and self.silence.lasts(worker.heard, now)
        if silent and not worker.silent:
            extra = {"worker": worker.number, "pid": worker.pid, "stage": worker.stage}
            log.warning("worker.silent", extra=extra)
        worker.silent = silent

    async def _end(self) -> None:
        """Whoever is left is cut, and killed where that does not help. What they left is settled."""
        self._stopping = True
        self.sockets.close()
        self.roster.post_all(CutCalls())
        with trio.move_on_after(LAST_WORDS):
            await self._all_gone()
        for worker in self.workers:
            worker.kill()
        with trio.move_on_after(ENDED):
            await self._all_gone()
        self.maker.close()

    async def _all_gone(self) -> None:
        while self._somebody():
            await self.roster.news()

    def _somebody(self) -> bool:
        """Whether there are workers, or what is left of one is being settled."""
        return bool(self.workers or self.maker.making or self.hearing.attended)

    # --- how many there are

    def _complete(self) -> bool:
        return self.roster.serving() >= set(range(1, self.wanted() + 1))

    def _see_to_places(self, wanted: int, now: float) -> None:
        if wanted > 1:
            self._fill_places(wanted, now)
            if self.sockets.accepts and self._complete():
                self.sockets.leave_to_workers()
        elif not self.sockets.accepts:
            self.sockets.take_over()
        for worker in self.workers:
            if not worker.leaving and (wanted == 1 or worker.number > wanted):
                worker.dismiss(self._settings.drain_timeout, gently=True)
        self._renew_large(now)

    def _fill_places(self, wanted: int, now: float) -> None:
        places = range(1, wanted + 1)
        there = self.roster.staying() | self.maker.making.keys()
        for number in places:
            if number not in there and self.restarts.due(number, now):
                self.maker.make(number)
        self._vacancies.see(set(places) - self.roster.serving(), now)

    def _renew_large(self, now: float) -> None:
        """Replace a worker that has become too large, one at a time."""
        most = self._settings.max_memory
        if not most or self.maker.making or self.roster.succeeding():
            return
        for worker in self.workers:
            large = worker.stage == "serving" and worker.report.memory > most and self.restarts.due(worker.number, now)
            if large and self._renewals.due(worker.number, now - worker.born):
                self.past.replaced["memory"] += 1
                extra = {"worker": worker.number, "pid": worker.pid, "memory": worker.report.memory, "most": most}
                log.warning("worker.renewed", extra=extra)
                self.maker.make(worker.number)
                return

    def _tell_offers(self) -> None:
        """What upstreams have answered this process since each worker was told."""
        offers = self.offers()
        for worker in self.workers:
            if worker.offers is not offers:
                import pickle  # loaded since there are workers

                news = {name: offer for name, offer in offers.items() if worker.offers.get(name) is not offer}
                worker.channel.post(ToldOffers(pickled=pickle.dumps(news)))
                worker.offers = offers

    # --- looking at them

    def ailments(self) -> tuple[str, ...]:
        """What somebody should look at. A worker that has only begun to start is none."""
        wanted = self.wanted()
        if wanted == 1:
            return ()
        now, lacking = trio.current_time(), sorted(set(range(1, wanted + 1)) - self.roster.serving())
        stuck = [one for one in lacking if self.restarts.repeated(one) or self._vacancies.lasts(one, now)]
        found = [f"worker {number} does not serve" + self.restarts.told(number) for number in stuck]
        serving = [one for one in self.workers if one.stage == "serving"]
        silent = [one for one in self.workers if one.stage != "starting" and self.silence.lasts(one.heard, now)]
        found += [
            f"worker {one.number} says nothing while it is waited for, and is killed if that lasts"
            if one.leaving
            else f"worker {one.number} says nothing, and is replaced if that lasts"
            for one in silent
        ]
        away = [(one, one.report.store) for one in serving if one.report.store]
        return (*found, *(f"worker {one.number} does not reach the state store: {why}" for one, why in away))

    async def look_now(self) -> None:
        """Have fresh reports of everybody, for somebody who waits: not for long."""
        number = self._next()
        self.roster.post_all(AskReport(number=number))
        with trio.move_on_after(ASKED):
            while any(one.answered < number for one in self.workers if one.stage == "serving"):
                await self.roster.news()
