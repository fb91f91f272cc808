"""`git push` to a node with a running daemon: what comes in, what is refused, and what the pusher reads."""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from daemon import Daemon, running
from push_node import Laptop, PushNode, clone, make_laptop, make_node, relayd

from relayd.cli.control_client import ask

NOTHING = "relayd: nothing was changed: the branch, the tree and what runs are as they were"


@attrs.frozen
class Road:
    """A laptop, the node that it pushes to, and the daemon there."""

    node: PushNode
    laptop: Laptop
    daemon: Daemon

    def generation(self) -> int:
        status = ask(argparse.Namespace(config=self.node.tree, control=""), verb="status")["status"]
        return int(status["running"]["generation"])

    def last_applied(self) -> dict[str, Any]:
        """The line of the log about the generation that runs."""
        generation = self.generation()
        self.daemon.wait_until(lambda: generation in self._applied(), f"generation {generation} in the log")
        return self._applied()[generation]

    def _applied(self) -> dict[int, dict[str, Any]]:
        return {int(entry["generation"]): entry for entry in self.daemon.events("reload.applied")}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    root = tmp_path_factory.mktemp("push")
    node = make_node(root / "node")
    laptop = make_laptop(root / "laptop", str(node.bare), keys=4)
    first = laptop.push()
    assert first.code == 0, first.all
    assert "no daemon answers" in first.said
    with running(node.tree) as daemon:
        yield Road(node, laptop, daemon)


@pytest.fixture
def road(shared: Road) -> Iterator[Road]:
    """The laptop is where the node is, before and after."""
    shared.laptop.undo()
    yield shared
    assert shared.node.commit() == shared.node.tip()
    left = {path.name for path in shared.node.versions.iterdir() if path.name.startswith(".new-")}
    assert not left


def refused(road: Road, *options: str, refs: str = "HEAD:main") -> str:
    """Push, and see that nothing whatever has changed; what the pusher was told."""
    before, generation = road.node.commit(), road.generation()
    pushed = road.laptop.push(*options, refs=refs)

    assert pushed.code != 0, pushed.all
    assert (road.node.commit(), road.node.tip(), road.generation()) == (before, before, generation)
    assert not any(path.name not in (before, "var") and not path.joinpath("REVISION").exists()
                   for path in road.node.versions.iterdir() if path.is_dir())  # fmt: skip
    return pushed.said


def test_a_sound_push_runs_and_its_plan_and_verdict_are_printed(road: Road) -> None:
    road.laptop.key("alice")
    commit = road.laptop.commit()
    pushed = road.laptop.push()

    assert pushed.code == 0
    assert "+ key alice: is accepted from the next request" in pushed.said
    assert f"relayd: applied generation {road.generation()}: key alice added" in pushed.said
    assert road.node.commit() == commit
    assert road.last_applied()["commit"] == commit


def test_an_error_is_refused_at_its_place(road: Road) -> None:
    road.laptop.write("accounts.d/b.toml", 'kind = "simulator"\n\n\nweight = true\n')
    road.laptop.commit()

    said = refused(road)

    assert "accounts.d/b.toml:4:10: error[E-TYPE]" in said
    assert said.endswith(f"relayd: refused: 1 error\n{NOTHING}")


def test_a_scenario_that_does_not_hold_is_refused(road: Road) -> None:
    road.laptop.write("keys.d/dev.toml", (road.laptop.root / "keys.d/dev.toml").read_text() + 'models = ["x"]\n')
    road.laptop.commit()

    assert "tests.d/dev.toml:2:8: error[E-SCENARIO]: dev is served" in refused(road)


def test_a_change_that_the_guard_holds_needs_the_very_option_that_it_prints(road: Road) -> None:
    for key in (road.laptop.root / "keys.d").iterdir():
        if key.name != "dev.toml":
            key.unlink()
    commit = road.laptop.commit()

    said = refused(road)
    option = next(word for word in said.split() if word.startswith("relayd.accept="))
    assert "relayd: refused: HELD" in said

    assert "HELD" in refused(road, "-o", "relayd.accept=000000000000")
    pushed = road.laptop.push("-o", option)
    assert pushed.code == 0, pushed.all
    assert f"relayd: applied generation {road.generation()}" in pushed.said
    assert road.node.commit() == commit


def test_a_dry_run_shows_the_plan_and_changes_nothing(road: Road) -> None:
    road.laptop.key("dry")
    road.laptop.commit()

    said = refused(road, "-o", "relayd.dry-run")

    assert "+ key dry" in said
    assert "a dry run, as you asked" in said


def test_an_option_that_does_not_exist_is_named(road: Road) -> None:
    road.laptop.commit()

    assert "-o relayd.acept: there is no such option (known: accept" in refused(road, "-o", "relayd.acept=1")


def test_the_same_in_other_words_is_unchanged(road: Road) -> None:
    path = road.laptop.root / "keys.d/dev.toml"
    path.write_text("# a comment\n" + path.read_text())
    commit = road.laptop.commit()
    generation = road.generation()
    pushed = road.laptop.push()

    assert f"relayd: unchanged: generation {generation} runs on" in pushed.said
    assert road.node.commit() == commit

    road.laptop.write("README.md", "not config")
    road.laptop.commit()
    assert f"relayd: unchanged: generation {generation} runs on" in road.laptop.push().said


def test_another_branch_is_kept_and_said_not_to_run(road: Road) -> None:
    road.laptop.commit()
    before = road.node.commit()
    pushed = road.laptop.push(refs="HEAD:idea")

    assert pushed.code == 0
    assert "kept, and nothing changes here: this node runs the branch main" in pushed.said
    assert road.node.commit() == before


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_rewound_or_rewritten_branch_is_refused(road: Road, force: tuple[str, ...]) -> None:
    road.laptop.git("commit", "--quiet", "--amend", "-m", "rewritten")

    if force:
        assert "does not follow" in refused(road, *force)
    else:
        assert road.laptop.push().code != 0
    road.laptop.git("reset", "--quiet", "--hard", "node/main~1")
    assert "without force (to undo a change: git revert)" in refused(road, "--force")


def test_the_branch_cannot_be_deleted(road: Road) -> None:
    assert "cannot be deleted" in refused(road, refs=":main")


def test_a_revert_takes_the_change_back(road: Road) -> None:
    road.laptop.key("short-lived")
    road.laptop.commit()
    assert road.laptop.push().code == 0
    road.laptop.git("revert", "--no-edit", "HEAD")
    pushed = road.laptop.push()

    assert "key short-lived removed" in pushed.said


def link(laptop: Laptop, path: str, target: str) -> None:
    (laptop.root / path).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target, laptop.root / path)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("keys.d/out.toml", "/etc/hostname"),
        ("keys.d/out.toml", "../../relay.git/config"),
        ("keys.d/folder", "/etc"),
        ("extra.d", "/"),
        ("deny.toml", "/dev/zero"),
    ],
)
def test_a_link_out_of_the_tree_is_refused(road: Road, path: str, target: str) -> None:
    link(road.laptop, path, target)
    road.laptop.commit()

    assert f"{path}: error[E-UNREADABLE]: the link leads out of the tree" in refused(road)


def test_a_link_within_the_repository_is_what_it_leads_to(road: Road) -> None:
    text = (road.laptop.root / "accounts.d/sim.toml").read_text()
    road.laptop.write("..2026_01/mounted.toml", text)
    link(road.laptop, "..data", "..2026_01")
    link(road.laptop, "accounts.d/mounted.toml", "../..data/mounted.toml")
    link(road.laptop, "accounts.d/twin.toml", "sim.toml")
    road.laptop.write("shared/below.toml", text)
    link(road.laptop, "accounts.d/folder", "../shared")
    road.laptop.commit()

    assert "account below added, account mounted added, account twin added" in road.laptop.push().said
    for name in ("twin", "mounted", "folder/below"):
        path = road.node.tree / f"accounts.d/{name}.toml"
        assert (path.is_symlink(), path.read_text()) == (False, text)
    road.laptop.key("after-links")
    road.laptop.commit()
    assert "key after-links added" in road.laptop.push().said


def test_a_submodule_among_the_keys_is_refused(road: Road, tmp_path: Path) -> None:
    inner = Laptop(tmp_path / "inner")
    inner.write("a.toml", "")
    inner.git("init", "--quiet")
    inner.commit()
    road.laptop.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.root), "keys.d/sub")
    road.laptop.commit()

    assert "keys.d/sub: error[E-UNREADABLE]: this is a submodule" in refused(road)


def test_a_pointer_of_git_lfs_is_refused_as_one(road: Road) -> None:
    oid = "0" * 64
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 12\n"
    road.laptop.write("keys.d/large.toml", pointer)
    road.laptop.commit()

    assert "keys.d/large.toml:1:1: error[E-LFS-POINTER]" in refused(road)


def test_a_file_larger_than_any_of_a_tree_is_refused(road: Road) -> None:
    road.laptop.write("keys.d/huge.toml", "# " + "x" * (3 << 20) + "\n")
    road.laptop.commit()

    assert "keys.d/huge.toml:1:1: error[E-TOO-LARGE]" in refused(road)


def test_names_that_a_terminal_would_act_on_are_shown_escaped(road: Road) -> None:
    road.laptop.write("keys.d/a\x1b[2J\nb.toml", "")
    road.laptop.commit()

    said = refused(road)
    assert "keys.d/a\\x1b[2J\\nb.toml" in said


def test_what_was_pushed_reaches_no_shell(road: Road, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    words = f"$(touch {trap});`touch {trap}`"
    road.laptop.write(".gitattributes", "*.toml filter=run\n")
    road.laptop.write(f"keys.d/{words.replace('/', '_')}.toml", "x")
    road.laptop.write("hooks/pre-receive", f"#!/bin/sh\ntouch {trap}\n")
    road.laptop.write("relayd.py", f"open({str(trap)!r}, 'w')")
    road.laptop.commit(words)

    refused(road, "-o", f"relayd.accept={words}")
    assert not trap.exists()


def test_what_was_changed_on_the_node_is_told_and_not_lost(road: Road) -> None:
    before = road.generation()
    (road.node.tree / "deny.toml").write_text('keys = ["dev"]\n')
    try:
        road.daemon.wait_until(lambda: road.generation() > before, "a change")
        road.laptop.key("later")
        road.laptop.commit()

        said = refused(road)
        assert "changed on the node since" in said
        assert "deny.toml. Bring that into your tree first" in said
        assert "changed on the node since" in refused(road, "-o", "relayd.dry-run")
        pushed = road.laptop.push("-o", "relayd.overwrite")
        assert pushed.code == 0, pushed.all
        assert "key later added" in pushed.said
    finally:
        (road.node.tree / "deny.toml").unlink(missing_ok=True)


def test_what_was_revoked_on_the_node_holds_up_no_push_that_has_the_same(road: Road) -> None:
    words = ["revoke", "192.0.2.7", "--config"]
    done = relayd(*words, str(road.node.tree))
    assert done.stderr.endswith(": deny.toml changed\n"), done.stderr
    assert relayd(*words, str(road.laptop.root)).returncode == 0
    road.laptop.key("beside")
    road.laptop.commit()

    assert f"applied generation {road.generation() + 1}: key beside added" in road.laptop.push().said


def test_of_two_pushes_at_once_one_comes_in_and_the_other_is_told(road: Road, tmp_path: Path) -> None:
    others = [clone(tmp_path / name, road.node) for name in ("one", "two")]
    processes = []
    for number, laptop in enumerate(others):
        laptop.key(f"racer-{number}")
        laptop.commit()
        command = ["git", "-C", str(laptop.root), "push", "node", "HEAD:main"]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=60)[1] for process in processes]

    assert sorted(process.returncode != 0 for process in processes) == [False, True], said
    winner, loser = sorted(range(2), key=lambda number: processes[number].returncode != 0)
    assert f"key racer-{winner} added" in said[winner]
    assert "main has moved to" in said[loser] or "fetch first" in said[loser] or "non-fast-forward" in said[loser]
    assert road.node.commit() == others[winner].head()


def test_a_push_while_the_daemon_reloads_all_the_time_comes_in_as_any_other(road: Road) -> None:
    asker = argparse.Namespace(config=road.node.tree, control="")
    reloads: list[str] = []
    done = threading.Event()

    def reload_for_ever() -> None:
        while not done.is_set():
            reloads.append(ask(asker, verb="reload")["result"]["result"])

    others = [threading.Thread(target=reload_for_ever) for _ in range(2)]
    for other in others:
        other.start()
    try:
        road.laptop.key("amid")
        commit = road.laptop.commit()
        pushed = road.laptop.push()
    finally:
        done.set()
        for other in others:
            other.join()

    assert f"relayd: applied generation {road.generation()}: key amid added" in pushed.said
    assert (road.node.commit(), pushed.code) == (commit, 0)
    assert set(reloads) <= {"applied", "unchanged"}
    assert len(reloads) > 1


def test_serve_git_again_repairs_what_was_lost(road: Road) -> None:
    hook = road.node.bare / "hooks" / "pre-receive"
    text = hook.read_text()
    hook.unlink()
    before = road.node.versions / road.node.tip()
    (before / "REVISION").unlink()

    done = road.node.serve()

    assert done.returncode == 0, done.stderr
    assert hook.read_text() == text
    assert os.access(hook, os.X_OK)
    assert (before / "REVISION").exists()


def test_a_running_daemon_and_its_state_are_found_through_every_version(road: Road) -> None:
    done = relayd("status", "--config", str(road.node.tree))

    assert done.returncode in (0, 1), done.stderr
    assert road.node.tip()[:12] in done.stdout
    assert (road.node.versions / "var" / "relayd.db").exists()


def test_a_daemon_that_was_started_within_a_version_is_told_to_the_pusher(tmp_path: Path) -> None:
    node = make_node(tmp_path / "n")
    laptop = make_laptop(tmp_path / "laptop", str(node.bare))
    assert laptop.push().code == 0
    control = tmp_path / "c.sock"
    assert node.serve("--control", str(control)).returncode == 0
    with running(node.tree.resolve(), "--control", str(control)):
        laptop.key("next")
        laptop.commit()
        pushed = laptop.push()

    assert pushed.code == 0, pushed.all
    assert "the daemon here does not judge it" in pushed.said
    assert "is not a link to one of several trees" in pushed.said
    assert "rejected: tree " in pushed.said
