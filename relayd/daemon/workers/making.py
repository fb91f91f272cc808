"""Making: how a supervisor makes a worker, from its row of the board to its first orders.

Rule: one that could not be made is tried again, ever more slowly, as one that died.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from relayd.config.source.own_commit import version_text
from relayd.daemon.net.board import MOST_ROWS, Board, BoardRow
from relayd.daemon.net.late import load
from relayd.daemon.workers.channel import Channel, channel_pair
from relayd.daemon.workers.hearing import Hearing
from relayd.daemon.workers.orders import ConfigOrders
from relayd.daemon.workers.pace import Restarts
from relayd.daemon.workers.roster import Worker
from relayd.daemon.workers.shared_sockets import SharedSockets

if TYPE_CHECKING:
    from relayd.daemon.workers.forking import ForkClient

log = logging.getLogger("relayd.workers")


@attrs.define(eq=False, kw_only=True)
class WorkerMaker:
    """Makes workers.

    Args:
        orders: what they run, and who they are.
        start_of: what a new worker is told, given its row of the board.
        wall: Unix time, s.
        making: the places that one is being made for, with the rows that they will have.
    """

    orders: ConfigOrders
    sockets: SharedSockets
    hearing: Hearing
    restarts: Restarts
    start_of: Callable[[int], object]
    wall: Callable[[], float]
    making: dict[int, int] = attrs.field(factory=dict, init=False)
    _board: Board | None = attrs.field(default=None, init=False, repr=False)
    _forks: ForkClient | None = attrs.field(default=None, init=False, repr=False)
    _version: str = attrs.field(factory=version_text, init=False)  # of what is loaded: another may lie on disk by then
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False, repr=False)

    async def run(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Where workers are made and heard: to the very end, also when the node has no more patience."""
        with trio.CancelScope(shield=True) as scope:
            async with trio.open_nursery() as self._nursery:
                task_status.started(scope)
                await trio.sleep_forever()

    def make(self, number: int) -> None:
        """Begin to make one for a place. Sync."""
        assert self._nursery is not None
        used = {worker.row.number for worker in self.orders.roster.workers} | set(self.making.values())
        row = next((row for row in range(1, MOST_ROWS) if row not in used), None)
        if row is None:
            self._not_made(number, f"{len(used)} workers are there, most of which finish their last calls")
            return
        self.making[number] = row
        self._nursery.start_soon(self._make, number, row)

    def close(self) -> None:
        """None will be made any more."""
        if self._forks is not None:
            self._forks.close()

    async def _make(self, number: int, row: int) -> None:
        """Make a worker. What everybody is told while it is being made waits in its channel."""
        assert self._nursery is not None
        await load("relayd.daemon.workers.forking")
        from relayd.daemon.workers.forking import ForkClient, ForkFailed

        if self._forks is None:
            self._forks = ForkClient(self.hearing.hear_end, self._version)
        with contextlib.ExitStack() as making:
            making.callback(self.making.pop, number)
            try:
                board = self._shared_board()
                copy = await self.orders.first_copy()
                making.callback(os.close, copy)
                ours, theirs = channel_pair()
                making.enter_context(theirs)
            except OSError as error:
                self._not_made(number, f"{error.strerror or error}")
                return
            worker = self._introduce(number, board.open_row(row), Channel(ours))
            try:
                worker.pid = await self._forks.fork(
                    self.start_of(row), (theirs.fileno(), board.fd, copy), self._nursery
                )
            except ForkFailed as error:
                self.hearing.part_with(worker)
                self._not_made(number, str(error))
                return
            worker.born = worker.heard = trio.current_time()
            self._nursery.start_soon(self.hearing.attend, worker)

    def _shared_board(self) -> Board:
        if self._board is None:
            self._board = Board.make()
            self.sockets.server.share(self._board.open_row(0))
        return self._board

    def _introduce(self, number: int, row: BoardRow, channel: Channel) -> Worker:
        now = trio.current_time()
        worker = Worker(number=number, row=row, channel=channel, born=now, since=self.wall(), heard=now)
        self.orders.welcome(worker)
        self.sockets.give(channel)
        if self.sockets.closed:
            worker.dismiss(0.0, gently=False)
        return worker

    def _not_made(self, number: int, why: str) -> None:
        pause = self.restarts.died(number, 0.0, trio.current_time())
        log.error("worker.not_made", extra={"worker": number, "why": why, "again_s": pause})
        self.orders.roster.tell()
