"""How a living daemon notices changes: editors, links that flip, directories that are replaced, watchers that fail."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import attrs
import pytest
import trio
from reload_world import FAST, PlantedReader, World, living, make_tree

from relayd.config.snapshot import Snapshot
from relayd.config.source.tree import Tree, Unstable
from relayd.daemon.build import Daemon
from relayd.daemon.reload.adoption import Adoption
from relayd.daemon.reload.file_events import inotify
from relayd.daemon.reload.watch import Listen, link_parents, watched_directories

BOTH = pytest.mark.parametrize("deaf", [False, True], ids=["events", "poll only"])
# Events alone: no poll comes to their help within a test's patience.
EVENTS_ONLY = attrs.evolve(FAST, poll=60.0)


def truncated(place: Path) -> IO[str]:
    """A file as a careless program saves it: emptied first, and written then."""
    return place.open("w")


@BOTH
async def test_each_of_three_saves_by_rename_is_one_reload(tmp_path: Path, deaf: bool) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, deaf=deaf) as world:
        for number in (1, 2, 3):
            tree.account(more=f"priority = {number}")
            await world.until_generation(number + 1)
            assert world.priority() == number
        await world.idle()

        assert world.generation == 4
        assert (await world.call()).status == 200


async def test_events_alone_carry_every_change(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, pace=EVENTS_ONLY) as world:
        await world.until(lambda: world.status()["watch"]["backend"] == "inotify")
        for number in (1, 2, 3):
            tree.account(more=f"priority = {number}")
            await world.until_generation(number + 1)
        tree.key(7)
        await world.until_generation(5)
        tree.write("accounts.d/team/b.toml", 'kind = "simulator"\n')  # in a directory that is new
        await world.until(lambda: "b" in world.daemon.live.snapshot.accounts)
        before = world.generation
        tree.write("accounts.d/team/b.toml", 'kind = "simulator"\nweight = 2\n')  # and is watched from then on
        await world.until_generation(before + 1)


@BOTH
async def test_a_slow_writer_is_one_reload_and_no_half_of_its_file_is_ever_run(tmp_path: Path, deaf: bool) -> None:
    tree = make_tree(tmp_path / "tree")
    stopped: float | None = None  # the clock by which it is judged how long a tree has been quiet
    async with living(tree, deaf=deaf) as world:
        inspector = world.reloader.inspector
        wall = lambda: stopped if stopped is not None else time.time()  # noqa: E731
        inspector.reader = attrs.evolve(inspector.reader, wall=wall)  # type: ignore[misc]
        for round_ in (1, 2):
            stopped = time.time()  # no pause of the writer's is long
            with truncated(tree.root / "accounts.d/a.toml") as file:
                for piece in ('kind = "simulator"\n', "priority = ", str(round_), "2", "3"):  # valid at each digit
                    file.write(piece)
                    file.flush()
                    await trio.sleep(0.05)
            stopped = None
            await world.until_generation(round_ + 1)
            assert world.priority() == round_ * 100 + 23
        await world.idle()
        assert world.generation == 3


@attrs.define(eq=False, kw_only=True)
class CountingKeys(Adoption):
    """Notes how many keys each config has."""

    counts: set[int]

    def adopt(self, old: Snapshot, new: Snapshot) -> None:
        self.counts.add(len(new.keys))
        Adoption.adopt(self, old, new)


async def test_truncating_saves_never_run_a_tree_with_a_hole(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=3)
    text = (tree.root / "keys.d/k1.toml").read_text()
    counts: set[int] = set()
    async with living(tree) as world:
        before = world.reloader.adoption
        world.reloader.adoption = CountingKeys(**attrs.asdict(before, recurse=False), counts=counts)
        for _ in range(100):
            with truncated(tree.root / "keys.d/k1.toml") as file:
                await trio.sleep(0.002)
                file.write(text)
        tree.account(more="priority = 5")
        await world.until(lambda: world.priority() == 5)

        assert counts == {3}
        assert (await world.call(1)).status == 200


@BOTH
async def test_a_config_map_that_is_swapped_three_times_is_three_reloads(tmp_path: Path, deaf: bool) -> None:
    mount = tmp_path / "mount"
    tree = make_tree(tmp_path / "first")
    mount.mkdir()

    def swap(number: int) -> None:
        """As the kubelet does it: a new directory, a link beside the old one, one rename, the old directory gone."""
        fresh = mount / f"..2026_0{number}"
        shutil.copytree(tree.root, fresh)
        os.symlink(fresh.name, mount / "..data_tmp")
        old = mount / "..data"
        gone = mount / os.readlink(old) if old.is_symlink() else None
        os.rename(mount / "..data_tmp", old)
        if gone is not None:
            shutil.rmtree(gone)

    swap(0)
    for name in ("relay.toml", "accounts.d", "keys.d"):
        os.symlink(f"..data/{name}", mount / name)
    world: World
    async with living(attrs.evolve(tree, root=mount), deaf=deaf) as world:
        for number in (1, 2, 3):
            tree.account(more=f"priority = {number}")
            swap(number)
            await world.until_generation(number + 1)
            assert world.priority() == number
        assert list(world.daemon.live.snapshot.accounts) == ["a"]
        assert (await world.call()).status == 200


@BOTH
async def test_a_link_that_is_flipped_three_times_is_three_reloads(tmp_path: Path, deaf: bool) -> None:
    current = tmp_path / "git" / "current"
    current.parent.mkdir()

    def flip(number: int) -> None:
        """As git-sync does it: a new work tree, a new link, one rename."""
        fresh = make_tree(tmp_path / "git" / f"{number:040x}")
        fresh.account(more=f"priority = {number + 1}")
        os.symlink(fresh.root.name, current.with_name("tmp"))
        os.rename(current.with_name("tmp"), current)

    flip(0)
    tree = attrs.evolve(make_tree(tmp_path / "unused"), root=current)
    async with living(tree, deaf=deaf) as world:
        for number in (1, 2, 3):
            flip(number)
            await world.until_generation(number + 1)
            assert world.priority() == number + 1
        assert world.status()["running"]["commit"] == f"{3:040x}"


@BOTH
async def test_a_tree_that_is_moved_away_and_replaced_twice_is_followed(tmp_path: Path, deaf: bool) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, deaf=deaf) as world:
        for number in (1, 2):
            tree.root.rename(tmp_path / f"old{number}")
            make_tree(tree.root).account(more=f"priority = {number}")
            await world.until(lambda number=number: world.priority() == number)
            before = world.generation
            tree.account(more=f"priority = {number + 10}")  # an edit in the new directory
            await world.until_generation(before + 1)
            assert world.priority() == number + 10


@BOTH
async def test_what_editors_leave_about_is_no_reload(tmp_path: Path, deaf: bool) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, deaf=deaf) as world:
        for _ in range(2):
            for name in (".a.toml.swp", "4913", "a.toml~", ".#a.toml", "#a.toml#"):
                place = tree.root / "accounts.d" / name
                place.write_text("not = config = at all")
                await trio.sleep(0.02)
                place.unlink()
            await world.idle()

        assert world.generation == 1
        assert not [key for key in world.record.rounds if key[1] != "unchanged"]


async def test_an_edit_that_every_stamp_hides_is_found_by_reading_all_bytes(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")

    def blind(daemon: Daemon) -> None:
        inspector = daemon.reload.reloader.inspector
        read, inspector.examined = inspector.reader.read, "the same as ever"

        def read_blindly(thorough: bool) -> Tree | Unstable:
            tree = read(thorough)
            return attrs.evolve(tree, signature="the same as ever") if isinstance(tree, Tree) else tree

        inspector.reader = PlantedReader(read_blindly, lambda: "the same as ever")  # type: ignore[assignment]

    pace = attrs.evolve(FAST, hash_every=0.1)
    async with living(tree, deaf=True, pace=pace, prepared=blind) as world:
        for number in (1, 2):
            place = tree.root / "accounts.d/a.toml"
            about = place.stat()
            place.write_text(place.read_text().replace(f"words = {number + 1}", f"words = {number + 2}"))
            os.utime(place, ns=(about.st_atime_ns, about.st_mtime_ns))
            assert place.stat().st_size == about.st_size
            await world.until_generation(number + 1)


# --- watchers that fail


def failing(error: Exception) -> Listen:
    async def listen(paths: list[str], begun: Callable[[], None], tell: Callable[[], None]) -> None:
        raise error

    return listen


async def deaf_to_everything(paths: list[str], begun: Callable[[], None], tell: Callable[[], None]) -> None:
    begun()
    await trio.sleep_forever()


@pytest.mark.parametrize(
    "error", [OSError(24, "inotify instances exhausted"), FileNotFoundError("gone"), RuntimeError("whatever")]
)
async def test_a_watcher_that_fails_leaves_the_poll_and_is_told_of(tmp_path: Path, error: Exception) -> None:
    tree = make_tree(tmp_path / "tree")

    def plant(daemon: Daemon) -> None:
        assert daemon.reload.watcher is not None
        daemon.reload.watcher.listen = failing(error)

    async with living(tree, prepared=plant) as world:
        for number in (1, 2):
            tree.account(more=f"priority = {number}")
            await world.until_generation(number + 1)

        assert world.status()["watch"]["backend"] == "poll"
        assert str(error) in world.status()["watch"]["failure"]
        assert len(world.events("watch.poll_only")) == 1


async def test_a_watcher_that_went_deaf_costs_a_poll_and_no_change(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")

    def plant(daemon: Daemon) -> None:
        assert daemon.reload.watcher is not None
        daemon.reload.watcher.listen = deaf_to_everything

    async with living(tree, prepared=plant) as world:
        for number in (1, 2):
            tree.account(more=f"priority = {number}")
            await world.until_generation(number + 1)


async def test_a_watcher_recovers_from_a_failure(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tried = []

    async def listen(paths: list[str], begun: Callable[[], None], tell: Callable[[], None]) -> None:
        tried.append(paths)
        if len(tried) == 1:
            raise OSError(28, "no space left: user watches")
        await inotify(paths, begun, tell)

    def plant(daemon: Daemon) -> None:
        assert daemon.reload.watcher is not None
        daemon.reload.watcher.listen = listen

    async with living(tree, pace=attrs.evolve(FAST, hash_every=0.1), prepared=plant) as world:
        await world.until(lambda: world.status()["watch"]["backend"] == "inotify")
        assert world.status()["watch"]["failure"] == ""


async def test_without_watching_nothing_is_reloaded_unasked(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.account(more="priority = 1")
        await trio.sleep(0.3)
        assert (world.generation, world.status()["watch"]["backend"]) == (1, "off")

        assert (await world.reload()).result == "applied"


# --- what is watched


def test_the_directory_of_every_link_on_the_way_is_watched(tmp_path: Path) -> None:
    real = tmp_path / "data" / "deep"
    real.mkdir(parents=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "second").symlink_to("../data")
    (tmp_path / "first").symlink_to(tmp_path / "links" / "second")

    found = list(link_parents(str(tmp_path / "first" / "deep")))

    assert found == [str(tmp_path), str(tmp_path / "links"), str(tmp_path / "data")]


def test_a_loop_of_links_and_a_missing_tree_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    assert {path for path, _, _ in watched_directories(tmp_path / "a")} == {str(tmp_path)}
    assert {path for path, _, _ in watched_directories(tmp_path / "missing")} == {str(tmp_path)}


def test_a_link_that_leads_to_itself_does_not_hide_the_directories_beside_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    (tree.root / "keys.d" / "team").mkdir()
    before = {path for path, _, _ in watched_directories(tree.root)}
    for folder in (tree.root, tree.root / "keys.d"):
        (folder / "loop.d").symlink_to("loop.d")

    assert {path for path, _, _ in watched_directories(tree.root)} == before


def test_gits_directory_is_watched_also_of_a_linked_work_tree(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    (tmp_path / "gitdir").mkdir()
    (tree.root / ".git").write_text("gitdir: ../gitdir\n")

    assert os.path.realpath(tmp_path / "gitdir") in {
        os.path.realpath(path) for path, _, _ in watched_directories(tree.root)
    }


def test_a_directory_that_was_replaced_is_another_place(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    before = set(watched_directories(tree.root))
    (tree.root / "keys.d").rename(tree.root / "away")
    (tree.root / "keys.d").mkdir()

    assert set(watched_directories(tree.root)) != before
