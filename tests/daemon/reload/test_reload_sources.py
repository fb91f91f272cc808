"""Where trees come from, on a living daemon under traffic: git at work, slow copies, odd files, no inotify."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
import trio
from daemon import control_answer
from fakes import ASK, Cut
from ports import free_port
from reload_world import FAST, KEY, RELAYD, Tree, World, living, make_tree
from waiting import wait_until

from relayd.config.source.provenance import write_manifest
from relayd.config.source.tree import read_files


@asynccontextmanager
async def traffic(world: World) -> AsyncIterator[list[int]]:
    """Calls without end, each on an open connection; at the end all of them must have been served."""
    statuses: list[int] = []
    failures: list[str] = []

    async def call_for_ever() -> None:
        client = await world.connect()
        try:
            while True:
                statuses.append((await client.ask()).status)
                await trio.sleep(0.01)
        except (Cut, OSError) as error:
            failures.append(repr(error))

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(call_for_ever)
        yield statuses
        await world.until(lambda: statuses, "a call")
        nursery.cancel_scope.cancel()
    assert failures == []
    assert set(statuses) == {200}


def candidate(world: World) -> dict[str, Any]:
    return world.status()["candidate"] or {}


def busy(world: World, why: str) -> bool:
    """Whether the tree is held to be in motion, for a reason with these words."""
    found = candidate(world)
    return found.get("result") == "busy" and why in found["reasons"][0]


def make_repository(root: Path) -> Tree:
    tree = make_tree(root, keys=3)
    tree.git("init", "-q", "-b", "main")
    tree.git("add", "-A")
    tree.git("commit", "-qm", "one")
    return tree


# --- git


async def test_a_merge_conflict_holds_everything_up_until_it_is_given_up_or_resolved(tmp_path: Path) -> None:
    tree = make_repository(tmp_path / "tree")
    for branch, priority in (("ours", 1), ("theirs", 2)):
        tree.git("checkout", "-q", "-B", branch, "main")
        tree.account(more=f"priority = {priority}")
        tree.git("commit", "-qam", branch)
    tree.git("checkout", "-q", "main")
    async with living(tree, pace=attrs.evolve(FAST, patience=0.3)) as world, traffic(world):
        tree.git("merge", "-q", "ours")
        await world.until(lambda: world.priority() == 1)
        for round_ in (1, 2):
            with pytest.raises(subprocess.CalledProcessError):
                tree.git("merge", "-q", "theirs")
            await world.until(lambda: busy(world, "a git merge is not finished (MERGE_HEAD)"))
            assert world.metric("last_reload_successful") == 0
            assert world.priority() == 1
            if round_ == 1:
                tree.git("merge", "--abort")
            else:
                tree.account(more="priority = 3")
                tree.git("commit", "-qam", "both")
            await world.until(lambda: world.metric("last_reload_successful") == 1)
        await world.until(lambda: world.priority() == 3)
        assert world.status()["running"]["commit"] == tree.git("rev-parse", "HEAD")


async def test_what_runs_is_proved_to_be_a_commit_or_named_with_its_dirty_paths(tmp_path: Path) -> None:
    tree = make_repository(tmp_path / "tree")
    async with living(tree) as world, traffic(world):
        for number in (1, 2):
            tree.account(more=f"priority = {number}")
            await world.until(lambda number=number: world.priority() == number)
            assert world.status()["running"]["dirty"] == ["accounts.d/a.toml"]

            tree.git("commit", "-qam", "committed")
            await world.until(lambda: world.status()["running"]["dirty"] == [])
            head = tree.git("rev-parse", "HEAD")
            assert world.status()["running"]["commit"] == head
            assert world.metric("last_reload_successful") == 1
        tree.git("checkout", "-q", "--detach", "HEAD~2")
        tree.git("pack-refs", "--all")
        await world.until(lambda: world.priority() == 50)
        await world.until(lambda: world.status()["running"]["commit"] == tree.git("rev-parse", "HEAD"))
        assert world.status()["running"]["dirty"] == []


async def test_a_lock_that_a_dead_git_left_behind_holds_nothing_up_for_ever(tmp_path: Path) -> None:
    tree = make_repository(tmp_path / "tree")
    lock = tree.root / ".git" / "index.lock"
    async with living(tree, pace=attrs.evolve(FAST, patience=0.3)) as world, traffic(world):
        for number in (1, 2):
            lock.touch()
            tree.account(more=f"priority = {number}")
            await world.until(lambda: candidate(world).get("result") == "busy")
            old = time.time() - 120
            os.utime(lock, (old, old))
            await world.until(lambda number=number: world.priority() == number)

            result = await world.reload()
            assert [problem.code for problem in result.problems] == ["W-GIT-STALE-LOCK"]
            assert world.metric("last_reload_successful") == 1
            lock.unlink()


# --- copies


async def test_a_slow_copy_with_a_manifest_is_applied_once_it_is_whole_and_never_before(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=4)
    tree.write("manifest.toml", write_manifest(read_files(tree.root), "first"))
    source = Tree(Path(shutil.copytree(tree.root, tmp_path / "source")))
    async with living(tree, pace=attrs.evolve(FAST, patience=0.1)) as world, traffic(world):
        for round_ in (1, 2):
            for name in ("a", "b", "c"):
                source.account(name, f"priority = {round_}")
            source.key(0, f"[limits]\nconcurrency = {50 + round_}\n")
            source.write("manifest.toml", write_manifest(read_files(source.root), f"commit-{round_}"))
            names = ["manifest.toml", "accounts.d/a.toml", "keys.d/k0.toml", "accounts.d/b.toml", "accounts.d/c.toml"]
            for name in names if round_ == 1 else reversed(names):
                assert world.generation == round_
                tree.write(name, (source.root / name).read_bytes())
                if name != (names[-1] if round_ == 1 else names[0]):
                    await world.until(lambda: busy(world, "manifest.toml"), "busy")
                    await trio.sleep(3 * FAST.quiet)  # longer than it has to be quiet
            await world.until_generation(round_ + 1)
            assert world.priority("c") == round_
            assert world.status()["running"]["commit"] == f"commit-{round_}"
            assert world.metric("last_reload_successful") == 1


# --- odd files


def fifo(place: Path) -> None:
    os.mkfifo(place)


def loop(place: Path) -> None:
    place.symlink_to(place.name)


def dangling(place: Path) -> None:
    place.symlink_to("nowhere.toml")


def outside(place: Path) -> None:
    place.symlink_to("/etc/hostname")


def holding(data: bytes) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        place.write_bytes(data)

    return write


ODD = [
    ("a pipe", fifo, "E-UNREADABLE"),
    ("a loop of links", loop, "E-UNREADABLE"),
    ("a dangling link", dangling, "E-UNREADABLE"),
    ("a link out of the tree", outside, "E-UNREADABLE"),
    ("5 MiB", holding(b"#" * (5 << 20)), "E-TOO-LARGE"),
    ("no UTF-8", holding(b'kind = "simulator"\nname = "\xe9"\n'), "E-ENCODING"),
    ("a byte order mark", holding(b'\xef\xbb\xbfkind = "simulator"\n'), "E-BOM"),
    ("merge markers", holding(b"<<<<<<< HEAD\n=======\n>>>>>>> other\n"), "E-MERGE-MARKER"),
    ("a NUL", holding(b'kind = "simulator"\0\n'), "E-SYNTAX"),
]


async def test_no_odd_file_stops_the_daemon_and_each_is_named_until_it_is_gone(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    place = tree.root / "accounts.d" / "x.toml"
    async with living(tree, pace=attrs.evolve(FAST, patience=1.0)) as world, traffic(world):
        for what, make, code in [*ODD, *ODD[:2]]:
            make(place)
            await world.until(lambda: candidate(world).get("problems"), what)
            (problem,) = [one for one in candidate(world)["problems"] if one["severity"] == "error"]
            assert (problem["file"], problem["code"]) == ("accounts.d/x.toml", code), what
            assert world.metric("last_reload_successful") == 0
            place.unlink()
            await world.until(lambda: world.metric("last_reload_successful") == 1, f"health after {what}")
        assert world.generation == 1
        place.write_bytes(b'kind = "simulator"\r\npriority = 4\r\n')  # line ends of another system are no problem
        await world.until(lambda: "x" in world.daemon.live.snapshot.accounts)


# --- a machine without inotify


@contextmanager
def without_inotify(tree: Tree, port: int, node: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon whose user may have no inotify instance at all (namespaces(7), /proc/sys/user)."""
    run = [*RELAYD, "run", "--config", str(tree.root), "--listen", f"127.0.0.1:{port}"]
    run += ["--control", str(node / "c.sock"), "--state", f"sqlite:{node}/relayd.db"]
    limit = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    with open(node / "log", "wb") as log:
        process = subprocess.Popen(["unshare", "-r", "sh", "-c", limit, "sh", *run], stderr=log, stdout=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ask(node: Path, verb: str) -> Any:
    return control_answer(node / "c.sock", verb)


def may_unshare() -> bool:
    done = subprocess.run(
        ["unshare", "-r", "sh", "-c", "echo 0 > /proc/sys/user/max_inotify_instances"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("unshare") is None or not may_unshare(), reason="no user namespaces here"
)
def test_where_inotify_is_exhausted_the_daemon_starts_polls_and_says_so(tmp_path: Path) -> None:
    tree, node = make_tree(tmp_path / "tree"), tmp_path / "node"
    node.mkdir()
    port = free_port()
    url, headers = f"http://127.0.0.1:{port}/v1/messages", {"x-api-key": KEY}
    with without_inotify(tree, port, node):
        wait_until(lambda: ask(node, "status")["status"]["watch"]["failure"], "the watcher's failure")
        watch = ask(node, "status")["status"]["watch"]
        assert watch["backend"] == "poll"
        assert "raise fs.inotify.max_user_instances" in watch["failure"]
        assert 'relayd_config_watch_backend{backend="poll"} 1' in ask(node, "metrics")["metrics"]
        for number in (1, 2):
            tree.account(more=f"priority = {number}")
            wait_until(lambda number=number: ask(node, "status")["status"]["running"]["generation"] > number, "reload")
            assert httpx2.post(url, content=ASK, headers=headers, trust_env=False, timeout=60).status_code == 200
