"""A hundred workers replaced under load: does anybody notice, and does anything stay behind?

    python tests/bench/replacement_rounds.py [--count 100] [--workers 2] [--rate 30] [--streams 20]
                                             [--state sqlite|redis]

A `relayd run` with workers before an upstream that keeps a ledger; short calls and streams without a pause, and so many
streams that stay open for four seconds each. Two fifths of the workers are told to end (SIGTERM), a fifth outgrow
`max_memory`, the rest come and go with reloads of `workers`. Five for each place are replaced before, so that
everything has been there once. Exits with 1 when a call failed or was cut, the books differ from the ledger, or
something stays behind.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parent))
import import_paths

import_paths.add()

from builders import KEY
from churn import Churn, Mixture, long_stream, missing
from crew_world import CrewDaemon
from daemon import key_text
from fleet import fleet, noon_zone
from replacements import Replacements, replace
from standing import Watched, played, table, verdicts


async def rounds(place: Path, state: str, args: argparse.Namespace) -> bool:
    """The whole of it. Returns: whether everything held."""
    relay = f'[server]\nworkers = {args.workers}\n[state]\ntimezone = "{noon_zone()}"\n'
    keys, named = {"dev": key_text(KEY)}, [f"{kind}.{n}" for kind in ("kept", "long") for n in range(7)]
    async with fleet(place, state, keys=keys, relay=relay, named=named, nodes=1) as relays:
        node, mixture = relays.nodes[0], Mixture(leaving=0)
        short, long = Churn(node.port, mixture, every=1.0), Churn(node.port, long_stream)
        world, watched = Replacements(CrewDaemon(node, node.tree.parent / "control.sock")), Watched(relays)

        async def between() -> None:
            await short.more(round(args.rate / 2))
            if world.count % 10 == 0:
                print(f"{world.count} replaced: {(await watched.look()).text()}", flush=True)

        async with short.running(round(args.rate)), long.running(args.streams):
            await short.more()
            await replace(world, args.workers * 5, args.workers, between)  # so that everything has been there once
        before, first = await watched.at_rest(), world.count
        async with short.running(round(args.rate)), long.running(args.streams):
            await replace(world, first + args.count, args.workers, between)
        found, wrong = verdicts((), before, await watched.at_rest(before)), await missing(relays, mixture.expected)
        print(f"\n{table(found, hourly=False)}\n")
        print(
            f"{world.told} workers told to end, {world.large} outgrew their memory, {world.fewer} by reloads of workers"
        )
        print(f"short calls: {short.text()}\nlong streams: {long.text()}")
        print("\n".join(wrong) or "books and ledger agree")
        return not (short.failed or long.failed or wrong) and all(one.gone for one in found)


def main() -> int:
    parser = argparse.ArgumentParser(description="workers replaced under load, and whether anybody notices")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=30.0, help="short calls a second")
    parser.add_argument("--streams", type=int, default=20, help="that are open all the time")
    parser.add_argument("--state", choices=("sqlite", "redis"), default="sqlite")
    return played(rounds, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
