"""What is wrong with a node: the one list from which status, its exit code, /readyz and the metrics are made."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from relayd.core.ailments import (
    AccountFacts,
    Ailment,
    RunningFacts,
    ServiceFacts,
    StoreFacts,
    ailments,
    service_ailments,
    unready,
)
from relayd.core.balancing.explain import Block

NOW = 1_800_000_000.0
DOWN = StoreFacts(up=False, reached=True, reason="redis: connection refused", refuses=False)


def resting(seconds: float) -> Block:
    return Block("a", "rate", NOW + seconds, "cooling down until", ", 429 from upstream", True)


def account(name: str = "a", **fields: Any) -> AccountFacts:
    return AccountFacts(**{"id": name, "groups": ("default",), **fields})


def service(*accounts: AccountFacts, **fields: Any) -> ServiceFacts:
    fields = {"now": NOW, "configured": len(accounts), "used_groups": frozenset({"default"}), **fields}
    return ServiceFacts(accounts=accounts, **fields)


def said(facts: ServiceFacts, **running: Any) -> list[str]:
    return [one.text for one in ailments(RunningFacts(**running), facts)]


WELL = service(account(), account("b"))


def test_a_node_that_is_well_has_none() -> None:
    assert ailments(RunningFacts(), WELL) == []
    assert unready(WELL, "service") == ()


def test_a_store_that_is_away_is_said_with_the_reason_and_what_it_means_for_calls() -> None:
    never = StoreFacts(up=False, reached=False, reason="not connected yet", refuses=True)
    assert said(service(account(), store=DOWN)) == [
        "the state store is down: redis: connection refused; limits are enforced by this node alone"
    ]
    assert said(service(account(), store=attrs.evolve(DOWN, side="side.db: disk is full"))) == [
        "the state store is down: redis: connection refused; no limit is enforced (side.db: disk is full)"
    ]
    assert said(service(account(), store=never)) == [
        "the state store was never reached: not connected yet; calls are refused (503)"
    ]
    assert unready(service(account(), store=DOWN), "service") == ()
    assert unready(service(account(), store=never), "node") == ("state_unavailable",)
    assert unready(service(account(), store=never), "draining") == ()


def test_what_a_store_has_set_aside_is_said_though_it_serves() -> None:
    store = StoreFacts(up=True, reached=True, reason="", refuses=True, damaged=("clock: it is a list",))
    assert said(service(account(), store=store)) == [
        "a damaged counter of the state store was set aside and begins anew: clock: it is a list"
    ]
    assert unready(service(account(), store=store), "service") == ()


def test_an_account_that_cannot_serve_is_said_with_the_reason_but_not_while_it_takes_a_breath() -> None:
    for seconds, expected in ((1800, 1), (61, 1), (60, 0), (1, 0)):
        found = service_ailments(service(account(rest=resting(seconds)), account("b")))
        assert [one.subject for one in found] == ["a"] * expected
    assert said(service(account(defect="no identity is loaded"), account("b"))) == [
        "account a cannot be used on this node: no identity is loaded"
    ]
    assert said(service(account(groups=()), account("b"))) == ["account a cannot serve: it is in no group"]


def test_a_group_whose_accounts_all_rest_is_said_at_once_and_only_while_keys_use_it() -> None:
    two = (account(rest=resting(5)), account("b", groups=("fast",), rest=resting(9)), account("c", groups=("x",)))
    found = [one for one in service_ailments(service(*two)) if one.kind == "group"]
    assert [(one.subject, one.unready) for one in found] == [("default", None)]
    assert "none of its accounts can serve, the first is back at 08:00:05 (a: cooling down until" in found[0].text
    assert said(service(account(groups=("fast",)))) == ["group default: no enabled account is in it, and keys use it"]
    assert not service_ailments(service(account(), used_groups=frozenset()))


def test_where_no_account_can_serve_only_a_cause_of_this_node_sends_calls_to_another() -> None:
    upstream = service(account(rest=resting(900)), account("b", rest=resting(900)))
    here = service(account(defect="no identity"), account("b", defect="no identity"))
    mixed = service(account(defect="no identity"), account("b", rest=resting(900)))
    for facts, node, everywhere in (
        (upstream, (), ("no_account",)),
        (here, ("no_account",), ("no_account",)),
        (mixed, (), ("no_account",)),
    ):
        assert "no account can serve now" in said(facts)
        assert (unready(facts, "node"), unready(facts, "service")) == (node, everywhere)
        assert unready(facts, "draining") == ()


@pytest.mark.parametrize(
    ("running", "text"),
    [
        ({"degraded": "the tree has errors", "stored": 3}, "degraded: the tree has errors; generation 3 serves"),
        ({"hold": 2, "pending": "held"}, "held: a rollback keeps generation 2 (`relayd resume` ends it)"),
        ({"pending": "rejected"}, "out of step: the tree on disk is rejected [`relayd check` says where and why]"),
        ({"restart_required": ("log.file",)}, "restart required: log.file"),
        ({"deny_problem": "line 1"}, "deny.toml is not applied, what it refused before still is: line 1"),
        ({"useless": {"k": "its list of endpoints is empty"}}, "key k has no effect: its list of endpoints is empty"),
        ({"losses": ("3 journal lines were damaged",)}, "3 journal lines were damaged"),
        (
            {"log": "no space left on device"},
            "lines of the log are lost: no space left on device [make room where the log is written]",
        ),
        (
            {"log": "broken pipe"},
            "lines of the log are lost: broken pipe [restart relayd with a log that somebody reads]",
        ),
        (
            {"log": "read-only file system"},
            "lines of the log are lost: read-only file system"
            " [mount that file system for writing again; `dmesg` tells why it is read-only]",
        ),
        ({"alive": 17}, "17 configs are in use: calls that began under old ones do not end"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_config_is_said(running: dict[str, Any], text: str) -> None:
    assert said(WELL, **running) == [text]
    assert unready(WELL, "service") == ()


@pytest.mark.parametrize(
    ("kind", "signs_in", "what"),
    [
        ("auth", False, " [a new credential: relayd account seal a; "),
        ("auth", True, " [sign in again: relayd account login a; "),
        ("rate", False, ""),
    ],
)  # fmt: skip
def test_a_rest_that_only_a_person_can_end_says_how(kind: Any, signs_in: bool, what: str) -> None:
    block = Block("a", kind, NOW + 1800, "cooling down until", ", invalid x-api-key (401)", True)
    text = said(service(account(signs_in=signs_in, rest=block), account("b")))[0]
    assert text.startswith("account a cannot serve: cooling down until")
    mended = "if it is mended at the provider: relayd account test a]" if what else ""
    assert text.endswith(f", invalid x-api-key (401){what}{mended}")


def test_a_clock_that_is_far_from_the_stores_is_said() -> None:
    assert ailments(RunningFacts(store_ahead=-9.0), WELL) == []
    (ahead,) = ailments(RunningFacts(store_ahead=-3600.2), WELL)
    (behind,) = ailments(RunningFacts(store_ahead=600.0), WELL)
    assert ahead.text.startswith("the clock of this node is 3600 s ahead of that of the state store: ")
    assert behind.text.startswith("the clock of this node is 600 s behind that of the state store: ")


def test_many_keys_without_effect_are_counted() -> None:
    found = ailments(RunningFacts(useless={f"k{number}": "x" for number in range(9)}), WELL)
    assert [one.subject for one in found] == ["k0", "k1", "k2", "k3", "k4", ""]
    assert found[-1] == Ailment("key", "4 more keys have no effect")
