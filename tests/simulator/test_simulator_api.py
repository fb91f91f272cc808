"""The simulator as a pure function: shapes, validation, headers, and any body at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import CLOCK, MODEL, NOON, WEATHER, ask, call, events_of, header, text_of, value_of

from relayd.config.snapshot import Simulator
from relayd.simulator.answer import folded
from relayd.simulator.api import MessageCount
from relayd.wire.refusal import KIND_BY_STATUS

QUICK = settings(deadline=None, max_examples=150)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BLOCKS = st.sampled_from(
    [
        {"type": "text", "text": "get_time"},
        {"type": "text", "text": ""},
        {"type": "text", "text": "naïve 你好", "cache_control": {"type": "ephemeral"}},
        {"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {}},
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "ten"}]},
        {"type": "tool_result", "tool_use_id": "toolu_1"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "something_new", "of": 2027},
    ]
)
CONTENT = st.text(max_size=20) | st.lists(BLOCKS | JSON, max_size=3)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": CONTENT}),
    max_size=4,
)
BODIES = st.fixed_dictionaries(
    {"model": st.just(MODEL) | JSON, "messages": MESSAGES | JSON, "max_tokens": st.integers(-1, 60) | JSON},
    optional={
        "stream": st.booleans() | JSON,
        "system": CONTENT | JSON,
        "tools": st.just([WEATHER, CLOCK]) | JSON,
        "tool_choice": st.sampled_from([{"type": "any"}, {"type": "none"}, {"type": "tool", "name": "get_time"}])
        | JSON,
        "thinking": st.sampled_from([{"type": "adaptive"}, {"type": "disabled"}]) | JSON,
        "stop_sequences": st.lists(st.text(max_size=3), max_size=3) | JSON,
        "output_config": st.fixed_dictionaries({"format": st.fixed_dictionaries({"schema": JSON})}) | JSON,
        "metadata": JSON,
        "inference_geo": JSON,
    },
)
PLAIN = st.fixed_dictionaries(
    {"text": st.text(min_size=1, max_size=300), "max_tokens": st.integers(0, 90)},
    optional={
        "tools": st.just([WEATHER, CLOCK]),
        "thinking": st.sampled_from([{"type": "adaptive"}, {"type": "adaptive", "display": "omitted"}]),
        "stop_sequences": st.lists(
            st.sampled_from(["e", "is ", "said: a", "simulator", " "]).filter(str.strip), max_size=3
        ),
        "system": st.just([{"type": "text", "text": "s" * 999, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]),
    },
)


def well_formed(body: bytes, status: int, kind: str | None) -> None:
    """An answer, a stream or an error, as the API forms it."""
    if status != 200:
        value = json.loads(body)
        assert value["type"] == "error"
        assert value["error"]["type"] == KIND_BY_STATUS[status]
        assert value["error"]["message"]
        return
    message = folded(events_of(body)) if kind and kind.startswith("text/event-stream") else json.loads(body)
    assert message["type"] == "message"
    assert message["stop_reason"] in ("end_turn", "max_tokens", "stop_sequence", "tool_use")
    assert message["usage"]["output_tokens"] >= 0


@QUICK
@given(BODIES, st.integers(0, 40))
def test_any_messages_body_is_answered_or_refused_in_form(body: dict[str, Any], words: int) -> None:
    script = call(body, settings=Simulator(words=words))
    well_formed(text_of(script), script.status, header(script, "content-type"))


@QUICK
@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_answered_or_refused_in_form(body: bytes) -> None:
    for target in ("/v1/messages", "/v1/messages/count_tokens"):
        script = call(body, target=target)
        assert script.status in (400, 200)
        json.loads(text_of(script))


@QUICK
@given(st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"]), st.text(max_size=30), st.text(max_size=30))
def test_any_path_is_answered_or_refused_in_form(method: str, path: str, query: str) -> None:
    for target in (path, f"/v1/{path}?{query}", f"/v1/models/{path}"):
        script = call(b"", method=method, target=target)
        assert script.status in (200, 400, 404, 405)
        text_of(script)


@QUICK
@given(PLAIN, st.integers(0, 60))
def test_a_stream_adds_up_to_the_plain_answer(shape: dict[str, Any], words: int) -> None:
    setting = Simulator(words=words)
    text, fields = shape["text"], {name: value for name, value in shape.items() if name != "text"}
    whole = value_of(call(ask(text, **fields), settings=setting))
    streamed = folded(events_of(text_of(call(ask(text, **fields, stream=True), settings=setting))))
    assert [_said(block) for block in streamed["content"]] == [_said(block) for block in whole["content"]]
    for name in ("usage", "stop_reason", "stop_sequence", "model"):
        assert streamed[name] == whole[name]


def _said(block: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name not in ("id", "signature")}


@QUICK
@given(PLAIN)
def test_limits_on_the_answer_are_kept(shape: dict[str, Any]) -> None:
    text, fields = shape["text"], {name: value for name, value in shape.items() if name != "text"}
    message = value_of(call(ask(text, **fields)))
    said = "".join(block.get("text", "") for block in message["content"])
    assert message["usage"]["output_tokens"] <= shape["max_tokens"]
    assert not any(stop in said for stop in shape.get("stop_sequences", ()))
    if message["stop_reason"] == "stop_sequence":
        assert message["stop_sequence"] in shape["stop_sequences"]
    if message["stop_reason"] == "tool_use":
        assert message["content"][-1]["type"] == "tool_use"


def test_events_come_in_the_documented_order() -> None:
    shape = ask("get_time", thinking={"type": "adaptive"}, tools=[CLOCK], stream=True)
    names = []
    for event in events_of(text_of(call(shape))):
        name = event["type"] if event["type"] != "content_block_start" else event["content_block"]["type"]
        name = event["delta"]["type"] if name == "content_block_delta" else name
        if not names or names[-1] != name:
            names.append(name)
    assert names == [
        "message_start",
        "thinking", "ping", "thinking_delta", "signature_delta", "content_block_stop",
        "text", "text_delta", "content_block_stop",
        "tool_use", "input_json_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip


def test_thinking_that_is_not_to_be_shown_is_signed_but_empty() -> None:
    shown = value_of(call(ask(thinking={"type": "adaptive"})))
    hidden = value_of(call(ask(thinking={"type": "adaptive", "display": "omitted"})))
    assert shown["content"][0]["thinking"].startswith("The user wrote")
    assert hidden["content"][0]["thinking"] == ""
    assert hidden["content"][0]["signature"]
    assert (
        hidden["usage"]["output_tokens_details"] == shown["usage"]["output_tokens_details"] == {"thinking_tokens": 18}
    )


@pytest.mark.parametrize("stop", ["You", "said", "said: a", "b", ": a"])
def test_a_stop_sequence_ends_the_text_before_it_without_an_empty_delta(stop: str) -> None:
    events = events_of(text_of(call(ask("a b", stop_sequences=["never", stop], stream=True))))
    pieces = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert all(pieces)
    assert "".join(pieces) == "You said: a b"[: "You said: a b".index(stop)]
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": stop}


def test_the_same_request_gets_the_same_bytes() -> None:
    for body in (ask(), ask(stream=True), ask(thinking={"type": "adaptive"}, stream=True), {"model": ""}):
        assert text_of(call(body)) == text_of(call(body))
        assert call(body).headers == call(body).headers


def test_another_request_gets_other_ids() -> None:
    ids = {value_of(call(ask(text)))["id"] for text in ("one", "two", "three")}
    assert len(ids) == 3


def test_the_answer_echoes_the_user_and_is_as_long_as_asked() -> None:
    text = value_of(call(ask("Grüße 你好"), settings=Simulator(words=9)))["content"][0]["text"]
    assert text.startswith("You said: Grüße 你好 ")
    assert len(text.split()) == 9


def test_text_that_is_not_ascii_is_sent_as_utf_8_whole() -> None:
    stream = call(ask("Grüße 你好 😀", stream=True))
    pieces = [piece for _, piece in stream.steps]
    assert "你好".encode() in b"".join(pieces)
    for piece in pieces:
        piece.decode("utf-8")


def test_a_long_stream_is_made_as_it_is_read() -> None:
    script = call(ask(stream=True, max_tokens=10**9), settings=Simulator(words=100_000))
    steps = iter(script.steps)
    first = [next(steps) for _ in range(5)]
    assert b"message_start" in first[0][1]
    assert sum(1 for _ in steps) > 99_000


def test_every_event_but_the_first_waits() -> None:
    script = call(ask(stream=True), settings=Simulator(first_byte=2.0, between=0.25))
    waits = [wait for wait, _ in script.steps]
    assert script.delay == 2.0
    assert waits[0] == 0.0
    assert set(waits[1:]) == {0.25}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (ask(model=None), "model: Field required"),
        ({**ask(), "model": 7}, "model: Input should be a valid string"),
        (ask(messages=None), "messages: Field required"),
        (ask(messages=[]), "at least one message"),
        (ask(max_tokens=None), "max_tokens: Field required"),
        (ask(max_tokens=-1), "max_tokens: Input should be greater"),
        (ask(max_tokens=True), "max_tokens: Input should be a valid integer"),
        (ask(messages=[{"role": "tool", "content": "x"}]), "messages.0.role"),
        (ask(messages=[{"content": "x"}]), "messages.0.role: Field required"),
        (ask(messages=[{"role": "user"}]), "messages.0.content: Field required"),
        (ask(""), "must have non-empty content"),
        (ask([{"type": "text", "text": ""}]), "text content blocks must be non-empty"),
        (ask([{"text": "x"}]), "messages.0.content.0.type"),
        (ask(["x"]), "messages.0.content.0: Input"),
        (ask(stream="yes"), "stream: Input should be a valid boolean"),
        (ask(tools=[{"name": "a"}]), "tools.0.input_schema: Field required"),
        (ask(tools=[CLOCK, CLOCK]), "Tool names must be unique"),
        (ask(tool_choice={"type": "any"}), "while providing tools"),
        (ask(tools=[CLOCK], tool_choice={"type": "tool", "name": "x"}), "tool 'x' not found"),
        (ask(stop_sequences=[" "]), "non-whitespace"),
        (ask(thinking={"type": "enabled", "budget_tokens": 5}), "budget_tokens"),
        (ask(thinking={"type": "enabled", "budget_tokens": 4000}), "must be greater than"),
        (ask(thinking={"type": "adaptive"}, tools=[CLOCK], tool_choice={"type": "any"}), "forces tool use"),
        (ask(output_config={"format": {"type": "json_schema"}}), "output_config.format.schema"),
        (
            ask(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}]),
            "trailing whitespace",
        ),
        (ask([{"type": "tool_result", "tool_use_id": "toolu_9", "content": "x"}]), "unexpected `tool_use_id`"),
        (
            ask(
                messages=[
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_8", "name": "a", "input": {}}]},
                    {"role": "user", "content": "never mind"},
                ]
            ),
            "without `tool_result` blocks immediately after: toolu_8",
        ),
    ],
)
def test_a_bad_body_is_refused_with_its_place(body: Any, message: str) -> None:
    script = call(body)
    value = value_of(script)
    assert script.status == 400
    assert value["error"]["type"] == "invalid_request_error"
    assert message in value["error"]["message"]
    assert value["request_id"] == header(script, "request-id")


def test_results_may_come_in_several_messages_with_a_system_message_between() -> None:
    calls = [{"type": "tool_use", "id": f"toolu_{n}", "name": "a", "input": {}} for n in (1, 2)]
    results = [{"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": f"r{n}"} for n in (1, 2)]
    turns = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": calls[:1]},
        {"role": "assistant", "content": calls[1:]},
        {"role": "user", "content": results[:1]},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": results[1:]},
    ]
    assert call(ask(messages=turns)).status == 200


def test_unknown_fields_roles_of_system_and_unknown_blocks_are_accepted() -> None:
    turns = [{"role": "user", "content": [{"type": "hologram", "x": 1}]}, {"role": "system", "content": "be brief"}]
    assert call(ask(messages=turns, brand_new={"field": [1]})).status == 200


def test_sampling_parameters_are_refused_in_the_version_that_dropped_them() -> None:
    body = ask(temperature=1.0)
    assert call(body, anthropic_version="2023-06-01").status == 200
    assert call(body, anthropic_version="2026-10-21").status == 400
    assert call(body, target="/v1/messages/count_tokens", anthropic_version="2026-10-21").status == 400


def test_unknown_models_paths_and_methods() -> None:
    assert value_of(call(ask(model="claude-unknown-1")))["error"]["message"] == "model: claude-unknown-1"
    assert call(ask(model="claude-unknown-1")).status == 404
    assert call(b"", target="/v2/messages").status == 404
    script = call(b"", method="GET")
    assert (script.status, header(script, "allow")) == (405, "POST")
    assert call(b"", method="HEAD", target="/v1/models").status == 200
    assert text_of(call(b"", method="HEAD", target="/v1/models")) == b""


def test_a_body_over_32_mib_is_too_large() -> None:
    script = call(b" " * ((32 << 20) + 1))
    assert (script.status, value_of(script)["error"]["type"]) == (413, "request_too_large")


def test_a_compressed_body_is_refused() -> None:
    assert "content-encoding" in value_of(call(ask(), content_encoding="gzip"))["error"]["message"]


def test_a_credential_is_asked_for_only_when_the_settings_say_so() -> None:
    strict = Simulator(require_credential=True)
    assert call(ask()).status == 200
    assert call(ask(), settings=strict).status == 401
    for name in ("x_api_key", "authorization", "cookie"):
        assert call(ask(), settings=strict, **{name: "x"}).status == 200


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({"text": "get_time then get_weather"}, ["get_time", "get_weather"]),
        ({"text": "get_weather then get_time"}, ["get_weather", "get_time"]),
        ({"text": "forget_timely"}, []),
        ({"text": "no tool at all"}, []),
        ({"text": "no tool at all", "tool_choice": {"type": "any"}}, ["get_weather"]),
        ({"text": "get_time", "tool_choice": {"type": "none"}}, []),
        ({"text": "get_time", "tool_choice": {"type": "tool", "name": "get_weather"}}, ["get_weather"]),
        (
            {"text": "get_time get_weather", "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            ["get_time"],
        ),
    ],
)
def test_which_tools_are_called(fields: dict[str, Any], calls: list[str]) -> None:
    message = value_of(call(ask(fields.pop("text"), tools=[WEATHER, CLOCK], **fields)))
    assert [block["name"] for block in message["content"] if block["type"] == "tool_use"] == calls


def test_a_call_that_max_tokens_would_cut_is_not_begun() -> None:
    message = value_of(call(ask("get_weather", tools=[WEATHER], max_tokens=4)))
    assert message["stop_reason"] == "max_tokens"
    assert [block["type"] for block in message["content"]] == ["text"]


def test_the_cache_is_written_in_the_first_turn_and_read_in_the_next() -> None:
    def marked(text: str, ttl: str) -> dict[str, Any]:
        return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}

    system = [marked("s" * 3500, "1h")]
    first = ask([marked("u" * 700, "5m")], system=system)
    usage = value_of(call(first))["usage"]
    assert usage["cache_creation"] == {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 200}
    assert (usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]) == (1200, 0)
    turns = [
        *first["messages"],
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [marked("v", "5m")]},
    ]
    usage = value_of(call(ask(messages=turns, system=system)))["usage"]
    assert usage["cache_read_input_tokens"] == 1200
    assert usage["cache_creation_input_tokens"] == usage["cache_creation"]["ephemeral_5m_input_tokens"] < 5


def test_the_account_and_its_window_are_in_the_headers_and_count_down() -> None:
    messages = MessageCount()
    left = []
    for number in (1, 2, 3):
        script = call(ask(), number=number, messages=messages, now=NOON + number)
        left.append(int(header(script, "anthropic-ratelimit-requests-remaining") or ""))
    assert left == [3999, 3998, 3997]
    assert header(script, "anthropic-organization-id")
    assert header(script, "anthropic-ratelimit-requests-reset") == "2027-01-15T08:01:00Z"
    assert header(
        script,
        "request-id",
    ).startswith("req_01")  # type: ignore[union-attr]


def test_a_window_without_a_limit_never_looks_used_up() -> None:
    messages = MessageCount()
    for number in range(1, 3000):
        script = call(ask(), number=number, messages=messages, settings=Simulator(words=0))
        assert int(header(script, "anthropic-ratelimit-requests-remaining") or "") > 2000


def test_a_requests_limit_is_kept_until_the_minute_is_over() -> None:
    messages, limited = MessageCount(), Simulator(requests_limit=2)
    statuses = [call(ask(), settings=limited, messages=messages, now=NOON + second).status for second in range(4)]
    assert statuses == [200, 200, 429, 429]
    refused = call(ask(), settings=limited, messages=messages, now=NOON + 20.5)
    assert header(refused, "retry-after") == "40"
    assert header(refused, "anthropic-ratelimit-requests-remaining") == "0"
    assert call(ask(), settings=limited, messages=messages, now=NOON + 60).status == 200


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/messages/batches"),
        ("GET", "/v1/messages/batches/msgbatch_1/results"),
        ("POST", "/v1/files"),
        ("GET", "/v1/files/file_1/content"),
    ],
)
def test_batches_and_files_are_not_there(method: str, target: str) -> None:
    script = call(b"", method=method, target=target)
    assert script.status == 404
    assert value_of(script)["error"] == {
        "type": "not_found_error",
        "message": "Not found (the simulator has messages, count_tokens and models)",
    }


def test_bad_page_sizes_and_cursors_are_refused() -> None:
    for query in ("limit=0", "limit=1001", "limit=x", "after_id=nobody"):
        assert call(b"", method="GET", target=f"/v1/models?{query}").status == 400


def test_a_page_before_an_object_ends_there() -> None:
    ids = [model["id"] for model in value_of(call(b"", method="GET", target="/v1/models"))["data"]]
    before = value_of(call(b"", method="GET", target=f"/v1/models?before_id={ids[3]}&limit=2"))
    assert [model["id"] for model in before["data"]] == ids[1:3]
    assert before["has_more"] is True
