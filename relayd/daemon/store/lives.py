"""Life locks: which processes of this host have died, told from those that are only slow.

Rule: a process is dead when nobody holds the lock on its file, and only then. What it left in the state store may be
taken from it at once, without waiting for its lease to run out.

Theory: the kernel gives a lock back when its process ends, however it ends (flock(2)). A file is renamed into place
once it is locked, so that nobody ever finds it without its owner. The ids of a process's calls begin with its name.

A process that ends well leaves its file too: it cannot know that the store heard its last words, and whoever comes next
finds out by the way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import attrs

_SUFFIX = ".lock"


def owner_of(life: str) -> str:
    """How the ids of a process's calls begin. `life`: its name."""
    return f"req_{life}"


@attrs.define(eq=False)
class LifeLock:
    """This process's file, in a directory that others on the host share.

    Args:
        directory: made when missing.
        life: names this process: random, of one length for all.
    """

    directory: Path
    life: str
    _file: int = attrs.field(default=-1, init=False)  # open, and so locked, until the process ends
    _dead: list[str] = attrs.field(factory=list, init=False)

    def claim(self) -> None:
        """Say that this process lives, and look for dead ones. Raises: OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.directory / f".{self.life}"
        self._file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(fresh, self._path(self.life))
        others = sorted(path for path in self.directory.glob(f"*{_SUFFIX}") if path.stem != self.life)
        self._dead = [path.stem for path in others if not _is_held(path)]

    def look_for(self, life: str) -> bool:
        """Whether a process that is said to have ended has. One that left something is among the dead then."""
        path = self._path(life)
        if life in self._dead or not path.exists():
            return True
        if _is_held(path):
            return False
        self._dead.append(life)
        return True

    @property
    def dead(self) -> tuple[str, ...]:
        """The names of processes that died and have not been buried."""
        return tuple(self._dead)

    def bury(self, life: str) -> None:
        """All that a dead process left has been settled."""
        if life in self._dead:
            self._dead.remove(life)
        with contextlib.suppress(OSError):
            self._path(life).unlink(missing_ok=True)

    def _path(self, life: str) -> Path:
        return self.directory / f"{life}{_SUFFIX}"


def _is_held(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True  # gone, or not ours to judge
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False
