"""The `openai` package talks to a running relay as if to OpenAI: what it parses, what it raises, what it waits for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from fleet import noon_zone
from openai_daemon import MODEL, OLDER, Lane, Relay, relaying
from pydantic import BaseModel

LANES = {
    "plain": Lane(),
    "messages-only": Lane(key='endpoints = ["messages"]'),
    "no-opus": Lane(key='deny_models = ["claude-opus-*"]'),
    "claude-code": Lane(key='clients = ["claude_code"]'),
    "revoked": Lane(key="enabled = false"),
    "short": Lane(key="max_tokens = 5"),
    "two-a-minute": Lane(key='[limits]\nrate = { requests = 2, window = "1m" }'),
    "one-a-month": Lane(key="[limits]\nmonthly_requests = 1"),
    "status-400": Lane("status = 400"),
    "status-401": Lane("status = 401"),
    "status-403": Lane("status = 403"),
    "status-404": Lane("status = 404"),
    "status-413": Lane("status = 413"),
    "status-429": Lane("status = 429\nretry_after = 7"),
    "resting": Lane("status = 429\nretry_after = 200"),
    "status-500": Lane("status = 500"),
    "status-503": Lane("status = 503"),
    "status-529": Lane("status = 529"),
    "unreachable": Lane("drop = true"),
    "halved": Lane("cut_after = 0"),
    "cut": Lane("cut_after = 6"),
    "cut-too": Lane("cut_after = 6"),
    "async-cut": Lane("cut_after = 6"),
    "error": Lane("error_after = 6"),
    "error-too": Lane("error_after = 6"),
    "pausing": Lane('words = 3\nbetween = "300ms"'),
    "silent": Lane('between = "1h"'),  # after its first event
    "long": Lane("words = 3000"),
    "backed": Lane("status = 529", backup="plain"),
    "busy-once": Lane("status = 429\nretry_after = 1\nevery = 2"),
}
RELAY = f'''
[server]
sse_keepalive = "50ms"
[models]
smart = "claude-opus-4-1"
[state]
timezone = "{noon_zone()}"
'''
HELLO: Any = [{"role": "user", "content": "hello relay"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
NAMES = ("get_weather", "get_time")
TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in NAMES]
FLAT_TOOLS: Any = [{"type": "function", "name": name, "parameters": PARAMETERS, "strict": True} for name in NAMES]
BOTH = "Please get_weather and get_time"


class Forecast(BaseModel):
    """What a structured answer is asked to be."""

    city: str
    degrees: int
    chances: list[float]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with relaying(tmp_path_factory.mktemp("openai"), LANES, RELAY) as running:
        yield running


@pytest.fixture
def sdk(relay: Relay) -> Iterator[openai.OpenAI]:
    with client(relay) as made:
        yield made


def client(relay: Relay, lane: str = "plain", **options: Any) -> openai.OpenAI:
    options = {"max_retries": 0, "timeout": 60, "base_url": relay.base_url, **options}
    return openai.OpenAI(api_key=relay.key(lane), **options)


# --- Chat Completions


def test_a_chat_answer_has_every_member_the_types_demand(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=MODEL, messages=HELLO)
    type(answer).model_validate(answer.model_dump(exclude_unset=True), strict=True)
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 600
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content.startswith("You said: hello relay")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens == 20


def test_both_ids_of_a_request_reach_the_client(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert raw.request_id == raw.headers["request-id"] == raw.parse()._request_id
    assert raw.headers["relayd-request-id"] != raw.request_id


def test_a_stream_without_include_usage_has_a_choice_in_every_chunk(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(model=MODEL, messages=HELLO)
    chunks = list(sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert [len(chunk.choices) for chunk in chunks] == [1] * len(chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert said(chunks) == whole.choices[0].message.content


def test_a_stream_with_include_usage_ends_with_the_usage_of_the_whole_answer(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(model=MODEL, messages=HELLO)
    options: Any = {"include_usage": True}
    chunks = list(sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True, stream_options=options))
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_parallel_calls_and_their_results_make_a_conversation(sdk: openai.OpenAI) -> None:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": BOTH}]
    first = sdk.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0]
    calls = first.message.tool_calls
    assert first.finish_reason == "tool_calls"
    assert [call.function.name for call in calls] == list(NAMES)
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "example"}] * 2
    assert len({call.id for call in calls}) == 2
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"result {at}"} for at, call in enumerate(calls)]
    messages += [first.message, *results, {"role": "user", "content": "Go on."}]
    second = sdk.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0]
    assert second.finish_reason == "stop"
    assert second.message.content.startswith("The tool answered: result 0 result 1")


def test_the_sdks_own_accumulator_joins_streamed_calls_as_the_whole_answer_has_them(sdk: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": BOTH}], "tools": TOOLS}
    whole = sdk.chat.completions.create(**asked).choices[0]
    with sdk.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_completion().choices[0]
    assert {"content.delta", "tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    assert streamed.message.content == whole.message.content
    assert [plain(call.function) for call in streamed.message.tool_calls] == [
        plain(call.function) for call in whole.message.tool_calls
    ]


def test_one_call_at_a_time_when_parallel_calls_are_declined(sdk: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": BOTH}]
    answer = sdk.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, parallel_tool_calls=False)
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["get_weather"]


@pytest.mark.parametrize("model", [MODEL, OLDER], ids=["native", "forced-tool"])
def test_parse_yields_the_asked_for_class(sdk: openai.OpenAI, model: str) -> None:
    answer = sdk.chat.completions.parse(model=model, messages=HELLO, response_format=Forecast).choices[0]
    assert isinstance(answer.message.parsed, Forecast)
    assert answer.finish_reason == "stop"
    assert not answer.message.tool_calls
    with sdk.chat.completions.stream(model=model, messages=HELLO, response_format=Forecast) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == answer.message.parsed


def test_a_tool_made_of_a_class_gets_its_arguments_parsed(sdk: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Forecast, name="report")
    messages: Any = [{"role": "user", "content": "report now"}]
    answer = sdk.chat.completions.parse(model=MODEL, messages=messages, tools=[tool]).choices[0]
    assert isinstance(answer.message.tool_calls[0].function.parsed_arguments, Forecast)


def test_thinking_is_shown_as_reasoning_and_counted(sdk: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, "reasoning_effort": "low"}
    answer = sdk.chat.completions.create(**asked)
    thought = answer.choices[0].message.reasoning_content
    assert thought.startswith("The user wrote to a simulator.")
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    chunks = list(sdk.chat.completions.create(**asked, stream=True))
    assert "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks) == thought


def test_pictures_and_papers_are_accepted(sdk: openai.OpenAI) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    parts: Any = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{pixel}"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQK"}},
    ]
    answer = sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])
    assert "what is this" in answer.choices[0].message.content


def test_what_has_no_effect_is_named_in_a_header(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=HELLO,
        seed=7,
        frequency_penalty=0.5,
        logit_bias={"1": 2},
        temperature=0.2,
        stop=[" ", "x"],
    )
    assert raw.headers["relayd-ignored"].split(", ") == ["stop", "frequency_penalty", "logit_bias", "seed"]
    quiet = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, temperature=0.2, n=1)
    assert "relayd-ignored" not in quiet.headers


def test_a_stop_sequence_and_a_cap_end_an_answer_with_the_right_word(sdk: openai.OpenAI) -> None:
    stopped = sdk.chat.completions.create(model=MODEL, messages=HELLO, stop="relay").choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("You said: hello ", "stop")
    capped = sdk.chat.completions.create(model=MODEL, messages=HELLO, max_completion_tokens=3).choices[0]
    assert (capped.message.content, capped.finish_reason) == ("You said: hello", "length")


# --- Responses


def test_a_responses_answer_has_every_member_the_types_demand(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=MODEL, input="hello relay", instructions="Be brief.", metadata={"a": "b"})
    assert answer.output_text.startswith("You said: hello relay")
    assert (answer.status, answer.error, answer.incomplete_details) == ("completed", None, None)
    assert (answer.instructions, answer.metadata, answer.store) == ("Be brief.", {"a": "b"}, False)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.id.startswith("resp_")


def test_a_responses_stream_counts_its_events_and_ends_with_the_whole_answer(sdk: openai.OpenAI) -> None:
    events = list(sdk.responses.create(model=MODEL, input="hello relay", stream=True))
    kinds = [event.type for event in events]
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [kind for kind in kinds if kind != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[-1].response.output_text == deltas
    whole = sdk.responses.create(model=MODEL, input="hello relay")
    assert plain(events[-1].response.output[0].content) == plain(whole.output[0].content)
    assert events[-1].response.usage == whole.usage


def test_responses_calls_and_their_results_make_a_conversation(sdk: openai.OpenAI) -> None:
    said: Any = [{"role": "user", "content": BOTH}]
    with sdk.responses.stream(model=MODEL, input=said, tools=FLAT_TOOLS) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_response()
    calls = [item for item in first.output if item.type == "function_call"]
    assert kinds.count("response.function_call_arguments.done") == 2
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        ("get_weather", {"city": "example"}),
        ("get_time", {"city": "example"}),
    ]
    said += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in first.output]
    said += [{"type": "function_call_output", "call_id": call.call_id, "output": call.name} for call in calls]
    second = sdk.responses.create(model=MODEL, input=said, tools=FLAT_TOOLS)
    assert second.output_text.startswith("The tool answered: get_weather get_time")


@pytest.mark.parametrize("model", [MODEL, OLDER], ids=["native", "forced-tool"])
def test_responses_parse_yields_the_asked_for_class(sdk: openai.OpenAI, model: str) -> None:
    answer = sdk.responses.parse(model=model, input="hello", text_format=Forecast)
    assert isinstance(answer.output_parsed, Forecast)


def test_reasoning_comes_back_sealed_and_may_be_sent_again(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(
        model=MODEL, input=BOTH, reasoning={"effort": "low", "summary": "auto"}, tools=FLAT_TOOLS
    )
    thought = first.output[0]
    assert thought.type == "reasoning"
    assert thought.summary[0].text.startswith("The user wrote")
    calls = [item for item in first.output if item.type == "function_call"]
    said: Any = [{"role": "user", "content": BOTH}]
    said += [item.model_dump(exclude_none=True) for item in first.output]
    said += [{"type": "function_call_output", "call_id": call.call_id, "output": "fine"} for call in calls]
    second = sdk.responses.create(model=MODEL, input=said, reasoning={"effort": "low"}, tools=FLAT_TOOLS)
    assert "The tool answered: fine fine" in second.output_text


def test_a_conversation_is_compacted_and_goes_on(sdk: openai.OpenAI) -> None:
    raw = sdk.responses.with_raw_response.compact(model=MODEL, input="hello relay")
    compacted = raw.parse()
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    assert compacted.usage.output_tokens > 0
    assert sdk.responses.create(model=MODEL, input=[*json.loads(raw.text)["output"], *HELLO]).output_text


def test_an_inputs_tokens_are_counted(sdk: openai.OpenAI) -> None:
    short = sdk.responses.input_tokens.count(model=MODEL, input="hello relay")
    assert 0 < short.input_tokens < sdk.responses.input_tokens.count(model=MODEL, input="hello " * 99).input_tokens


def test_what_would_need_a_memory_is_refused_by_name(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model=MODEL, input="go on", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError, match="unknown path"):
        sdk.responses.retrieve("resp_1")


# --- models


@pytest.mark.parametrize("base", ["/v1", "/openai/v1", "/openai/claude/v1", "/v1/v1"])
def test_every_base_url_has_models_and_chat(relay: Relay, base: str) -> None:
    with client(relay, base_url=relay.daemon.url + base) as sdk:
        listed = {model.id: model for model in sdk.models.list()}
        assert MODEL in listed
        assert listed[MODEL] == sdk.models.retrieve(MODEL)
        assert sdk.models.retrieve("smart").id == "smart"
        assert listed[MODEL].owned_by == "anthropic"
        assert sdk.chat.completions.create(model="smart", messages=HELLO).model == "smart"
        assert sdk.responses.create(model="smart", input="hello").model == "smart"


def test_a_key_sees_only_the_models_it_may_use(relay: Relay) -> None:
    with client(relay, "no-opus") as sdk:
        listed = [model.id for model in sdk.models.list()]
        assert MODEL in listed
        assert not [name for name in listed if name.startswith("claude-opus")]
        with pytest.raises(openai.NotFoundError) as caught:
            sdk.models.retrieve(OLDER)
    assert caught.value.code == "model_not_found"


# --- errors


ERRORS: list[tuple[str, type[openai.APIStatusError], int, str, str | None, str]] = [
    ("nobody", openai.AuthenticationError, 401, "authentication_error", "invalid_api_key", "Invalid API key: unknown"),
    ("revoked", openai.AuthenticationError, 401, "authentication_error", "invalid_api_key", "has been revoked"),
    ("messages-only", openai.PermissionDeniedError, 403, "permission_error", "endpoint_not_allowed", "endpoint openai"),
    ("no-opus", openai.PermissionDeniedError, 403, "permission_error", "model_not_allowed", "model claude-opus-4-1"),
    ("claude-code", openai.PermissionDeniedError, 403, "permission_error", "client_not_allowed", "OpenAI/Python"),
    ("status-400", openai.BadRequestError, 400, "invalid_request_error", None, "Simulated invalid_request_error"),
    ("status-401", openai.InternalServerError, 502, "server_error", "upstream_credential", "account status-401: "),
    ("status-403", openai.InternalServerError, 502, "server_error", "upstream_credential", "account status-403: "),
    ("status-404", openai.NotFoundError, 404, "not_found_error", None, "Simulated not_found_error"),
    ("status-413", openai.APIStatusError, 413, "request_too_large", "request_too_large", "Simulated request_too"),
    ("status-429", openai.RateLimitError, 429, "rate_limit_error", "rate_limit_exceeded", "Simulated rate_limit"),
    ("status-500", openai.InternalServerError, 500, "api_error", None, "Simulated api_error"),
    ("status-503", openai.InternalServerError, 503, "api_error", None, "Simulated api_error"),
    ("status-529", openai.InternalServerError, 529, "overloaded_error", None, "Overloaded"),
    ("unreachable", openai.InternalServerError, 502, "server_error", "upstream_unreachable", "upstream"),
    ("halved", openai.InternalServerError, 502, "server_error", "upstream_unreachable", "upstream"),
]


@pytest.mark.parametrize(("lane", "kind", "status", "type_", "code", "words"), ERRORS, ids=[row[0] for row in ERRORS])
def test_each_error_is_raised_as_the_sdks_own_class(
    relay: Relay, lane: str, kind: type[openai.APIStatusError], status: int, type_: str, code: str | None, words: str
) -> None:
    with client(relay, lane) as sdk, pytest.raises(openai.APIStatusError) as caught:
        sdk.chat.completions.create(model=OLDER if lane == "no-opus" else MODEL, messages=HELLO)
    error = caught.value
    assert type(error) is kind
    assert (error.status_code, error.type, error.code) == (status, type_, code)
    assert words in error.message
    assert error.request_id == error.response.headers["request-id"]


def test_an_exhausted_account_says_when_to_come_back_and_why(relay: Relay) -> None:
    with client(relay, "resting") as sdk:
        errors = []
        for _ in range(2):
            with pytest.raises(openai.RateLimitError) as caught:
                sdk.responses.create(model=MODEL, input="hello")
            errors.append(caught.value)
    assert errors[0].response.headers["retry-after"] == "200"
    assert 120 <= int(errors[1].response.headers["retry-after"]) <= 260
    assert "resting: cooling down until" in errors[-1].message


def test_a_keys_own_window_is_told_in_openais_headers(relay: Relay) -> None:
    with client(relay, "two-a-minute") as sdk:
        left = []
        for _ in range(2):
            raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
            left.append(raw.headers["x-ratelimit-remaining-requests"])
        with pytest.raises(openai.RateLimitError, match="Rate limit exceeded") as caught:
            sdk.responses.create(model=MODEL, input="hello")
    assert left == ["1", "0"]
    assert raw.headers["x-ratelimit-limit-requests"] == "2"
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_a_spent_quota_is_called_so_and_not_tried_again(relay: Relay) -> None:
    with client(relay, "one-a-month", max_retries=5) as sdk:
        sdk.chat.completions.create(model=MODEL, messages=HELLO)
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "insufficient_quota"

    def told() -> list[int]:
        return [entry["status"] for entry in relay.daemon.events("call.done") if entry.get("key") == "one-a-month"]

    relay.daemon.wait_until(lambda: len(told()) >= 2, "the calls' log lines")
    assert told() == [200, 429]


def test_a_bad_field_is_named(sdk: openai.OpenAI) -> None:
    broken: Any = [{"role": "user", "content": "x"}, {"role": "robot", "content": "y"}]
    with pytest.raises(openai.BadRequestError, match="robot") as caught:
        sdk.chat.completions.create(model=MODEL, messages=broken)
    assert caught.value.param == "messages[1].role"
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model=MODEL, messages=HELLO, n=2)
    assert caught.value.param == "n"


def test_an_unknown_model_is_the_upstreams_404(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model: claude-unknown-1") as caught:
        sdk.chat.completions.create(model="claude-unknown-1", messages=HELLO)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("lane", "type_", "words"),
    [("cut", "server_error", "broke off"), ("error", "overloaded_error", "Overloaded")],
)
def test_a_chat_stream_that_breaks_raises_and_never_ends_well(relay: Relay, lane: str, type_: str, words: str) -> None:
    chunks: list[Any] = []
    with client(relay, lane) as sdk, pytest.raises(openai.APIError, match=words) as caught:
        chunks.extend(sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert caught.value.type == type_


@pytest.mark.parametrize(("lane", "words"), [("cut-too", "broke off"), ("error-too", "Overloaded")])
def test_a_responses_stream_that_breaks_ends_as_failed(relay: Relay, lane: str, words: str) -> None:
    with client(relay, lane) as sdk:
        events = list(sdk.responses.create(model=MODEL, input="hello", stream=True))
    kinds = [event.type for event in events]
    assert kinds.count("response.output_text.delta") > 0
    assert kinds[-1] == "response.failed"
    assert "response.completed" not in kinds
    assert words in events[-1].response.error.message


# --- what the relay does around a call


def test_another_account_answers_before_the_client_notices(relay: Relay) -> None:
    with client(relay, "backed") as sdk:
        chunks = list(sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert said(chunks).startswith("You said: hello relay")


def test_the_sdk_waits_as_it_is_told_and_then_succeeds(relay: Relay) -> None:
    with client(relay, "busy-once", max_retries=3) as sdk:
        sdk.chat.completions.create(model=MODEL, messages=HELLO)
        began = time.monotonic()
        answer = sdk.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].finish_reason == "stop"
    assert time.monotonic() - began >= 1  # retry-after, in whole seconds


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_silence_is_filled_with_comments_that_the_sdk_does_not_see(relay: Relay, path: str) -> None:
    body = {"model": MODEL, "messages": HELLO, "input": "hello relay", "stream": True}
    body.pop("input" if path.startswith("chat") else "messages")
    key = {"authorization": f"Bearer {relay.key('silent')}"}
    raw = ""
    with httpx2.stream("POST", f"{relay.base_url}/{path}", json=body, headers=key, timeout=60) as answer:
        pieces = answer.iter_text()
        while raw.count(": keep-alive\n\n") < 5:
            raw += next(pieces)
    key = {"authorization": f"Bearer {relay.key('pausing')}"}
    raw = raw.rpartition("\n\n")[0] + "\n\n"
    raw += httpx2.post(f"{relay.base_url}/{path}", json=body, headers=key, timeout=60).text
    assert not [block for block in raw.split("\n\n") if block and not block.startswith((":", "data: ", "event: "))]
    with client(relay, "pausing") as sdk:
        if path == "responses":
            assert [*sdk.responses.create(model=MODEL, input="hello", stream=True)][-1].type == "response.completed"
        else:
            assert said(sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True)) == "You said: hello"


def test_a_long_stream_arrives_whole_in_both_dialects(relay: Relay) -> None:
    with client(relay, "long") as sdk:
        whole = sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5000).choices[0].message.content
        assert len(whole.split()) == 3000
        assert said(sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5000, stream=True)) == whole
        events = sdk.responses.create(model=MODEL, input=HELLO, max_output_tokens=5000, stream=True)
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole


def test_a_client_that_leaves_is_written_down_as_gone(relay: Relay) -> None:
    with client(relay, "silent") as sdk:
        stream = sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        next(iter(stream))
        stream.close()
        asked = stream.response.headers["relayd-request-id"]
    assert logged(relay, asked)["outcome"] == "left"


def test_the_log_counts_what_the_client_was_told(relay: Relay) -> None:
    with client(relay) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    usage = raw.parse().usage
    line = logged(relay, raw.headers["relayd-request-id"])
    assert (line["tokens_in"], line["tokens_out"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert (line["key"], line["account"], line["model"]) == ("plain", "plain", MODEL)


def logged(relay: Relay, call_id: str) -> dict[str, Any]:
    """The log line of a call, once it is there."""

    def found() -> list[dict[str, Any]]:
        return [entry for entry in relay.daemon.events() if entry.get("id") == call_id]

    relay.daemon.wait_until(lambda: bool(found()), "the call's line in the log")
    return found()[0]


# --- the asynchronous client


def test_the_asynchronous_client_does_the_same(relay: Relay) -> None:
    asyncio.run(_many_things(relay))  # not on trio: this SDK leaves its generators to asyncio's end


async def _many_things(relay: Relay) -> None:
    async with async_client(relay, "plain") as sdk:
        whole = await sdk.chat.completions.create(model=MODEL, messages=HELLO)
        stream = await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        assert said([chunk async for chunk in stream]) == whole.choices[0].message.content
        parsed = await sdk.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Forecast)
        assert isinstance(parsed.choices[0].message.parsed, Forecast)
        response = await sdk.responses.create(model=MODEL, input="hello relay")
        assert response.output_text == whole.choices[0].message.content
        async with sdk.responses.stream(model=MODEL, input="hello relay") as events:
            assert (await events.get_final_response()).output_text == response.output_text
        assert MODEL in [model.id async for model in sdk.models.list()]
        messages: Any = [{"role": "user", "content": BOTH}]
        async with sdk.chat.completions.stream(model=MODEL, messages=messages, tools=TOOLS) as calls:
            final = await calls.get_final_completion()
        assert [call.function.name for call in final.choices[0].message.tool_calls] == list(NAMES)
        with pytest.raises(openai.BadRequestError):
            await sdk.chat.completions.create(model=MODEL, messages=[])


def test_twenty_asynchronous_calls_at_once_all_get_their_own_answer(relay: Relay) -> None:
    answers = asyncio.run(_at_once(relay, 20))
    assert [answer.split()[2] for answer in answers] == [f"number-{at}" for at in range(20)]


async def _at_once(relay: Relay, count: int) -> list[str]:
    async with async_client(relay, "plain") as sdk:

        async def ask(number: int) -> str:
            messages: Any = [{"role": "user", "content": f"number-{number}"}]
            stream = await sdk.chat.completions.create(model=MODEL, messages=messages, stream=True)
            return said([chunk async for chunk in stream])

        return await asyncio.gather(*map(ask, range(count)))


def test_the_asynchronous_client_raises_when_its_stream_breaks(relay: Relay) -> None:
    with pytest.raises(openai.APIError, match="broke off"):
        asyncio.run(_broken(relay))


async def _broken(relay: Relay) -> None:
    async with async_client(relay, "async-cut") as sdk:
        async for _ in await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True):
            pass


def async_client(relay: Relay, lane: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=relay.key(lane), base_url=relay.base_url, max_retries=0, timeout=60)


def said(chunks: Any) -> str:
    """The text of a stream of chunks."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def plain(value: Any) -> Any:
    """A model, or a list of them, as JSON values, without members that only the SDK's helpers add."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.model_dump(exclude_none=True, exclude={"parsed", "parsed_arguments"})
