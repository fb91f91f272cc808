"""Secrecy of memory: credentials that this process has opened leave it neither in a core file nor through /proc.

Rule: called before anything secret is read, in each process that reads such a thing; it is not passed on by execve(2).

Theory: PR_SET_DUMPABLE 0 means no core at all, also where cores go into a pipe, to which RLIMIT_CORE does not apply,
and that of the same user's processes none may look into this one's memory. Source: core(5), prctl(2), proc(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

PR_SET_DUMPABLE = 4


def keep_memory_secret() -> None:
    """No core file, and nobody but root reads this process's memory."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
