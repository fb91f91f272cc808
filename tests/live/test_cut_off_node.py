"""A node that is cut off from its store and comes back: limits stay exact, and its slots are given away when its lease
has run out. The cheap form of tests/bench/cluster.py, which cuts real networks.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest
import redis_server
import trio
from cuttable_link import CuttableLink, cuttable_link
from daemon import key_text
from fleet import PATIENCE, Fleet, eventually, fleet, noon_zone
from ledger import Client, Reply, asking

from relayd.config.secrets.api_keys import mint

NODES, CLIENTS = 3, 24
LEASE = 8.0  # s; a node that stands still for longer on a busy machine has lost its slots
REQUESTS, SLOTS, OWN = 150, 4, 3  # OWN: streams that the node has open when it is cut off
LIMITS = {"rate": f'rate = {{ requests = {REQUESTS}, window = "1h" }}', "slots": f"concurrency = {SLOTS}"}
KEYS = {kind: mint(lambda size, seed=kind: seed.encode().ljust(size, b".")) for kind in LIMITS}


@attrs.define(eq=False)
class CutOff:
    """Three nodes, of which n0 has a link to the store that can be cut."""

    relays: Fleet
    link: CuttableLink
    answers: Counter[tuple[int, int]] = attrs.field(factory=Counter)  # by node and status
    most: float = REQUESTS // 4  # calls after which the other nodes are asked no more, for now
    over: bool = False

    def seen(self, group: str) -> int:
        return sum(one.times for one in self.relays.ledger.of(group).values())

    async def cut(self) -> None:
        await self._n0_says("state.unavailable", self.link.cut)

    async def heal(self) -> None:
        await self._n0_says("state.available", self.link.heal)

    async def _n0_says(self, event: str, after: Callable[[], None]) -> None:
        node = self.relays.nodes[0]
        after()

        async def it_does() -> bool:
            return node.last_of_store() == event

        await eventually(it_does, event)

    async def go_on_asking(self, number: int, seed: int) -> None:
        client, rng = Client(self.relays.nodes[number].port), random.Random(seed)
        while not self.over:
            if number and self.seen("rate") >= self.most:
                await trio.sleep(0.02)
                continue
            reply = await client.ask(asking(KEYS["rate"], "rate.all"))
            self.answers[number, reply.status] += 1
            await trio.sleep(rng.uniform(0.02, 0.2))
        await client.close()

    async def begin(self, number: int, name: str, nursery: trio.Nursery) -> int:
        """Ask a node for one more stream; 0 once it runs, else the status of the refusal.

        A store that does not answer in time, on a machine that is busy with other tests, is asked again.
        """
        while (status := await self._begin(number, name, nursery)) == 503:  # noqa: ASYNC110 - nobody here can tell when
            await trio.sleep(0.2)
        return status

    async def _begin(self, number: int, name: str, nursery: trio.Nursery) -> int:
        model, replies = f"slots.{name}", list[Reply]()

        async def hold() -> None:
            client = Client(self.relays.nodes[number].port)
            replies.append(await client.ask(asking(KEYS["slots"], model, stream=True, pause=0.1, events=10_000)))
            await client.close()

        nursery.start_soon(hold)

        async def is_answered() -> bool:
            return bool(replies) or model in self.relays.ledger.calls

        await eventually(is_answered, "an answer")
        return replies[0].status if replies else 0


@pytest.fixture
async def cut_off(tmp_path: Path) -> AsyncIterator[CutOff]:
    relay = f'[state]\non_outage = "deny"\ntimezone = "{noon_zone()}"\nlease = "{LEASE:g}s"\n'
    keys = {kind: key_text(KEYS[kind], f"[limits]\n{LIMITS[kind]}") for kind in LIMITS}
    with redis_server.running() as redis:
        async with cuttable_link(redis.port) as link:
            ways = {0: f"redis://127.0.0.1:{link.port}/0"}
            async with fleet(tmp_path, redis.url, keys=keys, relay=relay, nodes=NODES, ways=ways) as relays:
                yield CutOff(relays, link)


async def test_limits_are_exact_and_slots_bounded_though_a_node_is_cut_off_and_comes_back(cut_off: CutOff) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(OWN):
            assert await cut_off.begin(0, f"own{number}", nursery) == 0
        assert await cut_off.begin(1, "other", nursery) == 0
        assert await cut_off.begin(2, "beyond", nursery) == 429
        async with trio.open_nursery() as asking_on:
            for number in range(CLIENTS):
                asking_on.start_soon(cut_off.go_on_asking, number % NODES, number)
            await eventually(lambda: reached(cut_off, REQUESTS // 4), "a quarter of the limit")
            await cut_off.cut()
            cut_off.most = cut_off.seen("rate") + 20
            await eventually(lambda: reached(cut_off, int(cut_off.most)), "the other nodes to go on")
            await eventually(lambda: refuses(cut_off), "n0 to refuse")
            taken, running = await taken_by_others(cut_off, nursery), cut_off.relays.ledger.running
            assert taken == OWN  # once their lease has run out
            assert running["slots"] == SLOTS + OWN  # n0's own streams go on
            await cut_off.heal()
            cut_off.most = math.inf
            await eventually(lambda: full(cut_off), "the limit to be used up")
            cut_off.over = True
        assert cut_off.seen("rate") == REQUESTS
        assert {status for _, status in cut_off.answers} == {200, 429, 503}
        for number in range(NODES):  # n0 holds its slots again, so nobody is let in
            assert await cut_off.begin(number, f"after{number}", nursery) == 429
        assert running["slots"] == SLOTS + OWN == cut_off.relays.ledger.peak["slots"]
        nursery.cancel_scope.cancel()

    async def all_are_free() -> bool:
        document = await cut_off.relays.verb(1, "usage", "slots")
        (row,) = [row for row in document["keys"][0]["limits"] if row["unit"] == "concurrent"]
        return bool(row["used"] == 0)

    await eventually(all_are_free, "all slots to be free")


async def reached(cut_off: CutOff, calls: int) -> bool:
    return cut_off.seen("rate") >= calls


async def refuses(cut_off: CutOff) -> bool:
    """Whether n0 has said that it cannot count."""
    return cut_off.answers[0, 503] > 0


async def full(cut_off: CutOff) -> bool:
    """Whether every node has refused somebody since the limit was last seen to be used up."""
    before = Counter(cut_off.answers)
    if cut_off.seen("rate") < REQUESTS:
        return False
    await eventually(lambda: refused_since(cut_off, before), "each node to refuse")
    return True


async def refused_since(cut_off: CutOff, before: Counter[tuple[int, int]]) -> bool:
    return all(cut_off.answers[number, 429] >= before[number, 429] + 5 for number in range(NODES))


async def taken_by_others(cut_off: CutOff, nursery: trio.Nursery) -> int:
    """How many streams other nodes may begin. That there is no room for more, the test sees at its end."""
    taken, asked, deadline = 0, 0, trio.current_time() + PATIENCE
    while taken < OWN and trio.current_time() < deadline:
        asked += 1
        status = await cut_off.begin(1 + asked % 2, f"more{asked}", nursery)
        assert status in (0, 429)
        taken += status == 0
        await trio.sleep(0 if status == 0 else 0.1)
    return taken
