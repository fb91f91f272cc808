"""Scarcity: scenes in which a whole node has too little of something: descriptors, memory. Disks: bad_disks.py.

Figures are s, bytes and counts; what must hold is asserted.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx2
import trio
from builders import KEY
from daemon import children_of
from ledger import Reply, asking
from load import name_of
from strain import Figures, Node, asked, connected, ended, node, until
from waiting import PATIENCE

from relayd.daemon.net.accepting import ACCEPT_LOG_INTERVAL

DESCRIPTORS = 256
SHED = {429, 503, 529}  # what a client is told that there is no room for

# -- descriptors -------------------------------------------------------------------------------------------------------


async def without_descriptors(place: Path, *, clients: int) -> Figures:
    """Many more clients than there are descriptors: some are served, the others told so; the admin side answers; and
    once they are gone the next one is served at once.
    """
    enter = ("prlimit", f"--nofile={DESCRIPTORS}")
    silent = 'header_timeout = "1h"'  # nobody is told to hurry who says nothing yet
    start = trio.current_time()
    async with node(place, server=silent, relay='[admin]\nlisten = "127.0.0.1:0"', enter=enter) as here:
        (admin,) = here.daemon.events("daemon.listening")[0]["admin"]
        said: Counter[int] = Counter()
        ready = trio.Event()

        async def occupy() -> None:
            stream = await connected(here.port)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_note_refusal, stream, said)
                await ready.wait()
                nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)

        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(occupy)

            def taken() -> int:
                return int(here.status()["connections"]["open"])

            await until(lambda: said.total() + taken() == clients, "each to be taken or refused")
            most, open_files = taken(), here.open_files()
            glance = await trio.to_thread.run_sync(lambda: httpx2.get(f"{admin}/metrics", timeout=PATIENCE))
            ready.set()
        assert glance.status_code == 200
        assert set(said) <= {0, 503}, said
        assert most >= DESCRIPTORS // 8, f"only {most} clients were taken"
        assert open_files < DESCRIPTORS
        gone = trio.current_time()
        while (reply := await asked(here.port, asking(KEY, "after.0", output=5))).status != 200:
            assert reply.status in (0, 503), reply
        took = trio.current_time() - gone
        lines = here.daemon.events("server.accept")
        assert len(lines) <= 2 + (trio.current_time() - start) // ACCEPT_LOG_INTERVAL, lines
        await here.is_well()
    return {
        "clients": clients,
        "taken": most,
        "told 503": said[503],
        "closed without a word": said[0],
        "open files": open_files,
        "until the next one was served": took,
        "lines of the log about it": len(lines),
    }


async def _note_refusal(stream: trio.SocketStream, said: Counter[int]) -> None:
    answer = await ended(stream)
    said[int(answer.split()[1]) if answer else 0] += 1


# -- memory ------------------------------------------------------------------------------------------------------------


@attrs.frozen
class MemoryBound:
    """How a node gets no more memory than that. `group`: its control group; None where it is only told that it has one,
    and what it takes is held against the bound.
    """

    size: int
    enter: Sequence[str]
    group: Path | None = None

    def kills(self) -> int:
        """How often the kernel has killed for it."""
        if self.group is None:
            return 0
        name = "memory.events" if (self.group / "memory.events").exists() else "memory.oom_control"
        return self._figure(name, "oom_kill")

    def taken(self, pids: Sequence[int]) -> int:
        """Bytes that the node's processes have for themselves: what the kernel cannot do without."""
        if self.group is None:
            return sum(_share_of(pid) for pid in pids)
        anonymous = "anon" if (self.group / "memory.events").exists() else "total_rss"
        return self._figure("memory.stat", anonymous)

    def _figure(self, file: str, name: str) -> int:
        assert self.group is not None
        lines = (self.group / file).read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def _share_of(pid: int) -> int:
    """Bytes of a process, of pages that it shares its part; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss_Anon:"))
    return 0


def may_bound() -> bool:
    """Whether this user may make control groups."""
    group = _make_group(1 << 30)
    if group is not None:
        group.rmdir()
    return group is not None


@contextlib.contextmanager
def bounded(size: int, place: Path) -> Iterator[MemoryBound]:
    """A control group of so many bytes where one may be made, else one that is said to be there."""
    group = _make_group(size)
    if group is None:
        yield MemoryBound(size, _told_of_group(size, place))
        return
    try:
        yield MemoryBound(size, ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"), group)
    finally:
        group.rmdir()


def _told_of_group(size: int, place: Path) -> Sequence[str]:
    """Words that start a command which sees the files of such a group where those of its own ones stand."""
    told = place / "groups"
    (told / "memory").mkdir(parents=True)
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        (told / file).write_text(str(size))
    return ("unshare", "-rm", "sh", "-c", f'mount --bind {told} /sys/fs/cgroup && exec "$@"', "sh")


def _make_group(size: int) -> Path | None:
    """A control group within our own: of version 1, or of version 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root, name = Path("/sys/fs/cgroup"), "memory.max"
        if controllers == "memory":
            root, name = root / "memory", "memory.limit_in_bytes"
        elif controllers:
            continue
        for parent in (root / path.strip("/"), root):
            group = parent / f"relayd-test-{os.getpid()}"
            with contextlib.suppress(OSError):
                group.mkdir()
                try:
                    (group / name).write_text(str(size))
                except OSError:
                    group.rmdir()
                    raise
                return group
    return None


async def without_memory(
    place: Path, *, bytes_at_most: int, streams: int, bodies: int, body: int, workers: int = 1
) -> Figures:
    """Streams, and amid them large bodies, beyond what there is memory for: some are refused, all processes live."""
    with bounded(bytes_at_most, place) as bound:
        async with node(place, server=f"workers = {workers}", enter=bound.enter) as here:
            held: Counter[int] = Counter()
            beside: Counter[int] = Counter()
            done = trio.Event()
            async with trio.open_nursery() as nursery, _watched(here, bound) as peak:
                for number in range(streams):
                    request = asking(KEY, name_of("held", number), stream=True, pause=3600.0, events=1)
                    nursery.start_soon(_hold, here.port, request, held, done)
                    if number % 50 == 49:
                        await until(lambda n=number + 1: held.total() == n, "each to be served or refused")  # type: ignore[misc]
                    if number == streams * 6 // 10:
                        beside = await _large_bodies(here, bodies, body)
                await until(lambda: held.total() == streams, "each to be served or refused")
                done.set()
            assert bound.kills() == 0
            assert not here.daemon.events("worker.died")
            # 0: closed without a word, where many are too many at once
            assert set(held + beside) <= {0, 200, *SHED}, f"{held}, {beside}"
            assert beside.keys() & SHED or held.keys() - {200}, f"nothing was refused: {held}, {beside}"
            await here.is_well()
            assert max(peak) <= bytes_at_most, f"{max(peak)} bytes"
    refused = sum(count for status, count in (held + beside).items() if status != 200)
    return {
        "MiB allowed": bytes_at_most >> 20,
        "workers": workers,
        "streams": held[200],
        "bodies of so many bytes": body,
        "bodies served": beside[200],
        "refused": refused,
        "MiB at most": max(peak) / 2**20,
        "in a control group": bound.group is not None,
    }


@asynccontextmanager
async def _watched(here: Node, bound: MemoryBound) -> AsyncIterator[list[int]]:
    """What the node takes, looked at all the while."""
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(bound.taken(family_of(here.daemon.process.pid)))
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield seen
        nursery.cancel_scope.cancel()


def family_of(pid: int) -> list[int]:
    """A process, and all that it and they have started."""
    found = [pid]
    for one in found:
        found += sorted(children_of(one))
    return found


async def _hold(port: int, request: bytes, told: Counter[int], done: trio.Event) -> None:
    stream, head = await connected(port), b""
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(request)
        head = await stream.receive_some(65536)
    told[int(head.split()[1]) if head else 0] += 1
    await done.wait()
    await trio.aclose_forcefully(stream)


async def _large_bodies(here: Node, count: int, size: int) -> Counter[int]:
    """So many calls at once with a body of that size."""
    replies: list[Reply] = []

    async def one(number: int) -> None:
        request = asking(KEY, name_of("large", number), output=5, pause=0.5, padding="x" * size)
        replies.append(await asked(here.port, request))

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
    return Counter(reply.status for reply in replies)
