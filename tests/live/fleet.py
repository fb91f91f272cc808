"""Several relayd processes on one state store, before one upstream that keeps a ledger.

async with fleet(tmp_path, url, keys={...}, nodes=4) as relays:
    await Client(relays.nodes[0].port).ask(asking(KEY, "rate.1"))
    assert relays.ledger.of("rate")
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import trio
from daemon import Daemon, start, write_tree
from ledger import Ledger
from scripted import serving
from sites import HERE, Site

PORT = 3000  # of a node that has a site of its own
PATIENCE = 60.0  # s for what has to happen, on a machine that is busy with other things


async def eventually(look: Callable[[], Awaitable[bool]], what: str, patience: float = PATIENCE) -> None:
    """Ask until the answer is yes. Raises: AssertionError after `patience` s."""
    deadline = trio.current_time() + patience
    while True:
        if await look():
            return
        assert trio.current_time() < deadline, f"waited {patience:g} s in vain for {what}"
        await trio.sleep(0.05)


def noon_zone() -> str:
    """A time zone in which it is about noon, so that no day ends in the middle of a test."""
    ahead = 12 - time.gmtime().tm_hour  # -11 to 12
    return f"Etc/GMT{-ahead:+d}" if ahead else "UTC"


@attrs.define(eq=False)
class Fleet:
    """The processes, by number, and what they have in common."""

    place: Path
    state: str
    relays: Sequence[str]  # each node's tables of relay.toml; the last one's serve all that come after
    keys: Mapping[str, str]
    files: Mapping[str, str]
    named: Sequence[str]
    ledger: Ledger
    upstream: int  # port
    sites: Sequence[Site] = ()  # of the nodes; () = all on loopback
    environments: dict[int, Mapping[str, str]] = attrs.field(factory=dict)  # of nodes that have one of their own
    ways: dict[int, str] = attrs.field(factory=dict)  # to the store, of nodes that have one of their own
    modules: dict[int, str] = attrs.field(factory=dict)  # that nodes run in place of relayd, as `python -m`
    nodes: dict[int, Daemon] = attrs.field(factory=dict)

    async def start(self, *numbers: int) -> None:
        """Start nodes, all at once. One that ran before finds its tree and whatever it left there."""
        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(self._start, number)

    async def _start(self, number: int) -> None:
        tree = self.tree(number)
        log = tree.parent / "daemon.log"
        if log.exists():  # of the process that ran before
            log.rename(log.with_name(f"daemon.{len(list(tree.parent.glob('daemon.*')))}.log"))
        control = str(tree.parent / "control.sock")
        options = ("--state", self.ways.get(number, self.state), "--control", control, "--no-watch")
        site, environment = self.site(number), self.environments.get(number, {})
        program = ("-m", self.modules.get(number, "relayd"))
        if site != HERE:
            options = (*options, "--listen", f"{site.near}:{PORT}")
        options = (*options, "--node", f"n{number}")
        started = partial(start, tree, *options, environment=environment, program=program, enter=site.enter)
        self.nodes[number] = await trio.to_thread.run_sync(started)

    def site(self, number: int) -> Site:
        return self.sites[number] if self.sites else HERE

    def tree(self, number: int) -> Path:
        """A node's tree, written when it is first asked for."""
        root = self.place / f"n{number}"
        if (root / "tree").exists():
            return root / "tree"
        models = json.dumps(["*", *self.named])
        account = f'kind = "api-key"\nbase_url = "http://127.0.0.1:{self.upstream}"\nmodels = {models}\n'
        secret = self.place / "secret"
        if not secret.exists():  # else a node that runs would find it empty while it is written again
            secret.write_text("sk-ant-none")
        relay = self.relays[min(number, len(self.relays) - 1)]
        if "[upstream]" not in relay:  # the ledger counts what it is asked
            relay += '\n[upstream]\nmodels_every = "0s"\n'
        return write_tree(
            root,
            relay=relay,
            accounts={"up": f'{account}[credential]\nfile = "{secret}"\n'},
            keys=self.keys,
            files=self.files,
        )

    async def kill(self, *numbers: int) -> None:
        """kill -9."""
        for number in numbers:
            self.nodes[number].process.kill()
        for number in numbers:
            await trio.to_thread.run_sync(self.nodes.pop(number).process.wait)

    async def stop(self) -> None:
        """Let every node finish and end well."""
        async with trio.open_nursery() as nursery:
            for node in self.nodes.values():
                nursery.start_soon(trio.to_thread.run_sync, node.stop)
        self.nodes.clear()

    async def report(self, node: int = 0, inside: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """What `relayd report --json` says of every call, by model. `inside`: words that start it somewhere else."""
        document = await self.verb(node, "report", "--by", "model", "--from", "yesterday", inside=inside)
        assert document["pending"] == 0, document["pending"]
        return {row["model"]: row for row in document["rows"]}

    async def verb(self, node: int, *words: str, inside: Sequence[str] = ()) -> Any:
        """The JSON that a command prints."""
        command = [sys.executable, "-m", "relayd", *words, "--json", "--config", str(self.tree(node))]
        command = [*inside, *self.site(node).enter, *command]
        ran = await trio.run_process(
            [*command, "--state", self.state], capture_stdout=True, capture_stderr=True, check=False
        )
        if ran.returncode:
            raise subprocess.SubprocessError(ran.stderr.decode())
        return json.loads(ran.stdout)

    async def books_with(self, models: Set[str], node: int = 0) -> dict[str, dict[str, Any]]:
        """Wait until these calls are in the books; the whole report."""
        rows: dict[str, dict[str, Any]] = {}

        async def are_there() -> bool:
            nonlocal rows
            try:
                rows = await self.report(node)
            except (subprocess.SubprocessError, AssertionError):  # the store is busy, or a settlement waits for it
                return False
            return models <= rows.keys()

        await eventually(are_there, f"{sorted(models)} in the books")
        return rows

    async def books_hold(
        self, expected: Mapping[str, int], node: int = 0, inside: Sequence[str] = ()
    ) -> dict[str, dict[str, Any]]:
        """Wait until every one of these calls stands in the books, once, with so many tokens; the whole report.

        Raises: AssertionError that says what differs.
        """
        deadline = trio.current_time() + PATIENCE
        while True:
            wrong: Any = "no report"
            try:
                rows = await self.report(node, inside)
            except (subprocess.SubprocessError, AssertionError) as error:
                wrong = error
            else:
                found = {model: (rows[model]["requests"], rows[model]["tokens"]) for model in expected if model in rows}
                wrong = {
                    model: f"{found.get(model)} for {tokens} tokens"
                    for model, tokens in expected.items()
                    if found.get(model) != (1, tokens)
                }
                if not wrong:
                    return rows
            assert trio.current_time() < deadline, f"the books are wrong: {wrong}"
            await trio.sleep(0.2)


@asynccontextmanager
async def fleet(
    place: Path,
    state: str,
    *,
    keys: Mapping[str, str],
    relay: str | Sequence[str] = "",
    files: Mapping[str, str] | None = None,
    named: Sequence[str] = (),
    nodes: int = 4,
    sites: Sequence[Site] = (),
    sockets: Sequence[socket.socket] = (),
    environments: Mapping[int, Mapping[str, str]] = MappingProxyType({}),
    modules: Mapping[int, str] = MappingProxyType({}),
    ways: Mapping[int, str] = MappingProxyType({}),
) -> AsyncIterator[Fleet]:
    """So many nodes, numbered from 0, for the length of the block; at its end they must stop well.

    Args:
        relay: tables of relay.toml, one text for all nodes or one for each.
        named: models that the tree names in full, so that each has a line of its own in the books, whatever becomes of
            its call. A line of any other that nobody confirmed is shared.
        sites: of the nodes, one for each.
        sockets: on which the upstream listens.
        environments: of nodes that have one of their own.
        modules: that nodes run in place of relayd.
        ways: to the state, of nodes that have one of their own.
    """
    ledger = Ledger()
    async with serving(ledger.serve, sockets=sockets) as upstream:
        each = (relay,) if isinstance(relay, str) else tuple(relay)
        relays = Fleet(place, state, each, keys, files or {}, named, ledger, upstream.port)
        relays.sites, relays.environments, relays.modules = sites, dict(environments), dict(modules)
        relays.ways = dict(ways)
        try:
            await relays.start(*range(nodes))
            yield relays
            await relays.stop()
        finally:
            with trio.CancelScope(shield=True):
                await relays.kill(*relays.nodes)
