"""Log output: lines to standard error or a file, written by a thread of their own.

Rule: who writes a line never waits. What nobody reads (a full pipe, a disk that hangs) fills a bounded queue; lines
beyond it are lost and counted. The order is kept, and a reopening has its place in it.

Theory: before `start` and after `stop` a line is written at once: there is no loop then that it could hold up, and what
a process says while it starts or ends must not lie in a queue. A pipe takes PIPE_BUF (4096) bytes of each writer at a
time and mixes what is longer with what others write (pipe(7)), so standard error is locked for each write. A lock of
fcntl(2) is a process's own, lies on what the descriptor leads to, and ends with its process, however that ends. Who was
stopped in the middle of a write keeps it, and anybody who can write there can take it. The thread may wait for that;
where there is none a line that is mixed with another is better than a process that does not start or end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import attrs

from relayd.noun import noun

GATHER = 0.01  # s that the thread rests after a writing: lines that come meanwhile wake nobody, and go together
MOST_WAITING = 10_000  # lines; some 5 MB
TOGETHER = 256  # lines in one write
LAST_WORDS = 2.0  # s that a stop waits for a slow reader
TURN, TRY = 0.5, 0.001  # s that others may take for a write, and between two looks at whether they have done it


Screen = Literal["none", "plain", "colour"]  # no terminal, one without colours, one with


def screen_of(terminal: bool, environ: Mapping[str, str]) -> Screen:
    """What a terminal can show. Source: no-color.org; terminfo(5), TERM=dumb."""
    if not terminal:
        return "none"
    return "plain" if environ.get("NO_COLOR") or environ.get("TERM", "dumb") == "dumb" else "colour"


@noun
class _NewFile:
    """From here on the lines go elsewhere."""

    fd: int


@attrs.define(eq=False)
class Output:
    """Where lines go. A line is written whole or counted as lost, and a full disk never stops a call.

    What came of a line that a full disk has cut off stays a line of its own: the next one begins behind a line break.

    Args:
        path: of the file; None for standard error.
        screen: what standard error is, if lines go there.
        pause: how the thread rests after a writing.
    """

    path: Path | None
    screen: Screen = "none"
    _fd: int = 2
    _pause: Callable[[float], None] = time.sleep
    _lost: int = 0  # by whoever writes a line
    _unwritten: int = 0  # by the thread
    failing: str = attrs.field(default="", init=False)  # why the last write failed; "" once one succeeds
    _kept: bool = attrs.field(default=False, init=False)  # somebody has the lock and does not give it back
    _torn: bool = attrs.field(default=False, init=False)  # the last write broke off in the middle of a line
    _queue: queue.SimpleQueue[bytes | _NewFile | None] = attrs.field(factory=queue.SimpleQueue, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)
    _abandoned: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.reopen()

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._lost + self._unwritten

    def reopen(self) -> None:
        """Open the file anew, after logrotate has moved the old one. Raises: OSError at start."""
        if self.path is None:
            return
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if self._thread is not None:
            self._queue.put(_NewFile(fd))
        else:
            self._use(fd)

    def write(self, line: bytes) -> None:
        """Append one line, which ends with a newline. Never waits once `start` was called."""
        if self._thread is None and not self._abandoned:
            self._put([line])
        elif self._abandoned or self._queue.qsize() >= MOST_WAITING:
            self._lost += 1
        else:
            self._queue.put(line)

    def count_lost(self) -> None:
        """Count a line that could not even be made."""
        self._lost += 1

    def start(self) -> None:
        """Leave the writing to a thread from now on."""
        self._thread = threading.Thread(target=self._work, name="relayd-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, for LAST_WORDS s at most; from then on lines are written at once again."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(None)
        thread.join(LAST_WORDS)
        if thread.is_alive():  # nobody reads: then nobody would read what comes now
            self._abandoned = True

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            lines: list[bytes] = []
            while isinstance(item, bytes):
                lines.append(item)
                if len(lines) == TOGETHER or self._queue.empty():
                    break
                item = self._queue.get()
            self._put(lines, patient=True)
            if isinstance(item, _NewFile):
                self._use(item.fd)
            elif item is None:
                return
            else:
                # To wake this thread costs the loop a system call, and the interpreter for a moment.
                self._pause(GATHER)

    def _put(self, lines: list[bytes], *, patient: bool = False) -> None:
        """Write some lines. Those that were not wholly written are lost. `patient`: a full pipe is waited for."""
        whole = (b"\n" if self._torn else b"") + b"".join(lines)
        data = memoryview(whole)
        try:
            with self._alone(patient):
                while data:
                    data = data[self._write_some(data, patient) :]
        except OSError as error:
            left = len(data)
            if done := len(whole) - left:
                self._torn = whole[done - 1] != ord("\n")
            while left > 0 and lines:
                left -= len(lines.pop())
                self._unwritten += 1
            self.failing = (error.strerror or str(error)).lower()
        else:
            self._torn, self.failing = False, ""

    @contextlib.contextmanager
    def _alone(self, patient: bool) -> Iterator[None]:
        """Keep the other processes of this node, which write to the same place, from writing in between."""
        locked = False
        if self.path is None:
            with contextlib.suppress(OSError):  # what takes no locks is written to without
                locked = self._has_turn(patient)
        try:
            yield
        finally:
            if locked:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _has_turn(self, patient: bool) -> bool:
        """Take the lock, unless somebody keeps it. Raises: OSError where there are no locks."""
        if patient:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            return True
        tries = 1 if self._kept else round(TURN / TRY)
        for left in reversed(range(tries)):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as fcntl(2) has it
                if left:
                    time.sleep(TRY)
            else:
                self._kept = False
                return True
        self._kept = True  # the next lines do not wait for it either
        return False

    def _write_some(self, data: memoryview, patient: bool) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # whoever gave us standard error has made it non-blocking
            if not patient:
                raise
            select.select([], [self._fd], [])
            return 0

    def _use(self, fd: int) -> None:
        old, self._fd = self._fd, fd
        self._torn = False
        if old > 2:
            os.close(old)
