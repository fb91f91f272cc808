"""relayd usage: limits of keys and what is used of them."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest
from booked_tree import make_booked, tell
from cli_tree import Tree

from relayd.config.load import load_tree
from relayd.core.quota.call_estimate import NOTHING
from relayd.core.quota.limits import key_terms
from relayd.core.quota.usage_record import UsageRecord
from relayd.state.contract import Admit, Granted, Settle


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """The key dev has made three calls."""
    tree = make_booked(tmp_path)
    snapshot = load_tree(tree.root).snapshot
    assert snapshot is not None
    now = round(time.time() * 1000)
    terms = key_terms(snapshot.keys["dev"], NOTHING, now, "UTC")
    record = UsageRecord(day=time.strftime("%Y-%m-%d", time.gmtime(now / 1000)), key="dev", account="sample", model="m")
    for number in range(3):
        call = f"req_{number}"
        admitted, _ = tell(tree, Admit(call=call, terms=terms, orphan=record), Settle(call=call, record=record))
        assert isinstance(admitted, Granted)
    return tree


def test_each_limit_is_shown_with_what_is_left(tree: Tree) -> None:
    ran = tree.run("usage", "dev", "--json")

    assert (ran.code, ran.err) == (0, "")
    (document,) = ran.json["keys"]
    rows = {row["limit_name"]: row for row in document["limits"]}
    assert (document["key"], document["owner"]) == ("dev", "crew")
    assert (rows["100 requests per 5h"]["used"], rows["100 requests per 5h"]["remaining"]) == (3, 97)
    assert rows["100 requests per 5h"]["resets_at"].endswith("Z")
    assert rows["total cost $50.00"] == {
        "limit_name": "total cost $50.00",
        "unit": "cost",
        "limit": "50.00",
        "used": "0.00",
        "remaining": "50.00",
        "resets_at": None,
    }
    assert {"requests", "errors", "tokens", "cost", "day", "pending"} <= set(ran.json)


def test_without_a_name_all_keys_are_shown(tree: Tree) -> None:
    ran = tree.run("usage")
    lines = [line.split() for line in ran.out.splitlines()]

    assert ["other", "-", "0", "0", "0", "0.0000"] in lines
    assert ["KEY", "LIMIT", "USED", "LEFT", "RESETS"] in lines
    assert any(line[:7] == ["dev", "100", "requests", "per", "5h", "3", "97"] for line in lines)
    assert [document["key"] for document in tree.run("usage", "--json").json["keys"]] == ["dev", "other"]


def test_looking_takes_nothing(tree: Tree) -> None:
    before = tree.run("usage", "dev", "--json").json["keys"][0]["limits"]
    for _ in range(3):
        tree.run("usage")

    after = tree.run("usage", "dev", "--json").json["keys"][0]["limits"]
    assert [row["used"] for row in after] == [row["used"] for row in before]


def test_looking_waits_for_nobody_who_writes(tree: Tree) -> None:
    """Nor does it need to write: where the disk has turned read-only, somebody wants to see the figures."""
    with contextlib.closing(sqlite3.connect(tree.root / "var" / "relayd.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ran = tree.run("usage", "dev")

    assert (ran.code, ran.err) == (0, "")


def test_an_unknown_key_is_told_what_there_is(tree: Tree) -> None:
    ran = tree.run("usage", "nobody")

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "relayd usage: there is no key nobody (known: dev, other)\n"


def test_without_a_state_it_fails_and_makes_none(tmp_path: Path) -> None:
    tree = make_booked(tmp_path)

    ran = tree.run("usage")

    assert ran.code == 1
    assert "there is no state yet" in ran.err
    assert not (tree.root / "var").exists()
