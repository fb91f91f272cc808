"""Recorded request bodies of coding agents, sent byte for byte to a running relay whose upstream checks them.

The simulator refuses what the Claude API refuses (unpaired tool results, blank blocks, forced tools beside thinking,
sampling under a newer version), so that 200 here says that the translation of each recorded body is a legal call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai_daemon import Lane, Relay, relaying

from relayd.wire.sse import EventDecoder

RECORDED = sorted((Path(__file__).parent.parent / "corpus" / "openai" / "requests").glob("*.json"))
ALIASES = {
    alias: model for path in RECORDED for alias, model in json.loads(path.read_text()).get("aliases", {}).items()
}
MODELS = "[models]\n" + "".join(f'"{alias}" = "{model}"\n' for alias, model in ALIASES.items())
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}
LANES = {"plain": Lane(), "cut": Lane("cut_after = 6"), "status-529": Lane("status = 529")}
# What Codex 0.169 sends beside its credential; the relay must not mind any of it.
CODEX = {
    "user-agent": "codex_exec/0.169.0 (Debian 12.0.0; x86_64) xterm-256color (codex_exec; 0.169.0)",
    "originator": "codex_exec",
    "accept": "text/event-stream",
    "session-id": "0199aaaa-0000-7000-8000-000000000000",
    "thread-id": "0199aaaa-0000-7000-8000-000000000000",
    "x-client-request-id": "0199aaaa-0000-7000-8000-000000000000",
    "x-codex-window-id": "0199aaaa-0000-7000-8000-000000000000:0",
}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with relaying(tmp_path_factory.mktemp("codex"), LANES, MODELS) as running:
        yield running


def post(relay: Relay, path: str, body: dict[str, Any], lane: str = "plain") -> httpx2.Response:
    headers = {**CODEX, "authorization": f"Bearer {relay.key(lane)}"}
    return httpx2.post(relay.daemon.url + path, json=body, headers=headers, timeout=60, trust_env=False)


def events(answer: httpx2.Response) -> list[dict[str, Any]]:
    """The events of a Responses stream, each checked to be named as its data says."""
    found = []
    for event in EventDecoder().feed(answer.content):
        data = json.loads(event.data)
        assert event.name == data["type"]
        found.append(data)
    assert [data["sequence_number"] for data in found] == list(range(len(found)))
    return found


def codex() -> dict[str, Any]:
    """The recorded request of Codex."""
    case = next(path for path in RECORDED if path.stem == "codex")
    request: dict[str, Any] = json.loads(case.read_text())["request"]
    return request


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_recorded_body_is_a_legal_call(relay: Relay, path: Path, stream: bool) -> None:
    case = json.loads(path.read_text())
    answer = post(relay, PATHS[case["dialect"]], {**case["request"], "stream": stream})
    assert answer.status_code == 200, answer.text
    named = [name for name in answer.headers.get("relayd-ignored", "").split(", ") if name]
    assert named == case["ignored"]
    kind = answer.headers["content-type"]
    assert kind == ("text/event-stream; charset=utf-8" if stream else "application/json")


def test_a_codex_turn_ends_with_response_completed(relay: Relay) -> None:
    found = events(post(relay, "/v1/responses", codex()))
    assert found[0]["type"] == "response.created"
    assert found[-1]["type"] == "response.completed"
    assert found[-1]["response"]["usage"]["total_tokens"] > 0


def test_codex_gets_its_tools_back_under_the_names_it_gave_them(relay: Relay) -> None:
    body = codex()
    body["input"] = [{"type": "message", "role": "user", "content": "exec_command and mcp__docs__search"}]
    found = events(post(relay, "/v1/responses", body))
    calls = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    calls = [item for item in calls if item["type"] == "function_call"]
    assert [(call["name"], call.get("namespace")) for call in calls] == [
        ("exec_command", None),
        ("search", "mcp__docs"),
    ]
    assert json.loads(calls[0]["arguments"]) == {"cmd": "example"}
    reasoning = [item for event in found for item in [event.get("item")] if item and item["type"] == "reasoning"]
    assert reasoning[-1]["encrypted_content"]
    body["input"] += [event["item"] for event in found if event["type"] == "response.output_item.done"]
    body["input"] += [
        {"type": "function_call_output", "call_id": call["call_id"], "output": f"did {call['name']}"} for call in calls
    ]
    last = events(post(relay, "/v1/responses", body))[-1]
    assert last["type"] == "response.completed"
    said = [item for item in last["response"]["output"] if item["type"] == "message"]
    assert said[0]["content"][0]["text"].startswith("The tool answered: did exec_command did search")


def test_a_broken_turn_never_completes_so_that_codex_reconnects(relay: Relay) -> None:
    kinds = [event["type"] for event in events(post(relay, "/v1/responses", codex(), "cut"))]
    assert kinds[-1] == "response.failed"
    assert "response.completed" not in kinds


def test_an_overloaded_upstream_is_an_http_error_that_codex_retries(relay: Relay) -> None:
    answer = post(relay, "/v1/responses", codex(), "status-529")
    assert answer.status_code == 529
    assert answer.json()["error"]["type"] == "overloaded_error"
