"""Items of today's Responses clients: shells, patches, remote tools, references, compaction, searches, counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai_cases import (
    NOW,
    begin,
    block,
    chat,
    content,
    deltas,
    end,
    flat_function,
    head,
    ignored,
    message,
    payloads,
    respond,
    sent,
    streamed,
    text,
    tool,
    translator,
    whole,
)

from relayd.wire.call import Call
from relayd.wire.openai.responses import OPENAI_COMPACT, OPENAI_COUNT
from relayd.wire.refusal import Refusal

USER = {"role": "user", "content": "Hello"}
FOUND = [{"type": "web_search_result", "url": "https://a.example", "title": "A", "encrypted_content": "e"}]
CITED = {"type": "web_search_result_location", "url": "https://a.example", "title": "A", "encrypted_index": "i"}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "relays"}}
RESULT = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": FOUND}
SAID = {"type": "text", "text": "It is so.", "citations": [CITED]}
ANNOTATION = {"type": "url_citation", "url": "https://a.example", "title": "A", "start_index": 7, "end_index": 16}

SHELL = {"commands": ["ls", "pwd"], "timeout_ms": 500}
LOCAL = {"command": ["ls"], "working_directory": "/tmp"}
PATCH = {"type": "update_file", "path": "a.py", "diff": "@@\n-a\n+b\n"}
BUILT_IN = [
    ("shell", SHELL, {"type": "shell_call", "action": SHELL}),
    ("local_shell", LOCAL, {"type": "local_shell_call", "action": {"type": "exec", "env": {}, **LOCAL}}),
    ("apply_patch", PATCH, {"type": "apply_patch_call", "operation": PATCH}),
    ("apply_patch", {"type": "delete_file", "path": "a"},
     {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}}),
]  # fmt: skip


def refused(**fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        respond(**fields)
    return caught.value


def posted(dialect: Any, **fields: Any) -> Call:
    return dialect.parse(head(), json.dumps({"model": "claude-sonnet-4-6", **fields}).encode(), now=NOW)


@pytest.mark.parametrize(("name", "given", "item"), BUILT_IN)
def test_a_tool_of_the_clients_own_is_a_function_and_its_call_gets_its_form_back(
    name: str, given: dict[str, Any], item: dict[str, Any]
) -> None:
    call = respond(tools=[{"type": name}], stream=True)
    (declared,) = sent(call)["tools"]
    assert declared["name"] == name
    assert set(given) <= set(declared["input_schema"]["properties"])
    said = {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}
    (output,) = whole(call, message(said))["output"]
    assert output == {"id": "fc_01Test_0", "call_id": "toolu_1", "status": "completed", **item}
    events = payloads(streamed(call, begin() + tool(0, name, json.dumps(given), call_id="toolu_1") + end()))
    assert events[-1]["response"]["output"] == [output]
    (added,) = (event["item"] for event in events if event["type"] == "response.output_item.added")
    assert added["status"] == "in_progress"
    if "diff" in given:
        assert added["operation"] == {**given, "diff": ""}
        assert [event["delta"] for event in events if event["type"].endswith("diff.delta")] == [given["diff"]]


@pytest.mark.parametrize(("name", "given", "item"), BUILT_IN)
def test_such_a_call_and_its_result_come_back(name: str, given: dict[str, Any], item: dict[str, Any]) -> None:
    made = {**item, "call_id": "c1", "id": "x1", "status": "completed"}
    outputs: dict[str, Any] = {
        "shell": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        "local_shell": "a",
        "apply_patch": "applied",
    }
    result = {"type": f"{item['type']}_output", "call_id": "c1", "output": outputs[name]}
    _, use, back = sent(respond(input=[USER, made, result]))["messages"]
    (block,) = use["content"]
    assert {key: value for key, value in block["input"].items() if value} == given
    assert (block["id"], block["name"]) == ("c1", name)
    (answer,) = back["content"]
    said = json.loads(answer["content"]) if name == "shell" else answer["content"]
    assert (answer["tool_use_id"], said) == ("c1", outputs[name])


def test_a_failed_patch_is_an_error_and_a_local_shells_result_has_its_calls_name_in_id() -> None:
    patch = {"type": "apply_patch_call", "call_id": "p", "operation": PATCH}
    shell = {"type": "local_shell_call", "call_id": "s", "id": "lsh", "action": {"type": "exec", "command": ["ls"]}}
    failed = {"type": "apply_patch_call_output", "call_id": "p", "status": "failed"}
    printed = {"type": "local_shell_call_output", "id": "s", "output": "a"}
    results = sent(respond(input=[USER, patch, shell, failed, printed]))["messages"][2]["content"]
    assert [(one["tool_use_id"], one["content"], one.get("is_error")) for one in results] == [
        ("p", "failed", True),
        ("s", "a", None),
    ]


def test_a_machine_of_openais_is_not_here() -> None:
    assert refused(tools=[{"type": "shell", "environment": {"type": "container_auto"}}]).param == "tools[0].environment"
    assert sent(respond(tools=[{"type": "shell", "environment": {"type": "local"}}]))["tools"]


def test_a_call_of_a_remote_tool_is_told_with_what_came_of_it() -> None:
    record = {"type": "mcp_call", "id": "mcp_1", "server_label": "docs", "name": "find", "arguments": '{"q":1}'}
    items = [USER, {**record, "output": "found"}, {**record, "id": "mcp_2", "error": "no such server"}]
    _, use, result, again, failed = sent(respond(input=items))["messages"]
    assert use["content"] == [{"type": "tool_use", "id": "mcp_1", "name": "docs__find", "input": {"q": 1}}]
    assert result["content"] == [{"type": "tool_result", "tool_use_id": "mcp_1", "content": "found"}]
    assert again["content"][0]["id"] == "mcp_2"
    assert failed["content"][0]["is_error"] is True


def test_tools_may_come_later_and_take_an_older_ones_place() -> None:
    later = {"type": "additional_tools", "role": "developer", "tools": [
        flat_function("late"), {**flat_function("early"), "description": "anew"},
        {"type": "namespace", "name": "ns", "tools": [flat_function("in")]},
    ]}  # fmt: skip
    call = respond(
        tools=[flat_function("early")], input=[USER, later], tool_choice={"type": "function", "name": "late"}
    )
    assert [one["name"] for one in sent(call)["tools"]] == ["early", "late", "ns__in"]
    assert sent(call)["tools"][0]["description"] == "anew"
    assert sent(call)["tool_choice"] == {"type": "tool", "name": "late"}


@pytest.mark.parametrize(
    ("choice", "upstream"),
    [("auto", "auto"), ({"type": "auto"}, "auto"), ({"type": "none"}, "none"), ({"type": "required"}, "any")],
)
def test_a_choice_may_be_a_word_or_an_object(choice: object, upstream: str) -> None:
    assert sent(respond(tools=[flat_function()], tool_choice=choice))["tool_choice"]["type"] == upstream


def test_a_tool_of_openais_may_be_chosen_by_its_type() -> None:
    tools = [{"type": "apply_patch"}, {"type": "web_search"}]
    for kind, name in (("apply_patch", "apply_patch"), ("web_search_preview", "web_search")):
        assert sent(respond(tools=tools, tool_choice={"type": kind}))["tool_choice"] == {"type": "tool", "name": name}


@pytest.mark.parametrize("fields", [{"previous_response_id": ""}, {"prompt": {}}, {"prompt": ""}, {"conversation": ""}])
def test_an_empty_name_of_something_kept_names_nothing(fields: dict[str, Any]) -> None:
    assert sent(respond(**fields)) == sent(respond())


def test_a_reference_to_an_item_of_the_same_request_says_nothing_more() -> None:
    said = {"type": "message", "role": "assistant", "id": "msg_1", "content": "Hi"}
    plain = [USER, said, USER]
    for reference in ({"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}):
        assert sent(respond(input=[USER, reference, said, USER])) == sent(respond(input=plain))


def test_a_reference_to_nothing_is_refused_with_what_to_do_unless_only_thinking_is_lost() -> None:
    refusal = refused(input=[USER, {"type": "item_reference", "id": "msg_9"}])
    assert (refusal.status, refusal.param, refusal.code) == (400, "input[1]", "item_not_found")
    assert "'msg_9'" in refusal.message
    assert "store: false" in refusal.message
    call = respond(input=[USER, {"type": "item_reference", "id": "rs_9"}, USER])
    assert ignored(call) == ["input.item_reference"]


def test_settings_may_change_midway() -> None:
    change = {"type": "configuration_update", "reasoning": {"effort": "low"}}
    call = respond(input=[USER, change, USER], reasoning={"effort": "high"})
    assert sent(call)["output_config"] == {"effort": "low"}


# --- compaction


def summary_of(call: Call) -> dict[str, Any]:
    (item,) = payloads(streamed(call, begin() + text(0, "We ", "met.") + end()))[-1]["response"]["output"]
    return item


def test_a_trigger_makes_the_answer_one_item_that_later_calls_carry_instead() -> None:
    call = respond(input=[USER, {"type": "compaction_trigger"}], tools=[flat_function()], stream=True)
    asked = sent(call)
    assert asked["tool_choice"] == {"type": "none"}
    assert asked["tools"], "the cached beginning stays the same"
    assert "summary" in asked["messages"][-1]["content"][-1]["text"]
    item = summary_of(call)
    assert item["type"] == "compaction"
    kinds = [event["type"] for event in payloads(streamed(call, begin() + text(0, "We met.") + end()))]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.completed",
    ]
    later = sent(respond(input=[item, USER]))["messages"]
    assert len(later) == 1
    assert later[0]["content"][0]["text"].endswith("We met.")


def test_compact_keeps_what_the_user_said_and_one_item_for_the_rest() -> None:
    said = [USER, {"role": "assistant", "content": "Hi"}, {"type": "message", "role": "user", "content": "Bye"}]
    call = posted(OPENAI_COMPACT, input=said, stream=True)
    assert not call.stream
    answer = whole(call, message({"type": "thinking", "thinking": "x"}, {"type": "text", "text": "We met."}))
    assert answer["object"] == "response.compaction"
    assert answer["usage"]["output_tokens"] == 50
    assert [item["type"] for item in answer["output"]] == ["message", "message", "compaction"]
    texts = [item["content"][0]["text"] for item in answer["output"][:2]]
    assert texts == ["Hello", "Bye"]
    later = sent(respond(input=[*answer["output"], USER]))["messages"]
    assert [block["text"].rpartition("\n")[2] for block in later[0]["content"]] == ["Hello", "Bye", "We met.", "Hello"]


def test_a_compaction_of_somebody_elses_is_refused() -> None:
    for sealed in ("gAAA", None, "relayd-summary1.%%%"):
        assert refused(input=[{"type": "compaction", "encrypted_content": sealed}, USER]).param == "input[0]"


def test_tokens_of_an_input_are_counted_upstream() -> None:
    call = posted(OPENAI_COUNT, input=[USER], instructions="i", temperature=0.1, max_output_tokens=5, stream=True)
    assert (call.endpoint, call.path, call.stream) == ("count_tokens", "/v1/messages/count_tokens", False)
    assert set(sent(call)) == {"model", "messages", "system"}
    assert json.loads(translator(call).whole(200, b'{"input_tokens":12}')) == {
        "object": "response.input_tokens",
        "input_tokens": 12,
    }
    with pytest.raises(Refusal) as caught:
        translator(call).whole(200, b"{}")
    assert caught.value.status == 502


# --- searches


def test_a_search_tool_is_the_apis_own() -> None:
    tool = {"type": "web_search", "filters": {"allowed_domains": ["a.example"]},
            "user_location": {"type": "approximate", "city": "Bonn"}, "search_context_size": "high"}  # fmt: skip
    call = respond(tools=[tool])
    wanted = {
        "type": "web_search_20250305",
        "name": "web_search",
        "allowed_domains": ["a.example"],
        "user_location": {"type": "approximate", "city": "Bonn"},
    }
    assert sent(call)["tools"] == [wanted]
    assert ignored(call) == ["tools.search_context_size"]
    options = {"user_location": {"type": "approximate", "approximate": {"city": "Bonn"}}}
    del wanted["allowed_domains"]
    assert sent(chat(web_search_options=options))["tools"] == [wanted]
    native = {"type": "web_search_20260318", "name": "web_search", "max_uses": 2}
    assert sent(chat(tools=[native]))["tools"] == [native]


def test_what_a_search_found_is_a_record_and_annotations() -> None:
    call = respond(tools=[{"type": "web_search"}])
    search, said = whole(call, message(SEARCH, RESULT, {"type": "text", "text": "I saw: "}, SAID))["output"]
    assert search["type"] == "web_search_call"
    sources = [{"type": "url", "url": "https://a.example"}]
    assert search["action"] == {"type": "search", "query": "relays", "sources": sources}
    assert said["content"][0]["text"] == "I saw: It is so."
    assert said["content"][0]["annotations"] == [ANNOTATION]


def test_a_stream_tells_searches_and_annotations_as_they_come() -> None:
    call = respond(tools=[{"type": "web_search"}], stream=True)
    asked = {**SEARCH, "input": {}}
    upstream = (
        begin()
        + block(0, asked, {"type": "input_json_delta", "partial_json": '{"query":"relays"}'})
        + block(1, RESULT)
        + text(2, "I saw: ")
        + block(
            3,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "It is so."},
            {"type": "citations_delta", "citation": CITED},
        )
        + end()
    )
    events = payloads(streamed(call, upstream))
    names = [
        event["type"].removeprefix("response.web_search_call.") for event in events if "web_search" in event["type"]
    ]
    assert names == ["in_progress", "searching", "completed"]
    assert [event["annotation"] for event in events if event["type"].endswith("annotation.added")] == [ANNOTATION]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["web_search_call", "message"]
    stream = streamed(chat(stream=True), upstream)
    assert content(stream) == "I saw: It is so."
    (found,) = [delta["annotations"] for delta in deltas(stream) if "annotations" in delta]
    nested = {name: value for name, value in ANNOTATION.items() if name != "type"}
    assert found == [{"type": "url_citation", "url_citation": nested}]


def test_a_search_that_failed_says_so() -> None:
    error = {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}
    (search,) = whole(respond(), message(SEARCH, {**RESULT, "content": error}))["output"]
    assert (search["status"], search["action"]["sources"]) == ("failed", [])


def test_annotations_and_records_that_come_back_do_no_harm() -> None:
    call = respond(tools=[{"type": "web_search"}])
    output = whole(call, message(SEARCH, RESULT, SAID))["output"]
    again = respond(input=[USER, *output, USER])
    assert sent(again)["messages"][1]["content"] == [{"type": "text", "text": "It is so."}]
    assert ignored(again) == ["input.web_search_call"]
    answer = whole(chat(), message(SEARCH, RESULT, SAID))["choices"][0]["message"]
    assert sent(chat(messages=[USER, answer, USER]))["messages"][1]["content"] == "It is so."
