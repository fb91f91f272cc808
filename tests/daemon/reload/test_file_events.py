"""File events on a real inotify: what is told of, what is passed over, and that nothing stays open."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from relayd.daemon.reload import file_events
from relayd.daemon.reload.file_events import BURST, inotify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")

PATIENCE = 30.0  # s


class Told:
    """Hears of events, one after the other."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self._one = trio.Event()

    def tell(self) -> None:
        self._one.set()

    async def one(self) -> None:
        with trio.fail_after(PATIENCE):
            await self._one.wait()
        self._one = trio.Event()


@asynccontextmanager
async def listening(*paths: Path) -> AsyncIterator[Told]:
    told = Told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inotify, [str(path) for path in paths], told.begun.set, told.tell)
        with trio.fail_after(PATIENCE):
            await told.begun.wait()
        yield told
        nursery.cancel_scope.cancel()


def rename(folder: Path) -> None:
    (folder / "new").write_text("new")
    (folder / "new").rename(folder / "old")


CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda folder: (folder / "old").write_text("other"),
    "created": lambda folder: (folder / "more").touch(),
    "a directory created": lambda folder: (folder / "below").mkdir(),
    "replaced by a rename": rename,
    "deleted": lambda folder: (folder / "old").unlink(),
    "mode changed": lambda folder: (folder / "old").chmod(0o600),
    "pointed elsewhere": lambda folder: (folder / "link").symlink_to("old"),
}


async def test_each_way_to_change_an_entry_is_told_of_in_each_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_events, "BURST", 0.01)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "old").write_text("old")
    async with listening(*folders) as told:
        for change in CHANGES.values():
            for folder in folders:
                (folder / "old").write_text("old")
                await told.one()
                change(folder)
                await told.one()


async def test_the_end_of_a_directory_is_told_of_and_ends_nothing(tmp_path: Path) -> None:
    gone, stays = tmp_path / "gone", tmp_path / "stays"
    gone.mkdir()
    stays.mkdir()
    async with listening(gone, tmp_path / "never was", stays) as told:
        gone.rmdir()
        await told.one()
        (stays / "file").touch()
        await told.one()


async def test_what_can_be_no_directory_is_passed_over_and_what_is_closed_to_us_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with listening(tmp_path / "file", tmp_path) as told:
        (tmp_path / "other").touch()
        await told.one()
    long = tmp_path / ("n" * 300)
    with pytest.raises(OSError, match=r"^\[Errno \d+\] inotify: file name too long$") as caught:
        await inotify([str(long)], lambda: None, lambda: None)
    assert caught.value.errno == errno.ENAMETOOLONG


async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    async with listening(tmp_path):
        pass
    gc.collect()  # what other tests have left open
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with listening(tmp_path):
            assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_system_without_inotify_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    with pytest.raises(OSError, match="this system has no inotify"):
        await inotify([str(tmp_path)], lambda: None, lambda: None)


async def test_looking_is_not_an_event_and_neither_is_a_line_of_somebodys_log(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("one\n")
    told: list[str] = []
    begun = trio.Event()
    with (tmp_path / "neighbour.log").open("w") as log:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inotify, [str(tmp_path)], begun.set, lambda: told.append("event"))
            await begun.wait()
            assert os.listdir(tmp_path)
            assert (tmp_path / "a.toml").read_text() == "one\n"
            print("line", file=log, flush=True)
            await trio.testing.wait_all_tasks_blocked()  # the kernel tells before the call that it tells of returns
            assert told == []
            (tmp_path / "z.toml").write_text("")
            await trio.testing.wait_all_tasks_blocked(BURST)
            assert told
            nursery.cancel_scope.cancel()
