"""Copies of a realm in Redis: read into rows, written from rows, and deleted.

Rule: keys are read some at a time, so that a Redis in use serves others meanwhile. So a copy is of a few moments, not
of one: a call that ends while it is made may be in the books and still open. It is reaped then, and its settlement,
which is known by its id, counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from relayd.state.contract import Ping, Pong, StoreUnavailable
from relayd.state.portable import (
    RedisCommand,
    TableName,
    TableRow,
    commands_of,
    rows_of_hash,
    rows_of_set,
    rows_of_text,
)
from relayd.state.redis import RedisStore

AT_ONCE = 200  # keys, or commands
_OWN = ("clock", "began")  # the script's own, which is there as soon as anybody asks
PAGE = 500  # fields of a hash
_TEXTS, _HASHES = ("c:", "w:", "k:", "p:"), ("u:", "n:")


def keys_of(store: RedisStore) -> Iterator[list[bytes]]:
    """The keys of the realm that hold what was counted, some at a time. Raises: StoreUnavailable."""
    own = {f"{store.prefix}{name}".encode() for name in _OWN}
    cursor: Any = b"0"
    while True:
        (answer,) = store.ask_all([("SCAN", cursor, "MATCH", f"{store.prefix}*", "COUNT", AT_ONCE)])
        cursor, keys = answer
        if keys := [key for key in keys if key not in own]:
            yield keys
        if cursor in (b"0", 0):
            return


def read_realm(store: RedisStore) -> Iterator[tuple[TableName, TableRow]]:
    """What the realm holds, as rows of tables. Raises: StoreUnavailable."""
    now, skip = store_time(store), len(store.prefix)
    for keys in keys_of(store):
        names = [key.decode("utf-8", "replace")[skip:] for key in keys]
        texts = [(name, key) for name, key in zip(names, keys, strict=True) if name.startswith(_TEXTS)]
        yield from _texts(store, texts, now)
        for name, key in zip(names, keys, strict=True):
            if name == "call" or name.startswith(_HASHES):
                yield from _hash(store, name, key)
            elif name.startswith("s:"):
                (flat,) = store.ask_all([("ZRANGE", key, 0, -1, "WITHSCORES")])
                pairs = zip(flat[::2], map(int, map(float, flat[1::2])), strict=True) if flat else ()
                yield from rows_of_set(name, pairs)


def write_realm(store: RedisStore, tables: Iterable[tuple[TableName, list[TableRow]]]) -> None:
    """Put rows into an empty realm. Raises: StoreUnavailable."""
    now = store_time(store)
    waiting: list[RedisCommand] = []
    for table, rows in tables:
        waiting += commands_of(store.prefix, table, rows, now)
        while len(waiting) >= AT_ONCE:
            _write(store, waiting[:AT_ONCE])
            del waiting[:AT_ONCE]
    if waiting:
        _write(store, waiting)


def delete_realm(store: RedisStore) -> None:
    """Delete every key of the realm; it begins anew, as daemons will notice. Raises: StoreUnavailable."""
    _write(store, [("DEL", f"{store.prefix}{name}") for name in _OWN])
    for keys in keys_of(store):
        _write(store, [("DEL", key) for key in keys])


def store_time(store: RedisStore) -> int:
    """The store's clock, Unix ms. Raises: StoreUnavailable."""
    (answer,) = store.apply([Ping()])
    if not isinstance(answer, Pong):
        raise StoreUnavailable(f"{store.name}: {answer}")
    return answer.now


def _write(store: RedisStore, commands: list[RedisCommand]) -> None:
    if None in store.ask_all(commands):
        raise StoreUnavailable(f"{store.name}: it refused what was to be written [see the ACL line in docs/state.md]")


def _texts(store: RedisStore, texts: list[tuple[str, bytes]], now: int) -> Iterator[tuple[TableName, TableRow]]:
    asked: list[RedisCommand] = []
    for _, key in texts:
        asked += [("GET", key), ("PTTL", key)]
    answers = store.ask_all(asked) if asked else []
    for (name, _), raw, left in zip(texts, answers[::2], answers[1::2], strict=True):
        if raw is not None:
            yield from _understood(rows_of_text(name, raw, left, now))


def _hash(store: RedisStore, name: str, key: bytes) -> Iterator[tuple[TableName, TableRow]]:
    cursor: Any = b"0"
    while True:
        (page,) = store.ask_all([("HSCAN", key, cursor, "COUNT", PAGE)])
        if page is None:
            return
        cursor, flat = page
        for field, raw in zip(flat[::2], flat[1::2], strict=True):
            yield from _understood(rows_of_hash(name, {field: raw}))
        if cursor in (b"0", 0):
            return


def _understood(rows: Iterator[tuple[TableName, TableRow]]) -> list[tuple[TableName, TableRow]]:
    """Rows that are read now; none of what is damaged, as the store itself takes it."""
    try:
        return list(rows)
    except (ValueError, TypeError, IndexError):  # msgspec.DecodeError is a ValueError
        return []
