"""What programs made for the real API need of the simulator: threads refused so that runners go on, thinking, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from simulated import ask, call, client, value_of

from relayd.simulator.faults import FIELDS
from relayd.wire.openai.request import JSON_ONLY

BUDGET = {"type": "enabled", "budget_tokens": 9000}
BETA = "interleaved-thinking-2025-05-14"


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}, {}, "x"])
def test_a_thread_is_refused_with_the_code_that_makes_the_sdks_go_on_without_it(thread: Any) -> None:
    script = call(ask(thread=thread))
    assert script.status == 400
    assert value_of(script)["error"]["details"] == {"error_code": "thread_unsupported_request"}


def test_no_thread_is_no_thread() -> None:
    assert call({**ask(), "thread": None}).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_sdks_tool_runner_reaches_its_end(stream: bool) -> None:
    asked: list[str] = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return f"sunny in {city}"

    runner = client().beta.messages.tool_runner(**ask("please get_weather"), tools=[get_weather], stream=stream)
    last = [turn.get_final_message() if stream else turn for turn in runner][-1]  # type: ignore[attr-defined]
    assert asked == ["example"]
    assert last.content[0].text.startswith("The tool answered: sunny in example")


@pytest.mark.parametrize("betas", [BETA, f"other-2026-01-01,{BETA}"])
def test_an_interleaved_budget_may_exceed_max_tokens(betas: str) -> None:
    script = call(ask(thinking=BUDGET), anthropic_beta=betas)
    assert [block["type"] for block in value_of(script)["content"]] == ["thinking", "text"]


@pytest.mark.parametrize("headers", [{}, {"anthropic_beta": "other-2026-01-01"}])
def test_any_other_budget_may_not(headers: dict[str, str]) -> None:
    assert "`max_tokens` must be greater" in value_of(call(ask(thinking=BUDGET), **headers))["error"]["message"]


@pytest.mark.parametrize(
    "system", [JSON_ONLY, [{"type": "text", "text": "Be brief."}, {"type": "text", "text": JSON_ONLY}]]
)
def test_a_prompt_that_asks_for_json_gets_json(system: Any) -> None:
    (block,) = value_of(call(ask(system=system)))["content"]
    assert isinstance(json.loads(block["text"]), dict)


def test_the_page_of_the_simulator_names_each_header_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    told = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `x-simulate-")}
    assert told == {"x-simulate-" + name.replace("_", "-") for name in FIELDS if name != "every"}
