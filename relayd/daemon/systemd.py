"""Systemd: telling it how the daemon is, and that the event loop runs, so that it may start one again that hangs.

Rule: that the loop runs is told by the loop itself and by nobody else; a thread that tells would tell of a loop that
stands still. Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping

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
