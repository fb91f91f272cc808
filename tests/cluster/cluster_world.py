"""A cluster on machines of their own: three nodes, Redis with replicas and sentinels, and what came of a scene."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import attrs
import redis
import trio
from fleet import PATIENCE, Fleet, eventually, fleet, noon_zone
from ledger import Client
from netspaces import Network
from redis_server import RedisServer, sentinels

NODES, CLIENTS = 3, 64  # of each node
MACHINES = ("n0", "n1", "n2", "r0", "r1", "r2", "s0", "s1", "s2")
UPSTREAM = 9000  # port, on each node's loopback: the way to it is never cut
LEASE = 5.0  # s


@attrs.define
class Outcome:
    """What came of a scene: figures for people, and a line for each thing that must hold and did not."""

    scene: str
    figures: list[tuple[str, str]] = attrs.field(factory=list)
    faults: list[str] = attrs.field(factory=list)

    def note(self, what: str, figure: object) -> None:
        self.figures.append((what, str(figure)))
        print(f"  {what}: {figure}", flush=True)

    def must(self, holds: bool, what: str) -> None:
        if not holds:
            self.faults.append(what)
            print(f"  FAILED: {what}", flush=True)


@attrs.define(eq=False)
class World:
    """What a scene plays in. `nodes` begin as n0, n1, n2 on machines of these names."""

    network: Network
    relays: Fleet
    servers: Sequence[RedisServer]
    watchers: Sequence[RedisServer]

    def client(self, number: int) -> Client:
        node = self.relays.nodes[number]
        return Client(node.port, node.host)

    def events(self, number: int, name: str) -> int:
        return len(self.relays.nodes[number].events(name))

    async def until(self, condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        async def holds() -> bool:
            return condition()

        await eventually(holds, what, patience)

    async def cut_off(self, *numbers: int) -> None:
        """Cut nodes off, and wait until they know."""
        before = {number: self.events(number, "state.unavailable") for number in numbers}
        self.network.cut(*(f"n{number}" for number in numbers))
        for number in numbers:
            await self.until(
                lambda number=number: self.events(number, "state.unavailable") > before[number],
                f"n{number} to miss its store",
            )

    async def heal(self, *numbers: int) -> None:
        """Heal the network, and wait until these nodes have found their store again."""
        before = {number: self.events(number, "state.available") for number in numbers}
        self.network.heal()
        for number in numbers:
            await self.until(
                lambda number=number: self.events(number, "state.available") > before[number],
                f"n{number} to find its store",
            )

    def seen(self, group: str) -> int:
        """Calls of a group that reached the upstream."""
        return sum(one.times for one in self.relays.ledger.of(group).values())

    async def slots_used(self, key: str, node: int = 1) -> int:
        document = await self.relays.verb(node, "usage", key)
        (row,) = [row for row in document["keys"][0]["limits"] if row["unit"] == "concurrent"]
        used: int = row["used"]
        return used

    async def booked(self, by: str, node: int = 1) -> dict[str, tuple[int, int]]:
        """Requests and tokens of the books, by key or model."""
        document = await self.relays.verb(node, "report", "--by", by, "--from", "yesterday")
        return {row[by]: (row["requests"], row["tokens"]) for row in document["rows"]}

    def master(self) -> RedisServer:
        """Whom the sentinels on the larger side name."""
        with contextlib.closing(self.watchers[-1].client()) as client:
            host = client.sentinel_get_master_addr_by_name("mymaster")[0].decode()
        return next(server for server in self.servers if server.site.host == host)

    async def until_in_step(self) -> None:
        """Wait until all follow one master."""

        def is_so() -> bool:
            master = self.master()
            for server in self.servers:
                with contextlib.suppress(redis.RedisError), contextlib.closing(server.client()) as client:
                    told = client.info("replication")
                    if server is master and told.get("connected_slaves") == len(self.servers) - 1:
                        continue
                    if server is not master and told.get("master_link_status") == "up":
                        continue
                return False
            return True

        async def holds() -> bool:
            return await trio.to_thread.run_sync(is_so)

        await eventually(holds, "all servers to follow one master")


@asynccontextmanager
async def world(
    network: Network,
    place: Path,
    *,
    keys: Mapping[str, str],
    relay: str = "",
    policy: str = "deny",
    redis_options: Sequence[str] = (),
    replicas: int = 1,
    files: Mapping[str, str] | None = None,
    named: Sequence[str] = (),
    environments: Mapping[int, Mapping[str, str]] = MappingProxyType({}),
    modules: Mapping[int, str] = MappingProxyType({}),
) -> AsyncIterator[World]:
    """A cluster for the length of a block."""
    state = f'[state]\non_outage = "{policy}"\ntimezone = "{noon_zone()}"\nlease = "{LEASE:g}s"\n'
    machines = [network.sites[name] for name in (*("r0", "r1", "r2")[: 1 + replicas], "s0", "s1", "s2")]
    sites = [network.sites[f"n{number}"] for number in range(NODES)]
    sockets = [network.listening(f"n{number}", UPSTREAM) for number in range(NODES)]
    with sentinels(sites=machines, options=redis_options) as (servers, watchers):
        url = "redis+sentinel://" + ",".join(f"{one.site.host}:{one.port}" for one in watchers) + "/mymaster"
        try:
            async with fleet(
                place,
                url,
                keys=keys,
                relay=f"{state}{relay}",
                files=files,
                named=named,
                nodes=NODES,
                sites=sites,
                sockets=sockets,
                environments=environments,
                modules=modules,
            ) as relays:
                yield World(network, relays, servers, watchers)
        finally:
            network.heal()
