"""Client connections: a client's connection as the server keeps it between and around requests.

Rule: bounded. What was read ahead is at most one head and one read; what is thrown away is at most 64 KiB.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections.abc import Callable
from email.utils import formatdate

import attrs
import trio

from relayd.daemon.net.disconnect import PeekDisconnects
from relayd.daemon.net.stream import PlainStream

logger = logging.getLogger("relayd.server")

# What no peer and no network can bring about: a descriptor closed under us or another file's by now, no memory for it.
OURS = frozenset({
    errno.EBADF, errno.ENOTSOCK, errno.EEXIST, errno.ENOENT, errno.EFAULT, errno.ENOMEM, errno.ENOBUFS,
    errno.ENOSPC, errno.EMFILE,
})  # fmt: skip
# How much of an unread body is read and thrown away to keep a connection; a longer one closes it.
UNREAD_LIMIT = 64 * 1024
# How long the end of an unread body, or the client's own close, is waited for. s
LINGER = 1.0


@attrs.define(eq=False)
class Edge:
    """What all connections of one server share."""

    disconnects: PeekDisconnects = attrs.field(factory=PeekDisconnects)
    draining: bool = False
    _second: int | None = None
    _date: bytes = b""

    def date(self) -> bytes:
        """The date header's value, made once a second. It tells the time and decides nothing."""
        second = int(trio.current_time())
        if second != self._second:
            self._second = second
            self._date = formatdate(usegmt=True).encode("ascii")
        return self._date


@attrs.define(eq=False)
class ClientConnection:
    """A client's connection, from accept to close.

    Args:
        buffer: bytes read and not yet used: part of a head, or what follows one. At most one head and one read.
        due: when waiting for a head ends, on trio's clock; infinite while a request is served.
        scope: around all reading of heads; cancelled when `due` has passed and when an idle connection is drained.
        expired: the scope was cancelled. Whoever was woken at the same moment looks here before going on.
    """

    stream: PlainStream
    peer: str
    edge: Edge
    buffer: bytes = b""
    due: float = math.inf
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    expired: bool = False
    served: int = 0

    def expire(self) -> None:
        """End the waiting for a head."""
        self.due = math.inf
        self.expired = True
        self.scope.cancel()

    def notice_leaving(self, left: Callable[[], None] | None) -> None:
        """Have `left` called once, as soon as the client disconnects (FIN, also half-close, or RST); None: no more."""
        if self.stream.on_hangup(left):
            return
        if left is None:
            self.edge.disconnects.discard(self.stream.sock)
        else:
            self.edge.disconnects.add(self.stream.sock, left)

    def close(self) -> None:
        """Close now; idempotent."""
        self.notice_leaving(None)
        try:
            self.stream.close()
        except OSError as error:  # never the peer's doing
            _log(error, self.peer)

    async def linger(self) -> None:
        """Let the client read the end of our answer: closing over unread bytes sends a reset that may overtake it.

        Reads at most UNREAD_LIMIT and waits at most LINGER. Source: RFC 9112 section 9.6.
        """
        room = UNREAD_LIMIT
        try:
            self.stream.sock.shutdown(socket.SHUT_WR)
            with trio.move_on_after(LINGER):
                while room > 0:
                    data = self.stream.recv()
                    if data is None:
                        await self.stream.readable()
                    elif data:
                        room -= len(data)
                    else:
                        return
                await trio.sleep_forever()
        except OSError as error:
            tell_fault(error, self.peer)


def tell_fault(error: OSError, peer: str) -> None:
    """Log what broke a connection, unless it can be that the peer is gone, which is nobody's fault."""
    if error.errno in OURS:
        _log(error, peer)


def _log(error: OSError, peer: str) -> None:
    logger.error("server.failed", exc_info=error, extra={"peer": peer, "path": ""})
