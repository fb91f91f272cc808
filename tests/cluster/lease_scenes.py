"""Slots of a node that is cut off, comes back, and is killed: others get them when the lease has run out, no sooner."""

from __future__ import annotations

import time
from pathlib import Path

import trio
from cluster_world import LEASE, NODES, Outcome, World, world
from daemon import key_text
from ledger import asking
from netspaces import Network

from relayd.config.secrets.api_keys import mint

SLOTS, OWN = 6, 4  # of the key; streams that n0 has open
KEY = mint(lambda size: b"leases".ljust(size, b"."))
PACE = 0.2  # s between the events of a stream
LATE = 3.0  # s beyond its lease by which a slot is back: the reaper looks twice in a lease, and a machine is busy


class Streams:
    """Streams through the nodes, each held until it is let go."""

    def __init__(self, at: World, nursery: trio.Nursery, group: str = "slots") -> None:
        self.at, self.nursery, self.group, self.asked = at, nursery, group, 0
        self.open: dict[int, list[trio.CancelScope]] = {number: [] for number in range(NODES)}

    async def begin(self, number: int) -> int:
        """Ask a node for one more; 0 when it streams, else the status."""
        self.asked += 1
        model, scope = f"{self.group}.{self.asked:04}", trio.CancelScope()
        began = self.at.relays.ledger.calls
        replies: list[int] = []

        async def hold() -> None:
            client = self.at.client(number)
            with scope:
                request = asking(KEY, model, stream=True, prompt=7, output=5, pause=PACE, events=600)
                replies.append((await client.ask(request)).status)
            await client.close()

        self.nursery.start_soon(hold)
        await self.at.until(lambda: bool(replies) or model in began, "an answer")
        if replies:
            return replies[0]
        self.open[number].append(scope)
        return 0

    def end(self, number: int) -> None:
        for scope in self.open[number]:
            scope.cancel()
        self.open[number].clear()


async def leases(network: Network, place: Path) -> Outcome:
    """Cut off, back, killed."""
    out = Outcome("slots of a node that is cut off, comes back, and is killed")
    keys = {"slots": key_text(KEY, f"[limits]\nconcurrency = {SLOTS}\n")}
    named = [f"slots.{number:04}" for number in range(2000)]
    async with world(network, place, keys=keys, policy="deny", named=named) as at, trio.open_nursery() as nursery:
        streams, running = Streams(at, nursery), at.relays.ledger.running
        for number in (*[0] * OWN, 1, 2):
            assert await streams.begin(number) == 0
        out.must(await streams.begin(1) == 429, "a stream beyond the limit was let in")

        # Cut off: its calls stream on; their slots are given to others once their lease has run out.
        await at.cut_off(0)
        began = time.monotonic()
        out.must(await streams.begin(0) == 503, "a node without a store let a call in")
        took, first = await refill(at, streams, began)
        out.note(
            f"lease {LEASE:g} s; slots of the cut-off node were had by others after", f"{first:.1f} to {took:.1f} s"
        )
        out.must(took <= LEASE + LATE, f"slots came back after {took:.1f} s")
        out.note("streams at once: limit, its own, in all", f"{SLOTS}, {OWN}, {running['slots']}")
        out.must(running["slots"] <= SLOTS + OWN, f"{running['slots']} streams at once")

        # Back: its streams go on, and nobody else is let in until there are fewer than the limit.
        await at.heal(0)
        await trio.sleep(LEASE)
        out.must(running["slots"] == SLOTS + OWN, f"{running['slots']} streams after the network was healed")
        for number in range(NODES):
            out.must(await streams.begin(number) == 429, f"n{number} let a stream in beyond the limit")
        out.note("slots taken, as `relayd usage` says", await at.slots_used("slots"))
        streams.end(0)
        await at.until(lambda: running["slots"] == SLOTS, "its streams to end")
        for number in range(NODES):
            out.must(await streams.begin(number) == 429, f"n{number} let a stream in beyond the limit")
        streams.end(1)
        streams.end(2)
        await at.until(lambda: running["slots"] == 0, "all streams to end")
        with trio.move_on_after(LEASE + LATE):
            while await at.slots_used("slots"):  # noqa: ASYNC110 - it looks at the world
                await trio.sleep(0.1)
        out.must(await at.slots_used("slots") == 0, "slots are taken though nothing runs")

        # kill -9: its slots come back with its lease.
        for _ in range(SLOTS):
            assert await streams.begin(0) == 0
        await at.relays.kill(0)
        began = time.monotonic()
        took, first = await refill(at, streams, began, SLOTS)
        out.note("slots of a killed node were had by others after", f"{first:.1f} to {took:.1f} s")
        out.must(took <= LEASE + LATE, f"slots came back after {took:.1f} s")
        streams.end(0)
        streams.end(1)
        await at.until(lambda: running["slots"] == 0, "all streams to end")
        calls = at.relays.ledger.of("slots")
        with trio.move_on_after(LEASE + LATE):
            while len(await at.booked("model")) < len(calls):  # noqa: ASYNC110 - it looks at the world
                await trio.sleep(0.2)
        booked = await at.booked("model")
        missing = [model for model in calls if booked.get(model, (0, 0))[0] != 1]
        out.note("streams that reached the upstream, in the books once", f"{len(calls)}, {len(calls) - len(missing)}")
        out.must(not missing, f"not in the books once: {missing}")
        nursery.cancel_scope.cancel()
    return out


async def refill(at: World, streams: Streams, began: float, most: int = OWN) -> tuple[float, float]:
    """Begin streams at n1 until so many more run; when the last and the first of them began, s."""
    times: list[float] = []
    while len(times) < most and time.monotonic() - began < LEASE + 4 * LATE:
        if await streams.begin(1) == 0:
            times.append(time.monotonic() - began)
        else:
            await trio.sleep(0.05)
    return (times[-1], times[0]) if len(times) == most else (1e9, 1e9)
