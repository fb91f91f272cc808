"""Every `x-simulate-` header takes effect on the OpenAI paths. A lane each: a failure rests the lane's account."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai_daemon import MODEL, Lane, Relay, relaying

from relayd.simulator.faults import FIELDS

HEADERS = ["x-simulate-" + name.replace("_", "-") for name in FIELDS if name != "every"]
PATHS = {"chat": "/openai/v1/chat/completions", "responses": "/v1/responses"}
# What each is set to, what its call streams, and what the client then sees: a status, or a word of the stream's end.
EXPECTED: dict[str, tuple[dict[str, str], bool, int, str]] = {
    "words": ({"words": "2"}, False, 200, '"You said:"'),
    "first-byte": ({"first-byte": "1ms"}, False, 200, "You said:"),
    "between": ({"between": "1ms"}, True, 200, "You"),
    "requests-limit": ({"requests-limit": "1"}, False, 429, "your limit of 1 a minute"),
    "require-credential": ({"require-credential": "true"}, False, 502, "credential"),
    "status": ({"status": "529"}, False, 529, "Overloaded"),
    "error-type": ({"status": "503", "error-type": "overloaded_error"}, False, 503, "overloaded_error"),
    "retry-after": ({"status": "429", "retry-after": "7"}, False, 429, "rate_limit_error"),
    "drop": ({"drop": "true"}, False, 502, "upstream"),
    "cut-after": ({"cut-after": "6"}, True, 200, "broke off"),
    "error-after": ({"error-after": "6"}, True, 200, "Overloaded"),
    "bad-framing": ({"bad-framing": "true"}, True, 200, "error"),
}
LANES = {f"{path}-{name}": Lane() for path in PATHS for name in EXPECTED} | {"plain": Lane()}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with relaying(tmp_path_factory.mktemp("simulated"), LANES) as running:
        yield running


def ask(relay: Relay, path: str, lane: str, headers: dict[str, str], **fields: Any) -> httpx2.Response:
    words = {"messages": [{"role": "user", "content": "hello"}]} if path == "chat" else {"input": "hello"}
    return httpx2.post(
        relay.daemon.url + PATHS[path],
        json={"model": MODEL, **words, **fields},
        headers={"authorization": f"Bearer {relay.key(lane)}"}
        | {f"x-simulate-{name}": value for name, value in headers.items()},
        timeout=30,
        trust_env=False,
    )


def test_every_header_is_tried() -> None:
    assert [f"x-simulate-{name}" for name in EXPECTED] == HEADERS


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", EXPECTED)
def test_a_header_takes_effect(relay: Relay, path: str, name: str) -> None:
    headers, stream, status, words = EXPECTED[name]
    lane = f"{path}-{name}"
    if name == "requests-limit":
        assert ask(relay, path, lane, {}).status_code == 200
    answer = ask(relay, path, lane, headers, stream=stream)
    if name == "requests-limit" and answer.status_code == 200:  # a minute has just begun, and this was its one call
        answer, words = ask(relay, path, lane, headers), "requests window is spent"
    assert answer.status_code == status, answer.text
    assert words in answer.text
    if name == "retry-after":
        assert 1 <= int(answer.headers["retry-after"]) <= 7


@pytest.mark.parametrize("path", PATHS)
def test_json_object_gets_json(relay: Relay, path: str) -> None:
    wanted = {"type": "json_object"}
    field = {"response_format": wanted} if path == "chat" else {"text": {"format": wanted}}
    answer = ask(relay, path, "plain", {}, **field).json()
    text = answer["choices"][0]["message"]["content"] if path == "chat" else answer["output"][-1]["content"][0]["text"]
    assert text == '{"answer":"example"}'
