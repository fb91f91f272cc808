"""What a path means, in every spelling that a base URL leads to."""

from __future__ import annotations

import json

import pytest
from builders import head

from relayd.daemon.proxy.reply import cors_headers, preflight
from relayd.daemon.proxy.routes import (
    COUNT_TOKENS,
    MESSAGES,
    Local,
    Models,
    find,
    local,
)
from relayd.wire.refusal import Refusal


@pytest.mark.parametrize("prefix", ["", "/api", "/v1", "/api/v1"])
def test_the_native_paths_are_found_under_every_usual_base_url(prefix: str) -> None:
    assert find(head(prefix + "/v1/messages?beta=true")) is MESSAGES
    assert find(head(prefix + "/v1/messages/count_tokens")) is COUNT_TOKENS
    assert find(head(prefix + "/v1/models", "GET", anthropic_version="2023-06-01")) == Models()


def test_models_have_the_shape_that_the_client_speaks() -> None:
    assert find(head("/v1/models", "GET")) == Models(openai=True)
    assert find(head("/v1/models/x", "GET", anthropic_version="2026-10-21")) == Models(one="x")
    openai = Models(one="x", openai=True)
    assert find(head("/openai/claude/v1/models/x", "GET", anthropic_version="2026-10-21")) == openai


@pytest.mark.parametrize(
    "path",
    [
        "/v1/message",
        "/v1/v1/v1/messages",
        "/api/api/v1/messages",
        "/claude/anthropic/v1/messages",
        "/openai/v1/messages",
        "/v1/api/messages",
        "/v1/%6dessages",
        "/api/../v1/messages",
        "/v1/messages;x",
        "/v1/models/a/b",
        "/V1/messages",
        "/admin",
        "/metrics",
        "*",
    ],
)
def test_no_other_spelling_reaches_anything(path: str) -> None:
    with pytest.raises(Refusal) as caught:
        find(head(path))

    assert caught.value.status == 404


@pytest.mark.parametrize(("path", "method"), [("/v1/messages", "GET"), ("/v1/models", "POST"), ("/health", "DELETE")])
def test_a_wrong_method_is_told_the_right_one(path: str, method: str) -> None:
    with pytest.raises(Refusal) as caught:
        find(head(path, method))

    assert caught.value.status == 405
    ((name, value),) = caught.value.headers
    assert name == b"allow"
    assert (b"GET" if method != "GET" else b"POST") in value


def test_readiness_ends_with_draining_and_liveness_does_not() -> None:
    def status(path: str, *, draining: bool) -> int:
        target = find(head(path, "GET"))
        assert isinstance(target, Local)
        return local(target, draining=draining).status

    assert [status(path, draining=False) for path in ("/health", "/livez", "/readyz", "/")] == [200] * 4
    assert [status(path, draining=True) for path in ("/health", "/livez", "/readyz", "/")] == [200, 200, 503, 200]


def test_only_listed_origins_may_read_answers() -> None:
    allowed = ("https://app.example",)

    assert (b"access-control-allow-origin", b"https://app.example") in cors_headers("https://app.example", allowed)
    assert cors_headers("https://evil.example", allowed) == []
    assert cors_headers("https://app.example", ()) == []
    assert cors_headers("", ("*",)) == []
    assert cors_headers("https://any.example", ("*",))


def test_a_preflight_grants_what_was_asked_to_listed_origins_only() -> None:
    asked = head("/v1/messages", "OPTIONS", origin="https://app.example", access_control_request_headers="x-api-key")

    granted = dict(preflight(asked, ("https://app.example",)).headers)
    assert granted[b"access-control-allow-headers"] == b"x-api-key"
    assert b"access-control-allow-origin" not in dict(preflight(asked, ()).headers)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/message", "did you mean /v1/messages?"),
        ("/v1/Messages", "did you mean /v1/messages?"),
        ("/v1%2fmessages", "did you mean /v1/messages?"),
        ("/relay/v1/messages", "did you mean /v1/messages?"),
        ("/v1/chat/completion", "did you mean /v1/chat/completions?"),
        ("/openai/v1/chat", "GET / says where to point a client"),
        ("/openai/claude/v1/response", "did you mean /openai/v1/responses?"),
        ("/v1/usage", "did you mean /usage?"),
        ("/v1/embeddings", "GET / says where to point a client"),
        ("/wp-login.php", "GET / says where to point a client"),
    ],
)
def test_an_unknown_path_is_told_what_was_probably_meant(path: str, meant: str) -> None:
    with pytest.raises(Refusal, match="unknown path") as caught:
        find(head(path))

    assert caught.value.message.endswith(f"({meant})")


def test_the_root_tells_in_three_lines_where_to_point_a_client() -> None:
    told = local(Local(name="root"), draining=False, address="https://relay.example")

    assert told.body.count(b"\n") == 3
    assert json.loads(told.body) == {
        "name": "relayd",
        "docs": "a relay for the Claude API; its keys (sk-relay-...) come from whoever runs it",
        "anthropic": "ANTHROPIC_BASE_URL=https://relay.example/api",
        "openai": "OPENAI_BASE_URL=https://relay.example/openai/v1",
    }
