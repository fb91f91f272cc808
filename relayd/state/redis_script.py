"""The script apply.lua: its text, and how operations and answers are written for it.

Rule: no socket. What the script does not say as expected is a failed operation.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, assert_never

import attrs

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term, TermLevel
from relayd.state import contract as c
from relayd.state.rows import from_row, to_row


@cache
def script() -> tuple[bytes, str]:
    """apply.lua and the SHA-1 by which Redis knows it."""
    text = Path(__file__).with_name("apply.lua").read_bytes()
    return text, hashlib.sha1(text, usedforsecurity=False).hexdigest()


_CALL_FIELDS = [field.name for field in attrs.fields(c.KeptCall)]


def pack(op: c.Op) -> tuple[Any, ...]:
    """An operation as apply.lua takes it. None is sent as false, for nil would end a Lua array."""
    match op:
        case c.Admit():
            return ("admit", op.call, op.ttl, to_row(op.orphan), [_term(term) for term in op.terms], op.likely)
        case c.Settle():
            return ("settle", op.call, to_row(op.record), [_term(term) for term in op.terms], op.at)
        case c.Void():
            return ("void", op.call)
        case c.Renew():
            calls = [(call, to_row(record) if record else False) for call, record in op.calls]
            return ("renew", calls, op.leases, op.ttl)
        case c.Acquire():
            return ("lease", op.holder, [_term(term) for term in op.terms])
        case c.Release():
            return ("release", op.holder, op.counters)
        case c.Pin():
            return ("pin", op.name, op.value, _or_false(op.ttl), op.keep)
        case c.GetPin():
            return ("getpin", op.name, _or_false(op.ttl))
        case c.Unpin():
            return ("unpin", op.name)
        case c.Publish():
            return ("publish", op.topic, op.name, op.body, _or_false(op.expect))
        case c.Gather():
            return ("gather", op.topic, op.since)
        case c.Beat():
            return ("heartbeat", op.node, op.body, op.ttl)
        case c.Nodes():
            return ("nodes",)
        case c.Reap():
            return ("reap", op.limit, op.look, op.owner, op.leases)
        case c.Peek():
            return ("peek", [_term(term) for term in op.terms])
        case c.KeepCalls():
            return ("keepcalls", [attrs.astuple(call) for call in op.calls], op.most)
        case c.Report() | c.FindCalls():
            raise AssertionError("it is asked for page by page")
        case c.Ping():
            return ("ping",)
        case _:
            assert_never(op)


def kept_calls(rows: list[Any]) -> list[c.KeptCall]:
    """Recent calls of an answer of apply.lua."""
    return [c.KeptCall(**dict(zip(_CALL_FIELDS, row, strict=True))) for row in rows]


def _or_false(value: int | None) -> int | bool:
    return False if value is None else value


def _term(term: Term) -> tuple[str | int, ...]:
    match term:
        case Rolling():
            bucket = c.bucket_length(term.window)
            return ("R", term.counter, term.unit, term.limit, term.cost, term.window, bucket)
        case Calendar():
            return ("C", term.counter, term.unit, term.limit, term.cost, term.start, term.end)
        case Slots():
            return ("S", term.counter, "", term.limit, 1, term.ttl, 0)
        case _:
            assert_never(term)


def unpack(op: c.Op, row: list[Any]) -> c.Answer:
    """An answer of apply.lua."""
    match row:
        case ["granted", now, levels, again]:
            return c.Granted(now=now, levels=tuple(TermLevel(*one) for one in levels), again=again)
        case ["denied", term, retry, now, held]:
            return c.Denied(term=term, retry=retry, now=now, held=held)
        case ["stale", now]:
            return c.Stale(now=now)
        case ["closed"]:
            return c.Closed()
        case ["settled", outcome]:
            return c.Settled(outcome=outcome)
        case ["renewed", lost]:
            return c.Renewed(lost=tuple(lost))
        case ["done"]:
            return c.Done()
        case ["pinned", value]:
            return c.Pinned(value=None if value is False else value)
        case ["published", ok, note]:
            return c.Published(ok=ok, note=_note(note) if note else None)
        case ["gathered", now, notes]:
            return c.Gathered(now=now, notes=tuple(_note(note) for note in notes))
        case ["nodes", nodes]:
            return c.NodeList(nodes=tuple(c.Alive(node=node, body=body, seen=seen) for node, body, seen in nodes))
        case ["reaped", calls]:
            return c.Reaped(calls=tuple((call, from_row(record)) for call, record in calls))
        case ["peeked", now, levels]:
            return c.TermLevels(now=now, levels=tuple(TermLevel(*one) for one in levels))
        case ["pong", now]:
            return c.Pong(now=now)
        case ["failed", reason]:
            return c.Failed(reason=str(reason))
    return c.Failed(reason=f"unreadable answer to {type(op).__name__}")


def _note(row: list[Any]) -> c.Note:
    return c.Note(name=row[0], version=row[1], body=row[2])
