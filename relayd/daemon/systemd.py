"""Systemd notifications: how the daemon is, and that its event loop runs, so that one that hangs is started again.

Rule: that the loop runs is told by the loop itself and by nobody else; a thread that tells would tell of a loop that
stands still. The loop never waits for a manager that does not read. Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping

import attrs
import trio

MOST_WAITING = 64  # messages for which a manager had no room
AGAIN = 0.05  # s between two tries to tell it the first of them

log = logging.getLogger("relayd")


def notify(state: str) -> bool:
    """Tell systemd (sd_notify(3)); nothing happens where it does not listen.

    Returns: whether there was room in its queue, which holds some ten messages.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return True
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), socket.MSG_DONTWAIT, address)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("systemd.notify_failed", extra={"error": str(error)})
    return True


@attrs.define(eq=False)
class ServiceManager:
    """Systemd, told in order what it has to know; what it has no room for waits.

    Args:
        send: `notify`.
    """

    send: Callable[[str], bool] = notify
    _waiting: deque[str] = attrs.field(factory=lambda: deque(maxlen=MOST_WAITING), init=False)
    _more: trio.Event = attrs.field(factory=trio.Event, init=False)

    def tell(self, state: str) -> None:
        """Tell it now, or as soon as there is room."""
        if self._waiting or not self.send(state):
            self._waiting.append(state)
            self._more.set()

    async def run(self) -> None:
        """Tell for ever what waits."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._waiting:
                if self.send(self._waiting[0]):
                    self._waiting.popleft()
                else:
                    await trio.sleep(AGAIN)


@attrs.define(eq=False, kw_only=True)
class ReloadNotices:
    """What systemd is told of reloads.

    Args:
        send: to the service manager.
        monotonic: CLOCK_MONOTONIC, microseconds.
    """

    send: Callable[[str], None]
    monotonic: Callable[[], int]
    _status: str = attrs.field(default="", init=False)

    def begin(self) -> None:
        """A reload that a signal asked for begins."""
        self.send(f"RELOADING=1\nMONOTONIC_USEC={self.monotonic()}")

    def end(self, status: str, *, by_signal: bool) -> None:
        """READY=1 ends what RELOADING=1 began, whatever came of it; the status line is sent when it has changed."""
        if by_signal or status != self._status:
            self.send(("READY=1\n" if by_signal else "") + f"STATUS={status}")
        self._status = status


def interval(environ: Mapping[str, str], pid: int) -> float:
    """s between two messages, half of what systemd waits for; 0 when it does not wait for any of ours."""
    asked, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    return int(asked) / 2e6 if asked.isdigit() and whose in ("", str(pid)) else 0.0


async def tell_watchdog(environ: Mapping[str, str], tell: Callable[[str], object]) -> None:
    """Tell systemd for ever, if it wants to know. `tell`: `notify`; for a message left out there is the next."""
    if pause := interval(environ, os.getpid()):
        while True:
            tell("WATCHDOG=1")
            await trio.sleep(pause)
