"""Client disconnects: notice that a client has left while nobody reads from it.

Rule: one task for all watched sockets, never one per call. Nothing is read: bytes of a next request stay in the
kernel, where they are bounded.

Theory: an epoll of our own holds the watched sockets, asking for EPOLLRDHUP only (FIN, half-close; RST comes as
EPOLLHUP and EPOLLERR unasked). An epoll is itself a descriptor that becomes readable, so trio waits for that one.
Elsewhere a tick of 100 ms peeks at each watched socket; there a FIN behind unread bytes stays unseen until they are
read.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from typing import Protocol

import trio

PEEK_INTERVAL = 0.1  # s; a client that leaves is noticed well within a quarter of a second


class Disconnects(Protocol):
    """Says once for each watched socket that its peer has disconnected."""

    def add(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        """Watch `sock` until it is discarded or `callback` has been called."""
        ...

    def discard(self, sock: socket.socket) -> None:
        """Stop watching. Must come before the socket is closed; unknown sockets are ignored."""
        ...

    async def run(self) -> None:
        """Watch until cancelled."""
        ...


if sys.platform == "linux":

    class EpollDisconnects:
        """Disconnects by a nested epoll."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._callbacks: dict[int, Callable[[], None]] = {}

        def add(self, sock: socket.socket, callback: Callable[[], None]) -> None:
            number = sock.fileno()
            if self._epoll.closed:  # the server is being stopped, and its calls with it
                return
            self._epoll.register(number, select.EPOLLRDHUP)
            self._callbacks[number] = callback

        def discard(self, sock: socket.socket) -> None:
            number = sock.fileno()
            if self._callbacks.pop(number, None) is not None and not self._epoll.closed:
                self._epoll.unregister(number)

        async def run(self) -> None:
            try:
                while True:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    for number, _ in self._epoll.poll(0):
                        self._report(number)
            finally:
                self._epoll.close()

        def _report(self, number: int) -> None:
            self._epoll.unregister(number)
            callback = self._callbacks.pop(number, None)
            if callback is not None:
                callback()


class PeekDisconnects:
    """Disconnects by peeking at each watched socket every 100 ms, for systems without epoll."""

    def __init__(self, interval: float = PEEK_INTERVAL) -> None:
        self._interval = interval
        self._callbacks: dict[socket.socket, Callable[[], None]] = {}

    def add(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        self._callbacks[sock] = callback

    def discard(self, sock: socket.socket) -> None:
        self._callbacks.pop(sock, None)

    async def run(self) -> None:
        while True:
            await trio.sleep(self._interval)
            for sock in [sock for sock in self._callbacks if _has_left(sock)]:
                self._callbacks.pop(sock)()


def _has_left(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True


def make_disconnects() -> Disconnects:
    """What this system does best."""
    if sys.platform == "linux":
        return EpollDisconnects()
    return PeekDisconnects()
