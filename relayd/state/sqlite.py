"""The embedded back end: SQLite, one file, exact for several processes on one host.

Rule: a batch that changes anything is one IMMEDIATE transaction, so whoever checks also charges before anyone else can
look.

Theory: every counter is a few rows that SQLite can add up without Python: a rolling window is a range of bucket rows
that live until the last event in them has left the window. Whether a row counts is always decided by the time inside
it; deleting is sweeping up and happens a few rows at a time.
"""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import assert_never

import attrs
import msgspec

from relayd.core.quota.limits import FOREVER, LARGEST, Calendar, Rolling, Slots, Term, TermLevel
from relayd.core.quota.usage_record import COUNTS, UsageRecord
from relayd.state import contract as c
from relayd.state.rows import NAMES, amount, from_row, negative, to_row
from relayd.state.sqlite_file import MEMORY, Checkpointer, FileIdentity, open_file

BUSY_MS = 1000  # another process on this host may hold the lock for a batch, some ms; a second is an outage
SWEEP_ROWS = 128  # of each table are looked at in a sweep: a bounded share of somebody's batch
TWO_DAYS = 2 * 86_400_000
LEAP_MS = 86_400_000  # a clock that is so much further on since the last batch may be wrong
_SWEPT = {"buckets": "counter, bucket", "sums": "counter, start", "slots": "counter, holder", "pins": "name"}

_BOOK = (
    f"INSERT INTO books ({', '.join(NAMES)}) VALUES ({', '.join('?' * len(NAMES))})"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = min({name} + excluded.{name}, {LARGEST})' for name in COUNTS)}"
)


_CALL_COLUMNS = [field.name for field in attrs.fields(c.KeptCall)]
_FROM_CALLS = f"SELECT {', '.join(_CALL_COLUMNS)} FROM calls"
_INTO_CALLS = (
    f"INSERT OR REPLACE INTO calls ({', '.join(_CALL_COLUMNS)}) VALUES ({', '.join('?' * len(_CALL_COLUMNS))})"
)


class _ManyRows(dict[int, str]):
    """An INSERT of n rows of four values, made when first used."""

    def __init__(self, before: str, after: str) -> None:
        super().__init__()
        self.before, self.after = before, after

    def __missing__(self, rows: int) -> str:
        self[rows] = f"{self.before} VALUES {', '.join(['(?, ?, ?, ?)'] * rows)} {self.after}"
        return self[rows]


_INTO_BUCKETS = _ManyRows(
    "INSERT INTO buckets",
    f"ON CONFLICT DO UPDATE SET amount = min(iif(expires > ?, amount, 0) + excluded.amount, {LARGEST}),"
    " expires = max(expires, excluded.expires)",
)
_INTO_SUMS = _ManyRows(
    "INSERT INTO sums",
    f"ON CONFLICT DO UPDATE SET amount = min(amount + excluded.amount, {LARGEST}), expires = excluded.expires",
)
_READ: dict[type[Term], str] = {
    Rolling: f"(SELECT min(sum(amount), {LARGEST}) FROM buckets WHERE counter = ? AND expires > ?)",
    Calendar: "(SELECT amount FROM sums WHERE counter = ? AND start = ?)",
    Slots: "(SELECT count(*) FROM slots WHERE counter = ? AND expires > ?),"
    " (SELECT 1 FROM slots WHERE holder = ? AND counter = ? AND expires > ?),"
    " (SELECT max(expires) FROM slots WHERE counter = ?)",
}


@cache
def _reading(kinds: tuple[type[Term], ...]) -> str:
    """The statement that reads terms of those kinds."""
    return f"SELECT {', '.join(_READ[kind] for kind in kinds)}"


Sql = Callable[..., sqlite3.Cursor]
_Memory = tuple[str, str, str, int, int]  # kind, counter, unit, amount charged, bucket or start

_encode = msgspec.msgpack.encode
_decode_memories = msgspec.msgpack.Decoder(list[_Memory]).decode
_decode_row = msgspec.msgpack.Decoder(list[str | int]).decode


@attrs.define(eq=False)
class SqliteStore:
    """State in one file, or in memory. Used by one thread at a time, not necessarily the one that made it.

    Args:
        path: of the file; made with its directory when missing, readable for the owner alone. ":memory:" keeps nothing.
        clock: Unix ms.
        busy: ms to wait for another process's transaction.
        deadline: s, how long whoever asks should wait for an answer.
    """

    path: str
    clock: Callable[[], int] = attrs.field(repr=False)
    busy: int = BUSY_MS
    deadline: float = 1.0
    sweep_every: int = 64  # batches
    _connection: sqlite3.Connection | None = attrs.field(default=None, repr=False, init=False)
    _file: FileIdentity = attrs.field(default=FileIdentity(), repr=False, init=False)
    _files: int = attrs.field(default=1, repr=False, init=False)  # that the path has named so far
    _checkpointer: Checkpointer | None = attrs.field(default=None, repr=False, init=False)
    _batches: int = attrs.field(default=0, init=False)
    _settled: int = attrs.field(default=0, init=False)  # since the last sweep
    _cursors: dict[str, tuple[str | int, ...]] = attrs.field(factory=dict, repr=False, init=False)
    _now: int = attrs.field(default=0, init=False)
    _sweep_from: int = attrs.field(default=0, init=False)  # Unix ms

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
                raise c.StoreRefused(f"{self.name}: {error} [{_WHAT_IT_NEEDS}]") from None
            raise c.StoreUnavailable(f"{self.name}: {error}") from None
        return []

    def apply(self, batch: Sequence[c.Op]) -> list[c.Answer]:
        try:
            return self._transaction(batch)
        except c.StoreMisfit:
            raise
        except Exception as error:
            if _is_outage(error):
                self._drop()
                raise c.StoreUnavailable(f"{self.name}: {error}") from None
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
        try:
            sql = self._connect().execute
            sql(_beginning(batch))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return None
            raise self._lost(error) from None
        except (sqlite3.Error, OSError) as error:
            raise self._lost(error) from None
        try:
            return self._carry_out(sql, batch)
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
        return c.StoreUnavailable(f"{self.name}: {error}")

    def _close_quietly(self) -> None:
        with contextlib.suppress(sqlite3.Error, OSError):
            self.close()

    def _transaction(self, batch: Sequence[c.Op]) -> list[c.Answer]:
        sql = self._connect().execute
        sql(_beginning(batch))
        return self._carry_out(sql, batch)

    def _carry_out(self, sql: Sql, batch: Sequence[c.Op]) -> list[c.Answer]:
        """The rest of a transaction that has begun."""
        try:
            self._read_clock(sql, keep=not _reads(batch))
            answers = [self._one(sql, op) for op in batch]
            if not _reads(batch):
                self._batches += 1
                if self._batches % self.sweep_every == 0 and self._now >= self._sweep_from:
                    self._sweep(sql)
            sql("COMMIT")
        except BaseException:
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
        seen = max(kept, self._now)  # our own reading transactions keep nothing
        self._now = seen if now < seen <= now + c.BACKWARD_MS else now
        if kept and self._now > kept + LEAP_MS:
            self._sweep_from = self._now + c.LONGEST_LEASE_MS  # it may be wrong: what seems old is not thrown away yet
        if keep and self._now < kept:
            self._redate(sql)
        if keep and self._now != kept:
            sql("UPDATE clock SET seen = ?", (self._now,))

    def _redate(self, sql: Sql) -> None:
        """The clock was set right: drop what it had dated more than its own window ahead.

        A bucket keeps neither its window nor its time. It is as old as its number says: bucket = last / length and
        length = window / 60, so that last = expires * bucket / (bucket + 60), within a length.
        """
        now = self._now
        self._sweep_from = 0
        number = "iif(bucket < 0, -1 - bucket, bucket)"
        last = f"expires * ({number} / ({number} + 60.0))"
        sql(f"DELETE FROM buckets WHERE expires > ? AND 2 * {last} - expires > ?", (now, now + c.BACKWARD_MS))
        sql("DELETE FROM slots WHERE expires > ?", (now + 2 * c.LONGEST_LEASE_MS,))
        until = now + c.LONGEST_LEASE_MS
        sql("UPDATE open SET expires = ? WHERE expires > ?", (until, until))
        sql("DELETE FROM nodes WHERE seen > ?", (now + c.BACKWARD_MS,))

    def _one(self, sql: Sql, op: c.Op) -> c.Answer:
        match op:
            case c.Admit():
                return self._admit(sql, op)
            case c.Settle():
                return self._settle(sql, op.call, op.record, op.terms, op.at)
            case c.Void():
                return self._settle(sql, op.call, None, (), 0)
            case c.Renew():
                return self._renew(sql, op)
            case c.Acquire():
                return self._take(sql, op.terms, op.holder)[0]
            case c.Release():
                for counter in op.counters:
                    sql("DELETE FROM slots WHERE counter = ? AND holder = ?", (counter, op.holder))
                return c.Done()
            case c.Pin() | c.GetPin() | c.Unpin():
                return self._pin(sql, op)
            case c.Publish() | c.Gather():
                return self._note(sql, op)
            case c.Beat() | c.Nodes():
                return self._node(sql, op)
            case c.Reap():
                return self._reap(sql, op)
            case c.Peek():
                return c.TermLevels(now=self._now, levels=tuple(self._level(sql, term) for term in op.terms))
            case c.Report():
                query = f"SELECT {', '.join(NAMES)} FROM books WHERE day BETWEEN ? AND ?"
                query += f"{' AND key = ?' if op.key else ''} ORDER BY day, key, account, model"
                rows = sql(query, (op.first, op.last, op.key) if op.key else (op.first, op.last)).fetchall()
                return c.Reported(rows=tuple(from_row(row) for row in rows if any(row[4:])))
            case c.KeepCalls():
                return self._keep_calls(sql, op)
            case c.FindCalls():
                return self._find_calls(sql, op)
            case c.Ping():
                return c.Pong(now=self._now)
            case _:
                assert_never(op)

    # -- recent calls ----------------------------------------------------------------------------------------------

    def _keep_calls(self, sql: Sql, op: c.KeepCalls) -> c.Answer:
        for call in op.calls:
            sql(_INTO_CALLS, attrs.astuple(call))
        sql("DELETE FROM calls WHERE at < ?", (self._now - c.CALLS_MS,))
        excess = sql("SELECT count(*) FROM calls").fetchone()[0] - op.most
        if excess > 0:
            sql("DELETE FROM calls WHERE rowid IN (SELECT rowid FROM calls ORDER BY at, id LIMIT ?)", (excess,))
        return c.Done()

    def _find_calls(self, sql: Sql, op: c.FindCalls) -> c.Answer:
        if op.id:
            rows = sql(f"{_FROM_CALLS} WHERE id = ?", (op.id,)).fetchall()
        else:
            at, name = op.before or (FOREVER, "")
            where = f"WHERE (at, id) < (?, ?) AND at >= ? ORDER BY at DESC, id DESC LIMIT {c.MOST_LOOKED_AT}"
            rows = sql(f"{_FROM_CALLS} {where}", (at, name, self._now - c.CALLS_MS)).fetchall()
        return c.found_calls([c.KeptCall(**dict(zip(_CALL_COLUMNS, row, strict=True))) for row in rows], op)

    # -- admission -------------------------------------------------------------------------------------------------

    def _admit(self, sql: Sql, op: c.Admit) -> c.Answer:
        query = (
            "SELECT EXISTS (SELECT 1 FROM open WHERE id = ?), EXISTS (SELECT 1 FROM done WHERE id = ? AND expires > ?)"
        )
        is_open, is_done = sql(query, (op.call, op.call, self._now)).fetchone()
        if is_open or is_done:
            return c.Granted(now=self._now, again=True) if is_open else c.Closed()
        answer, kept = self._take(sql, op.terms, op.call, op.orphan.key)
        if isinstance(answer, c.Granted):
            holds = any(term.cost for term in op.terms if not isinstance(term, Slots) and c.can_be_held(term))
            key, likely = (op.orphan.key, self._now + op.likely) if holds else ("", 0)
            sql(
                "INSERT INTO open (id, expires, terms, orphan, key, likely) VALUES (?, ?, ?, ?, ?, ?)",
                (op.call, self._now + op.ttl, _encode(kept), _encode(to_row(op.orphan)), key, likely),
            )
        return answer

    def _take(self, sql: Sql, terms: tuple[Term, ...], holder: str, key: str = "") -> tuple[c.Answer, list[_Memory]]:
        """Check all, then charge all. The second part is what an open call remembers of each term.

        Args:
            key: whose open calls may be what is in the way; "" asks none.
        """
        now = self._now
        for term in terms:
            if isinstance(term, Calendar) and not term.start <= now < term.end:
                return c.Stale(now=now), []
        used = self._used(sql, terms, holder)
        worst, index, worst_held = -1, 0, False
        for position, (term, amounts) in enumerate(zip(terms, used, strict=True)):
            retry, held = self._wait(sql, term, amounts), False
            likely = self._likely_retry(sql, term, amounts[0], key) if retry >= 0 and key else None
            if likely is not None and likely < retry:
                retry, held = likely, True
            if retry > worst:
                worst, index, worst_held = retry, position, held
        if worst >= 0:
            return c.Denied(term=index, retry=worst, now=now, held=worst_held), []
        return self._charge(sql, terms, holder, used)

    def _used(self, sql: Sql, terms: tuple[Term, ...], holder: str) -> list[tuple[int, int, int]]:
        """For each term: what is used, whether the holder has a slot already, and when the last slot ends.

        One statement for all of them: most of a statement's cost is calling it.
        """
        if not terms:
            return []
        values: list[str | int] = []
        for term in terms:
            match term:
                case Rolling():
                    values += (term.counter, self._now)
                case Calendar():
                    values += (term.counter, term.start)
                case Slots():
                    values += (term.counter, self._now, holder, term.counter, self._now, term.counter)
                case _:
                    assert_never(term)
        row = iter(sql(_reading(tuple(type(term) for term in terms)), values).fetchone())
        return [
            (next(row), next(row) or 0, next(row) or 0) if isinstance(term, Slots) else (next(row) or 0, 0, 0)
            for term in terms
        ]

    def _wait(self, sql: Sql, term: Term, amounts: tuple[int, int, int]) -> int:
        """ms until a term has room; -1 when it has."""
        used, held, _ = amounts
        match term:
            case Rolling():
                return self._rolling_retry(sql, term, used) if used + term.cost > term.limit else -1
            case Calendar():
                if used + term.cost > term.limit:
                    return c.never(self._now) if term.cost > term.limit else term.end - self._now
                return -1
            case Slots():
                return -1 if held or used < term.limit else self._slot_retry(sql, term, used)
            case _:
                assert_never(term)

    def _rolling_retry(self, sql: Sql, term: Rolling, used: int) -> int:
        if term.cost > term.limit:
            return c.never(self._now)
        rows = sql(
            "SELECT expires, amount FROM buckets WHERE counter = ? AND expires > ? ORDER BY expires",
            (term.counter, self._now),
        )
        for expires, part in rows.fetchall():
            used -= part
            if used + term.cost <= term.limit:
                return int(expires) - self._now
        return c.never(self._now)

    def _likely_retry(self, sql: Sql, term: Term, used: int, key: str) -> int | None:
        """ms until open calls of the key will likely have made room; None when they cannot."""
        if isinstance(term, Slots) or not c.can_be_held(term):
            return None
        query = f"SELECT likely, terms FROM open WHERE key = ? AND key <> '' ORDER BY likely LIMIT {c.MOST_HOLDING}"
        counted = self._counted(sql, term)
        held = [
            (at, charged)
            for at, kept in sql(query, (key,)).fetchall()
            for _, counter, _, charged, start in _decode_memories(kept)
            if counter == term.counter and start in counted
        ]
        return c.likely_retry(term, used, held, self._now)

    def _counted(self, sql: Sql, term: Rolling | Calendar) -> set[int]:
        """The buckets of a rolling window, or the beginning of the calendar window, that count now."""
        if isinstance(term, Calendar):
            return {term.start}
        query = "SELECT bucket FROM buckets WHERE counter = ? AND expires > ?"
        return {row[0] for row in sql(query, (term.counter, self._now))}

    def _slot_retry(self, sql: Sql, term: Slots, count: int) -> int:
        if term.limit <= 0:
            return c.never(self._now)
        expires: int = sql(
            "SELECT expires FROM slots WHERE counter = ? AND expires > ? ORDER BY expires LIMIT 1 OFFSET ?",
            (term.counter, self._now, count - term.limit),
        ).fetchone()[0]
        return expires - self._now

    def _charge(
        self, sql: Sql, terms: tuple[Term, ...], holder: str, used: list[tuple[int, int, int]]
    ) -> tuple[c.Answer, list[_Memory]]:
        now = self._now
        levels: list[TermLevel] = []
        kept: list[_Memory] = []
        buckets: list[str | int] = []
        sums: list[str | int] = []
        for term, (before, held, last) in zip(terms, used, strict=True):
            match term:
                case Rolling():
                    bucket = now // c.bucket_length(term.window)
                    buckets += (term.counter, bucket, term.cost, now + term.window)
                    levels.append(TermLevel(before + term.cost, now + term.window))
                    kept.append(("R", term.counter, term.unit, term.cost, bucket))
                case Calendar():
                    sums += (term.counter, term.start, term.cost, self._kept_until(term))
                    levels.append(TermLevel(before + term.cost, term.end))
                    kept.append(("C", term.counter, term.unit, term.cost, term.start))
                case Slots():
                    sql(
                        "INSERT INTO slots VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET expires = excluded.expires",
                        (term.counter, holder, now + term.ttl),
                    )
                    if held:  # its old time may have been the last
                        last = sql("SELECT max(expires) FROM slots WHERE counter = ?", (term.counter,)).fetchone()[0]
                    levels.append(TermLevel(before + (not held), max(last, now + term.ttl)))
                    kept.append(("S", term.counter, "", 0, 0))
                case _:
                    assert_never(term)
        self._add_to_buckets(sql, buckets)
        self._add_to_sums(sql, sums)
        return c.Granted(now=now, levels=tuple(levels)), kept

    def _kept_until(self, term: Calendar) -> int:
        return min(term.end, self._now + c.USAGE_MS) + TWO_DAYS

    def _add_to_buckets(self, sql: Sql, rows: list[str | int]) -> None:
        """Rows, flat: counter, bucket, cost, expiry. What has left the window stays out, though in the same bucket."""
        if rows:
            sql(_INTO_BUCKETS[len(rows) // 4], (*rows, self._now))

    def _add_to_sums(self, sql: Sql, rows: list[str | int]) -> None:
        """Rows, flat: counter, start, cost, expiry."""
        if rows:
            sql(_INTO_SUMS[len(rows) // 4], rows)

    def _level(self, sql: Sql, term: Term) -> TermLevel:
        now = self._now
        match term:
            case Rolling():
                query = (
                    f"SELECT min(sum(amount), {LARGEST}), max(expires) FROM buckets WHERE counter = ? AND expires > ?"
                )
                used, last = sql(query, (term.counter, now)).fetchone()
                return TermLevel(used or 0, last or now)
            case Calendar():
                query = "SELECT amount FROM sums WHERE counter = ? AND start = ?"
                row = sql(query, (term.counter, term.start)).fetchone()
                return TermLevel(row[0] if row else 0, term.end)
            case Slots():
                query = "SELECT count(*), max(expires) FROM slots WHERE counter = ? AND expires > ?"
                used, last = sql(query, (term.counter, now)).fetchone()
                return TermLevel(used, last or now)
            case _:
                assert_never(term)

    # -- settlement ------------------------------------------------------------------------------------------------

    def _settle(self, sql: Sql, call: str, record: UsageRecord | None, terms: tuple[Term, ...], at: int) -> c.Answer:
        found = sql("SELECT terms FROM open WHERE id = ?", (call,)).fetchone()
        outcome = "settled"
        if found:
            self._adjust(sql, _decode_memories(found[0]), record, call)
            sql("DELETE FROM open WHERE id = ?", (call,))
        else:
            done = sql("SELECT terms, record FROM done WHERE id = ? AND expires > ?", (call, self._now)).fetchone()
            if done and done[0] is None:
                return c.Settled(outcome="again")
            outcome = "corrected" if done else "unknown"
            if done:
                sql(_BOOK, negative(tuple(_decode_row(done[1]))))
                self._adjust(sql, _decode_memories(done[0]), record, call)
            elif record is not None:
                self._charge_late(sql, terms, record, min(at, self._now))
        if record is not None:
            sql(_BOOK, to_row(record))
        sql("INSERT OR REPLACE INTO done (id, expires) VALUES (?, ?)", (call, self._now + c.SETTLED_MS))
        self._settled += 1
        return c.Settled(outcome=outcome)

    def _adjust(self, sql: Sql, kept: list[_Memory], record: UsageRecord | None, call: str) -> list[_Memory]:
        """Bring what a call was charged to what `record` says, and give its slots back. -> the new charges."""
        after: list[_Memory] = []
        for kind, counter, unit, charged, start in kept:
            if kind == "S":
                sql("DELETE FROM slots WHERE counter = ? AND holder = ?", (counter, call))
                after.append((kind, counter, unit, charged, start))
                continue
            actual = amount(record, unit)
            table, column = ("buckets", "bucket") if kind == "R" else ("sums", "start")
            if actual != charged:
                changed = f"min(amount + ?, {LARGEST})"
                update = f"UPDATE {table} SET amount = {changed} WHERE counter = ? AND {column} = ?"
                sql(update, (actual - charged, counter, start))
            after.append((kind, counter, unit, actual, start))
        return after

    def _charge_late(self, sql: Sql, terms: tuple[Term, ...], record: UsageRecord, at: int) -> None:
        """Charge a call that was admitted elsewhere at `at`, to the windows that still hold that moment.

        In buckets of its own (with negative numbers), for one that had left the window may come back, and open calls
        must not find theirs in it.
        """
        for term in terms:
            if isinstance(term, Rolling) and at + term.window > self._now:
                bucket = -1 - at // c.bucket_length(term.window)
                self._add_to_buckets(sql, [term.counter, bucket, amount(record, term.unit), at + term.window])
            elif isinstance(term, Calendar) and self._now < term.end:
                row: list[str | int] = [
                    term.counter,
                    term.start,
                    amount(record, term.unit),
                    self._kept_until(term),
                ]
                self._add_to_sums(sql, row)

    def _reap(self, sql: Sql, op: c.Reap) -> c.Answer:
        whose, asked = (
            ("substr(id, 1, ?) = ?", (len(op.owner), op.owner)) if op.owner else ("expires <= ?", (self._now,))
        )
        due = sql(
            f"SELECT id, terms, orphan, checkpoint FROM open WHERE {whose} ORDER BY expires, id LIMIT ?",
            (*asked, op.limit),
        ).fetchall()
        for counter in op.leases if op.owner and not op.look else ():
            sql("DELETE FROM slots WHERE counter = ? AND substr(holder, 1, ?) = ?", (counter, *asked))
        reaped = []
        for call, kept, orphan, checkpoint in due:
            last = from_row(_decode_row(checkpoint)) if checkpoint else None
            record = c.left_behind(last, from_row(_decode_row(orphan)))
            reaped.append((call, record))
            if op.look:
                continue
            after = self._adjust(sql, _decode_memories(kept), record, call)
            sql(_BOOK, to_row(record))
            sql("DELETE FROM open WHERE id = ?", (call,))
            sql(
                "INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?)",
                (call, self._now + c.REAPED_MS, _encode(after), _encode(to_row(record))),
            )
        return c.Reaped(calls=tuple(reaped))

    def _renew(self, sql: Sql, op: c.Renew) -> c.Answer:
        now, until, lost = self._now, self._now + op.ttl, []
        for call, checkpoint in op.calls:
            found = sql("SELECT terms FROM open WHERE id = ? AND expires > ?", (call, now)).fetchone()
            if found is None:
                lost.append(call)
                continue
            sql("UPDATE open SET expires = ? WHERE id = ?", (until, call))
            if checkpoint is not None:
                sql("UPDATE open SET checkpoint = ? WHERE id = ?", (_encode(to_row(checkpoint)), call))
            for kind, counter, *_ in _decode_memories(found[0]):
                if kind == "S":
                    self._hold(sql, counter, call, until)
        for counter, holder in op.leases:
            if not self._hold(sql, counter, holder, until):
                lost.append(holder)
        return c.Renewed(lost=tuple(lost))

    def _hold(self, sql: Sql, counter: str, holder: str, until: int) -> bool:
        update = "UPDATE slots SET expires = ? WHERE counter = ? AND holder = ? AND expires > ?"
        return sql(update, (until, counter, holder, self._now)).rowcount == 1

    # -- pins, notes, nodes ----------------------------------------------------------------------------------------

    def _pin(self, sql: Sql, op: c.Pin | c.GetPin | c.Unpin) -> c.Answer:
        if isinstance(op, c.Unpin):
            sql("DELETE FROM pins WHERE name = ?", (op.name,))
            return c.Done()
        row = sql("SELECT value, expires FROM pins WHERE name = ? AND expires > ?", (op.name, self._now)).fetchone()
        until = FOREVER if op.ttl is None else self._now + op.ttl
        if isinstance(op, c.GetPin):
            if row and row[1] != FOREVER and op.ttl is not None:
                sql("UPDATE pins SET expires = ? WHERE name = ?", (until, op.name))
            return c.Pinned(value=row[0] if row else None)
        if row and op.keep:
            return c.Pinned(value=row[0])
        sql("INSERT OR REPLACE INTO pins VALUES (?, ?, ?)", (op.name, op.value, until))
        return c.Pinned(value=op.value)

    def _note(self, sql: Sql, op: c.Publish | c.Gather) -> c.Answer:
        if isinstance(op, c.Gather):
            query = "SELECT name, version, body FROM notes WHERE topic = ? AND version > ? ORDER BY version"
            rows = sql(query, (op.topic, op.since)).fetchall()
            return c.Gathered(notes=tuple(c.Note(name=name, version=at, body=body) for name, at, body in rows))
        row = sql("SELECT version, body FROM notes WHERE topic = ? AND name = ?", (op.topic, op.name)).fetchone()
        if op.expect is not None and op.expect != (row[0] if row else 0):
            held = c.Note(name=op.name, version=row[0], body=row[1]) if row else None
            return c.Published(ok=held is not None and held.body == op.body, note=held)
        latest = sql("SELECT max(version) FROM notes WHERE topic = ?", (op.topic,)).fetchone()[0] or 0
        sql("INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", (op.topic, op.name, latest + 1, op.body))
        return c.Published(ok=True, note=c.Note(name=op.name, version=latest + 1, body=op.body))

    def _node(self, sql: Sql, op: c.Beat | c.Nodes) -> c.Answer:
        if isinstance(op, c.Beat):
            row = (op.node, op.body, self._now, self._now + op.ttl)
            sql("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?)", row)
            return c.Done()
        rows = sql("SELECT node, body, seen FROM nodes WHERE expires > ? ORDER BY node", (self._now,)).fetchall()
        return c.NodeList(nodes=tuple(c.Alive(node=node, body=body, seen=seen) for node, body, seen in rows))

    # -- housekeeping ----------------------------------------------------------------------------------------------

    def _sweep(self, sql: Sql) -> None:
        """Delete some rows that nobody will read again. Bounded, for it is part of somebody's batch."""
        dead = self._now - c.BACKWARD_MS
        for table, columns in _SWEPT.items():
            self._sweep_table(sql, table, columns, dead)
        sql("DELETE FROM nodes WHERE expires <= ?", (dead,))
        sql(
            "DELETE FROM done WHERE id IN (SELECT id FROM done WHERE expires <= ? ORDER BY expires LIMIT ?)",
            (dead, 2 * self._settled + SWEEP_ROWS),
        )
        self._settled = 0
        oldest = datetime.datetime.fromtimestamp((self._now - c.USAGE_MS) / 1000, datetime.UTC)
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

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._file.replaced(self.path):
            self._leave_file()
        if self._connection is None:
            self._connection = open_file(self.path, self.busy)
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
    """Whether a batch writes nothing."""
    return all(isinstance(op, c.Peek | c.Report | c.FindCalls | c.Ping | c.Gather | c.Nodes) for op in batch)


def _beginning(batch: Sequence[c.Op]) -> str:
    """A batch that writes takes the lock at once, for it checks before it writes. One that only reads has a view of its
    own: it waits for nobody and nobody waits for it, however long it takes (SQLite docs, "Isolation")."""
    return "BEGIN" if _reads(batch) else "BEGIN IMMEDIATE"


# Error codes with which SQLite says that it may not, or that this is not a database.
_REFUSED = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOTADB)
_WHAT_IT_NEEDS = "the file and its directory must be relayd's to write; see state.url"


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
