"""Watchdog: telling systemd that the event loop runs, so that it may start a daemon again that hangs.

Rule: told by the loop itself and by nobody else; a thread that tells would tell of a loop that stands still. Source:
sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import trio


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
