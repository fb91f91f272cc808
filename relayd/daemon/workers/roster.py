"""Roster: the workers that there are, as their supervisor sees them.

Rule: sync; what is decided of them is decided in crew.py and orders.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
import trio

from relayd.daemon.net.board import BoardRow
from relayd.daemon.workers.channel import Channel
from relayd.daemon.workers.messages import DrainWorker, WorkerOrder, WorkerReport, WorkerStage
from relayd.noun import noun


@attrs.define(eq=False, kw_only=True)
class Worker:
    """One worker.

    Args:
        number: its place, from 1; its successor has the same.
        row: of the board.
        born: when it was made, on trio's clock; `heard`: when it last spoke; `since`: `born` in Unix time.
        killed: it was ended at once.
        silent: it has said nothing for a while, and that is told.
        life: names it in the state store; "" until it serves.
        ordered, confirmed: the last numbered order that it was given, and that it has carried out.
        reasons: why it could not.
        answered: the last question after its report that it has answered.
        offers: of models, that it was told.
    """

    number: int
    row: BoardRow
    channel: Channel
    born: float
    since: float
    heard: float
    pid: int = 0
    stage: WorkerStage = "starting"
    killed: bool = False
    silent: bool = False
    life: str = ""
    ordered: int = 0
    confirmed: int = 0
    reasons: tuple[str, ...] = ()
    answered: int = 0
    report: WorkerReport = attrs.field(factory=WorkerReport)
    offers: Mapping[str, object] = attrs.field(factory=dict, repr=False)

    @property
    def leaving(self) -> bool:
        """It takes no more connections."""
        return self.stage == "draining"

    @property
    def in_step(self) -> bool:
        """It has carried out what it was told."""
        return self.confirmed >= self.ordered

    def dismiss(self, patience: float, *, gently: bool) -> None:
        """Let it finish its calls, for so many s. `gently`: the node serves on."""
        self.channel.post(DrainWorker(patience=patience, gently=gently))
        self.stage = "draining"

    def kill(self) -> None:
        """End it at once. Its channel tells when that is done."""
        self.killed = True
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


@attrs.define(eq=False)
class Roster:
    """All workers; those that finish their last calls too."""

    workers: list[Worker] = attrs.field(factory=list, init=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    def post_all(self, order: WorkerOrder, fds: tuple[int, ...] = ()) -> None:
        """Tell everybody."""
        for worker in self.workers:
            worker.channel.post(order, fds)

    def serving(self) -> set[int]:
        """The places at which somebody serves."""
        return {worker.number for worker in self.workers if worker.stage == "serving"}

    def staying(self) -> set[int]:
        """The places at which somebody serves or will."""
        return {worker.number for worker in self.workers if not worker.leaving}

    def succeeding(self) -> bool:
        """Whether somebody is about to take a place at which another still serves."""
        staying = Counter(worker.number for worker in self.workers if not worker.leaving)
        return any(number > 1 for number in staying.values())

    def tell(self) -> None:
        """Something has happened: wake whoever waits."""
        self._news.set()
        self._news = trio.Event()

    async def news(self) -> None:
        """Wait for something to happen."""
        await self._news.wait()


@noun(kw_only=True)
class WorkerStart:
    """What a worker is told when it is made.

    Args:
        node: the NodeSettings, which are the daemon's.
        held: somebody else than this node holds the listening sockets too.
        row: of the board.
        traced: receipts say which trace a call is part of.
    """

    node: Any
    held: bool
    row: int
    traced: bool = False
