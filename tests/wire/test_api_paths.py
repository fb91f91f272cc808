"""A path is understood behind every base URL that people paste, and in no other spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.api_paths import canonical, speaks_openai

SPELLINGS = {
    "/v1/messages": [
        "/v1/messages", "/api/v1/messages", "/api/messages", "/messages", "//v1/messages", "/v1/messages/",
        "/claude/v1/messages", "/anthropic/v1/messages", "/api/claude/v1/messages", "/v1/v1/messages", "/v1//messages",
        "/api//v1/messages//",
    ],
    "/v1/messages/count_tokens": ["/messages/count_tokens", "/api/messages/count_tokens/"],
    "/v1/messages/batches/b_1/cancel": ["/api/messages/batches/b_1/cancel", "/claude/v1/messages/batches/b_1/cancel"],
    "/v1/chat/completions": ["/chat/completions", "/v1/chat/completions", "/api/v1/chat/completions"],
    "/openai/v1/chat/completions": [
        "/openai/chat/completions", "/openai/claude/v1/chat/completions", "/openai/v1/v1/chat/completions",
        "/api/openai/v1/chat/completions",
    ],
    "/openai/v1/responses": ["/openai/responses", "/openai/v1/responses/"],
    "/openai/v1/models": ["/openai/models", "/openai/claude/v1/models"],
    "/openai/v1/models/m": ["/openai/models/m"],
    "/v1/models": ["/models", "/v1/models/", "/api/models"],
    "/v1/files": ["/files", "/v1/files/"],
    "/v1/anything/new": ["/v1/anything/new", "/api/v1/anything/new", "/claude/v1/anything/new"],
    "/": ["/", "//", "/api", "/api/", "/v1", "/openai/v1/", "/claude"],
    "/usage": ["/usage", "/api/usage", "/usage/"],
    "/health": ["/health", "/api/health"],
}  # fmt: skip


@pytest.mark.parametrize(("path", "spelling"), [(path, one) for path, all_ in SPELLINGS.items() for one in all_])
def test_the_spellings_of_a_path(path: str, spelling: str) -> None:
    assert canonical(spelling) == path


@pytest.mark.parametrize(
    "path",
    ["/V1/messages", "/v1/%6dessages", "/v1/../v1/messages", "/v1/./messages", "/x/v1/messages", "/v1;/messages", "*"],
)
def test_nothing_else_is_forgiven(path: str) -> None:
    assert canonical(path) not in SPELLINGS


@given(st.text(st.sampled_from("/v1apimesgchtopl.%2fF"), max_size=40))
def test_a_canonical_path_is_its_own_spelling(text: str) -> None:
    once = canonical("/" + text)
    assert canonical(once) == once or once.startswith(("/v1/", "/openai/v1/"))
    assert "//" not in once


def test_errors_are_worded_for_the_clients_of_the_path() -> None:
    for path in ("/openai/claude/v1/chat/completions", "/chat/completions", "/v1/responses/r_1", "/v1/embeddings"):
        assert speaks_openai(path)
    for path in ("/api/v1/messages", "/v1/models", "/claude/v1/messages", "/", "*", "/v1", ""):
        assert not speaks_openai(path)
