"""Instance: the plainest JSON value that a JSON Schema accepts, the same every time.

Rule: never raises on a schema that makes no sense; the value is then as good as can be told. Theory: what a schema
demands is met, what it merely allows is left out. Keywords that are read: const, enum, type, properties, required,
items, prefixItems, minItems, contains, minLength, maxLength, format, pattern (the few shapes in PATTERN_TRIES),
minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, allOf, anyOf, oneOf, $ref within the document.
Source: JSON Schema 2020-12, core and validation.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import attrs

DEPTH = 32  # nesting at which a recursive schema is cut short; deeper ones do not occur in tool definitions
MOST_VALUES = 2000  # in one answer; references may double at every level
MOST_ITEMS = 64  # an answer is a sample, not a load test
MOST_LETTERS = 4096

FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
PATTERN_TRIES = (
    "example",
    "EXAMPLE",
    "Example",
    "1",
    "123",
    "12345",
    "a1",
    "A1",
    "2026-01-31",
    "a",
    "a-b",
    "a_b",
    "a/b",
)
PATTERN_LENGTH = 200  # characters of a pattern that is tried; the texts are too short for one to backtrack for long


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


EMPTY: dict[str, Any] = {
    "object": {}, "array": [], "string": "", "integer": 0, "number": 0, "boolean": False, "null": None,
}  # fmt: skip


def _resolve(schema: dict[str, Any], root: object) -> dict[str, Any]:
    """`schema` with its $ref followed, allOf merged and the first of anyOf or oneOf taken."""
    for _ in range(DEPTH):
        if isinstance(schema.get("$ref"), str):
            target = _pointer(root, schema["$ref"])
            schema = _merged({name: value for name, value in schema.items() if name != "$ref"}, target)
        elif isinstance(schema.get("allOf"), list):
            rest = {name: value for name, value in schema.items() if name != "allOf"}
            for part in schema["allOf"][:MOST_ITEMS]:
                rest = _merged(rest, part)
            schema = rest
        elif name := next((name for name in ("anyOf", "oneOf") if isinstance(schema.get(name), list)), None):
            rest = {key: value for key, value in schema.items() if key != name}
            schema = _merged(rest, next((part for part in schema[name] if isinstance(part, dict)), {}))
        else:
            break
    return schema


def _merged(schema: dict[str, Any], part: object) -> dict[str, Any]:
    if not isinstance(part, dict):
        return schema
    merged = {**schema, **part}
    for name, join in (("properties", _joined_dicts), ("required", _joined_lists)):
        if name in schema and name in part:
            merged[name] = join(schema[name], part[name])
    return merged


def _joined_dicts(one: object, other: object) -> object:
    return {**one, **other} if isinstance(one, dict) and isinstance(other, dict) else other


def _joined_lists(one: object, other: object) -> object:
    return [*one, *other] if isinstance(one, list) and isinstance(other, list) else other


def _pointer(root: object, reference: str) -> object:
    """What `#/a/b` points to. Source: RFC 6901; other references are not followed."""
    if not reference.startswith("#"):
        return {}
    value = root
    for part in reference[1:].split("/")[1:]:
        value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    return value


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if isinstance(kind, str) and kind in EMPTY:
        return kind
    for name, keywords in KEYWORDS:
        if any(keyword in schema for keyword in keywords):
            return name
    return "object"


KEYWORDS = (
    ("object", ("properties", "required")),
    ("array", ("items", "prefixItems", "minItems")),
    ("string", ("minLength", "maxLength", "pattern", "format")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)


def _object(schema: dict[str, Any], work: Work, depth: int) -> dict[str, Any]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        properties = {}
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    return {name: _build(properties.get(name, {"type": "string"}), work, depth - 1) for name in names}


def _array(schema: dict[str, Any], work: Work, depth: int) -> list[Any]:
    first = schema.get("prefixItems")
    values = [_build(item, work, depth - 1) for item in first[:MOST_ITEMS]] if isinstance(first, list) else []
    least = schema.get("minItems", 0 if values else 1)
    wanted = min(_int(least, 0), _int(schema.get("maxItems", MOST_ITEMS), MOST_ITEMS), MOST_ITEMS)
    if "contains" in schema and not values:
        values.append(_build(schema["contains"], work, depth - 1))
    items = schema.get("items", {"type": "string"})
    while len(values) < wanted and items is not False and depth > 1:
        values.append(_distinct(_build(items, work, depth - 1), len(values), schema))
    return values


def _distinct(value: Any, number: int, schema: dict[str, Any]) -> Any:
    """`value`, told apart by its number where uniqueItems asks for it."""
    if schema.get("uniqueItems") is not True or not number:
        return value
    if isinstance(value, str):
        return f"{value}{number}"
    return value + number if isinstance(value, int | float) and not isinstance(value, bool) else value


def _string(schema: dict[str, Any]) -> str:
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        return _matching(pattern)
    form = schema.get("format")
    if isinstance(form, str) and form in FORMATS:
        return FORMATS[form]
    least = min(_int(schema.get("minLength", 0), 0), MOST_LETTERS)
    return "example".ljust(least, "e")[: max(least, _int(schema.get("maxLength", MOST_LETTERS), MOST_LETTERS), 0)]


def _matching(pattern: str) -> str:
    if len(pattern) > PATTERN_LENGTH:
        return PATTERN_TRIES[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a schema's pattern is not ours to mend
            compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return PATTERN_TRIES[0]
    return next((text for text in PATTERN_TRIES if compiled.search(text)), PATTERN_TRIES[0])


def _number(schema: dict[str, Any], *, whole: bool) -> float | int:
    """The least number that is allowed, or else 1."""
    low = max(_edge(schema, "minimum", -math.inf), _above(_edge(schema, "exclusiveMinimum", -math.inf), whole=whole))
    high = min(_edge(schema, "maximum", math.inf), -_above(-_edge(schema, "exclusiveMaximum", math.inf), whole=whole))
    value: float = min(max(1, low), high)
    step = _edge(schema, "multipleOf", 0)
    if step > 0:
        value = math.ceil(value / step) * step
        if value > high:
            value = math.floor(high / step) * step
    if whole and math.isfinite(value):
        return math.ceil(value) if math.ceil(value) <= high else math.floor(value)
    return value if math.isfinite(value) else 1


def _above(edge: float, *, whole: bool) -> float:
    """A number greater than `edge`, near it."""
    if not math.isfinite(edge):
        return edge
    return math.floor(edge) + 1 if whole else edge + max(abs(edge), 1) / 2**20


def _edge(schema: dict[str, Any], name: str, otherwise: float) -> float:
    value = schema.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return otherwise
    return value


def _int(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
