"""relayd diff: against what runs, against a commit; and what stands for what runs when nobody answers."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import attrs
import trio
from reload_world import FAST, Tree, World, living, make_tree

from relayd.cli import main
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret


def run(tree: Tree, *words: str) -> tuple[int, str, str]:
    """Run the verb on a tree: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["diff", *words, "--config", str(tree.root)])
    return code, out.getvalue(), err.getvalue()


async def ask(world: World, *words: str) -> tuple[int, str, str]:
    """The same, with the daemon of a world."""
    control = ("--control", str(world.control_path))
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(lambda: run(world.tree, *words, *control))


def committed(root: Path, keys: int = 1) -> Tree:
    tree = make_tree(root, keys)
    tree.git("init", "-q")
    tree.git("add", "-A")
    tree.git("commit", "-qm", "one")
    return tree


async def test_what_runs_is_compared_with_the_disk_not_the_commit(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree")
    head = tree.git("rev-parse", "HEAD")[:12]
    async with living(tree, watch=False) as world:
        code, out, err = await ask(world)
        assert (code, err) == (0, "")
        assert out.startswith("running generation 1, tree ")
        assert out.count(f"(commit {head}, clean)") == 2
        assert out.endswith(": the same\n")

        tree.account(more="priority = 3")
        await world.reload()
        assert (await ask(world))[0] == 0
        assert (await ask(world, "HEAD"))[0] == 2

        tree.account(more="priority = 4")
        tree.git("commit", "-qam", "two")
        code, out, _ = await ask(world)
        assert code == 2
        assert out.startswith("running generation 2, tree ")
        assert f"(commit {head}, dirty: accounts.d/a.toml) -> disk, tree " in out.splitlines()[0]
        assert "priority  3 -> 4  [hot: acts on the next call]" in out
        assert (await ask(world, "HEAD"))[0] == 0
        assert world.generation == 2  # nothing was done


async def test_what_waits_for_a_restart_still_differs_from_what_runs(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.relay('[log]\nfile = "other.log"')
        await world.reload()
        status = world.status()
        assert status["restart_required"] != []
        assert status["running"]["digest"] == world.record.origin.digest

        code, out, _ = await ask(world)
        assert code == 2
        assert "RESTART" in out


async def test_json_has_both_sides_with_their_origin(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", keys=4)
    async with living(tree, watch=False) as world:
        for number in (1, 2, 3):
            tree.remove(f"keys.d/k{number}.toml")
        code, out, err = await ask(world, "--json")
        told = json.loads(out)

        assert (code, err) == (2, "")
        assert (told["version"], told["old"]["name"], told["old"]["generation"], told["new"]["name"]) == (
            1,
            "running",
            1,
            "disk",
        )
        assert told["old"]["dirty"] == []
        assert told["new"]["dirty"] == ["keys.d/k1.toml", "keys.d/k2.toml", "keys.d/k3.toml"]
        assert told["old"]["model_digest"] != told["new"]["model_digest"]
        assert [change["id"] for change in told["changes"]] == ["k1", "k2", "k3"]
        assert "3 of 4 keys would go" in told["held"][0]


async def test_a_tree_with_errors_or_in_motion_cannot_be_compared_and_the_daemon_stays_as_it_was(
    tmp_path: Path,
) -> None:
    tree = committed(tmp_path / "tree")
    async with living(tree, watch=False, pace=attrs.evolve(FAST, patience=3.0)) as world:
        tree.account(more="wieght = 3")
        code, out, err = await ask(world)
        assert (code, out) == (1, "")
        assert "the tree on disk is rejected, so it cannot be compared:" in err
        assert "accounts.d/a.toml:2:1: error[E-UNKNOWN-KEY]" in err

        (tree.root / ".git/index.lock").touch()
        code, out, err = await ask(world)
        assert (code, out) == (1, "")
        assert "the tree on disk is busy" in err
        assert world.status()["well"] is True
        assert world.status()["candidate"] is None


async def test_a_value_that_was_only_sealed_anew_holds_the_same_secret(tmp_path: Path) -> None:
    identity, origin = new_identity(), "https://api.anthropic.com"
    tree = make_tree(tmp_path / "tree")

    def write() -> None:
        value = seal(Secret("sk-ant-canary"), account_binding("test", "b", origin), [identity.public])
        tree.write("accounts.d/b.toml", f'kind = "api-key"\n[credential]\nsealed = "{value}"\n')

    write()
    async with living(tree, watch=False) as world:
        world.sources.credentials.identities = (identity,)
        write()
        _, out, _ = await ask(world)

        assert "credential.sealed  sealed value changed" in out
        assert ", plaintext unchanged  [hot: " in out
        assert "canary" not in out


def test_without_a_daemon_the_last_commit_stands_for_what_runs_and_that_is_said(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree")
    tree.account(more="priority = 3")
    socket = str(tmp_path / "none.sock")
    code, out, err = run(tree, "--control", socket)

    assert code == 2
    assert "-> work tree\n~ account a\n" in out
    assert f"no daemon answers ({socket}: no such file or directory): comparing the last commit with the work" in err

    code, out, err = run(tree, "--running", "--control", socket)
    assert (code, out) == (1, "")
    assert "no daemon answers" in err
    assert run(tree, "HEAD", "--control", socket)[2] == ""


async def test_the_daemon_of_another_tree_does_not_count(tmp_path: Path) -> None:
    other = committed(tmp_path / "other")
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        control = ("--control", str(world.control_path))
        code, _, err = await trio.to_thread.run_sync(lambda: run(other, *control))
        assert code == 0
        assert f"follows another tree, {world.tree.root}, not {other.root}" in err
        assert (await trio.to_thread.run_sync(lambda: run(other, "--running", *control)))[0] == 1


def test_running_and_a_revision_is_a_contradiction(tmp_path: Path) -> None:
    code, _, err = run(committed(tmp_path / "tree"), "HEAD", "--running")

    assert code == 1
    assert "--running takes no revision" in err


def test_two_revisions_are_named_as_git_does_and_a_base_as_check_does(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree")
    tree.account(more="priority = 3")
    tree.git("commit", "-qam", "two")
    tree.account(more="priority = 4")

    assert run(tree, "HEAD~1", "HEAD") == run(tree, "HEAD~1..HEAD") == run(tree, "HEAD~1..")
    code, out, _ = run(tree, "HEAD", "HEAD~1")
    assert (code, "priority  3 -> 50" in out) == (2, True)
    assert run(tree, "--base", "HEAD") == run(tree, "HEAD")
    for words in (("A", "B", "C"), ("A..B", "C"), ("A", "--base", "B"), ("A...B",), ("--base", "A", "--running")):
        code, out, err = run(tree, *words)
        assert (code, out, err.startswith("relayd diff: ")) == (1, "", True), words


async def test_many_keys_fold_in_what_runs_too_unless_all_is_asked_for(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=12)
    async with living(tree, watch=False) as world:
        for number in range(12):
            tree.key(number, "max_tokens = 5\n")
        code, out, _ = await ask(world)
        assert (code, "~ 12 keys\n" in out, out.count("max_tokens")) == (2, True, 1)
        assert (await ask(world, "--full"))[1].count("max_tokens") == 12
