"""Responses answers: items, events in the documented order, end states."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai_cases import (
    NOW,
    OPUS_41,
    SONNET,
    begin,
    block,
    end,
    event,
    flat_function,
    message,
    payloads,
    respond,
    sent,
    streamed,
    text,
    thinking,
    tool,
    translator,
    whole,
)

from relayd.wire.refusal import Refusal

STREAM = {"stream": True}
SUMMARY = {"reasoning": {"effort": "high", "summary": "auto"}}


def kinds(stream: bytes) -> list[str]:
    """The event types, each checked against its `event:` line and its sequence number."""
    names = [line[7:] for line in stream.decode().split("\n") if line.startswith("event: ")]
    events = payloads(stream)
    assert [part["type"] for part in events] == names
    assert [part["sequence_number"] for part in events] == list(range(len(events)))
    return [name.removeprefix("response.") for name in names]


def test_a_message_becomes_a_response() -> None:
    call = respond(
        instructions="i", metadata={"k": "v"}, temperature=0.5, max_output_tokens=99, tools=[flat_function()]
    )
    assert whole(call, message({"type": "text", "text": "Hi"}, {"type": "text", "text": "!"})) == {
        "id": "resp_01Test",
        "object": "response",
        "created_at": int(NOW),
        "status": "completed",
        "model": SONNET,
        "error": None,
        "incomplete_details": None,
        "usage": {
            "input_tokens": 60,
            "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
            "output_tokens": 50,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 110,
        },
        "output": [
            {
                "id": "msg_01Test_0",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hi!", "annotations": [], "logprobs": []}],
            }
        ],
        "background": False,
        "instructions": "i",
        "max_output_tokens": 99,
        "metadata": {"k": "v"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [flat_function()],
        "top_p": None,
        "truncation": "disabled",
    }


@pytest.mark.parametrize(
    ("stop_reason", "status", "why"),
    [
        ("end_turn", "completed", None),
        ("tool_use", "completed", None),
        ("stop_sequence", "completed", None),
        ("max_tokens", "incomplete", {"reason": "max_output_tokens"}),
        ("model_context_window_exceeded", "incomplete", {"reason": "max_output_tokens"}),
        ("refusal", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_each_stop_reason_has_its_end_state(stop_reason: str, status: str, why: Any) -> None:
    answer = whole(respond(), message({"type": "text", "text": "Hi"}, stop_reason=stop_reason))
    assert (answer["status"], answer["incomplete_details"]) == (status, why)
    last = payloads(streamed(respond(**STREAM), begin() + text(0, "Hi") + end(stop_reason)))[-1]
    assert last["type"] == f"response.{status}"
    assert (last["response"]["status"], last["response"]["incomplete_details"]) == (status, why)


def test_a_text_streams_in_the_documented_order() -> None:
    stream = streamed(respond(**STREAM), begin() + text(0, "Hel", "", "lo") + end())
    assert kinds(stream) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    events = payloads(stream)
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == []
    assert events[2]["item"] == {
        "id": "msg_01Test_0", "type": "message", "role": "assistant", "status": "in_progress", "content": [],
    }  # fmt: skip
    assert [part["delta"] for part in events[4:6]] == ["Hel", "lo"]
    assert {(part["item_id"], part["output_index"], part["content_index"]) for part in events[3:8]} == {
        ("msg_01Test_0", 0, 0)
    }
    assert events[6]["text"] == events[7]["part"]["text"] == "Hello"


def test_a_call_streams_its_arguments_and_comes_whole_at_the_end() -> None:
    call = respond(**STREAM, tools=[flat_function()])
    stream = streamed(
        call, begin() + text(0, "I look.") + tool(1, "get_weather", '{"city"', ':"Oslo"}') + end("tool_use")
    )
    assert kinds(stream)[4:] == [
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "output_item.added",
        "function_call_arguments.delta", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    last = payloads(stream)[-2]
    assert last["output_index"] == 1
    assert last["item"] == {
        "id": "fc_01Test_1", "call_id": "toolu_1", "name": "get_weather", "status": "completed",
        "type": "function_call", "arguments": '{"city":"Oslo"}',
    }  # fmt: skip


def test_a_call_without_input_has_the_arguments_of_an_empty_object() -> None:
    events = payloads(
        streamed(respond(**STREAM), begin() + tool(0, "f") + tool(1, "g", given={"a": 1}) + end("tool_use"))
    )
    done = [json.loads(part["arguments"]) for part in events if part["type"].endswith("arguments.done")]
    assert done == [{}, {"a": 1}]


def test_thinking_is_a_reasoning_item_with_a_summary_when_asked_for() -> None:
    upstream = begin() + thinking(0, "Let ", "me") + text(1, "Hi") + end()
    stream = streamed(respond(**STREAM, **SUMMARY), upstream)
    assert kinds(stream)[2:9] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    item = payloads(stream)[8]["item"]
    assert item["summary"] == [{"type": "summary_text", "text": "Let me"}]
    again = respond(input=[item, {"role": "user", "content": "x"}])
    assert sent(again)["messages"][0] == {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "Let me", "signature": "c2ln"}],
    }
    unasked = streamed(respond(**STREAM), upstream)
    assert b"summary_text" not in unasked
    assert payloads(unasked)[3]["item"]["encrypted_content"] == item["encrypted_content"]


def test_redacted_and_hidden_thinking_still_travel() -> None:
    upstream = (
        begin() + block(0, {"type": "redacted_thinking", "data": "ZGF0YQ=="}) + thinking(1) + text(2, "Hi") + end()
    )
    items = payloads(streamed(respond(**STREAM, **SUMMARY), upstream))[-1]["response"]["output"]
    assert [item["type"] for item in items] == ["reasoning", "reasoning", "message"]
    assert [item["summary"] for item in items[:2]] == [[], []]
    again = sent(respond(input=[*items[:2], {"role": "user", "content": "x"}]))["messages"][0]["content"]
    assert again == [
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "thinking", "thinking": "", "signature": "c2ln"},
    ]


NAMESPACE = {"type": "namespace", "name": "crm", "description": "d", "tools": [flat_function("find")]}
CUSTOM = {"type": "custom", "name": "apply_patch", "description": "d"}


def test_tools_get_their_namespace_and_their_free_text_back() -> None:
    call = respond(**STREAM, tools=[NAMESPACE, CUSTOM])
    upstream = tool(0, "crm__find", '{"a":1}') + tool(1, "apply_patch", '{"input": "*** Be', 'gin\\n\\u2600"}')
    stream = streamed(call, begin() + upstream + end("tool_use"))
    found, patched = payloads(stream)[-1]["response"]["output"]
    assert (found["type"], found["name"], found["namespace"]) == ("function_call", "find", "crm")
    assert patched == {
        "id": "fc_01Test_1", "call_id": "toolu_1", "name": "apply_patch", "status": "completed",
        "type": "custom_tool_call", "input": "*** Begin\n\u2600",
    }  # fmt: skip
    assert kinds(stream)[-5:] == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
    answer = whole(
        respond(tools=[NAMESPACE, CUSTOM]),
        message(
            {"type": "tool_use", "id": "toolu_0", "name": "crm__find", "input": {"a": 1}},
            {"type": "tool_use", "id": "toolu_1", "name": "apply_patch", "input": {"other": "shape"}},
            stop_reason="tool_use",
        ),
    )
    assert answer["output"][0]["namespace"] == "crm"
    assert json.loads(answer["output"][1]["input"]) == {"other": "shape"}


@pytest.mark.parametrize("pieces", [['{"a"', "", ":1}"], [""], []])
def test_a_forced_answer_is_unwrapped(pieces: list[str]) -> None:
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    call = respond(model=OPUS_41, text=wanted, **STREAM)
    upstream = begin() + text(0, "Here:") + tool(1, "structured_answer", *pieces) + end("tool_use")
    (item,) = payloads(streamed(call, upstream))[-1]["response"]["output"]
    assert json.loads(item["content"][0]["text"]) == ({"a": 1} if pieces[1:] else {})
    body = message(
        {"type": "tool_use", "id": "t", "name": "structured_answer", "input": {"a": 1}}, stop_reason="tool_use"
    )
    (item,) = whole(respond(model=OPUS_41, text=wanted), body)["output"]
    assert json.loads(item["content"][0]["text"]) == {"a": 1}


def test_the_last_event_is_what_the_whole_answer_would_be() -> None:
    upstream = (
        begin()
        + thinking(0, "Hm")
        + text(1, "A")
        + text(2)
        + text(3, "B")
        + tool(4, "get_weather", '{"a":1}')
        + text(5, "C")
        + end("tool_use")
    )
    blocks = [
        {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
        {"type": "text", "text": "A"},
        {"type": "text", "text": ""},
        {"type": "text", "text": "B"},
        {"type": "tool_use", "id": "toolu_4", "name": "get_weather", "input": {"a": 1}},
        {"type": "text", "text": "C"},
    ]
    fields = {"tools": [flat_function()], **SUMMARY}
    last = payloads(streamed(respond(**STREAM, **fields), upstream))[-1]["response"]
    answer = whole(respond(**fields), message(*blocks, stop_reason="tool_use"))
    for item in last["output"] + answer["output"]:
        if item["type"] == "function_call":
            item["arguments"] = json.loads(item["arguments"])
    assert last == answer


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("rate_limit_error", "rate_limit_exceeded"),
        ("overloaded_error", "server_error"),
        ("invalid_request_error", "invalid_prompt"),
    ],
)
def test_an_error_event_is_a_failed_response_and_the_end(kind: str, code: str) -> None:
    error = event("error", error={"type": kind, "message": "No."})
    stream = streamed(respond(**STREAM), begin() + text(0, "Hi") + tool(1, "f") + error, text(2, "more") + end())
    last = payloads(stream)[-1]
    assert kinds(stream)[-1] == "failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": code, "message": "No.", "type": kind}


@pytest.mark.parametrize(
    "upstream", [b"", begin(), begin() + text(0, "Hi") + end()[:-5], begin() + b"event: message_stop\ndata: {\n\n"]
)
def test_a_stream_cut_short_is_a_failed_response(upstream: bytes) -> None:
    stream = streamed(respond(**STREAM), upstream)
    assert kinds(stream)[0] == "created"
    assert kinds(stream)[-1] == "failed"
    assert "completed" not in kinds(stream)


def test_our_own_cut_is_a_failed_response_unless_the_end_was_said() -> None:
    way = translator(respond(**STREAM))
    first = way.feed(begin() + text(0, "Hi"))
    cut = way.fail(Refusal(status=429, message="the limit of this key is reached"))
    assert kinds(first + cut)[-1] == "failed"
    assert payloads(cut)[0]["response"]["error"]["code"] == "rate_limit_exceeded"
    assert way.finish() == way.feed(text(1, "x")) == b""
    done = translator(respond(**STREAM))
    done.feed(begin() + end())
    assert done.finish() == b""


def test_a_success_that_is_no_message_is_a_bad_gateway() -> None:
    with pytest.raises(Refusal) as caught:
        translator(respond()).whole(200, b"<html>")
    assert caught.value.status == 502
