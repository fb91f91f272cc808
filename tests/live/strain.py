"""A node of its own for each scene of strain, and the peers that strain it: deaf ones, and ones that never read.

Rule: a scene asserts what must hold and gives figures; how many peers it has is an argument, so that tests play it
small and tests/bench/strain_rounds.py plays it large.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from builders import KEY
from daemon import Daemon, control_answer, key_text, start
from fleet import Fleet, eventually, fleet, noon_zone
from ledger import Client, Reply, asking

PATIENCE = 60.0  # s for what has to happen; a script with a great many peers sets more
Figures = dict[str, float]
SLOTS = 100_000  # of the key: a limit that nothing meets, and whose use tells of leaks


@attrs.define(eq=False)
class Node:
    """The daemon of a scene, and the upstream's books."""

    relays: Fleet

    @property
    def daemon(self) -> Daemon:
        return self.relays.nodes[0]

    @property
    def port(self) -> int:
        return self.daemon.port

    def running(self, group: str) -> int:
        """Calls of a group that the upstream has at the moment."""
        return self.relays.ledger.running[group]

    def status(self) -> Any:
        """What the control socket says."""
        return control_answer(self.daemon.tree.parent / "control.sock", "status")["status"]

    async def left(self, group: str, count: int, patience: float = 0.0) -> None:
        """Wait until so many calls of a group have ended because their client had left."""

        def ended_so() -> int:
            done = self.daemon.events("call.done")
            return sum(one["outcome"] == "left" and one["model"].startswith(f"{group}.") for one in done)

        await until(lambda: ended_so() == count, f"{count} calls whose client left", patience)

    async def is_well(self, model: str = "good.0") -> None:
        """One call is served as if nothing had been."""
        reply = await asked(self.port, asking(KEY, model, output=5))
        assert (reply.status, reply.whole) == (200, True), reply

    async def is_idle(self) -> None:
        """Wait until no call is in flight."""
        await until(lambda: self.status()["calls"] == 0, "the last call to end")

    async def leaks_nothing(self) -> None:
        """Wait until no slot is taken."""

        async def is_so() -> bool:
            rows = (await self.relays.verb(0, "usage", "dev"))["keys"][0]["limits"]
            return all(row["used"] == 0 for row in rows if row["unit"] == "concurrent")

        await eventually(is_so, "the slots to be free", PATIENCE)

    def memory(self) -> int:
        """Resident bytes."""
        return status_of(self.daemon.process.pid, "VmRSS") << 10

    def cpu_seconds(self) -> float:
        """Of its main process."""
        fields = Path(f"/proc/{self.daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        return int(self.status()["descriptors"])


def status_of(pid: int, name: str) -> int:
    """A number of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


@asynccontextmanager
async def node(
    place: Path,
    *,
    relay: str = "",
    server: str = "",
    state: str = "",
    named: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    enter: Sequence[str] = (),
) -> AsyncIterator[Node]:
    """A node on a store of its own, for the length of the block.

    Args:
        relay, server: tables of relay.toml, and keys of its [server].
        enter: words that start a command with less of something than we have, and become it.
    """
    relay = f'[server]\n{server}\n[state]\ntimezone = "{noon_zone()}"\n{relay}\n'
    keys = {"dev": key_text(KEY, f"[limits]\nconcurrency = {SLOTS}\n")}
    state = state or f"sqlite:{place}/state/relayd.db"
    async with fleet(place, state, keys=keys, relay=relay, named=named, files=files, nodes=0) as relays:
        await begin(relays, enter)
        yield Node(relays)


async def begin(relays: Fleet, enter: Sequence[str] = ()) -> None:
    """Start the node, again maybe."""
    tree = relays.tree(0)
    options = ("--state", relays.state, "--control", str(tree.parent / "control.sock"), "--no-watch", "--node", "n0")
    relays.nodes[0] = await trio.to_thread.run_sync(lambda: start(tree, *options, enter=enter))


async def until(condition: Callable[[], bool], what: str, patience: float = 0.0) -> None:
    """Wait until something has become so. Raises: AssertionError after `patience` s; 0 = PATIENCE."""

    async def holds() -> bool:
        return condition()

    await eventually(holds, what, patience or PATIENCE)


async def until_still(look: Callable[[], int], *, looks: int = 10) -> int:
    """Wait until a figure has stood still for so many looks; the figure."""
    last, same = look(), 0
    with trio.fail_after(PATIENCE):
        while same < looks:
            await trio.sleep(0.1)
            now = look()
            same, last = (same + 1 if now == last else 0), now
    return last


# -- peers -------------------------------------------------------------------------------------------------------------


async def connected(port: int, *, room: int = 0) -> trio.SocketStream:
    """A connection to the node. `room`: bytes that the kernel takes for us before we read; 0 = as it likes."""
    sock = trio.socket.socket()
    try:
        if room:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def asked(port: int, request: bytes) -> Reply:
    """What a client got that asks once."""
    client = Client(port)
    try:
        return await client.ask(request)
    finally:
        await client.close()


async def ended(stream: trio.SocketStream) -> bytes:
    """What comes until the node has closed the connection."""
    pieces = []
    try:
        while data := await stream.receive_some(65536):
            pieces.append(data)
    except trio.BrokenResourceError:
        pass
    return b"".join(pieces)


def fate(reply: Reply) -> str:
    """How a stream ended for its client: whole, error, refused, unasked (closed before it had a byte), or cut.

    After an error event comes no last chunk, so that also a client that does not know the event sees no proper end.
    """
    if reply.status == 0 and not reply.body:
        return "unasked"
    if reply.status != 200:
        return "refused" if reply.whole and reply.status in (429, 503, 529) else "cut"
    stops, errors = reply.body.count(b"event: message_stop\n"), reply.body.count(b"event: error\n")
    return {(1, 0, True): "whole", (0, 1, False): "error"}.get((stops, errors, reply.whole), "cut")
