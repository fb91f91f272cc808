"""Properties of both OpenAI dialects: any cut gives the same bytes, streams say what whole answers say, what was
answered can be said again, and no JSON makes a parser fail otherwise than by a Refusal."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_cases import (
    DIALECTS,
    OPUS_41,
    OPUS_55,
    SONNET,
    begin,
    block,
    chat,
    content,
    conversation_of,
    deltas,
    end,
    event,
    finish_reasons,
    head,
    message,
    parse,
    payloads,
    respond,
    sent,
    streamed,
    thinking,
    tool,
    tool_calls,
    translator,
    whole,
)

from relayd.simulator.request import parse_request
from relayd.wire.refusal import Refusal

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
SAID = WORDS.filter(lambda word: not word.isspace())
INPUTS = st.dictionaries(
    WORDS, st.one_of(WORDS, st.integers(-9, 9), st.none(), st.lists(WORDS, max_size=2)), max_size=3
)


def searched(number: int) -> list[dict[str, Any]]:
    """A search and what it found."""
    name = f"srvtoolu_{number}"
    return [
        {"type": "server_tool_use", "id": name, "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": name, "content": [{"url": "https://a.example"}]},
    ]


BLOCKS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "text": SAID}),
        st.fixed_dictionaries({"type": st.just("thinking"), "thinking": WORDS, "signature": st.just("c2ln")}),
        st.fixed_dictionaries(
            {"type": st.just("tool_use"), "name": st.sampled_from(["f", "g", "structured_answer"]), "input": INPUTS}
        ),
        st.just({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}),
        st.fixed_dictionaries(
            {"type": st.just("text"), "text": SAID, "citations": st.just([{"url": "https://b.example"}])}
        ),
    ),
    max_size=6,
).map(
    lambda blocks: [
        made
        for n, part in enumerate(blocks)
        for made in (
            searched(n) if "query" in part.get("input", ()) and part["type"] == "server_tool_use"
            else [{**part, "id": f"toolu_{n}"}] if part["type"] == "tool_use"
            else [part]
        )
    ]
)  # fmt: skip
STOPS = st.sampled_from(["end_turn", "tool_use", "max_tokens", "refusal", "something_new"])
CALLS = st.sampled_from(
    [
        (chat, {}),
        (chat, {"include_reasoning": False}),
        (chat, {"stream_options": {"include_usage": True}}),
        (
            chat,
            {"model": OPUS_41, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        ),
        (chat, {"functions": [{"name": "f"}]}),
        (respond, {}),
        (respond, {"reasoning": {"summary": "auto"}}),
        (respond, {"tools": [{"type": "custom", "name": "f"}]}),
        (respond, {"model": OPUS_41, "text": {"format": {"type": "json_schema", "name": "x", "schema": {"a": 1}}}}),
    ]
)


def pieces_of(word: str) -> list[str]:
    middle = len(word) // 2
    return [word[:middle], word[middle:]]


def as_stream(blocks: list[dict[str, Any]], stop_reason: str) -> bytes:
    """The stream that says what a message of `blocks` says."""
    out = begin() + event("ping")
    for index, part in enumerate(blocks):
        match part["type"]:
            case "text":
                cited = [{"type": "citations_delta", "citation": one} for one in part.get("citations", ())]
                said = [{"type": "text_delta", "text": piece} for piece in pieces_of(part["text"])]
                out += block(index, {"type": "text", "text": ""}, *said, *cited)
            case "thinking":
                out += thinking(index, *pieces_of(part["thinking"]))
            case "tool_use":
                given = json.dumps(part["input"]) if part["input"] else ""
                out += tool(index, part["name"], *pieces_of(given), call_id=part["id"])
            case _:
                out += block(index, part)
    return out + end(stop_reason)


@settings(deadline=None, max_examples=70)
@given(CALLS, BLOCKS, STOPS, st.lists(st.integers(0, 3000), max_size=8), st.booleans())
def test_cuts_make_no_difference(asked: Any, blocks: Any, stop: str, cuts: list[int], crlf: bool) -> None:
    make, fields = asked
    call = make(stream=True, **fields)
    upstream = as_stream(blocks, stop)
    if crlf:
        upstream = upstream.replace(b"\n", b"\r\n")
    expected = streamed(call, upstream)
    assert streamed(call, *(upstream[at : at + 1] for at in range(len(upstream)))) == expected
    marks = sorted({0, len(upstream), *(cut for cut in cuts if cut < len(upstream))})
    assert streamed(call, *(upstream[a:b] for a, b in pairwise(marks))) == expected


@settings(deadline=None, max_examples=70)
@given(BLOCKS, STOPS, st.integers(0, 3000))
def test_an_answer_cut_anywhere_is_no_answer(blocks: Any, stop: str, cut: int) -> None:
    upstream = as_stream(blocks, stop)
    upstream = upstream[: min(cut, len(upstream) - 2)]
    assert b"[DONE]" not in streamed(chat(stream=True), upstream)
    assert payloads(streamed(respond(stream=True), upstream))[-1]["type"] == "response.failed"


@settings(deadline=None, max_examples=70)
@given(st.sampled_from([{}, {"model": OPUS_41, "response_format": {"type": "json_object"}}]), BLOCKS, STOPS)
def test_a_chat_stream_says_what_the_whole_answer_says(fields: Any, blocks: Any, stop: str) -> None:
    stream = streamed(chat(stream=True, **fields), as_stream(blocks, stop))
    choice = whole(chat(**fields), message(*blocks, stop_reason=stop))["choices"][0]
    calls = [(call["index"], call["id"], call["name"], json.loads(call["arguments"])) for call in tool_calls(stream)]
    assert calls == [
        (index, call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for index, call in enumerate(choice["message"].get("tool_calls", []))
    ]
    assert content(stream) == (choice["message"]["content"] or "")
    assert finish_reasons(stream) == [choice["finish_reason"]]
    cited = [one for delta in deltas(stream) for one in delta.get("annotations", [])]
    assert cited == choice["message"].get("annotations", [])


@settings(deadline=None, max_examples=70)
@given(BLOCKS, STOPS)
def test_a_responses_stream_ends_with_the_whole_answer(blocks: Any, stop: str) -> None:
    fields = {"reasoning": {"summary": "auto"}, "tools": [{"type": "custom", "name": "g"}]}
    last = payloads(streamed(respond(stream=True, **fields), as_stream(blocks, stop)))[-1]["response"]
    answer = whole(respond(**fields), message(*blocks, stop_reason=stop))
    for item in last["output"] + answer["output"]:
        for name in ("arguments", "input"):
            if name in item:
                item[name] = json.loads(item[name])
    assert last == answer


def as_kept(stream: bytes) -> dict[str, Any]:
    """The message that a client keeps of a Chat stream."""
    kept: dict[str, Any] = {"role": "assistant", "content": content(stream), "tool_calls": []}
    for call in tool_calls(stream):
        function = {"name": call["name"], "arguments": call["arguments"]}
        kept["tool_calls"].append({"id": call["id"], "type": "function", "function": function})
    for name in ("thinking_blocks", "reasoning_details"):
        kept[name] = [block for delta in deltas(stream) for block in delta.get(name, [])]
    return kept


@settings(deadline=None, max_examples=70)
@given(BLOCKS, st.sampled_from(["whole", "streamed"]), st.sampled_from(["thinking_blocks", "reasoning_details"]))
def test_what_was_answered_can_be_said_again(blocks: Any, way: str, field: str) -> None:
    said = [part for part in blocks if part["type"] in ("text", "thinking", "tool_use")]
    if way == "whole":
        answer = whole(chat(), message(*said))["choices"][0]["message"]
    else:
        answer = as_kept(streamed(chat(stream=True), as_stream(said, "tool_use")))
    answer = {name: value for name, value in answer.items() if name in (field, "role", "content", "tool_calls")}
    turns = sent(chat(messages=[{"role": "user", "content": "x"}, answer, {"role": "user", "content": "y"}]))[
        "messages"
    ]
    texts = "".join(part["text"] for part in said if part["type"] == "text")
    calls = [part for part in said if part["type"] == "tool_use"]
    thoughts = [part for part in said if part["type"] == "thinking"]
    expected = thoughts + [{"type": "text", "text": texts}] * bool(texts) + calls
    again = turns[1]["content"] if said else []
    assert ([{"type": "text", "text": again}] if isinstance(again, str) else again) == expected


@settings(deadline=None, max_examples=70)
@given(BLOCKS)
def test_a_response_sent_back_is_the_turn_that_it_was(blocks: Any) -> None:
    said = [part for part in blocks if part["type"] not in ("server_tool_use", "web_search_tool_result")]
    output = whole(respond(reasoning={"summary": "auto"}), message(*said))["output"]
    turns = sent(respond(input=[{"role": "user", "content": "x"}, *output, {"role": "user", "content": "y"}]))[
        "messages"
    ]
    again = turns[1]["content"] if said else []
    first_call = next((n for n, part in enumerate(said) if part["type"] == "tool_use"), len(said))
    if any(part["type"] == "text" for part in said[first_call:]):  # the model ends with its calls; so does a turn
        said.sort(key=lambda part: part["type"] == "tool_use")
    assert _joined(again) == _joined(said)


def _joined(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring texts as one: an answer's message item does not say where one block ended."""
    out: list[dict[str, Any]] = []
    for part in blocks:
        if part["type"] == "text" and out and out[-1]["type"] == "text":
            out[-1] = {"type": "text", "text": out[-1]["text"] + part["text"]}
        else:
            out.append({name: value for name, value in part.items() if name != "citations"})
    return out


CHARACTERS = st.text(st.sampled_from('aé😀\\🂡"\n'), min_size=1, max_size=8)


def in_halves(text: str, kind: str, field: str, cuts: list[int]) -> list[bytes]:
    """Deltas of a stream that cut `text` between UTF-16 units, as a server that counts those would."""
    units = text.encode("utf-16-le")
    marks = sorted({0, len(units), *(2 * cut for cut in cuts if 2 * cut < len(units))})
    pieces = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in pairwise(marks)]
    made = [{"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: piece}} for piece in pieces]
    return [f"event: content_block_delta\ndata: {json.dumps(one)}\n\n".encode() for one in made]


@settings(deadline=None, max_examples=80)
@given(CHARACTERS, st.lists(st.integers(1, 16), max_size=6), st.sampled_from(["text", "thinking", "partial_json"]))
def test_characters_cut_in_halves_are_put_together(said: str, cuts: list[int], field: str) -> None:
    given_text = json.dumps({"a": said}, ensure_ascii=False) if field == "partial_json" else said
    starts: dict[str, dict[str, Any]] = {
        "text": {"type": "text", "text": ""},
        "thinking": {"type": "thinking", "thinking": "", "signature": ""},
        "partial_json": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    }
    kind = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}[field]
    upstream = b"".join(
        [begin(), event("content_block_start", index=0, content_block=starts[field]),
         *in_halves(given_text, kind, field, cuts), event("content_block_stop", index=0), end()]
    )  # fmt: skip
    stream = streamed(chat(stream=True), upstream)
    assert payloads(stream)[-1] == "[DONE]"
    seen = {
        "text": content(stream),
        "thinking": "".join(delta.get("reasoning_content", "") for delta in deltas(stream)),
        "partial_json": "".join(call["arguments"] for call in tool_calls(stream)),
    }
    assert seen[field] == given_text
    last = payloads(streamed(respond(stream=True, reasoning={"summary": "auto"}), upstream))[-1]
    assert last["type"] == "response.completed"
    assert "\ufffd" not in json.dumps(last, ensure_ascii=False)


def test_half_a_character_alone_is_no_end_of_a_stream_or_an_answer() -> None:
    half = b'"a\\ud83d"'
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":%b}}\n\n'
    upstream = begin() + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    stream = streamed(chat(stream=True), upstream + delta % half + delta % b'"b"' + end())
    assert content(stream) == "a\ufffdb"
    body = message({"type": "text", "text": "HERE"}).replace(b'"HERE"', half)
    assert whole(chat(), body)["choices"][0]["message"]["content"] == "a\ufffd"
    kept = message({"type": "text", "text": "HERE"}).replace(b'"HERE"', b'"\\\\ud83d \\ud83d\\ude00 \\ude00"')
    assert whole(chat(), kept)["choices"][0]["message"]["content"] == "\\ud83d \U0001f600 \ufffd"


IDS = st.sampled_from(["a", "a_2", "b", "c:1", ""])
TOLD = st.sampled_from(["", " ", "one", "two"])
HISTORIES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": TOLD}),
        st.fixed_dictionaries(
            {
                "role": st.just("assistant"),
                "content": TOLD,
                "tool_calls": st.lists(
                    st.fixed_dictionaries(
                        {
                            "id": IDS,
                            "function": st.fixed_dictionaries(
                                {"name": st.just("f"), "arguments": st.sampled_from(["", "{}", "[]", '{"a', "null"])}
                            ),
                        }
                    ),
                    max_size=3,
                ),
            }
        ),
        st.fixed_dictionaries(
            {
                "role": st.just("tool"),
                "tool_call_id": IDS,
                "content": st.one_of(TOLD, st.just({"a": 1}), st.just([{"type": "text", "text": "part"}])),
            }
        ),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([OPUS_41, SONNET, OPUS_55]), HISTORIES)
def test_any_history_is_one_that_the_api_takes_and_all_of_it(model: str, history: Any) -> None:
    turns = [{"role": "user", "content": "Hello"}, *history, {"role": "user", "content": "Go on"}]
    body = sent(chat(model=model, messages=turns))
    parse_request(body)
    for before, after in pairwise([{"role": "assistant"}, *body["messages"]]):
        assert (after["role"] == "system") <= (before["role"] == "user")
        assert (before["role"] == "system") <= (after["role"] == "assistant")
    for word in ("one", "two", "part"):
        said = json.dumps([turn.get("content") for turn in turns]).count(f'"{word}"')
        upstream = json.dumps([body.get("system"), body["messages"]])
        assert upstream.count(word) == said


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([SONNET, OPUS_55]), HISTORIES, HISTORIES)
def test_a_history_that_grew_is_sent_as_it_was_before(model: str, history: Any, more: Any) -> None:
    turns = [{"role": "user", "content": "Hello"}, *history, {"role": "user", "content": "Go on"}]
    before = sent(chat(model=model, messages=turns))
    after = sent(chat(model=model, messages=[*turns, {"role": "assistant", "content": "Yes"}, *more]))
    assert after["messages"][: len(before["messages"])] == before["messages"]
    assert after.get("system") == before.get("system")


NAMES = st.sampled_from(
    [
        "model",
        "messages",
        "input",
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "file",
        "file_data",
        "file_id",
        "input_text",
        "input_image",
        "function",
        "name",
        "arguments",
        "tool_calls",
        "tool_call_id",
        "id",
        "call_id",
        "output",
        "parameters",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "mode",
        "allowed_tools",
        "response_format",
        "json_schema",
        "schema",
        "format",
        "strict",
        "properties",
        "items",
        "anyOf",
        "description",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "temperature",
        "top_p",
        "stop",
        "n",
        "logprobs",
        "reasoning",
        "effort",
        "summary",
        "reasoning_effort",
        "thinking",
        "thinking_blocks",
        "signature",
        "data",
        "cache_control",
        "user",
        "metadata",
        "instructions",
        "include",
        "encrypted_content",
        "namespace",
        "custom",
        "modalities",
        "audio",
        "refusal",
        "prompt_cache_key",
        "include_reasoning",
        "extra",
    ]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.sampled_from(
        [
            "user",
            "assistant",
            "system",
            "developer",
            "tool",
            "function",
            "text",
            "image_url",
            "file",
            "input_image",
            "function_call",
            "reasoning",
            "message",
            "function_call_output",
            "custom_tool_call",
            "namespace",
            "custom",
            "json_schema",
            "json_object",
            "allowed_tools",
            "auto",
            "required",
            "none",
            "high",
            "object",
            "thinking",
            "data:image/png;base64,AAAA",
            "data:,",
            "https://x",
            "data:application/pdf;base64,JVBERi0=",
        ]
    ),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=25
)
PLAUSIBLE = st.fixed_dictionaries(
    {"model": st.sampled_from([SONNET, OPUS_41, "claude-haiku-4-5", "x"])},
    optional={
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["user", "assistant", "tool", "system", "function"])},
                optional={
                    "content": VALUES,
                    "tool_calls": VALUES,
                    "tool_call_id": LEAVES,
                    "thinking_blocks": VALUES,
                    "function_call": VALUES,
                    "refusal": LEAVES,
                    "cache_control": VALUES,
                },
            ),
            max_size=4,
        ),
        "input": VALUES,
        "tools": VALUES,
        "tool_choice": VALUES,
        "functions": VALUES,
        "response_format": VALUES,
        "text": VALUES,
        "reasoning": VALUES,
        "reasoning_effort": LEAVES,
        "thinking": VALUES,
        "stop": VALUES,
        "max_tokens": LEAVES,
        "temperature": LEAVES,
        "user": LEAVES,
        "modalities": VALUES,
        "include": VALUES,
        "metadata": VALUES,
        "stream_options": VALUES,
        "instructions": VALUES,
        "logprobs": LEAVES,
        "cache_control": VALUES,
    },
)


@pytest.mark.parametrize("dialect", ["chat", "responses"])
@settings(deadline=None, max_examples=80)
@given(st.one_of(VALUES, PLAUSIBLE))
def test_any_json_is_a_call_or_a_refusal(dialect: str, body: Any) -> None:
    try:
        call = DIALECTS[dialect].parse(head(), json.dumps(body).encode())
    except Refusal as refusal:
        outcome = (refusal.status, bool(refusal.message))
    else:
        made = json.loads(call.body)
        assert made["messages"]
        assert made["max_tokens"] >= 1
        assert all(value.isascii() for _, value in translator(call).head(200, []))
        outcome = (400, True)
    assert outcome == (400, True)


@pytest.mark.parametrize("dialect", ["chat", "responses"])
@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_call_or_a_refusal(dialect: str, body: bytes) -> None:
    with pytest.raises(Refusal):
        DIALECTS[dialect].parse(head(), body)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([chat, respond]), st.lists(st.tuples(st.sampled_from(
    ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error", "x"]
), VALUES), max_size=6))  # fmt: skip
def test_any_events_end_in_an_error_and_never_in_a_crash(make: Any, events: Any) -> None:
    stream = b"".join(
        event(kind, **(fields if isinstance(fields, dict) and "type" not in fields else {})) for kind, fields in events
    )
    out = streamed(make(stream=True), begin() + stream)
    assert b"[DONE]" not in out
    last = payloads(out)[-1]
    assert "error" in last or last["type"] == "response.failed"


def test_both_dialects_make_the_same_call_of_the_same_conversation() -> None:
    by_chat = parse(
        "chat", {"model": SONNET, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
    )
    by_responses = parse("responses", {"model": SONNET, "instructions": "s", "input": "u"})
    assert by_chat.body == by_responses.body
    assert conversation_of(by_chat) == conversation_of(by_responses)
