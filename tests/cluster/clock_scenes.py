"""Whole processes with clocks of their own: an hour ahead, an hour behind, and right."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import trio
from cluster_world import LEASE, NODES, Outcome, World, world
from daemon import control_answer, key_text
from lease_scenes import KEY as SLOTS_KEY
from lease_scenes import LATE, OWN, SLOTS, Streams, refill
from limit_scenes import (
    COUNTED,
    MODELS,
    PRICES,
    TEXTS,
    books_equal,
    crowded,
    most_of,
    request_of,
)
from limit_scenes import SLOTS as SLOTS_OF_ALL
from netspaces import Network
from skewed import clock_of

SKEWS = {0: 3600, 1: -3600, 2: 0}  # s, by node


async def clocks(network: Network, place: Path) -> Outcome:
    """Limits, slots, rests, what status says, and the log."""
    out = Outcome("clocks an hour ahead, an hour behind, and right")
    keys = {**TEXTS, "slots2": key_text(SLOTS_KEY, f"[limits]\nconcurrency = {SLOTS}\n")}
    named = [*MODELS, *(f"slots2.{number:04}" for number in range(2000))]
    environments = {number: clock_of(skew) for number, skew in SKEWS.items() if skew}
    modules = dict.fromkeys(environments, "skewed")
    async with world(
        network, place, keys=keys, policy="deny", files=PRICES, named=named, environments=environments, modules=modules
    ) as at:
        await told(out, at)

        async def story() -> None:
            await at.until(lambda: at.seen("rate") >= most_of("rate") // 3, "a third to be used")
            await at.cut_off(0)
            await trio.sleep(2)
            await at.heal(0)

        await crowded(at, story)
        for kind in COUNTED:
            out.note(f"{kind}: allowed, served", f"{most_of(kind)}, {at.seen(kind)}")
            out.must(at.seen(kind) == most_of(kind), f"{kind}: {at.seen(kind)} served, {most_of(kind)} are allowed")
        peak = at.relays.ledger.peak["slots"]
        out.must(peak == SLOTS_OF_ALL, f"slots: {peak} at once")
        await retry_after(out, at)
        await books_equal(out, at)
        await slots(out, at)
    return out


async def told(out: Outcome, at: World) -> None:
    """What status, doctor and metrics say, and the log."""
    for number, skew in SKEWS.items():
        control = at.relays.tree(number).parent / "control.sock"

        def status(control: Path = control) -> dict[str, object]:
            found: dict[str, object] = control_answer(control, "status")["status"]
            return found

        await at.until(lambda status=status: len(status()["nodes"]) == NODES, "the nodes to know each other")
        found = status()
        off = found["store_clock_ahead"]
        said = [text for text in found["ailments"] if "clock of this node" in text]
        out.note(
            f"n{number}, {skew:+d} s: the store's clock is ahead by", f"{off} s; {said[0][:60] if said else 'well'}"
        )
        out.must(abs(off + skew) < 2 and bool(said) == bool(skew), f"n{number} says {off} and {said}")
        metrics = control_answer(control, "metrics")["metrics"]
        measured = float(metrics.partition("\nrelayd_store_clock_ahead_seconds ")[2].split()[0])
        out.must(abs(measured + skew) < 2, f"n{number}: its metric says {measured}")
        out.must(found["drift"] is None, f"n{number} sees drift: {found['drift']}")
        entry = at.relays.nodes[number].events("daemon.listening")[0]
        stamp = datetime.datetime.fromisoformat(entry["time"]).timestamp()
        out.must(abs(stamp - time.time() - skew) < 120, f"n{number}: its log says {entry['time']}")


async def retry_after(out: Outcome, at: World) -> None:
    """Every node says the same of when to come again."""
    waits = []
    for number in range(NODES):
        reply = await at.client(number).ask(request_of("rate"))
        out.must(reply.status == 429, f"n{number}: {reply.status}")
        waits.append(int(reply.headers.get("retry-after", -1)))
    out.note("retry-after of a used-up window of 1h, by node", waits)
    out.must(max(waits) - min(waits) <= 5 and 3000 < max(waits) <= 3660, f"retry-after {waits}")


async def slots(out: Outcome, at: World) -> None:
    """Slots of a killed node whose clock is ahead come back with its lease."""
    async with trio.open_nursery() as nursery:
        streams = Streams(at, nursery, "slots2")
        for _ in range(SLOTS):
            assert await streams.begin(0) == 0
        await trio.sleep(2 * LEASE)
        out.must(await streams.begin(1) == 429, "the slots of a living node were given away")
        await at.relays.kill(0)
        began = time.monotonic()
        last, first = await refill(at, streams, began, OWN)
        out.note("slots of a killed node whose clock is ahead were had by others after", f"{first:.1f} to {last:.1f} s")
        out.must(first > LEASE / 2 and last <= LEASE + LATE, f"slots came back after {first:.1f} to {last:.1f} s")
        nursery.cancel_scope.cancel()
