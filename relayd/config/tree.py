"""Tree: the files of a config tree, from a directory.

Rule: reads regular files inside the directory and nothing else; every open is bounded and cannot block, so that a pipe,
a device or a loop of links in the tree is a problem with a name and never a hang.
"""

from __future__ import annotations

import datetime
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import attrs

from relayd.config.compile import Compiled, Memo, compile_tree
from relayd.config.document import MAX_FILE, classify, top_files
from relayd.config.problem import ConfigError, Problem, in_order

MAX_TREE = 64 << 20  # bytes: 20,000 files of 3 kB, five times what 10,000 keys need
MAX_FILES = 20_000
MAX_DEPTH = 16  # directories below a *.d directory


@attrs.frozen(kw_only=True)
class Reading:
    """What was read, and what could not be."""

    files: dict[str, bytes] = attrs.field(repr=False)
    problems: tuple[Problem, ...] = ()


def load_tree(directory: Path, *, now: datetime.datetime | None = None, memo: Memo | None = None) -> Compiled:
    """Read and compile the tree at `directory`. Raises nothing; problems of both are in the result."""
    reading = read_tree(directory)
    return compile_tree(reading.files, now=now, memo=memo, reading=reading.problems)


def read_files(directory: Path) -> dict[str, bytes]:
    """The files of a tree by POSIX path. Raises: ConfigError when any of them cannot be read."""
    reading = read_tree(directory)
    if reading.problems:
        raise ConfigError(reading.problems)
    return reading.files


def read_tree(directory: Path) -> Reading:
    """The files of a tree: relay.toml and its like, and everything in *.d directories that is not to be ignored."""
    reader = _Reader(os.path.realpath(directory))
    if not os.path.isdir(reader.root):
        reader.add_problem("E-NO-RELAY-TOML", "relay.toml", "there is no such directory", "relayd init DIR makes one")
    else:
        reader.read_all()
    return Reading(files=reader.files, problems=in_order(reader.problems))


class _Full(Exception):
    """The tree is larger than the bounds allow."""


class _Reader:
    """One reading of one directory. `root` is real: links are judged against it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[str, bytes] = {}
        self.problems: list[Problem] = []
        self.size = 0

    def add_problem(self, code: str, file: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(code=code, file=file, message=message, hint=hint))

    def read_all(self) -> None:
        try:
            for name in top_files():
                if os.path.lexists(os.path.join(self.root, name)):
                    self._read(name)
            for name in self._names(""):
                if name.endswith(".d") and not name.startswith("."):
                    self._read_below(name)
        except _Full:
            pass

    def _read_below(self, folder: str) -> None:
        for file in self._walk(folder, 0, frozenset()):
            if classify(file) != "ignored":
                self._read(file)

    def _walk(self, folder: str, depth: int, above: frozenset[str]) -> Iterator[str]:
        """Paths of everything below a directory that is no directory, in order."""
        real = os.path.realpath(os.path.join(self.root, folder))
        if not os.path.isdir(real) and depth == 0:
            return  # a plain file with such a name at the top is none of ours
        if real in above or depth > MAX_DEPTH:
            self.add_problem("E-UNREADABLE", folder, "the directories lead back to themselves, or are too deep")
            return
        if not self._inside(real):
            self.add_problem("E-UNREADABLE", folder, "the link leads out of the tree")
            return
        for name in self._names(folder):
            path = f"{folder}/{name}"
            if name.startswith("."):
                continue
            if os.path.isdir(os.path.join(self.root, path)):
                yield from self._walk(path, depth + 1, above | {real})
            else:
                yield path

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self.root, folder)))
        except OSError as error:
            self.add_problem("E-UNREADABLE", folder, f"the directory cannot be read: {_reason(error)}")
            return []

    def _read(self, file: str) -> None:
        path = os.path.join(self.root, file)
        if not self._inside(os.path.realpath(path)):
            self.add_problem("E-UNREADABLE", file, "the link leads out of the tree", "copy the file into the tree")
            return
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # before the open, which may act on a device
                self.add_problem("E-UNREADABLE", file, "this is no regular file")
                return
            self._keep(file, _content(path))
        except OSError as error:
            self.add_problem("E-UNREADABLE", file, f"the file cannot be read: {_reason(error)}")

    def _keep(self, file: str, data: bytes) -> None:
        self.files[file] = data
        self.size += len(data)
        if self.size > MAX_TREE or len(self.files) > MAX_FILES:
            self.add_problem("E-TOO-LARGE", file, "from this file on the tree is larger than 64 MiB or 20,000 files")
            raise _Full

    def _inside(self, real: str) -> bool:
        return real == self.root or real.startswith(self.root.rstrip("/") + "/")


def _content(path: str) -> bytes:
    """At most one byte more than a file may have; the compiler judges the size.

    Raises: OSError, also when the file was replaced by something else since it was looked at.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no regular file any more")
        return file.read(MAX_FILE + 1)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
