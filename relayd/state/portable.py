"""Portable state: what the keys of Redis hold as rows of the SQLite tables, and the other way about.

Rule: pure; both sides are as apply.lua and sqlite_file write them, so a change of either has to be made here too
(tests/state/test_state_copy.py asks both back ends the same questions afterwards). What is not understood is left out.

Theory: the two hold the same, but for the window of a rolling counter: SQLite keeps when a bucket ends, Redis when its
last event was. The window is the last word of the counter's name. Heartbeats of nodes and the clock are not taken
along: they are of processes, not of what was counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from relayd.config.model.values import Bad
from relayd.core.quota.windows import FOREVER, window_length
from relayd.state.contract import CALLS_MS, USAGE_MS
from relayd.state.redis_address import Word

HOUR, DAY = 3_600_000, 86_400_000
TableName = str
TableRow = tuple[Any, ...]
RedisCommand = tuple[Word, ...]

_pack = msgspec.msgpack.encode
_unpack = msgspec.msgpack.Decoder().decode


def window_of_counter(counter: str) -> int | None:
    """The window of a rolling counter, ms, which is the last word of its name; None for another one."""
    try:
        found = window_length(counter.rpartition("/")[2])
    except Bad:
        return None
    return found if isinstance(found, int) else None


# -- from Redis ------------------------------------------------------------------------------------------------------


def rows_of_text(name: str, raw: bytes, left: int, now: int) -> Iterator[tuple[TableName, TableRow]]:
    """The rows of a key that holds a text.

    Args:
        name: behind the prefix.
        left: its time to live, ms.
        now: Unix ms.
    """
    kind, _, rest = name.partition(":")
    match kind:
        case "c":
            yield from _call_rows(rest, _unpack(raw))
        case "w":
            flat, window = _unpack(raw), window_of_counter(rest)
            if window is not None:
                for bucket, amount, last in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
                    yield "buckets", (rest, bucket, amount, last + window)
        case "k":
            counter, _, start = rest.rpartition("@")
            yield "sums", (counter, int(start), int(raw), now + max(left - HOUR, 0))
        case "p":
            value, expires = _unpack(raw)
            yield "pins", (rest, value, expires or FOREVER)


def _call_rows(call: str, found: list[Any]) -> Iterator[tuple[TableName, TableRow]]:
    state, expires = found[:2]
    if state == "S":
        yield "done", (call, expires, None, None)
        return
    terms = _pack([_memory(term) for term in found[2] or ()])
    if state == "R":
        yield "done", (call, expires, terms, _pack(found[3]))
        return
    orphan, checkpoint = found[3], found[4]
    key, likely = (orphan[1], expires) if len(found) > 5 and found[5] else ("", 0)
    yield "open", (call, expires, terms, _pack(orphan), _pack(checkpoint) if checkpoint else None, key, likely)


def _memory(term: list[Any]) -> TableRow:
    """What a call keeps of a term, as SQLite keeps it."""
    match term:
        case ["R", counter, unit, charged, _, bucket]:
            return ("R", counter, unit, charged, bucket)
        case ["C", counter, unit, charged, start]:
            return ("C", counter, unit, charged, start)
        case ["S", counter]:
            return ("S", counter, "", 0, 0)
    raise ValueError("a term of a call that cannot be read")


def rows_of_hash(name: str, fields: Mapping[bytes, bytes]) -> Iterator[tuple[TableName, TableRow]]:
    """The rows of a key that holds a hash."""
    kind, _, rest = name.partition(":")
    for field, raw in fields.items():
        match kind:
            case "u":
                yield "books", (rest, *_unpack(field), *_unpack(raw))
            case "n":
                version, body = _unpack(raw)
                yield "notes", (rest, field.decode(), version, body)
            case "call":
                yield "calls", tuple(_unpack(raw))


def rows_of_set(name: str, members: Iterable[tuple[bytes, int]]) -> Iterator[tuple[TableName, TableRow]]:
    """The rows of a key that holds a sorted set: slots. The other ones are indexes."""
    if name.startswith("s:"):
        yield from (("slots", (name[2:], member.decode(), score)) for member, score in members)


# -- to Redis --------------------------------------------------------------------------------------------------------


def commands_of(prefix: str, table: TableName, rows: Sequence[TableRow], now: int) -> Iterator[RedisCommand]:
    """The commands that put rows of a table into Redis. Rolling counters come whole: all rows of one together.

    Args:
        now: Unix ms; what has ended by then is left out.
    """
    match table:
        case "buckets":
            yield from _window_commands(prefix, rows, now)
        case "notes":
            yield from _note_commands(prefix, rows)
        case "books":
            for day, key, account, model, *counts in rows:
                yield "HSET", f"{prefix}u:{day}", _pack([key, account, model]), _pack(counts)
            yield from _expiries([f"{prefix}u:{row[0]}" for row in rows], USAGE_MS)
        case "calls":
            for row in rows:
                yield "ZADD", f"{prefix}calls", row[1], row[0]
                yield "HSET", f"{prefix}call", row[0], _pack(row)
            yield from _expiries([f"{prefix}calls", f"{prefix}call"] if rows else [], CALLS_MS + HOUR)
        case _:
            for row in rows:
                yield from _row_commands(prefix, table, row, now)


def _row_commands(prefix: str, table: TableName, row: TableRow, now: int) -> Iterator[RedisCommand]:
    match table, row:
        case "sums", (counter, start, amount, expires) if expires > now:
            yield "SET", f"{prefix}k:{counter}@{start}", amount, "PX", _left(expires, now)
        case "slots", (counter, holder, expires) if expires > now:
            yield "ZADD", f"{prefix}s:{counter}", expires, holder
            yield "PEXPIRE", f"{prefix}s:{counter}", max(expires - now, DAY) + HOUR
        case "pins", (name, value, expires) if expires == FOREVER:
            yield "SET", f"{prefix}p:{name}", _pack([value, 0])
        case "pins", (name, value, expires) if expires > now:
            yield "SET", f"{prefix}p:{name}", _pack([value, expires]), "PX", _left(expires, now)
        case "done", (call, expires, terms, record) if expires > now:
            kept = [_term(term) for term in _unpack(terms)] if terms else None
            value = ["S", expires] if kept is None else ["R", expires, kept, _unpack(record), False]
            yield "SET", f"{prefix}c:{call}", _pack(value), "PX", _left(expires, now)
        case "open", (call, expires, terms, orphan, checkpoint, key, likely):
            kept, last = [_term(term) for term in _unpack(terms)], _unpack(checkpoint) if checkpoint else False
            value = ["O", expires, kept, _unpack(orphan), last, bool(key)]
            yield "SET", f"{prefix}c:{call}", _pack(value), "PX", USAGE_MS + HOUR
            yield "ZADD", f"{prefix}open", expires, call
            if key:
                yield "ZADD", f"{prefix}h:{key}", likely, call
            yield from _expiries([f"{prefix}open", *([f"{prefix}h:{key}"] if key else [])], USAGE_MS)


def _window_commands(prefix: str, rows: Sequence[TableRow], now: int) -> Iterator[RedisCommand]:
    flat: dict[tuple[str, int], list[int]] = {}
    for counter, bucket, amount, expires in rows:
        window = window_of_counter(counter)
        if window is not None and expires > now:
            flat.setdefault((counter, window), []).extend((bucket, amount, expires - window))
    for (counter, window), buckets in flat.items():
        yield "SET", f"{prefix}w:{counter}", _pack(buckets), "PX", min(window, USAGE_MS) + HOUR


def _note_commands(prefix: str, rows: Sequence[TableRow]) -> Iterator[RedisCommand]:
    latest: dict[str, int] = {}
    for topic, name, version, body in rows:
        latest[topic] = max(version, latest.get(topic, 0))
        yield "HSET", f"{prefix}n:{topic}", name, _pack([version, body])
    for topic, version in latest.items():
        yield "SET", f"{prefix}v:{topic}", version, "PX", USAGE_MS
    yield from _expiries([f"{prefix}n:{topic}" for topic in latest], USAGE_MS)


def _term(memory: Sequence[Any]) -> list[Any]:
    """The other way about than `_memory`."""
    kind, counter, unit, charged, start = memory
    if kind == "R":
        return ["R", counter, unit, charged, window_of_counter(counter) or 0, start]
    return ["C", counter, unit, charged, start] if kind == "C" else ["S", counter]


def _expiries(keys: Iterable[str], time: int) -> Iterator[RedisCommand]:
    yield from (("PEXPIRE", key, time) for key in dict.fromkeys(keys))


def _left(expires: int, now: int) -> int:
    return min(expires - now, USAGE_MS) + HOUR
