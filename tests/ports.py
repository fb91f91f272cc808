"""Free ports, for servers that must be told one.

Rule: no port is given out twice, be it to another process whose server is only about to listen, or is stopped for a
while; and none of the kernel's own range (32768 and above, ip(7)): there any connection that is made in between would
take it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOWEST, MOST = 11_000, 9_000  # so that a port and the one 10000 above it lie below the kernel's range
_CLAIMED = (Path(tempfile.gettempdir()) / f"relayd-test-ports-{os.getuid()}").open("ab")  # locked at each port's byte
_NUMBERS = itertools.count(os.getpid() * 37)  # test runs beside one another begin at different places


def free_port() -> int:
    """A port on 127.0.0.1 that nobody has."""
    return free_ports(1)[0]


def free_ports(count: int, *, also: int = 0) -> list[int]:
    """Several of them; with `also`, those so much higher are free too (a Redis cluster's bus is at port + 10000)."""
    candidates = (LOWEST + number % MOST for number in _NUMBERS)
    free = (port for port in candidates if _claim(port) and _is_free(port) and (not also or _is_free(port + also)))
    return list(itertools.islice(free, count))


def _claim(port: int) -> bool:
    """Have a port for the life of this process, as far as test runs of this user go. False where another has it."""
    try:
        fcntl.lockf(_CLAIMED, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port on 127.0.0.1 that refuses every connection: it is held, and nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
