"""Chat Completions answers: whole and streamed, each row of the mapping and each fault of other bridges."""

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
    chat,
    content,
    deltas,
    end,
    event,
    finish_reasons,
    function,
    message,
    payloads,
    streamed,
    text,
    thinking,
    tool,
    tool_calls,
    translator,
    whole,
)

from relayd.wire.openai.chat import ChatDialect
from relayd.wire.refusal import Refusal

STREAM = {"stream": True}
SAY = {"type": "text", "text": "Hi"}


def use(name: str = "get_weather", given: Any = None, call_id: str = "toolu_1") -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given or {}}


STOPS = [
    ("end_turn", "stop"),
    ("stop_sequence", "stop"),
    ("pause_turn", "stop"),
    ("something_new", "stop"),
    ("max_tokens", "length"),
    ("model_context_window_exceeded", "length"),
    ("compaction", "length"),
    ("refusal", "content_filter"),
]


# --- whole answers


def test_a_message_becomes_a_completion() -> None:
    assert whole(chat(), message(SAY)) == {
        "id": "chatcmpl-01Test",
        "object": "chat.completion",
        "created": int(NOW),
        "model": SONNET,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 60,
            "completion_tokens": 50,
            "total_tokens": 110,
            "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


@pytest.mark.parametrize(("stop_reason", "expected"), STOPS)
def test_each_stop_reason_has_its_finish_reason(stop_reason: str, expected: str) -> None:
    answer = whole(chat(), message(SAY, stop_reason=stop_reason))
    assert answer["choices"][0]["finish_reason"] == expected
    assert finish_reasons(streamed(chat(**STREAM), begin() + text(0, "Hi") + end(stop_reason))) == [expected]


def test_all_parallel_calls_are_returned() -> None:
    blocks = [SAY, use("a", {"x": "\u2600"}), {"type": "text", "text": "!"}, use("b", call_id="toolu_2")]
    said = whole(chat(), message(*blocks, stop_reason="tool_use"))["choices"][0]
    assert said["finish_reason"] == "tool_calls"
    assert said["message"]["content"] == "Hi!"
    assert [(call["id"], call["type"], call["function"]["name"]) for call in said["message"]["tool_calls"]] == [
        ("toolu_1", "function", "a"),
        ("toolu_2", "function", "b"),
    ]
    arguments = [json.loads(call["function"]["arguments"]) for call in said["message"]["tool_calls"]]
    assert arguments == [{"x": "\u2600"}, {}]


def test_content_is_null_beside_calls_and_empty_without() -> None:
    assert whole(chat(), message(use(), stop_reason="tool_use"))["choices"][0]["message"]["content"] is None
    assert whole(chat(), message())["choices"][0]["message"]["content"] == ""


def test_thinking_is_shown_unless_it_is_turned_off() -> None:
    body = message(
        {"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "redacted_thinking", "data": "x"}, SAY
    )
    assert whole(chat(), body)["choices"][0]["message"]["reasoning_content"] == "Hm."
    assert "reasoning_content" not in whole(chat(include_reasoning=False), body)["choices"][0]["message"]
    hidden = ChatDialect(reasoning=False)
    call = hidden.parse(None, b'{"model":"m","messages":[{"role":"user","content":"x"}]}')  # type: ignore[arg-type]
    assert "reasoning_content" not in whole(call, body)["choices"][0]["message"]


def test_blocks_of_the_servers_own_tools_are_left_out() -> None:
    body = message(
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result"}]},
        {"type": "from_the_future", "text": {"not": "text"}},
        SAY,
    )
    assert whole(chat(), body)["choices"][0]["message"] == {"role": "assistant", "content": "Hi", "refusal": None}


def test_the_answer_bears_the_name_that_the_client_used() -> None:
    body = message(SAY, model="claude-sonnet-4-6-20260101")
    assert whole(chat(), body)["model"] == SONNET


def test_the_form_before_tools_is_answered_in_kind() -> None:
    old = {"functions": [{"name": "f"}]}
    said = whole(chat(**old), message(use("f", {"a": 1}), stop_reason="tool_use"))["choices"][0]
    assert said["finish_reason"] == "function_call"
    assert said["message"]["function_call"] == {"name": "f", "arguments": '{"a": 1}'}
    assert "tool_calls" not in said["message"]
    stream = streamed(chat(**old, **STREAM), begin() + tool(0, "f", '{"a"', ": 1}") + end("tool_use"))
    parts = [delta["function_call"] for delta in deltas(stream) if "function_call" in delta]
    assert parts == [{"name": "f", "arguments": ""}, {"arguments": '{"a"'}, {"arguments": ": 1}"}]
    assert finish_reasons(stream) == ["function_call"]


def test_a_refusal_says_why() -> None:
    why = {"type": "refusal", "category": "cyber", "explanation": "I can not help with that."}
    answer = whole(chat(), message(SAY, stop_reason="refusal", stop_details=why))
    assert answer["choices"][0]["message"]["refusal"] == "I can not help with that."
    ending = event("message_delta", delta={"stop_reason": "refusal", "stop_details": why}, usage={"output_tokens": 1})
    stream = streamed(chat(**STREAM), begin() + text(0, "Hi") + ending + event("message_stop"))
    assert {"refusal": "I can not help with that."} in deltas(stream)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"type":"message","content":5}', b'{"type":"error"}', b"\xff", message(5)]
)  # fmt: skip
def test_a_success_that_is_no_message_is_a_bad_gateway(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        translator(chat()).whole(200, body)
    assert caught.value.status == 502


# --- structured answers of older models

FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}}}}


def test_a_forced_answer_is_unwrapped_whole() -> None:
    call = chat(model=OPUS_41, response_format=FORMAT)
    body = message(SAY, use("structured_answer", {"a": [1, "\u00e4"]}), stop_reason="tool_use")
    said = whole(call, body)["choices"][0]
    assert json.loads(said["message"]["content"]) == {"a": [1, "\u00e4"]}
    assert "tool_calls" not in said["message"]
    assert said["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("pieces", "given", "expected"),
    [(['{"a"', "", ": 1}"], None, {"a": 1}), ([], None, {}), ([], {"a": 2}, {"a": 2}), ([""], None, {})],
)
def test_a_forced_answer_is_unwrapped_while_it_streams(pieces: list[str], given: Any, expected: Any) -> None:
    call = chat(model=OPUS_41, response_format=FORMAT, **STREAM)
    answer = tool(1, "structured_answer", *pieces, given=given)
    stream = streamed(call, begin() + text(0, "Here:") + answer + end("tool_use"))
    assert json.loads(content(stream)) == expected
    assert tool_calls(stream) == []
    assert finish_reasons(stream) == ["stop"]


def test_a_call_of_the_clients_tool_beside_a_format_stays_a_call() -> None:
    call = chat(model=OPUS_41, response_format=FORMAT, tools=[function()], **STREAM)
    stream = streamed(call, begin() + tool(0, "get_weather", "{}") + end("tool_use"))
    assert [call["name"] for call in tool_calls(stream)] == ["get_weather"]
    assert finish_reasons(stream) == ["tool_calls"]


# --- streams


def test_a_stream_begins_with_the_role_and_ends_with_done() -> None:
    chunks = payloads(streamed(chat(**STREAM), begin() + text(0, "Hel", "lo") + end()))
    assert chunks[-1] == "[DONE]"
    frame = {"id": "chatcmpl-01Test", "object": "chat.completion.chunk", "created": int(NOW), "model": SONNET}
    assert [{key: chunk[key] for key in frame} for chunk in chunks[:-1]] == [frame] * 4
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert [chunk["choices"] for chunk in chunks[:-1]] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        for delta, finish in [
            ({"role": "assistant", "content": ""}, None),
            ({"content": "Hel"}, None),
            ({"content": "lo"}, None),
            ({}, "stop"),
        ]
    ]


def test_usage_comes_in_one_chunk_of_its_own_when_it_is_asked_for() -> None:
    call = chat(stream=True, stream_options={"include_usage": True})
    chunks = payloads(streamed(call, begin() + text(0, "Hi") + end(output_tokens_details={"thinking_tokens": 4})))
    assert [chunk["usage"] for chunk in chunks[:-2]] == [None] * 3
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["id"] == "chatcmpl-01Test"
    assert chunks[-2]["usage"] == {
        "prompt_tokens": 60,
        "completion_tokens": 50,
        "total_tokens": 110,
        "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    assert chunks[-1] == "[DONE]"


def test_the_last_counts_replace_and_do_not_add() -> None:
    call = chat(stream=True, stream_options={"include_usage": True})
    first = event("message_delta", delta={}, usage={"output_tokens": 7})
    last = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9, "input_tokens": 11})
    chunks = payloads(streamed(call, begin() + text(0, "Hi") + first + last + event("message_stop")))
    usage = chunks[-2]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (61, 9)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 30


def test_calls_are_counted_among_themselves_and_begin_with_id_and_name() -> None:
    stream = streamed(
        chat(**STREAM),
        begin()
        + thinking(0, "Hm")
        + text(1, "Both.")
        + tool(2, "a", "", '{"x"', ":1}")
        + tool(3, "b")
        + end("tool_use"),
    )
    assert [delta["tool_calls"] for delta in deltas(stream) if "tool_calls" in delta] == [
        [{"index": 0, "id": "toolu_2", "type": "function", "function": {"name": "a", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"x"'}}],
        [{"index": 0, "function": {"arguments": ":1}"}}],
        [{"index": 1, "id": "toolu_3", "type": "function", "function": {"name": "b", "arguments": ""}}],
        [{"index": 1, "function": {"arguments": "{}"}}],
    ]
    assert finish_reasons(stream) == ["tool_calls"]


def test_interleaved_blocks_keep_their_indexes() -> None:
    stream = streamed(
        chat(**STREAM),
        begin()
        + b"".join(event("content_block_start", index=n, content_block=use(f"t{n}", call_id=f"c{n}")) for n in (0, 1))
        + b"".join(
            event("content_block_delta", index=n, delta={"type": "input_json_delta", "partial_json": piece})
            for n, piece in ((1, '{"b"'), (0, '{"a"'), (1, ":2}"), (0, ":1}"))
        )
        + b"".join(event("content_block_stop", index=n) for n in (0, 1))
        + end("tool_use"),
    )
    assert [(call["id"], call["arguments"]) for call in tool_calls(stream)] == [("c0", '{"a":1}'), ("c1", '{"b":2}')]


def test_an_input_that_came_with_the_start_is_given_once() -> None:
    stream = streamed(chat(**STREAM), begin() + tool(0, "a", given={"x": 1}) + end("tool_use"))
    assert [json.loads(call["arguments"]) for call in tool_calls(stream)] == [{"x": 1}]


def test_thinking_streams_as_reasoning_content_and_then_once_more_signed() -> None:
    upstream = (
        begin() + thinking(0, "Let ", "me see") + block(1, {"type": "redacted_thinking", "data": "x"}) + text(2, "Hi")
    )
    stream = streamed(chat(**STREAM), upstream + end())
    assert [d["reasoning_content"] for d in deltas(stream) if "reasoning_content" in d] == ["Let ", "me see"]
    signed = [d for d in deltas(stream) if "thinking_blocks" in d]
    assert [d["thinking_blocks"] for d in signed] == [
        [{"type": "thinking", "thinking": "Let me see", "signature": "c2ln"}],
        [{"type": "redacted_thinking", "data": "x"}],
    ]
    common = {"id": None, "format": "anthropic-claude-v1"}
    assert [d["reasoning_details"] for d in signed] == [
        [{**common, "index": 0, "type": "reasoning.text", "text": "Let me see", "signature": "c2ln"}],
        [{**common, "index": 1, "type": "reasoning.encrypted", "data": "x"}],
    ]
    hidden = streamed(chat(**STREAM, include_reasoning=False), upstream + end())
    assert b"c2ln" not in hidden
    assert b"reasoning" not in hidden
    hidden = streamed(chat(include_reasoning=False, **STREAM), upstream + end())
    assert b"reasoning_content" not in hidden
    assert content(hidden) == "Hi"


def test_pings_comments_and_the_unknown_are_passed_over() -> None:
    noise = (
        b": keep-alive\n\n"
        + event("ping")
        + event("brand_new", delta="text", message=5)
        + block(
            5,
            {"type": "server_tool_use", "id": "s", "name": "x", "input": {}},
            {"type": "input_json_delta", "partial_json": "{}"},
        )
        + block(6, {"type": "web_search_tool_result", "tool_use_id": "s", "content": []})
        + event("content_block_delta", index=99, delta={"type": "text_delta", "text": "nobody"})
    )
    stream = streamed(chat(**STREAM), begin() + noise + text(0, "Hi") + noise + end())
    assert content(stream) == "Hi"
    assert tool_calls(stream) == []


def test_events_without_a_name_are_known_by_their_type() -> None:
    stream = streamed(chat(**STREAM), b"\n".join(
        line for line in (begin() + text(0, "Hi") + end()).split(b"\n") if not line.startswith(b"event:")
    ))  # fmt: skip
    assert content(stream) == "Hi"
    assert payloads(stream)[-1] == "[DONE]"


def test_an_error_event_is_an_error_chunk_and_the_end() -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"}, request_id="req_1")
    stream = streamed(chat(**STREAM), begin() + text(0, "Half an ans") + error, text(1, "more") + end())
    assert payloads(stream)[-1] == {
        "error": {"message": "Overloaded", "type": "overloaded_error", "param": None, "code": None}
    }
    assert finish_reasons(stream) == []
    assert b"[DONE]" not in stream


@pytest.mark.parametrize("upstream", [b"", begin(), begin() + text(0, "Hi"), begin() + text(0, "Hi") + end()[:-5]])
def test_a_stream_cut_short_never_ends_with_done(upstream: bytes) -> None:
    stream = streamed(chat(**STREAM), upstream)
    assert payloads(stream)[-1]["error"]["message"] == ("the upstream ended the stream before the message was complete")
    assert b"[DONE]" not in stream
    assert finish_reasons(stream) == []


def test_our_own_cut_is_an_error_chunk_unless_the_end_was_said() -> None:
    way = translator(chat(**STREAM))
    way.feed(begin() + text(0, "Hi"))
    cut = way.fail(Refusal(status=504, message="the upstream fell silent"))
    assert payloads(cut) == [
        {"error": {"message": "the upstream fell silent", "type": "timeout_error", "param": None, "code": None}}
    ]
    assert way.finish() == b""
    done = translator(chat(**STREAM))
    done.feed(begin() + text(0, "Hi") + end())
    assert done.fail(Refusal(status=504, message="x")) == b""
    assert done.finish() == b""


@pytest.mark.parametrize(
    "broken",
    [
        b"event: content_block_delta\ndata: {not json\n\n",
        b"event: content_block_delta\ndata: \xff\xfe\n\n",
        event("content_block_delta", index="one", delta={}),
        event("content_block_start", index=1),
        b"event: message_delta\ndata: " + b"[" * 5000 + b"\n\n",
    ],
)
def test_an_upstream_that_talks_nonsense_ends_in_an_error(broken: bytes) -> None:
    stream = streamed(chat(**STREAM), begin() + text(0, "Hi") + broken + end())
    assert payloads(stream)[-1]["error"]["code"] == "bad_upstream_answer"
    assert b"[DONE]" not in stream


def test_what_is_remembered_does_not_grow_with_the_stream() -> None:
    way = translator(chat(**STREAM))
    way.feed(begin() + event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
    piece = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "word " * 50})
    state = way._stream  # type: ignore[attr-defined]
    for _ in range(500):
        way.feed(piece)
    held = state._events
    assert (len(state._blocks), len(held._tail), len(held._data)) == (1, 0, 0)
