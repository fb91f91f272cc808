"""Whatever model a request names besides its own is found, and words of the client's own are no models."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.named_models import MOST_NAMED, NamedModels, named_models
from relayd.wire.objects import batch_requests
from relayd.wire.peek import peek
from relayd.wire.refusal import Refusal

OPUS = "claude-opus-5-5"
ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": OPUS, "max_tokens": 900, "max_uses": 2}
TASK = {"name": "Task", "description": "d", "input_schema": {"properties": {"model": {"type": "string"}, "x": {}}}}


def adding(definition: dict[str, Any]) -> list[dict[str, Any]]:
    block = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}}
    return [{"role": "user", "content": "hi"}, {"role": "system", "content": [block]}]


def seen(**fields: Any) -> NamedModels:
    return peek(json.dumps({"model": "m", **fields}).encode()).named


@pytest.mark.parametrize(
    "fields",
    [
        {"fallbacks": [{"model": OPUS}]},
        {"tools": [TASK, ADVISOR]},
        {"tools": [{**TASK, "model": OPUS}]},
        {"messages": adding(ADVISOR)},
        {
            "messages": [
                {"role": "user", "content": [{"type": "compaction", "tool_changes": [{"definition": ADVISOR}]}]}
            ]
        },
        {"advisor_model": OPUS},
        {"routing": {"next": [{"then": {"model": OPUS}}]}},
        {"context_management": {"edits": [{"type": "compact", "model": OPUS}]}},
        {"mcp_servers": [{"default_model": OPUS}]},
    ],
)
def test_a_model_is_found_wherever_a_request_names_one(fields: dict[str, Any]) -> None:
    assert seen(**fields).models == (OPUS,)
    for space in (None, 1):
        text = json.dumps({**fields, "model": "m"}, indent=space).replace("model", "mod\\u0065l")
        assert peek(text.encode()).named.models == (OPUS,)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [TASK], "metadata": {"user_id": "u", "model": OPUS}, "system": [{"type": "text", "model": OPUS}]},
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "tool_use", "input": {"model": OPUS, "definition": 1}}]}
            ]
        },
        {"messages": [{"role": "assistant", "content": [{"type": "fallback", "to": {"model": OPUS}}]}]},
        {"messages": [{"role": "user", "content": 'say "model": "x" and "definition"'}]},
        {"tools": [{"name": "x", "input_examples": [{"model": OPUS}], "input_schema": {}}]},
        {"output_config": {"format": {"type": "json_schema", "schema": {"properties": {"model": {"const": OPUS}}}}}},
    ],
)
def test_words_of_the_clients_own_are_no_models(fields: dict[str, Any]) -> None:
    assert seen(**fields) == NamedModels()


def test_what_comes_with_a_named_model_is_read() -> None:
    chain = [{"model": OPUS, "max_tokens": 64000, "speed": "fast"}, {"model": "claude-haiku-4-5", "max_tokens": None}]

    assert seen(fallbacks=chain) == NamedModels(models=("claude-haiku-4-5", OPUS), max_tokens=64000, fast=True)
    assert seen(fallbacks="default") == NamedModels(any_model=True)
    assert seen(fallbacks=None) == seen(fallbacks=[]) == NamedModels()


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"m","fallbacks":[{"model":"a","model":"b"}]}',
        b'{"model":"m","tools":[{"type":"advisor","model":"a","x":{"model":"b"},"x":{}}]}',
        b'{"model":"m","tools":[{"input_schema":{"x":1},"cfg":{"model":"a"},"cfg":{"model":"b"}}]}',
        b'{"model":"m","tools":[{"cfg":[{"model":"a"},{"model":"b"}],"cfg":null,"input_schema":{"model":1}}]}',
    ],
)
def test_of_a_doubled_key_each_value_counts(text: bytes) -> None:
    assert peek(text).named.models == ("a", "b")


@pytest.mark.parametrize("name", ["fallbacks", "tools", "messages", "container", "thread"])
def test_a_doubled_field_that_decides_something_is_refused(name: str) -> None:
    with pytest.raises(Refusal, match="appears twice"):
        peek(b'{"model":"m","%b":[],"%b":[]}' % (name.encode(), name.encode()))


def test_more_models_than_anybody_needs_and_what_cannot_be_read_are_refused() -> None:
    with pytest.raises(Refusal, match="more than 100 models"):
        seen(fallbacks=[{"model": f"m{number}"} for number in range(MOST_NAMED + 1)])
    with pytest.raises(Refusal, match="cannot be read"):
        peek(b'{"model":"m","fallbacks":[%b]}' % (b"9" * 5000))


def test_each_request_of_a_batch_says_its_own() -> None:
    requests = [
        {"custom_id": "1", "params": {"model": "m", "fallbacks": [{"model": OPUS}]}},
        {"params": {"model": "n"}},
    ]

    named = [one.named.models for one in batch_requests(json.dumps({"requests": requests}).encode())]
    assert named == [(OPUS,), ()]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model", "tool", "definition", "content", "max_tokens", "speed", "x"]), inner
        )
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(["messages", "tools", "fallbacks", "system", "thread", "other", "old_model"])


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_no_json_is_too_odd_to_be_looked_through(fields: dict[str, Any]) -> None:
    found = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}

    named = named_models(found)
    for name in ("fallbacks", "other"):
        one = fields.get(name)
        if isinstance(one, dict) and isinstance(one.get("model"), str):
            assert one["model"] in named.models
