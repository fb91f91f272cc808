"""What the embedded back end keeps beside counters: pins, notes of nodes, who lives, recent calls, the books."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import attrs

from relayd.core.quota.limits import LARGEST
from relayd.core.quota.usage_record import COUNTS, DIMENSIONS
from relayd.core.quota.windows import FOREVER
from relayd.state import contract as c
from relayd.state.rows import from_row
from relayd.state.sqlite_gathered import Sql

_CALL_COLUMNS = [field.name for field in attrs.fields(c.KeptCall)]
_FROM_CALLS = f"SELECT {', '.join(_CALL_COLUMNS)} FROM calls"
_INTO_CALLS = (
    f"INSERT OR REPLACE INTO calls ({', '.join(_CALL_COLUMNS)}) VALUES ({', '.join('?' * len(_CALL_COLUMNS))})"
)


def pin(sql: Sql, op: c.Pin | c.GetPin | c.Unpin, now: int) -> c.Answer:
    """A name that holds a value for a time."""
    if isinstance(op, c.Unpin):
        sql("DELETE FROM pins WHERE name = ?", (op.name,))
        return c.Done()
    row = sql("SELECT value, expires FROM pins WHERE name = ? AND expires > ?", (op.name, now)).fetchone()
    until = FOREVER if op.ttl is None else now + op.ttl
    if isinstance(op, c.GetPin):
        if row and row[1] != FOREVER and op.ttl is not None:
            sql("UPDATE pins SET expires = ? WHERE name = ?", (until, op.name))
        return c.Pinned(value=row[0] if row else None)
    if row and op.keep:
        return c.Pinned(value=row[0])
    sql("INSERT OR REPLACE INTO pins VALUES (?, ?, ?)", (op.name, op.value, until))
    return c.Pinned(value=op.value)


def note(sql: Sql, op: c.Publish | c.Gather, now: int) -> c.Answer:
    """What nodes tell each other."""
    if isinstance(op, c.Gather):
        query = "SELECT name, version, body FROM notes WHERE topic = ? AND version > ? ORDER BY version"
        rows = sql(query, (op.topic, op.since)).fetchall()
        if not rows and op.since > _latest(sql, op.topic):
            rows = sql(query, (op.topic, 0)).fetchall()
        notes = tuple(c.Note(name=name, version=at, body=body) for name, at, body in rows)
        return c.Gathered(now=now, notes=notes)
    row = sql("SELECT version, body FROM notes WHERE topic = ? AND name = ?", (op.topic, op.name)).fetchone()
    if op.expect is not None and op.expect != (row[0] if row else 0):
        held = c.Note(name=op.name, version=row[0], body=row[1]) if row else None
        return c.Published(ok=held is not None and held.body == op.body, note=held)
    latest = _latest(sql, op.topic)
    sql("INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", (op.topic, op.name, latest + 1, op.body))
    return c.Published(ok=True, note=c.Note(name=op.name, version=latest + 1, body=op.body))


def _latest(sql: Sql, topic: str) -> int:
    """The version that a topic has come to; 0 before its first note."""
    return int(sql("SELECT max(version) FROM notes WHERE topic = ?", (topic,)).fetchone()[0] or 0)


def node(sql: Sql, op: c.Beat | c.Nodes, now: int) -> c.Answer:
    """Which nodes there are."""
    if isinstance(op, c.Beat):
        row = (op.node, op.body, now, now + op.ttl)
        sql("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?)", row)
        return c.Done()
    rows = sql("SELECT node, body, seen FROM nodes WHERE expires > ? ORDER BY node", (now,)).fetchall()
    return c.NodeList(nodes=tuple(c.Alive(node=node, body=body, seen=seen) for node, body, seen in rows))


def keep_calls(sql: Sql, op: c.KeepCalls, now: int) -> c.Answer:
    """Remember recent calls, the newest `op.most` of them."""
    for call in op.calls:
        sql(_INTO_CALLS, attrs.astuple(call))
    sql("DELETE FROM calls WHERE at < ?", (now - c.CALLS_MS,))
    excess = sql("SELECT count(*) FROM calls").fetchone()[0] - op.most
    if excess > 0:
        sql("DELETE FROM calls WHERE rowid IN (SELECT rowid FROM calls ORDER BY at, id LIMIT ?)", (excess,))
    return c.Done()


def find_calls(sql: Sql, op: c.FindCalls, now: int) -> c.Answer:
    """Recent calls, the newest first."""
    if op.id:
        return c.FoundCalls(calls=tuple(_whole_calls(sql, [op.id])))
    wanted = {name: value for name in c.CALL_FILTERS if (value := getattr(op, name)) not in ("", 0)}
    at, name = op.before or (FOREVER, "")
    looked_at = sql(
        f"SELECT at, id, {' AND '.join(f'{one} = ?' for one in wanted) or '1'} FROM calls "
        f"WHERE (at, id) < (?, ?) AND at >= ? ORDER BY at DESC, id DESC LIMIT {c.MOST_LOOKED_AT}",
        (*wanted.values(), at, name, now - c.CALLS_MS),
    ).fetchall()
    places = [(at, name) for at, name, fits in looked_at if fits]
    after = looked_at[-1][:2] if len(looked_at) == c.MOST_LOOKED_AT else None
    calls = _whole_calls(sql, [name for _, name in places[: op.limit]])
    return c.FoundCalls(calls=tuple(calls), after=c.page_end(places, op.limit, after))


def _whole_calls(sql: Sql, names: Sequence[str]) -> list[c.KeptCall]:
    """The calls of these ids, in the same order, as far as they are kept."""
    rows = (row for name in names for row in sql(f"{_FROM_CALLS} WHERE id = ?", (name,)).fetchall())
    return [c.KeptCall(**dict(zip(_CALL_COLUMNS, row, strict=True))) for row in rows]


def report(sql: Sql, op: c.Report) -> c.Answer:
    """Lines of the books."""
    rows = sql(_report_query(op), (op.first, op.last, *op.keys, *(op.account and (op.account,))))
    found = (from_row(row) for row in rows.fetchall() if any(row[4:]))
    return c.Reported(rows=tuple(islice(found, op.most or None)))


def _report_query(op: c.Report) -> str:
    """What a report reads. TOTAL is a float, and so neither overflows nor is inexact up to LARGEST."""
    where = "day BETWEEN ? AND ?" + (f" AND key IN ({', '.join('?' * len(op.keys))})" if op.keys else "")
    where += " AND account = ?" if op.account else ""
    names = [name if name in op.by else f"'' AS {name}" for name in DIMENSIONS]
    sums = COUNTS
    if op.by != DIMENSIONS:
        sums = tuple(f"CAST(MIN(TOTAL({name}), {LARGEST}) AS INTEGER) AS {name}" for name in COUNTS)
    together = ", ".join(name for name in DIMENSIONS if name in op.by)
    query = f"SELECT {', '.join((*names, *sums))} FROM books WHERE {where}"
    query += f" GROUP BY {together}" if together and op.by != DIMENSIONS else ""
    first = (
        f"{len(DIMENSIONS) + 1 + COUNTS.index('cost')} DESC, {len(DIMENSIONS) + 1 + COUNTS.index('requests')} DESC, "
    )
    query += f" ORDER BY {first if op.most else ''}1, 2, 3, 4"
    return query
