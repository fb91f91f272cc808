"""Sample values: the plainest JSON value that a tool's input schema or an output schema accepts, the same every time.

Rule: never raises on a schema that makes no sense; the value is then as good as can be told. Theory: what a schema
demands is met, what it merely allows is left out. Keywords that are read: const, enum, type, properties, required,
items, minItems, minLength, format, minimum, exclusiveMinimum, maximum, allOf, anyOf, oneOf, and $ref within the
document: those that schemas made by pydantic, zod and the SDKs use. Others are not looked at.
Source: JSON Schema 2020-12, core and validation.
"""

from __future__ import annotations

import math
from typing import Any

import attrs

DEPTH = 32  # nesting at which a recursive schema is cut short; deeper ones do not occur in tool definitions
MOST_VALUES = 2000  # in one answer; references may double at every level
MOST_ITEMS = 64  # an answer is a sample, not a load test
MOST_LETTERS = 4096

FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
EMPTY: dict[str, Any] = {
    "object": {}, "array": [], "string": "", "integer": 0, "number": 0, "boolean": False, "null": None,
}  # fmt: skip


@attrs.define(eq=False)
class Work:
    """The document that references point into, and how many more values may be made of it."""

    root: object
    left: int = MOST_VALUES


def instance(schema: object) -> Any:
    """A value for `schema`, an object as decoded from JSON (or true, or false)."""
    return _build(schema, Work(schema), DEPTH)


def _build(schema: object, work: Work, depth: int) -> Any:
    if not isinstance(schema, dict):
        return {}
    work.left -= 1
    schema = _resolve(schema, work.root)
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    kind = _kind(schema)
    if depth <= 0 or work.left <= 0:
        return EMPTY[kind]
    match kind:
        case "object":
            return _object(schema, work, depth)
        case "array":
            return _array(schema, work, depth)
        case "string":
            return _string(schema)
        case "integer" | "number":
            return _number(schema, whole=kind == "integer")
        case "boolean":
            return True
    return None


def _resolve(schema: dict[str, Any], root: object) -> dict[str, Any]:
    """`schema` with its $ref followed, allOf merged and the first of anyOf or oneOf taken."""
    for _ in range(DEPTH):
        name = next((name for name in ("$ref", "allOf", "anyOf", "oneOf") if name in schema), None)
        if name is None:
            break
        value, schema = schema[name], {key: part for key, part in schema.items() if key != name}
        parts = value if isinstance(value, list) else [_pointer(root, value)] if isinstance(value, str) else []
        for part in parts[: MOST_ITEMS if name == "allOf" else 1]:
            schema = _merged(schema, part)
    return schema


def _merged(schema: dict[str, Any], part: object) -> dict[str, Any]:
    """Both of two schemas; where they contradict each other, the second."""
    if not isinstance(part, dict):
        return schema
    merged = {**schema, **part}
    old, new = schema.get("properties"), part.get("properties")
    if isinstance(old, dict) and isinstance(new, dict):
        merged["properties"] = {**old, **new}
    old, new = schema.get("required"), part.get("required")
    if isinstance(old, list) and isinstance(new, list):
        merged["required"] = [*old, *new]
    return merged


def _pointer(root: object, reference: str) -> object:
    """What `#/a/b` points to. Source: RFC 6901; other references are not followed."""
    if not reference.startswith("#"):
        return {}
    value = root
    for part in reference[1:].split("/")[1:]:
        value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    return value


def _kind(schema: dict[str, Any]) -> str:
    """Its type. Where a schema names none, an object fits: only `required` demands anything of one."""
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    return kind if isinstance(kind, str) and kind in EMPTY else "object"


def _object(schema: dict[str, Any], work: Work, depth: int) -> dict[str, Any]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        properties = {}
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    return {name: _build(properties.get(name, {"type": "string"}), work, depth - 1) for name in names}


def _array(schema: dict[str, Any], work: Work, depth: int) -> list[Any]:
    count = min(int(_bound(schema, "minItems", 1)), MOST_ITEMS) if depth > 1 else 0
    return [_build(schema.get("items", {"type": "string"}), work, depth - 1) for _ in range(count)]


def _string(schema: dict[str, Any]) -> str:
    form = schema.get("format")
    if isinstance(form, str) and form in FORMATS:
        return FORMATS[form]
    return "example".ljust(min(int(_bound(schema, "minLength", 0)), MOST_LETTERS), "e")


def _number(schema: dict[str, Any], *, whole: bool) -> float | int:
    """1, or what is next to it within the bounds."""
    low = max(_bound(schema, "minimum", -math.inf), _bound(schema, "exclusiveMinimum", -math.inf) + 1)
    value = min(max(1, low), _bound(schema, "maximum", math.inf))
    return math.ceil(value) if whole else value


def _bound(schema: dict[str, Any], name: str, otherwise: float) -> float:
    value = schema.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return otherwise
    return value
