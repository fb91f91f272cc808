"""The official SDK reads every kind of answer, parsed strictly enough to notice a wrong type."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import jsonschema
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter
from simulated import CLOCK, WEATHER, Wireless, ask, call, client, events_of, text_of

from relayd.config.snapshot import Simulator

SHAPES: dict[str, dict[str, Any]] = {
    "text": ask(),
    "thinking": ask(thinking={"type": "adaptive"}),
    "budget": ask(thinking={"type": "enabled", "budget_tokens": 1024}),
    "hidden thinking": ask(thinking={"type": "adaptive", "display": "omitted"}),
    "one tool": ask("please get_weather now", tools=[WEATHER, CLOCK]),
    "two tools": ask("get_time and get_weather", tools=[WEATHER, CLOCK]),
    "structured": ask(output_config={"format": {"type": "json_schema", "schema": WEATHER["input_schema"]}}),
    "stopped": ask("one two three four", stop_sequences=["three"]),
    "cut short": ask(max_tokens=3),
    "nothing allowed": ask(max_tokens=0),
    "cached": ask(system=[{"type": "text", "text": "x" * 700, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]),
    "not ascii": ask("Grüße aus Zürich, 你好 😀"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sdk_types_accept_the_answer_and_each_event(shape: str) -> None:
    strict = {"strict": True}
    Message.model_validate_json(text_of(call(SHAPES[shape])), **strict)
    adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    for event in events_of(text_of(call({**SHAPES[shape], "stream": True}))):
        if event["type"] != "ping":
            adapter.validate_json(json.dumps(event), **strict)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sdk_gathers_from_the_stream_what_the_plain_answer_says(shape: str) -> None:
    whole = client().messages.create(**SHAPES[shape])
    with client().messages.stream(**SHAPES[shape]) as stream:
        gathered = stream.get_final_message()
    ignored = {"id", "content", "parsed_output"}
    assert gathered.model_dump(exclude=ignored) == whole.model_dump(exclude=ignored)
    assert [_said(block) for block in gathered.content] == [_said(block) for block in whole.content]


def _said(block: Any) -> dict[str, Any]:
    """A block without what is derived from the request's bytes, and without what only the SDK adds."""
    fields = ("type", "text", "thinking", "name", "input")
    return {name: getattr(block, name) for name in fields if hasattr(block, name)}


def test_a_tool_is_called_with_input_that_its_schema_accepts() -> None:
    answer = client().messages.create(**ask("get_weather", tools=[WEATHER]))
    call_block = answer.content[-1]
    assert answer.stop_reason == "tool_use"
    assert call_block.type == "tool_use"
    jsonschema.validate(call_block.input, WEATHER["input_schema"])
    assert "extra" not in call_block.input


def test_a_tool_loop_ends_with_an_answer_that_quotes_the_result() -> None:
    first = client().messages.create(**ask("get_time, please", tools=[CLOCK]))
    calls = [block for block in first.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "half past nine"} for block in calls]
    asked = ask("get_time, please", tools=[CLOCK])
    asked["messages"] += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": results},
    ]
    second = client().messages.create(**asked)
    assert second.stop_reason == "end_turn"
    assert second.content[0].type == "text"
    assert second.content[0].text.startswith("The tool answered: half past nine")


def test_structured_output_is_json_that_the_schema_accepts() -> None:
    answer = client().messages.create(**SHAPES["structured"])
    assert answer.content[0].type == "text"
    jsonschema.validate(json.loads(answer.content[0].text), WEATHER["input_schema"])


def test_models_are_listed_page_by_page_and_found_by_id() -> None:
    models = list(client().models.list(limit=2))
    assert len(models) > 4
    assert len({model.id for model in models}) == len(models)
    assert client().models.retrieve(models[-1].id) == models[-1]
    with pytest.raises(anthropic.NotFoundError):
        client().models.retrieve("claude-unknown-9")


def test_counted_tokens_are_those_of_the_answer() -> None:
    asked = ask(SHAPES["cached"]["messages"][0]["content"], system=SHAPES["cached"]["system"], tools=[WEATHER])
    usage = client().messages.create(**asked).usage
    del asked["max_tokens"]
    counted = client().messages.count_tokens(**asked).input_tokens
    assert counted == usage.input_tokens + (usage.cache_creation_input_tokens or 0)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.InternalServerError),
    ],
)
def test_the_sdk_knows_each_simulated_error(status: int, error: type[anthropic.APIStatusError]) -> None:
    with pytest.raises(error) as caught:
        client(Wireless(Simulator(status=status, retry_after=9))).messages.create(**ask())
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "9"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["request_id"] == caught.value.request_id


def test_the_sdk_notices_a_cut_and_an_error_event() -> None:
    for settings, error in (
        (Simulator(cut_after=5), httpx2.RemoteProtocolError),
        (Simulator(error_after=5), anthropic.APIStatusError),
    ):
        with pytest.raises(error), client(Wireless(settings)).messages.stream(**ask()) as stream:
            stream.get_final_message()
