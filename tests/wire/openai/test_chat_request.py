"""Chat Completions requests: each row of the mapping, as the body that the upstream gets."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from openai_cases import (
    HAIKU_3,
    HAIKU_45,
    NOW,
    OPUS_41,
    OPUS_47,
    OPUS_55,
    SONNET,
    chat,
    conversation_of,
    flat_function,
    function,
    head,
    ignored,
    mended,
    parse,
    sent,
    translator,
)

from relayd.simulator.request import parse_request
from relayd.wire.openai.chat import OPENAI_CHAT
from relayd.wire.openai.pairing import LOST
from relayd.wire.openai.request import lower_max_tokens, with_cache_mark, without_thinking
from relayd.wire.openai.turns import CONTINUE
from relayd.wire.refusal import Refusal

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 40).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + b"0" * 40).decode()
GIF = base64.b64encode(b"GIF89a" + b"0" * 40).decode()
WEBP = base64.b64encode(b"RIFF0000WEBPVP8 " + b"0" * 40).decode()
PDF = base64.b64encode(b"%PDF-1.7 " + b"0" * 40).decode()

USER = {"role": "user", "content": "Hello"}


def messages(*items: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """The upstream's messages for the client's."""
    return sent(chat(messages=list(items), **fields))["messages"]


def refused(**fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        chat(**fields)
    assert caught.value.status == 400
    return caught.value


def called(*calls: tuple[str, str, str], content: str | None = None) -> dict[str, Any]:
    made = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": given}} for id_, name, given in calls
    ]
    return {"role": "assistant", "content": content, "tool_calls": made}


def result(call_id: str, content: Any = "r", **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


def answered(call_id: str, content: str = "r") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def used(call_id: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": given}


def lost(call_id: str) -> dict[str, Any]:
    return {**answered(call_id, LOST), "is_error": True}


def system(text: str, role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": text}


def texts(*said: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in said]


def reminder(text: str) -> str:
    return f"<system-reminder>\n{text}\n</system-reminder>"


ANSWER = {"role": "assistant", "content": "Hi"}
AGAIN = {"role": "user", "content": "Again"}


# --- the frame


def test_the_least_request_becomes_a_messages_call() -> None:
    call = chat()
    assert (call.endpoint, call.language) == ("messages", "openai")
    assert (call.method, call.path, call.model, call.stream) == ("POST", "/v1/messages", SONNET, False)
    assert sent(call) == {"model": SONNET, "max_tokens": 20000, "messages": [USER]}
    assert ignored(call) == []


def test_explicit_nulls_mean_absent() -> None:
    names = (
        "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
        "max_tokens", "metadata", "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty",
        "prompt_cache_key", "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop",
        "store", "stream", "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user",
        "verbosity", "web_search_options", "something_new",
    )  # fmt: skip
    call = chat(**dict.fromkeys(names))
    assert sent(call) == sent(chat())
    assert ignored(call) == []


@pytest.mark.parametrize(
    ("model", "stream", "expected"),
    [(SONNET, False, 20000), (SONNET, True, 32000), (HAIKU_3, True, 4096), (OPUS_41, True, 32000)],
)
def test_without_a_cap_the_model_gets_a_sensible_one(model: str, stream: bool, expected: int) -> None:
    call = chat(model=model, stream=stream)
    assert sent(call)["max_tokens"] == expected
    assert call.max_tokens is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8}, 8),
        ({"max_tokens": 7, "max_completion_tokens": 8}, 8),
        ({"max_tokens": 7, "max_completion_tokens": None}, 7),
        ({"max_tokens": 4096.0}, 4096),
    ],
)
def test_max_completion_tokens_comes_before_max_tokens(fields: dict[str, Any], expected: int) -> None:
    call = chat(**fields)
    assert (sent(call)["max_tokens"], call.max_tokens) == (expected, expected)


@pytest.mark.parametrize("none", [0, -1])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "top_k"])
def test_0_and_minus_1_mean_no_cap(name: str, none: int) -> None:
    call = chat(**{name: none})
    assert sent(call) == sent(chat())
    assert (call.max_tokens, ignored(call), mended(call)) == (None, [], [])


@pytest.mark.parametrize(
    ("model", "fields", "room", "words"),
    [
        (HAIKU_3, {"max_tokens": 8000}, 4096, ["max_tokens"]),
        (HAIKU_3, {"max_completion_tokens": 8000, "max_tokens": 5}, 4096, ["max_completion_tokens"]),
        (HAIKU_3, {"max_tokens": 4096}, 4096, []),
        (SONNET, {"max_tokens": 200_000}, 128_000, ["max_tokens"]),
        (HAIKU_45, {"max_tokens": 100_000, "reasoning_effort": "max"}, 64_000, ["max_tokens"]),
        ("claude-brand-new-7", {"max_tokens": 500_000}, 500_000, []),
    ],
)
def test_a_cap_above_the_models_room_is_lowered_and_named(
    model: str, fields: dict[str, Any], room: int, words: list[str]
) -> None:
    call = chat(model=model, **fields)
    assert (sent(call)["max_tokens"], call.max_tokens, call.room) == (room, room, room)
    assert mended(call) == words


def test_stream_is_kept_and_usage_is_remembered() -> None:
    call = chat(stream=True, stream_options={"include_usage": True})
    assert sent(call)["stream"] is True
    assert call.stream
    assert call.reply_hints.include_usage
    assert not chat(stream=True).reply_hints.include_usage


def test_the_model_stays_as_the_client_named_it_but_an_alias_says_what_it_can_do() -> None:
    plain = chat(model="gpt-4o", temperature=0.5)
    assert "temperature" not in sent(plain)
    aliased = OPENAI_CHAT.parse(
        head(),
        json.dumps({"model": "gpt-4o", "messages": [USER], "temperature": 0.5}).encode(),
        aliases={"gpt-4o": SONNET},
    )
    assert sent(aliased)["temperature"] == 0.5
    assert sent(aliased)["model"] == "gpt-4o"


def test_created_is_the_time_it_was_given() -> None:
    assert chat().reply_hints.created == int(NOW)


# --- sampling


@pytest.mark.parametrize(
    ("model", "fields", "kept", "named"),
    [
        (SONNET, {"temperature": 0}, {"temperature": 0}, []),
        (SONNET, {"temperature": 1.7}, {"temperature": 1}, []),
        (SONNET, {"top_p": 0.9}, {"top_p": 0.9}, []),
        (SONNET, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5}, ["top_p"]),
        (SONNET, {"temperature": 0.5, "top_p": 1}, {"temperature": 0.5}, []),
        (HAIKU_3, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}, []),
        (OPUS_47, {"temperature": 0, "top_p": 0.5}, {}, ["temperature", "top_p"]),
        (OPUS_55, {"temperature": 0}, {}, ["temperature"]),
        (OPUS_55, {"temperature": 1, "top_p": 1}, {}, []),
        ("claude-opus-9", {"temperature": 0}, {}, ["temperature"]),
        (SONNET, {"top_k": 5}, {"top_k": 5}, []),
        (OPUS_55, {"top_k": 1}, {}, ["top_k"]),
    ],
)
def test_sampling_is_what_the_model_takes(
    model: str, fields: dict[str, Any], kept: dict[str, Any], named: list[str]
) -> None:
    call = chat(model=model, **fields)
    assert {name: sent(call)[name] for name in ("temperature", "top_p", "top_k") if name in sent(call)} == kept
    assert ignored(call) == named


def test_thinking_excludes_a_temperature() -> None:
    call = chat(temperature=0.2, top_p=0.5, reasoning_effort="high")
    assert "temperature" not in sent(call)
    assert "top_p" not in sent(call)
    assert ignored(call) == ["temperature", "top_p"]
    assert sent(chat(top_p=0.97, reasoning_effort="high"))["top_p"] == 0.97


@pytest.mark.parametrize(
    ("stop", "expected", "named"),
    [
        ("END", ["END"], []),
        (["a", "b"], ["a", "b"], []),
        (["a", "", " ", "\n\n"], ["a"], ["stop"]),
        ("\n", None, ["stop"]),
        ([], None, []),
    ],
)
def test_blank_stop_sequences_are_dropped(stop: Any, expected: Any, named: list[str]) -> None:
    call = chat(stop=stop)
    assert sent(call).get("stop_sequences") == expected
    assert ignored(call) == named


# --- messages


def test_leading_system_and_developer_messages_are_the_system_prompt_in_order_one_block_each() -> None:
    two = {"role": "developer", "content": texts("two")}
    call = chat(messages=[system("one"), two, system(""), system("three"), USER])
    assert sent(call)["system"] == texts("one", "two", "three")
    assert sent(call)["messages"] == [USER]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([USER, system("s")], [USER, {"role": "system", "content": texts("s")}]),
        ([USER, system("s"), ANSWER, AGAIN], [USER, {"role": "system", "content": texts("s")}, ANSWER, AGAIN]),
        ([USER, ANSWER, system("s"), AGAIN], [USER, ANSWER, AGAIN, {"role": "system", "content": texts("s")}]),
        (
            [USER, ANSWER, system("s"), AGAIN, system("t", "developer")],
            [USER, ANSWER, AGAIN, {"role": "system", "content": texts("s", "t")}],
        ),
        ([USER, ANSWER, system("s")], [USER, ANSWER, {"role": "user", "content": texts(reminder("s"))}]),
        ([USER, ANSWER, system(""), AGAIN], [USER, ANSWER, AGAIN]),
    ],
)
def test_a_later_system_message_follows_what_the_user_said_beside_it(items: Any, expected: Any) -> None:
    body = sent(chat(model=OPUS_55, messages=items))
    assert body["messages"] == expected
    assert "system" not in body


@pytest.mark.parametrize("model", [SONNET, HAIKU_45, "claude-sonnet-5", "claude-brand-new-7"])
def test_a_model_that_takes_no_system_turn_gets_marked_text_in_its_place(model: str) -> None:
    body = sent(chat(model=model, messages=[system("p"), USER, ANSWER, system("s"), AGAIN, system("t")]))
    assert body["system"] == texts("p")
    assert body["messages"][2:] == [{"role": "user", "content": texts(reminder("s"), "Again", reminder("t"))}]


def test_a_system_message_amid_calls_comes_after_their_results() -> None:
    turns = [USER, called(("a", "f", "{}")), system("s"), {"role": "tool", "tool_call_id": "a", "content": "1"}]
    assert messages(*turns, model=OPUS_55)[2:] == [
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "1"}]},
        {"role": "system", "content": texts("s")},
    ]


@pytest.mark.parametrize("model", [OPUS_55, SONNET])
def test_a_turn_more_leaves_what_was_sent_before_as_it_was(model: str) -> None:
    items = [system("p"), USER, ANSWER, system("s"), AGAIN]
    before, after = (sent(chat(model=model, messages=turns)) for turns in (items, [*items, ANSWER, system("t"), USER]))
    assert after["system"] == before["system"]
    assert after["messages"][: len(before["messages"])] == before["messages"]
    assert conversation_of(chat(messages=items)) == conversation_of(chat(messages=items[:2]))


def test_a_string_stays_a_string_and_parts_become_blocks() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": ""}, {"type": "text", "text": "b"}]
    assert messages(USER, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": parts}) == [
        USER,
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]


@pytest.mark.parametrize(
    ("data", "kind"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")]
)
def test_an_image_has_the_type_of_its_bytes_whatever_the_url_says(data: str, kind: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/bmp;base64,{data}", "detail": "high"}}
    assert messages({"role": "user", "content": [part]})[0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}
    ]


def test_an_image_by_https_is_left_to_the_upstream() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert messages({"role": "user", "content": [part]})[0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    ]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "http://10.0.0.1/a.png"}}, "messages[0].content[0].image_url.url"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            "messages[0].content[0].image_url.url",
        ),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64"}}, "messages[0].content[0].image_url.url"),
        ({"type": "image_url"}, "messages[0].content[0].image_url"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "messages[0].content[0]"),
        ({"type": "file", "file": {"file_id": "file-abc"}}, "messages[0].content[0].file.file_id"),
        (
            {"type": "file", "file": {"file_data": "data:application/zip;base64,UEsDBA=="}},
            "messages[0].content[0].file.file_data",
        ),
        ({"type": "hologram"}, "messages[0].content[0].type"),
        ({"type": ["text"]}, "messages[0].content[0].type"),
        ({"type": "text", "text": 5}, "messages[0].content[0].text"),
        (7, "messages[0].content[0]"),
    ],
)
def test_a_part_that_cannot_be_passed_on_is_refused_by_name(part: Any, param: str) -> None:
    refusal = refused(messages=[{"role": "user", "content": [part]}])
    assert refusal.param == param
    assert refusal.message.startswith(param + ": ")


def test_files_become_documents() -> None:
    parts = [
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,SGk="}},
        {"type": "file", "file": {"file_data": PDF}},
        {"type": "file", "file": {"file_id": "file_011CNha8iCJcU1wXNR6q4V8w"}},
    ]
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
    assert messages({"role": "user", "content": parts})[0]["content"] == [
        {**pdf, "title": "a.pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi"}},
        pdf,
        {"type": "document", "source": {"type": "file", "file_id": "file_011CNha8iCJcU1wXNR6q4V8w"}},
    ]


def test_an_image_block_of_the_claude_api_passes_as_it_is() -> None:
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    assert messages({"role": "user", "content": [block]})[0]["content"] == [block]


def test_cache_control_on_parts_messages_and_tools_is_kept() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    call = chat(
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": mark}]},
            {"role": "user", "content": [{"type": "text", "text": "u", "cache_control": mark}]},
            {"role": "assistant", "content": "a", "cache_control": mark},
        ],
        tools=[{**function(), "cache_control": mark}],
    )
    body = sent(call)
    assert body["system"][0]["cache_control"] == mark
    assert body["messages"][0]["content"][0]["cache_control"] == mark
    assert body["messages"][1]["content"] == [{"type": "text", "text": "a", "cache_control": mark}]
    assert body["tools"][0]["cache_control"] == mark


@pytest.mark.parametrize("content", [None, "", " \n", []])
def test_a_turn_of_calls_alone_has_no_empty_text_block(content: Any) -> None:
    turn = {**called(("call_1", "f", '{"a": 1}')), "content": content}
    assert messages(USER, turn, {"role": "tool", "tool_call_id": "call_1", "content": "r"})[1] == {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}}],
    }


def test_text_beside_calls_comes_before_them() -> None:
    turn = called(("call_1", "f", "{}"), content="I look.")
    assert [block["type"] for block in messages(USER, turn)[1]["content"]] == ["text", "tool_use"]


def test_an_assistant_turn_that_says_nothing_is_left_out() -> None:
    assert messages(USER, {"role": "assistant", "content": None}, {"role": "user", "content": "More"}) == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "More"}]}
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", {}),
        (None, {}),
        ("{}", {}),
        ("[]", {}),
        ("null", {}),
        (" ", {}),
        ('""', {}),
        ([], {}),
        ({"a": 1}, {"a": 1}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ('{"a": [1, 2.5, "x"]}', {"a": [1, 2.5, "x"]}),
    ],
)
def test_arguments_become_the_input(given: Any, expected: Any) -> None:
    call = chat(messages=[USER, called(("c", "f", given)), result("c")])
    assert sent(call)["messages"][1]["content"][0]["input"] == expected
    assert mended(call) == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [('{"path": "/a", "con', '{"path": "/a", "con'), ("[1]", "[1]"), ('"x"', '"x"'), ('{"a": NaN}', '{"a": NaN}'),
     (5, "5"), ([1], "[1]")],
)  # fmt: skip
def test_arguments_that_are_no_json_object_are_kept_as_text(given: Any, kept: str) -> None:
    call = chat(messages=[USER, called(("c", "f", given)), result("c")])
    assert sent(call)["messages"][1]["content"][0]["input"] == {"raw_arguments": kept}
    assert mended(call) == ["tool_calls.arguments"]
    assert translator(call).head(200, [])[-1] == (b"relayd-mended", b"tool_calls.arguments")


def test_an_id_that_the_api_would_refuse_is_changed_alike_on_call_and_result() -> None:
    turns = messages(
        USER,
        called(("call:1|a", "f", "{}"), ("call.1|a", "f", "{}")),
        {"role": "tool", "tool_call_id": "call:1|a", "content": "x"},
        {"role": "tool", "tool_call_id": "call.1|a", "content": "y"},
    )
    ids = [block["id"] for block in turns[1]["content"]]
    assert ids == [block["tool_use_id"] for block in turns[2]["content"]]
    assert len(set(ids)) == 2
    assert all(id_.replace("_", "").replace("-", "").isalnum() for id_ in ids)


def test_results_of_parallel_calls_are_one_user_turn_before_any_text() -> None:
    turns = messages(
        USER,
        called(("a", "f", "{}"), ("b", "f", "{}")),
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "user", "content": "and now?"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "2"}]},
        {"role": "user", "content": "go on"},
    )
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "2"}]},
        {"type": "text", "text": "and now?"},
        {"type": "text", "text": "go on"},
    ]


def test_calls_and_results_in_the_claude_apis_form_are_understood_among_the_parts() -> None:
    turns = [
        {"role": "assistant", "content": [*texts("I look."), used("a", n=1), used("b")]},
        {"role": "user", "content": [answered("a", "1"), {**answered("b"), "content": texts("2"), "is_error": True}]},
        {"role": "user", "content": [answered("z", "3"), *texts("Go on")]},
    ]
    assert messages(USER, *turns)[1:] == [
        turns[0],
        {"role": "user", "content": [*turns[1]["content"], *texts("Result of tool call z:\n3", "Go on")]},
    ]


def test_a_tool_result_may_hold_an_image_or_nothing() -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    results = messages(
        USER,
        called(("a", "f", "{}"), ("b", "f", "{}")),
        {"role": "tool", "tool_call_id": "a", "content": [part]},
        {"role": "tool", "tool_call_id": "b", "content": ""},
    )[2]["content"]
    assert results[0]["content"][0]["source"]["media_type"] == "image/png"
    assert results[1] == {"type": "tool_result", "tool_use_id": "b"}


@pytest.mark.parametrize(
    ("content", "text"),
    [({"temperature": 3}, '{"temperature":3}'), ([{"a": 1}], '[{"a":1}]'), (5, "5"), (False, "false"),
     ([{"type": "text", "text": "x"}, {"type": "row"}], '[{"type":"text","text":"x"},{"type":"row"}]')],
)  # fmt: skip
def test_an_output_that_is_an_object_is_its_own_text(content: Any, text: str) -> None:
    call = chat(messages=[USER, called(("a", "f", "{}")), result("a", content)])
    assert sent(call)["messages"][2]["content"] == [answered("a", text)]
    assert mended(call) == ["tool_results.content"]


def test_an_output_that_is_one_part_is_that_part() -> None:
    turns = messages(USER, called(("a", "f", "{}")), result("a", {"type": "text", "text": "x"}))
    assert turns[2]["content"] == [{**answered("a"), "content": [{"type": "text", "text": "x"}]}]


F = "{}"


@pytest.mark.parametrize(
    ("items", "expected", "words"),
    [
        pytest.param(
            [called(("a", "f", F), ("b", "f", F)), result("b"), AGAIN],
            [("assistant", [used("a"), used("b")]), ("user", [answered("b"), lost("a"), *texts("Again")])],
            ["tool_calls.unanswered"],
            id="a call without a result, before the user goes on",
        ),
        pytest.param(
            [called(("a", "f", F)), ANSWER, AGAIN],
            [("assistant", [*texts("Hi"), used("a")]), ("user", [lost("a"), *texts("Again")])],
            ["tool_calls.order", "tool_calls.unanswered"],
            id="text after a call in one turn",
        ),
        pytest.param(
            [called(("a", "f", F))],
            [("assistant", [used("a")]), ("user", [lost("a")])],
            ["tool_calls.unanswered"],
            id="a call at the end",
        ),
        pytest.param(
            [ANSWER, result("x", "42"), AGAIN],
            [("assistant", "Hi"), ("user", texts("Result of tool call x:\n42", "Again"))],
            ["tool_results.stray"],
            id="a result without its call",
        ),
        pytest.param(
            [called(("a", "f", F)), result("a", "1"), result("a", "2")],
            [("assistant", [used("a")]), ("user", [answered("a", "1"), *texts("Result of tool call a:\n2")])],
            ["tool_results.stray"],
            id="a doubled result",
        ),
        pytest.param(
            [called(("a", "f", F), ("a", "f", '{"n":2}')), result("a", "1"), result("a", "2")],
            [("assistant", [used("a"), used("a_2", n=2)]), ("user", [answered("a", "1"), answered("a_2", "2")])],
            ["tool_calls.id"],
            id="a doubled id in one turn",
        ),
        pytest.param(
            [called(("a", "f", F)), result("a"), called(("a", "f", F)), result("a", "2"),
             called(("a_2", "f", F)), result("a_2", "3")],
            [("assistant", [used("a")]), ("user", [answered("a")]),
             ("assistant", [used("a_2")]), ("user", [answered("a_2", "2")]),
             ("assistant", [used("a_2_2")]), ("user", [answered("a_2_2", "3")])],
            ["tool_calls.id"],
            id="ids that begin anew in each turn",
        ),
        pytest.param(
            [called(("a", "f", F)), AGAIN, ANSWER, result("a", "late")],
            [("assistant", [used("a")]), ("user", [lost("a"), *texts("Again")]),
             ("assistant", "Hi"), ("user", texts("Result of tool call a:\nlate"))],
            ["tool_calls.unanswered", "tool_results.stray"],
            id="a result that comes late",
        ),
        pytest.param(
            [called(("", "f", F), ("", "f", F)), result("", "1"), result("", "2"), result("", "3")],
            [("assistant", [used("call"), used("call_2")]),
             ("user", [answered("call", "1"), answered("call_2", "2"), *texts("Result of a tool call:\n3")])],
            ["tool_calls.id", "tool_results.id", "tool_results.stray"],
            id="no ids at all",
        ),
    ],
)  # fmt: skip
def test_a_history_is_put_into_an_order_that_the_api_takes(items: Any, expected: Any, words: list[str]) -> None:
    call = chat(messages=[USER, *items])
    assert [(turn["role"], turn["content"]) for turn in sent(call)["messages"][1:]] == expected
    assert mended(call) == words
    parse_request(sent(call))


def test_a_stray_result_keeps_its_picture_and_its_mark() -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    (turn,) = messages({**result("x", [part]), "cache_control": {"type": "ephemeral"}})
    assert [block["type"] for block in turn["content"]] == ["text", "image"]
    assert turn["content"][-1]["cache_control"] == {"type": "ephemeral"}


def test_thousands_of_calls_of_one_id_are_no_burden() -> None:
    many = [("a", "f", "{}")] * 3000
    turns = messages(USER, called(*many), *(result("a") for _ in many))
    assert len({block["id"] for block in turns[1]["content"]}) == 3000


def test_consecutive_messages_of_one_role_are_one_turn() -> None:
    turns = messages(USER, USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, USER)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_thinking_goes_back_only_with_its_signature() -> None:
    signed = {"type": "thinking", "thinking": "t", "signature": "s"}
    turn = {
        "role": "assistant",
        "content": "a",
        "reasoning_content": "shown before",
        "thinking_blocks": [
            signed,
            {"type": "thinking", "thinking": "bare"},
            {"type": "redacted_thinking", "data": "d"},
        ],
    }
    assert messages(USER, turn, USER)[1]["content"] == [
        signed,
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "a"},
    ]
    assert messages(USER, {"role": "assistant", "content": "a", "reasoning_content": "shown"}, USER)[1] == {
        "role": "assistant",
        "content": "a",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "t"}, {"type": "thinking", "signature": "s"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "t", "signature": "s"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "t"}, {"type": "reasoning.text", "signature": "s"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "t", "signature": "s", "index": 0},
                               {"type": "reasoning.encrypted", "data": "gAAA", "format": "openai-responses-v1"}]},
        {"content": [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "a"}]},
    ],
)  # fmt: skip
def test_thinking_comes_back_in_whatever_field_a_client_kept_it(fields: dict[str, Any]) -> None:
    turn = {"role": "assistant", "content": "a", **fields}
    signed = {"type": "thinking", "thinking": "t", "signature": "s"}
    assert messages(USER, turn, USER)[1]["content"] == [signed, *texts("a")]
    assert messages(USER, turn, USER, model=HAIKU_3)[1]["content"] in ("a", texts("a"))


def test_a_refusal_of_the_model_is_what_it_said() -> None:
    assert messages(USER, {"role": "assistant", "content": None, "refusal": "No."}, USER)[1]["content"] == [
        {"type": "text", "text": "No."}
    ]


def test_a_prefill_is_passed_on_without_white_space_at_its_end() -> None:
    call = chat(model=HAIKU_45, messages=[USER, {"role": "assistant", "content": "{ \n"}])
    assert sent(call)["messages"][-1] == {"role": "assistant", "content": "{"}
    assert mended(call) == []


@pytest.mark.parametrize("model", [SONNET, OPUS_55, "claude-brand-new-7"])
def test_a_model_that_takes_no_prefill_is_told_to_continue(model: str) -> None:
    call = chat(model=model, messages=[USER, {"role": "assistant", "content": "{ \n"}])
    assert sent(call)["messages"][1:] == [
        {"role": "assistant", "content": "{ \n"},
        {"role": "user", "content": texts(reminder(CONTINUE))},
    ]
    assert mended(call) == ["messages.prefill"]


def test_a_prefill_excludes_thinking_by_budget() -> None:
    call = chat(model=HAIKU_45, messages=[USER, ANSWER], reasoning_effort="high")
    assert "thinking" not in sent(call)
    assert ignored(call) == ["reasoning_effort"]


def test_a_conversation_that_begins_with_the_assistant_is_the_upstreams_to_judge() -> None:
    assert messages({"role": "assistant", "content": "Hi"}, USER)[0]["role"] == "assistant"


@pytest.mark.parametrize(
    "items", [[], [{"role": "system", "content": "s"}], [{"role": "user", "content": ""}], [{"role": "user"}]]
)
def test_a_conversation_without_content_is_refused(items: list[Any]) -> None:
    assert refused(messages=items).param == "messages"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": 5, "content": "x"}]}, "messages[1].tool_call_id"),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://a/b"}}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}]},
            "messages[1].tool_calls[0].type",
        ),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "audio"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": {}, "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [function()], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [function()], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"functions": [{}]}, "functions[0].name"),
    ],
)
def test_what_cannot_be_understood_or_would_be_a_lie_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    refusal = refused(**fields)
    assert refusal.param == param
    assert param in refusal.message
    assert refusal.code


@pytest.mark.parametrize("fields", [{"n": 1}, {"logprobs": False}, {"top_logprobs": 0}, {"modalities": ["text"]}])
def test_what_asks_for_the_usual_is_accepted(fields: dict[str, Any]) -> None:
    assert sent(chat(**fields)) == sent(chat())


# --- tools


def test_functions_become_tools() -> None:
    bare = {"type": "function", "function": {"name": "now"}}
    assert sent(chat(tools=[function(), bare]))["tools"] == [
        {
            "name": "get_weather",
            "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            "description": "d",
        },
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    ]


def test_a_tool_may_be_flat_or_in_the_claude_apis_form() -> None:
    nested = function()
    fields = nested["function"]
    own = {"name": fields["name"], "description": "d", "input_schema": fields["parameters"]}
    expected = sent(chat(tools=[nested]))["tools"]
    for tool in (flat_function(), {**flat_function(), "type": None}, own, {**own, "type": "custom"}):
        assert sent(chat(tools=[tool]))["tools"] == expected
    mark = {"type": "ephemeral"}
    assert sent(chat(tools=[{**own, "cache_control": mark}]))["tools"] == [{**expected[0], "cache_control": mark}]
    assert len(sent(chat(tools=[nested, {**own, "name": "other"}]))["tools"]) == 2


@pytest.mark.parametrize("parameters", [[], {}, None, {"type": "object", "properties": []}])
def test_no_parameters_are_no_arguments_however_they_are_written(parameters: Any) -> None:
    (tool,) = sent(chat(tools=[function(parameters=parameters)]))["tools"]
    assert tool["input_schema"] == {"type": "object", "properties": {}}


def test_an_empty_map_of_schemas_may_be_an_array_at_any_depth() -> None:
    inner = {"type": "object", "properties": [], "required": []}
    parameters = {"type": "object", "properties": {"a": {"anyOf": [inner]}}, "$defs": []}
    (tool,) = sent(chat(tools=[function(parameters=parameters)]))["tools"]
    expected = {"type": "object", "properties": {}, "required": []}
    assert tool["input_schema"] == {"type": "object", "properties": {"a": {"anyOf": [expected]}}, "$defs": {}}
    closed = sent(chat(response_format=schema_format(inner)))["output_config"]["format"]["schema"]
    assert closed["properties"] == {}


def test_a_schema_without_a_type_is_an_object() -> None:
    tool = function(parameters={"properties": {"a": {}}})
    assert sent(chat(tools=[tool]))["tools"][0]["input_schema"] == {"type": "object", "properties": {"a": {}}}


def test_strict_is_kept_with_a_schema_that_strictness_allows() -> None:
    parameters = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "description": "how many"}},
        "required": ["n"],
    }
    (tool,) = sent(chat(tools=[function(strict=True, parameters=parameters)]))["tools"]
    assert tool["strict"] is True
    assert tool["input_schema"] == {
        "type": "object",
        "properties": {"n": {"type": "integer", "description": "how many\n\n{minimum: 1}"}},
        "required": ["n"],
        "additionalProperties": False,
    }


def test_strict_is_dropped_and_named_where_the_model_lacks_it_or_there_are_too_many() -> None:
    for call in (
        chat(model=OPUS_41, tools=[function(strict=True)]),
        chat(tools=[function(f"f{n}", strict=True) for n in range(21)]),
    ):
        assert not any("strict" in tool for tool in sent(call)["tools"])
        assert ignored(call) == ["tools.strict"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"type": "tool", "name": "get_weather"}),
        ({"type": "function", "name": "get_weather"}, {"type": "tool", "name": "get_weather"}),
        ({"type": "tool", "name": "get_weather"}, {"type": "tool", "name": "get_weather"}),
        ({"type": "any"}, {"type": "any"}),
        ({"type": "auto"}, {"type": "auto"}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"type": "auto", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_each_tool_choice_has_its_counterpart(choice: Any, expected: Any) -> None:
    assert sent(chat(tools=[function()], tool_choice=choice))["tool_choice"] == expected


def test_a_tool_choice_without_tools_is_left_out() -> None:
    assert "tool_choice" not in sent(chat(tool_choice="auto", parallel_tool_calls=False))
    assert "tools" not in sent(chat(tools=[]))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_choice_becomes_auto_and_is_named_where_the_model_refuses_it(choice: Any) -> None:
    call = chat(model=OPUS_55, tools=[function()], tool_choice=choice)
    assert sent(call)["tool_choice"] == {"type": "auto"}
    assert ignored(call) == ["tool_choice"]


def test_allowed_tools_are_the_only_ones_sent() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "b"}}]}
    body = sent(
        chat(tools=[function("a"), function("b")], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    )
    assert [tool["name"] for tool in body["tools"]] == ["b"]
    assert body["tool_choice"] == {"type": "any"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", {"type": "any", "disable_parallel_tool_use": True}),
        ("none", {"type": "none"}),
    ],
)
def test_parallel_calls_can_be_turned_off(choice: Any, expected: Any) -> None:
    call = chat(tools=[function()], tool_choice=choice, parallel_tool_calls=False)
    assert sent(call)["tool_choice"] == expected


def test_the_form_before_tools_is_understood() -> None:
    call = chat(
        messages=[
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
            {"role": "function", "name": "f", "content": "one"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "two"},
        ],
        functions=[{"name": "f", "parameters": {"type": "object", "properties": {}}}],
        function_call={"name": "f"},
    )
    body = sent(call)
    assert body["tool_choice"] == {"type": "tool", "name": "f", "disable_parallel_tool_use": True}
    for asked, answered in ((1, 2), (3, 4)):
        assert body["messages"][asked]["content"][0]["id"] == body["messages"][answered]["content"][0]["tool_use_id"]
    assert body["messages"][1]["content"][0]["id"] != body["messages"][3]["content"][0]["id"]
    assert call.reply_hints.legacy
    assert not chat(tools=[function()]).reply_hints.legacy


# --- structured output

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def schema_format(schema: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}


@pytest.mark.parametrize("model", [SONNET, HAIKU_45, OPUS_55, "claude-brand-new-7"])
def test_a_json_schema_is_the_apis_own_structured_output(model: str) -> None:
    call = chat(model=model, response_format=schema_format())
    assert sent(call)["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "tools" not in sent(call)
    assert ignored(call) == []


def test_open_objects_are_closed_and_limits_are_told() -> None:
    schema = {
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/$defs/i"}, "minItems": 2, "maxItems": 3},
            "when": {"oneOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            "path": {"type": "string", "format": "file-path", "maxLength": 9},
            "format": {"type": ["object", "null"], "properties": {}},
        },
        "$defs": {"i": {"type": "object", "properties": {"minimum": {"type": "number", "minimum": 0}}}},
    }
    assert sent(chat(response_format=schema_format(schema)))["output_config"]["format"]["schema"] == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "items": {
                "type": "array", "items": {"$ref": "#/$defs/i"}, "description": "{maxItems: 3, minItems: 2}",
            },
            "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            "path": {"type": "string", "description": "{maxLength: 9, format: file-path}"},
            "format": {"type": ["object", "null"], "properties": {}, "additionalProperties": False},
        },
        "$defs": {
            "i": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"minimum": {"type": "number", "description": "{minimum: 0}"}},
            }
        },
    }  # fmt: skip


def test_an_older_model_answers_through_a_forced_tool() -> None:
    call = chat(model=OPUS_41, response_format=schema_format())
    assert sent(call)["tool_choice"] == {"type": "tool", "name": "structured_answer"}
    assert [(tool["name"], tool["input_schema"]) for tool in sent(call)["tools"]] == [("structured_answer", SCHEMA)]
    assert call.reply_hints.unwrap == "structured_answer"


def test_an_older_model_may_still_call_the_clients_tools() -> None:
    call = chat(model=OPUS_41, tools=[function(), function("structured_answer")], response_format=schema_format())
    assert [tool["name"] for tool in sent(call)["tools"]] == ["get_weather", "structured_answer", "structured_answer_"]
    assert sent(call)["tool_choice"] == {"type": "any"}
    assert call.reply_hints.unwrap == "structured_answer_"


def test_json_mode_is_asked_for_in_the_system_prompt() -> None:
    call = chat(messages=[{"role": "system", "content": "s"}, USER], response_format={"type": "json_object"})
    system = sent(call)["system"]
    assert system[0] == {"type": "text", "text": "s"}
    assert "JSON object" in system[1]["text"]
    assert "output_config" not in sent(call)
    assert sent(chat(response_format={"type": "text"})) == sent(chat())


def test_json_mode_of_an_older_model_is_a_forced_tool() -> None:
    call = chat(model=OPUS_41, response_format={"type": "json_object"})
    assert sent(call)["tools"][0]["input_schema"] == {"type": "object"}
    assert call.reply_hints.unwrap == "structured_answer"


# --- thinking

ADAPTIVE = {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "level", "named"),
    [
        (SONNET, "minimal", ADAPTIVE, "low", []),
        (SONNET, "low", ADAPTIVE, "low", []),
        (SONNET, "medium", ADAPTIVE, "medium", []),
        (SONNET, "high", ADAPTIVE, "high", []),
        (SONNET, "xhigh", ADAPTIVE, "high", []),
        (SONNET, "max", ADAPTIVE, "max", []),
        (SONNET, "none", {"type": "disabled"}, None, []),
        (SONNET, None, None, None, []),
        (OPUS_47, "xhigh", ADAPTIVE, "xhigh", []),
        (OPUS_55, "none", None, None, ["reasoning_effort"]),
        (OPUS_55, "high", ADAPTIVE, "high", []),
        (OPUS_55, None, ADAPTIVE, None, []),
        ("gpt-4o", None, None, None, []),
        ("gpt-4o", "high", ADAPTIVE, "high", []),
        (HAIKU_45, "minimal", {"type": "enabled", "budget_tokens": 1024}, None, []),
        (HAIKU_45, "low", {"type": "enabled", "budget_tokens": 1024}, None, []),
        (HAIKU_45, "medium", {"type": "enabled", "budget_tokens": 2048}, None, []),
        (HAIKU_45, "high", {"type": "enabled", "budget_tokens": 4096}, None, []),
        (HAIKU_45, "xhigh", {"type": "enabled", "budget_tokens": 8192}, None, []),
        (HAIKU_45, "max", {"type": "enabled", "budget_tokens": 16384}, None, []),
        (HAIKU_45, "none", None, None, []),
        (HAIKU_3, "high", None, None, ["reasoning_effort"]),
        (HAIKU_3, "none", None, None, []),
    ],
)
def test_reasoning_effort_is_thinking_as_the_model_has_it(
    model: str, effort: str | None, thinking: Any, level: str | None, named: list[str]
) -> None:
    call = chat(model=model, reasoning_effort=effort)
    assert sent(call).get("thinking") == thinking
    assert sent(call).get("output_config", {}).get("effort") == level
    assert ignored(call) == named


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "level"),
    [
        (SONNET, {"effort": "high"}, ADAPTIVE, "high"),
        (SONNET, {"effort": "none"}, {"type": "disabled"}, None),
        (SONNET, {"enabled": True}, ADAPTIVE, "medium"),
        (SONNET, {"enabled": False}, {"type": "disabled"}, None),
        (SONNET, {"exclude": True, "effort": "low"}, {"type": "adaptive"}, "low"),
        (SONNET, {"max_tokens": 4000}, ADAPTIVE, "high"),
        (SONNET, {"max_tokens": 900_000}, ADAPTIVE, "max"),
        (SONNET, {}, None, None),
        (HAIKU_45, {"max_tokens": 2000}, {"type": "enabled", "budget_tokens": 2048}, None),
        (HAIKU_3, {"enabled": False}, None, None),
    ],
)
def test_openrouters_reasoning_is_understood(model: str, reasoning: Any, thinking: Any, level: str | None) -> None:
    call = chat(model=model, reasoning=reasoning)
    assert sent(call).get("thinking") == thinking
    assert sent(call).get("output_config", {}).get("effort") == level
    assert ignored(call) == []


def test_thinking_behind_a_models_name_asks_for_it() -> None:
    call = chat(model=f"{HAIKU_45}-thinking")
    assert (call.model, sent(call)["model"], call.reply_hints.model) == (HAIKU_45, HAIKU_45, HAIKU_45)
    assert sent(call)["thinking"] == {"type": "enabled", "budget_tokens": 4096}
    assert sent(chat(model=f"{HAIKU_45}-thinking", reasoning_effort="low"))["thinking"]["budget_tokens"] == 1024
    named = parse("chat", {"model": "fast-thinking", "messages": [USER]}, aliases={"fast-thinking": HAIKU_45})
    assert (named.model, "thinking" in sent(named)) == ("fast-thinking", False)


def test_a_cap_below_the_thinking_budget_is_raised_above_it() -> None:
    call = chat(model=HAIKU_45, reasoning_effort="high", max_tokens=500)
    assert sent(call)["max_tokens"] == 4596
    assert call.max_tokens == 4596
    default = chat(model=HAIKU_45, thinking={"type": "enabled", "budget_tokens": 40000})
    assert sent(default)["max_tokens"] == 60000
    assert default.max_tokens is None


def test_a_forced_tool_excludes_thinking_but_not_effort() -> None:
    adaptive = chat(reasoning_effort="high", tools=[function()], tool_choice="required")
    assert "thinking" not in sent(adaptive)
    assert sent(adaptive)["output_config"] == {"effort": "high"}
    budget = chat(model=HAIKU_45, reasoning_effort="high", tools=[function()], tool_choice="required")
    assert "thinking" not in sent(budget)
    assert ignored(budget) == ["reasoning_effort"]


def test_calls_made_without_thinking_are_not_continued_with_a_budget() -> None:
    turns = [USER, called(("a", "f", "{}")), {"role": "tool", "tool_call_id": "a", "content": "1"}]
    call = chat(model=HAIKU_45, messages=turns, tools=[function("f")], reasoning_effort="high")
    assert "thinking" not in sent(call)
    assert ignored(call) == ["reasoning_effort"]
    thought = {**turns[1], "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}]}
    call = chat(model=HAIKU_45, messages=[USER, thought, turns[2]], tools=[function("f")], reasoning_effort="high")
    assert sent(call)["thinking"]["type"] == "enabled"
    call = chat(model=HAIKU_45, messages=[*turns, {"role": "assistant", "content": "x"}, USER], reasoning_effort="high")
    assert sent(call)["thinking"]["type"] == "enabled"


def test_thinking_given_outright_passes() -> None:
    given = {"type": "enabled", "budget_tokens": 2000}
    assert sent(chat(thinking=given))["thinking"] == given


def test_thinking_can_be_hidden() -> None:
    call = chat(reasoning_effort="high", include_reasoning=False)
    assert sent(call)["thinking"] == {"type": "adaptive"}
    assert not call.reply_hints.reasoning


# --- identity and the rest


@pytest.mark.parametrize(
    ("fields", "user_id", "named"),
    [
        ({"user": "u-123"}, "u-123", []),
        ({"safety_identifier": "s-1", "user": "u-1"}, "s-1", ["user"]),
        ({"user": "ann@example.com"}, None, ["user"]),
        ({"user": "+49 170 1234567"}, None, ["user"]),
        ({"user": "u" * 257}, None, ["user"]),
        ({"user": ""}, None, []),
    ],
)
def test_the_user_is_passed_on_unless_it_identifies_a_person(
    fields: dict[str, Any], user_id: str | None, named: list[str]
) -> None:
    call = chat(**fields)
    assert sent(call).get("metadata") == (None if user_id is None else {"user_id": user_id})
    assert call.user_id == (user_id or "")
    assert ignored(call) == named


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0.5}, {"presence_penalty": -1}, {"logit_bias": {"50256": -100}}, {"seed": 7},
        {"metadata": {"a": "b"}}, {"store": True}, {"prediction": {"type": "content", "content": "x"}},
        {"verbosity": "low"}, {"service_tier": "flex"},
        {"prompt_cache_retention": "24h"}, {"prompt_cache_options": {"mode": "explicit"}}, {"moderation": {"a": 1}},
        {"chat_template_kwargs": {"x": 1}},
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_accepted_and_named(fields: dict[str, Any]) -> None:
    call = chat(**fields)
    assert sent(call) == sent(chat())
    assert ignored(call) == list(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0},
        {"store": False},
        {"service_tier": "auto"},
        {"logit_bias": {}},
        {"prompt_cache_key": "k"},
    ],
)
def test_what_says_what_happens_anyway_is_not_named(fields: dict[str, Any]) -> None:
    assert ignored(chat(**fields)) == []


def test_a_clients_own_words_cannot_break_the_header() -> None:
    assert ignored(chat(**{"a\r\nset-cookie: x": 1, "b,c": 1, "\u00e4": 1, "good_one": 1, "x" * 80: 1})) == ["good_one"]


def test_a_conversation_is_known_by_its_cache_key_or_its_beginning() -> None:
    later = [USER, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "More"}]
    assert conversation_of(chat()) == conversation_of(chat(messages=later)) != ""
    assert conversation_of(chat()) != conversation_of(chat(messages=[{"role": "user", "content": "Other"}]))
    assert conversation_of(chat()) != conversation_of(chat(tools=[function()]))
    assert conversation_of(chat(prompt_cache_key="019b1b7e-thread")) == "s:019b1b7e-thread"


@pytest.mark.parametrize("key", ["", "app", None, 5])
def test_a_cache_key_that_names_no_conversation_leaves_it_to_the_beginning(key: Any) -> None:
    assert conversation_of(chat(prompt_cache_key=key)) == conversation_of(chat())


def test_a_conversation_stays_the_same_while_its_cache_marks_move() -> None:
    mark = {"type": "ephemeral"}

    def part(text: str, **fields: Any) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "text", "text": text, **fields}]}

    first = chat(messages=[part("Hello", cache_control=mark)], tools=[{**function(), "cache_control": mark}])
    second = chat(
        messages=[part("Hello"), {"role": "assistant", "content": "Hi"}, part("More", cache_control=mark)],
        tools=[function()],
    )
    assert conversation_of(first) == conversation_of(second)


@pytest.mark.parametrize("name", ["session-id", "x-opencode-session", "x-openwebui-chat-id", "x-litellm-session-id"])
def test_a_session_header_decides_before_the_cache_key(name: str) -> None:
    call = chat(prompt_cache_key="019b1b7e-thread")
    assert conversation_of(call, (name.encode(), b"54e42f57-71d6")) == "s:54e42f57-71d6"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"model": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000,
     b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":1e400}'],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        OPENAI_CHAT.parse(head(), body)
    assert caught.value.status == 400


@pytest.mark.parametrize("depth", [100, 300, 450, 600, 5000])
def test_depth_is_refused_and_never_a_crash(depth: int) -> None:
    schema = b'{"type":"object","properties":{"a":' * depth + b"{}" + b"}}" * depth
    body = (
        b'{"model":"claude-sonnet-5","messages":[{"role":"user","content":"x"}],'
        b'"response_format":{"type":"json_schema","json_schema":{"schema":' + schema + b"}}}"
    )
    try:
        OPENAI_CHAT.parse(head(), body)
        refusal = None
    except Refusal as caught:
        refusal = caught
    assert refusal is not None or depth < 5000
    assert refusal is None or "nested too deeply" in refusal.message


# --- bodies that are already translated


def test_the_cap_of_a_key_lowers_the_default_and_the_budget() -> None:
    body = chat(model=HAIKU_45, reasoning_effort="max").body
    assert lower_max_tokens(body, 100_000) == body
    lowered = json.loads(lower_max_tokens(body, 4000))
    assert (lowered["max_tokens"], lowered["thinking"]["budget_tokens"]) == (4000, 2000)
    assert "thinking" not in json.loads(lower_max_tokens(body, 1000))


def test_a_body_can_be_had_without_its_thinking() -> None:
    thought = {**called(("a", "f", "{}")), "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}]}
    turns = [USER, thought, result("a")]
    call = chat(model=HAIKU_45, messages=turns, tools=[function("f")], reasoning_effort="high")
    assert without_thinking(chat().body) is None
    bare = json.loads(without_thinking(call.body) or b"")
    assert "thinking" not in bare
    assert bare["messages"] == messages(USER, called(("a", "f", "{}")), result("a"))
    parse_request(bare)
    later = chat(model=HAIKU_45, messages=[*turns, ANSWER, AGAIN], tools=[function("f")], reasoning_effort="high")
    assert json.loads(without_thinking(later.body) or b"")["thinking"]["type"] == "enabled"


def test_automatic_cache_marks_are_added_once_and_yield_to_the_clients_own() -> None:
    marked = with_cache_mark(chat().body)
    assert json.loads(marked)["cache_control"] == {"type": "ephemeral"}
    assert with_cache_mark(marked) == marked
    own = chat(messages=[{"role": "user", "content": "x", "cache_control": {"type": "ephemeral"}}]).body
    assert with_cache_mark(own) == own
    quoted = chat(messages=[{"role": "user", "content": 'the "cache_control" field'}]).body
    assert "cache_control" in json.loads(with_cache_mark(quoted))
