"""Tree reading: the files of a config tree, from a directory that somebody may be writing to.

Rule: reads regular files inside the directory and nothing else; every open is bounded and cannot block. Sync: the
daemon calls `read_coherent` in a worker thread, and hands in the clock and the sleep.

Theory: a reading counts only if nothing moved: the same scan before and after, each file's stamp at the open that of
the scan, git idle and at the same commit before and after, the last change long enough ago that no writer is between
two files. With a manifest none of that is needed: the bytes are exactly those that were meant, or they are not.
Measured on ext4 with git 2.39 going to and fro between two commits: naive readings were a mixture in 4 of 10 cases,
these in none of thousands.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import attrs

from relayd.config.model.document import MAX_FILE
from relayd.config.model.tree_digest import tree_digest
from relayd.config.problems.problem import ConfigError, Problem, in_order
from relayd.config.source.git_state import MARKERS, GitState, find_git, git_state
from relayd.config.source.provenance import UNKNOWN, BlobNames, Provenance, mismatch, of_git, of_names, parse_manifest
from relayd.config.source.scan import MANIFEST, REVISION, Scan, Stamp, reason, scan, stamp_of
from relayd.noun import noun

MAX_TREE = 64 << 20  # bytes: 20,000 files of 3 kB, five times what 10,000 keys need
QUIET = 0.25  # s without a change before a directory is read; writers that pause longer need a manifest
EMPTY_GRACE = 5.0  # s that a file may be empty: editors and copies truncate first and write then
STALE_LOCK = 60.0  # s; git holds a lock for a few at most, so the process that took an older one has died
PROOF_TIMEOUT = 10.0  # s for asking git
_RACY = 2.0  # s; a file written at the same tick as it was read may change without its stamp changing

Git = Literal["all", "locks", "ignore"]


@noun(kw_only=True)
class Reading:
    """What was read, and what could not be."""

    files: dict[str, bytes] = attrs.field(repr=False)
    problems: tuple[Problem, ...] = ()


@noun(kw_only=True)
class Tree:
    """A tree as it was at one moment.

    Args:
        files: content by POSIX path in the tree.
        problems: of reading: unreadable files, a stale lock. `compile_tree` takes them as `reading`.
        digest: 64 hex digits over the files that are config; the first twelve are the snapshot's revision.
        signature: what `signature` gave at that moment; None for a tree that was not read from a directory.
    """

    files: dict[str, bytes] = attrs.field(repr=False)
    problems: tuple[Problem, ...] = ()
    digest: str
    provenance: Provenance = UNKNOWN
    signature: object = attrs.field(default=None, repr=False, eq=False)


@noun
class Unstable:
    """The tree does not hold still, or is known to be unfinished.

    Args:
        reason: lower case, for people.
        absent: there is none; waiting would not help.
    """

    reason: str
    absent: bool = False


@attrs.define(eq=False)
class FileCache:
    """Contents of the last reading, by stamp, so that a reload after one edit reads one file.

    ctime cannot be set by programs, so an equal stamp means equal bytes, unless the clock is set back; who wants to be
    certain reads without a cache now and then.
    """

    files: dict[str, tuple[Stamp, bytes]] = attrs.field(factory=dict, repr=False)
    blobs: BlobNames = attrs.field(factory=BlobNames, repr=False)


def read_files(directory: Path) -> dict[str, bytes]:
    """The files of a tree by POSIX path. Raises: ConfigError when any of them cannot be read."""
    reading = read_tree(directory)
    if reading.problems:
        raise ConfigError(reading.problems)
    return reading.files


def read_tree(directory: Path) -> Reading:
    """The files of a tree: relay.toml and its like, and everything in *.d directories that is not to be ignored.

    As they lie there: for verbs that edit under a lock. What may be written meanwhile is for `read_coherent`.
    """
    return _read(scan(directory))


def signature(directory: Path) -> object:
    """What a look without reading shows: equal (==) as long as no file was touched and git has not moved."""
    looked = scan(directory)
    place = find_git(looked.root)
    return _signature(looked, git_state(place) if place else None)


def _signature(looked: Scan, state: GitState | None) -> object:
    # Not the index: `git status` refreshes it. Not the directory's own time: other things lie there too.
    return looked, (state.ref, state.commit, state.lock, state.marker) if state else None


def read_coherent(
    directory: Path,
    *,
    quiet: float = QUIET,
    wall: Callable[[], float],
    sleep: Callable[[float], None],
    deadline: float,
    git: Git = "all",
    cache: FileCache | None = None,
) -> Tree | Unstable:
    """Read the tree as it was at one moment; try again until it holds still, or `deadline` has come.

    Args:
        quiet: s without a change before it is read; 0 where it is known that nobody writes. A tree behind a link that
            is flipped (git-sync, a ConfigMap) and one with a manifest need none, and get none.
        wall: Unix time, s; file times are compared with it.
        deadline: on `wall`; at least one attempt is made.
        git: "all" waits for git's locks and for the end of merges and rebases; "locks" for locks alone, for people who
            check what they are merging; "ignore" is for git hooks, which run under git's own lock.
        cache: contents of the last reading.
    Returns: Unstable with the last reason when it did not hold still. Raises nothing.
    """
    attempt = _Attempts(directory=directory, quiet=quiet, wall=wall, git=git, cache=cache)
    pause, left = 0.02, deadline - wall()
    while True:
        found = attempt.once()
        if isinstance(found, Tree):
            return found
        left = min(left, deadline - wall())
        if left <= 0:
            return found
        rest = min(attempt.settled_in or pause, left)
        sleep(rest)
        pause, left = min(pause * 2, 1.0), left - rest  # also where the clock is set back meanwhile


@attrs.define(eq=False, kw_only=True)
class _Attempts:
    """Attempts at one coherent reading.

    Args:
        settled_in: s after which the next attempt makes sense; 0 when nobody knows.
    """

    directory: Path
    quiet: float
    wall: Callable[[], float]
    git: Git
    cache: FileCache | None
    settled_in: float = 0.0
    _seen: Scan | None = None
    _since: float = 0.0

    def once(self) -> Tree | Unstable:
        self.settled_in = 0.0
        before = scan(self.directory)
        place = find_git(before.root) if self.git != "ignore" else ""
        state = git_state(place) if place else None
        if busy := self._busy(state):
            return Unstable(busy)
        if moving := self._unsettled(before):
            return Unstable(moving)
        try:
            reading = _read_exactly(before, self.cache, self.wall())
            about = {name: _content(before.place(name), stamp) for name, stamp in before.about.items()}
        except (_Moved, OSError):
            return Unstable("the tree changed while it was read")
        if scan(self.directory) != before or (place and git_state(place) != state):
            return Unstable("the tree changed while it was read")
        return self._tree(before, state, reading, about)

    def _busy(self, state: GitState | None) -> str:
        """Why git is not finished; "" when it is."""
        if state is None:
            return ""
        if state.lock and not self._stale(state):
            return f"git is at work ({state.lock} is held)"
        if state.marker and self.git == "all":
            return f"a git {MARKERS[state.marker]} is not finished ({state.marker})"
        return ""

    def _stale(self, state: GitState) -> bool:
        return bool(state.lock) and self.wall() - state.locked / 1e9 > STALE_LOCK

    def _unsettled(self, looked: Scan) -> str:
        """Why it is too early to read; "" when it is not. Sets `settled_in`."""
        if self.quiet <= 0:
            return ""
        now = self.wall()
        for file, stamp in looked.files.items():
            age = now - stamp[4] / 1e9
            if stamp[2] == 0 and 0 <= age < EMPTY_GRACE:
                self.settled_in = min(EMPTY_GRACE - age, 0.25)
                return f"{file} is empty, as if it were being written"
        if looked != self._seen:
            self._seen, self._since = looked, now
        if MANIFEST in looked.about or self._flipped(looked):
            return ""
        age = now - looked.newest() / 1e9
        # By its times it is quiet, or we saw it stand still so long (where times are another machine's, or wrong).
        if age >= self.quiet or now - self._since >= self.quiet:
            return ""
        self.settled_in = self.quiet - age if age >= 0 else self.quiet
        return "the tree was changed a moment ago"

    def _flipped(self, looked: Scan) -> bool:
        """Whether new content comes by a link that changes at once."""
        return self.directory.is_symlink() or os.path.islink(os.path.join(looked.root, "..data"))

    def _tree(
        self, looked: Scan, state: GitState | None, reading: Reading, about: Mapping[str, bytes]
    ) -> Tree | Unstable:
        """What was read, if it is what a manifest says, with where it comes from."""
        provenance = UNKNOWN
        if MANIFEST in about:
            try:
                manifest = parse_manifest(about[MANIFEST])
            except ValueError as error:
                return Unstable(str(error))
            if wrong := mismatch(manifest, reading.files):
                return Unstable(wrong)
            provenance = Provenance(commit=manifest.commit or "unknown", dirty=(), source="manifest")
        problems = [*reading.problems]
        if state is not None:
            known = self.cache.blobs if self.cache else None
            found = of_git(looked.root, state, reading.files, timeout=PROOF_TIMEOUT, known=known)
            provenance = found if found.source == "git" else provenance
            problems += [_stale_lock(state)] if self._stale(state) else []
        if provenance.source == "unknown":
            provenance = of_names(looked.root, about.get(REVISION, b""))
        return Tree(
            files=reading.files,
            problems=in_order(problems),
            digest=tree_digest(reading.files, problems),
            provenance=provenance,
            signature=_signature(looked, state) if self.git == "all" else None,
        )


def _stale_lock(state: GitState) -> Problem:
    message = f"git's {state.lock} is older than {STALE_LOCK:g} s: the process that took it has probably died"
    return Problem(
        code="W-GIT-STALE-LOCK", file="", message=message, hint=f"remove it, if no git is running: {state.directory}"
    )


class _Moved(Exception):
    """A file is not the one that was scanned any more."""


def _read(looked: Scan) -> Reading:
    """Read what was scanned, whatever became of it since."""
    files: dict[str, bytes] = {}
    problems = list(looked.problems)
    size = 0
    for file in looked.files:
        try:
            files[file] = _content(looked.place(file))
        except OSError as error:
            problems.append(_unreadable(file, error))
            continue
        size += len(files[file])
        if size > MAX_TREE:
            problems.append(_too_large(file))
            break
    return Reading(files=files, problems=in_order(problems))


def _read_exactly(looked: Scan, cache: FileCache | None, now: float) -> Reading:
    """Read what was scanned, as it was scanned. Raises: _Moved."""
    problems = list(looked.problems)
    known = cache.files if cache else {}
    files: dict[str, bytes] = {}
    kept: dict[str, tuple[Stamp, bytes]] = {}
    size = 0
    for file, stamp in looked.files.items():
        size += min(stamp[2], MAX_FILE + 1)
        if size > MAX_TREE:
            problems.append(_too_large(file))
            break
        old = known.get(file)
        if old is not None and old[0] == stamp:
            files[file] = old[1]
        else:
            try:
                files[file] = _content(looked.place(file), stamp)
            except FileNotFoundError:
                raise _Moved from None
            except OSError as error:
                problems.append(_unreadable(file, error))
                continue
        # A write sets the time of both; where the inode's alone is new, the file was given a name and not written to.
        if cache is not None and not 0 <= now - min(stamp[3], stamp[4]) / 1e9 < _RACY:
            kept[file] = stamp, files[file]
    if cache is not None:
        cache.files = kept
    return Reading(files=files, problems=in_order(problems))


def _unreadable(file: str, error: OSError) -> Problem:
    return Problem(code="E-UNREADABLE", file=file, message=f"the file cannot be read: {reason(error)}")


def _too_large(file: str) -> Problem:
    return Problem(code="E-TOO-LARGE", file=file, message="from this file on the tree is larger than 64 MiB")


def _content(path: str, stamp: Stamp | None = None) -> bytes:
    """At most one byte more than a file may have; the compiler judges the size.

    Raises: OSError, also when the file was replaced by something else since it was looked at; _Moved when its stamp is
        another.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        state = os.fstat(descriptor)
        if stamp is not None and stamp_of(state) != stamp:
            raise _Moved
        if not stat.S_ISREG(state.st_mode):
            raise OSError("it is no longer a regular file")
        return _whole(file, min(state.st_size, MAX_FILE) + 1)


def _whole(file: io.FileIO, most: int) -> bytes:
    """Up to `most` bytes. One read does, but for file systems that give less than was asked for."""
    data = file.read(most)
    while len(data) < most and (more := file.read(most - len(data))):
        data += more
    return data
