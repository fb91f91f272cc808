"""relayd key list: what keys have consumed, read from the state store."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
from cli_tree import RELAY, Tree, make_tree
from fleet import noon_zone

from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import day_of
from relayd.state.contract import Settle
from relayd.state.sqlite import SqliteStore


def now_ms() -> int:
    return round(time.time() * 1000)


def book(tree: Tree, *records: UsageRecord) -> SqliteStore:
    """A store that stays open, as that of a running daemon does."""
    store = SqliteStore(str(tree.root / "var/relayd.db"), clock=now_ms)
    for number, record in enumerate(records):
        store.apply([Settle(call=f"{record.key}{record.day}{number}", record=record)])
    return store


def record(key: str, **fields: object) -> UsageRecord:
    return UsageRecord(**{"day": day_of(now_ms(), noon_zone()), "key": key, "account": "a", "model": "m", **fields})  # type: ignore[arg-type]


def test_the_list_shows_what_each_key_consumed_since_the_first_of_the_month(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, f'{RELAY}\n[state]\ntimezone = "{noon_zone()}"\n')  # all of one day
    tree.run("key", "new", "dev")
    tree.run("key", "new", "idle")
    long_ago = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40)).strftime("%Y-%m-%d")
    store = book(
        tree,
        record("dev", input=1000, output=200, cost=12_345),
        record("dev", input=5, errors=1, model="other"),
        record("dev", input=7_000_000, day=long_ago),
        record("gone", input=9),
    )

    table = [line.split() for line in tree.run("key", "list").out.splitlines()]
    dev, idle = tree.run("key", "list", "--json").json["keys"]

    assert table[0][-3:] == ["REQUESTS", "TOKENS", "COST"]
    assert table[1][-3:] == ["2", "1205", "$0.012345"]
    assert table[2][-3:] == ["0", "0", "$0.00"]
    assert {name: dev["consumption"]["month"][name] for name in ("requests", "errors", "tokens", "cost")} == {
        "requests": 2, "errors": 1, "tokens": 1205, "cost": "0.012345"
    }  # fmt: skip
    assert dev["consumption"]["today"] == dev["consumption"]["month"]
    assert idle["consumption"]["month"]["requests"] == 0
    assert "2 requests, 1205 tokens, $0.012345" in tree.run("key", "show", "dev").out
    store.close()


def test_nothing_is_made_or_said_where_no_state_is_yet(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.run("key", "new", "dev")
    ran = tree.run("key", "list")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0].split()[-1] == "LIMITS"
    assert not (tree.root / "var").exists()


def test_a_store_that_cannot_be_read_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_tree(tmp_path)
    tree.run("key", "new", "dev")
    tree.write("var/relayd.db", "this is no database, and long enough to be seen as none" * 100)
    ran = tree.run("key", "list")
    assert ran.code == 0
    assert "note: without consumption: sqlite:" in ran.err
    assert "dev" in ran.out
    monkeypatch.setenv("RELAYD_STATE_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("RELAYD_STATE_PASSWORD", "state-password")
    ran = tree.run("key", "list", "--json")
    assert (ran.code, "consumption" in ran.json["keys"][0]) == (0, False)
    assert "without consumption" in ran.err
    assert "state-password" not in ran.all
