"""Versions: the commits of a tree that were put in place, each whole in a directory of its own, and the link to one.

Rule: what the link leads to is never written to; a new version is made beside it, synced, and counts from the moment
when the link is replaced. So a reader sees one commit or another and nothing in between, and a full disk, a crash or a
power cut leaves what was there. A version whose REVISION is missing was not finished.

Layout: `relay -> relay.trees/COMMIT`; `relay.trees/COMMIT/` with the tree and REVISION, the file that is written last;
`relay.trees/var`, to which `var` in each version leads, because a daemon keeps its state in the tree where nobody says
otherwise.

Theory: what two commits have in common is one file with two names (a hard link), so that ten thousand keys cost no ten
thousand new files. A file that somebody changed on this machine is not its blob any more: it is seen, told, and never
taken over.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from relayd.config.atomic import create_file, sync_directory
from relayd.config.model.document import MAX_FILE
from relayd.config.source.provenance import blob_name
from relayd.config.source.pushed import Listing
from relayd.config.source.scan import REVISION, scan
from relayd.config.source.tree import MAX_TREE

KEEP = 3  # versions, the one in place among them: enough to look at what was
READABLE, SEARCHABLE = 0o644, 0o755  # a tree holds no secret in clear, and the daemon is another user
STATE = "var"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_UNFINISHED = ".new-"
_AT_ONCE = 2000  # blobs read into memory at once

Contents = Callable[[Sequence[str]], list[bytes]]  # of blobs, by their names


class NotALink(Exception):
    """Something lies where the link should be. The text says what, and what to do."""


@attrs.frozen(kw_only=True)
class Version:
    """A version on disk, with what its commit has.

    Args:
        changed: paths that are not what the commit has: changed, added or removed on this machine.
    """

    directory: Path
    listing: Listing
    changed: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class Versions:
    """The versions of one tree. `link`: what the daemon reads, an absolute path."""

    link: Path

    @property
    def home(self) -> Path:
        """Where they lie."""
        return self.link.with_name(f"{self.link.name}.trees")

    def place(self, commit: str) -> Path:
        """The directory of a version."""
        return self.home / commit

    def current(self) -> str:
        """The commit in place; "" for none. Raises: NotALink."""
        if not self.link.is_symlink():
            if os.path.lexists(self.link):
                raise NotALink(f"{self.link} is there already, and is not a link to a version of the tree")
            return ""
        target = Path(os.path.normpath(self.link.parent / os.readlink(self.link)))
        if target.parent != self.home or not _COMMIT.fullmatch(target.name):
            raise NotALink(f"{self.link} is a link to {target}, which is not one of {self.home}")
        return target.name if (target / REVISION).is_file() else ""

    def look(self, listing: Listing) -> Version:
        """A version that is on disk, compared with its commit."""
        directory = self.place(listing.commit)
        found = scan(directory).files.keys()
        changed = {path for path, name in listing.files.items() if not _is_blob(directory / path, name)}
        changed |= {path for path in found if not _is_known(path, listing)}
        return Version(directory=directory, listing=listing, changed=frozenset(changed))

    def stage(self, listing: Listing, contents: Contents, before: Version | None) -> Path:
        """Make the directory of a commit, whole and synced; nothing leads to it yet. Raises: OSError, naming a file.

        Args:
            before: the version in place, whose unchanged files are taken over.
        """
        final = self.place(listing.commit)
        if before is not None and before.listing.commit == listing.commit and not before.changed:
            return final
        fresh = self.home / f"{_UNFINISHED}{listing.commit}"
        self.discard(fresh)
        fresh.mkdir(SEARCHABLE)
        try:
            _fill(fresh, listing, contents, before)
            _lead_to_state(fresh, self.home)
            create_file(fresh / REVISION, f"{listing.commit}\n".encode(), mode=READABLE)
            _sync_all(fresh)
            self.discard(final)
            os.rename(fresh, final)
        except BaseException:
            self.discard(fresh)
            raise
        sync_directory(self.home)
        return final

    def put_in_place(self, commit: str) -> None:
        """Let the link lead to a version, in one step. Raises: OSError; NotALink."""
        self.current()
        fresh = self.link.with_name(f".{self.link.name}.new")
        fresh.unlink(missing_ok=True)
        os.symlink(f"{self.home.name}/{commit}", fresh)
        try:
            os.replace(fresh, self.link)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        sync_directory(self.link.parent)

    def discard(self, directory: Path) -> None:
        """Take a version away, or what there is of it; never the one in place."""
        if directory.name != self.current():
            shutil.rmtree(directory, ignore_errors=True)

    def prune(self) -> None:
        """Keep the one in place and the newest others; what was not finished goes."""
        current, old = self.current(), []
        for directory in self.home.iterdir():
            if directory.name.startswith(_UNFINISHED):
                self.discard(directory)
            elif _COMMIT.fullmatch(directory.name) and directory.name != current:
                old.append((directory.stat().st_mtime_ns, directory))
        for _, directory in sorted(old, reverse=True)[KEEP - 1 :]:
            self.discard(directory)


def _fill(fresh: Path, listing: Listing, contents: Contents, before: Version | None) -> None:
    """Every file of a commit; links at the very end, so that nothing is written through one."""
    kept = _in_common(listing, before)
    made: set[str] = set()
    for path in sorted({*listing.files, *listing.links}):
        folder = path.rpartition("/")[0]
        if folder not in made:
            (fresh / folder).mkdir(SEARCHABLE, parents=True, exist_ok=True)
            made.add(folder)
    source = before.directory if before else fresh
    missing = [path for path in listing.files if path not in kept or not _linked(source / path, fresh / path)]
    for start in range(0, len(missing), _AT_ONCE):
        part = missing[start : start + _AT_ONCE]
        for path, data in zip(part, contents([listing.files[path] for path in part]), strict=True):
            _write(fresh / path, data)
    for path, target in zip(listing.links, contents(list(listing.links.values())), strict=True):
        os.symlink(target, os.fsencode(fresh / path))


def _in_common(listing: Listing, before: Version | None) -> set[str]:
    """Files that are the same in both commits, and on this disk what they were."""
    if before is None:
        return set()
    old = before.listing.files
    return {path for path, name in listing.files.items() if old.get(path) == name and path not in before.changed}


def _linked(source: Path, target: Path) -> bool:
    """Give a file a second name. It may belong to somebody else, or be named too often already."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    """A new file; it is synced with all others at the end."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, READABLE)
    with open(descriptor, "wb", buffering=0) as file:
        at = 0
        while at < len(data):
            at += file.write(data[at:])


def _lead_to_state(fresh: Path, home: Path) -> None:
    """`var`, and what relay.toml names in its place, lead to one directory for all versions."""
    try:
        relay_toml = _bytes(fresh / "relay.toml", MAX_FILE)
    except OSError:  # there is none, or a link, which we do not follow
        relay_toml = b""
    for name in {STATE, state_folder(relay_toml)}:
        (home / name).mkdir(0o700, exist_ok=True)
        if not os.path.lexists(fresh / name):
            os.symlink(f"../{name}", fresh / name)


def state_folder(relay_toml: bytes) -> str:
    """The directory in the tree where a daemon keeps its state: the first part of a relative path in [state].url."""
    try:
        state = tomllib.loads(relay_toml.decode()).get("state", {})
        scheme, _, rest = str(state["url"]).partition(":")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return STATE
    parts = rest.removeprefix("//").split("/")
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", parts[0]) and not _COMMIT.fullmatch(parts[0])
    return parts[0] if scheme == "sqlite" and len(parts) > 1 and plain else STATE


def _sync_all(directory: Path) -> None:
    """Everything that was written to this file system is on the disk. Source: syncfs(2); Python has only sync(2)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)


def _is_blob(path: Path, name: str) -> bool:
    try:
        return blob_name(_bytes(path, MAX_TREE), len(name)) == name
    except OSError:
        return False


def _is_known(path: str, listing: Listing) -> bool:
    """Whether a commit has a file, or a link to the directory that it lies in."""
    return path in listing.files or path in listing.links or any(path.startswith(f"{one}/") for one in listing.links)


def _bytes(path: Path, most: int) -> bytes:
    """A regular file, as far as it goes. Raises: OSError, also for a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        return file.read(most) or b""
