"""Accepting connections on a listening socket, also where descriptors have run out.

Rule: what goes wrong with one connection, or for lack of descriptors or memory, ends no listener: it pauses, says so
now and then, and goes on.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections.abc import Callable

import attrs
import trio

# Accepted in one go before the other tasks have a turn.
ACCEPTS_PER_TURN = 64
ACCEPT_PAUSE = 0.1  # s, when descriptors or memory have run out
ACCEPT_LOG_INTERVAL = 10.0  # s
YIELD = 0.002  # s that a process leaves a connection to the others whose turn it is; it takes it if nobody has then

TakeConnection = Callable[[socket.socket, object], None]  # given a connection, which it owns, and the peer's address


def always() -> bool:
    """Whose turn it is where nobody else accepts."""
    return True


@attrs.define(eq=False)
class Acceptor:
    """Accepts, and logs why where it cannot.

    Args:
        log: where it says so.
        event: as what.
    """

    log: logging.Logger
    event: str
    _logged_at: float = attrs.field(default=-math.inf, init=False)

    async def accept_always(
        self, listener: socket.socket, admit: TakeConnection, turn: Callable[[], bool] = always
    ) -> None:
        """Accept for ever.

        Args:
            turn: whether this process should take the next connection, where others accept on the same socket.
        """
        while True:
            await trio.lowlevel.wait_readable(listener)
            if not turn():
                await trio.sleep(YIELD)
            if not self.accept_ready(listener, admit, turn):
                await trio.sleep(ACCEPT_PAUSE)

    def accept_ready(
        self,
        listener: socket.socket,
        admit: TakeConnection,
        turn: Callable[[], bool] = always,
        most: int = ACCEPTS_PER_TURN,
    ) -> bool:
        """Accept one connection, and up to `most` that are there as long as it is our turn. Sync.

        Returns: False when something has run out and a pause would help.
        """
        for _ in range(most):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return True
            except ConnectionError:
                continue  # it went away before it was accepted
            except OSError as error:
                self._log_shortage(error)
                return False
            admit(sock, address)
            if not turn():
                break
        return True

    def _log_shortage(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._logged_at >= ACCEPT_LOG_INTERVAL:
            self._logged_at = now
            hint = " (raise the limit of open files)" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
            self.log.warning(self.event, extra={"reason": f"cannot accept connections: {error.strerror}{hint}"})
