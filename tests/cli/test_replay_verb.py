"""`relayd test --replay`, `--days` and `check --base --replay`: what a change would have done to past calls."""

from __future__ import annotations

import datetime
import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from booked_tree import book, make_booked
from cli_tree import Ran, Tree

from relayd.core.receipt import Receipt
from relayd.daemon.access_log import call_line
from relayd.wire.usage import Usage

START = 1_793_000_000.0  # 2026-10-26
DISABLED = "enabled = false\n"


def line(at: int, *, started: float | None = None, **fields: Any) -> bytes:
    """The line of a call of 0.001 USD, written as the daemon writes it."""
    dull = {
        "call_id": f"req_{at}", "started": START + at if started is None else started, "method": "POST",
        "path": "/v1/messages", "dialect": "anthropic", "client": "", "peer": "", "key": "dev", "account": "sample",
        "model": "claude-haiku-4-5", "status": 200, "usage": Usage(input=1000), "cost": 1000, "seconds": 1.0,
    }  # fmt: skip
    return msgspec.json.encode(call_line(Receipt(**{**dull, **fields}))) + b"\n"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_booked(tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = tmp_path / "relayd.log"
    event = b'{"time":"2026-10-26T05:00:00Z","level":"info","event":"reload.applied"}\n'
    log.write_bytes(event + b"".join(line(at) for at in (2, 0, 1)) + line(5, key="other", client="claude_code"))
    return log


def disable(tree: Tree, file: str) -> None:
    tree.write(file, DISABLED + tree.read(file))


def replayed(tree: Tree, *words: str) -> Ran:
    return tree.run("test", *words)


def test_a_tree_that_changes_nothing_ends_every_call_as_before(tree: Tree, log: Path) -> None:
    ran = replayed(tree, "--replay", str(log))

    assert ran.code == 0
    assert ran.out == "replayed 4 calls of 2026-10-26: all would end as before\n"


def test_refused_and_moved_calls_are_told_with_their_reasons(tree: Tree, log: Path) -> None:
    disable(tree, "accounts.d/sample.toml")
    tree.write("keys.d/other.toml", tree.read("keys.d/other.toml") + 'models = ["claude-opus-*"]\n')
    ran = replayed(tree, "--replay", str(log))

    assert ran.code == 1
    assert ran.out.splitlines() == [
        "replayed 4 calls of 2026-10-26: 1 refused, 3 moved, 0 cost otherwise",
        "  other, claude-haiku-4-5: 1 of 1 call refused",
        "    1: model claude-haiku-4-5 is not allowed for this key",
        "  dev, claude-haiku-4-5: 3 moved",
        "    3: sample -> spare",
    ]


def test_calls_are_played_in_the_order_in_which_they_began(tree: Tree, log: Path) -> None:
    """The first line of the log is of the last of three calls: with room for two it is the one that is refused."""
    tree.write("keys.d/dev.toml", tree.read("keys.d/dev.toml").replace("requests = 100", "requests = 2"))
    tree.write("keys.d/other.toml", tree.read("keys.d/other.toml") + DISABLED)
    log.write_bytes(line(2, model="claude-sonnet-4-5") + line(0) + line(1))
    rows = replayed(tree, "--replay", str(log), "--json").json["rows"]

    assert [(row["model"], row["refused"]) for row in rows] == [("claude-sonnet-4-5", 1), ("claude-haiku-4-5", 0)]
    assert rows[0]["reasons"] == {"limit: 2 requests per 5h": 1}


def test_rotated_and_compressed_logs_are_played_together(tree: Tree, tmp_path: Path, log: Path) -> None:
    older = tmp_path / "relayd.log.1.gz"
    older.write_bytes(gzip.compress(line(-86400) + b'{"time":"2026-10-25T05:00:00Z","event":"call.done","ke'))
    found = replayed(tree, "--replay", str(log), "--replay", str(older), "--json")

    assert found.code == 0
    assert (found.json["calls"], found.json["first"][:10], found.json["last"][:10]) == (5, "2026-10-25", "2026-10-26")
    assert found.json["notes"] == ["1 line of calls could not be read, and are left out"]


@pytest.mark.parametrize("content", [b"", b"\n", b"2026-10-26T05:00:00Z INFO call.done key=dev\n", b"\xff\x00\xfe\n"])
def test_what_is_no_such_log_is_said(tree: Tree, log: Path, content: bytes) -> None:
    log.write_bytes(content)
    ran = replayed(tree, "--replay", str(log))

    assert ran.code == 1
    assert f"{log}: no line of a call (the log is needed as JSON: log.format, log.access)" in ran.err
    assert replayed(tree, "--replay", str(log.with_name("nowhere"))).err.endswith(
        "nowhere: no such file or directory\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--replay", "x", "--days", "3"), "--replay and --days: give one or the other"),
        (("--base", "HEAD"), "--base: needs --replay FILE or --days N"),
        (("--replay", "x", "--format", "sarif"), "--format sarif: past calls are told as text, json or markdown"),
    ],
)
def test_usage(tree: Tree, words: tuple[str, ...], said: str) -> None:
    ran = replayed(tree, *words)
    assert ran.code == 2
    assert said in ran.err


def test_the_books_are_played_when_there_is_no_log(tree: Tree) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    for _ in range(3):
        book(tree, day=today, account="sample", input=1000, cost=1000)
    limited = tree.read("keys.d/dev.toml").replace("[limits]\n", '[limits]\ndaily_cost = "0.002"\n')
    tree.write("keys.d/dev.toml", limited)
    ran = replayed(tree, "--days", "2", "--json")

    assert ran.code == 1
    assert (ran.json["calls"], ran.json["refused"]) == (3, 1)
    assert "the books have sums of days only" in ran.json["notes"][0]
    assert "expected 1 to 400" in replayed(tree, "--days", "0").err


# --- against another tree


def git(tree: Tree, *words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", "-C", str(tree.root), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def committed(tree: Tree) -> Tree:
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "one")
    return tree


def test_a_base_leaves_only_what_the_change_does(committed: Tree, log: Path, tmp_path: Path) -> None:
    committed.write("prices.toml", _PRICES)
    log.write_bytes(log.read_bytes() + line(9, key="gone"))
    for base in ("HEAD", str(_copy_of_head(committed, tmp_path))):
        ran = replayed(committed, "--replay", str(log), "--base", base, "--json")
        assert ran.code == 0
        assert (ran.json["refused"], ran.json["repriced"]) == (0, 4)
        assert (ran.json["cost_before"], ran.json["cost_after"]) == ("0.004", "0.008")
    assert replayed(committed, "--replay", str(log)).code == 1  # `gone` was served, and is not in the tree
    assert (
        "neither a directory with a relay.toml nor a commit"
        in replayed(committed, "--replay", str(log), "--base", "nothing").err
    )


_PRICES = '[models."claude-haiku-4-5"]\n' + "".join(
    f'{name} = "2"\n' for name in ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
)


def _copy_of_head(tree: Tree, tmp_path: Path) -> Path:
    copy = tmp_path / "before"
    git(tree, "worktree", "add", "--quiet", str(copy), "HEAD")
    return copy


def test_check_tells_what_the_change_would_have_done(committed: Tree, log: Path) -> None:
    disable(committed, "keys.d/other.toml")
    text = committed.run("check", "--base", "HEAD", "--replay", str(log)).out
    assert "keys.d/other.toml" in text or "key other" in text
    assert "replayed 4 calls of 2026-10-26 (against " in text
    assert "1: key: it is disabled" in text

    found = committed.run("check", "--base", "HEAD", "--replay", str(log), "--json").json["plan"]["replay"]
    assert (found["refused"], found["rows"][0]["key"]) == (1, "other")

    markdown = committed.run("check", "--base", "HEAD", "--replay", str(log), "--format", "markdown").out
    assert "| other | claude-haiku-4-5 | 1 | 1 | 0 |  | 1: key: it is disabled |" in markdown
    assert "```diff\n" in markdown


def test_check_needs_a_base_to_replay(tree: Tree, log: Path) -> None:
    ran = tree.run("check", "--replay", str(log))
    assert (ran.code, "--replay: needs --base" in ran.err) == (2, True)


def test_markdown_is_a_table_and_json_is_whole(tree: Tree, log: Path) -> None:
    disable(tree, "accounts.d/sample.toml")
    out = replayed(tree, "--replay", str(log), "--format", "markdown").out

    assert "| dev | claude-haiku-4-5 | 3 | 0 | 3 |  | 3: sample -> spare |" in out
    found = json.loads(replayed(tree, "--replay", str(log), "--json").out)
    assert set(found) == {
        "version", "base", "calls", "judged", "first", "last", "refused", "served", "moved", "repriced", "cost_before",
        "cost_after", "rows", "notes",
    }  # fmt: skip
