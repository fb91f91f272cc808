"""JSON Schema: the table of keys in snapshot.py, for editors; and as a table for people.

Rule: nothing about a single key stands here; a key added to snapshot.py appears by itself. The JSON Schema (2020-12)
knows types, names, words and simple bounds; what takes more is for `relayd check`.
"""

from __future__ import annotations

import datetime
import json
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from relayd.config.model.scenario import Scenarios
from relayd.config.model.structure import bounds, field_type
from relayd.config.model.types import FORMS, SCALARS, write
from relayd.config.pattern import Pattern
from relayd.config.snapshot import (
    Account,
    ApiKey,
    Deny,
    Glob,
    MicroUsd,
    Network,
    ObjectId,
    Prices,
    Proxy,
    Relay,
    Seconds,
    Size,
    Url,
)
from relayd.noun import noun

# kind of file: (noun, where such files are, as a glob for editors)
KINDS: dict[str, tuple[type, str]] = {
    "relay": (Relay, "relay.toml"),
    "account": (Account, "accounts.d/**/*.toml"),
    "key": (ApiKey, "keys.d/**/*.toml"),
    "deny": (Deny, "deny.toml"),
    "prices": (Prices, "prices.toml"),
    "test": (Scenarios, "tests.d/**/*.toml"),
}

_WORDS = {
    str: "string",
    int: "integer",
    bool: "boolean",
    float: "number",
    datetime.datetime: "time",
    Seconds: "duration",
    Size: "size",
    MicroUsd: "USD",
    ObjectId: "name",
    Glob: "glob",
    Pattern: "regex",
    Network: "network",
    Url: "URL",
    Proxy: "proxy URL",
    **{kind: form.replace("-", " ") for form, kind in FORMS.items()},
}


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind of file."""
    noun, _ = KINDS[kind]
    title = (noun.__doc__ or "").split("\n")[0]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **_noun_schema(noun)}


def json_schema_text(kind: str) -> str:
    """The JSON Schema as the content of a file."""
    return json.dumps(json_schema(kind), indent=2) + "\n"


def taplo_config(folder: str) -> str:
    """The content of .taplo.toml, which tells TOML editors where the schemas in `folder` apply.

    Source: Taplo documentation, "Configuration file", sections rule and schema.
    """
    rules = [
        f'[[rule]]\ninclude = ["{place}"]\n\n[rule.schema]\nenabled = true\npath = "{folder}/{kind}.json"\n'
        for kind, (_, place) in KINDS.items()
    ]
    head = f"# For TOML editors: which schema each file has. `relayd schema --out {folder}` writes the schemas.\n"
    return head + "\n" + "\n".join(rules)


def _noun_schema(noun: type) -> dict[str, Any]:
    fields = list(_fields(noun))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: _field_schema(field) for field in fields},
        "additionalProperties": False,
    }
    if required := [field.name for field in fields if field.default is attrs.NOTHING]:
        schema["required"] = required
    return schema


def _fields(noun: type) -> Iterator[attrs.Attribute[Any]]:
    """The keys of a noun. `id` is not one of them: it is the name of the file."""
    return (field for field in attrs.fields(attrs.resolve_types(noun)) if "doc" in field.metadata)


def _field_schema(field: attrs.Attribute[Any]) -> dict[str, Any]:
    kind = _inner(field_type(field))
    low, high = field.metadata["low"], field.metadata["high"]
    doc = field.metadata["doc"]
    schema = _type_schema(kind)
    if kind in (int, float):
        schema.update({"minimum": low} if low is not None else {}, **({"maximum": high} if high is not None else {}))
    elif (low, high) != (None, None) and not (low == 0 and high is None):
        doc += f" {_sentence(bounds(kind, low, high))}"
    schema["description"] = doc
    if (default := _default(field)) is not None:
        schema["default"] = default
    schema["x-reload"] = field.metadata["reload"]
    return schema


def _type_schema(kind: Any) -> dict[str, Any]:
    kind = _inner(kind)
    if kind in SCALARS:
        return dict(SCALARS[kind].schema)
    if attrs.has(kind):
        return _noun_schema(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        return {"type": "array", "items": _type_schema(args[0])}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type_schema(arg) for arg in args]}
    return {"type": "object", "additionalProperties": _type_schema(args[1])}


def _inner(kind: Any) -> Any:
    """`X` for `X | None`: an absent key is how TOML says None."""
    args = [arg for arg in get_args(kind) if arg is not type(None)]
    return args[0] if len(args) < len(get_args(kind)) and len(args) == 1 else kind


def _default(field: attrs.Attribute[Any]) -> Any:
    """The default as it is written; None where there is none to write: required keys, tables, absent values."""
    if field.default is attrs.NOTHING or isinstance(field.default, Mapping) or attrs.has(type(field.default)):
        return None
    kind = _inner(field_type(field))
    if isinstance(field.default, tuple):
        return [write(get_args(kind)[0], value) for value in field.default]
    return write(kind, field.default)


@noun(kw_only=True)
class KeyRow:
    """One key, for the table: all of it as people read it."""

    key: str
    type: str
    default: str
    reload: str
    doc: str


def rows(kind: str) -> list[KeyRow]:
    """Every key of a kind of file, in the order of snapshot.py."""
    return list(_rows(KINDS[kind][0], ""))


def _rows(noun: type, prefix: str) -> Iterator[KeyRow]:
    for field in _fields(noun):
        key = f"{prefix}{field.name}"
        kind = _inner(field_type(field))
        table, place = _table_of(kind, key)
        if table is not None:
            yield from _rows(table, f"{place}.")
        else:
            yield _row(field, key, kind)


def _table_of(kind: Any, key: str) -> tuple[type | None, str]:
    """The noun within a type, and how its keys are written."""
    args = get_args(kind)
    if attrs.has(kind):
        return kind, key
    if get_origin(kind) is tuple and attrs.has(args[0]):
        return args[0], f"{key}[]"
    if len(args) == 2 and attrs.has(args[1]):
        return args[1], f"{key}.ID"
    return None, key


def _row(field: attrs.Attribute[Any], key: str, kind: Any) -> KeyRow:
    low, high = field.metadata["low"], field.metadata["high"]
    limited = (low, high) != (None, None) and not (low == 0 and high is None)
    doc = field.metadata["doc"] + (f" {_sentence(bounds(kind, low, high))}" if limited else "")
    default = _default(field)
    return KeyRow(
        key=key,
        type=_words(kind),
        default="required" if field.default is attrs.NOTHING else "" if default is None else json.dumps(default),
        reload=field.metadata["reload"],
        doc=doc,
    )


def _words(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(json.dumps(word) for word in args)
    if origin is tuple:
        return f"array of {_words(args[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(arg) for arg in args)
    return f"table of {_words(args[1])}"


def markdown(kind: str) -> str:
    """The keys of a kind of file as a Markdown table."""
    lines = ["| key | type | default | reload | meaning |", "|---|---|---|---|---|"]
    for row in rows(kind):
        default = row.default if row.default in ("", "required") else f"`{row.default}`"
        cells = (f"`{row.key}`", row.type, default, row.reload, row.doc)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
