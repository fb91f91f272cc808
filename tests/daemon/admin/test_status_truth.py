"""Status tells the truth: what keeps calls from being served is in status, its exit code, /readyz and the metrics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from reload_world import World, living, make_tree

from relayd.daemon.admin.metrics import metrics_text


def metric(world: World, line: str) -> float:
    found = [text for text in metrics_text(world.sources, time.time()).splitlines() if text.startswith(f"{line} ")]
    assert found, line
    return float(found[0].rpartition(" ")[2])


async def readyz(world: World) -> tuple[int, Any]:
    client = await world.connect()
    told = await client.get("/readyz")
    return told.status, told.json


def details(world: World) -> list[tuple[str, str]]:
    status = world.status()
    assert [one["text"] for one in status["ailment_details"]] == status["ailments"]
    assert status["well"] is not bool(status["ailments"])
    assert metric(world, "relayd_well") == status["well"]
    assert metric(world, "relayd_ready") == status["ready"]
    return [(one["kind"], one["subject"]) for one in status["ailment_details"]]


async def test_a_node_that_is_well_says_so_everywhere(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        assert details(world) == []
        assert await readyz(world) == (200, {"status": "ok"})
        assert metric(world, 'relayd_group_serves{group="default"}') == 1
        assert metric(world, 'relayd_ailments{kind="account"}') == 0
        assert world.status()["state"] == {"up": True, "reached": True, "reason": ""}


async def test_an_account_whose_secret_is_not_here_is_known_from_the_start_until_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAYD_CREDENTIALS", str(tmp_path))
    tree = make_tree(tmp_path / "tree")
    tree.write("accounts.d/a.toml", 'kind = "api-key"\nbase_url = "http://127.0.0.1:9"\n[credential]\nfile = "late"\n')
    async with living(tree, watch=False) as world:
        assert details(world) == [("account", "a"), ("account", ""), ("group", "default")]
        assert "account a cannot be used on this node: late: no such file or directory" in world.status()["ailments"][0]
        assert await readyz(world) == (503, {"status": "unready", "reasons": ["no_account"]})
        assert metric(world, 'relayd_group_serves{group="default"}') == 0
        assert metric(world, 'relayd_ailments{kind="account"}') == 2

        (tmp_path / "late").write_text("sk-ant-test")
        await world.reload()
        assert details(world) == []
        assert (await readyz(world))[0] == 200


async def test_accounts_that_rest_make_a_node_unready_only_where_the_policy_says_so(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    fault = 'kind = "simulator"\n[simulator]\nstatus = 429\nretry_after = 900\n'
    tree.write("accounts.d/a.toml", fault)
    async with living(tree, watch=False) as world:
        assert (await world.call()).status == 429
        assert details(world) == [("account", "a"), ("account", ""), ("group", "default")]
        assert "account a cannot serve: cooling down until" in world.status()["ailments"][0]
        assert (await readyz(world))[0] == 200

        tree.relay('[policy]\nreadyz = "service"')
        await world.reload()
        assert await readyz(world) == (503, {"status": "unready", "reasons": ["no_account"]})
        assert world.status()["unready"] == ["no_account"]


async def test_a_key_without_effect_is_known(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    tree.key(1, 'groups = ["nowhere"]\n')
    async with living(tree, watch=False) as world:
        assert details(world) == [("group", "nowhere"), ("key", "k1")]
        assert (await readyz(world))[0] == 200

        tree.key(1)
        await world.reload()
        assert details(world) == []


async def test_a_deny_toml_that_is_not_obeyed_is_said_with_its_place_until_it_is(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    async with living(tree, watch=False) as world:
        tree.write("deny.toml", 'keys = "k1"\n')
        await world.reload()
        assert ("deny", "") in details(world)
        assert any("deny.toml is not applied" in one and "deny.toml:1:8" in one for one in world.status()["ailments"])

        tree.deny(1)
        await world.reload()
        assert details(world) == []

    tree.write("deny.toml", "keys = [")
    async with living(tree, watch=False) as world:  # a start onto a stored config
        assert ("deny", "") in details(world)
