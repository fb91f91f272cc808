"""Byte streams: a connected byte stream on non-blocking sockets, the least there can be between relayd and the kernel.

Theory: reading and writing are sync attempts that never block; only waiting is async. So every wait may be cancelled
without losing a byte: what was read is already returned, what was not written is still the caller's. The hot path
pays for a trio checkpoint only when there is truly nothing to do. trio's own SocketStream guards each call with a
conflict detector and two checkpoints, which cost as much as the rest of the relay (tests/bench).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

import attrs
import trio

READ_SIZE = 65536


class Stream(Protocol):
    """What server and transport need of a connection, plain or TLS."""

    def recv(self) -> bytes | None:
        """Bytes that are there now; `b""` at the end of the stream; None when there are none yet.

        Raises: OSError on a broken connection.
        """
        ...

    def send(self, data: bytes | memoryview) -> int:
        """Hand over what fits now; the number of bytes taken, maybe 0. Raises: OSError on a broken connection."""
        ...

    def send_two(self, head: bytes, body: bytes) -> int:
        """As `send`, of both, which need not be joined for it."""
        ...

    async def readable(self) -> None:
        """Wait until `recv` may have something to say. Cancellation loses nothing."""
        ...

    async def readable_within(self, seconds: float) -> bool:
        """As `readable`; False when there was nothing for so long."""
        ...

    async def writable(self) -> None:
        """Wait until `send` may take something. Cancellation loses nothing."""
        ...

    async def ready(self) -> None:
        """Wait until `recv` may have something to say or `send` may take something."""
        ...

    async def carry(self, turn: Callable[[], bool]) -> None:
        """Call `turn` now and whenever there is more to read, until it returns True.

        It takes all that is there. What it raises is raised here; when this is cancelled, it is called no more. It may
        be called by another task than this one, so it is sync and asks for no current task.
        """
        ...

    def close(self) -> None:
        """Close now. Sync and idempotent, so that it can be done under cancellation."""
        ...

    def fileno(self) -> int:
        """The socket's descriptor; -1 once closed."""
        ...


@attrs.define(eq=False)
class PlainStream:
    """A Stream over a TCP or unix socket, which it owns."""

    sock: socket.socket

    def recv(self) -> bytes | None:
        try:
            return self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return None

    def send(self, data: bytes | memoryview) -> int:
        try:
            return self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def send_two(self, head: bytes, body: bytes) -> int:
        try:
            return self.sock.sendmsg((head, body))
        except (BlockingIOError, InterruptedError):
            return 0

    async def readable(self) -> None:
        await trio.lowlevel.wait_readable(self.sock)

    async def readable_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds) as scope:
            await self.readable()
        return not scope.cancelled_caught

    async def writable(self) -> None:
        await trio.lowlevel.wait_writable(self.sock)

    async def ready(self) -> None:
        async with trio.open_nursery() as nursery:

            async def wait_readable() -> None:
                await self.readable()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_readable)
            await self.writable()
            nursery.cancel_scope.cancel()

    async def carry(self, turn: Callable[[], bool]) -> None:
        while not turn():
            await self.readable()

    def on_hangup(self, left: Callable[[], None] | None) -> bool:
        """Have `left` called once, when the peer hangs up or if it has; None: no more. False: others must look."""
        return False

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()

    def fileno(self) -> int:
        return self.sock.fileno()


async def send_all(stream: Stream, data: bytes) -> None:
    """Write all of `data`, waiting where the peer is slow. Cancelled midway, the rest is not sent: close the stream."""
    taken = stream.send(data)
    if taken == len(data):
        return
    rest = memoryview(data)[taken:]
    while rest:
        await stream.writable()
        rest = rest[stream.send(rest) :]


# A peer that says nothing for so long is probed, so often and so many times. s
KEEP_IDLE, KEEP_INTERVAL, KEEP_COUNT = 30, 10, 3
# So long after the last sign of life of a peer that should have given one, its connection is over. s
DEAD_AFTER = float(KEEP_IDLE + KEEP_INTERVAL * KEEP_COUNT)


def tune(sock: socket.socket, *, send_buffer: int = 0, dead_after: float = DEAD_AFTER) -> None:
    """Non-blocking, no Nagle (a first token must not wait 40 ms for an ACK), and dead peers are noticed.

    Probes alone do not do that: none is sent while bytes wait to be acknowledged, and these are sent again for a
    quarter of an hour (tcp(7), tcp_retries2) if no time is set.

    Args:
        dead_after: for the peer to acknowledge something, or to have room again, s.
    """
    sock.setblocking(False)
    if send_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_INTERVAL)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_COUNT)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_after * 1000))


class BodySource(Protocol):
    """The body of an upstream's answer, framing removed: what the relay reads on its hot path.

    Like a Stream: sync attempts, async waits that may be cancelled without loss.
    """

    def take(self) -> bytes | None:
        """Body bytes that are there now, as one piece; `b""` at the proper end; None when there are none yet.

        Raises: ReadError or RemoteProtocolError when the answer was cut or its framing is broken.
        """
        ...

    async def wait(self) -> None:
        """Wait until `take` may have something to say."""
        ...

    async def carry(self, turn: Callable[[], bool]) -> None:
        """As `Stream.carry`; `turn` takes until there is nothing."""
        ...

    def close(self) -> None:
        """Be done with it. Sync and idempotent: after the proper end the connection goes back to the idle ones,
        before it is closed."""
        ...
