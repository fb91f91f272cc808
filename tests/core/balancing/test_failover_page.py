"""docs/failover.md has the tables of the code."""

from __future__ import annotations

import re
from pathlib import Path

from relayd.core.balancing.account_failures import ACCOUNT_FAILURES
from relayd.core.balancing.blame import TABLE

PAGE = (Path(__file__).parents[3] / "docs/failover.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading that has such rows."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]


def test_every_row_of_blame_is_on_the_page_with_its_scope_rest_and_doubt() -> None:
    page = {row[0].strip("`"): row for row in rows("Who is to blame") if row[0].startswith("`")}

    assert list(page) == list(TABLE)
    for name, rule in TABLE.items():
        _, _, blame, rest, doubt = page[name]
        assert blame.startswith(rule.scope) or name == "rate_limit"
        assert ("strike" in blame) == rule.strike
        assert doubt.partition(",")[0] == rule.doubt
        if rest.startswith("`"):
            assert rest == f"`cooldown.{rule.default}`"


def test_every_known_text_is_on_the_page_with_its_source() -> None:
    page = rows("Texts that look like the client's fault")[2:]

    assert len(page) == len(ACCOUNT_FAILURES)
    for (text, statuses, row, source), known in zip(page, ACCOUNT_FAILURES, strict=True):
        assert known.pattern.match(text)
        assert {int(one) for one in re.findall(r"\d+", statuses)} == known.statuses
        assert (row.strip("`"), source) == (known.row, known.source)
