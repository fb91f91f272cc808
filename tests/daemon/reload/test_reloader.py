"""Reload of a living daemon: requests, rejections, guard, deny.toml, what waits for a restart, what systemd hears."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
from ports import free_port
from reload_world import FAST, World, key_of, living, make_tree, plant_reading

from relayd.config.compile import compile_tree
from relayd.config.snapshot import Snapshot
from relayd.config.source.tree import Tree, Unstable
from relayd.daemon.build import Daemon
from relayd.daemon.reload import candidate
from relayd.daemon.reload.candidate import Inspection
from relayd.daemon.reload.requests import Reload, Resume

SLOWLY = attrs.evolve(FAST, poll=30.0, interval=30.0)  # nothing but what is asked for


@attrs.define
class Gate:
    """Stops each reading of the tree once it has been made, until it is let through."""

    read: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0))
    go_on: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0))

    def install(self, daemon: Daemon) -> None:
        before = daemon.reload.reloader.inspector.reader.read

        def read(thorough: bool) -> Tree | Unstable:
            tree = before(thorough)
            self.read.release()
            assert self.go_on.acquire(timeout=60)
            return tree

        plant_reading(daemon, read)


# --- requests


async def test_an_edit_during_a_round_is_seen_by_the_next_one_whose_request_gets_the_next_result(
    tmp_path: Path,
) -> None:
    tree, gate = make_tree(tmp_path / "tree"), Gate()
    async with living(tree, watch=False, prepared=gate.install) as world:
        tree.account(more="priority = 1")
        first = world.queue.request("command")
        await trio.to_thread.run_sync(gate.read.acquire)
        tree.account(more="priority = 2")
        second = world.queue.request("sighup")
        third = world.queue.request("command")
        gate.go_on.release(2)
        one, two = await first.wait(), await second.wait()

        assert (one.result, two.result) == ("applied", "applied")
        assert two.generation == one.generation + 1
        assert (await third.wait()) is two
        assert world.priority() == 2


async def test_an_unchanged_tree_is_unchanged_and_nothing_is_touched(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        snapshot, transport = world.daemon.live.snapshot, dict(world.daemon.upstreams._by_proxy)
        results = [await world.reload() for _ in range(2)]

        assert [result.result for result in results] == ["unchanged", "unchanged"]
        assert world.generation == 1
        assert world.daemon.live.snapshot is snapshot
        assert world.daemon.upstreams._by_proxy == transport


async def test_a_comment_is_no_new_generation_but_a_new_revision(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.account(more="# said differently")
        result = await world.reload()

        assert (result.result, world.generation) == ("unchanged", 1)
        assert world.daemon.live.snapshot.revision == result.revision != ""
        assert world.status()["running"]["digest"] == result.digest


async def test_what_expects_another_tree_or_only_asks_changes_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.account(more="priority = 9")
        mismatch = await world.reload(expect="0123456789abcdef")
        dry = await world.reload(dry_run=True)

        assert mismatch.result == "rejected"
        assert "not 0123456789abcdef" in mismatch.reasons[0]
        assert (dry.result, dry.dry_run) == ("applied", True)
        assert dry.changes is not None
        assert "priority" in dry.changes.as_text()
        assert (world.generation, world.priority()) == (1, 50)

        expected = await world.reload(expect=dry.digest[:12])

        assert (expected.result, world.priority()) == ("applied", 9)


async def test_a_dry_run_does_not_keep_a_change_from_the_watcher(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, deaf=True, pace=attrs.evolve(FAST, poll=0.3)) as world:
        for number in (1, 2):
            tree.account(more=f"priority = {number}")
            await world.reload(dry_run=True)
            await world.reload(expect="0123456789abcdef")
            await world.until_generation(number + 1)


async def test_a_commit_can_be_expected_as_well_as_a_digest(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.git("init", "-q")
    tree.git("add", "-A")
    tree.git("commit", "-qm", "one")
    async with living(tree, watch=False) as world:
        tree.account(more="priority = 9")
        tree.git("commit", "-qam", "two")
        head = tree.git("rev-parse", "HEAD")
        wrong = await world.reload(expect="f" * 40)
        right = await world.reload(expect=head[:12])

        assert (wrong.result, right.result, right.commit) == ("rejected", "applied", head)
        assert world.status()["running"]["dirty"] == []


async def test_a_bug_in_a_round_is_a_result_and_the_next_round_works(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        reader = world.reloader.inspector.reader
        plant_reading(world.daemon, _broken)
        result = await world.reload()
        world.reloader.inspector.reader = reader
        tree.account(more="priority = 3")
        after = await world.reload()

        assert result.result == "rejected"
        assert "internal error" in result.reasons[0]
        assert "a planted bug" in world.events("reload.failed")[0]["traceback"]
        assert (after.result, world.priority()) == ("applied", 3)


def _broken(thorough: bool) -> Tree | Unstable:
    raise RuntimeError("a planted bug")


async def test_what_fails_after_a_swap_does_not_undo_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")

    class Failing:
        def adopt(self, old: Snapshot, new: Snapshot) -> None:
            raise RuntimeError("a planted bug")

        def restore(self, accounts: list[str]) -> None:
            pass

    async with living(tree, watch=False) as world:
        world.reloader.adoption = Failing()  # type: ignore[assignment]
        tree.account(more="priority = 3")

        assert (await world.reload()).result == "applied"
        assert world.priority() == 3
        assert world.events("reload.adopt_failed")


async def test_a_tree_that_does_not_hold_still_is_busy_and_taken_once_it_does(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.git("init", "-q")
    async with living(tree, pace=attrs.evolve(FAST, patience=0.2)) as world:
        for number in (1, 2):
            lock = tree.root / ".git" / "index.lock"
            lock.touch()
            tree.account(more=f"priority = {number}")
            result = await world.reload()

            assert result.result == "busy"
            assert "index.lock" in result.reasons[0]
            assert world.generation == number

            lock.unlink()
            await world.until_generation(number + 1)
            assert world.priority() == number


# --- validity


async def test_an_error_in_one_of_many_files_rejects_the_whole_and_traffic_goes_on(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=60)
    async with living(tree) as world:
        tree.account(more="priority = 1")
        tree.key(37, "wieght = 4\n")
        await world.until(lambda: world.status()["candidate"])
        first = world.metric("out_of_sync_seconds")
        await trio.sleep(0.05)
        (problem,) = [one for one in world.status()["candidate"]["problems"] if one["severity"] == "error"]

        assert (problem["file"], problem["line"], problem["column"]) == ("keys.d/k37.toml", 2, 1)
        assert (await world.call(37)).status == 200
        assert (world.generation, world.priority()) == (1, 50)
        assert world.metric("last_reload_successful") == 0
        assert world.metric("out_of_sync_seconds") > first >= 0
        assert world.status()["well"] is False


async def test_a_rejected_tree_is_complained_of_once_until_somebody_asks(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, pace=attrs.evolve(FAST, hash_every=0.05)) as world:
        tree.write("accounts.d/a.toml", "kind = ")
        await world.until(lambda: world.status()["candidate"])
        await trio.sleep(0.3)
        assert len(world.events("reload.rejected")) == 1

        assert (await world.reload()).result == "rejected"
        assert len(world.events("reload.rejected")) == 2


async def test_going_back_to_the_running_bytes_is_success_without_a_new_generation(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    good = (tree.root / "accounts.d/a.toml").read_bytes()
    async with living(tree) as world:
        for _ in range(2):
            tree.write("accounts.d/a.toml", "kind = ")
            await world.until(lambda: world.metric("last_reload_successful") == 0)
            tree.write("accounts.d/a.toml", good)
            await world.until(lambda: world.metric("last_reload_successful") == 1)

        assert world.generation == 1
        assert world.status()["well"] is True
        assert world.metric("out_of_sync_seconds") == 0


async def test_taking_away_most_keys_is_held_until_exactly_that_tree_is_accepted(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=20)
    async with living(tree, watch=False) as world:
        for number in range(1, 13):
            tree.remove(f"keys.d/k{number}.toml")
        held = await world.reload()
        tree.remove("keys.d/k13.toml")
        newer = await world.reload(accept=held.digest[:12])

        assert (held.result, newer.result) == ("held", "held")
        assert "12 of 20 keys would go" in held.reasons[0]
        assert world.metric("held") == 1
        assert (await world.call(12)).status == 200

        accepted = await world.reload(accept=newer.digest)

        assert (accepted.result, world.metric("held")) == ("applied", 0)
        assert [(await world.call(number)).status for number in (0, 12)] == [200, 401]


async def test_accounts_that_vanish_are_held_and_edits_after_their_return_are_applied(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree) as world:
        for round_ in (1, 2):
            (tree.root / "accounts.d").rename(tmp_path / f"away{round_}")
            await world.until(lambda: (world.status()["candidate"] or {}).get("result") == "held")
            assert (await world.call()).status == 200
            for edit in (1, 2):
                number = 2 * (round_ - 1) + edit
                tree.account(more=f"priority = {number}")
                await world.until_generation(number + 1)
                assert world.priority() == number


# --- deny.toml


async def test_a_key_denied_in_a_broken_tree_is_refused_at_once_also_on_an_open_connection(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=3)
    async with living(tree) as world:
        client = await world.connect()
        assert (await client.ask(key=key_of(1))).status == 200
        tree.write("relay.toml", "schema = ")
        tree.deny(1)
        await world.until(lambda: world.status()["keys"]["denied"])
        told = await client.ask(key=key_of(1))

        assert told.error == (401, "authentication_error", "Invalid API key: this key has been revoked")
        assert told["x-should-retry"] == "false"
        assert (await world.call(1)).status == 401
        assert (await world.call(2)).status == 200
        await world.until(lambda: (world.status()["candidate"] or {}).get("result") == "rejected")
        assert world.generation == 1

        tree.deny(1, 2)  # the second change, as broken as before
        await world.until(lambda: world.status()["keys"]["denied"] == 2)
        assert (await world.call(2)).status == 401


async def test_a_key_is_denied_before_anything_else_of_its_tree_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    async with living(tree, watch=False) as world:
        seen: list[bool] = []

        def compiling(*args: object, **more: object) -> object:
            seen.append("k1" in world.daemon.live.snapshot.deny.keys)
            return compile_tree(*args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(candidate, "compile_tree", compiling)
        tree.deny(1)
        only_asked = await world.queue.request("command", Reload(dry_run=True)).wait()
        result = await world.reload()

        assert (only_asked.result, result.result) == ("applied", "applied")
        assert seen == [False, True]


async def test_a_broken_deny_toml_keeps_what_was_denied(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    tree.deny(1)
    async with living(tree) as world:
        for text in ("keys = [", 'keys = "k1"\n'):
            tree.write("deny.toml", text)
            await world.until(lambda: world.metric("last_reload_successful") == 0)
            assert (await world.call(1)).status == 401


async def test_a_broken_tree_brings_no_denied_key_back_and_a_sound_one_does(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    tree.deny(1)
    async with living(tree) as world:
        tree.write("accounts.d/a.toml", "kind = ")
        tree.remove("deny.toml")
        await world.until(lambda: world.metric("last_reload_successful") == 0)
        assert (await world.call(1)).status == 401

        tree.account()
        await world.until_generation(2)
        assert (await world.call(1)).status == 200


# --- what waits for a restart


async def test_what_needs_a_restart_is_told_of_until_it_is_reverted_and_the_rest_is_applied(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree) as world:
        port, url = world.port(), world.daemon.live.snapshot.relay.state.url
        for round_ in (1, 2):
            tree.relay(f'[state]\nurl = "sqlite:elsewhere.db"\n[routing]\nreserve = 0.{round_}')
            await world.until_generation(2 * round_)
            (setting,) = world.status()["restart_required"]

            assert re.match(r"state\.url: .*elsewhere\.db", setting)
            assert world.daemon.live.snapshot.relay.routing.reserve == round_ / 10
            assert world.daemon.live.snapshot.relay.state.url == url
            assert world.metric("restart_required") == 1
            assert (await world.reload()).restart_required == (setting,)

            tree.relay()
            await world.until_generation(2 * round_ + 1)
            assert world.status()["restart_required"] == []
            assert world.metric("restart_required") == 0
        assert world.port() == port


async def test_another_realm_is_held_and_once_accepted_it_waits_for_a_restart_and_holds_up_nothing(
    tmp_path: Path,
) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.relay(realm="other")
        held = await world.reload()
        accepted = await world.reload(accept=held.digest)
        tree.account(more="priority = 1")
        after = await world.reload()

        assert (held.result, accepted.result, after.result) == ("held", "unchanged", "applied")
        assert after.restart_required == ('realm: "test" -> "other"',)
        assert world.daemon.live.snapshot.relay.realm == "test"


# --- listeners


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


async def test_a_new_address_is_open_before_an_old_one_is_closed_and_connections_live_on(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.relay(listen=f'"{free_address()}"')  # no port that the kernel gives to others once it is free
    async with living(tree, watch=False) as world:
        old_port = world.port()
        client = await world.connect()
        for round_ in (1, 2):
            address = free_address()
            tree.relay(listen=f'"{address}"')
            result = await world.reload()

            assert result.result == "applied"
            assert list(world.listening) == [address]
            assert (await world.call()).status == 200
            assert (await client.ask()).status == 200, f"round {round_}"
        with pytest.raises(OSError):
            await world.connect(old_port)


async def test_an_address_that_stays_keeps_its_socket(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        (kept,) = world.listening["127.0.0.1:0"]
        tree.relay(listen=f'"127.0.0.1:0", "{free_address()}"')

        assert (await world.reload()).result == "applied"
        assert world.listening["127.0.0.1:0"] == [kept]
        assert len(world.listening) == 2


async def test_an_address_that_cannot_be_had_rejects_the_tree_and_leaves_no_trace(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        taken = f"127.0.0.1:{world.port()}"
        tree.relay("[routing]\nreserve = 0.5", listen=f'"127.0.0.1:0", "{free_address()}", "{taken}"')
        result = await world.reload()

        assert result.result == "rejected"
        assert result.reasons[0].startswith(f"server.listen: [Errno 98] {taken}: cannot listen:")
        assert list(world.listening) == ["127.0.0.1:0"]
        assert world.daemon.live.snapshot.relay.routing.reserve != 0.5
        assert (await world.call()).status == 200


# --- systemd


def by_systemd(daemon: Daemon, told: list[str]) -> None:
    daemon.reload.reloader.notices.send = told.append


async def test_systemd_hears_of_a_reload_by_signal_and_of_its_end_once_whatever_came_of_it(tmp_path: Path) -> None:
    tree, told = make_tree(tmp_path / "tree"), []
    async with living(tree, watch=False, prepared=lambda daemon: by_systemd(daemon, told)) as world:
        steps: list[tuple[Callable[[], None], str, str]] = [
            (lambda: tree.account(more="priority = 1"), "applied", "generation 2 "),
            (lambda: tree.account(more="priority = "), "rejected", "REJECTED accounts.d/a.toml:2:"),
            (lambda: _break(world), "rejected", "REJECTED an internal error"),
        ]
        for act, result, words in steps:
            act()
            told.clear()
            asked_at = time.monotonic_ns() // 1000
            assert (await world.reload("sighup")).result == result
            begin, end = told

            assert begin.startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert int(begin.rpartition("=")[2]) >= asked_at
            assert end.startswith("READY=1\nSTATUS=")
            assert words in end


def _break(world: World) -> None:
    plant_reading(world.daemon, _broken)


async def test_systemd_hears_of_a_reload_that_nobody_signalled_only_in_the_status_line(tmp_path: Path) -> None:
    tree, told = make_tree(tmp_path / "tree"), []
    async with living(tree, watch=False, prepared=lambda daemon: by_systemd(daemon, told)) as world:
        tree.account(more="priority = 1")
        await world.reload()
        await world.reload()

        assert [line.partition("=")[0] for line in told] == ["STATUS"]


# --- settings that others than calls read


async def test_the_log_goes_by_its_new_settings(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.relay('[log]\nlevel = "error"\naccess = true')
        await world.reload()
        tree.account(more="priority = 1")
        await world.reload()
        await world.call()

        await world.until(lambda: world.events("call.done"), "the line of the call")
        assert len(world.events("reload.applied")) == 0
        assert len(world.events("call.done")) == 1


async def test_resume_without_a_rollback_is_a_reload(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.account(more="priority = 1")

        assert (await world.ask(Resume(), "resume")).result == "applied"


def test_an_inspection_of_nothing_new_costs_no_compile() -> None:
    inspection = Inspection(tree=Tree(files={}, digest="0" * 64))

    assert (inspection.snapshot, inspection.acts, inspection.restart) == (None, False, ())
