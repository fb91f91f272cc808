"""Pull mode: a daemon that follows a branch of a git repository by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from daemon import alive
from pull_world import Origin, allowed, gpg_home, make_origin, new_key, pulling, stop_agent
from reload_world import World

from relayd.cli import main
from relayd.cli.status import in_words
from relayd.daemon.admin.metrics import metrics_text
from relayd.daemon.reload.requests import Resume, Rollback


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return make_origin(tmp_path)


async def until_priority(world: World, priority: int) -> None:
    await world.until(lambda: world.priority() == priority, f"priority {priority}")


async def until_held(world: World, commit: str) -> None:
    def held() -> bool:
        found = world.status()["source"]["held"]
        return found is not None and found["commit"] == commit

    await world.until(held, f"a hold of {commit}")


def source_metrics(world: World) -> dict[str, float]:
    lines = metrics_text(world.sources, time.time()).splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("relayd_source_")]
    return {name: float(value) for name, _, value in found}


# --- following


async def test_a_push_runs_by_itself_and_status_says_where_from_and_when(origin: Origin) -> None:
    async with pulling(origin) as world:
        assert world.priority() == 1
        commit = origin.publish(2)
        await until_priority(world, 2)
        status = world.status()

        assert (status["running"]["commit"], status["running"]["dirty"]) == (commit, [])
        assert status["running"]["trigger"] == "source"
        assert status["tree"] == status["source"]["url"] == origin.url
        assert (status["source"]["taken"], status["source"]["head"], status["source"]["error"]) == (commit, commit, "")
        assert status["well"], status["ailments"]
        assert f"source: commit {commit[:12]} taken, fetched " in in_words(status)
        assert (await world.call()).status == 200


async def test_a_webhook_or_a_command_fetches_at_once(origin: Origin) -> None:
    async with pulling(origin, interval=None) as world:
        commit = origin.publish(2)

        result = await world.reload("http", expect=commit[:12])

        assert (result.result, result.commit, world.priority()) == ("applied", commit, 2)
        origin.publish(3)
        assert (await world.reload("command", dry_run=True)).result == "applied"
        assert world.priority() == 2  # a dry run fetches and changes nothing
        assert (await world.reload("sighup")).result == "applied"
        assert world.priority() == 3


async def test_diff_on_the_node_compares_what_runs_with_what_would_be_pulled(
    origin: Origin, capsys: pytest.CaptureFixture[str]
) -> None:
    async with pulling(origin, interval=None) as world:
        origin.publish(2)
        words = ["diff", "--config", str(world.tree.root), "--control", str(world.control_path)]

        assert await trio.to_thread.run_sync(main, words) == 2
        assert "priority" in capsys.readouterr().out


async def test_a_broken_push_changes_nothing_and_is_told_with_its_place(origin: Origin) -> None:
    async with pulling(origin, interval=None) as world:
        origin.tree.account(more="priority = no")
        origin.commit()
        origin.push()

        result = await world.reload()

        assert result.result == "rejected"
        assert [problem.file for problem in result.problems if problem.severity == "error"] == ["accounts.d/a.toml"]
        assert (world.priority(), (await world.call()).status) == (1, 200)
        origin.publish(4)
        assert (await world.reload()).result == "applied"


async def test_rollback_and_resume_work_as_with_a_directory(origin: Origin) -> None:
    async with pulling(origin, interval=None) as world:
        await world.until(lambda: 1 in world.history.numbers())
        origin.publish(2)
        await world.reload()
        assert (await world.ask(Rollback(), "rollback")).result == "applied"
        assert world.priority() == 1
        origin.publish(3)
        assert (await world.reload()).result == "held"
        assert world.priority() == 1
        assert (await world.ask(Resume(), "resume")).result == "applied"
        assert world.priority() == 3


async def test_what_the_guard_holds_is_held_and_accepted_by_its_digest(tmp_path: Path) -> None:
    origin = make_origin(tmp_path)
    for number in range(1, 8):
        origin.tree.key(number)
    origin.commit()
    origin.push()
    async with pulling(origin, interval=None) as world:
        for number in range(1, 8):
            origin.tree.remove(f"keys.d/k{number}.toml")
        origin.commit()
        origin.push()

        held = await world.reload()

        assert (held.result, len(world.daemon.live.snapshot.keys)) == ("held", 8)
        assert (await world.reload(accept=held.accept)).result == "applied"
        assert len(world.daemon.live.snapshot.keys) == 1


async def test_deny_toml_acts_although_the_rest_of_its_commit_is_broken(origin: Origin) -> None:
    async with pulling(origin) as world:
        origin.tree.deny(0)
        origin.tree.account(more="priority = no")
        origin.commit()
        origin.push()

        await world.until(lambda: world.daemon.live.snapshot.deny.keys)

        assert (await world.call()).status == 401


# --- branches that do not go forward


async def test_a_rewound_branch_is_held_until_its_head_is_named_on_the_node(origin: Origin) -> None:
    async with pulling(origin) as world:
        first = origin.head()
        second = origin.publish(2)
        await until_priority(world, 2)
        origin.tree.git("reset", "--quiet", "--hard", first)
        origin.push("--force")
        await until_held(world, first)

        status, metrics = world.status(), source_metrics(world)
        told = await world.reload()
        by_http = await world.reload("http", accept=first)

        assert (world.priority(), status["well"], metrics["relayd_source_held"]) == (2, False, 1)
        assert status["source"]["held"]["reasons"] == [
            f"the branch was rewound: {first[:12]} does not follow {second[:12]}"
        ]
        assert status["ailments"] == [f"the source is held at {second[:12]}: {status['source']['held']['reasons'][0]}"]
        assert f"`relayd reload --accept {first[:12]}` takes it all the same" in in_words(status)
        assert (told.result, told.accept, by_http.result) == ("held", first[:12], "held")
        assert (await world.reload(accept=first[:12])).result == "applied"
        assert (world.priority(), world.status()["well"]) == (1, True)
        origin.publish(3)
        await until_priority(world, 3)


async def test_a_forced_push_is_held_and_a_later_honest_one_ends_that(origin: Origin) -> None:
    async with pulling(origin) as world:
        kept = origin.publish(2)
        await until_priority(world, 2)
        origin.tree.git("commit", "--quiet", "--amend", "-m", "another history")
        forced = origin.push("--force")
        await until_held(world, forced)
        assert "was replaced (a forced push)" in world.status()["source"]["held"]["reasons"][0]

        origin.tree.git("reset", "--quiet", "--hard", kept)
        origin.tree.account(more="priority = 5")
        origin.commit()
        origin.push("--force")

        await until_priority(world, 5)
        assert world.status()["source"]["held"] is None


# --- signatures


@attrs.frozen
class Signed:
    """An origin, the key whose owner may sign, a stranger's, and the file of allowed signers."""

    origin: Origin
    key: Path
    stranger: Path
    signers: Path


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    key, stranger = new_key(tmp_path, "alice"), new_key(tmp_path, "mallory")
    return Signed(make_origin(tmp_path, key=key), key, stranger, allowed(tmp_path, key))


async def test_signed_commits_run(signed: Signed) -> None:
    async with pulling(signed.origin, signers=(signed.signers,)) as world:
        signed.origin.publish(2, key=signed.key)
        await until_priority(world, 2)
        assert world.status()["source"]["signed"]


@pytest.mark.parametrize("by", ["nobody", "a stranger"])
async def test_a_commit_in_the_middle_that_is_not_signed_holds_the_signed_head(signed: Signed, by: str) -> None:
    origin = signed.origin
    async with pulling(origin, signers=(signed.signers,)) as world:
        origin.tree.account(more="priority = 2")
        middle = origin.commit(key=None if by == "nobody" else signed.stranger)
        head = origin.publish(3, key=signed.key)
        await until_held(world, head)

        held = world.status()["source"]["held"]

        assert (world.priority(), held["unsigned"]) == (1, [middle])
        why = "is not signed" if by == "nobody" else "is signed by a key that is not among the allowed signers"
        assert held["reasons"][0].startswith(f"commit {middle[:12]} {why}")
        assert middle[:12] in in_words(world.status())


async def test_what_a_signed_merge_brings_in_must_be_signed_too(signed: Signed) -> None:
    origin = signed.origin
    async with pulling(origin, signers=(signed.signers,)) as world:
        origin.tree.git("checkout", "--quiet", "-b", "side")
        origin.tree.key(1)
        side = origin.commit("from the side")
        origin.tree.git("checkout", "--quiet", "main")
        sign = ["-c", "gpg.format=ssh", "-c", f"user.signingkey={signed.key}"]
        origin.tree.git(*sign, "merge", "--quiet", "--no-ff", "-S", "-m", "merge", "side")
        await until_held(world, origin.push())

        assert world.status()["source"]["held"]["unsigned"] == [side]


async def test_an_unsigned_commit_is_taken_when_it_is_named_on_the_node(signed: Signed) -> None:
    async with pulling(signed.origin, signers=(signed.signers,), interval=None) as world:
        head = signed.origin.publish(2)
        assert (await world.reload()).result == "held"
        assert (await world.reload("http", accept=head)).result == "held"
        assert (await world.reload(accept=head, dry_run=True)).result == "held"
        assert (await world.reload(accept=head)).result == "applied"
        assert world.priority() == 2


async def test_a_signer_who_is_added_later_is_known_at_the_next_fetch(signed: Signed) -> None:
    async with pulling(signed.origin, signers=(signed.signers,)) as world:
        await until_held(world, signed.origin.publish(2, key=signed.stranger))
        allowed(signed.origin.place, signed.key, signed.stranger)
        await until_priority(world, 2)


@pytest.mark.skipif(shutil.which("gpg") is None and "CI" not in os.environ, reason="gpg is not here")
async def test_a_pgp_signature_of_an_allowed_key_counts_and_another_does_not(tmp_path: Path, signed: Signed) -> None:
    origin = signed.origin
    alice, public = gpg_home(tmp_path, "alice")
    mallory, _ = gpg_home(tmp_path, "mallory")

    def commit(priority: int, who: dict[str, str]) -> str:
        origin.tree.account(more=f"priority = {priority}")
        sign = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "gpg.format=openpgp"]
        words = ["git", *sign, "-C", str(origin.tree.root), "commit", "--quiet", "-a", "-m", "pgp"]
        user = f"{Path(who['GNUPGHOME']).name.rpartition('gnupg-')[2]}@example.com"
        subprocess.run([*words, f"--gpg-sign={user}"], env=who, check=True, capture_output=True)
        return origin.push()

    try:
        async with pulling(origin, signers=(signed.signers, public)) as world:
            commit(2, alice)
            await until_priority(world, 2)
            await until_held(world, commit(3, mallory))
            assert world.priority() == 2
    finally:
        stop_agent(alice)
        stop_agent(mallory)


async def test_the_first_head_of_all_must_be_signed(tmp_path: Path) -> None:
    key = new_key(tmp_path, "alice")
    origin = make_origin(tmp_path)
    with pytest.raises(AssertionError, match="is not signed"):
        async with pulling(origin, signers=(allowed(tmp_path, key),)):
            pass


async def test_lost_signers_hold_what_is_new_and_say_so(signed: Signed) -> None:
    async with pulling(signed.origin, signers=(signed.signers,), interval=None) as world:
        signed.signers.unlink()
        signed.origin.publish(2, key=signed.key)

        result = await world.reload()

        assert (result.result, world.priority()) == ("rejected", 1)
        assert "allowed signers" in result.reasons[0]


# --- what a commit may hold


async def test_a_submodule_a_link_out_of_the_tree_and_an_lfs_pointer_are_told_and_not_followed(origin: Origin) -> None:
    async with pulling(origin, interval=None) as world:
        tree = origin.tree
        tree.git("update-index", "--add", "--cacheinfo", f"160000,{origin.head()},keys.d/module")
        (tree.root / "keys.d" / "out.toml").symlink_to("/etc/passwd")
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12\n"
        tree.write("keys.d/large.toml", pointer.encode())
        tree.git("add", "keys.d/out.toml", "keys.d/large.toml")
        tree.git("commit", "--quiet", "-m", "hostile")
        origin.push()

        result = await world.reload()

        assert result.result == "rejected"
        told = {problem.file: problem.message for problem in result.problems if problem.severity == "error"}
        assert "a submodule" in told["keys.d/module"]
        assert "leads out of the tree" in told["keys.d/out.toml"]
        assert {one.code for one in result.problems if one.file == "keys.d/large.toml"} == {"E-LFS-POINTER"}
        assert (world.priority(), (await world.call()).status) == (1, 200)


async def test_links_inside_the_tree_lead_to_what_they_lead_to_in_a_checkout(origin: Origin) -> None:
    async with pulling(origin, interval=None) as world:
        shared = origin.tree.root / "shared"
        shared.mkdir()
        (origin.tree.root / "keys.d" / "k0.toml").rename(shared / "k5.toml")
        (origin.tree.root / "keys.d" / "k0.toml").symlink_to("../shared/k5.toml")
        (origin.tree.root / "accounts.d" / "team").symlink_to("../team")
        (origin.tree.root / "team").mkdir()
        origin.tree.write("team/b.toml", (origin.tree.root / "accounts.d" / "a.toml").read_bytes())
        origin.commit()
        origin.push()

        assert (await world.reload()).result == "applied"
        snapshot = world.daemon.live.snapshot
        assert (set(snapshot.keys), set(snapshot.accounts)) == ({"k0"}, {"a", "b"})


async def test_no_hook_filter_or_config_of_the_repository_is_obeyed(origin: Origin, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {planted}\ncat\n")
    program.chmod(0o755)
    origin.tree.write(".gitattributes", "*.toml filter=evil\n")
    origin.tree.write(".gitconfig", f'[filter "evil"]\n\tsmudge = {program}\n')
    origin.tree.write(".lfsconfig", "[lfs]\n\turl = https://example.com\n")
    origin.configure(str(program), "core.fsmonitor", "core.sshCommand", "uploadpack.packObjectsHook")
    async with pulling(origin, interval=None) as world:
        mirror = world.daemon.reload.source.settings.mirror  # type: ignore[union-attr]
        for hook in ("reference-transaction", "post-checkout", "post-merge"):
            path = mirror / "hooks" / hook
            path.parent.mkdir(exist_ok=True)
            path.write_text(program.read_text())
            path.chmod(0o755)
        origin.publish(2)
        assert (await world.reload()).result == "applied"
    assert not planted.exists()


async def test_a_tree_in_a_folder_of_its_repository(tmp_path: Path) -> None:
    origin = make_origin(tmp_path)
    place = origin.tree.root / "infra" / "relay"
    place.mkdir(parents=True)
    for name in ("relay.toml", "accounts.d", "keys.d"):
        (origin.tree.root / name).rename(place / name)
    origin.commit()
    origin.push()
    at = attrs.evolve(origin.settings(tmp_path).at, folder="infra/relay")

    async with pulling(origin, at=at) as world:
        assert (world.priority(), world.status()["source"]["url"]) == (1, f"{origin.url}:infra/relay")


# --- a source that is away


async def test_a_source_that_is_away_is_told_and_what_ran_goes_on(origin: Origin) -> None:
    async with pulling(origin, interval=None) as world:
        away = origin.bare.rename(origin.place / "away.git")

        result = await world.reload()

        assert (result.result, world.priority()) == ("rejected", 1)
        assert "could not be fetched" in result.reasons[0]
        assert source_metrics(world)['relayd_source_fetches_total{result="failed"}'] == 1
        status = world.status()
        assert (status["source"]["failures"], status["source"]["error"] != "") == (1, True)
        assert status["well"]  # for a while
        assert "last error: " in in_words(status)
        away.rename(origin.bare)
        origin.publish(2)
        assert (await world.reload()).result == "applied"
        assert [len(world.events(name)) for name in ("source.failed", "source.recovered")] == [1, 1]


async def test_a_source_that_is_away_for_long_is_an_ailment(origin: Origin) -> None:
    async with pulling(origin) as world:
        source = world.daemon.reload.source
        assert source is not None
        origin.bare.rename(origin.place / "away.git")
        await world.until(lambda: source.record.failures)
        source.record.fetched -= 3600

        assert any("cannot be fetched" in text for text in world.status()["ailments"])
        assert not world.status()["well"]


async def test_a_node_that_restarts_without_its_source_serves_what_it_had(origin: Origin) -> None:
    async with pulling(origin) as world:
        commit = origin.publish(2)
        await until_priority(world, 2)
    origin.bare.rename(origin.place / "away.git")

    async with pulling(origin) as world:
        assert (world.priority(), world.status()["running"]["commit"]) == (2, commit)
        assert not world.record.degraded


async def test_a_node_that_has_lost_its_mirror_too_serves_the_stored_generation(origin: Origin) -> None:
    async with pulling(origin) as world:
        await world.until(lambda: world.history.numbers() == [1])
        directory = world.daemon.reload.source.settings.directory  # type: ignore[union-attr]
    directory.rename(origin.place / "lost")
    away = origin.bare.rename(origin.place / "away.git")

    async with pulling(origin) as world:
        assert "could not be fetched" in world.record.degraded
        assert world.priority() == 1
        away.rename(origin.bare)
        await world.until(lambda: not world.record.degraded)


async def test_two_nodes_on_one_source_come_to_the_same_tree(origin: Origin) -> None:
    async with pulling(origin, "one") as one, pulling(origin, "two") as two:
        origin.publish(2)
        await until_priority(one, 2)
        await until_priority(two, 2)
        assert one.status()["running"]["digest"] == two.status()["running"]["digest"]


async def test_one_mirror_belongs_to_one_process(origin: Origin) -> None:
    async with pulling(origin):
        with pytest.raises(ValueError, match="another relayd pulls into it"):
            async with pulling(origin):
                pass


async def test_a_full_disk_leaves_what_ran_and_nothing_half_fetched(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    full = programs / "git"
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    async with pulling(origin, interval=None) as world:
        origin.tree.write("keys.d/noise.txt", os.urandom(200_000))
        origin.publish(2)
        # As on a full disk, every write beyond some bytes fails; the environment is looked up anew for each child.
        full.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -f 8\nexec {shutil.which('git')} \"$@\"\n")
        full.chmod(0o755)

        result = await world.reload()

        assert (result.result, world.priority()) == ("rejected", 1)
        assert "could not be fetched" in result.reasons[0]
        source = world.daemon.reload.source
        assert source is not None
        assert not list((source.settings.mirror / "objects").rglob("tmp_*"))
        full.unlink()
        assert (await world.reload()).result == "applied"


async def test_what_a_git_that_was_killed_has_left_is_in_the_way_once(origin: Origin) -> None:
    async with pulling(origin, interval=None) as world:
        source = world.daemon.reload.source
        assert source is not None
        pack = source.settings.mirror / "objects" / "pack"
        (pack / "tmp_pack_half").write_bytes(b"half")
        (source.settings.mirror / "refs" / "relayd" / "fetched.lock").write_bytes(b"")
        origin.publish(2)

        first = await world.reload()  # the lock of a git that was killed is in the way once

        assert (first.result, world.priority()) == ("rejected", 1)
        assert not list(pack.glob("tmp_*"))
        assert (await world.reload()).result == "applied"


async def test_a_slow_remote_is_given_up_and_no_child_is_left(origin: Origin, tmp_path: Path) -> None:
    async with pulling(origin, interval=None) as world:
        source = world.daemon.reload.source
        assert source is not None
        pid = tmp_path / "pid"
        run = partial(source.mirror.git.run, "-c", f"alias.wait=!echo $$ > {pid}; sleep 1000", "wait", timeout=600)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await world.until(lambda: pid.exists() and pid.read_text().endswith("\n"), "the child of git")
            nursery.cancel_scope.cancel()
        await world.until(lambda: not alive(int(pid.read_text())), "the end of the child")
