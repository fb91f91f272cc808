"""Bad disks: scenes in which the disk of a whole node keeps no word, has no room, or cannot be written any more.

Figures are s and counts; what must hold is asserted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import attrs
import pytest
import redis_server
import trio
from builders import KEY
from daemon import control_answer, key_text
from ledger import Client, asking
from load import name_of, names_of
from strain import Figures, Node, begin, node, until

from relayd.config.atomic import replace_file


def may_mount() -> bool:
    """Whether this user may have file systems of its own."""
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True, check=False).returncode == 0


def may_trace() -> bool:
    """Whether this user may have system calls of its own processes fail."""
    words = ["strace", "-D", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO", "true"]
    return bool(shutil.which("strace")) and subprocess.run(words, capture_output=True, check=False).returncode == 0


def may_compile() -> bool:
    """Whether there is a C compiler."""
    return shutil.which("cc") is not None


NO_FSYNC = (
    *("strace", "-f", "-D", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"),
    *("-e", "inject=fsync,fdatasync:error=EIO"),
)


async def without_fsync(place: Path, *, calls: int) -> Figures:
    """A disk on which every fsync fails, and a store that goes away: calls go on, settlements wait in memory, which is
    told, and are booked when the store is back. Then the same disk with SQLite on it, and a stop.
    """
    with redis_server.running() as redis:
        (place / "redis").mkdir()
        named = names_of("away", calls)
        async with node(place / "redis", state=redis.url, named=named, enter=NO_FSYNC) as here:
            await here.is_well()
            redis.stop()
            await until(lambda: not here.status()["state"]["up"], "the outage")
            await _all_served(here, "away", calls)
            await until(lambda: here.status()["losses"]["journal_waiting"] >= calls, "all to wait in memory")
            told = await trio.to_thread.run_sync(here.daemon.wait_for, "state.journal_problem")
            assert "input/output error" in told[0]["reason"].lower(), told
            redis.start()
            await here.relays.books_hold(_expected("away", calls))
    (place / "sqlite").mkdir()
    async with node(place / "sqlite", enter=NO_FSYNC) as here:
        await _all_served(here, "file", calls)
        await until(lambda: here.status()["losses"]["journal_waiting"] >= calls, "all to wait in memory")
        await until(lambda: any("input/output error" in one.lower() for one in here.status()["ailments"]), "the reason")
    return {"calls": 2 * calls, "lines of the log about it": len(told)}


async def without_room(place: Path, *, calls: int) -> Figures:
    """State and journal on a file system of 1 MB, which calls fill up. They are served all the while; when there is
    room again, all is booked.
    """
    disk, more = place / "disk", place / "more"
    disk.mkdir()
    os.mkfifo(more)
    enlarge = f"read _ < {more}; mount -o remount,size=64m {disk}; exec sleep 600"
    words = f"mount -t tmpfs -o size=1m none {disk} && mkdir {disk}/state"
    words += f' && {{ ({enlarge}) & echo $! > {place}/pid; }} && exec "$@"'
    state = f"sqlite:{disk}/state/relayd.db"
    enter = ("unshare", "-rm", "sh", "-c", words, "sh")
    async with node(place, state=state, named=names_of("room", 100 * calls), enter=enter) as here:
        served = 0
        while here.status()["state"]["up"]:
            await _all_served(here, "room", calls, served)
            served += calls
            assert served < 100 * calls, "the disk never filled up"
        ailments = here.status()["ailments"]
        assert any("disk" in one or "full" in one for one in ailments), ailments
        await _all_served(here, "room", calls, served)
        served += calls
        more.write_text("\n")
        await until(lambda: bool(here.status()["state"]["up"]), "the store to be back")
        await until(lambda: not here.status()["losses"]["journal_waiting"], "all to be settled")
        within = int((place / "pid").read_text())  # a process that sees the disk
        try:
            inside = ("nsenter", "-U", "-m", "--preserve-credentials", "-t", str(within))
            await here.relays.books_hold(_expected("room", served), inside=inside)
        finally:
            os.kill(within, signal.SIGKILL)
    return {"calls": served, "ailments": len(ailments)}


async def turned_read_only(place: Path, *, calls: int) -> Figures:
    """The disk of a node turns read-only under it, first that of the state, then also that of log, tree and control
    socket: calls are served, each command says what is wrong, and once the disk can be written all is booked.
    """
    frozen = FrozenDisk(place / "frozen", place / "read_only.so")
    source = Path(__file__).with_name("read_only.c")
    await trio.run_process(["cc", "-shared", "-fPIC", "-O1", "-o", str(frozen.library), str(source), "-ldl"])
    (place / "node").mkdir()
    frozen.thaw()
    async with node(place / "node", named=names_of("frozen", 3 * calls), enter=frozen.enter) as here:
        await _all_served(here, "frozen", calls)
        frozen.freeze(place / "node/state")
        await _all_served(here, "frozen", calls, calls)
        await until(lambda: not here.status()["state"]["up"], "the outage")
        await _said_of(here, "the state store is down", "settlements wait in memory alone")
        await trio.to_thread.run_sync(here.daemon.wait_for, "state.journal_problem")
        events = Counter(one["event"] for one in here.daemon.events())
        assert (events["state.unavailable"], events["state.journal_problem"]) == (1, 1), events
        assert events["state.side_unavailable"] < calls, "a line a call"

        frozen.freeze(place / "node")
        await _all_served(here, "frozen", calls, 2 * calls)
        here.daemon.signal(signal.SIGUSR1)
        added = key_text("rk_another.0123456789abcdef0123456789abcdef")
        (here.daemon.tree / "keys.d/another.toml").write_text(added)
        took = control_answer(here.daemon.tree.parent / "control.sock", "reload")["result"]["result"]
        assert took == "applied", took
        await _said_of(here, "the state store is down", "settlements wait in memory alone", "lines of the log are lost")
        spent, began = here.cpu_seconds(), trio.current_time()
        await trio.sleep(1.0)
        spent = (here.cpu_seconds() - spent) / (trio.current_time() - began)
        assert spent < 0.5, f"{spent} s of CPU in a second without a call"

        frozen.thaw()
        await until(lambda: bool(here.status()["state"]["up"]), "the store to be back")
        await until(lambda: not here.status()["losses"]["journal_waiting"], "all to be settled")
        await here.relays.books_hold(_expected("frozen", 3 * calls))
        await here.is_well()
        await until(lambda: here.status()["well"], "all to be well")
        assert "Traceback" not in here.daemon.text()
        await _ends_read_only(here, frozen)
    return {"calls": 3 * calls, "s of CPU in a second without a call": spent}


@attrs.frozen
class FrozenDisk:
    """What the processes that `enter` starts may not write to. `library`: read_only.c, compiled."""

    flag: Path
    library: Path

    @property
    def enter(self) -> Sequence[str]:
        return ("env", f"LD_PRELOAD={self.library}", f"READ_ONLY={self.flag}")

    def freeze(self, what: Path) -> None:
        """From now on a directory, and all that is in it, or a file."""
        self._say(str(what))

    def thaw(self) -> None:
        """Nothing."""
        self._say("")

    def _say(self, what: str) -> None:
        """In one piece, for the processes look at each write."""
        replace_file(self.flag, what.encode())


async def _ends_read_only(here: Node, frozen: FrozenDisk) -> None:
    """A node that is stopped while its disk is read-only says what is lost; it does not start on one, and says why."""
    state, control = here.relays.place / "state", here.daemon.tree.with_name("control.sock")
    frozen.freeze(state)
    await here.is_well("good.1")
    await until(lambda: here.status()["losses"]["journal_waiting"] > 0, "it to wait in memory")
    here.daemon.signal(signal.SIGTERM)
    assert await trio.to_thread.run_sync(here.daemon.wait) == 0
    (lost,) = here.daemon.events("state.unsaved")
    assert lost["settlements"] > 0
    assert "read-only" in lost["reason"].lower()
    for what, code, words in (
        (state, 78, f"state directory {state}: Read-only file system [mount that file system for writing again;"),
        (control, 1, f"control socket {control}: Read-only file system (choose a path that relayd may write to"),
    ):
        frozen.freeze(what)
        with pytest.raises(AssertionError) as refused:
            await begin(here.relays, frozen.enter)
        assert words in str(refused.value)
        assert f"ended with {code}" in str(refused.value)
    frozen.thaw()
    await begin(here.relays, frozen.enter)
    await here.is_well("good.2")


@contextlib.contextmanager
def disk_with_errors(place: Path) -> Iterator[tuple[Path, Path]]:
    """A disk in a file, mounted there, and what has Linux find an error on it. For root."""
    image, disk = place / "image", place / "disk"
    disk.mkdir()
    image.touch()
    os.truncate(image, 64 << 20)
    _done("mkfs.ext4", "-q", str(image))
    _done("mount", "-o", "loop,errors=remount-ro", str(image), str(disk))
    try:
        device = _done("findmnt", "-no", "SOURCE", str(disk)).strip()
        yield disk, Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
    finally:
        subprocess.run(["umount", str(disk / "state/journal")], capture_output=True, check=False)
        _done("umount", str(disk))


def _done(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


async def failed_disk(place: Path, *, calls: int) -> Figures:
    """Linux finds an error on the disk of a node and writes nothing more to it: calls go on. Then what docs/state.md
    says: another disk is mounted over the journal, the node ends, the disk is mended, and all is booked.
    """
    with disk_with_errors(place) as (disk, error):
        state, other = f"sqlite:{disk}/state/relayd.db", place / "other"
        other.mkdir()
        async with node(place, state=state, named=names_of("failed", 3 * calls)) as here:
            await _all_served(here, "failed", calls)
            await trio.to_thread.run_sync(os.sync)  # what SQLite has not synced ends with the disk
            error.write_text("found by a test")
            await _all_served(here, "failed", calls, calls)
            await until(lambda: not here.status()["state"]["up"], "the outage")
            await until(lambda: here.status()["losses"]["journal_waiting"] >= calls, "all to wait in memory")
            waiting = here.status()["losses"]["journal_waiting"]

            _done("mount", "--bind", str(other), str(disk / "state/journal"))
            await _all_served(here, "failed", calls, 2 * calls)
            await until(lambda: here.status()["losses"]["journal_waiting"] == 0, "all to be in the other journal")
            here.daemon.signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(here.daemon.wait) == 0
            assert not here.daemon.events("state.unsaved")

            _done("umount", str(disk / "state/journal"))
            _done("umount", str(disk))
            await trio.run_process(["fsck.ext4", "-fy", str(place / "image")], capture_stdout=True, check=False)
            _done("mount", "-o", "loop", str(place / "image"), str(disk))
            for file in other.iterdir():
                shutil.move(file, disk / "state/journal")
            await begin(here.relays)
            await here.relays.books_hold(_expected("failed", 3 * calls))
            await here.is_well()
    return {"calls": 3 * calls, "waited in memory": waiting}


async def _said_of(here: Node, *ailments: str) -> None:
    """Wait until the status names these, each with the reason and what to do: SQLite's first error says less."""
    for words in ailments:
        await until(partial(_is_told, here, words), f"{words}, with its reason, in the status")


def _is_told(here: Node, words: str) -> bool:
    remedy = "[mount that file system for writing again; `dmesg` tells why it is read-only]"
    told = [text for text in here.status()["ailments"] if words in text]
    return any("read-only file system" in one.lower() and remedy in one for one in told)


def _expected(group: str, calls: int) -> dict[str, int]:
    return {name_of(group, number): 12 for number in range(calls)}


async def _all_served(here: Node, group: str, calls: int, first: int = 0) -> None:
    client = Client(here.port)
    for number in range(first, first + calls):
        reply = await client.ask(asking(KEY, name_of(group, number), output=5))
        assert (reply.status, reply.whole) == (200, True), reply
    await client.close()
