"""Socket activation: listening sockets that whoever started us has opened, systemd as a rule.

Rule: they count instead of the addresses that the tree or the command line names. Whoever holds them keeps the port
open while one process ends and the next one starts: what connects meanwhile waits in the socket's queue.
Source: sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import attrs

from relayd.daemon.net.listen import Sockets, address_text
from relayd.noun import noun

FIRST = 3  # SD_LISTEN_FDS_START
PUBLIC, ADMIN = "public", "admin"
# As systemd calls a socket whose unit has no FileDescriptorName=, and one that has lost its name.
_UNNAMED = frozenset({"", "unknown", "relayd.socket"})


@noun(kw_only=True)
class Inherited:
    """Sockets that we were given, by address; nothing for a listener that we open ourselves."""

    public: Sockets = attrs.field(factory=dict)
    admin: Sockets = attrs.field(factory=dict)


def take_inherited(environ: MutableMapping[str, str], pid: int) -> Inherited:
    """The sockets that were meant for us. The variables go out of `environ`, so that no child takes them for its own.

    Raises: ValueError for a name that we do not know, or a descriptor that does not listen.
    """
    whose, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if not count or whose not in ("", str(pid)):
        return Inherited()
    if not count.isdecimal():
        raise ValueError(f"LISTEN_FDS: {count!r} is not a number of descriptors")
    given = Inherited()
    named = names.split(":") if names else []
    for place in range(int(count)):
        name = named[place] if place < len(named) else ""
        sock = _listening(FIRST + place, name)
        listener = given.admin if name == ADMIN else given.public
        listener.setdefault(address_text(sock).removeprefix("http://"), []).append(sock)
    return given


def _listening(fd: int, name: str) -> socket.socket:
    if name not in (PUBLIC, ADMIN) and name not in _UNNAMED:
        raise ValueError(f"LISTEN_FDNAMES: {name!r} is not a listener of relayd (FileDescriptorName=public or =admin)")
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ValueError(f"LISTEN_FDS: descriptor {fd}: {(error.strerror or '').lower()}") from None
    if sock.type != socket.SOCK_STREAM or not listens:
        raise ValueError(f"LISTEN_FDS: descriptor {fd} does not listen for streams (ListenStream=, and Accept=no)")
    sock.setblocking(False)
    return sock
