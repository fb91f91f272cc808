"""Which conversation a call belongs to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import headers
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.conversation import conversation, session_of
from relayd.wire.http import Headers

UUID = "54e42f57-71d6-41c3-9528-48461eb3edff"
NEW_FORM = json.dumps({"device_id": "ab" * 32, "account_uuid": "", "session_id": UUID})
OLD_FORM = f"user_{'ab' * 32}_account__session_{UUID}"


def body(*messages: tuple[str, Any], **fields: Any) -> bytes:
    turns = [{"role": role, "content": content} for role, content in messages]
    return json.dumps({"model": "m", "max_tokens": 5, "messages": turns, **fields}).encode()


def opening(*messages: tuple[str, Any], **fields: Any) -> str:
    return conversation(Headers(), body(*messages, **fields), "")


@pytest.mark.parametrize("user_id", [NEW_FORM, OLD_FORM, OLD_FORM.replace("__", f"_{UUID[::-1]}_")])
def test_both_forms_of_a_user_id_name_the_session(user_id: str) -> None:
    assert session_of(user_id) == UUID
    assert conversation(Headers(), b"", user_id) == f"s:{UUID}"


@pytest.mark.parametrize(
    "user_id", ["", "alice", "{", "[]", '{"session_id": 5}', '{"device_id": "x"}', '{"session_id": null}']
)
def test_a_user_id_without_a_session_names_a_person_and_no_conversation(user_id: str) -> None:
    assert session_of(user_id) == ""
    assert conversation(Headers(), body(("user", "hi")), user_id) == opening(("user", "hi"))


@pytest.mark.parametrize(
    "name",
    ["x_claude_code_session_id", "session_id", "x_session_id", "thread_id", "x_opencode_session",
     "x_openwebui_chat_id", "x_litellm_session_id", "x_conversation_id"],
)  # fmt: skip
def test_a_session_header_names_the_conversation(name: str) -> None:
    assert conversation(headers(**{name: UUID}), body(("user", "hi")), "alice") == f"s:{UUID}"


def test_metadata_goes_before_headers_and_the_surer_header_before_the_other() -> None:
    both = headers(x_session_id="from-a-gateway", x_claude_code_session_id="from-claude-code")

    assert conversation(both, b"", NEW_FORM) == f"s:{UUID}"
    assert conversation(both, b"", "") == "s:from-claude-code"


@pytest.mark.parametrize("value", ["", "1", "null", "default"])
def test_a_name_that_everyone_uses_is_no_session(value: str) -> None:
    assert conversation(headers(session_id=value), body(("user", "hi")), "") == opening(("user", "hi"))


def test_a_name_in_the_body_counts_after_metadata_and_headers() -> None:
    assert conversation(headers(session_id=UUID), b"", "", "a-cache-key") == f"s:{UUID}"
    assert conversation(Headers(), b"", "alice", "a-cache-key") == "s:a-cache-key"
    assert conversation(headers(session_id="null"), b"", "", "a-cache-key") == "s:a-cache-key"


def test_the_mark_of_a_tool_may_move_on() -> None:
    tool = {"name": "t", "description": "d", "input_schema": {"type": "object"}}
    marked = {**tool, "cache_control": {"type": "ephemeral"}}
    assert opening(("user", "x"), tools=[tool]) == opening(("user", "x"), tools=[marked])
    assert opening(("user", "x"), tools=[tool]) != opening(("user", "x"), tools=[{**tool, "description": "e"}])


def test_a_long_or_odd_session_name_is_bounded() -> None:
    for value in ("x" * 5000, "with spaces and /", "é" * 20):
        name = conversation(headers(session_id=value), b"", "")
        assert name.startswith("s:")
        assert len(name) == 34


def test_a_conversation_keeps_its_name_while_it_grows() -> None:
    first = opening(("user", "hello"), system="s", tools=[{"name": "t"}])

    assert first.startswith("h:")
    assert first == opening(("user", "hello"), ("assistant", "hi"), ("user", "more"), system="s", tools=[{"name": "t"}])


def test_conversations_of_one_program_differ_by_the_first_message_of_the_user() -> None:
    assert opening(("user", "hello"), system="s") != opening(("user", "good day"), system="s")
    assert opening(("user", "hello"), system="s") != opening(("user", "hello"), system="t")
    assert opening(("user", "hello"), tools=[{"name": "t"}]) != opening(("user", "hello"))


def test_the_mark_for_the_prompt_cache_may_move_on() -> None:
    block = {"type": "text", "text": "hello"}
    marked = {**block, "cache_control": {"type": "ephemeral"}}

    assert opening(("user", [marked])) == opening(("user", [block])) == opening(("user", "hello"))
    assert opening(("user", "x"), system=[marked]) == opening(("user", "x"), system="hello")


def test_pictures_tell_conversations_apart() -> None:
    def picture(data: str) -> list[dict[str, Any]]:
        return [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}]

    assert opening(("user", picture("AAAA"))) != opening(("user", picture("AAAB")))
    assert opening(("user", picture("A" * 50000 + "x"))) != opening(("user", picture("A" * 50000 + "y")))


def test_a_message_of_the_system_before_the_users_does_not_matter() -> None:
    assert opening(("system", "be brief"), ("user", "hello")) == opening(("user", "hello"))


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", b"not json", b'{"messages": 5}', b'{"messages": []}', b'{"messages": [{"role": "assistant"}]}'],
)
def test_a_body_without_a_first_message_has_no_conversation(raw: bytes) -> None:
    assert conversation(Headers(), raw, "") == ""


@settings(deadline=None, max_examples=150)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "text", "source", "role"]), inner),
        max_leaves=8,
    ),
    st.text(),
)
def test_no_content_is_an_error_and_the_same_content_has_the_same_name(content: Any, user_id: str) -> None:
    raw = body(("user", content), system=content, tools=content)
    name = conversation(Headers(), raw, user_id)

    assert name == conversation(Headers(), raw, user_id)
    assert len(name) <= 130
