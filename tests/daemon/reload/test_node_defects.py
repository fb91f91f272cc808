"""What a node cannot use: known from the start, said to its operator alone, over as soon as its cause is."""

from __future__ import annotations

from pathlib import Path

import pytest
from reload_world import Tree, World, living, make_tree

from relayd.state.contract import Gather, Gathered


async def published(world: World) -> list[str]:
    """The accounts of which the store knows anything."""
    answer = await world.daemon.state.main.ask(Gather(topic="health"))
    assert isinstance(answer, Gathered)
    return [note.name for note in answer.notes]


@pytest.fixture(autouse=True)
def _credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_CREDENTIALS", str(tmp_path))


def with_file(tmp_path: Path) -> tuple[Tree, Path]:
    """A tree whose account b has its credential in a file that is not there."""
    secret = tmp_path / "secret"
    tree = make_tree(tmp_path / "tree")
    tree.write("accounts.d/b.toml", f'kind = "api-key"\n[credential]\nfile = "{secret}"\n')
    return tree, secret


async def test_a_defect_is_an_ailment_from_the_start_and_ends_with_its_cause(tmp_path: Path) -> None:
    tree, secret = with_file(tmp_path)
    async with living(tree, watch=False) as world:
        why = f"{secret}: no such file or directory ({tmp_path}; see RELAYD_CREDENTIALS)"
        status = world.status()
        assert status["ailments"] == [f"account b cannot be used on this node: {why}"]
        rows = {row["id"]: row for row in status["accounts"]}
        assert (rows["b"]["serves"], rows["b"]["defect"], rows["a"]["defect"]) == (False, why, "")
        assert rows["b"]["reason"] == f"cannot be used on this node: {why}"
        assert (await world.call()).status == 200  # a serves meanwhile

        secret.write_text("sk-ant-test")
        await world.until(lambda: world.status()["well"], "the file is there, and nobody asked for a reload")
        assert {row["id"] for row in world.status()["accounts"] if row["serves"]} == {"a", "b"}
        assert world.events("account.credential_found")
        assert "b" not in await published(world)

        secret.unlink()
        assert (await world.reload()).result == "unchanged"
        assert world.status()["ailments"] == [f"account b cannot be used on this node: {why}"]
