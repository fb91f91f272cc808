"""Capacity: how many descriptors and how much memory this process may have, and what follows from it.

Rule: asked once, at the start. What cannot be read is no bound.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

# Descriptors that no client connection takes: listeners, log, store, control socket, the tree while it is read, idle
# connections to upstreams, and the admin listener's clients.
RESERVE = 256
ADMIN_CONNECTIONS = RESERVE // 4
PLENTY = 1 << 20  # descriptors; more are of no use, and Linux allows no more by default (fs.nr_open)
# What a control group allows: version 2, then 1. Source: Linux, Documentation/admin-guide/cgroup-v2.rst.
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as the hard limit does; nothing here uses select(2), which takes the first 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = attainable_descriptors()
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
    return max(1, (limit - RESERVE) // 2)


def memory() -> int:
    """Bytes of memory that this process may use: of the machine, or less where a limit is set."""
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for place in _CGROUP:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no bound
            bounds.append(int(Path(place).read_text(encoding="ascii")))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([*bounds, limit] if limit != resource.RLIM_INFINITY else bounds)
