"""Listening sockets from their addresses: `host:port`, `[v6]:port` or `unix:/path`.

Rule: an address that cannot be had is an OSError that names the address; a live unix socket is never taken over.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from relayd.daemon.net.port_owner import advice, owner_of_port

Sockets = dict[str, list[socket.socket]]  # by the address that they listen on
NONE: Mapping[str, list[socket.socket]] = MappingProxyType({})

# Linux cuts it to net.core.somaxconn (4096 since 5.4); a burst of reconnecting clients should fit.
BACKLOG = 2048


def open_listener(address: str) -> list[socket.socket]:
    """Listening, non-blocking sockets for `address`: several where a name has several addresses.

    An empty host or `*` means every address of the machine; port 0 is one free port, the same for all of them.

    Raises: OSError, naming the address; ValueError when it is none.
    """
    try:
        if address.startswith("unix:"):
            return [open_unix(address.removeprefix("unix:"), mode=0o660)]
        return _open_tcp(*_split(address))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        if error.errno == errno.EADDRINUSE and not address.startswith("unix:") and (port := _split(address)[1]):
            why = f"{why}: {advice(port, owner_of_port(port), os.getpid())}"
        raise OSError(error.errno, f"{address}: cannot listen: {why}") from error


def open_listeners(addresses: Sequence[str], open_already: Mapping[str, list[socket.socket]] = NONE) -> Sockets:
    """Listening sockets for all addresses, or none. Raises: OSError, ValueError.

    Args:
        open_already: some that are ours; those of other addresses are closed.
    """
    opened: Sockets = {address: group for address, group in open_already.items() if address in addresses}
    _close_all([sock for address, group in open_already.items() if address not in opened for sock in group])
    try:
        for address in addresses:
            if address not in opened:
                opened[address] = open_listener(address)
    except BaseException:
        _close_all(sockets_of(opened))
        raise
    return opened


def sockets_of(listening: Mapping[str, Sequence[socket.socket]]) -> list[socket.socket]:
    """All sockets of all addresses."""
    return [sock for sockets in listening.values() for sock in sockets]


def address_text(sock: socket.socket) -> str:
    """Where a socket listens, as a URL or a unix path."""
    name = sock.getsockname()
    if sock.family == getattr(socket, "AF_UNIX", None):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address}: not a listen address (write an IPv6 address as [::1]:3000)")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address}: not a listen address (write host:port, [v6]:port or unix:/path)")
    return host, int(port)


def _open_tcp(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of `host`. An address family that this machine lacks is passed over."""
    found = socket.getaddrinfo(
        None if host in ("", "*") else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    opened: list[socket.socket] = []
    missing: OSError | None = None
    for family, _, _, _, place in dict.fromkeys(found):
        try:
            opened.append(_open_one(family, (place[0], port, *place[2:])))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                _close_all(opened)
                raise
            missing = error
        else:
            port = port or opened[0].getsockname()[1]
    if not opened:
        raise missing or OSError(errno.EADDRNOTAVAIL, "the name has no address")
    return opened


def _open_one(family: int, place: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # no wait for TIME_WAIT after a restart
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        sock.bind(place)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def open_unix(path: str, *, mode: int, backlog: int = BACKLOG) -> socket.socket:
    """A listening socket file. It gets its mode before anybody can connect; a dead process's file is replaced.

    Raises: OSError: EEXIST for a file of another kind, EADDRINUSE where a process listens.
    """
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
        os.chmod(path, mode)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket file of a dead process; leave everything else alone."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another process is listening there")
