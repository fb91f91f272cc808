"""A thousand reloads under load, one in ten of a broken tree: does anybody notice, and does anything stay behind?

    python tests/bench/reload_soak.py [--reloads 1000] [--workers 1] [--rate 50] [--streams 50] [--state sqlite|redis]

A `relayd run` before an upstream that keeps a ledger; short calls and streams without a pause, and so many streams that
stay open for four seconds each. Meanwhile an account and a key come and go, weights and limits change; every tenth
change is a file that is half written, of a wrong type, of 50 MB, a key that is there twice, or no text at all. A reload
is asked for through the control socket as soon as the last one has had its verdict. Printed: calls that failed or were
cut, verdicts, time per reload, how long the event loop was held (by a probe that asks /livez every 10 ms), what the
daemon holds. Exits with 1 when a call failed, a broken tree was taken or a right one was not, the books differ from the
ledger, or something stays behind.
"""

from __future__ import annotations

import argparse
import sys
from array import array
from collections import Counter
from pathlib import Path

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parent))
import import_paths

import_paths.add()

from builders import KEY
from changes import Changes
from churn import Churn, Mixture, long_stream, missing
from daemon import key_text
from fleet import fleet, noon_zone
from ledger import Client, getting
from standing import Verdict, Watched, played, table, verdicts

BROKEN = 10  # one change in so many
FIRST = 20  # reloads after which everything has been there once


@attrs.define(eq=False)
class Reloads:
    """Reloads one after the other. `took`: s for each of a right tree; `probes`: s for the event loop's answers."""

    watched: Watched
    results: Counter[str] = attrs.field(factory=Counter)
    took: array[float] = attrs.field(factory=lambda: array("d"))
    probes: array[float] = attrs.field(factory=lambda: array("d"))

    async def run(self, changes: Changes, count: int) -> None:
        """So many."""
        for number in range(1, count + 1):
            await self.one(changes, broken=number % BROKEN == 0)
            if number % max(1, count // 10) == 0:
                print(f"{number} reloads: {(await self.watched.look()).text()}", flush=True)

    async def one(self, changes: Changes, *, broken: bool) -> None:
        mend, began = changes.wrong() if broken else changes.right(), trio.current_time()
        self.results[f"{'broken' if broken else 'right'} {await self.watched.reload()}"] += 1
        if mend is not None:
            mend()
        else:
            self.took.append(trio.current_time() - began)

    async def probe(self, port: int) -> None:
        """Ask for ever."""
        client = Client(port)
        while True:
            self.probes.append((await client.ask(getting("/livez"))).seconds)
            await trio.sleep(0.01)


def spread(seconds: array[float]) -> str:
    """For people."""
    ordered = sorted(seconds)
    shares = (("median", 0.5), ("99 %", 0.99), ("at most", 1.0))
    return ", ".join(
        f"{name} {ordered[min(len(ordered) - 1, int(s * len(ordered)))] * 1000:.0f} ms" for name, s in shares
    )


async def reload_rounds(place: Path, state: str, args: argparse.Namespace) -> bool:
    """The whole of it. Returns: whether everything held."""
    relay = f'[server]\nworkers = {args.workers}\n[state]\ntimezone = "{noon_zone()}"\n'
    keys, named = {"dev": key_text(KEY)}, [f"{kind}.{n}" for kind in ("kept", "long") for n in range(7)]
    async with fleet(place, state, keys=keys, relay=relay, named=named, nodes=1) as relays:
        port, changes = relays.nodes[0].port, Changes(relays.tree(0))
        mixture = Mixture(leaving=0)
        short, long = Churn(port, mixture, every=1.0), Churn(port, long_stream)
        world = Reloads(Watched(relays))
        before = None
        for count in (FIRST, args.reloads):
            async with short.running(round(args.rate)), long.running(args.streams), trio.open_nursery() as probing:
                probing.start_soon(world.probe, port)
                await trio.sleep(1)
                await world.run(changes, count)
                probing.cancel_scope.cancel()
            if before is None:
                before = await world.watched.at_rest()
                world = Reloads(world.watched)
        assert before is not None
        found = verdicts((), before, await world.watched.at_rest(before))
        return told(world, found, (short, long), await missing(relays, mixture.expected), args)


def told(
    world: Reloads, found: list[Verdict], loads: tuple[Churn, ...], wrong: list[str], args: argparse.Namespace
) -> bool:
    """Print the results. Returns: whether everything held."""
    workers = "one process" if args.workers == 1 else f"{args.workers} workers"
    print(f"\n{args.reloads} reloads, {workers}, {args.state}\n\n{table(found, hourly=False)}\n")
    print(f"reloads {dict(world.results)}; {spread(world.took)}")
    print(f"the event loop answered: {spread(world.probes)}")
    for name, load in zip(("short calls", "long streams"), loads, strict=True):
        print(f"{name}: {load.text()}")
    print("\n".join(wrong) or "books and ledger agree")
    unforeseen = set(world.results) - {"right applied", "broken rejected"}
    left = [one.name for one in found if not one.gone]
    return not (unforeseen or left or wrong or any(load.failed for load in loads))


def main() -> int:
    parser = argparse.ArgumentParser(description="reloads under load, and whether anybody notices")
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rate", type=float, default=50.0, help="short calls a second")
    parser.add_argument("--streams", type=int, default=50, help="that are open all the time")
    parser.add_argument("--state", choices=("sqlite", "redis"), default="sqlite")
    return played(reload_rounds, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
