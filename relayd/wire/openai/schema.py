"""JSON Schemas as the Claude API's structured output takes them.

Rule: a schema means the same before and after, but for limits that the API cannot enforce; those are said in the
description, where the model reads them.

Source: API docs, "Structured outputs", JSON Schema limitations. Objects must be closed; numeric and length limits,
`oneOf` and string formats beyond a short list are refused.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_UNENFORCED = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems",
    "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip
# What is said to the model where any JSON object will do.
JSON_ONLY = "Answer with one valid JSON object and nothing else: no other words and no code fence."
_BY_NAME = ("properties", "$defs", "definitions")
_EMPTY_LIST = re.compile(rb'"(?:properties|\$defs|definitions)":\[\]')
_IN_LIST = ("anyOf", "allOf")


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy of `schema` that structured output accepts. What is not understood is left for the upstream to judge."""
    out = {key: value for key, value in schema.items() if key not in _UNENFORCED}
    said = [f"{key}: {_compact(schema[key])}" for key in _UNENFORCED if key in schema]
    if isinstance(out.get("format"), str) and out["format"] not in _FORMATS:
        said.append(f"format: {out.pop('format')}")
    if isinstance(out.get("minItems"), int) and out["minItems"] > 1:
        said.append(f"minItems: {out.pop('minItems')}")
    if said:
        text = out.get("description")
        out["description"] = (f"{text}\n\n" if isinstance(text, str) and text else "") + "{" + ", ".join(said) + "}"
    if "oneOf" in out and "anyOf" not in out:
        out["anyOf"] = out.pop("oneOf")
    _close_parts(out)
    kind = out.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        out.setdefault("additionalProperties", False)
    return out


def _close_parts(out: dict[str, Any]) -> None:
    for key in _BY_NAME:
        if out.get(key) == []:
            out[key] = {}
        elif isinstance(out.get(key), dict):
            out[key] = {name: closed(part) if isinstance(part, dict) else part for name, part in out[key].items()}
    for key in _IN_LIST:
        if isinstance(out.get(key), list):
            out[key] = [closed(part) if isinstance(part, dict) else part for part in out[key]]
    if isinstance(out.get("items"), dict):
        out["items"] = closed(out["items"])


def has_empty_lists(tools: list[dict[str, Any]]) -> bool:
    """Whether a schema in `tools` has an array in place of a map of schemas. Bytes are searched faster than trees."""
    return _EMPTY_LIST.search(msgspec.json.encode(tools)) is not None


def by_name(value: Any) -> Any:
    """The same with `{}` where an empty map of schemas was written as an array, as PHP does."""
    if isinstance(value, list):
        return [by_name(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {key: {} if part == [] and key in _BY_NAME else by_name(part) for key, part in value.items()}


def _compact(value: object) -> str:
    return msgspec.json.encode(value).decode()


def input_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    """A tool's input_schema: always an object, because the API accepts nothing else. No parameters: no arguments."""
    if not parameters:
        return {"type": "object", "properties": {}}
    return parameters if "type" in parameters else {"type": "object", **parameters}
