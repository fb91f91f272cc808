"""Repetition in the log: what says the same again and again is one line and a count.

Rule: the first warnings of a kind are written as they come; what is left out is counted, and told in one line a minute
later. Who guesses keys is never left out, for programs count those lines; nor is what people do, which is no warning.

Theory: a kind is an event of one account, key, file, ..., whatever its words are: a reason may have a time in it. An
outage then costs a few lines a minute for each account, and not two for each call.
"""

from __future__ import annotations

import logging

import attrs

FREE = 5  # lines of one kind in a window
WINDOW = 60.0  # s
MOST_KINDS = 1000  # beyond it nothing is left out

NEVER_LEFT_OUT = "access.refused"
_WHAT_ABOUT = (
    *("account", "call", "commit", "digest", "file", "id", "key"),
    *("model", "node", "operation", "source", "store", "task", "uid"),
)

_Kind = tuple[object, ...]


@attrs.define(eq=False)
class _Window:
    """One kind's lines since a moment."""

    since: float
    lines: int = 0
    left_out: int = 0
    last: logging.LogRecord | None = None


@attrs.define(eq=False)
class Repetition:
    """What was said lately. Not thread-safe: the log's handler has a lock.

    Attributes:
        waiting: something was left out and not told.
    """

    waiting: bool = attrs.field(default=False, init=False)
    _windows: dict[_Kind, _Window] = attrs.field(factory=dict, init=False)

    def admit(self, event: str, record: logging.LogRecord) -> bool:
        """Whether to write a line; one that is not is counted."""
        if event == NEVER_LEFT_OUT or record.levelno < logging.WARNING:
            return True
        kind = event, record.levelno, *(getattr(record, name, None) for name in _WHAT_ABOUT)
        window = self._windows.get(kind)
        if window is None or (window.left_out == 0 and not 0 <= record.created - window.since < WINDOW):
            if window is None and len(self._windows) >= MOST_KINDS and not self._forget(record.created):
                return True
            window = self._windows[kind] = _Window(record.created)
        window.lines += 1
        if window.lines <= FREE:
            return True
        window.left_out, window.last = window.left_out + 1, record
        self.waiting = True
        return False

    def tell(self) -> list[logging.LogRecord]:
        """What was left out: of each kind its last line, with `repeated`. Their windows begin anew."""
        told = []
        self.waiting = False
        for kind, window in list(self._windows.items()):
            if window.last is not None:
                del self._windows[kind]
                window.last.repeated = window.left_out
                told.append(window.last)
        return told

    def _forget(self, now: float) -> bool:
        """Drop kinds that have not been heard of for a window. Returns: whether that made room."""
        over = [
            kind
            for kind, window in self._windows.items()
            if not window.left_out and not 0 <= now - window.since < WINDOW
        ]
        for kind in over:
            del self._windows[kind]
        return bool(over)
