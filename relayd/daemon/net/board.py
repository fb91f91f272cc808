"""Board: figures of all processes of a node in memory that they share, so that what is limited for the node is exact.

Rule: each process writes its own row and nobody else's; a row is read by all. Sync; a look costs a microsecond or two.
Rows are given out and taken back by whoever made the board.

Theory: a figure is one aligned 64-bit word, which the processors that relayd runs on write and read whole. Between a
look and what follows from it another process may act too, so a bound may be passed by one for each further process.
"""

from __future__ import annotations

import mmap
import os

import attrs

MOST_ROWS = 512  # processes at once, those that finish their last calls included
SLACK = 1  # connections that a process may have more than the one with the fewest
SHARE = 16  # and so large a part of its own
_WORD = 8
_IN_USE = 0  # the first word: rows up to which somebody has been
_CONNECTIONS, _BODIES, _ACCEPTS, _COLUMNS = range(4)


@attrs.define(eq=False)
class Board:
    """The shared memory. `fd` is handed on to the other processes."""

    fd: int
    _words: memoryview = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._words = memoryview(mmap.mmap(self.fd, (1 + MOST_ROWS * _COLUMNS) * _WORD)).cast("q")

    @classmethod
    def make(cls) -> Board:
        """A new one, all zeros. Raises: OSError."""
        fd = os.memfd_create("relayd-board", os.MFD_CLOEXEC)
        os.ftruncate(fd, (1 + MOST_ROWS * _COLUMNS) * _WORD)
        return cls(fd)

    def open_row(self, number: int) -> BoardRow:
        """A row for a process, all zeros."""
        row = self.row(number)
        row.clear()
        self._words[_IN_USE] = max(self._words[_IN_USE], number + 1)
        return row

    def row(self, number: int) -> BoardRow:
        """The row that was given to this process."""
        return BoardRow(self._words, number)


@attrs.define(eq=False)
class BoardRow:
    """One process's figures, and what all come to."""

    _words: memoryview = attrs.field(repr=False)
    number: int

    @property
    def connections(self) -> int:
        """Client connections of all processes."""
        return sum(self._column(_CONNECTIONS))

    @property
    def bodies_elsewhere(self) -> int:
        """Bytes of request bodies that the other processes hold."""
        return sum(self._column(_BODIES)) - self._words[self._place(_BODIES)]

    def tell_connections(self, count: int) -> None:
        """How many client connections this process has."""
        self._words[self._place(_CONNECTIONS)] = count

    def tell_bodies(self, size: int) -> None:
        """How many bytes of request bodies it holds."""
        self._words[self._place(_BODIES)] = size

    def tell_accepts(self, accepts: bool) -> None:
        """Whether it takes new connections."""
        self._words[self._place(_ACCEPTS)] = int(accepts)

    def has_turn(self) -> bool:
        """Whether this process should take the next connection: none that takes any has clearly fewer."""
        ours = self._words[self._place(_CONNECTIONS)]
        pairs = zip(self._column(_CONNECTIONS), self._column(_ACCEPTS), strict=True)
        fewest = min((have for have, accepts in pairs if accepts), default=ours)
        return bool(ours <= fewest + SLACK + ours // SHARE)

    def clear(self) -> None:
        """The process is gone, or has not begun."""
        for column in range(_COLUMNS):
            self._words[self._place(column)] = 0

    def _column(self, column: int) -> memoryview:
        start = 1 + column * MOST_ROWS
        return self._words[start : start + self._words[_IN_USE]]

    def _place(self, column: int) -> int:
        return 1 + column * MOST_ROWS + self.number
