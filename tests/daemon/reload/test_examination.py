"""What would become of a tree that is not in place yet: without effect, by what runs, and not found out twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from reload_world import Tree, living, make_tree

from relayd.config.problems.problem import is_error
from relayd.daemon.reload.examination import why_not_examined
from relayd.daemon.reload.requests import Examine

ONE, TWO = "1" * 40, "2" * 40
SCENARIO = '[[scenario]]\nname = "served"\nkey = "k0"\nmodel = "claude-sonnet-4-5"\nexpect = "allow"\n'


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Tree, Tree]:
    """A link, the version that it leads to, and another version."""
    home = tmp_path / "relay.trees"
    one, two = make_tree(home / ONE, keys=4), make_tree(home / TWO, keys=4)
    (tmp_path / "relay").symlink_to(f"relay.trees/{ONE}")
    return tmp_path / "relay", one, two


def flip(link: Path, commit: str) -> None:
    fresh = link.with_name("fresh")
    fresh.symlink_to(f"relay.trees/{commit}")
    os.replace(fresh, link)


async def test_it_says_what_a_reload_would_say_and_nothing_follows(trees: tuple[Path, Tree, Tree]) -> None:
    link, _one, two = trees
    two.account(more="priority = 3")
    async with living(Tree(link), watch=False) as world:
        found = await world.ask(Examine(tree=str(two.root)))

        assert (found.result, found.dry_run, found.generation) == ("applied", True, 1)
        assert found.changes is not None
        assert found.changes.ids("account", "change") == ("a",)
        assert (world.generation, world.priority(), world.record.candidate) == (1, 50, None)
        assert (await world.reload()).result == "unchanged"


async def test_an_examined_tree_that_comes_into_place_is_not_compiled_again(trees: tuple[Path, Tree, Tree]) -> None:
    link, _one, two = trees
    two.account(more="priority = 3")
    async with living(Tree(link), watch=False) as world:
        await world.ask(Examine(tree=str(two.root)))
        flip(link, TWO)
        result = await world.reload(expect=TWO)

        assert (result.result, result.commit, world.priority()) == ("applied", TWO, 3)
        assert world.record.seconds["compile"] == 0.0


async def test_a_tree_that_was_changed_after_its_examination_is_judged_anew(trees: tuple[Path, Tree, Tree]) -> None:
    link, _one, two = trees
    two.account(more="priority = 3")
    async with living(Tree(link), watch=False) as world:
        await world.ask(Examine(tree=str(two.root)))
        two.account(more="priority = 4")
        flip(link, TWO)

        assert (await world.reload()).result == "applied"
        assert world.priority() == 4
        assert world.record.seconds["compile"] > 0.0


async def test_who_was_denied_after_the_examination_stays_denied(trees: tuple[Path, Tree, Tree]) -> None:
    link, one, two = trees
    two.account(more="priority = 3")
    two.deny(2)
    async with living(Tree(link), watch=False) as world:
        await world.ask(Examine(tree=str(two.root)))
        one.write("accounts.d/broken.toml", "x")
        one.deny(1)
        assert (await world.reload()).result == "rejected"
        flip(link, TWO)
        assert (await world.reload()).result == "applied"

        assert [(await world.call(number)).status for number in (0, 2)] == [200, 401]


async def test_errors_and_scenarios_that_do_not_hold_reject_it(trees: tuple[Path, Tree, Tree]) -> None:
    link, _one, two = trees
    two.write("tests.d/a.toml", SCENARIO)
    async with living(Tree(link), watch=False) as world:
        assert (await world.ask(Examine(tree=str(two.root)))).result == "unchanged"

        two.key(0, 'models = ["claude-haiku-*"]')
        rejected = await world.ask(Examine(tree=str(two.root)))
        assert rejected.result == "rejected"
        assert [problem.code for problem in rejected.problems if is_error(problem)] == ["E-SCENARIO"]

        two.key(0, "wieght = 1")
        rejected = await world.ask(Examine(tree=str(two.root)))
        assert [problem.code for problem in rejected.problems if is_error(problem)] == ["E-UNKNOWN-KEY"]


async def test_the_guard_is_asked_also_while_a_rollback_holds(trees: tuple[Path, Tree, Tree]) -> None:
    link, _one, two = trees
    for number in (1, 2, 3):
        two.remove(f"keys.d/k{number}.toml")
    async with living(Tree(link), watch=False) as world:
        world.record.hold = 7
        held = await world.ask(Examine(tree=str(two.root)))

        assert held.result == "held"
        assert "3 of 4 keys would go" in held.reasons[0]
        assert (await world.ask(Examine(tree=str(two.root), accept=held.accept[:12]))).result == "applied"
        assert (await world.ask(Examine(tree=str(two.root), accept="0" * 12))).result == "held"


def test_only_a_directory_beside_the_one_in_place_is_looked_at(trees: tuple[Path, Tree, Tree], tmp_path: Path) -> None:
    link, one, two = trees
    outside = make_tree(tmp_path / "outside")
    (link.parent / "relay.trees" / "escape").symlink_to(outside.root)

    assert why_not_examined(link, two.root) == ""
    for wrong in (outside.root, link, two.root.parent / "escape", two.root / "..", two.root / "keys.d", Path(TWO)):
        assert str(wrong) in why_not_examined(link, wrong)
    assert "is not a link to one of several trees" in why_not_examined(one.root, two.root)
