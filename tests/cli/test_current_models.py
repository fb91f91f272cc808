"""Shipped examples name current models, so that what a newcomer pastes works for the life of a release.

RELEASED is the day up to which the models were looked at. It is a constant, so that no run fails because a day has
passed. To move it: read the API docs, "Model deprecations", bring RETIRES
up to date, set RELEASED to the day, and where a test then fails, name newer models in relayd/wire/current_models.py and
in the texts that the message lists.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.cli.examples import EXAMPLES
from relayd.simulator.catalog import MODELS
from relayd.wire.current_models import CURRENT, USUAL

ROOT = Path(__file__).parents[2]
RELEASED = datetime.date(2026, 11, 28)
NOTICE = datetime.timedelta(days=90)
# The day up to which a model is promised to be served: what is announced, else a year after it came. Source: API docs,
# "Model deprecations".
RETIRES = {
    "claude-sonnet-4-5": datetime.date(2026, 11, 30),
    "claude-sonnet-5-5": datetime.date(2027, 10, 6),
    "claude-haiku-5-5": datetime.date(2027, 10, 6),
    "claude-opus-5-5": datetime.date(2027, 9, 15),
}
TEXTS = sorted(
    path
    for pattern in (
        "README.md", "CONTRIBUTING.md", "docs/*.md", "relay.toml", "*.d/**/*.toml", "deploy/**/*", "relayd/cli/*.py",
        "relayd/cli/templates/*",
    )
    for path in ROOT.glob(pattern)
    if path.is_file()
)  # fmt: skip
# Ids with a date, or with a glob behind them, count by what stands before. Family names ("claude-3") are no models.
ID = re.compile(r"claude-(?:\d-\d-)?(?:opus|sonnet|haiku|fable|mythos)-\d+(?:-\d{1,2}(?!\d))?")
MOVE = "name a current model (relayd/wire/current_models.py); the head of this test says how"


def named() -> Iterator[tuple[str, str]]:
    """(where, model) of each model that a shipped text names."""
    for path in TEXTS:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            yield from ((f"{path.relative_to(ROOT)}:{number}", model) for model in ID.findall(line))
    for verb, lines in EXAMPLES.items():
        yield from ((f"help of {verb}", model) for model in ID.findall("\n".join(lines)))


def test_examples_name_current_models_only() -> None:
    found = list(named())
    assert len(found) > 20  # the texts are there and the pattern finds them
    assert [f"{where}: {model}" for where, model in found if model not in CURRENT] == [], MOVE


@pytest.mark.parametrize("model", CURRENT)
def test_a_current_model_is_served_for_90_days_after_the_release(model: str) -> None:
    assert RETIRES[model] - RELEASED > NOTICE, f"{model} ends on {RETIRES[model]}: {MOVE}"


def test_the_simulator_lists_a_usual_model_first_and_none_that_is_about_to_end() -> None:
    listed = [re.sub(r"-\d{8}$", "", model[0]) for model in MODELS]
    assert listed[0] == USUAL
    assert [model for model in listed if RETIRES.get(model, datetime.date.max) - RELEASED <= NOTICE] == []


def test_a_retired_model_in_a_text_would_be_found() -> None:
    assert ID.findall('{"model": "claude-sonnet-4-5-20250929"} claude-opus-5-5') == [
        "claude-sonnet-4-5",
        USUAL.replace("sonnet", "opus"),
    ]
