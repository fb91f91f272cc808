"""relayd explain: which account would serve, and why each other would not."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from booked_tree import make_booked, tell
from cli_tree import Tree

from relayd.config.load import load_tree
from relayd.config.snapshot import Cooldown
from relayd.core.balancing.failover import judge
from relayd.core.balancing.outcomes import Answered
from relayd.core.balancing.pool import Pool
from relayd.core.quota.call_estimate import NOTHING
from relayd.core.quota.limits import key_terms
from relayd.core.quota.reservation import account_terms
from relayd.core.quota.usage_record import UsageRecord
from relayd.state.contract import Acquire, Admit, Publish

CODE = "claude-cli/2.1.330 (external, cli)"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = make_booked(tmp_path)
    tell(tree)
    return tree


REFUSED = Answered(status=401, error_type="authentication_error", message="invalid x-api-key")


def denied(tree: Tree, account: str) -> None:
    """A daemon notes that an account's credential was refused."""
    snapshot = load_tree(tree.root).snapshot
    assert snapshot is not None
    pool, now = Pool(), time.time()
    pool.adopt(snapshot, now)
    lease = pool.begin(account, "", now)
    pool.observe(lease, judge(REFUSED, cooldown=Cooldown(), now=now), None, now, random.Random(1))
    tell(tree, Publish(topic="health", name=account, body=json.dumps(pool.snapshot_health(account))))


def accounts(document: dict[str, object]) -> dict[str, bool]:
    rows = document["accounts"]
    assert isinstance(rows, list)
    return {row["id"]: row["serves"] for row in rows}


def test_the_accounts_that_would_serve_are_named(tree: Tree) -> None:
    ran = tree.run("explain", "--key", "dev", "--model", "claude-haiku-4-5", "--json")

    assert (ran.code, ran.err) == (0, "")
    assert ran.json["served"] is True
    assert accounts(ran.json) == {"sample": True, "spare": True}
    assert ran.json["health"] == "as of the state store"
    assert "100 requests per 5h" in ran.json["limits"]


def test_an_account_that_cannot_serve_says_why(tree: Tree) -> None:
    denied(tree, "sample")

    ran = tree.run("explain", "--key", "dev", "--model", "claude-opus-5-5")

    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[0].startswith("dev asks for claude-opus-5-5, at ")
    assert lines[1].startswith("  - sample: cooling down until ")
    assert lines[1].endswith("invalid x-api-key (401)")
    assert lines[2] == "  - spare: does not serve claude-opus-5-5"


def test_a_limit_that_is_used_up_says_so(tree: Tree) -> None:
    snapshot = load_tree(tree.root).snapshot
    assert snapshot is not None
    now = round(time.time() * 1000)
    terms = key_terms(snapshot.keys["dev"], NOTHING, now, "UTC")
    record = UsageRecord(day="2026-11-22", key="dev", account="sample", model="m")
    tell(tree, *(Admit(call=f"req_{n}", terms=terms, orphan=record) for n in range(99)))
    almost = tree.run("explain", "--key", "dev", "--model", "claude-haiku-4-5")
    tell(tree, Admit(call="req_last", terms=terms, orphan=record))
    over = tree.run("explain", "--key", "dev", "--model", "claude-haiku-4-5", "--json")

    assert almost.code == 0
    assert "  + 100 requests per 5h: 1 left, resets " in almost.out
    assert (over.code, over.json["served"], over.json["full"]) == (1, False, ["100 requests per 5h"])
    assert accounts(over.json) == {"sample": True, "spare": True}


def test_an_account_that_all_nodes_together_have_filled_says_so(tree: Tree) -> None:
    tree.write("accounts.d/spare.toml", tree.read("accounts.d/spare.toml") + "max_concurrency = 1\n")
    tree.write("accounts.d/sample.toml", tree.read("accounts.d/sample.toml") + "pace = { requests_per_minute = 1 }\n")
    snapshot = load_tree(tree.root).snapshot
    assert snapshot is not None
    for one in snapshot.accounts.values():
        tell(tree, Acquire(holder="elsewhere", terms=account_terms(one)))

    ran = tree.run("explain", "--key", "dev", "--model", "claude-haiku-4-5")

    assert ran.code == 1
    assert "  - sample: 1 calls started in a minute on all nodes" in ran.out
    assert "  - spare: 1 calls in flight on all nodes" in ran.out


def test_another_account_steps_in(tree: Tree) -> None:
    denied(tree, "sample")

    ran = tree.run("explain", "--key", "dev", "--model", "claude-haiku-4-5", "--json")

    assert ran.code == 0
    assert accounts(ran.json) == {"spare": True, "sample": False}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--key", "dev", "--model", "gpt-5"), "403 model gpt-5 is not allowed"),
        (("--key", "other", "--model", "claude-opus-5-5", "--client", "curl/8"), "403 this key may only be used by"),
        (("--key", "dev", "--endpoint", "files"), "403 endpoint files is not allowed"),
    ],
)
def test_what_the_key_may_not_is_refused_as_the_client_would_be(tree: Tree, words: tuple[str, ...], text: str) -> None:
    ran = tree.run("explain", *words)

    assert ran.code == 1
    assert f"refused: {text}" in ran.out


def test_the_client_counts(tree: Tree) -> None:
    assert tree.run("explain", "--key", "other", "--model", "claude-opus-5-5", "--client", CODE).code == 0


def test_a_revoked_key_is_not_served_though_accounts_are_free(tree: Tree) -> None:
    tree.write("deny.toml", 'keys = ["dev"]\n')

    ran = tree.run("explain", "--key", "dev", "--model", "claude-haiku-4-5", "--json")

    assert ran.code == 1
    assert ran.json["refusal"]["status"] == 401
    assert ran.json["served"] is False


def test_aliases_are_told(tree: Tree) -> None:
    tree.write("relay.toml", tree.read("relay.toml") + '\n[models]\nbest = "claude-opus-5-5"\n')

    ran = tree.run("explain", "--key", "dev", "--model", "best")

    assert "dev asks for best (sent as claude-opus-5-5)" in ran.out


def test_without_a_state_the_config_is_explained_and_it_is_said(tmp_path: Path) -> None:
    tree = make_booked(tmp_path)

    ran = tree.run("explain", "--key", "dev", "--model", "claude-haiku-4-5")

    assert ran.code == 0
    assert "the accounts' health is not known" in ran.err
    assert not (tree.root / "var").exists()


def test_an_unknown_key_or_a_missing_model_is_said(tree: Tree) -> None:
    unknown = tree.run("explain", "--key", "nobody", "--model", "m")
    missing = tree.run("explain", "--key", "dev")

    assert (unknown.code, missing.code) == (1, 1)
    assert "there is no key nobody (known: dev, other)" in unknown.err
    assert "--model is needed" in missing.err


def test_the_key_is_required() -> None:
    from relayd.cli import main

    with pytest.raises(SystemExit, match="2"):
        main(["explain", "--model", "m"])


def test_wake_ends_a_rest_on_every_node_also_where_no_daemon_runs(tree: Tree) -> None:
    denied(tree, "sample")

    woken = tree.run("account", "wake", "sample", "--json")
    again = tree.run("account", "wake", "sample")
    ran = tree.run("explain", "--key", "dev", "--model", "claude-haiku-4-5", "--json")

    assert (woken.code, woken.json["rested"], woken.json["by"]) == (0, "invalid x-api-key (401)", "store")
    assert again.out == "sample: awake on every node (it did not rest)\n"
    assert accounts(ran.json) == {"sample": True, "spare": True}


def test_wake_of_nobody_says_so(tree: Tree) -> None:
    assert tree.run("account", "wake", "nobody").code == 1
