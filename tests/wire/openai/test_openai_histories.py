"""The histories of the corpus go on: what is answered comes back with the next question, round after round.

Whatever the model answers, the next request is one that the API takes (the simulator's own check), and what was
sent before is sent again as it was, so that the prompt cache holds.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_cases import CORPUS, message, parse, sent, whole

from relayd.simulator.request import parse_request

RECORDED = {path.stem: json.loads(path.read_text()) for path in sorted((CORPUS / "requests").glob("*.json"))}
HISTORIES = [name for name in RECORDED if name.startswith("history_") or name in ("codex", "parallel_results")]
ASKED = {"chat": "messages", "responses": "input"}
# An answer: perhaps thinking, perhaps words, then calls of a tool that the history may or may not know.
ANSWERS = st.builds(
    lambda thought, said, inputs: [
        *([{"type": "thinking", "thinking": thought, "signature": "c2ln"}] if thought else []),
        *([{"type": "text", "text": said}] if said else []),
        *({"type": "tool_use", "id": f"toolu_{n}", "name": "f", "input": given} for n, given in enumerate(inputs)),
    ],
    st.sampled_from(["", "Hm."]),
    st.sampled_from(["", "Yes.", "é 😀"]),
    st.lists(st.sampled_from([{}, {"a": None}, {"path": "a.py"}]), max_size=3),
).filter(lambda blocks: any(block["type"] != "thinking" for block in blocks))


def goes_on(dialect: str, request: dict[str, Any], answer: list[dict[str, Any]], results: bool) -> dict[str, Any]:
    """The next request of a client that keeps what it got; with `results` it also ran the tools."""
    got = whole(parse(dialect, request), message(*answer))
    said = [got["choices"][0]["message"]] if dialect == "chat" else got["output"]
    ids = [block["id"] for block in answer if block["type"] == "tool_use"] if results else []
    if dialect == "chat":
        told = [{"role": "tool", "tool_call_id": one, "content": "done"} for one in ids]
    else:
        told = [{"type": "function_call_output", "call_id": one, "output": "done"} for one in ids]
    question = [] if ids else [{"role": "user", "content": "Go on"}]
    return {**request, ASKED[dialect]: [*request[ASKED[dialect]], *said, *told, *question]}


@pytest.mark.parametrize("name", HISTORIES)
@settings(deadline=None, max_examples=25)
@given(rounds=st.lists(st.tuples(ANSWERS, st.booleans()), min_size=1, max_size=3))
def test_a_recorded_history_goes_on_with_whatever_was_answered(name: str, rounds: list[Any]) -> None:
    dialect, request = RECORDED[name]["dialect"], RECORDED[name]["request"]
    before = sent(parse(dialect, request))
    for answer, results in rounds:
        request = goes_on(dialect, request, answer, results)
        after = sent(parse(dialect, request))
        parse_request(after)
        assert after.get("system") == before.get("system")
        assert after["messages"][: len(before["messages"])] == before["messages"]
        before = after


def test_the_histories_are_there() -> None:
    assert len(HISTORIES) >= 9
    assert {RECORDED[name]["dialect"] for name in HISTORIES} == {"chat", "responses"}
