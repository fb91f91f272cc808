"""A config tree on disk and a whole daemon on it, in this process: real files, real sockets, little patience."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import msgspec
import trio
from fakes import ASK, ASK_STREAM, Client, Told

from relayd.config.secrets.api_keys import key_hash, mint
from relayd.config.source.tree import Tree as ReadTree
from relayd.config.source.tree import Unstable
from relayd.daemon.access_log import AccessLog
from relayd.daemon.admin.metrics import metrics_text
from relayd.daemon.admin.status import status_document
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.build import Daemon, build
from relayd.daemon.build_base import make_source
from relayd.daemon.log_output import Output
from relayd.daemon.log_setup import set_log
from relayd.daemon.node import Intervals, NodeSettings, open_sockets
from relayd.daemon.reload.boot import Start, find_start
from relayd.daemon.reload.cluster import Cluster
from relayd.daemon.reload.history import History
from relayd.daemon.reload.record import ReloadRecord
from relayd.daemon.reload.reloader import Reloader
from relayd.daemon.reload.requests import Operation, Reload, ReloadResult, RequestQueue, Trigger
from relayd.daemon.run import Serving
from relayd.daemon.signals import EarlySignals
from relayd.daemon.source.settings import SourceSettings

KEY = mint(lambda size: b"\x01" * size)
PATIENCE = 30.0  # s for anything that is waited for, on a machine that is busy with other things
FAST = Intervals(poll=0.05, hash_every=30.0, interval=0.02, proof=0.1, patience=20.0, quiet=0.06)
RELAYD = [sys.executable, "-m", "relayd"]


def key_of(number: int) -> str:
    """The API key of keys.d/kN.toml. Key 0 is KEY."""
    return KEY if number == 0 else mint(random.Random(number).randbytes)


@attrs.define
class Tree:
    """A config tree that tests write to as an editor does: a new file, renamed over the old one."""

    root: Path

    def write(self, path: str, text: str | bytes) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f".{place.name}.new")
        fresh.write_bytes(text.encode() if isinstance(text, str) else text)
        os.replace(fresh, place)

    def remove(self, path: str) -> None:
        (self.root / path).unlink()

    def relay(self, more: str = "", *, listen: str = '"127.0.0.1:0"', realm: str = "test") -> None:
        server = f'[server]\nlisten = [{listen}]\nsse_keepalive = "0s"\n'  # streams are compared byte by byte
        self.write("relay.toml", f'schema = 1\nrealm = "{realm}"\n{more}\n{server}{_quiet(more)}')

    def account(self, name: str = "a", more: str = "", *, words: int = 2) -> None:
        self.write(f"accounts.d/{name}.toml", f'kind = "simulator"\n{more}\n[simulator]\nwords = {words}\n')

    def key(self, number: int = 0, more: str = "") -> None:
        entry = f'hashes = [{{ sha256 = "{key_hash(key_of(number))}" }}]\n'
        self.write(f"keys.d/k{number}.toml", entry + more)

    def deny(self, *numbers: int) -> None:
        self.write("deny.toml", f"keys = {json.dumps([f'k{number}' for number in numbers])}\n")

    def git(self, *words: str) -> str:
        config = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *config, "-C", str(self.root), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


def _quiet(more: str) -> str:
    """So that upstreams are asked nothing but what a test asks them."""
    return "" if "[upstream]" in more else '[upstream]\nmodels_every = "0s"\n'


def make_tree(root: Path, keys: int = 1) -> Tree:
    """relay.toml, account `a`, and `keys` keys."""
    root.mkdir(parents=True, exist_ok=True)
    tree = Tree(root)
    tree.relay()
    tree.account()
    for number in range(keys):
        tree.key(number)
    return tree


@attrs.define(eq=False)
class World:
    """A daemon that runs on a tree."""

    tree: Tree
    daemon: Daemon
    log_file: Path
    told: list[str] = attrs.field(factory=list)
    clients: list[Client] = attrs.field(factory=list)

    @property
    def reloader(self) -> Reloader:
        return self.daemon.reload.reloader

    @property
    def queue(self) -> RequestQueue:
        return self.daemon.queue

    @property
    def record(self) -> ReloadRecord:
        return self.daemon.reload.record

    @property
    def history(self) -> History:
        return self.reloader.history

    @property
    def cluster(self) -> Cluster:
        return self.daemon.reload.cluster

    @property
    def sources(self) -> StatusSources:
        return self.daemon.sources

    @property
    def control_path(self) -> Path:
        assert self.daemon.control is not None
        return self.daemon.control.path

    @property
    def generation(self) -> int:
        return self.daemon.live.generation

    def priority(self, account: str = "a") -> int:
        """A value that tests change, as it runs."""
        return self.daemon.live.snapshot.accounts[account].priority

    def status(self) -> dict[str, Any]:
        return status_document(self.sources, time.time())

    def metric(self, name: str) -> float:
        """The value of a metric without labels, or the sum over them."""
        lines = metrics_text(self.sources, time.time()).splitlines()
        found = [line for line in lines if line.startswith((f"relayd_config_{name} ", f"relayd_config_{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    async def reload(self, trigger: Trigger = "command", **fields: Any) -> ReloadResult:
        return await self.ask(Reload(**fields), trigger)

    async def ask(self, operation: Operation, trigger: Trigger = "command") -> ReloadResult:
        with trio.fail_after(PATIENCE):
            return await self.queue.request(trigger, operation).wait()

    async def until(self, true: Callable[[], object], why: str = "") -> None:
        """Wait for something to become so."""
        with trio.move_on_after(PATIENCE):
            while True:
                if true():
                    return
                await trio.sleep(0.01)
        raise AssertionError(f"it never came to {why or 'that'}: {self.status()['candidate']}\n{self.log()[-2000:]}")

    async def until_generation(self, number: int) -> None:
        await self.until(lambda: self.generation >= number, f"generation {number}")
        assert self.generation == number

    async def idle(self) -> None:
        """Let every change that is on disk be noticed: some polls, and the round that they ask for."""
        watcher = self.daemon.reload.watcher
        if watcher is not None:
            for _ in range(3):
                before = watcher.last_look
                await self.until(lambda before=before: watcher.last_look > before)
        await self.until(lambda: not self.queue.pending)  # a round takes its requests when it begins
        await trio.sleep(0.05)

    def port(self) -> int:
        sockets = next(iter(self.listening.values()))
        return sockets[0].getsockname()[1]

    @property
    def listening(self) -> dict[str, list[socket.socket]]:
        return self.reloader.preparation.listeners[0].listening

    async def connect(self, port: int = 0) -> Client:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port or self.port()), PATIENCE)
        self.clients.append(client)
        return client

    async def call(self, number: int = 0, body: bytes = ASK) -> Told:
        """One call on a connection of its own."""
        client = await self.connect()
        try:
            return await client.ask(body, key=key_of(number))
        finally:
            client.stream.socket.close()

    async def stream(self, number: int = 0) -> Client:
        """A streamed call whose first event has come."""
        client = await self.connect()
        await client.post(ASK_STREAM, key=key_of(number))
        await client.head()
        assert client.status == 200
        await client.until(b"message_start")
        return client

    def log(self) -> str:
        return self.log_file.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log().split("\n")[:-1]]  # the whole ones
        return [line for line in lines if line["event"] == name]


@attrs.define(eq=False)
class PlantedReader:
    """Stands in the place of a daemon's tree reader."""

    read: Callable[[bool], ReadTree | Unstable]
    sign: Callable[[], object]


def plant_reading(daemon: Daemon, read: Callable[[bool], ReadTree | Unstable]) -> None:
    """Let a daemon read its tree in another way."""
    inspector = daemon.reload.reloader.inspector
    inspector.reader = PlantedReader(read, inspector.reader.sign)  # type: ignore[assignment]


@asynccontextmanager
async def living(
    tree: Tree,
    *,
    pace: Intervals = FAST,
    watch: bool = True,
    deaf: bool = False,
    strict: bool = False,
    prepared: Callable[[Daemon], None] = lambda daemon: None,
    path: Path | None = None,
    source: SourceSettings | None = None,
) -> AsyncIterator[World]:
    """A daemon on a tree for the length of the block.

    Args:
        deaf: without file events.
        prepared: called before it begins to run.
        path: how the daemon is told to find the tree; by default its root.
        source: where it pulls the tree from, instead of reading it there.
    """
    with logs_kept(), environment_kept():
        where = path or tree.root
        outside = tree.root.parent / f"{tree.root.name}.node"
        outside.mkdir(exist_ok=True)
        node = NodeSettings(
            tree=where,
            node="test",
            admin_listen="",
            state_url=f"sqlite:{outside}/relayd.db",
            control=str(outside / "control.sock"),
            watch=watch,
            strict_boot=strict,
            source=source,
            pace=pace,
        )
        puller, reader = make_source(node)
        if puller is not None:
            await puller.begin(PATIENCE)
        store = node.generations("") if puller is not None else None
        start = find_start(reader, state_url=node.state_url, store=store, strict=strict)
        assert isinstance(start, Start), start
        output = Output(outside / "log.jsonl")
        access = AccessLog(output, "json", enabled=False)
        sockets = open_sockets(node, start.snapshot)
        daemon = build(node, start, reader, sockets, output, access, puller)
        del start
        if deaf and daemon.reload.watcher is not None:
            daemon.reload.watcher.listen = None
        set_log(daemon.live.snapshot.relay.log, output, access)
        access.enabled = False
        prepared(daemon)
        world = World(tree, daemon, outside / "log.jsonl")
        lives = len(world.events("daemon.listening"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Serving(daemon, EarlySignals()).run)
            await world.until(lambda: len(world.events("daemon.listening")) > lives)
            try:
                yield world
            finally:
                nursery.cancel_scope.cancel()
                for client in world.clients:
                    client.stream.socket.close()
        daemon.upstreams.close()
        if puller is not None:
            puller.mirror.close()
        os.close(output._fd)


@contextlib.contextmanager
def logs_kept() -> Iterator[None]:
    """Put the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)


@contextlib.contextmanager
def environment_kept() -> Iterator[None]:
    """Signals as they were."""
    before = signal.getsignal(signal.SIGHUP)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def texts_of(body: bytes) -> list[str]:
    """The text deltas of an event stream."""
    found = []
    for line in body.split(b"\n"):
        if line.startswith(b"data: "):
            event = msgspec.json.decode(line[6:])
            if event["type"] == "content_block_delta":
                found.append(event["delta"].get("text", ""))
    return found
