"""The `openai` package of npm, and the AI SDK, on a Node.js that the test brings along, against a running relay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from openai_daemon import MODEL, OLDER, Lane, Relay, relaying
from openai_programs import HERE, javascript, run

LANES = {
    "plain": Lane(),
    "pausing": Lane('words = 4\nbetween = "60ms"'),
    "long": Lane("words = 3000"),
    "no-openai": Lane(key='endpoints = ["messages"]'),
    "status-400": Lane("status = 400"),
    "status-429": Lane("status = 429\nretry_after = 7"),
    "status-529": Lane("status = 529"),
    "unreachable": Lane("drop = true"),
    "cut": Lane("cut_after = 6"),
    "error": Lane("error_after = 6"),
}
SAMPLE = {"city": "example", "degrees": 1, "chances": [1]}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with relaying(tmp_path_factory.mktemp("javascript"), LANES, '[server]\nsse_keepalive = "20ms"\n') as running:
        yield running


@attrs.frozen
class Cases:
    """The scripts of js/, ready to run."""

    node: Path
    place: Path

    def report(
        self, relay: Relay, name: str, lane: str = "plain", model: str = MODEL, script: str = "cases.mjs"
    ) -> dict[str, Any]:
        """What the case `name` of a script reports of the relay."""
        told = {"RELAY_URL": relay.base_url, "RELAY_KEY": relay.key(lane), "RELAY_MODEL": model}
        report: dict[str, Any] = json.loads(run([str(self.node), str(self.place / script), name], told))
        return report


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    installed, place = javascript(), tmp_path_factory.mktemp("js")
    (place / "node_modules").symlink_to(installed.modules)
    for script in (HERE / "js").glob("*.mjs"):
        shutil.copy(script, place)
    return Cases(installed.node, place)


def test_a_chat_answer(cases: Cases, relay: Relay) -> None:
    got = cases.report(relay, "chat")
    assert got["text"].startswith("You said: hello relay")
    assert got["finish"] == "stop"
    assert got["usage"]["total_tokens"] == got["usage"]["prompt_tokens"] + got["usage"]["completion_tokens"]
    assert got["request_id"] == got["header"]


@pytest.mark.parametrize("lane", ["plain", "pausing"])
def test_a_stream_says_what_the_whole_answer_says(cases: Cases, relay: Relay, lane: str) -> None:
    got = cases.report(relay, "stream", lane)
    assert got["whole"] == got["without"] == got["withUsage"]
    assert set(got["choices"]) == {1}
    assert got["usage"] == got["wholeUsage"]


def test_parallel_calls_and_their_results(cases: Cases, relay: Relay) -> None:
    got = cases.report(relay, "tools")
    assert got["names"] == ["get_weather", "get_time"]
    assert [json.loads(text) for text in got["whole"]] == [{"city": "example"}] * 2
    assert [json.loads(text) for text in got["streamed"]] == [{"city": "example"}] * 2
    assert got["text"].startswith("The tool answered: result 0 result 1")


def test_the_sdk_runs_the_tools_itself(cases: Cases, relay: Relay) -> None:
    got = cases.report(relay, "run_tools")
    assert got["called"] == ["get_weather", "get_time"]
    assert got["text"].startswith("The tool answered: get_weather of example get_time of example")


@pytest.mark.parametrize("model", [MODEL, OLDER], ids=["native", "forced-tool"])
def test_structured_answers_pass_the_clients_own_schema(cases: Cases, relay: Relay, model: str) -> None:
    assert cases.report(relay, "parse", model=model) == {"chat": SAMPLE, "responses": SAMPLE}


def test_responses_plain_streamed_and_with_tools(cases: Cases, relay: Relay) -> None:
    got = cases.report(relay, "responses")
    assert got["whole"] == got["streamed"]
    assert got["last"] == "response.completed"
    assert got["calls"] == [["get_weather", {"city": "example"}], ["get_time", {"city": "example"}]]
    assert got["second"].startswith("The tool answered: get_weather get_time")


def test_the_ai_sdk_names_items_instead_of_sending_them(cases: Cases, relay: Relay) -> None:
    got = cases.report(relay, "", script="ai.mjs")
    assert got["text"].startswith("The tool answered: sunny")
    assert got["again"].startswith("You said: and now?")
    assert [call["status"] for call in got["calls"]] == [200, 200, 200]
    assert [call["items"].count("item_reference") for call in got["calls"]] == [0, 2, 4]


def test_models_are_listed_and_found(cases: Cases, relay: Relay) -> None:
    assert cases.report(relay, "models") == {"listed": True, "one": MODEL}


@pytest.mark.parametrize(
    ("lane", "name", "status", "type_", "code", "words"),
    [
        ("nobody", "AuthenticationError", 401, "authentication_error", "invalid_api_key", "Invalid API key"),
        ("no-openai", "PermissionDeniedError", 403, "permission_error", "endpoint_not_allowed", "endpoint openai"),
        ("status-400", "BadRequestError", 400, "invalid_request_error", None, "Simulated invalid_request_error"),
        ("status-429", "RateLimitError", 429, "rate_limit_error", "rate_limit_exceeded", "Simulated rate_limit"),
        ("status-529", "InternalServerError", 529, "overloaded_error", None, "Overloaded"),
        ("unreachable", "InternalServerError", 502, "server_error", "upstream_unreachable", "upstream"),
    ],
)
def test_each_error_is_thrown_as_the_sdks_own_class(
    cases: Cases, relay: Relay, lane: str, name: str, status: int, type_: str, code: str | None, words: str
) -> None:
    got = cases.report(relay, "error", lane)
    assert (got["name"], got["status"], got["type"], got["code"]) == (name, status, type_, code)
    assert words in got["message"]
    assert got["request_id"].startswith("req_")


@pytest.mark.parametrize(("lane", "words"), [("cut", "broke off"), ("error", "Overloaded")])
def test_a_stream_that_breaks_throws_after_what_had_arrived(cases: Cases, relay: Relay, lane: str, words: str) -> None:
    got = cases.report(relay, "broken_stream", lane)
    assert got["name"] == "APIError"
    assert words in got["message"]
    assert got["text"].startswith("You said:")
    assert got["finish"] == []


def test_a_long_stream_arrives_whole(cases: Cases, relay: Relay) -> None:
    assert len(cases.report(relay, "long_stream", "long")["text"].split()) == 3000
