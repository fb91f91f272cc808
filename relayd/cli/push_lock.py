"""Push lock: one push at a time, from the first hook to the last.

Rule: who comes second waits, and is told for whom. Nothing is left behind by a push that died.

Theory: pre-receive and post-receive are two processes; what spans them is `git receive-pack`, the parent of both. So
the lock is a file that names that process, by its number and its start, and it is free once that process has ended. An
flock covers the look and the entry.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from relayd.cli.push_words import PushRefused

PAUSE = 0.05  # s between looks
PATIENCE = 120.0  # s; a push of a large tree takes a few


def take(path: Path, tell: Callable[[str], None]) -> None:
    """Take the lock for our parent. Raises: PushRefused, in the end; OSError."""
    deadline, told = time.monotonic() + PATIENCE, False
    while holder := _entered(path):
        if time.monotonic() > deadline:
            raise PushRefused(f"another push (process {holder}) has been at work for {PATIENCE:.0f} s")
        if not told:
            tell("another push is at work; this one waits for it")
            told = True
        time.sleep(PAUSE)


def _entered(path: Path) -> str:
    """Enter our parent. Returns: the living process that is in there already, "" when it is ours now."""
    ours = _named(os.getppid())
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with open(descriptor, "r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        holder = file.read(100).strip()
        number = holder.partition(" ")[0]
        if holder != ours and number.isdigit() and holder == _named(int(number)):
            return number
        file.seek(0)
        file.truncate()
        file.write(ours)
    return ""


def _named(process: int) -> str:
    """A process by its number and the time of its start; "" for one that has ended. Source: proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    state, *rest = text.rpartition(")")[2].split()
    return "" if state == "Z" else f"{process} {rest[18]}"
