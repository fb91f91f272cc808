"""A daemon among others: what it tells, what it makes of what it hears, and how that slows its reloads."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import trio
from reload_world import FAST, World, living, make_tree

from relayd.cli.status import in_words
from relayd.core.cluster import DRIFT_AFTER, Heartbeat
from relayd.daemon.admin.metrics import metrics_text
from relayd.daemon.admin.status import status_document
from relayd.daemon.build import Daemon
from relayd.state.contract import Beat, NodeList, Nodes, StoreUnavailable

OFTEN = attrs.evolve(FAST, heartbeat=0.02)
ONCE = attrs.evolve(FAST, heartbeat=3600.0)  # but after reloads


async def says(world: World, name: str, *, ttl: int = 60_000, **fields: Any) -> None:
    """Another node's heartbeat."""
    said = Heartbeat(**{"node": name, "life": f"life-of-{name}", "tree": "f" * 64, "model": "e" * 64, **fields})
    body = msgspec.json.encode(said).decode()
    await world.daemon.state.main.ask(Beat(node=f"{name}#{said.life}", body=body, ttl=ttl))


async def heard(world: World) -> dict[str, Heartbeat]:
    """What lies in the store, by name."""
    answer = await world.daemon.state.main.ask(Nodes())
    assert isinstance(answer, NodeList)
    found = [msgspec.json.decode(one.body, type=Heartbeat) for one in answer.nodes]
    return {said.node: said for said in found}


def names(world: World) -> list[str]:
    return [node["node"] for node in world.status()["nodes"]]


async def test_a_heartbeat_follows_each_reload_at_once_and_tells_its_result(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False, pace=ONCE) as world:
        cluster = world.cluster
        await world.until(lambda: cluster.known)
        before = (await heard(world))["test"]
        assert (before.tree, before.result, before.past) == (world.status()["running"]["digest"], "applied", ())

        async def told(result: str) -> Heartbeat:
            for _ in range(3000):
                said = (await heard(world))["test"]
                if said.result == result:
                    return said
                await trio.sleep(0.01)
            raise AssertionError(f"it never told {result}")

        tree.account(more="wieght = 3")
        assert (await world.reload()).result == "rejected"
        assert (await told("rejected")).tree == before.tree
        tree.account(more="priority = 3")
        assert (await world.reload()).result == "applied"
        after = await told("applied")
        assert (after.tree, after.model) == (
            world.status()["running"]["digest"],
            world.status()["running"]["model_digest"],
        )
        assert [(one[0], one[1]) for one in after.past] == [(before.tree, before.model)]


async def test_a_comment_on_one_node_is_another_tree_and_no_drift(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False, pace=OFTEN) as world:
        ours = world.cluster.heartbeat()
        tree.account(more="# said differently")
        await world.reload()
        await says(world, "other", tree=ours.tree, model=ours.model)
        await world.until(lambda: len(names(world)) == 2)

        status = world.status()
        assert status["nodes"][0]["digest"] != status["nodes"][1]["digest"]
        assert status["drift"] is None
        assert "nodes: 2, all run the same\n" in in_words(status)


async def test_drift_that_lasts_is_an_ailment_and_says_who_since_when_and_why(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False, pace=OFTEN) as world:
        old = world.cluster.heartbeat()
        tree.account(more="priority = 3")
        await world.reload()
        await says(world, "b", tree=old.tree, model=old.model, result="rejected", ran=300.0, up=300.0)
        await world.until(lambda: len(names(world)) == 2)

        soon = world.status()
        assert (soon["well"], soon["drift"]["lasting"]) == (True, False)
        later = status_document(world.sources, time.time() + DRIFT_AFTER + 5)
        since = later["running"]["since"]
        assert later["well"] is False
        assert later["ailments"] == [
            f"DRIFT: node b has tree {old.tree[:12]}, not tree {later['running']['digest'][:12]} as test,"
            f" since {since} (rejected)"
        ]
        text = in_words(later)
        assert "nodes: 2, DRIFT: 1 node behind test, since " in text
        assert f"  - b: tree {old.tree[:12]}; BEHIND since {since} (1 min)" in text
        assert later["drift"]["behind"][0]["since"] == since


async def test_two_processes_of_one_name_are_both_shown_and_warned_of(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False, pace=OFTEN) as world:
        ours = world.cluster.heartbeat()
        await says(
            world, "test", life="abcd", tree=ours.tree, up=-2.0
        )  # a later start than its own last word: it lives
        await world.until(lambda: len(names(world)) == 2)

        await world.until(lambda: world.events("fleet.name_taken"))
        status = world.status()
        assert status["ailments"] == ["node name test: more than one process has it (give each its own: --node)"]
        assert f"  + test#{world.cluster.life}: tree " in in_words(status)
        assert "  + test#abcd: tree " in in_words(status)
        assert len(world.events("fleet.name_taken")) == 1


async def test_what_other_versions_say_is_understood_as_far_as_it_goes(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False, pace=OFTEN) as world:
        ask = world.daemon.state.main.ask
        await ask(Beat(node="n#1", body='{"node":"newer","life":"1","mood":"good"}', ttl=60_000))
        await ask(Beat(node="o#1", body="hello", ttl=60_000))
        await ask(Beat(node="p#1", body='{"node":3,"life":"1"}', ttl=60_000))
        await world.until(lambda: "newer" in names(world))

        assert names(world) == ["newer", "test"]


async def test_a_node_that_stops_takes_its_heartbeat_back(tmp_path: Path) -> None:
    from relayd.state.sqlite import SqliteStore

    async with living(make_tree(tmp_path / "tree"), watch=False, pace=OFTEN) as world:
        await world.until(lambda: world.cluster.known)
    store = SqliteStore(str(tmp_path / "tree.node/relayd.db"), clock=lambda: round(time.time() * 1000))
    try:
        store.check()
        assert store.apply([Nodes()]) == [NodeList(nodes=())]
    finally:
        store.close()


async def test_without_the_store_the_others_are_unknown_and_reloads_work(tmp_path: Path) -> None:
    class Away:
        async def ask(self, op: object) -> object:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable("redis://nowhere: connection refused")

        def submit_nowait(self, op: object) -> None:
            pass

    def cut_off(daemon: Daemon) -> None:
        daemon.reload.cluster.state = Away()  # type: ignore[assignment]

    tree = make_tree(tmp_path / "tree")
    async with living(tree, pace=OFTEN, prepared=cut_off) as world:
        tree.account(more="priority = 3")
        await world.until_generation(2)
        status = world.status()

        assert status["nodes_problem"] == "redis://nowhere: connection refused"
        assert names(world) == ["test"]
        assert "nodes: the others are unknown (redis://nowhere: connection refused)\n" in in_words(status)
        assert "relayd_nodes" not in metrics_text(world.sources, time.time())


# --- not all at one instant


class Rng:
    """Draws the largest wait, and much more than that if it is asked to."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.drawn: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float) -> float:
        self.drawn.append((low, high))
        return high * self.factor


def with_rng(rng: Rng) -> Callable[[Daemon], None]:
    def install(daemon: Daemon) -> None:
        daemon.reload.cluster.rng = rng  # type: ignore[assignment]

    return install


@pytest.mark.parametrize("trigger", ["command", "sighup", "http"])
async def test_among_others_a_change_that_is_noticed_waits_and_one_that_is_asked_for_does_not(
    tmp_path: Path, trigger: Any
) -> None:
    tree, rng = make_tree(tmp_path / "tree"), Rng(1000.0)
    async with living(tree, pace=OFTEN, prepared=with_rng(rng)) as world:
        await says(world, "other", tree=world.cluster.heartbeat().tree)
        await world.until(lambda: len(names(world)) == 2)
        tree.account(more="priority = 3")
        await world.until(lambda: world.queue.pending and rng.drawn, "the change to be noticed")
        await trio.sleep(0.2)
        assert world.generation == 1

        assert (await world.reload(trigger)).result == "applied"
        assert world.priority() == 3
        assert rng.drawn[0] == (0.0, 2.0)


async def test_among_others_the_change_is_taken_when_the_wait_is_over(tmp_path: Path) -> None:
    tree, rng = make_tree(tmp_path / "tree"), Rng(0.05)
    async with living(tree, pace=OFTEN, prepared=with_rng(rng)) as world:
        await says(world, "other", tree=world.cluster.heartbeat().tree)
        await world.until(lambda: len(names(world)) == 2)
        for number in (2, 3):
            tree.account(more=f"priority = {number}")
            await world.until_generation(number)

        assert len(rng.drawn) >= 2


async def test_a_key_that_is_denied_does_not_wait(tmp_path: Path) -> None:
    tree, rng = make_tree(tmp_path / "tree", keys=2), Rng(1000.0)
    async with living(tree, pace=OFTEN, prepared=with_rng(rng)) as world:
        await says(world, "other", tree=world.cluster.heartbeat().tree)
        await world.until(lambda: len(names(world)) == 2)
        await world.idle()
        for number in (0, 1):  # the second time the file is there already
            tree.deny(number)
            await world.until(lambda number=number: f"k{number}" in world.daemon.live.snapshot.deny.keys)
            assert (await world.call(number)).status == 401


async def test_a_lone_node_does_not_wait(tmp_path: Path) -> None:
    tree, rng = make_tree(tmp_path / "tree"), Rng(1000.0)
    async with living(tree, pace=OFTEN, prepared=with_rng(rng)) as world:
        tree.account(more="priority = 3")
        await world.until_generation(2)

        assert rng.drawn == []
