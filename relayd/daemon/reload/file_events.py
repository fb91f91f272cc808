"""File events: inotify(7), by way of the C library, on the event loop.

Rule: an event says only that something happened in a directory; what it was is not asked. At rest nothing runs: no
thread, no timer.

Theory: all directories have one descriptor, which trio waits for as for a socket. To name a directory to the kernel is
to look for it on the disk, hence the one thread at the beginning. Asked for is what changes the stat signature of an
entry or what a name points to, and of writing only its end: whoever writes a log in the parent of the tree does not
wake the node at each line, and looking at the tree, which opens its directories, is not an event.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterable

import trio

# Of entries: attributes, written and closed, moved away and in, created, deleted; of the directory itself: deleted,
# moved. Source: Linux, include/uapi/linux/inotify.h
_CHANGES = 0x004 | 0x008 | 0x040 | 0x080 | 0x100 | 0x200 | 0x400 | 0x800
_ONLY_DIRECTORIES = 0x01000000
_GONE = (errno.ENOENT, errno.ENOTDIR)
BURST = 0.02  # s after an event, in which others wait and are told together
READ = 1 << 16  # bytes: some 2,000 events; what the kernel has no room for it says by one more


async def inotify(paths: list[str], begun: Callable[[], None], tell: Callable[[], None]) -> None:
    """Tell of what happens in directories, until this is cancelled.

    Args:
        paths: of directories; one that has just gone is passed over.
        begun: told once, when all are watched.

    Raises: OSError where there is no inotify, or not enough of it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        raise OSError(errno.ENOSYS, "this system has no inotify")
    descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        raise _failure(more="fs.inotify.max_user_instances")
    closed = threading.Event()
    try:
        await trio.to_thread.run_sync(_watch, libc, descriptor, paths, closed, abandon_on_cancel=True)
        begun()
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, READ)
            tell()
            await trio.sleep(BURST)
    finally:
        closed.set()  # a thread that hangs on a dead file system must not name directories to another descriptor
        os.close(descriptor)


def _watch(libc: ctypes.CDLL, descriptor: int, paths: Iterable[str], closed: threading.Event) -> None:
    for path in paths:
        if closed.is_set():
            return
        watch = libc.inotify_add_watch(descriptor, os.fsencode(path), _CHANGES | _ONLY_DIRECTORIES)
        if watch < 0 and ctypes.get_errno() not in _GONE:
            raise _failure(more="fs.inotify.max_user_watches")


def _failure(more: str) -> OSError:
    """The C library's last error; where something has run out, with the setting that gives more."""
    number = ctypes.get_errno()
    hint = f" (raise {more})" if number in (errno.EMFILE, errno.ENOSPC) else ""
    return OSError(number, f"inotify: {os.strerror(number).lower()}{hint}")
