"""Machines on this machine: network namespaces with a network of their own, which can be cut and healed.

Theory: the program enters a user, mount, process and network namespace of its own first, where any user is root; what
it makes there (`ip netns`, bridges, veth pairs) nobody else sees, and all of it ends with it.

Each machine has two interfaces: `front`, on which clients (and the test) reach it and which is never cut, and `back`,
on which nodes, Redis and sentinels speak with each other. A bridge is a switch: a machine is cut off by taking its back
port from the switch, and the network is split by putting some ports on another. Nobody is told: what is sent is lost.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

import attrs
from sites import Site

FRONT, BACK, APART = "front", "back", "apart"
_INSIDE = "RELAYD_TEST_NETSPACES"
_CLONE_NEWNET = 0x40000000


def enter() -> None:
    """Run this program again in namespaces of its own; returns there. Raises: SystemExit where there can be none."""
    if os.environ.get(_INSIDE):
        for words in ("mount -t tmpfs none /run", "ip link set lo up"):
            _run(*words.split())
        return
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name, path=_path()) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)} [apt-get install util-linux iproute2]")
    words = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"]
    words.append("--mount-proc")
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise SystemExit(
            f"{tried.stderr.strip()} [this user may make no namespaces: run it as root, or allow"
            " kernel.unprivileged_userns_clone, user.max_user_namespaces or the container's seccomp and AppArmor rules]"
        )
    os.execvpe("unshare", [*words, sys.executable, *sys.argv], {**os.environ, _INSIDE: "1", "PATH": _path()})


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _run(*words: str) -> None:
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(words)}: {ran.stderr.strip()}")


def _ip(text: str) -> None:
    _run("ip", *text.split())


@attrs.define(eq=False)
class Network:
    """Some machines, by name."""

    sites: dict[str, Site] = attrs.field(factory=dict)

    @classmethod
    def of(cls, names: Sequence[str]) -> Network:
        """Lay it out."""
        for bridge in (FRONT, BACK, APART):
            _ip(f"link add name {bridge} type bridge")
            _ip(f"link set {bridge} up")
        _ip(f"addr add 10.77.1.1/24 dev {FRONT}")
        network = cls()
        for number, name in enumerate(names, start=11):
            network.add(name, number)
        return network

    def add(self, name: str, number: int) -> None:
        """One machine, with its two ports."""
        _ip(f"netns add {name}")
        _ip(f"-n {name} link set lo up")
        for net, bridge in ((1, FRONT), (2, BACK)):
            port = _port(name, bridge)
            _ip(f"link add name {port} type veth peer name {bridge} netns {name}")
            _ip(f"link set {port} master {bridge}")
            _ip(f"link set {port} up")
            _ip(f"-n {name} addr add 10.77.{net}.{number}/24 dev {bridge}")
            _ip(f"-n {name} link set {bridge} up")
        enter = ("nsenter", f"--net=/run/netns/{name}", "--")
        self.sites[name] = Site(f"10.77.2.{number}", f"10.77.1.{number}", enter)

    def listening(self, name: str, port: int) -> socket.socket:
        """A socket that listens on that machine's loopback; what comes there is served by this process."""
        found: list[socket.socket | OSError] = []

        def there() -> None:  # a thread of its own, for a namespace is a thread's
            try:
                with open(f"/run/netns/{name}") as file:
                    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                found.append(socket.create_server(("127.0.0.1", port), backlog=1024))
            except OSError as error:
                found.append(error)

        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
        if isinstance(found[0], OSError):
            raise found[0]
        return found[0]

    def cut(self, *names: str) -> None:
        """Take machines from the back network, each alone."""
        for name in names:
            _ip(f"link set {_port(name, BACK)} nomaster")

    def split(self, *names: str) -> None:
        """Let these reach each other on the back network and nobody else."""
        for name in names:
            _ip(f"link set {_port(name, BACK)} master {APART}")

    def heal(self) -> None:
        """Let all reach all."""
        for name in self.sites:
            _ip(f"link set {_port(name, BACK)} master {BACK}")


def _port(name: str, bridge: str) -> str:
    return f"{bridge}-{name}"
