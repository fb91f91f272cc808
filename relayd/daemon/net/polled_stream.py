"""Polled streams: a byte stream that knows from the poller's edges whether reading or writing is worth while.

Rule: a wait ends by an edge, a close or a cancellation, and nothing is lost by any of them. One task may read and one
may write, which may be the same one.

Theory: an edge sets a flag. A read that comes back short has emptied the kernel's buffer (epoll(7)), so it clears the
flag, and no further system call is spent on finding nothing there; what comes after it makes an edge of its own. After
a hang-up no more edges come, so the flag stays. A stream may also be *carried*: its reader sleeps while the poller
itself calls a function for each edge, until that function has something to tell the reader.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable

import attrs
import outcome
import trio

from relayd.daemon.net.poller import BROKEN, IN, OUT, OVER, Poller, current_poller
from relayd.daemon.net.stream import READ_SIZE, PlainStream


@attrs.define(eq=False)
class PolledStream(PlainStream):
    """A PlainStream whose waits cost no system call."""

    _poller: Poller
    _in: bool = attrs.field(default=False, init=False)  # recv may have something to say: the first edge will tell
    _out: bool = attrs.field(default=True, init=False)  # send may take something
    _over: bool = attrs.field(default=False, init=False)  # the peer has hung up
    _reader: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    _writer: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    _turn: Callable[[], bool] | None = attrs.field(default=None, init=False)
    _left: Callable[[], None] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._poller.add(self.sock.fileno(), self._happened)

    def recv(self) -> bytes | None:
        """As Stream.recv."""
        if not self._in:
            return None
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            self._in = False
            return None
        if len(data) < READ_SIZE and not self._over:
            self._in = False
        return data

    def send(self, data: bytes | memoryview) -> int:
        """As Stream.send."""
        try:
            taken = PlainStream.send(self, data)
        except OSError:
            self._in = True  # no edge may have told yet of what the peer said before the end
            raise
        self._out = taken == len(data)
        return taken

    def send_two(self, head: bytes, body: bytes) -> int:
        """As Stream.send_two."""
        try:
            taken = PlainStream.send_two(self, head, body)
        except OSError:
            self._in = True
            raise
        self._out = taken == len(head) + len(body)
        return taken

    async def readable(self) -> None:
        """As Stream.readable."""
        if self._in:
            await trio.lowlevel.checkpoint()
        else:
            self._reader = _alone(self._reader)
            await trio.lowlevel.wait_task_rescheduled(self._forget_reader)

    async def readable_within(self, seconds: float) -> bool:
        """As Stream.readable_within."""
        if self._in or seconds == math.inf:
            await self.readable()
            return True
        self._reader = _alone(self._reader)
        self._poller.patience.begin(seconds, self._expire)
        try:
            return bool(await trio.lowlevel.wait_task_rescheduled(self._forget_reader))
        finally:
            self._poller.patience.end(seconds, self._expire)

    async def writable(self) -> None:
        """As Stream.writable."""
        if self._out:
            await trio.lowlevel.checkpoint()
        else:
            self._writer = _alone(self._writer)
            await trio.lowlevel.wait_task_rescheduled(self._forget_writer)

    async def ready(self) -> None:
        """As Stream.ready."""
        if self._in or self._out:
            await trio.lowlevel.checkpoint()
        else:
            self._reader, self._writer = _alone(self._reader), _alone(self._writer)
            await trio.lowlevel.wait_task_rescheduled(self._forget_both)

    async def carry(self, turn: Callable[[], bool]) -> None:
        """As Stream.carry."""
        while not turn():
            if self._in:  # there is more than it took
                await trio.lowlevel.checkpoint()
            else:
                self._reader, self._turn = _alone(self._reader), turn
                if await trio.lowlevel.wait_task_rescheduled(self._forget_reader):
                    return

    def on_hangup(self, left: Callable[[], None] | None) -> bool:
        """As PlainStream.on_hangup."""
        self._left = left
        if self._over:
            self._tell_hangup()
        return True

    def close(self) -> None:
        """As Stream.close. Whoever waits gets trio.ClosedResourceError."""
        number = self.sock.fileno()
        if number < 0:
            return
        self._left = None
        for task in {self._reader, self._writer} - {None}:
            self._wake(task, outcome.Error(trio.ClosedResourceError("closed meanwhile")))
        self._in = self._out = True  # trying says that it is closed
        try:
            self._poller.discard(number)
        except OSError:  # the number is not ours any more: whose it is would lose it by a close
            self.sock.detach()
            raise
        self.sock.close()

    # What the poller says

    def _happened(self, flags: int) -> None:
        if flags & OVER:
            self._over = True
            self._tell_hangup()
        if flags & (IN | OVER):
            self._in = True
            if self._turn is not None:
                self._take_turn(self._turn)
            elif self._reader is not None:
                self._wake(self._reader)
        if flags & (OUT | BROKEN):
            self._out = True
            if self._writer is not None:
                self._wake(self._writer)

    def _tell_hangup(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left()

    def _take_turn(self, turn: Callable[[], bool]) -> None:
        """Carry on; wake the reader for what is its business: the end, an exception, or bytes that were not taken."""
        end = outcome.capture(turn)
        if self._reader is not None and (self._in or not isinstance(end, outcome.Value) or end.value):
            self._wake(self._reader, end)
        del end  # what was raised holds its frames, and this is the caller of one: a cycle

    def _wake(self, task: trio.lowlevel.Task | None, end: outcome.Outcome[object] | None = None) -> None:
        assert task is not None
        if self._reader is task:
            self._reader = self._turn = None
        if self._writer is task:
            self._writer = None
        trio.lowlevel.reschedule(task, end or outcome.Value(True))

    def _expire(self) -> None:
        if self._reader is not None:
            self._wake(self._reader, outcome.Value(False))

    # Cancellation

    def _forget_reader(self, _: object) -> trio.lowlevel.Abort:
        self._reader = self._turn = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _forget_writer(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _forget_both(self, _: object) -> trio.lowlevel.Abort:
        self._reader = self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED


def _alone(task: trio.lowlevel.Task | None) -> trio.lowlevel.Task:
    """The task that is about to wait. Raises: trio.BusyResourceError where another one does."""
    if task is not None:
        raise trio.BusyResourceError("another task waits for this stream already")
    return trio.lowlevel.current_task()


def open_stream(sock: socket.socket) -> PlainStream:
    """A Stream over a connected socket, which it owns from now on; the cheapest that this system has.

    Raises: OSError when it cannot be watched; it is closed then.
    """
    try:
        poller = current_poller()
        return PlainStream(sock) if poller is None else PolledStream(sock, poller)
    except OSError:
        sock.close()
        raise
