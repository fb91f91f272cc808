"""The real `openai` SDK reads what the translators write: its request in, its own types out, no socket between."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai_cases import (
    DIALECTS,
    NOW,
    OPUS_41,
    OPUS_55,
    SONNET,
    begin,
    block,
    end,
    event,
    flat_function,
    function,
    message,
    text,
    thinking,
    tool,
)
from pydantic import BaseModel
from waiting import PATIENCE

from relayd.wire.http import Headers, RequestHead
from relayd.wire.refusal import Refusal

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class Pieces(httpx2.SyncByteStream):
    """A body in pieces of a few bytes, so that every event is cut somewhere."""

    def __init__(self, data: list[bytes]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.data)


class Relay(httpx2.BaseTransport):
    """What a relay does around a dialect: parse, ask the upstream, translate, or refuse."""

    def __init__(self, upstream: bytes, status: int = 200, size: int = 7) -> None:
        self.upstream, self.status, self.size = upstream, status, size
        self.sent: dict[str, Any] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        dialect = DIALECTS["responses" if path.endswith("/responses") else "chat"]
        pairs = [(name.lower(), value) for name, value in request.headers.raw]
        head = RequestHead(method="POST", target=path, path=path, query="", headers=Headers(pairs))
        try:
            call = dialect.parse(head, request.content, now=NOW)
        except Refusal as refusal:
            reply = dialect.refuse(refusal, "req_ours")
            return httpx2.Response(reply.status, headers=reply.headers, content=reply.body)
        self.sent = json.loads(call.body)
        way = dialect.translator(call)
        kind = b"text/event-stream" if call.stream and self.status == 200 else b"application/json"
        headers = way.head(self.status, [(b"content-type", kind), (b"request-id", b"req_upstream")])
        if kind == b"application/json":
            return httpx2.Response(self.status, headers=headers, content=way.whole(self.status, self.upstream))
        pieces = [self.upstream[at : at + self.size] for at in range(0, len(self.upstream), self.size)]
        return httpx2.Response(200, headers=headers, stream=Pieces([*map(way.feed, pieces), way.finish()]))


def client(relay: Relay) -> openai.OpenAI:
    http = httpx2.Client(transport=relay, trust_env=False, timeout=PATIENCE)
    return openai.OpenAI(api_key="sk-relay-x", base_url="http://relay.test/v1", http_client=http, max_retries=0)


ASK: Any = [{"role": "user", "content": "Weather in Oslo and Rome?"}]
CALLS = (
    begin()
    + thinking(0, "Two cities.")
    + text(1, "Both \u2600", " \U0001f600")
    + tool(2, "get_weather", '{"city"', ': "Oslo"}')
    + tool(3, "get_weather", '{"city": "R\u00f6ma"}')
    + end("tool_use", output_tokens_details={"thinking_tokens": 5})
)
HI = {"type": "text", "text": "Hi \u2600"}


def test_chat_whole() -> None:
    relay = Relay(message(HI))
    with client(relay) as sdk:
        answer = sdk.chat.completions.create(model=SONNET, messages=ASK)
    assert answer.choices[0].message.content == "Hi \u2600"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 110
    assert answer._request_id == "req_upstream"
    type(answer).model_validate(answer.model_dump(), strict=True)


def test_chat_stream_with_parallel_calls_and_usage() -> None:
    with client(Relay(CALLS)) as sdk:
        chunks = list(
            sdk.chat.completions.create(
                model=SONNET, messages=ASK, tools=[function()], stream=True, stream_options={"include_usage": True}
            )
        )
    for chunk in chunks:
        type(chunk).model_validate(chunk.model_dump(exclude_unset=True))
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Both \u2600 \U0001f600"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 5


def test_chats_own_accumulator_puts_the_calls_together() -> None:
    with (
        client(Relay(CALLS)) as sdk,
        sdk.chat.completions.stream(model=SONNET, messages=ASK, tools=[function(strict=True)]) as stream,
    ):
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Oslo"}, {"city": "R\u00f6ma"}]
    assert final.choices[0].finish_reason == "tool_calls"


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.mark.parametrize("model", [SONNET, OPUS_55])
def test_chat_parse_through_the_apis_structured_output(model: str) -> None:
    relay = Relay(message({"type": "text", "text": '{"city": "Oslo", "degrees": -3}'}))
    with client(relay) as sdk:
        answer = sdk.chat.completions.parse(model=model, messages=ASK, response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Oslo", degrees=-3)
    assert relay.sent["output_config"]["format"]["schema"]["additionalProperties"] is False


def test_chat_parse_through_a_forced_tool() -> None:
    given = {"city": "Oslo", "degrees": -3}
    used = {"type": "tool_use", "id": "toolu_1", "name": "structured_answer", "input": given}
    relay = Relay(message(used, stop_reason="tool_use"))
    with client(relay) as sdk:
        answer = sdk.chat.completions.parse(model=OPUS_41, messages=ASK, response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Oslo", degrees=-3)
    assert relay.sent["tool_choice"] == {"type": "tool", "name": "structured_answer"}
    streamed = Relay(begin() + tool(0, "structured_answer", '{"city": "Oslo", ', '"degrees": -3}') + end("tool_use"))
    with (
        client(streamed) as sdk,
        sdk.chat.completions.stream(model=OPUS_41, messages=ASK, response_format=Weather) as stream,
    ):
        assert stream.get_final_completion().choices[0].message.parsed == Weather(city="Oslo", degrees=-3)


def test_chat_stream_error_is_raised() -> None:
    broken = begin() + text(0, "Hal") + event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    with client(Relay(broken)) as sdk, pytest.raises(openai.APIError, match="Overloaded") as caught:
        list(sdk.chat.completions.create(model=SONNET, messages=ASK, stream=True))
    assert caught.value.type == "overloaded_error"


def test_chat_stream_cut_short_is_raised() -> None:
    with client(Relay(begin() + text(0, "Hal"))) as sdk, pytest.raises(openai.APIError, match="before the message"):
        list(sdk.chat.completions.create(model=SONNET, messages=ASK, stream=True))


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", openai.BadRequestError),
        (404, "not_found_error", openai.NotFoundError),
        (429, "rate_limit_error", openai.RateLimitError),
        (529, "overloaded_error", openai.InternalServerError),
    ],
)
def test_upstream_errors_are_raised_with_their_message(status: int, kind: str, expected: type[Exception]) -> None:
    body = json.dumps({"type": "error", "error": {"type": kind, "message": "why it failed"}}).encode()
    with client(Relay(body, status)) as sdk, pytest.raises(expected, match="why it failed") as caught:
        sdk.chat.completions.create(model=SONNET, messages=ASK)
    assert isinstance(caught.value, openai.APIStatusError)
    assert caught.value.type == kind
    assert caught.value.request_id == "req_upstream"


def test_our_refusal_names_the_field() -> None:
    with client(Relay(b"")) as sdk, pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model=SONNET, messages=ASK, n=3)
    assert (caught.value.param, caught.value.code) == ("n", "unsupported_parameter")


def test_responses_whole() -> None:
    body = message({"type": "thinking", "thinking": "Hm", "signature": "c2ln"}, HI)
    with client(Relay(body)) as sdk:
        answer = sdk.responses.create(
            model=SONNET, input="x", reasoning={"effort": "low", "summary": "auto"}, store=False
        )
    assert answer.output_text == "Hi \u2600"
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 110
    type(answer).model_validate(answer.model_dump(exclude_unset=True))


def test_responses_stream_and_accumulator() -> None:
    with client(Relay(CALLS)) as sdk:
        events = list(
            sdk.responses.create(
                model=SONNET, input="x", tools=[flat_function(strict=False)], stream=True, reasoning={"summary": "auto"}
            )
        )
        for part in events:
            type(part).model_validate(part.model_dump(exclude_unset=True))
        assert [part.sequence_number for part in events] == list(range(len(events)))
        assert events[-1].type == "response.completed"
        with sdk.responses.stream(model=SONNET, input="x", tools=[flat_function(strict=True)]) as stream:
            final = stream.get_final_response()
    calls = [item for item in final.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Oslo", "R\u00f6ma"]
    assert final.output_text == "Both \u2600 \U0001f600"


def test_responses_parse() -> None:
    with client(Relay(message({"type": "text", "text": '{"city": "Oslo", "degrees": 1}'}))) as sdk:
        answer = sdk.responses.parse(model=SONNET, input="x", text_format=Weather)
    assert answer.output_parsed == Weather(city="Oslo", degrees=1)


def test_responses_round_trip_of_thinking_and_calls() -> None:
    tools: Any = [flat_function(strict=False)]
    with client(Relay(CALLS)) as sdk:
        *_, last = sdk.responses.create(model=SONNET, input="x", tools=tools, stream=True)
    relay = Relay(message(HI))
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
        for item in last.response.output
        if item.type == "function_call"
    ]
    history = [
        {"role": "user", "content": "x"},
        *(item.model_dump(exclude_unset=True) for item in last.response.output),
    ]
    with client(relay) as sdk:
        sdk.responses.create(model=SONNET, tools=tools, input=[*history, *results])
    roles = [turn["role"] for turn in relay.sent["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert [part["type"] for part in relay.sent["messages"][1]["content"]] == [
        "thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert relay.sent["messages"][1]["content"][0]["signature"] == "c2ln"
    assert [part["tool_use_id"] for part in relay.sent["messages"][2]["content"]] == ["toolu_2", "toolu_3"]


def test_responses_failure_is_an_event_that_says_why() -> None:
    broken = (
        begin()
        + block(0, {"type": "text", "text": "Hal"})
        + event("error", error={"type": "api_error", "message": "Oops"})
    )
    with client(Relay(broken)) as sdk:
        *_, last = sdk.responses.create(model=SONNET, input="x", stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "Oops"
