"""Versions: how the directory of a commit is made, and compared with what the commit has.

Rule: what is in place is never written to; a new version is made beside it and synced, and nothing leads to it until
somebody replaces the link (see version_link).

Theory: what two commits have in common is one file with two names (a hard link), so that ten thousand keys cost no ten
thousand new files. A file that somebody changed on this machine is not its blob any more: it is seen, told, and never
taken over.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import tomllib
from pathlib import Path

from relayd.config.atomic import create_file, sync_directory
from relayd.config.model.document import MAX_FILE
from relayd.config.source.git_listing import Contents, Listing, is_read
from relayd.config.source.provenance import blob_name
from relayd.config.source.tree import MAX_TREE
from relayd.config.source.version_link import COMMIT, REVISION, UNFINISHED, VersionLink, looks
from relayd.noun import noun

READABLE, SEARCHABLE = 0o644, 0o755  # a tree holds no secret in clear, and the daemon is another user
STATE = "var"
_AT_ONCE = 2000  # blobs read into memory at once


@noun(kw_only=True)
class Version:
    """A version on disk, with what its commit has.

    Args:
        changed: paths that are not what the commit has: changed, added or removed on this machine.
    """

    directory: Path
    listing: Listing
    changed: frozenset[str] = frozenset()

    def has_as(self, listing: Listing, path: str) -> bool:
        """Whether a path is here, or is not, as another commit has it. May block."""
        if path in listing.files:
            return _is_blob(self.directory / path, listing.files[path])
        return not os.path.lexists(self.directory / path)


def compared(link: VersionLink, listing: Listing) -> Version:
    """A version that is on disk, compared with its commit: by its bytes, where it does not look as it did."""
    directory, known = link.place(listing.commit), link.noted(listing.commit)
    found = looks(directory)
    suspects = [path for path in listing.files if path not in known or found.get(path) != known[path]]
    changed = {path for path in suspects if not _is_blob(directory / path, listing.files[path])}
    changed |= {path for path in found.keys() - listing.files.keys() if is_read(path)}
    return Version(directory=directory, listing=listing, changed=frozenset(changed))


def stage(link: VersionLink, listing: Listing, contents: Contents, before: Version | None) -> Path:
    """Make the directory of a commit, whole and synced; nothing leads to it yet. Raises: OSError, naming a file.

    Args:
        before: the version in place, whose unchanged files are taken over.
    """
    final = link.place(listing.commit)
    if before is not None and before.listing.commit == listing.commit and not before.changed:
        return final
    fresh = link.home / f"{UNFINISHED}{listing.commit}"
    link.discard(fresh)
    fresh.mkdir(SEARCHABLE)
    try:
        _fill(fresh, listing, contents, before)
        _lead_to_state(fresh, link.home)
        create_file(fresh / REVISION, f"{listing.commit}\n".encode(), mode=READABLE)
        _sync_all(fresh)
        link.discard(final)
        os.rename(fresh, final)
    except BaseException:
        link.discard(fresh)
        raise
    sync_directory(link.home)
    return final


def _fill(fresh: Path, listing: Listing, contents: Contents, before: Version | None) -> None:
    """Every file of a commit."""
    kept = _in_common(listing, before)
    made: set[str] = set()
    for path in sorted(listing.files):
        folder = path.rpartition("/")[0]
        if folder not in made:
            (fresh / folder).mkdir(SEARCHABLE, parents=True, exist_ok=True)
            made.add(folder)
    source, target = str(before.directory if before else fresh), str(fresh)
    missing = [path for path in listing.files if path not in kept or not _linked(source, target, path)]
    for start in range(0, len(missing), _AT_ONCE):
        part = missing[start : start + _AT_ONCE]
        for path, data in zip(part, contents([listing.files[path] for path in part]), strict=True):
            _write(fresh / path, data)


def _in_common(listing: Listing, before: Version | None) -> set[str]:
    """Files that are the same in both commits, and on this disk what they were."""
    if before is None:
        return set()
    old = before.listing.files
    return {path for path, name in listing.files.items() if old.get(path) == name and path not in before.changed}


def _linked(source: str, target: str, path: str) -> bool:
    """Give a file a second name. It may belong to somebody else, or be named too often already."""
    try:
        os.link(f"{source}/{path}", f"{target}/{path}", follow_symlinks=False)
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
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", parts[0]) and not COMMIT.fullmatch(parts[0])
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


def _bytes(path: Path, most: int) -> bytes:
    """A regular file, as far as it goes. Raises: OSError, also for a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        return file.read(most) or b""
