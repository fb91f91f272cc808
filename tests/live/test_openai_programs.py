"""Programs that people use: `llm` on the command line and LangChain's ChatOpenAI, set up as they document it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from openai_daemon import MODEL, Lane, Relay, relaying
from openai_programs import HERE, environment, run

SPOKEN = "You said: hello relay This answer comes from the relayd simulator."
TOOL = """
def get_weather(city: str) -> str:
    "Weather of a city"
    return "sunny in " + city
"""


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with relaying(tmp_path_factory.mktemp("programs"), {"plain": Lane(), "cut": Lane("cut_after = 6")}) as running:
        yield running


# --- llm


@attrs.frozen
class Llm:
    """The command `llm` with a home of its own, in which two models of the relay are set up."""

    python: Path
    home: Path

    def __call__(self, *arguments: str) -> str:
        """Run `llm ARGUMENTS`; what it printed."""
        env = {"LLM_USER_PATH": str(self.home), "HOME": str(self.home)}
        return run([str(self.python), "-m", "llm", *arguments], env)


@pytest.fixture(scope="module")
def llm(relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Llm:
    home = tmp_path_factory.mktemp("llm")
    models = [
        {"model_id": f"relay-{lane}", "model_name": MODEL, "api_base": relay.base_url, "api_key_name": lane}
        | {"supports_tools": True, "supports_schema": True}
        for lane in ("plain", "cut")
    ]
    (home / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
    (home / "keys.json").write_text(json.dumps({lane: relay.key(lane) for lane in ("plain", "cut")}))
    return Llm(environment("llm"), home)


def test_llm_prints_the_same_answer_streamed_and_whole(llm: Llm) -> None:
    streamed = llm("-m", "relay-plain", "hello relay")
    assert streamed.startswith(SPOKEN)
    assert llm("-m", "relay-plain", "--no-stream", "hello relay") == streamed


def test_llm_counts_the_tokens_of_a_streamed_answer(llm: Llm) -> None:
    llm("-m", "relay-plain", "-s", "Be brief.", "count these words")
    entry = json.loads(llm("logs", "-n", "1", "--json"))[0]
    assert entry["input_tokens"] > 4
    assert entry["output_tokens"] == 20


def test_llm_gets_json_for_its_schema(llm: Llm) -> None:
    answer = llm("-m", "relay-plain", "--schema", "city, degrees int", "hello relay")
    assert json.loads(answer) == {"city": "example", "degrees": 1}


def test_llm_runs_a_tool_and_tells_its_result(llm: Llm) -> None:
    answer = llm("-m", "relay-plain", "--functions", TOOL, "please get_weather")
    assert "The tool answered: sunny in example" in answer


def test_llm_continues_a_conversation(llm: Llm) -> None:
    llm("-m", "relay-plain", "first things first")
    assert llm("-c", "hello relay").startswith(SPOKEN)
    entry = json.loads(llm("logs", "-n", "1", "--json"))[0]
    assert entry["input_tokens"] > 20  # the first answer went along


def test_llm_ends_with_an_error_when_the_stream_breaks(llm: Llm) -> None:
    with pytest.raises(AssertionError, match="broke off"):
        llm("-m", "relay-cut", "hello relay")


# --- LangChain


@pytest.fixture(scope="module")
def langchain(relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What programs/langchain_session.py reports: one run, since the import alone takes seconds."""
    told = {"RELAY_URL": relay.base_url, "RELAY_KEY": relay.key("plain"), "RELAY_MODEL": MODEL}
    told |= {"HOME": str(tmp_path_factory.mktemp("langchain")), "LANGSMITH_TRACING": "false"}
    session = HERE / "programs" / "langchain_session.py"
    report: dict[str, Any] = json.loads(run([str(environment("langchain")), str(session)], told))
    return report


def test_langchain_hears_the_same_whole_and_streamed(langchain: dict[str, Any]) -> None:
    assert langchain["whole"]["text"].startswith(SPOKEN)
    assert langchain["whole"]["finish"] == "stop"
    assert langchain["streamed"]["text"] == langchain["whole"]["text"]
    assert langchain["streamed"]["usage"] == langchain["whole"]["usage"]
    assert langchain["whole"]["usage"]["output_tokens"] == 20


def test_langchain_calls_two_tools_and_brings_their_results(langchain: dict[str, Any]) -> None:
    city = {"city": "example"}
    assert langchain["tools"]["calls"] == [["get_weather", city], ["get_time", city]]
    assert langchain["tools"]["text"].startswith("The tool answered: sunny in example noon in example")


def test_langchain_gets_structured_output_in_both_of_its_ways(langchain: dict[str, Any]) -> None:
    wanted = {"city": "example", "degrees": 1}
    assert langchain["structured"] == {"json_schema": wanted, "function_calling": wanted}


def test_langchain_speaks_responses_and_asks_several_at_once(langchain: dict[str, Any]) -> None:
    assert langchain["responses"]["text"].startswith(SPOKEN)
    assert langchain["at_once"] == [f"number-{at}" for at in range(4)]


def test_langchain_raises_its_authentication_error(langchain: dict[str, Any]) -> None:
    assert langchain["refused"].endswith("AuthenticationError")
