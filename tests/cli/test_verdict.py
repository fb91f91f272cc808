"""Verbs that write, beside a living daemon: each ends with what the daemon made of it, and exits by that."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
import threading
from pathlib import Path

import attrs
import pytest
import trio
from cli_tree import Tree as OfflineTree
from reload_world import FAST, Tree, World, living, make_tree

from relayd.cli import main


async def run(world: World, *words: str, stdin: str = "") -> tuple[int, str, list[str]]:
    """Run a verb on the daemon of a world: exit code, stdout, lines of stderr."""
    out, err = io.StringIO(), io.StringIO()
    where = ["--config", str(world.tree.root), "--control", str(world.control_path)]

    def act() -> int:
        before, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                return main([*words, *where])
        finally:
            sys.stdin = before

    with trio.fail_after(60):
        code = await trio.to_thread.run_sync(act)
    return code, out.getvalue(), err.getvalue().splitlines()


async def test_a_verb_ends_with_the_generation_that_its_change_runs_in(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        code, out, err = await run(world, "key", "new", "alice")
        assert (code, err[-1]) == (0, "applied: generation 2")
        assert out.startswith("sk-relay-")

        code, out, err = await run(world, "key", "new", "bob", "--json")
        assert (code, err[-1]) == (0, "applied: generation 3")
        assert {**json.loads(out)["daemon"], "digest": ""} == {
            "result": "applied",
            "exit": 0,
            "generation": 3,
            "digest": "",
            "accept": "",
            "reasons": [],
            "problems": [],
            "restart_required": [],
        }
        assert (await run(world, "key", "enable", "bob"))[2][-1] == "applied: generation 3"
        assert (await run(world, "key", "new", "carol", "--no-wait"))[2][-1].startswith("the key, shown this once")
        assert world.generation == 3


async def test_a_change_that_the_watcher_took_up_first_is_applied_and_not_unchanged(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree")) as world:
        code, _, err = await run(world, "key", "new", "alice")
        assert (code, err[-1]) == (0, "applied: generation 2")


async def test_a_change_that_the_guard_holds_ends_with_the_command_to_accept_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=4)
    async with living(tree, watch=False) as world:
        for number in (1, 2, 3):
            tree.remove(f"keys.d/k{number}.toml")
        code, _, err = await run(world, "key", "new", "alice")
        assert code == 3
        assert err[-2].startswith("HELD: 3 of 4 keys would go")
        command = err[-1].removeprefix("to apply it: relayd ").split()
        assert command[:2] == ["reload", "--accept"]
        assert (await run(world, *command[:3]))[0] == 0


async def test_a_tree_that_was_broken_meanwhile_ends_with_the_problem(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.account(more="wieght = 3")
        code, _, err = await run(world, "key", "new", "alice", "--force")
        assert code == 1
        assert err[-2] == "REJECTED: the tree has errors; generation 1 goes on running"
        assert err[-1].startswith("accounts.d/a.toml:2:1: error[E-UNKNOWN-KEY]: ")


async def test_a_tree_in_motion_is_busy_after_a_bounded_wait(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.git("init", "-q")
    async with living(tree, watch=False, pace=attrs.evolve(FAST, patience=0.1)) as world:
        (tree.root / ".git/index.lock").touch()
        code, _, err = await run(world, "key", "new", "alice")
        assert code == 4
        assert err[-1].startswith("BUSY: ")


async def test_the_daemon_of_another_tree_is_left_alone(tmp_path: Path) -> None:
    other = OfflineTree(tmp_path / "other")
    other.write("relay.toml", 'schema = 1\nrealm = "x"\n')
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        ran = await trio.to_thread.run_sync(
            lambda: other.run("key", "new", "alice", "--control", str(world.control_path))
        )
        assert ran.code == 0
        assert ran.err.splitlines()[-1] == "no daemon runs here: `relayd run` takes it up"
        assert sum(world.record.rounds.values()) == 0


async def test_where_no_daemon_runs_the_way_is_to_commit_and_push(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.git("init", "-q")
    ran = OfflineTree(tree.root).run("key", "new", "alice")
    assert (ran.code, ran.err.splitlines()[-1]) == (0, "no daemon runs here: commit and push")


def test_a_daemon_that_does_not_answer_is_no_silent_success(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        ran = OfflineTree(tree.root).run("key", "new", "alice", "--control", str(path))
        thread.join()
    assert ran.code == 5
    assert "unknown: " in ran.err.splitlines()[-1]
    assert (tree.root / "keys.d/alice.toml").exists()


async def test_the_first_steps_of_a_newcomer_are_applied_one_by_one_and_nothing_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "new"
    monkeypatch.setenv("RELAYD_IDENTITY", str(tmp_path / "identity"))
    words = ["init", str(root), "--identity", str(tmp_path / "identity"), "--no-git", "--listen", "127.0.0.1:0"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(words) == 0
    steps = [line.split()[1:] for line in said.getvalue().splitlines() if line.startswith("  relayd ")]
    writing = [step[: step.index("--config")] for step in steps if step[0] in ("account", "key", "demo")]
    assert [step[:2] for step in writing] == [["account", "add"], ["key", "new"], ["demo", "remove"]]
    tree = Tree(root)
    with (root / "relay.toml").open("a") as file:
        file.write('\n[admin]\nlisten = ""\n')
    async with living(tree, watch=False) as world:
        for number, step in enumerate(writing, 2):
            code, _, err = await run(world, *step, stdin="sk-ant-api03-abc")
            assert (code, err[-1]) == (0, f"applied: generation {number}"), step


def test_where_nobody_answers_in_a_directory_that_is_no_tree_the_option_is_named(tmp_path: Path) -> None:
    ran = OfflineTree(tmp_path).run("status")
    assert ran.code == 5
    assert f"[{tmp_path} is not a config tree: --config DIR]" in ran.err
    (tmp_path / "relay.toml").touch()
    assert "[relayd run, or --control PATH]" in OfflineTree(tmp_path).run("status").err
