"""Rounds of a failover under load: the master of a Redis with a replica and three sentinels is killed, again and again.

    python tests/bench/failover_rounds.py [--rounds 10] [--nodes 3] [--rate 40] [--limit 200]

Each round has a key of its own with so many requests an hour. Half of them are used when the master dies; clients go on
asking until nobody is let in any more. Meanwhile a load of plain calls and streams runs. Prints how long the nodes were
without a store, how many calls beyond its limit each key was granted (what the dead master had not told its replica),
and whether the books are equal to what the upstream saw; exits 1 where they are not, or a key fell short of its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from builders import KEY
from daemon import key_text
from fleet import Fleet, eventually, fleet, noon_zone
from ledger import Client, asking
from load import Load, names_of
from redis_server import RedisServer, sentinels

from relayd.config.secrets.api_keys import mint

CLIENTS = 12
QUIET = 6.5  # s between failovers: a sentinel waits for two failover-timeouts before the next one


@attrs.define(eq=False)
class Failovers:
    """What came of it.

    Args:
        away: s that the slowest node was without its store, each round.
        over: calls beyond the limit, each round.
    """

    relays: Fleet
    servers: list[RedisServer]
    watcher: RedisServer
    keys: dict[str, str]
    limit: int
    away: list[float] = attrs.field(factory=list)
    over: list[int] = attrs.field(factory=list)
    answers: Counter[int] = attrs.field(factory=Counter)

    def master(self) -> RedisServer:
        with contextlib.closing(self.watcher.client()) as client:
            port = client.sentinel_get_master_addr_by_name("mymaster")[1]
        return next(server for server in self.servers if server.port == port)

    async def round(self, group: str) -> None:
        """One failover, with a key that is half used when it comes."""
        relays, found = self.relays, len(self.away) + 1
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(self._ask_until_full, group, number, found)
            await eventually(lambda: self._granted(group, self.limit // 2), "half of the limit to be used")
            master = await trio.to_thread.run_sync(self.master)
            began = time.monotonic()
            await trio.to_thread.run_sync(master.stop)
            await eventually(lambda: self._are_back(found), "the nodes to find the new master")
            self.away.append(time.monotonic() - began)
        self.over.append(self._seen(group) - self.limit)
        fresh = await trio.to_thread.run_sync(self.master)
        master.options = ("--replicaof", "127.0.0.1", str(fresh.port))
        await trio.to_thread.run_sync(master.start)
        await eventually(lambda: self._in_step(master), "the old master to follow")
        await trio.sleep(QUIET)
        print(
            f"{group}: {len(relays.nodes)} nodes back after {self.away[-1]:.1f} s, {self.over[-1]:+} calls", flush=True
        )

    async def _ask_until_full(self, group: str, number: int, found: int) -> None:
        nodes = list(self.relays.nodes.values())
        client, asked, full = Client(nodes[number % len(nodes)].port), 0, 0
        while full < 3:
            reply = await client.ask(asking(self.keys[group], f"{group}.{number}.{asked}"))
            self.answers[reply.status] += 1
            asked += 1
            full = full + 1 if reply.status == 429 and len(self.away) >= found else 0
            await trio.sleep(0.02)
        await client.close()

    def _seen(self, group: str) -> int:
        return sum(one.times for one in self.relays.ledger.of(group).values())

    async def _granted(self, group: str, calls: int) -> bool:
        return self._seen(group) >= calls

    async def _are_back(self, times: int) -> bool:
        return all(len(node.events("state.replaced")) >= times for node in self.relays.nodes.values())

    async def _in_step(self, server: RedisServer) -> bool:
        def is_so() -> bool:
            with contextlib.closing(server.client()) as client:
                return client.info("replication").get("master_link_status") == "up"

        return await trio.to_thread.run_sync(is_so)


async def run(rounds: int, nodes: int, rate: float, limit: int, place: Path) -> int:
    groups = [f"limit{number}" for number in range(rounds)]
    keys = {group: mint(lambda size, seed=group: seed.encode().ljust(size, b".")) for group in groups}
    limits = f'[limits]\nrate = {{ requests = {limit}, window = "1h" }}'
    texts = {"dev": key_text(KEY), **{group: key_text(key, limits) for group, key in keys.items()}}
    relay = f'[state]\non_outage = "deny"\ntimezone = "{noon_zone()}"\nlease = "5s"\n'
    named = names_of("load", min(60_000, round(rounds * rate * 60)))
    with sentinels() as (servers, watchers):
        state = "redis+sentinel://" + ",".join(f"127.0.0.1:{one.port}" for one in watchers) + "/mymaster"
        async with fleet(place, state, relay=relay, keys=texts, named=named, nodes=nodes) as relays:
            tried = Failovers(relays, servers, watchers[0], keys, limit)
            load = Load(relays, KEY, "load", rate, random.Random(rounds))
            async with load.running():
                for group in groups:
                    await tried.round(group)
            calls = relays.ledger.of("load")
            try:
                await relays.books_hold({model: seen.tokens for model, seen in calls.items()})
                books = f"the books hold all {len(calls)} calls of the load, once each"
            except AssertionError as error:
                books = str(error)
            away = sorted(tried.away)
            statuses = Counter(reply.status for reply in load.replies.values())
            gone = f"{away[len(away) // 2]:.1f} s at the median, {away[-1]:.1f} s at most"
            print(f"{rounds} failovers, {nodes} nodes: without a store for {gone}")
            print(f"beyond a limit of {limit}: {sum(tried.over)} calls in all, {max(tried.over)} at most")
            print(f"the load was answered {dict(statuses)}; {books}")
            served = statuses.keys() == {200, 503} and min(tried.over) >= 0
            return 0 if served and books.startswith("the books hold") else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Sentinel failovers under load, and what became of limits and books")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rate", type=float, default=40.0, help="calls a second of the load")
    parser.add_argument("--limit", type=int, default=200, help="requests an hour of each round's key")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        return trio.run(run, args.rounds, args.nodes, args.rate, args.limit, Path(place))


if __name__ == "__main__":
    sys.exit(main())
