"""Values made for a schema are accepted by it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.simulator.instance import MOST_VALUES, instance

LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda values: {"enum": values}, st.lists(st.text(max_size=4) | st.integers(), min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, st.text(max_size=4) | st.none() | st.integers()),
    st.builds(lambda low: {"type": "string", "minLength": low}, st.integers(0, 20)),
    st.builds(lambda form: {"type": "string", "format": form}, st.sampled_from(["date", "email", "uuid", "uri"])),
    st.builds(
        lambda kind, low, span: {"type": kind, "minimum": low, "maximum": low + span},
        st.sampled_from(["integer", "number"]), st.integers(-50, 50), st.integers(0, 20),
    ),
    st.builds(lambda low: {"type": "integer", "exclusiveMinimum": low}, st.integers(-50, 50)),
    st.just({"type": ["null", "string"]}),
)  # fmt: skip
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda properties, take: {
                "type": "object", "properties": properties, "additionalProperties": False,
                "required": [name for name in properties if take or name < "m"],
            },
            st.dictionaries(st.text(max_size=5), inner, max_size=3), st.booleans(),
        ),
        st.builds(lambda item, least: {"type": "array", "items": item, "minItems": least}, inner, st.integers(0, 3)),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
        st.builds(lambda part: {"allOf": [part, {"description": "x"}]}, inner),
    ),
    max_leaves=6,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "properties", "required", "items", "enum", "anyOf", "allOf", "$ref", "pattern"]),
        inner, max_size=4,
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(SCHEMAS)
def test_a_value_satisfies_its_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(instance(schema))


@settings(deadline=None, max_examples=50)
@given(SCHEMAS)
def test_a_reference_is_followed(schema: dict[str, Any]) -> None:
    whole = {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"$ref": "#/$defs/a~1part"}},
        "$defs": {"a/part": schema},
    }
    jsonschema.Draft202012Validator(whole).validate(instance(whole))


@settings(deadline=None, max_examples=200)
@given(JSON)
def test_a_schema_that_makes_no_sense_still_gets_some_value(schema: Any) -> None:
    json.dumps(instance(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "required": ["a", "b"], "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 64},
    ],
)
def test_a_schema_that_refers_to_itself_ends(schema: dict[str, Any]) -> None:
    text = json.dumps(instance(schema))
    assert len(text) < MOST_VALUES * 100
