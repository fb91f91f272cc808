"""relayd report: what is added up, in which form, and what is said when it cannot be."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from booked_tree import book, make_booked
from cli_tree import Tree

from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.store.journal import Journal
from relayd.state.contract import Settle


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = make_booked(tmp_path)
    book(tree, input=100, output=20, cost=1_500_000)
    book(tree, key="other", account="spare", input=5, errors=1, cost=250_000)
    book(tree, day="2026-11-23", model="claude-opus-5-5", output=7, cost=1)
    return tree


def test_json_has_the_totals_at_the_top_level(tree: Tree) -> None:
    ran = tree.run("report", "--day", "2026-11-22", "--json")

    assert (ran.code, ran.err) == (0, "")
    assert {name: ran.json[name] for name in ("requests", "errors", "tokens", "cost")} == {
        "requests": 2,
        "errors": 1,
        "tokens": 125,
        "cost": "1.75",
    }
    assert (ran.json["unique_keys"], ran.json["error_rate"], ran.json["pending"]) == (2, 0.5, 0)
    assert [row["key"] for row in ran.json["rows"]] == ["dev", "other"]
    assert [row["model"] for row in ran.json["top_models"]] == ["claude-haiku-4-5"]


def test_a_reader_that_has_seen_enough_is_no_error(tree: Tree) -> None:
    command = [sys.executable, "-u", "-m", "relayd", "report", "--config", str(tree.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()  # as `| head` does, before the first line
        assert child.stderr.read() == b""
    assert child.returncode == 0


def test_days_and_dimensions_can_be_chosen(tree: Tree) -> None:
    ran = tree.run("report", "--from", "2026-11-22", "--to", "2026-11-23", "--by", "model,day", "--json")

    rows = [(row["day"], row["model"], row["requests"]) for row in ran.json["rows"]]
    assert rows == [("2026-11-22", "claude-haiku-4-5", 2), ("2026-11-23", "claude-opus-5-5", 1)]
    assert ran.json["cost"] == "1.750001"


def test_the_table_is_for_people(tree: Tree) -> None:
    lines = tree.run("report", "--day", "2026-11-22").out.splitlines()

    assert lines[0] == "2026-11-22"
    assert " ".join(lines[1].split()) == "KEY REQUESTS ERRORS TOKENS INPUT OUTPUT CACHE READ COST USD"
    assert lines[2].split() == ["dev", "1", "0", "120", "100", "20", "0", "1.5000"]
    assert "total: 125 tokens, $1.7500, 2 keys, 50.00% of 2 requests failed" in lines
    assert lines[-1].split()[0] == "claude-haiku-4-5"


def test_a_model_without_a_price_is_mentioned(tree: Tree) -> None:
    book(tree, model="mystery", unpriced=1, input=3)

    ran = tree.run("report", "--day", "2026-11-22")
    assert "1 call used a model without a price (mystery), so their cost is missing here" in ran.out
    assert tree.run("report", "--day", "2026-11-22", "--json").json["unpriced_models"] == ["mystery"]


def test_figures_stand_under_one_another_and_large_ones_can_be_read(tree: Tree) -> None:
    book(tree, key="many", input=1_234_567_890, cost=98_765_432_100)
    book(tree, key="few", input=1, cost=12)
    lines = tree.run("report", "--day", "2026-11-22").out.splitlines()[1:6]

    assert lines[1].split() == ["many", "1", "0", "1,234,567,890", "1,234,567,890", "0", "0", "98,765.4321"]
    assert lines[4].endswith("  <0.0001")
    assert len({len(line) for line in lines}) == 1  # right-aligned to the last column


def test_names_beyond_ascii_keep_the_columns_straight_and_control_characters_stay_out(tree: Tree) -> None:
    book(tree, day="2026-12-01", model="模型")
    book(tree, day="2026-12-01", model="a\x1b[2J")
    out = tree.run("report", "--day", "2026-12-01", "--by", "model").out

    assert [line for line in out.splitlines() if line.startswith("模型  ")]
    assert "a?[2J  " in out


def test_csv_is_quoted_as_rfc_4180_says_and_has_its_columns_also_without_rows(tree: Tree) -> None:
    strange = 'a,"b";é'
    book(tree, day="2026-12-01", model=strange)
    out = tree.run("report", "--day", "2026-12-01", "--by", "model,key", "--csv").out
    empty = tree.run("report", "--day", "2025-01-01", "--by", "model,key", "--csv").out

    assert 'dev,"a,""b"";é",1,' in out
    assert [row["model"] for row in csv.DictReader(io.StringIO(out))] == [strange]
    assert empty == out.splitlines()[0] + "\r\n"


def test_csv_has_a_row_for_each_group_and_every_figure(tree: Tree) -> None:
    rows = list(csv.DictReader(io.StringIO(tree.run("report", "--day", "2026-11-22", "--by", "account", "--csv").out)))

    assert [(row["account"], row["requests"], row["cost"]) for row in rows] == [
        ("sample", "1", "1.50"),
        ("spare", "1", "0.25"),
    ]
    assert {"cache_write_5m", "cache_write_1h", "web_searches", "unpriced"} <= set(rows[0])


def test_a_day_without_calls_is_no_failure(tree: Tree) -> None:
    ran = tree.run("report", "--day", "2025-01-01")
    empty = tree.run("report", "--day", "2025-01-01", "--csv")

    assert (ran.code, ran.out) == (0, "2025-01-01\nnothing was recorded\n")
    assert empty.out.startswith("key,requests,")


def test_settlements_in_the_journal_are_noted(tree: Tree) -> None:
    journal = Journal(tree.root / "var/journal")
    record = UsageRecord(day="2026-11-22", key="dev", account="sample", model="m")
    assert journal.append([Settle(call="req_late", record=record), Settle(call="req_later", record=record)])

    ran = tree.run("report", "--day", "2026-11-22", "--json")
    journal.close()

    assert ran.json["pending"] == 2
    assert "2 settlements wait in the journal" in ran.err


def test_a_report_changes_nothing(tree: Tree) -> None:
    before = tree.run("report", "--from", "2026-11-01", "--to", "2026-11-30", "--by", "key,account,model,day", "--json")
    for _ in range(3):
        tree.run("report", "--day", "2026-11-22")
    after = tree.run("report", "--from", "2026-11-01", "--to", "2026-11-30", "--by", "key,account,model,day", "--json")

    assert before.out == after.out


def test_without_a_state_the_place_and_the_way_out_are_said(tmp_path: Path) -> None:
    tree = make_booked(tmp_path)

    ran = tree.run("report")

    assert ran.code == 1
    assert ran.err.startswith(f"relayd report: {tree.root / 'var/relayd.db'}: there is no state yet")
    assert "--state" in ran.err
    assert not (tree.root / "var").exists()  # nothing is made by asking


def test_another_state_can_be_named(tree: Tree, tmp_path: Path) -> None:
    (tree.root / "var").rename(tmp_path / "elsewhere")

    ran = tree.run("report", "--day", "2026-11-22", "--json", "--state", f"sqlite:{tmp_path / 'elsewhere/relayd.db'}")

    assert ran.json["requests"] == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--state", "mysql:x"), "mysql"),
        (("--from", "2026-11-23", "--to", "2026-11-22"), "the first day, 2026-11-23, is after the last, 2026-11-22"),
    ],
)
def test_what_cannot_be_done_is_said(tree: Tree, words: tuple[str, ...], text: str) -> None:
    ran = tree.run("report", *words)

    assert (ran.code, ran.out) == (1, "")
    assert text in ran.err


def test_a_file_that_is_no_state_is_named(tree: Tree) -> None:
    tree.write("var/other.db", "this is no database" * 100)

    ran = tree.run("report", "--state", "sqlite:var/other.db")

    assert ran.code == 1
    assert "var/other.db" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ("--day", "2026-13-01"),
        ("--day", "tomorrow"),
        ("--by", "colour"),
        ("--json", "--csv"),
        ("--day", "today", "--from", "yesterday"),
    ],
)
def test_a_wrong_command_line_exits_with_2(tree: Tree, words: tuple[str, ...]) -> None:
    assert tree.run("report", *words).code == 2


def test_more_days_than_are_kept_are_cut_and_it_is_said(tree: Tree) -> None:
    ran = tree.run("report", "--from", "2020-01-01", "--to", "2026-11-23", "--json")

    assert "400 days are kept" in ran.err
    assert ran.json["requests"] == 3


def test_a_broken_tree_is_told_with_its_errors(tree: Tree) -> None:
    tree.write("relay.toml", "schema = 1\n")

    ran = tree.run("report")

    assert ran.code == 1
    assert "realm" in ran.err


def test_a_page_is_one_file_that_needs_nothing_else(tree: Tree, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    ran = tree.run("report", "--from", "2026-11-22", "--to", "2026-11-23", "--by", "model,key", "--html", str(file))
    assert (ran.code, ran.out, ran.err) == (0, "", f"wrote {file}\n")
    text = file.read_text()
    assert "<td" in text
    assert "claude-opus-5-5" in text
    assert "$1.75" in text
    assert '<svg class="chart"' in text
    assert "<style>\n:root" in text
    assert not re.search(r"<script|<link|<form|<nav|\b(src|href|action)=|url\(", text)
    missing = tree.run("report", "--html", str(tmp_path / "none" / "report.html"))
    assert missing.code == 1
    assert "cannot be written" in missing.err
