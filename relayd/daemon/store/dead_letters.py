"""Dead letters: operations that no store will ever take, set aside in a file of this node.

Rule: append only, one JSON document a line, each written with one `write`, so that several processes may share the
file. Nothing here raises: an operation that cannot even be set aside is counted and logged.

Theory: a settlement that a store refuses (a number that it cannot hold, a text that it cannot encode) would come back
with every replay and stop whatever stands behind it. It is taken out of the way alone, and kept for a person: what it
would have booked is readable in the file. Moving the file away ends the ailment that `relayd status` shows.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from relayd.core.alerts.node_events import StateLost, StateSetAside
from relayd.core.disk_advice import disk_advice
from relayd.daemon.events import Events
from relayd.noun import noun
from relayd.state.contract import Op, Settle, Void

MOST_BYTES = 16 * 1024 * 1024  # of the file: some 40,000 settlements; what comes then is only counted
LONGEST_LINE = 4096  # characters of a damaged journal line that are kept; a settlement has about 500


@noun(kw_only=True)
class Losses:
    """What did not reach the books by itself, for `status` and metrics.

    Args:
        count: lines in the dead-letter file, those of earlier processes included.
        newest: when the last was written, Unix time, s; 0.0 when there is none.
        path: of the file; "" when this process keeps none.
        set_aside: since the start of this process.
        unwritten: operations that could not be set aside either.
        damaged: lines of journals that did not add up.
        dropped: journal entries lost to a full memory beside a full disk.
        waiting: settlements that are in memory alone, because the journal cannot be written.
        problem: why it cannot.
    """

    count: int = 0
    newest: float = 0.0
    path: str = ""
    set_aside: int = 0
    unwritten: int = 0
    damaged: int = 0
    dropped: int = 0
    waiting: int = 0
    problem: str = ""


@attrs.define(eq=False)
class DeadLetters:
    """The dead-letter file of this node.

    Args:
        path: made with its directory when the first letter comes.
        wall: Unix time, s.
    """

    path: Path
    wall: Callable[[], float]
    events: Events = attrs.field(factory=Events)
    set_aside: int = attrs.field(default=0, init=False)
    unwritten: int = attrs.field(default=0, init=False)
    _seen: tuple[int, int, int] = attrs.field(default=(0, 0, 0), init=False)  # inode, size, mtime at the last count
    _count: int = attrs.field(default=0, init=False)

    def add(self, op: Op, reason: str) -> None:
        """Set an operation aside."""
        name = type(op).__name__.lower()
        call = op.call if isinstance(op, Settle | Void) else ""
        self._append({"operation": name, **_document(op)}, reason, call)

    def add_line(self, line: bytes) -> None:
        """Set aside a journal line that does not add up."""
        text = line[:LONGEST_LINE].decode("utf-8", "backslashreplace")
        self._append({"operation": "journal-line", "line": text}, "the line does not add up", "")

    def look(self) -> tuple[int, float]:
        """How many letters the file holds, and when the newest came (Unix time, s; 0.0: none).

        Reads the file only when it has changed, and at most MOST_BYTES of it.
        """
        try:
            stat = self.path.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen != self._seen:
                self._count, self._seen = self.path.read_bytes().count(b"\n"), seen
        except OSError:
            self._count, self._seen = 0, (0, 0, 0)
        return self._count, self._seen[2] / 1e9

    def _append(self, document: dict[str, Any], reason: str, call: str) -> None:
        when = datetime.datetime.fromtimestamp(self.wall(), datetime.UTC).isoformat(timespec="seconds")
        try:
            line = json.dumps({"time": when, "reason": reason, **document}, default=repr).encode("ascii") + b"\n"
            self._write(line)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            self.unwritten += 1
            why = type(error).__name__ if not isinstance(error, OSError) else error.strerror or str(error)
            self.events.tell(StateLost(call=call, reason=reason, problem=why, file=str(self.path)))
            return
        self.set_aside += 1
        self.events.tell(StateSetAside(call=call, reason=reason, file=str(self.path)))

    def _write(self, line: bytes) -> None:
        """Raises: OSError, also when the file is full."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            end = os.fstat(file).st_size
            if end + len(line) > MOST_BYTES:
                raise OSError(f"{MOST_BYTES} bytes of dead letters are there already")
            if os.write(file, line) != len(line):
                os.ftruncate(file, end)
                raise OSError("the disk is full")
            os.fsync(file)
        finally:
            os.close(file)


def _document(op: Op) -> dict[str, Any]:
    """The fields of an operation as JSON takes them."""
    return attrs.asdict(op, recurse=True)


def loss_ailments(losses: Losses) -> list[str]:
    """What of it a person should look at, for `relayd status`."""
    found = []
    if losses.count:
        newest = datetime.datetime.fromtimestamp(losses.newest, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found.append(
            f"{losses.count} operations that the state store refused are set aside in {losses.path},"
            f" the newest at {newest} [report it, then move the file away]"
        )
    if losses.unwritten:
        found.append(f"{losses.unwritten} operations that the state store refused could not be set aside and are lost")
    if losses.damaged:
        found.append(f"{losses.damaged} journal lines were damaged: what they held is not booked")
    if losses.waiting:
        advice = disk_advice(losses.problem, "make room for the journal, or let the daemon write there")
        found.append(
            f"{losses.waiting} settlements wait in memory alone, and end with this process: {losses.problem} [{advice}]"
        )
    if losses.dropped:
        found.append(f"{losses.dropped} settlements were lost: the journal could not be written and memory was full")
    return found
