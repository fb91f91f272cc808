"""relayd alert, where no daemon runs: a target is tried by the command itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_tree import Tree
from daemon import write_tree
from receivers import Receiver, receiving

RELAY = '[alerts.ops]\nurl_file = "hook"\nallow_private = true\nseverity = "warning"\n'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def tree(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Tree:
    (tmp_path / "hook").write_text(receiver.url)
    monkeypatch.setenv("RELAYD_CREDENTIALS", str(tmp_path))
    return Tree(write_tree(tmp_path, relay=RELAY))


def test_a_test_arrives_or_says_why_not(tree: Tree, receiver: Receiver) -> None:
    arrived = tree.run("alert", "test", "ops")
    receiver.answers = [503]
    failed = tree.run("alert", "test", "ops", "--json")

    assert (arrived.code, arrived.out) == (0, "ops: delivered (by this command, for no daemon runs here)\n")
    assert receiver.told[0] == "once alert.test/ops"
    assert failed.code == 1
    assert json.loads(failed.out) == {"target": "ops", "delivered": False, "reason": "status 503", "by": "command"}


def test_a_target_that_is_not_in_the_tree_is_named_with_those_that_are(tree: Tree) -> None:
    found = tree.run("alert", "test", "opps")

    assert found.code == 1
    assert "opps" in found.err
    assert "ops" in found.err


def test_the_list_has_the_targets_also_where_there_is_no_state_yet(tree: Tree) -> None:
    shown, document = tree.run("alert", "list"), tree.run("alert", "list", "--json")

    assert shown.code == document.code == 0
    assert "there is no state yet" in shown.err
    assert "ops" in shown.out
    assert "nothing is wrong now" in shown.out
    (row,) = json.loads(document.out)["targets"]
    assert (row["target"], row["format"], row["severity"], row["failing_since"]) == ("ops", "json", "warning", None)
