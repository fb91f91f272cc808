"""The events that relayd logs: name, levels, fields. Alert events say it themselves, the rest is in the source."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs
from event_examples import EXAMPLES, REPORT

from relayd.core.alerts.events import AlertEvent
from relayd.core.alerts.node_events import AlertTest, DailyReport
from relayd.core.alerts.schedule import report_figures
from relayd.daemon.access_log import CallLine

ROOT = Path(__file__).parents[2] / "relayd"
METHODS = {"debug", "info", "warning", "error", "exception", "log"}
LOGGERS = {"log", "logger", "self.log"}


@attrs.define
class LoggedEvent:
    """One event, of all places where it is logged.

    Args:
        whole: all its fields could be read.
    """

    levels: set[str] = attrs.field(factory=set)
    fields: set[str] = attrs.field(factory=set)
    whole: bool = True


@cache
def logged_events() -> dict[str, LoggedEvent]:
    """Every event by its name."""
    found: dict[str, LoggedEvent] = {}
    for functions in _functions().values():
        for function in functions:
            for call, method in _calls(function):
                names = set(_texts(call.args[method == "log"], function))
                assert names, f"{function.name}: which events line {call.lineno} logs cannot be read"
                for name in names:
                    _add(found.setdefault(name, LoggedEvent()), call, method, function)
    for event in EXAMPLES:
        if not isinstance(event, AlertTest):  # it goes to its target alone
            assert event.name not in found, f"{event.name}: logged past its class"
            level = logging.getLevelName(event.level).lower()
            found[event.name] = LoggedEvent(levels={level}, fields=_fields_of(event))
    return found


def _fields_of(event: AlertEvent) -> set[str]:
    """Also those that an example does without."""
    if isinstance(event, DailyReport):
        return set(report_figures({**REPORT, "rows": []}))
    if hasattr(event, "told"):
        found: set[str] = set()
        (made,) = _functions()["fields_of"]
        ends = [one.value for one in ast.walk(made) if isinstance(one, ast.Return) and one.value]
        assert all(_fields(end, made, found) for end in ends)
        return found
    return {one.name for one in attrs.fields(type(event)) if not one.metadata.get("hidden")}


def call_fields() -> set[str]:
    """The fields of `call.done`."""
    return set(CallLine.__struct_fields__)


@cache
def _functions() -> dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions of the modules that log, or make what is logged, by name."""
    found: dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if re.search(r"\blog(ger)?\.|^def fields_of", text, re.M) else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(node.name, []).append(node)
    return found


def _calls(function: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Attribute(value=logger, attr=method)) if method in METHODS:
                if ast.unparse(logger) in LOGGERS:
                    yield node, method


def _texts(node: ast.expr, function: ast.AST) -> Iterator[str]:
    """What an expression may be: a text, one of two, or a name that the function gives such a value."""
    match node:
        case ast.Constant(value=str() as text):
            yield text
        case ast.IfExp():
            yield from _texts(node.body, function)
            yield from _texts(node.orelse, function)
        case ast.Name():
            for value in _values(node.id, function):
                yield from _texts(value, function)
        case ast.Attribute(attr="event"):
            yield "server.accept"  # what net/accepting.py is told to say
            yield "control.accept"


def _values(name: str, function: ast.AST) -> list[ast.expr]:
    found: list[ast.expr] = []
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    if isinstance(target, ast.Name) and target.id == name:
                        found.append(value)
                    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                        pairs = zip(target.elts, value.elts, strict=True)
                        found += [one for at, one in pairs if isinstance(at, ast.Name) and at.id == name]
            case ast.AnnAssign(target=ast.Name(id=at), value=ast.expr() as value) if at == name:
                found.append(value)
    return found


def _add(event: LoggedEvent, call: ast.Call, method: str, function: ast.AST) -> None:
    event.levels.add({"exception": "error", "log": ""}.get(method, method))
    for keyword in call.keywords:
        if keyword.arg == "extra":
            event.whole &= _fields(keyword.value, function, event.fields)


def _fields(node: ast.expr, function: ast.AST, into: set[str]) -> bool:
    """Add the keys of a table. Returns: whether all could be read."""
    match node:
        case ast.Dict():
            whole = True
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant):
                    into.add(str(key.value))
                else:
                    whole &= key is None and _fields(value, function, into)
            return whole
        case ast.BinOp(op=ast.BitOr()):
            return _fields(node.left, function, into) & _fields(node.right, function, into)
        case ast.IfExp():
            return _fields(node.body, function, into) & _fields(node.orelse, function, into)
        case ast.Name():
            into |= set(_added(node.id, function))
            values = _values(node.id, function)
            return bool(values) and False not in [_fields(value, function, into) for value in values]
        case ast.DictComp(generators=[ast.comprehension(iter=ast.Call(func=ast.Attribute(value=source)))]):
            return _fields(source, function, into)
        case ast.Call(func=ast.Name(id=name)) if name in _functions():
            (made,) = _functions()[name]
            ends = [one.value for one in ast.walk(made) if isinstance(one, ast.Return) and one.value]
            return False not in [_fields(end, made, into) for end in ends]
    return False


def _added(name: str, function: ast.AST) -> Iterator[str]:
    """Keys that a table is given after it was made."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=at), slice=ast.Constant(value=str() as key))]):
                if at == name:
                    yield key
