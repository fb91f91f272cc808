"""The embedded back end: SQLite, one file, exact for several processes on one host.

Rule: a batch that changes anything is one IMMEDIATE transaction, so whoever checks also charges before anyone else can
look.

Theory: every counter is a few rows that SQLite can add up without Python: a rolling window is a range of bucket rows
that live until the last event in them has left the window. Whether a row counts is always decided by the time inside
it; deleting is sweeping up and happens a few rows at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import assert_never

import attrs

from relayd.core.disk_advice import disk_advice
from relayd.state import contract as c
from relayd.state.sqlite_counting import Counting
from relayd.state.sqlite_file import MEMORY, Checkpointer, FileIdentity, open_file
from relayd.state.sqlite_gathered import Sql
from relayd.state.sqlite_housekeeping import LeapWatch, Steady, Sweeper, postpone, redate
from relayd.state.sqlite_kept import find_calls, keep_calls, node, note, pin, report

BUSY_MS = 1000  # another process on this host may hold the lock for a batch, some ms; a second is an outage
PAUSE = 0.001  # s between two looks whether it still does
LEAP_MS = 86_400_000  # a clock that is so much further on since the last batch may be wrong

# Operations that ask `GatheredRows` themselves, or have nothing to do with its tables.
_GATHERING = (c.Admit, c.Settle, c.Void, c.Acquire, c.Release, c.Pin, c.GetPin, c.Unpin)


@attrs.define(eq=False)
class SqliteStore:
    """State in one file, or in memory. Used by one thread at a time, not necessarily the one that made it.

    Args:
        path: of the file; made with its directory when missing, readable for the owner alone. ":memory:" keeps nothing.
        clock: Unix ms.
        steady: s of a clock that nobody sets, by which a leap of the other is known; None = there is none.
        busy: ms to wait for another process's transaction.
        deadline: s, how long whoever asks should wait for an answer.
    """

    path: str
    clock: Callable[[], int] = attrs.field(repr=False)
    steady: Steady | None = attrs.field(default=None, repr=False, kw_only=True)
    busy: int = BUSY_MS
    deadline: float = 1.0
    sweep_every: int = 64  # batches
    _connection: sqlite3.Connection | None = attrs.field(default=None, repr=False, init=False)
    _counting: Counting = attrs.field(factory=Counting, repr=False, init=False)
    _leaps: LeapWatch = attrs.field(init=False, repr=False)
    _sweeper: Sweeper = attrs.field(factory=Sweeper, repr=False, init=False)
    _file: FileIdentity = attrs.field(default=FileIdentity(), repr=False, init=False)
    _files: int = attrs.field(default=1, repr=False, init=False)  # that the path has named so far
    _checkpointer: Checkpointer | None = attrs.field(default=None, repr=False, init=False)
    _batches: int = attrs.field(default=0, init=False)
    _sweep_from: int = attrs.field(default=0, init=False)  # Unix ms

    @_leaps.default
    def _watch_leaps(self) -> LeapWatch:
        return LeapWatch(self.steady)

    @property
    def name(self) -> str:
        return f"sqlite:{self.path}"

    @property
    def life(self) -> str:
        return f"{self._files}" if self.path != MEMORY else ""

    @property
    def damaged(self) -> tuple[str, ...]:
        return ()  # a column has a type, and a damaged file is an outage

    def check(self) -> list[str]:
        try:
            self._connect()
        except (sqlite3.Error, OSError) as error:
            if _is_refused(error):
                raise c.StoreRefused(self._why(error)) from None
            raise c.StoreUnavailable(self._why(error)) from None
        return []

    def apply(self, batch: Sequence[c.Op]) -> list[c.Answer]:
        try:
            return self._transaction(batch)
        except c.StoreMisfit:
            raise
        except Exception as error:
            if _is_outage(error):
                self._drop()
                raise c.StoreUnavailable(self._why(error)) from None
            if len(batch) == 1:
                return [c.Failed(reason=f"{type(error).__name__}: {error}")]
        # One operation is at fault, and the transaction with all of them was undone: carry them out one by one.
        return [self.apply([op])[0] for op in batch]

    def _drop(self) -> None:
        if self.path != MEMORY:
            self.close()

    def close(self) -> None:
        if self._checkpointer is not None:
            self._checkpointer.stop()
            self._checkpointer = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def apply_at_once(self, batch: Sequence[c.Op]) -> list[c.Answer] | None:
        """As `apply`, if nobody else is writing at this moment; None when somebody is, and then nothing was done.

        It does not wait for a lock when `busy` is 0, and a commit does not wait for the disk: so an event loop can
        afford it, at some 20 us an operation. None too when the file has been replaced, for whoever asks must know.
        """
        if self._connection is not None and self._file.replaced(self.path):
            self.close()
            return None
        reads = _reads(batch)
        try:
            cursor = (self._connection or self._connect()).cursor()
            cursor.execute(_beginning(reads))
        except sqlite3.OperationalError as error:
            if _is_busy(error):
                return None
            raise self._lost(error) from None
        except (sqlite3.Error, OSError) as error:
            raise self._lost(error) from None
        try:
            return self._carry_out(cursor, batch, reads)
        except Exception as error:  # undone
            if _is_outage(error):
                raise self._lost(error) from None
            return None  # whoever may wait carries them out one by one, to find out whose fault it is

    def _lost(self, error: Exception) -> c.StoreUnavailable:
        """Let go of a connection that does not work, without waiting for the disk: a thread of its own closes it."""
        if self.path != MEMORY:
            old = attrs.evolve(self)
            old._connection, old._checkpointer = self._connection, self._checkpointer
            self._connection = self._checkpointer = None
            threading.Thread(target=old._close_quietly, name="relayd-state-close", daemon=True).start()
        return c.StoreUnavailable(self._why(error))

    def _why(self, error: Exception) -> str:
        why = (isinstance(error, OSError) and error.strerror) or str(error)  # our name has the path already
        return f"{self.name}: {why}" + (f" [{disk_advice(why, _WHAT_IT_NEEDS)}]" if _is_refused(error) else "")

    def _close_quietly(self) -> None:
        with contextlib.suppress(sqlite3.Error, OSError):
            self.close()

    def _transaction(self, batch: Sequence[c.Op]) -> list[c.Answer]:
        cursor, reads = self._connect().cursor(), _reads(batch)
        self._begin(cursor, _beginning(reads))
        return self._carry_out(cursor, batch, reads)

    def _begin(self, cursor: sqlite3.Cursor, beginning: str) -> None:
        """Begin, as soon as no other connection writes. SQLite's own waiting sleeps ever longer, up to 100 ms, while
        what it waits for ends within one or, at a checkpoint, some ten."""
        for left in range(self.busy, -1, -1):
            try:
                cursor.execute(beginning)
                return
            except sqlite3.OperationalError as error:
                if not left or not _is_busy(error):
                    raise
                time.sleep(PAUSE)

    def _carry_out(self, cursor: sqlite3.Cursor, batch: Sequence[c.Op], reads: bool) -> list[c.Answer]:
        """The rest of a transaction that has begun. `reads`: it writes nothing."""
        sql, counting = cursor.execute, self._counting
        try:
            self._read_clock(sql, keep=not reads)
            answers = []
            for op in batch:
                if not isinstance(op, _GATHERING):
                    counting.gathered.write(cursor)
                answers.append(self._one(cursor, op))
            if not reads:
                counting.gathered.write(cursor)
                self._batches += 1
                if self._batches % self.sweep_every == 0 and counting.now >= self._sweep_from:
                    self._sweeper.sweep(sql, counting.now, counting.settled)
                    counting.settled = 0
            sql("COMMIT")
            if not reads:
                self._leaps.note()
        except BaseException:
            counting.gathered.forget()
            with contextlib.suppress(sqlite3.Error):
                sql("ROLLBACK")
            raise
        if self._checkpointer is not None:
            self._checkpointer.count_batch()
        return answers

    def _read_clock(self, sql: Sql, *, keep: bool) -> None:
        """Now, which does not go back unless the clock was set back by more than BACKWARD_MS."""
        now = self.clock()
        kept = sql("SELECT seen FROM clock").fetchone()[0]
        seen = max(kept, self._counting.now)  # our own reading transactions keep nothing
        self._counting.now = now = seen if now < seen <= now + c.BACKWARD_MS else now
        if kept and now > kept + LEAP_MS:
            self._sweep_from = now + c.LONGEST_LEASE_MS  # it may be wrong: what seems old is not thrown away yet
        if keep and kept and (leap := self._leaps.look(now, kept)):
            postpone(sql, now, leap)
        if keep and now < kept:
            self._sweep_from = 0
            redate(sql, now)
        if keep and now != kept:
            sql("UPDATE clock SET seen = ?", (now,))

    def _one(self, cursor: sqlite3.Cursor, op: c.Op) -> c.Answer:
        sql, counting = cursor.execute, self._counting
        match op:
            case c.Admit():
                return counting.admit(cursor, op)
            case c.Settle():
                return counting.settle(cursor, op.call, op.record, op.terms, op.at)
            case c.Void():
                return counting.settle(cursor, op.call, None, (), 0)
            case c.Renew():
                return counting.renew(sql, op)
            case c.Acquire():
                return counting.acquire(cursor, op)
            case c.Release():
                return counting.release(sql, op)
            case c.Pin() | c.GetPin() | c.Unpin():
                return pin(sql, op, counting.now)
            case c.Publish() | c.Gather():
                return note(sql, op, counting.now)
            case c.Beat() | c.Nodes():
                return node(sql, op, counting.now)
            case c.Reap():
                return counting.reap(cursor, op)
            case c.Peek():
                return c.TermLevels(now=counting.now, levels=tuple(counting.level(sql, term) for term in op.terms))
            case c.Report():
                return report(sql, op)
            case c.KeepCalls():
                return keep_calls(sql, op, counting.now)
            case c.FindCalls():
                return find_calls(sql, op, counting.now)
            case c.Ping():
                return c.Pong(now=counting.now)
            case _:
                assert_never(op)

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._file.replaced(self.path):
            self._leave_file()
        if self._connection is None:
            self._connection = open_file(self.path, self.busy)
            self._connection.execute("PRAGMA busy_timeout = 0")  # see `_begin`
            self._file = FileIdentity.of(self.path)
            if self.path != MEMORY:
                self._checkpointer = Checkpointer(self.path)
        return self._connection

    def _leave_file(self) -> None:
        """The file was deleted, or another one put in its place. What was written into it is lost."""
        self._file.remove_remains(self.path)
        self._files += 1
        self.close()


def _reads(batch: Sequence[c.Op]) -> bool:
    """Whether a batch writes nothing. A Ping writes down the time: a disk that can only be read is no good."""
    return all(isinstance(op, c.Peek | c.Report | c.FindCalls | c.Gather | c.Nodes) for op in batch)


def _beginning(reads: bool) -> str:
    """A batch that writes takes the lock at once, for it checks before it writes. One that only reads has a view of its
    own: it waits for nobody and nobody waits for it, however long it takes (SQLite docs, "Isolation")."""
    return "BEGIN" if reads else "BEGIN IMMEDIATE"


# Error codes with which SQLite says that it may not, or that this is not a database.
_REFUSED = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOTADB)
_WHAT_IT_NEEDS = "the file, its directory and their disk must be relayd's to write; see state.url"


def _is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection was in the way."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _is_refused(error: Exception) -> bool:
    """Whether somebody has to change something before the file can be used."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _REFUSED
    return isinstance(error, OSError) and error.errno in c.FORBIDDING


def _is_outage(error: Exception) -> bool:
    """Whether the file, the disk or a lock is to blame, and not the operation.

    Busy, full, read-only and I/O errors are OperationalError; a damaged file is a plain DatabaseError. So is a sum that
    overflows, which is a matter of one counter.
    """
    if str(error) == "integer overflow":
        return False
    return isinstance(error, (sqlite3.OperationalError, OSError)) or type(error) is sqlite3.DatabaseError
