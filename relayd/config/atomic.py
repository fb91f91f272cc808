"""Atomic file writes: all of a file's new bytes, or what was there before.

Rule: the bytes are synced before the name, and the name before we say that it is there. What is half written is a
dotfile, which no reader of a tree looks at, and is removed when the write fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

NEW_FILE = 0o666  # less the umask
_STAGED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def replace_file(path: Path, content: bytes, *, mode: int = NEW_FILE) -> None:
    """Write a file, over an older one if there is one. Raises: OSError that names `path`."""
    temporary = stage_file(path, content, mode=mode)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def stage_file(target: Path, content: bytes, *, mode: int = NEW_FILE, like_target: bool = False) -> Path:
    """The content in a new file beside `target`, synced, ready to be renamed over it.

    Args:
        like_target: with the permissions and, where we may, the owner of the file that is to be replaced.

    Raises: OSError that names `target`.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        create_file(temporary, content, mode=mode, like=target if like_target else None)
    except OSError as error:
        error.filename = str(target)  # what a person knows it by
        raise
    return temporary


def create_file(path: Path, content: bytes, *, mode: int = NEW_FILE, like: Path | None = None) -> None:
    """A new file, synced; none when that fails. It never overwrites. Raises: OSError that names `path`."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            if like is not None:
                _copy_access(like, fd)
            file.write(content)
            file.flush()
            os.fsync(fd)
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def sync_directory(folder: Path) -> None:
    """Make the names in a directory survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_staged(folder: Path) -> None:
    """Take away what a process that died while writing has left in a directory that is ours alone."""
    for name in os.listdir(folder):
        if _STAGED.fullmatch(name):
            (folder / name).unlink(missing_ok=True)


def _copy_access(source: Path, fd: int) -> None:
    """Mode and, where we may, owner of a file; one that is not there leaves what the umask leaves."""
    try:
        about = source.stat()
    except FileNotFoundError:
        return
    with contextlib.suppress(PermissionError):  # only root gives files away; the group may still be ours to set
        os.fchown(fd, about.st_uid, about.st_gid)
    os.fchmod(fd, stat.S_IMODE(about.st_mode))
