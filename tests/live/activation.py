"""Plays systemd to a service with sockets: holds them, and hands them to one process after the other.

    with held_sockets("public", "admin") as held:
        daemon = held.start(tree)

Source: sd_listen_fds(3).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import attrs
from daemon import Daemon, start

# The descriptors become 3, 4, ... and LISTEN_PID is right, for `exec` keeps the process.
_STARTER = """
import os, sys
fds = [os.dup(int(word)) for word in sys.argv[1].split(",")]
for place, fd in enumerate([os.dup2(fd, 100 + at) for at, fd in enumerate(fds)], start=3):
    os.dup2(fd, place)
os.closerange(3 + len(fds), 200)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", sys.argv[2], *sys.argv[3:]])
"""


@attrs.frozen
class HeldSockets:
    """Listening sockets by the names that their units give them."""

    sockets: Mapping[str, socket.socket]

    def url(self, name: str = "public") -> str:
        host, port = self.sockets[name].getsockname()[:2]
        return f"http://{host}:{port}"

    def start(
        self,
        tree: Path,
        *options: str,
        log: str = "daemon.log",
        environment: Mapping[str, str] = MappingProxyType({}),
        module: str = "relayd",
    ) -> Daemon:
        """A daemon that listens on them. The caller stops it.

        Args:
            module: what is run, as `python -m`.
        """
        descriptors = ",".join(str(sock.fileno()) for sock in self.sockets.values())
        given = {"LISTEN_FDS": str(len(self.sockets)), "LISTEN_FDNAMES": ":".join(self.sockets)}
        daemon = start(
            tree,
            *options,
            environment={**given, **environment},
            output=tree.parent / log,
            program=("-c", _STARTER, descriptors, module),
            descriptors=tuple(sock.fileno() for sock in self.sockets.values()),
        )
        daemon.url = self.url()
        return daemon


@contextlib.contextmanager
def held_sockets(*names: str, backlog: int = 4096) -> Iterator[HeldSockets]:
    """Open sockets, one for each name, on free ports."""
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog)) for name in names}
        yield HeldSockets(opened)
