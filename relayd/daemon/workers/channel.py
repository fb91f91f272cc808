"""Channel: messages between a supervisor and one worker, in order, with descriptors beside them.

Rule: `post` is sync and never waits; what the other end does not take at once waits in a queue. The end of the other
process is the end of the messages, not an error.

Theory: a SOCK_SEQPACKET pair keeps messages apart and each one's descriptors with it, and tells at once when the other
end is gone, however it went (unix(7)).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Sequence

import attrs
import trio

from relayd.daemon.workers.messages import ChannelMessage, decoded, encoded

LARGEST = 128 << 10  # bytes of a datagram; the kernel holds 208 KiB of a sender's (net.core.wmem_default)
LONG = b"\xff"  # instead of a message that is longer, which lies in the first descriptor beside it
MOST_FDS = 8
MOST_WAITING = 4096  # messages; beyond that the other end hangs, and what can be done without is left out

log = logging.getLogger("relayd.workers")


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel. Raises: OSError."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@attrs.define(eq=False)
class Channel:
    """One end. Owns its socket."""

    sock: socket.socket
    _waiting: deque[tuple[bytes, list[int]]] = attrs.field(factory=deque, init=False, repr=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.sock.setblocking(False)

    @property
    def crowded(self) -> bool:
        """Whether so much waits that less should be said."""
        return len(self._waiting) >= MOST_WAITING

    def post(self, message: ChannelMessage, fds: Sequence[int] = ()) -> None:
        """Send a message, with copies of some descriptors. Sync."""
        try:
            self._post(encoded(message), fds)
        except OSError as error:  # descriptors have run out; who has not been told what it has to confirm is replaced
            log.error("worker.not_told", extra={"kind": type(message).__name__, "why": error.strerror or str(error)})

    def _post(self, data: bytes, fds: Sequence[int]) -> None:
        with contextlib.ExitStack() as lent:
            if len(data) > LARGEST:
                fd = _in_memory(data)
                lent.callback(os.close, fd)
                data, fds = LONG, (fd, *fds)
            if self._waiting or not self._sent(data, fds):
                self._waiting.append((data, [os.dup(fd) for fd in fds]))
                self._news.set()

    async def receive(self) -> tuple[ChannelMessage, list[int]] | None:
        """The next message and its descriptors, which are the caller's; None when there will be none."""
        await trio.lowlevel.checkpoint()  # also where one message follows the other
        while self.sock.fileno() >= 0:
            try:
                data, fds, flags, _ = socket.recv_fds(self.sock, LARGEST, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_readable(self.sock)
                continue
            except OSError:
                return None
            if flags & socket.MSG_CTRUNC:  # descriptors have run out here: the kernel has closed those of the message
                log.error("worker.not_heard", extra={"bytes": len(data)})
                _close(fds)
                fds = []
                if data == LONG:
                    continue
            if data == LONG:
                data = _from_memory(fds.pop(0))
            return (decoded(data), fds) if data else None
        return None

    async def deliver(self) -> None:
        """Send what waits, for ever."""
        while True:
            while self._waiting:
                data, fds = self._waiting[0]
                if self._sent(data, fds):
                    self._waiting.popleft()
                    _close(fds)
                else:
                    await trio.lowlevel.wait_writable(self.sock)
            self._news = trio.Event()
            await self._news.wait()

    async def flush(self) -> None:
        """Wait until nothing waits any more. `deliver` must run."""
        while self._waiting:  # noqa: ASYNC110 - at the end of a process, for a moment
            await trio.sleep(0.01)

    def close(self) -> None:
        """End it."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()
        while self._waiting:
            _close(self._waiting.popleft()[1])

    def _sent(self, data: bytes, fds: Sequence[int]) -> bool:
        """Whether a message is on its way, or will never be because nobody is there any more."""
        try:
            if fds:
                socket.send_fds(self.sock, [data], fds)
            else:
                self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True  # whoever receives finds the end
        return True


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _in_memory(data: bytes) -> int:
    fd = os.memfd_create("relayd-message", os.MFD_CLOEXEC)
    with open(os.dup(fd), "wb") as file:
        file.write(data)
    return fd


def _from_memory(fd: int) -> bytes:
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)  # its position is the sender's too
    finally:
        os.close(fd)
