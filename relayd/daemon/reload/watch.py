"""Watcher: notices that the tree was touched, and asks for a reload.

Rule: events are hints. An event says only "look now"; what is looked at is the tree's stat signature, and the reloader
reads the bytes. So a watcher that goes deaf, drops events or dies costs seconds, never a change.

Theory: inotify follows inodes, not names. Watched are therefore the directories in which a name can be pointed
elsewhere (the parent of the tree's path and of every link on the way to it), the real tree, its sub-directories, and
git's own directory; never a file. After each look the list is made again, with inode numbers, so that a directory that
was replaced is watched anew. Below that, a stat poll every 2 s; below that, every 60 s, a reading of all bytes, for
file systems that lie about times.
"""

from __future__ import annotations

import logging
import math
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import attrs
import trio

from relayd.daemon.reload.candidate import LARGEST_DENY, Inspector
from relayd.daemon.reload.requests import RequestQueue

log = logging.getLogger("relayd.watch")

Backend = Literal["inotify", "poll", "off"]
WatchedDirectory = tuple[str, int, int]  # path, device, inode

# A walk may take this share of the time at most: on a slow network file system the poll becomes rarer.
POLL_SHARE = 1 / 20
BREATH = 0.1  # s after an event before the look: the rest of a save is on its way
LINKS = 40  # Linux follows as many (path_resolution(7))
MAX_DIRECTORIES = 4096  # watched; fs.inotify.max_user_watches is 8192 on small machines


@attrs.define(eq=False, kw_only=True)
class Watcher:
    """Looks at one tree for ever.

    Args:
        inspector: knows the tree's signature as it was last read.
        tree: the path as the operator gave it; links in it are followed anew at each look.
        listen: waits for file events; None = poll only.
        poll: s between looks at the stat signature.
        hash_every: s between readings of all bytes.
    """

    queue: RequestQueue
    inspector: Inspector
    tree: Path
    listen: Listen | None
    poll: float
    hash_every: float
    backend: Backend = "poll"
    last_look: float = -math.inf  # on trio's clock
    rearms: int = 0
    failure: str = ""  # why there are no events
    _heard: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _moved: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _watched: frozenset[WatchedDirectory] = frozenset()
    _deny: bytes | None = None  # deny.toml, as the last look saw it

    async def run(self) -> None:
        """Poll and listen."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_for_bytes)
            if self.listen is not None:
                nursery.start_soon(self._hear)
            await self._look_for_ever()

    async def _look_for_ever(self) -> None:
        pause = self.poll
        while True:
            with trio.move_on_after(pause) as waiting:
                await self._heard.wait()
            event = not waiting.cancelled_caught
            if event:
                await trio.sleep(BREATH)
                self._heard = trio.Event()
            began = trio.current_time()
            await self._look(event)
            rest = (trio.current_time() - began) / POLL_SHARE
            if event:
                await trio.sleep(min(rest, self.poll))  # a busy neighbour in the parent directory must not keep us busy
            pause = max(self.poll, rest)

    async def _look(self, event: bool) -> None:
        signature, directories, deny = await trio.to_thread.run_sync(self._survey, abandon_on_cancel=True)
        hurry = self._deny is not None and deny != self._deny  # somebody wants a key refused at once
        self._deny = deny
        self.last_look = trio.current_time()
        if directories != self._watched:
            self._watched = directories
            self._moved.set()
        if self.inspector.touched(signature):
            self.queue.request("event" if event else "poll", hurry=hurry)

    def _survey(self) -> tuple[object, frozenset[WatchedDirectory], bytes]:
        directories = frozenset(watched_directories(self.tree)) if self.listen is not None else frozenset()
        return self.inspector.reader.sign(), directories, _bytes_of(self.tree / "deny.toml")

    async def _ask_for_bytes(self) -> None:
        while True:
            await trio.sleep(self.hash_every)
            self.queue.request("hash")

    # --- events

    async def _hear(self) -> None:
        """Listen to the directories there are; anew when they are other ones; after a failure, now and then."""
        while True:
            if not self._watched:
                self._watched = (await trio.to_thread.run_sync(self._survey, abandon_on_cancel=True))[1]
            self._moved = trio.Event()
            paths = sorted({path for path, _, _ in self._watched})
            failure = await self._listen_to(paths)
            self.rearms += 1
            if failure:
                self._give_up(failure)
                await trio.sleep(self.hash_every)

    async def _listen_to(self, paths: list[str]) -> str:
        """Until the directories change. Returns: why it cannot go on, or ""."""
        assert self.listen is not None
        failures: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._events, self.listen, paths, failures, nursery.cancel_scope)
            await self._moved.wait()
            nursery.cancel_scope.cancel()
        return failures[0] if failures else ""

    async def _events(self, listen: Listen, paths: list[str], failures: list[str], scope: trio.CancelScope) -> None:
        """Until it is cancelled; its end is a failure."""
        try:
            await listen(paths, self._on_begun, self._on_event)
            failures.append("the watcher ended")
        except Exception as error:  # whatever is wrong with it, there is the poll
            failures.append(f"{type(error).__name__}: {error}")
        scope.cancel()

    def _on_begun(self) -> None:
        if self.backend != "inotify":
            log.info("watch.listening", extra={"directories": len(self._watched)})
        self.backend, self.failure = "inotify", ""
        self._heard.set()  # what happened while nobody listened

    def _on_event(self) -> None:
        self._heard.set()

    def _give_up(self, failure: str) -> None:
        if self.failure != failure:
            log.warning("watch.poll_only", extra={"reason": failure, "every_s": self.poll})
        self.backend, self.failure = "poll", failure


# Waits for events in some directories and tells of each, until it is cancelled. (paths, begun, tell)
Listen = Callable[[list[str], Callable[[], None], Callable[[], None]], Awaitable[None]]


def _bytes_of(path: Path) -> bytes:
    """A small regular file as it lies there; b"" for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, LARGEST_DENY) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)


# --- what to watch


def watched_directories(tree: Path) -> Iterator[WatchedDirectory]:
    """The directories whose entries decide what the tree is, as far as they exist; at most MAX_DIRECTORIES."""
    seen: set[str] = set()
    for path in _directories(tree):
        if path in seen:
            continue
        seen.add(path)
        try:
            found = os.stat(path)
        except OSError:
            continue
        yield path, found.st_dev, found.st_ino
        if len(seen) >= MAX_DIRECTORIES:
            return


def _directories(tree: Path) -> Iterator[str]:
    yield from link_parents(os.path.abspath(tree))
    real = os.path.realpath(tree)
    if not os.path.isdir(real):
        return
    yield real
    yield from _git_directories(real)
    for entry in _subdirectories(real):
        if entry.endswith(".d") or entry.startswith("..data"):
            yield from _below(os.path.join(real, entry))


def link_parents(path: str) -> Iterator[str]:
    """The directory of `path`, and of every symbolic link that is followed on the way to what it names."""
    todo = [part for part in path.split(os.sep) if part]
    here, followed = os.sep, 0
    while todo:
        name = todo.pop(0)
        if name == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, name)
        if os.path.islink(step) and followed < LINKS:
            yield here
            followed += 1
            target = os.readlink(step)
            if os.path.isabs(target):
                here = os.sep
            todo[:0] = [part for part in target.split(os.sep) if part not in ("", ".")]
            continue
        if not todo:
            yield here
        here = step


def _git_directories(real: str) -> Iterable[str]:
    """Where git keeps the index and HEAD of this work tree; a linked one says so in a file."""
    path = os.path.join(real, ".git")
    if os.path.isdir(path):
        return [path]
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            line = file.read(4096).strip()
    except OSError:
        return []
    return [os.path.join(real, line.removeprefix("gitdir:").strip())] if line.startswith("gitdir:") else []


def _subdirectories(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry in found if _is_directory(entry))
    except OSError:
        return []


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a loop of links: it must not hide what lies beside it


def _below(folder: str, depth: int = 0) -> Iterator[str]:
    yield os.path.realpath(folder)
    if depth < 16:  # as deep as the tree is read
        for entry in _subdirectories(folder):
            if not entry.startswith(".") or entry.startswith("..data"):
                yield from _below(os.path.join(folder, entry), depth + 1)
