"""Capacity: how many descriptors and how much memory a process and its node may have, and what follows from it.

Rule: asked once, at the start. What cannot be read is no bound.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from relayd.config.snapshot import Server
from relayd.noun import noun

# Descriptors that no client connection takes: listeners, log, store, control socket, the tree while it is read, idle
# connections to upstreams, and the admin listener's clients. Where there are few, half of them.
RESERVE = 256
ADMIN_CONNECTIONS = RESERVE // 4
PLENTY = 1 << 20  # descriptors; more are of no use, and Linux allows no more by default (fs.nr_open)
_ARENAS, _OWN_MAPPING = -8, -3  # M_ARENA_MAX and M_MMAP_THRESHOLD of mallopt(3)
# Bytes that the program itself takes, and an open call (tests/bench/strain_rounds.py many_open).
PROGRAM, OPEN_CALL = 64 << 20, 24 << 10
BODY_COST = 3.75  # as much as its size is what a body takes at most, with what is made of it
# Where workers serve: what the fork server takes besides, and each worker (72 MiB and 18 MiB a worker were measured).
FORK_SERVER, WORKER = 32 << 20, 24 << 20
# Control groups, version 2 and then 1. Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1.
_GROUPS, _OURS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as the hard limit does; nothing here uses select(2), which takes the first 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = attainable_descriptors()
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep_one_heap() -> None:
    """Have all threads share one heap, before there are any.

    glibc gives each its own, and what one has freed the others cannot use. They seldom allocate at the same moment, for
    the interpreter lets one run at a time. Another libc has no such setting; who sets it in the environment knows why.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        _mallopt(_ARENAS, 1)


def return_large_blocks() -> None:
    """Have large blocks, such as bodies, go back to the system as soon as they are free, however large earlier ones
    were."""
    _mallopt(_OWN_MAPPING, 1 << 20)


def _mallopt(parameter: int, value: int) -> None:
    with contextlib.suppress(AttributeError):  # only glibc has it, and needs it
        ctypes.CDLL(None).mallopt(parameter, value)


def attainable_descriptors() -> int:
    """How many descriptors this process may allow itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return PLENTY if hard == resource.RLIM_INFINITY else min(hard, PLENTY)


def descriptors() -> int:
    """How many descriptors may be open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return PLENTY if soft == resource.RLIM_INFINITY else soft


def client_connections(limit: int) -> int:
    """How many clients may be connected, so that a connection to an upstream is left for each. Pure."""
    return max(1, (limit - min(RESERVE, limit // 2)) // 2)


def calls_in_memory(room: int, bodies: int) -> int:
    """How many clients may be connected, so that their calls take a quarter of `room` (MemoryAllowance). Pure.

    Args:
        bodies: bytes that bodies may have. Where these leave less, calls take what is left, and a tenth at least.
    """
    left = min(room // 4, room - int(bodies * BODY_COST))
    return max(1, max(room // 10, left) // OPEN_CALL)


def processors() -> int:
    """How many processors this process may use: its own share of the machine's, or less where a quota is set."""
    bounds = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    for place in _group_files("cpu.max"):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max" is no number: no bound
            quota, period = place.read_text(encoding="ascii").split()
            bounds.append(int(quota) / int(period))
    return max(1, int(min(bounds)))


@noun(kw_only=True)
class MemoryAllowance:
    """Bytes of memory that may be used: by all processes of a node together, and by each."""

    together: int
    each: int

    @property
    def least(self) -> int:
        """What one process may use."""
        return min(self.together, self.each)

    def room(self, processes: int) -> int:
        """Bytes that calls and bodies may take, with all that is made of them, where so many processes serve."""
        return min(_left(self.together, own_memory(processes)), _left(self.each, PROGRAM))

    def workers(self, processors: int) -> int:
        """How many processes should serve: one for each processor, as long as they leave half of the memory free."""
        fits = (self.together // 2 - own_memory(0)) // WORKER
        return max(1, min(processors, fits))


def wanted_workers(server: Server, fitting: int) -> int:
    """How many processes are to serve; 1 = the one that there is. `fitting`: what "auto" is."""
    return fitting if server.workers == "auto" else server.workers


def own_memory(processes: int) -> int:
    """Bytes that a node takes before it has a call, where so many processes serve. Pure."""
    return PROGRAM if processes == 1 else PROGRAM + FORK_SERVER + processes * WORKER


def _left(found: int, own: int) -> int:
    return max(found - own, found // 4)


def memory_allowance() -> MemoryAllowance:
    """What this process and its node may have: of the machine, or less where a limit is set."""
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for place in _group_files("memory.max", "memory.high", older="memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no bound
            bounds.append(int(place.read_text(encoding="ascii")))
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    together = min(bounds)
    each = min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=together)
    return MemoryAllowance(together=together, each=each)


def _group_files(*names: str, older: str = "") -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from group_files(_OURS.read_text(encoding="utf-8", errors="replace"), _GROUPS, names, older)


def group_files(ours: str, root: Path, names: Sequence[str], older: str) -> Iterator[Path]:
    """Where the bounds of this process's control groups stand: of its own one, and of each that this one is in. Pure.

    A container may be shown the path that its group has outside; then only the root is there.

    Args:
        ours: content of /proc/self/cgroup.
        names: files of version 2.
        older: `controller/file` of version 1; "" = not asked there.
    """
    controller, _, file = older.partition("/")
    for line in ours.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, found = root, names
        elif controller in controllers.split(","):
            top, found = root / controller, [file]
        else:
            continue
        own = top / path.strip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(top):
                yield from (group / name for name in found)
