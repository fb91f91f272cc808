"""Directory scan: which files of a tree a directory holds, each with a stamp that changes when it is written.

Rule: looks, opens nothing, follows no link out of the tree, and ends whatever the directory holds: pipes, devices and
loops of links are problems with a name. A tree of 10,000 files costs about 70 ms.

Theory: two scans that are equal, and between them reads whose stamps were those of the scan, have seen one state of the
directory, if no write was under way: ctime cannot be set by a program, and inodes tell a file from its successor.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

import attrs

from relayd.config.model.document import classify, top_files
from relayd.config.problems.problem import Problem, in_order
from relayd.noun import noun

MAX_FILES = 20_000
MAX_DEPTH = 16  # directories below a *.d directory
MANIFEST, REVISION = "manifest.toml", "REVISION"  # about the tree, not of it

Stamp = tuple[int, int, int, int, int]  # device, inode, size (bytes), mtime, ctime (ns)
# A ConfigMap is flat and its keys cannot hold a slash, so there `accounts.d__main.toml` is accounts.d/main.toml.
_FLAT = re.compile(r"(accounts|keys|tests)\.d__(?=.)")


@noun(kw_only=True)
class Scan:
    """What a directory holds.

    Args:
        root: its real path.
        files: the stamp of each regular file, by POSIX path in the tree.
        places: where a file lies below `root`, if not at its path.
        folders: inode of each *.d directory and those below it.
        touched: the newest ctime (ns) of a directory. It also changes with what is not part of the tree, such as what
            editors leave behind, so it does not count in a comparison.
        about: stamps of the manifest and the like.
    """

    root: str
    files: dict[str, Stamp] = attrs.field(factory=dict, repr=False)
    places: dict[str, str] = attrs.field(factory=dict, repr=False)
    folders: dict[str, int] = attrs.field(factory=dict, repr=False)
    about: dict[str, Stamp] = attrs.field(factory=dict, repr=False)
    problems: tuple[Problem, ...] = ()
    touched: int = attrs.field(default=0, eq=False)

    def newest(self) -> int:
        """When the last change was, ns of Unix time."""
        stamps = [stamp[4] for files in (self.files, self.about) for stamp in files.values()]
        return max([self.touched, *stamps])

    def place(self, file: str) -> str:
        """The path of a file, to open it."""
        return os.path.join(self.root, self.places.get(file, file))


def scan(directory: str | os.PathLike[str]) -> Scan:
    """Look at a directory. Raises nothing; what cannot be looked at is a problem."""
    scanner = _Scanner(os.path.realpath(directory))
    if os.path.isdir(scanner.root):
        scanner.scan_all()
    else:
        hint = "relayd init DIR makes one"
        scanner.add_problem("E-NO-RELAY-TOML", "relay.toml", "the directory does not exist", hint)
    return Scan(
        root=scanner.root,
        files=scanner.files,
        places=scanner.places,
        folders=scanner.folders,
        about=scanner.about,
        problems=in_order(scanner.problems),
        touched=scanner.touched,
    )


def stamp_of(about: os.stat_result) -> Stamp:
    """What of a file's state changes when it is written or replaced."""
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


class _Full(Exception):
    """The tree has more files than the bounds allow."""


class _Scanner:
    """One look at one directory. `root` is real: links are judged against it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[str, Stamp] = {}
        self.places: dict[str, str] = {}
        self.folders: dict[str, int] = {}
        self.about: dict[str, Stamp] = {}
        self.problems: list[Problem] = []
        self.touched = 0

    def add_problem(self, code: str, file: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(code=code, file=file, message=message, hint=hint))

    def scan_all(self) -> None:
        wanted = (*top_files(), MANIFEST, REVISION)
        try:
            self.touched = os.stat(self.root).st_ctime_ns
            for entry in self._entries(""):
                if entry.name in wanted:
                    self._note(entry.name, entry)
                elif flat := _FLAT.match(entry.name):
                    self._note(f"{flat[1]}.d/{entry.name[flat.end() :]}", entry)
                elif entry.name.endswith(".d") and not entry.name.startswith("."):
                    self._folder(entry.name, entry, 0, frozenset())
        except _Full:
            self.add_problem("E-TOO-LARGE", "", "the tree has more than 20,000 files")
        except FileNotFoundError:
            pass  # gone while we look; the next scan says so

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self.root, folder)) as found:
                return iter(sorted(found, key=lambda entry: entry.name))
        except OSError as error:
            self.add_problem("E-UNREADABLE", folder, f"the directory cannot be read: {reason(error)}")
            return iter(())

    def _folder(self, folder: str, entry: os.DirEntry[str], depth: int, above: frozenset[tuple[int, int]]) -> None:
        """A *.d directory or one below. `above`: device and inode of those that lead here."""
        try:
            state = entry.stat()
        except OSError as error:
            self.add_problem("E-UNREADABLE", folder, f"the directory cannot be read: {reason(error)}")
            return
        if not stat.S_ISDIR(state.st_mode):
            return  # a plain file with such a name at the top is not part of the tree
        own = state.st_dev, state.st_ino
        if own in above or depth > MAX_DEPTH:
            self.add_problem("E-UNREADABLE", folder, "the directories form a loop, or are nested too deeply")
            return
        if entry.is_symlink() and not self._inside(folder):
            self.add_problem("E-UNREADABLE", folder, "the link leads out of the tree")
            return
        self.folders[folder] = state.st_ino
        self.touched = max(self.touched, state.st_ctime_ns)
        for inner in self._entries(folder):
            path = f"{folder}/{inner.name}"
            if inner.name.startswith("."):
                continue
            if inner.is_file(follow_symlinks=False):  # nearly always; no system call
                if classify(path) != "ignored":
                    self._plain(path, inner)
            elif _is_directory(inner):
                self._folder(path, inner, depth + 1, above | {own})
            elif classify(path) != "ignored":
                self._note(path, inner)

    def _plain(self, file: str, entry: os.DirEntry[str]) -> None:
        """A regular file at its own place: the short way."""
        try:
            state = entry.stat(follow_symlinks=False)
        except OSError as error:
            self.add_problem("E-UNREADABLE", file, f"the file cannot be read: {reason(error)}")
            return
        if file in self.files or not stat.S_ISREG(state.st_mode):
            self._note(file, entry)
        else:
            self._keep(file, file, stamp_of(state))

    def _note(self, file: str, entry: os.DirEntry[str]) -> None:
        """One file of the tree."""
        place = os.path.relpath(entry.path, self.root) if "__" in entry.name else file
        if entry.is_symlink() and not self._inside(place):
            self.add_problem("E-UNREADABLE", file, "the link leads out of the tree", "copy the file into the tree")
            return
        try:
            state = entry.stat()
        except OSError as error:
            self.add_problem("E-UNREADABLE", file, f"the file cannot be read: {reason(error)}")
            return
        if not stat.S_ISREG(state.st_mode):
            self.add_problem("E-UNREADABLE", file, "this is not a regular file")
        elif file in (MANIFEST, REVISION):
            self.about[file] = stamp_of(state)
        elif file in self.files:
            hint = f"remove {entry.name} or {file}"
            self.add_problem("E-DUP-ID", file, f"{entry.name} is the same file of the tree", hint)
        else:
            self._keep(file, place, stamp_of(state))

    def _keep(self, file: str, place: str, stamp: Stamp) -> None:
        if len(self.files) >= MAX_FILES:
            raise _Full
        self.files[file] = stamp
        if place != file:
            self.places[file] = place

    def _inside(self, place: str) -> bool:
        real = os.path.realpath(os.path.join(self.root, place))
        return real == self.root or real.startswith(self.root.rstrip("/") + "/")


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a loop of links: looked at as a file, which says so


def reason(error: OSError) -> str:
    """What the system says, without the path."""
    return (error.strerror or str(error)).lower()
