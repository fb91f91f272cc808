"""Errors, headers, model lists and capabilities of the OpenAI dialects."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from openai_cases import DIALECTS, chat, head, respond, translator

from relayd.wire import capabilities as table
from relayd.wire.anthropic import ModelEntry
from relayd.wire.capabilities import capabilities
from relayd.wire.openai.shapes import model_object, models_list, rate_headers
from relayd.wire.refusal import KIND_BY_STATUS, Refusal

# --- errors


@pytest.mark.parametrize(
    ("status", "fields", "kind", "code"),
    [
        (400, {"param": "n", "code": "unsupported_parameter"}, "invalid_request_error", "unsupported_parameter"),
        (401, {}, "authentication_error", "invalid_api_key"),
        (403, {}, "permission_error", None),
        (404, {}, "not_found_error", None),
        (404, {"param": "model"}, "not_found_error", "model_not_found"),
        (405, {}, "invalid_request_error", None),
        (413, {}, "invalid_request_error", "request_too_large"),
        (429, {}, "rate_limit_error", "rate_limit_exceeded"),
        (429, {"code": "requests"}, "rate_limit_error", "rate_limit_exceeded"),
        (429, {"should_retry": False}, "rate_limit_error", "insufficient_quota"),
        (429, {"should_retry": False, "code": "cost"}, "rate_limit_error", "insufficient_quota"),
        (500, {}, "server_error", None),
        (502, {}, "server_error", None),
        (503, {}, "server_error", None),
        (504, {}, "timeout_error", None),
        (529, {}, "overloaded_error", None),
    ],
)
@pytest.mark.parametrize("dialect", ["chat", "responses"])
def test_each_refusal_has_openais_words(dialect: str, status: int, fields: Any, kind: str, code: str | None) -> None:
    reply = DIALECTS[dialect].refuse(Refusal(status=status, message="why", **fields), "req_1")
    assert reply.status == status
    assert json.loads(reply.body) == {
        "error": {"message": "why", "type": kind, "param": fields.get("param"), "code": code}
    }


@pytest.mark.parametrize("status", sorted(KIND_BY_STATUS))
def test_every_status_that_relayd_uses_has_a_word(status: int) -> None:
    reply = DIALECTS["chat"].refuse(Refusal(status=status, message="m"), "")
    assert json.loads(reply.body)["error"]["type"].endswith(("_error", "_quota"))


def test_a_refusal_keeps_what_tells_a_client_when_to_come_back() -> None:
    refusal = Refusal(status=429, message="m", retry_after=17, should_retry=False, headers=((b"allow", b"POST"),))
    assert DIALECTS["chat"].refuse(refusal, "req_1").headers == [
        (b"content-type", b"application/json"),
        (b"allow", b"POST"),
        (b"retry-after", b"17"),
        (b"x-should-retry", b"false"),
        (b"x-request-id", b"req_1"),
    ]


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (400, {"type": "invalid_request_error", "message": "max_tokens: too large"}, ("invalid_request_error", None)),
        (400, {"type": "invalid_request_error", "message": "m", "details": {"error_code": "tool_name_conflict"}},
         ("invalid_request_error", "tool_name_conflict")),
        (401, {"type": "authentication_error", "message": "invalid x-api-key"}, ("authentication_error", None)),
        (404, {"type": "not_found_error", "message": "model: claude-x"}, ("not_found_error", "model_not_found")),
        (429, {"type": "rate_limit_error", "message": "m"}, ("rate_limit_error", "rate_limit_exceeded")),
        (500, {"type": "api_error", "message": "m"}, ("api_error", None)),
        (529, {"type": "overloaded_error", "message": "Overloaded"}, ("overloaded_error", None)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("call", [chat(), respond()])
def test_an_upstreams_error_keeps_its_message_and_type(call: Any, status: int, error: Any, expected: Any) -> None:
    body = json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()
    kind, code = expected
    assert json.loads(translator(call).whole(status, body)) == {
        "error": {"message": error["message"], "type": kind, "param": None, "code": code}
    }


@pytest.mark.parametrize("body", [b"", b"<html>secret</html>", b"[]", b'{"error": "x"}', b"\xff", b"[" * 5000])
def test_an_error_that_is_not_the_apis_is_not_quoted(body: bytes) -> None:
    error = json.loads(translator(chat()).whole(413, body))["error"]
    assert error["message"] == "the upstream answered 413 without an explanation"
    assert error["type"] == "invalid_request_error"


# --- headers


def test_an_answers_headers_are_restated() -> None:
    upstream = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"content-length", b"5"),
        (b"request-id", b"req_1"),
        (b"retry-after", b"3"),
    ]
    assert translator(chat(seed=1, stream=True)).head(200, upstream) == [
        (b"request-id", b"req_1"),
        (b"retry-after", b"3"),
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"x-request-id", b"req_1"),
        (b"relayd-ignored", b"seed"),
    ]
    assert translator(respond(store=True)).head(529, [(b"content-type", b"application/json; charset=utf-8")]) == [
        (b"content-type", b"application/json"),
        (b"relayd-ignored", b"store"),
    ]


def test_the_upstream_gets_the_older_version_and_no_headers_of_another_api() -> None:
    client = head(
        (b"host", b"relay"), (b"authorization", b"Bearer sk-relay-x"), (b"content-type", b"application/json"),
        (b"user-agent", b"OpenAI/Python 3.54.0"), (b"x-stainless-lang", b"python"), (b"openai-organization", b"org"),
        (b"anthropic-version", b"2026-10-21"), (b"anthropic-beta", b"a"), (b"anthropic-beta", b"b"), (b"cookie", b"c"),
        (b"traceparent", b"00-1"), (b"idempotency-key", b"k"), (b"session-id", b"s"), (b"accept-encoding", b"gzip"),
    )  # fmt: skip
    for dialect in DIALECTS.values():
        assert dialect.upstream_headers(client) == [
            (b"content-type", b"application/json"),
            (b"anthropic-version", b"2023-06-01"),
            (b"anthropic-beta", b"a, b"),
            (b"user-agent", b"OpenAI/Python 3.54.0"),
            (b"traceparent", b"00-1"),
            (b"idempotency-key", b"k"),
        ]


def test_a_keys_own_window_is_restated_and_nothing_else_is() -> None:
    own = [
        (b"anthropic-ratelimit-requests-limit", b"100"),
        (b"anthropic-ratelimit-requests-remaining", b"99"),
        (b"anthropic-ratelimit-requests-reset", b"2026-11-22T00:01:30Z"),
        (b"anthropic-ratelimit-tokens-reset", b"nonsense"),
        (b"anthropic-ratelimit-input-tokens-limit", b"5"),
        (b"anthropic-ratelimit-unified-5h-utilization", b"0.5"),
        (b"content-type", b"x"),
    ]
    assert rate_headers(own, now=1795305600.0) == [
        (b"x-ratelimit-limit-requests", b"100"),
        (b"x-ratelimit-remaining-requests", b"99"),
        (b"x-ratelimit-reset-requests", b"90s"),
        (b"x-ratelimit-reset-tokens", b"0s"),
    ]


# --- models


def test_models_have_openais_shape() -> None:
    entry = ModelEntry(id="claude-sonnet-4-6", display_name="Sonnet", created="2026-02-17T00:00:00Z")
    expected = {"id": "claude-sonnet-4-6", "object": "model", "created": 1771286400, "owned_by": "anthropic"}
    assert model_object(entry) == expected
    assert json.loads(models_list([entry])) == {"object": "list", "data": [expected]}
    assert model_object(ModelEntry(id="fast", display_name="x"), "relayd")["owned_by"] == "relayd"


# --- capabilities


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet@20240620", "claude-3-5-sonnet"),
        ("anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", "claude-opus-4-1"),
        ("claude-4-sonnet-20250514", "claude-sonnet-4"),
        ("claude-sonnet-4-6[1m]", "claude-sonnet-4-6"),
        ("Claude-Opus-4-7", "claude-opus-4-7"),
        ("claude-fable-5-2", "newest"),
        ("claude-opus-6-20270101", "newest"),
        ("gpt-4o", "newest"),
        ("", "newest"),
    ],
)
def test_a_model_is_known_by_its_name_however_it_is_dressed(name: str, row: str) -> None:
    assert capabilities(name) == table._ROWS[row]


def test_the_table_says_what_the_docs_say() -> None:
    assert (capabilities("claude-sonnet-4-6").sampling, capabilities("claude-opus-4-7").sampling) == ("one", "no")
    assert {name for name, row in table._ROWS.items() if not row.forced_tools} == {
        "newest", "claude-opus-5-5", "claude-sonnet-5-5", "claude-fable-5-1", "claude-mythos-5-1",
    }  # fmt: skip
    assert {name for name, row in table._ROWS.items() if row.thinking == "adaptive"} == {
        "claude-opus-4-6",
        "claude-sonnet-4-6",
        "claude-opus-4-7",
        "claude-opus-4-8",
        "claude-opus-5",
        "claude-sonnet-5",
        "claude-haiku-5-5",
    }
    assert {name for name, row in table._ROWS.items() if row.system_turns} == {
        "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-1", "claude-mythos-5-1",
        "claude-fable-5", "claude-mythos-5", "claude-opus-5", "claude-opus-4-8",
    }  # fmt: skip
    assert {name for name, row in table._ROWS.items() if row.prefill} == {
        name for name, row in table._ROWS.items() if row.thinking in ("none", "budget")
    }
    assert capabilities("claude-3-haiku-20240307").max_output == 4096


def test_a_row_is_like_one_above_it() -> None:
    rows = tomllib.loads(Path(table.__file__).with_name("capabilities.toml").read_text())["models"]
    seen = {"newest"}
    for name, row in rows.items():
        assert row.get("like", "newest") in seen
        seen.add(name)
