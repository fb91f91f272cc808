"""relayd reload, rollback, resume and status, against a living daemon: what they say and their exit codes."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import attrs
import pytest
import trio
from reload_world import FAST, World, living, make_tree

from relayd.cli import main


async def run(world: World, *words: str) -> tuple[int, str, str]:
    """Run a verb on the daemon of a world: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()

    def act() -> int:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return main([*words, "--config", str(world.tree.root), "--control", str(world.reloading.control_path)])

    with trio.fail_after(20):
        code = await trio.to_thread.run_sync(act)
    return code, out.getvalue(), err.getvalue()


async def test_reload_tells_what_it_did_and_exits_by_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=4)
    async with living(tree, watch=False) as world:
        assert (await run(world, "reload"))[0] == 0

        tree.account(more="priority = 3")
        code, out, _ = await run(world, "reload")
        assert code == 0
        assert "priority" in out
        assert "50 -> 3" in out
        assert out.splitlines()[-1].startswith("applied: generation 2, tree ")

        tree.account(more="wieght = 3")
        code, out, _ = await run(world, "reload")
        assert code == 1
        assert out.startswith("accounts.d/a.toml:2:1: error[E-UNKNOWN-KEY]: ")
        assert "rejected: tree " in out
        assert out.endswith("; generation 2 goes on running\n")

        tree.account(more="priority = 3")
        for number in (1, 2, 3):
            tree.remove(f"keys.d/k{number}.toml")
        code, out, _ = await run(world, "reload")
        digest = out.rstrip().rpartition(" ")[2]
        assert code == 3
        assert f"to apply it all the same: relayd reload --accept {digest}" in out
        assert (await run(world, "reload", "--accept", digest))[0] == 0


async def test_a_dry_run_and_another_tree_than_expected_do_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.account(more="priority = 3")
        code, out, _ = await run(world, "reload", "--dry-run")
        assert (code, "would be applied" in out) == (0, True)
        code, out, _ = await run(world, "reload", "--expect", "0123456789ab")
        assert (code, "not 0123456789ab" in out) == (1, True)
        assert world.generation == 1


async def test_a_tree_in_motion_is_busy(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.git("init", "-q")
    async with living(tree, watch=False, pace=attrs.evolve(FAST, patience=0.1)) as world:
        (tree.root / ".git/index.lock").touch()
        code, out, _ = await run(world, "reload")

        assert code == 4
        assert "index.lock" in out


async def test_rollback_and_resume(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        assert (await run(world, "rollback"))[0] == 1
        await world.until(lambda: world.reloading.vault.numbers() == [1])
        tree.account(more="priority = 3")
        await run(world, "reload")

        code, out, _ = await run(world, "rollback", "1", "--json")
        assert (code, json.loads(out)["result"], world.priority()) == (0, "applied", 50)
        assert (await run(world, "reload"))[0] == 3
        assert "held: a rollback keeps generation 1" in (await run(world, "status"))[1]
        assert (await run(world, "resume"))[0] == 0
        assert world.priority() == 3


async def test_json_is_one_object_with_everything(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.account(more="priority = 3")
        _, out, err = await run(world, "reload", "--json")
        result = json.loads(out)

        assert err == ""
        assert result["result"] == "applied"
        assert result["changes"]["changes"][0]["id"] == "a"
        assert set(result) >= {"generation", "digest", "revision", "commit", "problems", "reasons", "restart_required"}


async def test_status_is_0_when_all_is_well_and_1_with_the_reasons_when_not(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    tree.deny(1)
    async with living(tree, watch=False) as world:
        code, out, _ = await run(world, "status")
        assert code == 0
        assert "candidate: none; the daemon runs what is on disk" in out
        assert "keys: 1 active, 1 denied" in out
        assert "  + a: free" in out

        tree.account(more="wieght = 3")
        await run(world, "reload")
        code, out, _ = await run(world, "status")
        assert code == 1
        assert "! out of step: the tree on disk is rejected" in out
        assert "accounts.d/a.toml:2:1: error[E-UNKNOWN-KEY]" in out

        code, out, _ = await run(world, "status", "--json")
        assert json.loads(out)["well"] is False


async def test_nothing_that_is_secret_is_in_any_answer(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    secret = tmp_path / "credential"
    secret.write_text("sk-ant-test-canary")
    proxy = "http://user:canary-password@127.0.0.1:9"
    text = f'kind = "api-key"\nbase_url = "http://127.0.0.1:9"\nproxy = "{proxy}"\n'
    async with living(tree, watch=False) as world:
        tree.write("accounts.d/b.toml", f'{text}[credential]\nfile = "{secret}"\n')
        said = [
            await run(world, *words) for words in (["reload"], ["reload", "--json"], ["status"], ["status", "--json"])
        ]
        tree.write("accounts.d/b.toml", f'{text.replace("canary-", "canary-2")}[credential]\nfile = "{secret}"\n')
        said += [await run(world, *words) for words in (["reload", "--dry-run"], ["reload", "--json"])]

        assert [code for code, _, _ in said] == [0] * len(said)
        assert "canary" not in json.dumps(said) + world.log()


@pytest.mark.parametrize("verb", ["reload", "rollback", "resume", "status"])
def test_without_a_daemon_the_exit_code_is_5(tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "none.sock"

    assert main([verb, "--control", str(place)]) == 5
    assert f"no daemon answers ({place}: no such file or directory)" in capsys.readouterr().err
