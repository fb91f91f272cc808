"""docs/reliability.md names tests that are there, and a line for each fault."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_test_and_script_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"\btests/[\w/.]+\b", PAGE))
    assert len(named) > 40
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_there_is_a_line_for_each_fault() -> None:
    assert re.findall(r"^\| (T\d+) \|", PAGE, re.MULTILINE) == [f"T{number}" for number in range(1, 35)]
