"""Responses requests: input items, tools and settings, as the body that the upstream gets."""

from __future__ import annotations

from typing import Any

import pytest
from openai_cases import (
    HAIKU_45,
    OPUS_41,
    OPUS_55,
    SONNET,
    flat_function,
    ignored,
    mended,
    parse,
    respond,
    sent,
    translator,
)

from relayd.wire.answer import ContentBlock
from relayd.wire.openai.pairing import LOST
from relayd.wire.openai.reasoning import enclosed, opened
from relayd.wire.openai.responses import OPENAI_RESPONSES
from relayd.wire.refusal import Refusal

USER = {"role": "user", "content": "Hello"}


def refused(**fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        respond(**fields)
    assert caught.value.status == 400
    return caught.value


def test_a_string_input_is_one_user_message() -> None:
    call = respond(instructions="Be brief.")
    assert sent(call) == {
        "model": SONNET,
        "max_tokens": 20000,
        "messages": [USER],
        "system": [{"type": "text", "text": "Be brief."}],
    }
    assert (call.endpoint, call.language) == ("messages", "openai")
    assert (call.path, call.model, call.max_tokens) == ("/v1/messages", SONNET, None)


def test_items_become_turns_in_order() -> None:
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "content": [{"type": "output_text", "text": "I look."}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "get_weather",
            "arguments": '{"city":"Oslo"}',
        },
        {"type": "function_call", "call_id": "call_2", "name": "get_weather", "arguments": ""},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "sun"}]},
        {"role": "user", "content": "And now?"},
    ]
    body = sent(respond(input=items))
    assert body["system"] == [{"type": "text", "text": "Rules."}]
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "call_2", "name": "get_weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "sun"}]},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]


def test_images_and_files_are_understood_in_this_form_too() -> None:
    parts = [
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
        {"type": "input_file", "file_url": "https://example.com/a.pdf", "filename": "a.pdf"},
        {"type": "input_image", "file_id": "file_011C", "image_url": None},
    ]
    assert sent(respond(input=[{"role": "user", "content": parts}]))["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}, "title": "a.pdf"},
        {"type": "image", "source": {"type": "file", "file_id": "file_011C"}},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": ""}, "messages"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0]"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0]"),
        ({"instructions": 5}, "instructions"),
        ({"max_output_tokens": -5}, "max_output_tokens"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}]}, "tools[0].tools[0].type"),
        ({"tools": [flat_function()], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"model": None}, "model"),
        ({"metadata": 5}, "metadata"),
    ],
)
def test_what_needs_server_state_or_cannot_be_understood_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_what_says_what_happens_anyway_is_accepted() -> None:
    call = respond(
        store=False,
        background=False,
        truncation="disabled",
        include=["reasoning.encrypted_content"],
        metadata={"a": "b"},
        client_metadata={"x": "y"},
        prompt_cache_key="k",
        text={"verbosity": "medium"},
        previous_response_id=None,
    )
    assert sent(call) == sent(respond())
    assert ignored(call) == []
    assert call.session == "k"


def test_a_cap_above_the_models_room_is_lowered_and_named() -> None:
    call = respond(model=HAIKU_45, max_output_tokens=65_000)
    assert (sent(call)["max_tokens"], mended(call)) == (64_000, ["max_output_tokens"])
    assert sent(respond(max_output_tokens=0)) == sent(respond())


def test_a_history_is_mended_as_in_chat() -> None:
    items = [
        {"role": "user", "content": "x"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a'},
        {"type": "function_call_output", "call_id": "d", "output": {"rows": 2}},
    ]
    call = respond(input=items)
    assert sent(call)["messages"][1:] == [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"raw_arguments": '{"a'}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c", "content": LOST, "is_error": True},
                {"type": "text", "text": 'Result of tool call d:\n{"rows":2}'},
            ],
        },
    ]
    named = ["tool_calls.arguments", "tool_results.content", "tool_results.stray", "tool_calls.unanswered"]
    assert mended(call) == named
    assert (b"relayd-mended", ", ".join(named).encode()) in translator(call).head(200, [])


def test_what_has_no_counterpart_is_named() -> None:
    call = respond(store=True, truncation="auto", text={"verbosity": "low"}, max_tool_calls=3, service_tier="flex", x=1)
    assert sent(call) == sent(respond())
    assert sorted(ignored(call)) == ["max_tool_calls", "service_tier", "store", "text.verbosity", "truncation", "x"]


def test_function_tools_and_choices() -> None:
    body = sent(respond(tools=[flat_function()], tool_choice={"type": "function", "name": "get_weather"}))
    assert body["tools"][0]["input_schema"]["required"] == ["city"]
    assert body["tool_choice"] == {"type": "tool", "name": "get_weather"}
    assert sent(respond(tools=[flat_function()], tool_choice="required"))["tool_choice"] == {"type": "any"}
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "b"}]}
    body = sent(respond(tools=[flat_function("a"), flat_function("b")], tool_choice=allowed))
    assert [tool["name"] for tool in body["tools"]] == ["b"]


def test_tools_of_a_namespace_travel_under_joined_names() -> None:
    tools = [{"type": "namespace", "name": "crm", "description": "d", "tools": [flat_function("find")]}]
    items = [USER, {"type": "function_call", "call_id": "c", "name": "find", "namespace": "crm", "arguments": "{}"}]
    call = respond(tools=tools, input=items)
    assert [tool["name"] for tool in sent(call)["tools"]] == ["crm__find"]
    assert sent(call)["messages"][1]["content"][0]["name"] == "crm__find"


def test_custom_tools_are_functions_of_one_string() -> None:
    tool = {
        "type": "custom", "name": "apply_patch", "description": "Patches.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
    }  # fmt: skip
    items = [
        USER,
        {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
    ]
    body = sent(respond(tools=[tool], input=items))
    assert body["tools"][0]["input_schema"]["required"] == ["input"]
    assert "start: /.+/" in body["tools"][0]["description"]
    assert body["messages"][1]["content"][0]["input"] == {"input": "*** Begin"}
    assert body["messages"][2]["content"][0]["content"] == "done"


def test_hosted_tools_that_an_answer_can_do_without_are_named() -> None:
    tools = [
        flat_function(),
        {"type": "web_search", "external_web_access": False},
        {"type": "image_generation"},
    ]
    call = respond(tools=tools, input=[USER, {"type": "web_search_call", "id": "ws_1", "status": "completed"}])
    assert len(sent(call)["tools"]) == 1
    assert ignored(call) == ["tools.web_search", "tools.image_generation", "input.web_search_call"]


def test_reasoning_and_summaries() -> None:
    assert "thinking" not in sent(respond(reasoning={"summary": "auto"}))
    body = sent(respond(reasoning={"effort": "high", "summary": "auto"}))
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body["output_config"] == {"effort": "high"}
    assert sent(respond(reasoning={"effort": "high"}))["thinking"] == {"type": "adaptive"}
    body = sent(respond(model=OPUS_55, reasoning={"summary": "auto"}))
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert "thinking" not in sent(respond(model=OPUS_55))
    assert sent(respond(model=HAIKU_45, reasoning={"effort": "low"}))["thinking"]["budget_tokens"] == 1024
    assert ignored(respond(model=OPUS_55, reasoning={"effort": "none"})) == ["reasoning.effort"]


def test_text_formats() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    assert sent(respond(text=wanted))["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert respond(model=OPUS_41, text=wanted).reply_hints.unwrap == "structured_answer"
    assert "JSON object" in sent(respond(text={"format": {"type": "json_object"}}))["system"][0]["text"]


def test_thinking_comes_back_as_it_went_to_the_model_that_made_it() -> None:
    block = ContentBlock(type="thinking", thinking="Let me \u2600", signature="c2ln")
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": enclosed(block, SONNET)}
    call = [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]
    turn = sent(respond(input=[USER, item, *call]))["messages"][1]["content"]
    assert turn[0] == {"type": "thinking", "thinking": "Let me \u2600", "signature": "c2ln"}
    assert turn[1]["type"] == "tool_use"
    other = sent(respond(model=HAIKU_45, input=[USER, item, *call]))["messages"][1]["content"]
    assert [block["type"] for block in other] == ["tool_use"]


@pytest.mark.parametrize(
    "content", [None, 5, "", "gAAAAAB...", "relayd1.", "relayd1.!!!", "relayd1.e30=", "relayd1.\u2600"]
)
def test_somebody_elses_reasoning_is_left_out(content: Any) -> None:
    assert opened(content, SONNET) is None
    item = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "x"}],
        "encrypted_content": content,
    }
    assert sent(respond(input=[item, USER]))["messages"] == [USER]


def test_nothing_vouches_for_thinking_without_a_signature() -> None:
    assert enclosed(ContentBlock(type="thinking", thinking="x"), SONNET) is None
    redacted = enclosed(ContentBlock(type="redacted_thinking", data="ZGF0YQ=="), SONNET)
    assert opened(redacted, SONNET) == {"type": "redacted_thinking", "data": "ZGF0YQ=="}


def test_both_dialects_answer_to_their_names() -> None:
    assert OPENAI_RESPONSES.name == "openai-responses"
    assert parse("chat", {"model": "m", "messages": [USER]}).reply_hints.echo == b""
