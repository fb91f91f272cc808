"""Systemd notifications: how the daemon is, and that its event loop runs, so that one that hangs is started again.

Rule: that the loop runs is told by the loop itself and by nobody else; a thread that tells would tell of a loop that
stands still. Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping

import attrs
import trio

log = logging.getLogger("relayd")


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens where it does not listen."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), address)
    except OSError as error:
        log.warning("systemd.notify_failed", extra={"error": str(error)})


@attrs.define(eq=False, kw_only=True)
class ReloadNotices:
    """What systemd is told of reloads.

    Args:
        send: `notify`.
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


async def tell_watchdog(environ: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """Tell systemd for ever, if it wants to know."""
    if pause := interval(environ, os.getpid()):
        while True:
            tell("WATCHDOG=1")
            await trio.sleep(pause)
