"""Limits while the network is cut: of one node from its store, and of the master with one node on its side."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import trio
from cluster_world import CLIENTS, LEASE, NODES, Outcome, World, world
from daemon import key_text
from ledger import Client, asking, body_length
from netspaces import Network

from relayd.config.secrets.api_keys import mint

REQUESTS, TOKENS, COST, SLOTS = 600, 8000, 80_000, 8  # micro-USD
INPUT, USED, OUTPUT = 3, 11, 40  # tokens that the upstream reports, and that are asked for
PRICE = '{ input = "3", output = "15", cache_write_5m = "3.75", cache_write_1h = "6", cache_read = "0.30" }'
LIMITS = {
    "rate": f'rate = {{ requests = {REQUESTS}, window = "1h" }}',
    "tokens": f'windows = [{{ window = "1h", tokens = {TOKENS} }}]\nreserve = "worst-case"',
    "cost": 'daily_cost = "0.080000"\nreserve = "worst-case"',
    "slots": f"concurrency = {SLOTS}",
}
KEYS = {kind: mint(lambda size, seed=kind: seed.encode().ljust(size, b".")) for kind in LIMITS}
TEXTS = {kind: key_text(KEYS[kind], f"[limits]\n{LIMITS[kind]}") for kind in LIMITS}
PRICES = {"prices.toml": f'[models]\n"cost.all" = {PRICE}'}
MODELS = tuple(f"{kind}.all" for kind in LIMITS)
CUT = 3.0  # s that calls go on while the network is cut


def request_of(kind: str, pause: float = 0.03) -> bytes:
    return asking(KEYS[kind], f"{kind}.all", max_tokens=OUTPUT, prompt=INPUT, output=USED, pause=pause)


def most_of(kind: str) -> int:
    """How many calls a limit allows: what is reserved comes back but for what was used."""
    reserved = -(-body_length(request_of(kind)) * 2 // 7)
    if kind == "tokens":
        return (TOKENS - reserved - OUTPUT) // (INPUT + USED) + 1
    if kind == "cost":
        return (COST - reserved * 6 - OUTPUT * 15) // (INPUT * 3 + USED * 15) + 1
    return REQUESTS


COUNTED = ("rate", "tokens", "cost")


@attrs.define(eq=False)
class Crowd:
    """Clients of every node that go on asking with each key in turn.

    Args:
        answers: by node and status.
        last: when somebody was last let in with a key whose limit is used up some time.
    """

    at: World
    answers: Counter[tuple[int, int]] = attrs.field(factory=Counter)
    last: float = 0.0
    over: bool = False

    async def call(self, number: int, client: Client, rng: random.Random) -> None:
        while not self.over:
            for kind in rng.sample(sorted(LIMITS), len(LIMITS)):
                reply = await client.ask(request_of(kind))
                self.answers[number, reply.status] += 1
                if reply.status == 200 and kind in COUNTED:
                    self.last = time.monotonic()
                await trio.sleep(rng.uniform(0.2, 0.8))
        await client.close()

    async def until_full(self) -> None:
        """Wait until nobody has been let in for longer than an open call of a dead node would stand in the way."""
        quiet = 2 * LEASE + 2
        self.last = time.monotonic()
        while time.monotonic() - self.last < quiet:  # noqa: ASYNC110 - until nothing has happened for so long
            await trio.sleep(0.1)
        self.over = True

    def statuses(self, number: int) -> dict[int, int]:
        return {status: count for (node, status), count in sorted(self.answers.items()) if node == number}


async def crowded(at: World, story: Callable[[], Awaitable[None]]) -> Crowd:
    """Let 64 clients of each node ask while a story is played, and until all limits are used up."""
    crowd = Crowd(at)
    async with trio.open_nursery() as nursery:
        for number in range(NODES):
            for seed in range(CLIENTS):
                rng = random.Random(number * CLIENTS + seed)
                nursery.start_soon(crowd.call, number, at.client(number), rng)
        await story()
        await crowd.until_full()
    return crowd


async def node_cut_off(network: Network, place: Path, policy: str) -> Outcome:
    """Limits while a node is cut off from its store and comes back."""
    out = Outcome(f'limits, a node cut off, on_outage = "{policy}"')
    async with world(network, place, keys=TEXTS, policy=policy, files=PRICES, named=MODELS) as at:
        marks: dict[str, Counter[str]] = {}

        async def story() -> None:
            await at.until(lambda: at.seen("rate") >= REQUESTS // 4, "a quarter to be used")
            await at.cut_off(0)
            marks["cut"] = Counter({kind: at.seen(kind) for kind in COUNTED})
            await trio.sleep(CUT)
            await at.heal(0)

        crowd = await crowded(at, story)
        # A node that was without its store at any time may have granted the limit by itself.
        alone = sum(at.events(number, "state.unavailable") > 0 for number in range(NODES))
        allowed = 1 if policy == "deny" else 1 + alone
        out.note("nodes that were without their store at some time", alone)
        for kind in COUNTED:
            most, seen = most_of(kind), at.seen(kind)
            out.note(f"{kind}: allowed, at the cut, served", f"{most}, {marks['cut'][kind]}, {seen}")
            out.must(most <= seen <= allowed * most, f"{kind}: {seen} calls were served, {most} are allowed")
        peak = at.relays.ledger.peak["slots"]
        out.note("slots: allowed, at once at most", f"{SLOTS}, {peak}")
        out.must(peak <= allowed * SLOTS, f"slots: {peak} calls at once, {SLOTS} are allowed")
        for number in range(NODES):
            out.note(f"n{number} answered", crowd.statuses(number))
        expected = {200, 429, 503} if policy == "deny" else {200, 429}
        out.must({status for _, status in crowd.answers} <= expected, "other answers")
        await books_equal(out, at)
        used = await at.slots_used("slots")
        out.must(used == 0, f"slots: {used} are taken at the end")
    return out


async def books_equal(out: Outcome, at: World) -> None:
    """Each served call stands in the books, once, with its tokens."""
    expected = {kind: (at.seen(kind), at.seen(kind) * (INPUT + USED)) for kind in LIMITS}
    found: dict[str, tuple[int, int]] = {}
    with trio.move_on_after(30):
        while found != expected:
            found = await at.booked("key")
            await trio.sleep(0.2)
    out.note("calls in the books", sum(requests for requests, _ in found.values()))
    out.must(found == expected, f"the books have {found}, the upstream {expected}")


async def master_cut_off(network: Network, place: Path, *, bounded: bool) -> Outcome:
    """Limits while the master is cut off with one node on its side and goes on taking writes."""
    options = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2") if bounded else ()
    out = Outcome(f"master cut off with a node, min-replicas-to-write = {1 if bounded else 0}")
    keys = {**TEXTS}
    async with world(
        network, place, keys=keys, policy="deny", files=PRICES, named=MODELS, redis_options=options, replicas=2
    ) as at:
        served: dict[str, int] = {}

        async def story() -> None:
            await at.until(lambda: at.seen("rate") >= REQUESTS // 4, "a quarter to be used")
            old = await trio.to_thread.run_sync(at.master)
            network.split("n0", "r0", "s0")
            began = time.monotonic()
            assert old is at.servers[0]
            await at.until(lambda: at.master() is not old, "the sentinels to name another master")
            out.note("another master after", f"{time.monotonic() - began:.1f} s")
            for number in (1, 2):
                await at.until(
                    lambda number=number: at.events(number, "state.available") > 0,
                    f"n{number} to find the new master",
                )
            await trio.sleep(2 * CUT)
            served["apart"] = at.seen("rate")
            network.heal()
            await at.until(lambda: at.events(0, "state.replaced") > 0, "n0 to find the new master")
            out.note("n0 is with the new master after", f"{time.monotonic() - began:.1f} s")

        crowd = await crowded(at, story)
        for kind in COUNTED:
            most, seen = most_of(kind), at.seen(kind)
            out.note(f"{kind}: allowed, served", f"{most}, {seen} ({seen - most:+})")
            out.must(most <= seen <= 2 * most, f"{kind}: {seen} calls were served, {most} are allowed")
        peak = at.relays.ledger.peak["slots"]
        out.note("slots: allowed, at once at most", f"{SLOTS}, {peak}")
        out.must(peak <= 2 * SLOTS, f"slots: {peak} calls at once, {SLOTS} are allowed")
        for number in range(NODES):
            out.note(f"n{number} answered", crowd.statuses(number))
        await books_equal(out, at)
        await at.until_in_step()
    return out
