"""Gathered rows: what a transaction on the embedded back end need not write before its end.

Rule: whoever reads one of these tables within the transaction asks here too, or has the rows written first.

Theory: most of a small statement's cost is calling it. The calls of one turn of the loop share a transaction, so their
openings, their ends and their lines in the books, of which there are few different ones, are written together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from operator import add

import attrs

from relayd.core.quota.limits import LARGEST
from relayd.core.quota.usage_record import COUNTS
from relayd.state.rows import NAMES, Row

Cursor = sqlite3.Cursor
Sql = Callable[..., Cursor]  # the `execute` of one
OpenRow = tuple[str, int, bytes, bytes, str, int]  # id, expires, terms, orphan, key, likely

_INTO_OPEN = "INSERT INTO open (id, expires, terms, orphan, key, likely) VALUES (?, ?, ?, ?, ?, ?)"
_OUT_OF_OPEN = "DELETE FROM open WHERE id = ?"
_INTO_DONE = "INSERT OR REPLACE INTO done (id, expires) VALUES (?, ?)"
_BOOK = (
    f"INSERT INTO books ({', '.join(NAMES)}) VALUES ({', '.join('?' * len(NAMES))})"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = min({name} + excluded.{name}, {LARGEST})' for name in COUNTS)}"
)


@attrs.define(eq=False)
class GatheredRows:
    """The rows of the transaction under way.

    Attributes:
        opened: calls that were admitted, by id.
        ended: when calls that have been settled may be forgotten (Unix ms), by id; none of them is open any more.
    """

    opened: dict[str, OpenRow] = attrs.field(factory=dict, init=False)
    ended: dict[str, int] = attrs.field(factory=dict, init=False)
    _booked: dict[Row, Row] = attrs.field(factory=dict, init=False)  # names: counts

    def book(self, row: Row) -> None:
        """Add to the books."""
        names, counts = row[:4], row[4:]
        known = self._booked.get(names)
        if known is not None:
            counts = tuple(min(total, LARGEST) for total in map(add, known, counts))
        self._booked[names] = counts

    def write(self, cursor: Cursor) -> None:
        """Write all of them."""
        if self.opened:
            cursor.executemany(_INTO_OPEN, self.opened.values())
        if self.ended:
            cursor.executemany(_OUT_OF_OPEN, [(call,) for call in self.ended])
            cursor.executemany(_INTO_DONE, self.ended.items())
        if self._booked:
            cursor.executemany(_BOOK, [names + counts for names, counts in self._booked.items()])
        self.forget()

    def forget(self) -> None:
        """The transaction is over, or was undone."""
        self.opened.clear()
        self.ended.clear()
        self._booked.clear()
