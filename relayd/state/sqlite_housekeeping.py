"""Housekeeping of the embedded back end: what nobody will read again is deleted, and a clock's error is set right.

Rule: a sweep is part of somebody's batch, so it is bounded.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

import attrs

from relayd.state import contract as c
from relayd.state.sqlite_gathered import Sql

Steady = Callable[[], float]  # s of a clock that nobody sets
SWEEP_ROWS = 128  # of each table are looked at in a sweep: a bounded share of somebody's batch
_SWEPT = {"buckets": "counter, bucket", "sums": "counter, start", "slots": "counter, holder", "pins": "name"}


@attrs.define(eq=False)
class Sweeper:
    """Goes round the tables, a few rows at a time."""

    _cursors: dict[str, tuple[str | int, ...]] = attrs.field(factory=dict, init=False)

    def sweep(self, sql: Sql, now: int, settled: int) -> None:
        """Delete some rows that nobody will read again. Bounded, for it is part of somebody's batch."""
        dead = now - c.BACKWARD_MS
        for table, columns in _SWEPT.items():
            self._sweep_table(sql, table, columns, dead)
        sql("DELETE FROM nodes WHERE expires <= ?", (dead,))
        sql(
            "DELETE FROM done WHERE id IN (SELECT id FROM done WHERE expires <= ? ORDER BY expires LIMIT ?)",
            (dead, 2 * settled + SWEEP_ROWS),
        )
        oldest = datetime.datetime.fromtimestamp((now - c.USAGE_MS) / 1000, datetime.UTC)
        sql("DELETE FROM books WHERE day < ?", (oldest.strftime("%Y-%m-%d"),))

    def _sweep_table(self, sql: Sql, table: str, columns: str, dead: int) -> None:
        """Look at the next SWEEP_ROWS rows in the order of the primary key, and around again at the end."""
        marks = ", ".join("?" * len(columns.split(",")))
        after = self._cursors.get(table)
        where, values = (f"WHERE ({columns}) > ({marks})", after) if after else ("", ())
        query = f"SELECT {columns}, expires FROM {table} {where} ORDER BY {columns} LIMIT {SWEEP_ROWS}"
        rows = sql(query, values).fetchall()
        for row in rows:
            if row[-1] <= dead:
                sql(f"DELETE FROM {table} WHERE ({columns}) = ({marks})", row[:-1])
        if len(rows) == SWEEP_ROWS:
            self._cursors[table] = rows[-1][:-1]
        else:
            self._cursors.pop(table, None)


@attrs.define(eq=False)
class LeapWatch:
    """Notices that the clock was set while this process ran: it went on by more than a steady one, or by less.

    Args:
        steady: None where nobody knows; then no clock is ever said to leap.
    """

    steady: Steady | None
    _seen: tuple[int, float] | None = attrs.field(default=None, init=False)
    _now: tuple[int, float] | None = attrs.field(default=None, init=False)

    def look(self, now: int, kept: int) -> int:
        """ms by which the clock was set forward since the last look that was noted; negative: back. 0 where that is
        little, and where another process has written since the clock was set, for it has done what there is to do.

        Args:
            now: Unix ms.
            kept: when somebody wrote last, by the clock of that moment.
        """
        if self.steady is None:
            return 0
        self._now = now, self.steady()
        if self._seen is None:
            return 0
        seen, up = self._seen
        passed = round((self._now[1] - up) * 1000)
        leap = now - seen - passed
        others_wrote = kept != seen and -c.BACKWARD_MS <= now - kept <= passed + c.BACKWARD_MS
        return 0 if others_wrote or abs(leap) <= c.BACKWARD_MS else leap

    def note(self) -> None:
        """What followed from the last look is written."""
        self._seen = self._now


def postpone(sql: Sql, now: int, leap: int) -> None:
    """The clock was set, forward by `leap` ms: what a process held a moment ago it holds for as long as it had left,
    and what it held no longer is not held again by a clock that went back.

    Of processes that share the file the first does it, and the others find the clock as it is now.
    """
    for table in ("slots", "open"):
        sql(f"UPDATE {table} SET expires = iif(expires > ?, expires + ?, min(expires, ?))", (now - leap, leap, now))


def redate(sql: Sql, now: int) -> None:
    """The clock was set right: drop what it had dated more than its own window ahead.

    A bucket keeps neither its window nor its time. It is as old as its number says: bucket = last / length and
    length = window / 60, so that last = expires * bucket / (bucket + 60), within a length.
    """
    number = "iif(bucket < 0, -1 - bucket, bucket)"
    last = f"expires * ({number} / ({number} + 60.0))"
    sql(f"DELETE FROM buckets WHERE expires > ? AND 2 * {last} - expires > ?", (now, now + c.BACKWARD_MS))
    sql("DELETE FROM slots WHERE expires > ?", (now + 2 * c.LONGEST_LEASE_MS,))
    until = now + c.LONGEST_LEASE_MS
    sql("UPDATE open SET expires = ? WHERE expires > ?", (until, until))
    sql("DELETE FROM nodes WHERE seen > ?", (now + c.BACKWARD_MS,))
