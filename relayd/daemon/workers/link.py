"""Link: a worker's end of the channel: what it is told, and what it tells.

Rule: orders are carried out one after the other, in their order. Telling is sync and costs a call next to nothing: what
has ended is told of together, some hundredths of a second later. A supervisor that is gone is an order to drain.
"""

from __future__ import annotations

import logging
import pickle
import signal
import socket
from collections.abc import Callable
from typing import Any, assert_never

import attrs
import trio

from relayd.core.access.throttle import BadKeys
from relayd.core.receipt import Receipt
from relayd.daemon.events import Events
from relayd.daemon.net.server import HttpServer
from relayd.daemon.workers.channel import Channel
from relayd.daemon.workers.follower import Follower
from relayd.daemon.workers.messages import (
    AskReport,
    BadKeySeen,
    Commit,
    CutCalls,
    DrainWorker,
    EndedCalls,
    Follow,
    Leaving,
    ListenOn,
    OrderDone,
    ReopenLog,
    StopAhead,
    ToldEvents,
    ToldOffers,
    UnlistenOn,
    WorkerOrder,
    WorkerReport,
    WorkerUp,
)

EVERY = 1.0  # s between reports
SOON = 0.05  # s that an ended call waits for others
TOGETHER = 64  # of them in one message, of about 1 KB each
MOST_UNTOLD = 10_000
HANGS = 60  # s; a supervisor has noticed by then

log = logging.getLogger("relayd.workers")


@attrs.define(eq=False)
class WorkerTeller:
    """What a worker tells its supervisor of its own accord."""

    channel: Channel
    _ended: list[Receipt] = attrs.field(factory=list, init=False, repr=False)
    _some: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    def record(self, receipt: Receipt) -> None:
        """A call has ended. Sync, does not raise."""
        if len(self._ended) < MOST_UNTOLD:
            self._ended.append(receipt)
            self._some.set()

    def tell_bad_key(self, address: str) -> None:
        """A key was refused here. Sync."""
        self.channel.post(BadKeySeen(address=address))

    def tell_up(self, life: str) -> None:
        """This worker serves. Sync."""
        self.channel.post(WorkerUp(life=life))

    def tell_leaving(self) -> None:
        """This worker was told to end by somebody else. Sync."""
        self.channel.post(Leaving())

    async def tell_always(self) -> None:
        """Tell of calls that have ended, for ever."""
        while True:
            await self._some.wait()
            await trio.sleep(SOON)
            self.tell_ended()

    def tell_ended(self) -> None:
        """Tell of the calls that have ended. Sync."""
        self._some = trio.Event()
        while self._ended and not self.channel.crowded:
            some, self._ended = self._ended[:TOGETHER], self._ended[TOGETHER:]
            self.channel.post(EndedCalls(receipts=tuple(some)))


@attrs.define(eq=False, kw_only=True)
class SupervisorLink:
    """What a worker is told and asked by its supervisor.

    Args:
        learn: hears what upstreams offer.
        report: how this worker is, given the number of the question.
        drain: begins the end of this worker: patience in s, and whether the node serves on.
        announce_stop: has /readyz tell that the node is about to stop.
        cut: ends it now.
        reopen: opens the log's file anew. Raises: OSError.
        wall: Unix time, s.
    """

    channel: Channel
    teller: WorkerTeller
    events: Events
    server: HttpServer
    follower: Follower
    bad_keys: BadKeys
    learn: Callable[[Any], None]
    report: Callable[[int], WorkerReport]
    drain: Callable[[float, bool], None]
    announce_stop: Callable[[], None]
    cut: Callable[[], None]
    reopen: Callable[[], None]
    wall: Callable[[], float]
    _ends: bool = attrs.field(default=False, init=False)  # the node does
    _stay: float = attrs.field(default=0.0, init=False)
    _sockets: dict[int, socket.socket] = attrs.field(factory=dict, init=False, repr=False)

    async def report_always(self) -> None:
        """Tell how this worker is, for ever."""
        while True:
            signal.alarm(HANGS)  # whose default ends a process; one that hangs may have no supervisor to end it
            if not self.channel.crowded:
                self.channel.post(self.report(0))
                if events := self.events.take():
                    self.channel.post(ToldEvents(pickled=pickle.dumps(events)))
            await trio.sleep(EVERY)

    async def obey(self) -> None:
        """Carry out orders for as long as there is a supervisor; then drain."""
        while (found := await self.channel.receive()) is not None:
            order, fds = found
            if isinstance(order, Follow | ListenOn) and not fds:
                self._miss(order)
            else:
                await self._carry_out(order, fds)  # type: ignore[arg-type]
        if self._ends:  # whoever told the node to stop has killed the supervisor, and has no more patience
            self.cut()
        if not self._stay:
            log.warning("worker.orphaned")
        await trio.sleep(self._stay)
        self.drain(self.follower.live.snapshot.relay.server.drain_timeout, self._stay > 0)

    async def _carry_out(self, order: WorkerOrder, fds: list[int]) -> None:
        match order:
            case Follow():
                reasons: tuple[str, ...] = ()
                if order.at_once:
                    await self.follower.take(fds[0])
                else:
                    reasons = await self.follower.prepare(fds[0])
                self.channel.post(OrderDone(number=order.number, reasons=reasons))
            case Commit():
                self.follower.commit(run=order.run)
                self.channel.post(OrderDone(number=order.number))
            case ListenOn():
                self._sockets[order.socket] = sock = socket.socket(fileno=fds[0])
                self.server.listen(sock)
            case UnlistenOn():
                if (old := self._sockets.pop(order.socket, None)) is not None:
                    self.server.unlisten(old)
            case DrainWorker():
                if order.stay:
                    self._stay = order.stay
                else:
                    self._ends = not order.gently
                    self.drain(order.patience, order.gently)
            case StopAhead():
                self.announce_stop()
            case CutCalls():
                self.cut()
            case ReopenLog():
                self._reopen()
            case AskReport():
                self.teller.tell_ended()
                self.channel.post(self.report(order.number))
            case ToldOffers():
                self.learn(pickle.loads(order.pickled))
            case BadKeySeen():
                self.bad_keys.count(order.address, self.wall())
            case _:
                assert_never(order)

    def _miss(self, order: Follow | ListenOn) -> None:
        """An order came without its descriptor, for which there is no room here (channel.py)."""
        if isinstance(order, ListenOn):  # a successor will have the socket
            self.teller.tell_leaving()
            self.drain(self.follower.live.snapshot.relay.server.drain_timeout, True)
        elif not order.at_once:
            self.channel.post(OrderDone(number=order.number, reasons=("descriptors have run out",)))
        # What is to run at once stays unconfirmed, so that this worker is replaced.

    def _reopen(self) -> None:
        try:
            self.reopen()
        except OSError as error:
            log.warning("log.reopen_failed", extra={"error": str(error)})
