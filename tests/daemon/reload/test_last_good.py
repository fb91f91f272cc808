"""History: what a node starts with, and going back: stored generations, DEGRADED, exit 78, rollback and resume."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio
from reload_world import FAST, RELAYD, Tree, World, living, make_tree
from waiting import wait_until

from relayd.daemon.accounts.node_defects import NodeDefects
from relayd.daemon.reload.boot import NoStart, Start, find_start
from relayd.daemon.reload.candidate import TreeReader
from relayd.daemon.reload.history import History
from relayd.daemon.reload.requests import Resume, Rollback


async def stored(world: World, number: int) -> None:
    """Wait until what runs has proved itself."""
    await world.until(lambda: number in world.history.numbers(), f"stored generation {number}")


def digests(history: History) -> list[str]:
    return [history.load(number, "")[1].digest for number in history.numbers()]


def start(tree: Tree, *, strict: bool = False) -> Start | NoStart:
    """What a node of this tree would start with now."""
    reader = TreeReader(tree=tree.root, wall=time.time, patience=0.2, quiet=0.0)
    state = f"sqlite:{tree.root.parent}/{tree.root.name}.node/relayd.db"
    return find_start(reader, state_url=state, strict=strict)


async def make_last_good(tree: Tree, priority: int = 7) -> None:
    """Run a daemon until the tree counts as good."""
    tree.account(more=f"priority = {priority}")
    async with living(tree, watch=False) as world:
        await stored(world, 1)


# --- keeping


async def test_a_config_is_stored_once_it_has_run_for_a_while_and_not_before(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False, pace=attrs.evolve(FAST, proof=0.4)) as world:
        tree.account(more="priority = 1")
        began = trio.current_time()
        digest = (await world.reload()).digest
        await world.until(lambda: digest in digests(world.history), "what runs to be stored")
        assert trio.current_time() - began >= 0.4
        assert digest == world.status()["running"]["digest"]
        assert os.stat(world.history.directory).st_mode & 0o777 == 0o700


async def test_a_store_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    (tmp_path / "tree.node").mkdir()
    (tmp_path / "tree.node" / "generations").write_text("in the way")
    async with living(tree, watch=False) as world:
        await world.until(lambda: world.events("reload.store_failed"))
        tree.account(more="priority = 1")

        assert (await world.reload()).result == "applied"


class SlowToLook(NodeDefects):
    """Takes longer than it takes to hear of the swap."""

    async def look(self) -> None:
        await trio.sleep(0.3)


async def test_a_config_is_stored_although_secrets_are_looked_for_after_its_swap(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        await world.until(lambda: world.history.numbers() == [1])
        before = world.reloader.defects
        world.reloader.defects = SlowToLook(
            live=before.live,
            pool=before.pool,
            credentials=before.credentials,
            credential=before.credential,
            identities=before.identities,
            wall=before.wall,
        )
        tree.account(more="priority = 1")

        assert (await world.reload()).result == "applied"
        await world.until(lambda: world.history.numbers() == [2, 1])


# --- starting


async def test_a_node_that_starts_onto_a_broken_tree_serves_the_last_good_one_and_says_degraded(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=3)
    await make_last_good(tree)
    tree.account(more="priority = ")
    tree.deny(1)
    async with living(tree) as world:
        assert world.priority() == 7
        assert (await world.call()).status == 200
        assert (await world.call(1)).status == 401, "deny.toml of the broken tree acts"
        assert "degraded: the tree has errors" in world.status()["ailments"][0]
        assert world.metric("degraded") == 1
        assert world.events("reload.degraded")
        assert world.status()["candidate"]["problems"]

        tree.account(more="priority = 9")
        await world.until(lambda: world.priority() == 9)
        assert (world.status()["degraded"], world.metric("degraded")) == ("", 0)
        assert world.metric("last_reload_successful") == 1


async def test_a_tree_that_is_missing_at_the_start_is_taken_when_it_appears(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    await make_last_good(tree)
    for number in (1, 2):
        away = tree.root.rename(tmp_path / f"away{number}")
        link = tmp_path / "tree"
        if number == 2:
            link.symlink_to("nowhere")  # a dangling link this time
        async with living(tree, path=tree.root) as world:
            assert world.status()["degraded"]
            if number == 2:
                link.unlink()
            away.rename(tree.root)
            tree.account(more=f"priority = {20 + number}")
            await world.until(lambda number=number: world.priority() == 20 + number)
            assert world.status()["degraded"] == ""


async def test_without_a_last_good_one_or_when_told_to_be_strict_a_node_does_not_start(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    broken = make_tree(tmp_path / "broken")
    await make_last_good(tree)
    tree.account(more="priority = ")
    broken.account(more="priority = ")

    assert isinstance(start(tree), Start)
    assert isinstance(start(tree, strict=True), NoStart)
    assert isinstance(start(broken), NoStart)


async def test_a_corrupted_store_is_passed_over_with_a_reason(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    await make_last_good(tree)
    place = tmp_path / "tree.node" / "generations" / "generation-1"
    (place.parent / "generation-2").write_bytes(place.read_bytes()[:-1])
    tree.account(more="priority = ")
    found = start(tree)
    assert isinstance(found, Start)
    assert found.origin.stored == 1
    assert found.notes[0].startswith("generation 2: its digest is wrong")

    place.write_bytes(b"")
    assert isinstance(start(tree), NoStart)


async def test_a_generation_of_another_realm_is_not_taken(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    await make_last_good(tree)
    tree.relay(realm="other")
    tree.account(more="priority = ")
    found = start(tree)

    assert isinstance(found, NoStart)
    assert "generation 1: it is of realm test, not other" in found.notes


# --- going back


async def test_a_rollback_holds_until_it_is_resumed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree) as world:
        await stored(world, 1)
        tree.account(more="priority = 5")
        await world.until_generation(2)
        await stored(world, 2)
        for round_ in (1, 2):
            back = await world.ask(Rollback(generation=None if round_ == 1 else 1), "rollback")
            assert (back.result, world.priority()) == ("applied", 50)
            tree.account(more=f"priority = {round_}")
            await world.until(lambda: (world.status()["candidate"] or {}).get("digest"))
            assert world.priority() == 50
            assert "rolled back to generation 1" in world.status()["candidate"]["reasons"][0]
            assert (await world.reload()).result == "held"
            assert world.metric("held") == 1

            resumed = await world.ask(Resume(), "resume")
            assert (resumed.result, world.priority()) == ("applied", round_)
            assert world.metric("held") == 0
            tree.account(more="priority = 5")
            await world.until(lambda: world.priority() == 5)


async def test_a_rollback_survives_a_restart(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    await make_last_good(tree, priority=7)
    tree.account(more="priority = 8")
    async with living(tree) as world:
        assert (await world.ask(Rollback(generation=1), "rollback")).result == "applied"
    async with living(tree) as world:
        assert world.priority() == 7
        assert world.status()["held_generation"] == 1
        await world.ask(Resume(), "resume")
        assert world.priority() == 8
    async with living(tree) as world:
        assert (world.priority(), world.status()["held_generation"]) == (8, 0)


async def test_a_rollback_does_not_let_revoked_keys_in_again_unless_told_to(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=6)
    async with living(tree, watch=False) as world:
        await stored(world, 1)
        tree.deny(1)
        tree.key(2, "enabled = false\n")
        tree.remove("keys.d/k3.toml")
        assert (await world.reload()).result == "applied"
        refused = await world.ask(Rollback(generation=1), "rollback")

        assert refused.result == "rejected"
        assert "let revoked keys in again: k2, k3 (--allow-unrevoke" in refused.reasons[0]
        assert (await world.call(1)).status == 401
        assert world.status()["held_generation"] == 0

        allowed = await world.ask(Rollback(generation=1, allow_unrevoke=True), "rollback")
        assert allowed.result == "applied"
        assert [(await world.call(number)).status for number in (1, 2, 3)] == [401, 200, 200]  # deny.toml is obeyed


async def test_a_deny_entry_acts_during_a_rollback(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    async with living(tree) as world:
        await stored(world, 1)
        assert (await world.ask(Rollback(generation=1), "rollback")).result == "applied"
        tree.deny(1)
        await world.until(lambda: world.status()["keys"]["denied"])
        assert (await world.call(1)).status == 401
        assert world.status()["held_generation"] == 1


async def test_what_deny_toml_refused_before_a_rollback_stays_refused(tmp_path: Path) -> None:
    """Addresses and accounts too, which no key of the older tree tells of."""
    tree = make_tree(tmp_path / "tree", keys=2)
    async with living(tree, watch=False) as world:
        await stored(world, 1)
        tree.account("b")
        tree.write("deny.toml", 'accounts = ["a"]\nips = ["203.0.113.0/24"]\nkeys = ["later"]\n')
        assert (await world.reload()).result == "applied"
        assert (await world.ask(Rollback(generation=1), "rollback")).result == "applied"
        deny = world.daemon.live.snapshot.deny

        assert (deny.accounts, deny.ips, deny.keys) == (("a",), ("203.0.113.0/24",), ("later",))


async def test_a_deny_entry_acts_while_a_tree_is_held_after_rollback_and_resume(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=6)
    async with living(tree, watch=False) as world:
        await stored(world, 1)
        tree.deny(1)
        assert (await world.reload()).result == "applied"
        assert (await world.ask(Rollback(generation=1, allow_unrevoke=True), "rollback")).result == "applied"
        for number in (2, 3, 4, 5):  # more than the guard lets go at once
            tree.remove(f"keys.d/k{number}.toml")
        resumed = await world.ask(Resume(), "resume")

        assert (resumed.result, world.status()["held_generation"]) == ("held", 0)
        assert [(await world.call(number)).status for number in (0, 1)] == [200, 401]


async def test_a_deny_entry_acts_while_the_tree_does_not_hold_still(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    tree.git("init", "-q")
    async with living(tree, watch=False, pace=attrs.evolve(FAST, patience=0.1)) as world:
        (tree.root / ".git" / "index.lock").touch()  # as git has it while it rewrites a work tree
        tree.deny(1)
        assert (await world.reload()).result == "busy"
        assert (await world.call(1)).status == 401
        assert (await world.call(0)).status == 200


async def test_a_rollback_to_nothing_says_what_there_is(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False, pace=attrs.evolve(FAST, proof=60.0)) as world:
        none = await world.ask(Rollback(), "rollback")
        nine = await world.ask(Rollback(generation=9), "rollback")

        assert "no other generation is stored yet" in none.reasons[0]
        assert nine.reasons[0] == "generation 9: it cannot be read: no such file or directory (stored: none)"
        assert world.generation == 1


def test_what_is_held_is_remembered_and_forgotten(tmp_path: Path) -> None:
    store = History(tmp_path)
    assert store.held() == 0
    store.hold(12)
    assert store.held() == 12
    store.hold(0)
    store.hold(0)
    assert store.held() == 0


# --- as a process


@contextmanager
def daemon(tree: Tree, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`relayd run` on a tree, for the length of the block."""
    node = tree.root.parent / "process"
    command = [*RELAYD, "run", "--config", str(tree.root), "--control", str(node / "c.sock"), *words]
    command += ["--state", f"sqlite:{node}/relayd.db"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def lines_until(process: subprocess.Popen[str], event: str) -> list[str]:
    """The lines of the log, up to the first one of an event."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if f'"event":"{event}"' in line:
            return lines
    raise AssertionError("".join(lines))


def test_a_broken_tree_and_nothing_stored_is_exit_78_with_the_problems_on_stderr(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.account(more="wieght = 3")
    with daemon(tree) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 78
    assert "accounts.d/a.toml:2:1: error[E-UNKNOWN-KEY]" in errors
    assert "no stored generation can be taken" in errors


def test_sighup_before_the_tree_is_read_is_survived_and_answered_by_one_reload(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.git("init", "-q")
    lock = tree.root / ".git" / "index.lock"
    lock.touch()  # the start waits for git, for up to 10 s
    with daemon(tree, "--no-watch") as process:
        wait_until(lambda: _catches(process.pid, signal.SIGHUP), "its handler")
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
        lock.unlink()
        lines = lines_until(process, "reload.unchanged")
        assert any('"event":"daemon.listening"' in line for line in lines)
        process.send_signal(signal.SIGHUP)
        more = lines_until(process, "reload.unchanged")
        process.terminate()
        rest, code = process.communicate(timeout=60)[1], process.returncode

    assert code == 0
    assert sum('"reload.' in line for line in [*lines, *more, *rest.splitlines()]) == 2


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (proc(5), SigCgt)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(line.startswith("SigCgt:") and int(line.split()[1], 16) >> (number - 1) & 1 for line in lines)


def test_killed_at_any_moment_a_daemon_starts_again_with_the_tree_or_a_whole_generation(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    for number in range(3):
        tree.account(more=f"priority = {number}")
        with daemon(tree) as process:
            lines_until(process, "daemon.listening")
            tree.account(more=f"priority = {number + 50}")
            time.sleep(0.15 * number)
            process.kill()
            process.wait()
        found = start(tree)
        assert isinstance(found, Start)
        assert found.snapshot.accounts["a"].priority in (number, number + 50)
