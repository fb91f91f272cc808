"""Disk advice: what to do about a disk that cannot be written.

Rule: pure. The reason is what the system says, in whichever case; what to do is the same for log, books and state.
"""

from __future__ import annotations

import errno
import os

READ_ONLY = os.strerror(errno.EROFS).lower()
MOUNT = "mount that file system for writing again; `dmesg` tells why it is read-only"


def disk_advice(why: str, otherwise: str) -> str:
    """What to do about a disk that cannot be written for that reason; `otherwise` unless it is read-only."""
    return MOUNT if READ_ONLY in why.lower() else otherwise
