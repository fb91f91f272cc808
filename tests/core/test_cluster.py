"""Several nodes: who is there, who is behind, since when, and how long a node waits before it reloads."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest

from relayd.core.cluster import (
    DRIFT_AFTER,
    SPREAD,
    Node,
    Past,
    doubled,
    drift,
    heartbeat_of,
    node_of,
    present,
    stagger,
    steadied,
)

NOW = 10_000.0


def node(name: str, tree: str = "v1", **fields: Any) -> Node:
    """A node that started at 1000, took its tree then, and was heard just now."""
    dull = {"life": f"life-{name}", "model": f"model-{tree}", "started": 1000.0, "since": 1000.0, "seen": NOW}
    return Node(**{"name": name, "tree": tree, **dull, **fields})


def ran(tree: str, left: float) -> Past:
    return Past(tree=tree, model=f"model-{tree}", left=left)


def behind(*nodes: Node) -> dict[str, float]:
    """Who is behind, and since when; {} without drift. The same for every order in which nodes are heard."""
    found = drift(nodes)
    assert drift(nodes[::-1]) == found
    return {one.node.name: one.since for one in found.behind} if found is not None else {}


def test_nodes_of_one_tree_are_not_in_drift() -> None:
    assert behind(node("a"), node("b"), node("c")) == {}
    assert behind(node("a")) == {}
    assert drift([]) is None


def test_trees_that_mean_the_same_are_no_drift() -> None:
    assert behind(node("a", "v2", model="m"), node("b", "v1", model="m")) == {}


def test_the_same_tree_is_no_drift_though_two_versions_of_relayd_read_it_otherwise() -> None:
    assert behind(node("a", model="by-1.0"), node("b", model="by-1.1")) == {}


def test_models_that_are_not_known_are_not_equal() -> None:
    assert behind(node("a", "v2", since=5000.0, model=""), node("b", model="")) == {"b": 5000.0}


def test_two_that_agree_with_a_third_agree() -> None:
    third = node("c", "v2", model="model-v1")
    assert behind(node("a", "v1"), node("b", "v2", model="other"), third) == {}


def test_who_has_not_taken_the_newest_tree_is_behind_since_the_others_took_it() -> None:
    assert behind(node("a", "v2", since=5000.0), node("b"), node("c", "v2", since=5100.0)) == {"b": 5000.0}


def test_a_node_that_restarts_onto_an_old_tree_does_not_lead_with_it() -> None:
    up = node("a", "v2", since=5000.0, past=(ran("v1", 5000.0),))
    again = node("b", "v1", started=9000.0, since=9000.0)

    assert behind(up, again) == {"b": 9000.0}


def test_a_stuck_node_is_behind_since_the_first_change_that_it_missed() -> None:
    up = node("a", "v4", since=9990.0, past=(ran("v3", 9990.0), ran("v2", 7000.0), ran("v1", 5000.0)))

    assert behind(up, node("b")) == {"b": 5000.0}


def test_a_tree_that_came_and_went_counts_from_when_it_went_last() -> None:
    up = node("a", "v2", since=9000.0, past=(ran("v1", 9000.0), ran("v2", 8000.0), ran("v1", 5000.0)))

    assert behind(up, node("b")) == {"b": 9000.0}


def test_back_to_the_first_tree_the_newest_move_leads() -> None:
    back = node("a", "v1", since=9000.0, past=(ran("v2", 9000.0), ran("v1", 5000.0)))
    there = node("b", "v2", since=5001.0, past=(ran("v1", 5001.0),))

    assert behind(back, there) == {"b": 9000.0}


def test_a_node_that_a_rollback_holds_is_behind_those_that_follow_their_tree() -> None:
    held = node("a", "v1", result="rolled-back", since=9000.0, past=(ran("v2", 9000.0),))

    assert behind(held, node("b", "v2", since=5000.0)) == {"a": 9000.0}


def test_a_node_that_started_onto_a_broken_tree_is_behind() -> None:
    assert behind(node("a", "v2", since=5000.0), node("b", result="degraded", started=9000.0, since=9000.0)) == {
        "b": 9000.0
    }


def test_a_broken_tree_that_comes_next_does_not_make_the_leader_one_that_is_behind() -> None:
    up = node("a", "v2", result="rejected", since=5000.0, past=(ran("v1", 5000.0),))

    assert behind(up, node("b", started=9000.0, since=9000.0)) == {"b": 9000.0}


def test_when_all_hold_the_newest_leads() -> None:
    one = node("a", "v1", result="rolled-back", since=9000.0)
    other = node("b", "v0", result="rolled-back", since=9500.0)

    assert behind(one, other) == {"a": 9500.0}


def test_three_trees_have_one_leader_and_two_that_are_behind_the_longest_first() -> None:
    found = drift(
        [node("a", "v3", since=7000.0, past=(ran("v2", 7000.0), ran("v1", 5000.0))), node("b"), node("c", "v2")]
    )

    assert found is not None
    assert (found.lead.name, [(one.node.name, one.since) for one in found.behind]) == (
        "a",
        [("b", 5000.0), ("c", 7000.0)],
    )


def test_drift_counts_once_it_lasts_longer_than_a_change_takes_to_arrive() -> None:
    found = drift([node("a", "v2", since=5000.0), node("b")])

    assert found is not None
    assert not found.lasts(5000.0 + DRIFT_AFTER)
    assert found.lasts(5000.1 + DRIFT_AFTER)
    assert found.seconds(4000.0) == 0.0  # a clock that was set back


def test_a_node_that_drains_takes_no_new_config_and_is_not_behind() -> None:
    assert behind(node("a", "v2", since=5000.0), node("b", draining=True)) == {}


def test_what_a_round_trip_adds_does_not_move_how_far_clocks_are_apart() -> None:
    assert steadied(0.0, 0.2) == 0.0
    assert steadied(0.0, 3600.1) == 3600.1
    assert steadied(3600.1, 3599.9) == 3600.1
    assert steadied(3600.1, 0.1) == 0.0


@pytest.mark.parametrize("apart", [2.0, -2.0, 3600.0])
def test_clocks_just_so_far_apart_do_not_go_to_and_fro(apart: float) -> None:
    said, found = set(), 0.0
    for jitter in (0.01, -0.01, 0.02, -0.02, 0.19, -0.19):
        found = steadied(found, apart + jitter)
        said.add(found)
    assert len(said - {0.0}) == 1
    assert found != 0.0
    assert steadied(found, 0.0 if abs(found) > 2.0 else 3 * apart) != found


def test_who_crashed_and_came_back_is_one_node() -> None:
    dead = node("a", life="one", seen=9000.0)
    back = node("a", "v2", life="two", started=9001.0, since=9001.0)

    assert present([dead, back]) == (back,)
    assert doubled([dead, back]) == ()
    assert behind(dead, back) == {}


def test_two_living_processes_of_one_name_are_both_there_and_the_name_is_told() -> None:
    one, two = node("a", life="one"), node("a", "v2", life="two", started=9001.0, since=9001.0)

    assert present([one, two]) == (one, two)
    assert doubled([one, two, node("b")]) == ("a",)
    assert behind(one, two) == {"a": 9001.0}


def test_a_process_that_drains_leaves_its_name_to_the_next() -> None:
    old = node("a", life="one", draining=True)

    assert doubled([old, node("a", life="two", started=9001.0)]) == ()


def test_a_lone_node_does_not_wait_and_several_spread_over_two_seconds() -> None:
    rng = random.Random(7)

    assert stagger([node("a")], rng) == 0.0
    assert stagger([node("a"), node("b", draining=True)], rng) == 0.0
    assert stagger([node("a", life="one", seen=1.0), node("a", life="two", started=9000.0)], rng) == 0.0
    waits = [stagger([node("a"), node("b")], rng) for _ in range(200)]
    assert all(0.0 <= wait <= SPREAD for wait in waits)
    assert max(waits) - min(waits) > SPREAD * 0.8


@pytest.mark.parametrize("count", [2, 5])
def test_every_node_names_the_same_leader_also_where_nothing_tells_them_apart(count: int) -> None:
    nodes = [node(f"n{number}", f"v{number}") for number in range(count)]

    assert len({drift(nodes[turn:] + nodes[:turn]).lead.name for turn in range(count)}) == 1  # type: ignore[union-attr]


def test_a_heartbeat_tells_ages_so_that_a_clock_that_is_ahead_moves_every_time_alike() -> None:
    ours = node("a", version="1", commit="c", dirty=True, result="held", stands=1500.0, past=(ran("v0", 900.0),))
    heard = node_of(heartbeat_of(ours, NOW), NOW + 50.0)

    assert heard == attrs.evolve(
        ours, started=1050.0, since=1050.0, stands=1550.0, seen=NOW + 50.0, past=(ran("v0", 950.0),)
    )
