"""What an operator has: two nodes on one address, a store with a replica, a provider, and a shell on each node.

Both nodes take calls from one socket, so the kernel is the balancer; each has a control socket, an admin listener, a
directory of its own and a log. The tree is one directory that both read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import httpx2
from activation import HeldSockets
from builders import KEY, OTHER_KEY
from cli_tree import Ran, Tree
from daemon import Daemon, key_text, write_tree
from fleet import noon_zone
from provider import Provider, provider
from redis_server import RedisServer, sentinels
from steady_calls import SteadyCalls, Way, steady_calls
from waiting import wait_until

from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import new_identity

GOOD, SPARE, NEW = (f"sk-ant-api03-{name}-{'0' * 20}" for name in ("good", "spare", "new"))
DISK = 4000  # kB
NEVER = 600_000  # ms
LATER = {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}  # to find next_release


@attrs.define(eq=False)
class Node:
    """A node, and a shell on its machine."""

    name: str
    tree: Path
    place: Path
    sockets: HeldSockets
    environment: dict[str, str]
    state: str
    daemon: Daemon | None = None
    starts: int = 0

    def start(self, module: str = "relayd") -> None:
        """Start the daemon, and wait until it listens. `module`: see HeldSockets.start."""
        self.daemon = self._started(module, self.environment)

    def replace(self, module: str) -> None:
        """Put another process in the place of the one that runs, as deploy/systemd/relayd-restart does."""
        old = self.daemon
        assert old is not None
        self.daemon = self._started(module, {**self.environment, "RELAYD_CONTROL": f"{self.place}/standby.sock"})
        old.stop()
        standby = self.daemon
        self.daemon = self._started(module, self.environment)
        standby.stop()

    def _started(self, module: str, environment: Mapping[str, str]) -> Daemon:
        self.starts += 1
        log = str(self.place / f"relayd-{self.starts}.log")
        words = ("--node", self.name, "--state", self.state)
        environment = {**environment, **LATER}
        return self.sockets.start(self.tree, *words, log=log, environment=environment, module=module)

    def stop(self) -> None:
        """Let it finish its calls and end well."""
        assert self.daemon is not None
        self.daemon.stop()

    def relayd(self, *words: str, stdin: str = "") -> Ran:
        """Run a command as the daemon's user."""
        with mock.patch.dict(os.environ, {**self.environment, "RELAYD_STATE_URL": self.state}):
            return Tree(self.tree).run(*words, stdin=stdin)

    def booked(self, module: str, *words: str) -> int:
        """The calls that `relayd report` of a release adds up."""
        command = [sys.executable, "-m", module, "report", "--json", "--config", str(self.tree), "--state", self.state]
        words = words or ("--from", "yesterday")
        ran = subprocess.run([*command, *words], env={**os.environ, **LATER}, capture_output=True, check=True)
        return int(json.loads(ran.stdout)["requests"])

    def says(self, *words: str, verb: str = "status") -> str:
        """Wait until `relayd status` says all of this; all it says."""
        told = ""

        def does() -> bool:
            nonlocal told
            told = self.relayd(verb).all
            return all(word in told for word in words)

        try:
            wait_until(does)
        except AssertionError:
            raise AssertionError(f"{words} are not in:\n{told}") from None
        return told

    def is_well(self) -> None:
        """Wait until `relayd status` finds nothing wrong."""
        self.says("\nwell\n")

    def daemon_says(self, event: str, field: str, value: str) -> None:
        """Wait for a line in its log."""
        wait_until(lambda: any(entry.get(field) == value for entry in self.log(event)), f"{event} with {value}")

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = httpx2.get(self.sockets.url("admin") + "/metrics", trust_env=False, timeout=60).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (.+)$", text, re.MULTILINE))

    def log(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event in its log, in which a full disk may have cut one off."""
        assert self.daemon is not None
        lines = [line for line in self.daemon.text().split("\n")[:-1] if line.startswith("{")]
        whole = [line for line in lines if line.endswith("}")]
        assert len(lines) - len(whole) <= 1, lines
        return [entry for entry in map(json.loads, whole) if entry["event"] == event]


@attrs.define(eq=False)
class Day:
    """All of it."""

    place: Path
    provider: Provider
    nodes: tuple[Node, Node]
    redis: list[RedisServer]
    sentinels: list[RedisServer]
    calls: SteadyCalls
    disk: SmallDisk

    def well(self) -> None:
        """Wait until both nodes are well, and calls go on."""
        for node in self.nodes:
            node.is_well()
        self.calls.wait_for(5)

    def fail_over(self) -> None:
        """Have the sentinels find out that the master is gone, until a node says that the store answers."""
        fail_over_after(self.sentinels, 100)
        self.nodes[0].says("state: the store answers")
        fail_over_after(self.sentinels, NEVER)

    def goes_to(self, credential: str) -> None:
        """Wait until calls are served with this credential."""
        before = self.provider.served[credential]
        wait_until(lambda: self.provider.served[credential] > before + 2, "calls to that account")


def fail_over_after(watchers: list[RedisServer], milliseconds: int) -> None:
    """How long sentinels let a master be silent: a busy machine makes it so for a while."""
    for watcher in watchers:
        with contextlib.closing(watcher.client()) as client:
            words = ("SENTINEL", "SET", "mymaster", "down-after-milliseconds", milliseconds)
            client.execute_command(*words)


@attrs.define(eq=False)
class SmallDisk:
    """A file system of a node's own, that can be filled.

    Where nobody may mount one, the kernel refuses the node's files to grow: it is the same failure of the same writes,
    with another error.
    """

    place: Path
    mounted: bool

    @property
    def error(self) -> str:
        """What a write to it fails with while it is full."""
        return os.strerror(errno.ENOSPC if self.mounted else errno.EFBIG).lower()

    def fill(self, node: Node) -> None:
        """Take all that is left."""
        if not self.mounted:
            self._bound(node, 0)
            return
        with contextlib.suppress(OSError), (self.place / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        assert shutil.disk_usage(self.place).free == 0

    def free(self, node: Node) -> None:
        if self.mounted:
            (self.place / "ballast").unlink()
        else:
            self._bound(node, resource.RLIM_INFINITY)

    def _bound(self, node: Node, size: int) -> None:
        assert node.daemon is not None
        resource.prlimit(node.daemon.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def small_disk(place: Path) -> Iterator[SmallDisk]:
    """A tmpfs, if this user may mount one."""
    place.mkdir(parents=True)
    become = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size={DISK}k,uid={os.geteuid()},mode=0700"
    words = [*become, "mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:  # no sudo, no mount
        mounted = False
    try:
        yield SmallDisk(place, mounted)
    finally:
        if mounted:
            subprocess.run([*become, "umount", "--lazy", str(place)], check=True)


@contextmanager
def operators_day(place: Path) -> Iterator[Day]:
    """Two nodes that serve, and calls that never cease."""
    with ExitStack() as stack:
        at = stack.enter_context(provider())
        servers, watchers = stack.enter_context(sentinels())
        state = "redis+sentinel://" + ",".join(f"127.0.0.1:{one.port}" for one in watchers) + "/mymaster"
        disk = stack.enter_context(small_disk(place / "a"))
        public = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        tree = first_tree(place, at)
        nodes = (
            a_node("a", tree, disk.place, public, state, stack),
            a_node("b", tree, place / "b", public, state, stack),
        )
        fail_over_after(watchers, NEVER)
        for node in nodes:
            node.start()
        calls = stack.enter_context(steady_calls(Way(nodes[0].sockets.url()), clients=2, pause=0.03))
        yield Day(place, at, nodes, servers, watchers, calls, disk)
        calls.stop()
        for node in nodes:
            node.stop()


def a_node(name: str, tree: Path, own: Path, public: socket.socket, state: str, stack: ExitStack) -> Node:
    own.mkdir(exist_ok=True)
    admin = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    environment = {
        "STATE_DIRECTORY": str(own),
        "RELAYD_CONTROL": str(tree.parent / f"{name}.sock"),
        "RELAYD_IDENTITY": str(tree.parent / "identity"),
    }
    node = Node(name, tree, own, HeldSockets({"public": public, "admin": admin}), environment, state)
    stack.callback(lambda: node.daemon and node.daemon.kill())
    return node


def first_tree(place: Path, at: Provider) -> Path:
    """The tree, and the identity beside it, made with the commands that an operator would take."""
    identity = new_identity(os.urandom)
    relay = f"""
[admin]
listen = "127.0.0.1:1"
[upstream]
base_url = "{at.url}"
models_every = "0s"
[oauth]
client_id = "ours"
token_url = "{at.url}/token"
[routing]
affinity = "0s"
[state]
lease = "5s"
timezone = "{noon_zone()}"
[secrets]
recipients = [{{ name = "prod", public = "{identity.public.text}" }}]
"""
    may = 'endpoints = ["messages", "batches"]\n'
    keys = {"dev": key_text(KEY, f"{may}[limits]\ndaily_requests = 1000000\n"), "guest": key_text(OTHER_KEY, may)}
    tree = write_tree(place, relay=relay, accounts={}, keys=keys)
    (tree / "accounts.d").mkdir()
    write_identity(place / "identity", tree, identity)
    at.keys |= {GOOD, SPARE}
    for name, credential, priority in (("main", GOOD, "10"), ("spare", SPARE, "90")):
        words = ("account", "add", name, "--kind", "api-key", "--priority", priority)
        ran = Tree(tree).run(*words, stdin=credential)
        assert ran.code == 0, ran.all
    return tree
