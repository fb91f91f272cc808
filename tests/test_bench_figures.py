"""The benchmark beside its peers: its arithmetic, its table, and that it will not measure on a busy machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "bench" / "side_by_side"))

from figures import (
    Level,
    Results,
    Row,
    added,
    best_rate,
    footnotes,
    number,
    per_unit,
    rewritten,
    shortened,
    slope,
    table,
    why_busy,
)

ROOT = Path(__file__).parents[1]
ROWS = (Row("json", "JSON"), Row("first50", "added", ratio=False), Row("rate1", "calls/s"))
TARGETS = {"relayd": "relayd 1", "nginx": "nginx 2", "peer": "Peer 3"}


def level(offered: float, p99: float, *, answered: float | None = None, failed: int = 0) -> Level:
    return Level(offered=offered, answered=offered if answered is None else answered, p99=p99, failed=failed)


def test_the_best_rate_is_the_highest_that_kept_its_time_lost_nothing_and_fell_behind_nowhere() -> None:
    levels = [
        level(100, 0.4),
        level(200, 0.9),
        level(300, 4.0),
        level(400, 9.0, failed=1),
        level(500, 9.0, answered=400),
    ]
    assert best_rate(levels, 1) == 200
    assert best_rate(levels, 5) == 300
    assert best_rate(levels, 50) == 300
    assert best_rate(levels, 0.1) is None
    assert best_rate([], 50) is None


def test_what_is_taken_for_each_call_and_what_a_way_adds() -> None:
    assert per_unit(0.5, 1000) == pytest.approx(500)
    assert per_unit(0.5, 0) is None
    assert added(21.5, 20.25) == 1.25
    assert added(20.0, 20.25) == 0  # less than nothing is noise


def test_a_busy_machine_is_refused_and_a_quiet_one_is_not() -> None:
    assert why_busy(0.02, 0.3, 2) == ""
    assert "35%" in why_busy(0.35, 0.3, 2, ["cc1 (7) 70%"])
    assert "cc1 (7) 70%" in why_busy(0.35, 0.3, 2, ["cc1 (7) 70%"])
    assert "load average is 1.40 on 2 cores" in why_busy(0.02, 1.4, 2)
    assert why_busy(0.02, 1.4, 8) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.456, "0.46"), (-12.34, "-12.3"), (9.994, "9.99"), (12.34, "12.3"), (523.4, "523"), (18021.2, "18,021")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_has_medians_multiples_of_the_floor_dashes_and_faults() -> None:
    results = Results()
    for value in (300, 310, 5000):  # the median is not moved by one bad round
        results.add("json", "relayd", value)
    results.add("json", "nginx", 31)
    results.add("json", "peer", None)
    results.add("first50", "relayd", 0.5)
    results.add("first50", "nginx", 0.1)
    results.faults["json", "peer"] = "500"
    assert table(results, TARGETS, ROWS).splitlines() == [
        "| | relayd 1 | nginx 2 | Peer 3 |",
        "|---|--:|--:|--:|",
        "| JSON | 310 (10.0x) | 31.0 | fails |",
        "| added | 0.50 | 0.10 | - |",
    ]  # nothing is known of calls/s, so that line is left out


def test_a_figure_without_a_floor_is_told_without_a_multiple() -> None:
    results = Results()
    results.add("json", "relayd", 310)
    assert "| JSON | 310 |" in table(results, {"relayd": "relayd 1"}, ROWS)


def test_footnotes_say_what_fails_and_who_is_missing() -> None:
    results = Results()
    results.faults["sse", "peer"] = results.faults["event", "peer"] = "1 of 1 calls: a status that is not 200"
    said = footnotes(results, TARGETS, {"other": "no npm on the PATH"})
    assert said.splitlines() == [
        "- Peer 3 fails (20-event stream, paced stream): 1 of 1 calls: a status that is not 200",
        "- not measured: other: no npm on the PATH",
    ]


def test_growth_is_the_slope_that_one_bad_sample_does_not_move() -> None:
    samples = [(hour / 10, 50 + 2 * hour / 10) for hour in range(20)]
    assert slope(samples) == pytest.approx(2)
    assert slope([*samples[:10], (1.0, 500.0), *samples[11:]]) == pytest.approx(2)
    assert slope(samples[:1]) is None


FULL = """\
| | relayd 2 | nginx 3 |
|---|--:|--:|
| JSON, CPU µs a call | 310 (10.0x) | 31.0 |
| memory idle, MB | 50.0 | 17.0 |"""


def test_a_page_takes_the_figures_of_the_rows_that_it_names_and_keeps_its_own_words_for_them() -> None:
    page = """\
before
<!-- figures: idle, json -->
| | relayd 1 | nginx 2 | a peer that is gone |
|---|--:|--:|--:|
| 메모리 | 1 | 2 | 3 |
| 호출 | 4 | 5 | 6 |
<!-- end -->
after
"""
    assert shortened(page, FULL).splitlines() == [
        "before",
        "<!-- figures: idle, json -->",
        "| | relayd 2 | nginx 3 |",
        "|---|--:|--:|",
        "| 메모리 | 50.0 | 17.0 |",
        "| 호출 | 310 (10.0x) | 31.0 |",
        "<!-- end -->",
        "after",
    ]
    with pytest.raises(ValueError, match="large: expected rows of the table: json, idle"):
        shortened(page.replace("idle", "large"), FULL)
    with pytest.raises(ValueError, match="expected a line <!-- figures"):
        shortened("no table", FULL)
    with pytest.raises(ValueError, match="expected a line <!-- figures -->"):
        rewritten("no table", "figures", FULL)


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_readme_shows_the_figures_of_the_page_on_performance(name: str) -> None:
    full = (ROOT / "docs" / "performance.md").read_text()
    lines = full.partition("<!-- figures")[2].partition("<!-- end")[0].splitlines()
    page = (ROOT / name).read_text()
    assert shortened(page, "\n".join(line for line in lines if line.startswith("|"))) == page
