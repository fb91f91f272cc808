"""relayd reload, rollback, resume and status, against a living daemon: what they say and their exit codes."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from reload_world import FAST, World, living, make_tree

from relayd.cli import main
from relayd.cli.control_client import NoDaemon, ask
from relayd.cli.status import _told
from relayd.config.secrets.seal import new_identity
from relayd.daemon.admin.metrics import metrics_text


async def run(world: World, *words: str) -> tuple[int, str, str]:
    """Run a verb on the daemon of a world: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()

    def act() -> int:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return main([*words, "--config", str(world.tree.root), "--control", str(world.control_path)])

    with trio.fail_after(60):
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
        await world.until(lambda: world.history.numbers() == [1])
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


async def test_nothing_that_is_secret_is_in_any_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_CREDENTIALS", str(tmp_path))
    monkeypatch.setenv("RELAYD_ORIGINS", "https://upstream.invalid")
    tree = make_tree(tmp_path / "tree")
    secret = tmp_path / "credential"
    secret.write_text("sk-ant-test-canary")
    proxy = "http://user:canary-password@127.0.0.1:9"
    text = f'kind = "api-key"\nbase_url = "https://upstream.invalid"\nproxy = "{proxy}"\n'
    async with living(tree, watch=False) as world:
        tree.write("accounts.d/b.toml", f'{text}[credential]\nfile = "{secret}"\n')
        said = [
            await run(world, *words) for words in (["reload"], ["reload", "--json"], ["status"], ["status", "--json"])
        ]
        tree.write("accounts.d/b.toml", f'{text.replace("canary-", "canary-2")}[credential]\nfile = "{secret}"\n')
        said += [await run(world, *words) for words in (["reload", "--dry-run"], ["reload", "--json"])]

        assert [code for code, _, _ in said] == [0] * len(said)
        assert "canary" not in json.dumps(said) + world.log()


async def test_under_a_rollback_it_is_resume_that_helps_and_accepting_is_not_offered(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        await world.until(lambda: world.history.numbers() == [1])
        tree.account(more="priority = 3")
        await run(world, "reload")
        await run(world, "rollback", "1")
        assert "`relayd resume` follows the tree again" in (await run(world, "status"))[1]

        code, out, _ = await run(world, "reload")
        assert code == 3
        assert "`relayd resume` follows the tree again" in out
        assert "--accept" not in out
        assert out.endswith("; generation 3 goes on running\n")
        assert "--accept" not in (await run(world, "status"))[1]


async def test_a_change_that_the_guard_holds_is_shown_by_status_with_the_way_to_apply_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=4)
    async with living(tree, watch=False) as world:
        for number in (1, 2, 3):
            tree.remove(f"keys.d/k{number}.toml")
        digest = (await world.reload()).digest[:12]
        _, out, _ = await run(world, "status")

        assert f"  `relayd diff` shows it, `relayd reload --accept {digest}` applies it\n" in out


async def test_what_could_be_rolled_back_to_is_listed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        await world.until(lambda: world.history.numbers() == [1])
        first = world.status()["running"]["digest"][:12]
        code, out, _ = await run(world, "rollback", "--list")
        assert code == 0
        assert out.startswith("1  stored 2")
        assert f"loaded by boot, tree {first}  <- runs now\nthere is nothing to go back to" in out

        tree.account(more="priority = 3")
        await run(world, "reload")
        await world.until(lambda: world.history.numbers() == [2, 1])
        (world.history.directory / "generation-3").write_text("junk")
        _, out, _ = await run(world, "rollback", "--list")
        assert out.splitlines()[0] == "3  unusable: it does not begin like a generation"
        assert out.splitlines()[-1] == "`relayd rollback` goes to 1, `relayd rollback N` to another"

        _, out, _ = await run(world, "rollback", "--list", "--json")
        assert [(one["number"], one.get("runs"), one.get("next")) for one in json.loads(out)] == [
            (3, None, None),
            (2, True, False),
            (1, False, True),
        ]
        await run(world, "rollback")
        assert f"tree {first}  <- held, runs now" in (await run(world, "rollback", "--list"))[1]
        assert world.generation == 3  # listing did nothing


async def test_keys_that_end_soon_and_values_by_recipient_are_in_the_status(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=3)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3, hours=1)
    tree.key(1, f"expires = {soon.isoformat(timespec='seconds')}")
    tree.key(2, f"expires = {(soon + datetime.timedelta(days=60)).isoformat(timespec='seconds')}")
    recipient = new_identity().public
    tree.relay(f'[secrets]\nrecipients = [{{ name = "prod", public = "{recipient.text}", state = "active" }}]')
    async with living(tree, watch=False) as world:
        code, out, _ = await run(world, "status")
        assert code == 0
        assert "keys: 3 active\n  k1 ends at " in out
        assert "(in 3 d " in out
        assert "k2" not in out
        assert "secrets: identities loaded here: none\n  prod (active) opens 0 values\n" in out

        metrics = metrics_text(world.sources, time.time())
        assert f'relayd_secret_sealed{{kid="{recipient.kid}",recipient="prod"}} 0\n' in metrics
        assert f'relayd_key_expires_timestamp_seconds{{key="k1"}} {int(soon.timestamp())}\n' in metrics
        assert 'key="k0"' not in metrics


async def test_a_daemon_that_drains_says_so(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        world.daemon.app.draining = True
        _, out, _ = await run(world, "status")

        assert "; DRAINING: " in out.splitlines()[0]


def test_an_older_daemon_is_told_of_and_its_ailments_are_shown() -> None:
    old = {"version": "0.0.1", "ailments": ["degraded: the tree has errors"], "well": False}

    told = _told(old)
    assert told.startswith("! degraded: the tree has errors\n")
    assert "the daemon (relayd 0.0.1) does not say 'now'" in told


@pytest.mark.parametrize("digest", ["abc", "078d7ea406a", "078d7ea406aX"])
def test_too_little_of_a_digest_to_accept_is_wrong_usage(digest: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["reload", "--accept", digest])

    assert end.value.code == 2
    assert "at least 12 hex digits of the held tree's digest" in capsys.readouterr().err


@contextlib.contextmanager
def odd_daemon(place: Path, answer: bytes | None) -> Iterator[None]:
    """Something else that listens there: says `answer` and hangs up, or (None) never says anything."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place))
        sock.listen()

        def serve() -> None:
            peer, _ = sock.accept()
            with peer:
                if answer is None:
                    peer.recv(65536)
                    peer.recv(65536)  # until the other side has gone
                else:
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(60)


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (b'{"ok":false,"error":"the daemon answers root and its own user, 7"}\n', 1, "root and its own user, 7"),
        (b"", 5, "the daemon hung up without an answer"),
        (b"SSH-2.0-OpenSSH\n", 5, "what answers there is not relayd"),
    ],
)
def test_what_is_no_daemon_of_ours_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: bytes, code: int, text: str
) -> None:
    place = tmp_path / "odd.sock"
    with odd_daemon(place, answer):
        assert main(["reload", "--control", str(place)]) == code
    assert text in capsys.readouterr().err


def test_a_daemon_that_is_stopped_is_waited_for_but_not_for_ever(
    tmp_path: Path,
) -> None:
    place = tmp_path / "stopped.sock"
    args = argparse.Namespace(control=str(place), config=tmp_path)
    with odd_daemon(place, None), pytest.raises(NoDaemon, match=r"has not answered for 0 s \(is it stopped"):
        ask(args, patience=0.2, verb="status")


def test_a_path_that_no_socket_can_have_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = tmp_path / ("x" * 120)

    assert main(["status", "--control", str(long)]) == 5
    assert "a socket's path has at most 107 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["reload", "rollback", "resume", "status"])
def test_without_a_daemon_the_exit_code_is_5(tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "none.sock"

    assert main([verb, "--control", str(place)]) == 5
    assert f"no daemon answers ({place}: no such file or directory)" in capsys.readouterr().err


async def test_a_refused_rollback_ends_with_its_reason_and_shows_no_plan(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=4)
    async with living(tree, watch=False) as world:
        await world.until(lambda: world.history.numbers() == [1])
        tree.account(more="priority = 3")
        tree.remove("keys.d/k1.toml")
        await run(world, "reload")

        code, out, _ = await run(world, "rollback", "1")
        assert code == 1
        assert out.splitlines()[-1].startswith("  it would let revoked keys in again: k1 (--allow-unrevoke")
        assert out.splitlines()[-2].startswith("rejected: ")
        assert "priority" not in out
