"""Client disconnects: notice that a client has left while nobody reads from it, where no poller tells of it.

Rule: one task for all watched sockets, never one per call. Nothing is read: bytes of a next request stay in the
kernel, where they are bounded.

Theory: a tick of 100 ms peeks at each watched socket, and there is none while nothing is watched. A FIN behind unread
bytes stays unseen until they are read. Where there is an epoll, each stream is told of its own hang-up (poller.py).
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

PEEK_INTERVAL = 0.1  # s; a client that leaves is noticed well within a quarter of a second


class PeekDisconnects:
    """Says once for each watched socket that its peer has disconnected."""

    def __init__(self, interval: float = PEEK_INTERVAL) -> None:
        self._interval = interval
        self._callbacks: dict[socket.socket, Callable[[], None]] = {}
        self._first = trio.Event()

    def add(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        """Watch `sock` until it is discarded or `callback` has been called."""
        self._callbacks[sock] = callback
        self._first.set()

    def discard(self, sock: socket.socket) -> None:
        """Stop watching. Must come before the socket is closed; unknown sockets are ignored."""
        self._callbacks.pop(sock, None)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if not self._callbacks:
                self._first = trio.Event()
                await self._first.wait()
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
