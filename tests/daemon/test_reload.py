"""Reload of a living daemon: edits on disk, tickets, rejections, and what calls notice of it (nothing)."""

from __future__ import annotations

from pathlib import Path

import pytest
from reload_world import living, make_tree


@pytest.mark.parametrize("deaf", [False, True], ids=["events", "poll only"])
async def test_each_of_three_saves_by_rename_is_one_reload(tmp_path: Path, deaf: bool) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, deaf=deaf) as world:
        for number in (1, 2, 3):
            tree.account(more=f"priority = {number}")
            await world.until_generation(number + 1)
            assert world.priority() == number
        await world.idle()

        assert world.generation == 4
        assert (await world.call()).status == 200
