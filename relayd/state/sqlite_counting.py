"""Counting on the embedded back end: admission and settlement of calls, leases, and what a dead process left.

Rule: SQLite adds up; Python decides. Whether a row counts is decided by the time inside it, never by its being there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import assert_never

import attrs
import msgspec

from relayd.core.quota.limits import LARGEST, Calendar, Rolling, Slots, Term, TermLevel
from relayd.core.quota.usage_record import UsageRecord
from relayd.state import contract as c
from relayd.state.rows import amount, from_row, negative, to_row
from relayd.state.sqlite_gathered import Cursor, GatheredRows, Sql

TWO_DAYS = 2 * 86_400_000

_Memory = tuple[str, str, str, int, int]  # kind, counter, unit, amount charged, bucket or start

_encode = msgspec.msgpack.encode
_decode_memories = msgspec.msgpack.Decoder(list[_Memory]).decode
_decode_row = msgspec.msgpack.Decoder(list[str | int]).decode


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


_KNOWN = "EXISTS (SELECT 1 FROM open WHERE id = ?)", "EXISTS (SELECT 1 FROM done WHERE id = ? AND expires > ?)"


@cache
def _reading(kinds: tuple[type[Term], ...], *, admission: bool) -> str:
    """The statement that reads terms of those kinds; of an admission also whether the call is open or done."""
    return f"SELECT {', '.join([*(_KNOWN if admission else ()), *(_READ[kind] for kind in kinds)])}"


_GIVE_SLOT = "INSERT INTO slots VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET expires = excluded.expires"
_TAKE_SLOT = "DELETE FROM slots WHERE counter = ? AND holder = ?"
_CHANGE = {
    "R": f"UPDATE buckets SET amount = min(amount + ?, {LARGEST}) WHERE counter = ? AND bucket = ?",
    "C": f"UPDATE sums SET amount = min(amount + ?, {LARGEST}) WHERE counter = ? AND start = ?",
}


@attrs.define(eq=False)
class Counting:
    """The counters, as one transaction after the other sees them.

    Attributes:
        now: Unix ms, of the transaction under way.
        settled: calls, since somebody last set it to 0.
    """

    gathered: GatheredRows = attrs.field(factory=GatheredRows, init=False)
    now: int = attrs.field(default=0, init=False)
    settled: int = attrs.field(default=0, init=False)

    # -- admission -------------------------------------------------------------------------------------------------

    def acquire(self, cursor: Cursor, op: c.Acquire) -> c.Answer:
        """Give leases, if all of them can be given."""
        amounts = cursor.execute(*self._question(op.terms, op.holder)).fetchone() if op.terms else ()
        return self._take(cursor, op.terms, op.holder, self._used(op.terms, amounts))[0]

    def release(self, sql: Sql, op: c.Release) -> c.Answer:
        """Take leases back."""
        for counter in op.counters:
            sql(_TAKE_SLOT, (counter, op.holder))
        return c.Done()

    def admit(self, cursor: Cursor, op: c.Admit) -> c.Answer:
        """Open a call, if every one of its terms has room."""
        gathered = self.gathered
        is_open, is_done, *amounts = cursor.execute(*self._question(op.terms, op.call, admission=True)).fetchone()
        if is_done or op.call in gathered.ended:
            return c.Closed()
        if is_open or op.call in gathered.opened:
            return c.Granted(now=self.now, again=True)
        answer, kept = self._take(cursor, op.terms, op.call, self._used(op.terms, amounts), op.orphan.key)
        if isinstance(answer, c.Granted):
            holds = any(term.cost for term in op.terms if not isinstance(term, Slots) and c.can_be_held(term))
            key, likely = (op.orphan.key, self.now + op.likely) if holds else ("", 0)
            orphan = _encode(to_row(op.orphan))
            gathered.opened[op.call] = (op.call, self.now + op.ttl, _encode(kept), orphan, key, likely)
        return answer

    def _take(
        self,
        cursor: Cursor,
        terms: tuple[Term, ...],
        holder: str,
        used: list[tuple[int, int, int]],
        key: str = "",
    ) -> tuple[c.Answer, list[_Memory]]:
        """Check all, then charge all. The second part is what an open call remembers of each term.

        Args:
            used: what `_used` says of the terms.
            key: whose open calls may be what is in the way; "" asks none.
        """
        now = self.now
        for term in terms:
            if isinstance(term, Calendar) and not term.start <= now < term.end:
                return c.Stale(now=now), []
        worst, index, worst_held = -1, 0, False
        for position, (term, amounts) in enumerate(zip(terms, used, strict=True)):
            retry, held = self._wait(cursor.execute, term, amounts), False
            likely = self._likely_retry(cursor, term, amounts[0], key) if retry >= 0 and key else None
            if likely is not None and likely < retry:
                retry, held = likely, True
            if retry > worst:
                worst, index, worst_held = retry, position, held
        if worst >= 0:
            return c.Denied(term=index, retry=worst, now=now, held=worst_held), []
        return self._charge(cursor.execute, terms, holder, used)

    def _question(
        self, terms: tuple[Term, ...], holder: str, *, admission: bool = False
    ) -> tuple[str, list[str | int]]:
        """One statement for all terms, with its values: most of a statement's cost is calling it.

        Args:
            admission: of a call, of which the first two columns say whether it is open or done.
        """
        now = self.now
        values: list[str | int] = [holder, holder, now] if admission else []
        for term in terms:
            match term:
                case Rolling():
                    values += (term.counter, now)
                case Calendar():
                    values += (term.counter, term.start)
                case Slots():
                    values += (term.counter, now, holder, term.counter, now, term.counter)
                case _:
                    assert_never(term)
        return _reading(tuple([type(term) for term in terms]), admission=admission), values

    def _used(self, terms: tuple[Term, ...], amounts: Sequence[int | None]) -> list[tuple[int, int, int]]:
        """For each term: what is used, whether the holder has a slot already, and when the last slot ends.

        Args:
            amounts: the columns that the terms have in the answer to `_question`.
        """
        row = iter(amounts)
        return [
            (next(row) or 0, next(row) or 0, next(row) or 0) if isinstance(term, Slots) else (next(row) or 0, 0, 0)
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
                    return c.never(self.now) if term.cost > term.limit else term.end - self.now
                return -1
            case Slots():
                return -1 if held or used < term.limit else self._slot_retry(sql, term, used)
            case _:
                assert_never(term)

    def _rolling_retry(self, sql: Sql, term: Rolling, used: int) -> int:
        if term.cost > term.limit:
            return c.never(self.now)
        rows = sql(
            "SELECT expires, amount FROM buckets WHERE counter = ? AND expires > ? ORDER BY expires",
            (term.counter, self.now),
        )
        for expires, part in rows.fetchall():
            used -= part
            if used + term.cost <= term.limit:
                return int(expires) - self.now
        return c.never(self.now)

    def _likely_retry(self, cursor: Cursor, term: Term, used: int, key: str) -> int | None:
        """ms until open calls of the key will likely have made room; None when they cannot."""
        if isinstance(term, Slots) or not c.can_be_held(term):
            return None
        self.gathered.write(cursor)
        sql = cursor.execute
        query = f"SELECT likely, terms FROM open WHERE key = ? AND key <> '' ORDER BY likely LIMIT {c.MOST_HOLDING}"
        counted = self._counted(sql, term)
        held = [
            (at, charged)
            for at, kept in sql(query, (key,)).fetchall()
            for _, counter, _, charged, start in _decode_memories(kept)
            if counter == term.counter and start in counted
        ]
        return c.likely_retry(term, used, held, self.now)

    def _counted(self, sql: Sql, term: Rolling | Calendar) -> set[int]:
        """The buckets of a rolling window, or the beginning of the calendar window, that count now."""
        if isinstance(term, Calendar):
            return {term.start}
        query = "SELECT bucket FROM buckets WHERE counter = ? AND expires > ?"
        return {row[0] for row in sql(query, (term.counter, self.now))}

    def _slot_retry(self, sql: Sql, term: Slots, count: int) -> int:
        if term.limit <= 0:
            return c.never(self.now)
        expires: int = sql(
            "SELECT expires FROM slots WHERE counter = ? AND expires > ? ORDER BY expires LIMIT 1 OFFSET ?",
            (term.counter, self.now, count - term.limit),
        ).fetchone()[0]
        return expires - self.now

    def _charge(
        self, sql: Sql, terms: tuple[Term, ...], holder: str, used: list[tuple[int, int, int]]
    ) -> tuple[c.Answer, list[_Memory]]:
        now = self.now
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
                    sql(_GIVE_SLOT, (term.counter, holder, now + term.ttl))
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
        return min(term.end, self.now + c.USAGE_MS) + TWO_DAYS

    def _add_to_buckets(self, sql: Sql, rows: list[str | int]) -> None:
        """Rows, flat: counter, bucket, cost, expiry. What has left the window stays out, though in the same bucket."""
        if rows:
            sql(_INTO_BUCKETS[len(rows) // 4], (*rows, self.now))

    def _add_to_sums(self, sql: Sql, rows: list[str | int]) -> None:
        """Rows, flat: counter, start, cost, expiry."""
        if rows:
            sql(_INTO_SUMS[len(rows) // 4], rows)

    def level(self, sql: Sql, term: Term) -> TermLevel:
        """How much of a term is used."""
        now = self.now
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

    def settle(
        self, cursor: Cursor, call: str, record: UsageRecord | None, terms: tuple[Term, ...], at: int
    ) -> c.Answer:
        """End a call. `record`: None books nothing. `terms`, `at`: of one that was admitted elsewhere, and when."""
        gathered, sql = self.gathered, cursor.execute
        if call in gathered.opened:
            gathered.write(cursor)
        elif call in gathered.ended:
            return c.Settled(outcome="again")
        found = sql("SELECT terms FROM open WHERE id = ?", (call,)).fetchone()
        outcome = "settled"
        if found:
            self._adjust(sql, _decode_memories(found[0]), record, call)
        else:
            done = sql("SELECT terms, record FROM done WHERE id = ? AND expires > ?", (call, self.now)).fetchone()
            if done and done[0] is None:
                return c.Settled(outcome="again")
            outcome = "corrected" if done else "unknown"
            if done:
                gathered.book(negative(tuple(_decode_row(done[1]))))
                self._adjust(sql, _decode_memories(done[0]), record, call)
            elif record is not None:
                self._charge_late(sql, terms, record, min(at, self.now))
        if record is not None:
            gathered.book(to_row(record))
        gathered.ended[call] = self.now + c.SETTLED_MS
        self.settled += 1
        return c.Settled(outcome=outcome)

    def _adjust(self, sql: Sql, kept: list[_Memory], record: UsageRecord | None, call: str) -> list[_Memory]:
        """Bring what a call was charged to what `record` says, and give its slots back. -> the new charges."""
        after: list[_Memory] = []
        for kind, counter, unit, charged, start in kept:
            if kind == "S":
                sql(_TAKE_SLOT, (counter, call))
                after.append((kind, counter, unit, charged, start))
                continue
            actual = amount(record, unit)
            if actual != charged:
                sql(_CHANGE[kind], (actual - charged, counter, start))
            after.append((kind, counter, unit, actual, start))
        return after

    def _charge_late(self, sql: Sql, terms: tuple[Term, ...], record: UsageRecord, at: int) -> None:
        """Charge a call that was admitted elsewhere at `at`, to the windows that still hold that moment.

        In buckets of its own (with negative numbers), for one that had left the window may come back, and open calls
        must not find theirs in it.
        """
        for term in terms:
            if isinstance(term, Rolling) and at + term.window > self.now:
                bucket = -1 - at // c.bucket_length(term.window)
                self._add_to_buckets(sql, [term.counter, bucket, amount(record, term.unit), at + term.window])
            elif isinstance(term, Calendar) and self.now < term.end:
                row: list[str | int] = [
                    term.counter,
                    term.start,
                    amount(record, term.unit),
                    self._kept_until(term),
                ]
                self._add_to_sums(sql, row)

    def reap(self, cursor: Cursor, op: c.Reap) -> c.Answer:
        """Settle what has run out, or what a dead process left."""
        sql = cursor.execute
        whose, asked = (
            ("substr(id, 1, ?) = ?", (len(op.owner), op.owner)) if op.owner else ("expires <= ?", (self.now,))
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
            self.gathered.book(to_row(record))
            sql("DELETE FROM open WHERE id = ?", (call,))
            sql(
                "INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?)",
                (call, self.now + c.REAPED_MS, _encode(after), _encode(to_row(record))),
            )
        return c.Reaped(calls=tuple(reaped))

    def renew(self, sql: Sql, op: c.Renew) -> c.Answer:
        """A heartbeat."""
        now, until, lost = self.now, self.now + op.ttl, []
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
        return sql(update, (until, counter, holder, self.now)).rowcount == 1
