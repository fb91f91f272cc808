"""A soak: half an hour of everything that goes on in a relay, and whether anything stays behind.

    python tests/bench/soak.py [--minutes 30] [--workers 1] [--state sqlite|redis] [--rate 30] [--warm MINUTES]
                                [--only calls|reloads|visits] [--out FILE]

A `relayd run` with so many workers before an upstream that keeps a ledger. Calls come and go: short answers, streams,
one client in ten leaves in the middle; the tree is reloaded every five seconds, one change in ten is broken; /metrics
and every admin page are asked for, the status too. The minutes count from when it is warm: until then the 10,000 recent
calls that each worker keeps for the pages fill memory. Each minute a line says what the daemon holds. At the end: how
much each quantity grows in an hour; what is left at rest; whether a call failed; whether the books are equal to the
ledger. Exits with 1 when something grew, failed or is missing. Growth under load is judged from ten minutes on: in
less, it is noise. `--out` is for all samples.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
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
from churn import Churn, Mixture, missing
from daemon import key_text
from fleet import fleet, noon_zone
from ledger import Client
from pages_world import admin_url, pages_table
from standing import Standing, Verdict, Watched, played, table, verdicts

LIMITS = (
    "[limits]\nconcurrency = 1000\ndaily_requests = 1_000_000_000\ntokens_per_minute = 1_000_000_000\n"
    "monthly_requests = 1_000_000_000\n"
)
PAGES = ("/web", "/web/accounts", "/web/keys", "/web/calls", "/web/reports", "/web/config", "/web/audit", "/metrics")
CLIENTS = 41  # has no divisor in common with what Mixture counts by, so that each of them makes every kind of call
LOOK = 5.0  # s between samples, reloads
TELLING = 10.0  # minutes after which a growth an hour tells something
WARM = 15_000  # calls that a worker should have had by then, as far as it is given them
VISIT = 1.0  # s between visits to the admin pages


@attrs.define(eq=False)
class Soak:
    """One daemon under everything at once."""

    watched: Watched
    load: Churn
    changes: Changes
    samples: list[Standing] = attrs.field(factory=list)
    reloads: Counter[str] = attrs.field(factory=Counter)
    visits: Counter[int] = attrs.field(factory=Counter)

    async def run(self, seconds: float, only: str) -> None:
        """Everything at once for so long, or `only` one thing."""
        clients = CLIENTS if only in ("", "calls") else 0
        async with self.load.running(clients), trio.open_nursery() as nursery:
            for name, happen in (("reloads", self._reload), ("visits", self._visit)):
                if only in ("", name):
                    nursery.start_soon(happen)
            nursery.start_soon(self._watch)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    async def _watch(self) -> None:
        for number in itertools.count(1):
            await trio.sleep(LOOK)
            self.samples.append(await self.watched.look())
            if number % (60 / LOOK) == 0:
                rate = self.load.done / self.samples[-1].at
                more = f"; {rate:.0f} calls/s, {len(self.load.failed)} failed, {self.reloads.total()} reloads"
                print(self.samples[-1].text() + more, flush=True)

    async def _reload(self) -> None:
        for number in itertools.count(1):
            await trio.sleep(LOOK)
            mend = self.changes.wrong() if number % 10 == 0 else self.changes.right()
            self.reloads[f"{'broken' if mend else 'right'} {await self.watched.reload()}"] += 1
            if mend:
                mend()

    async def _visit(self) -> None:
        address = admin_url(self.watched.relays.nodes[0]).rpartition("/")[2]
        client = Client(int(address.rpartition(":")[2]))
        for path in itertools.cycle(PAGES):
            head = f"GET {path} HTTP/1.1\r\nhost: {address}\r\nx-remote-user: alice\r\naccept-language: en\r\n\r\n"
            self.visits[(await client.ask(head.encode())).status] += 1
            await trio.sleep(VISIT)


async def soak(place: Path, state: str, args: argparse.Namespace) -> bool:
    """The whole of it. Returns: whether everything held."""
    admin = pages_table(more='proxy_user_header = "X-Remote-User"', users={"alice": "viewer"})
    relay = f'{admin}\n[server]\nworkers = {args.workers}\n[state]\ntimezone = "{noon_zone()}"\n'
    keys, named = {"dev": key_text(KEY, LIMITS)}, [f"{kind}.{n}" for kind in ("kept", "left") for n in range(7)]
    async with fleet(place, state, keys=keys, relay=relay, named=named, nodes=1) as relays:
        mixture = Mixture()
        load = Churn(relays.nodes[0].port, mixture, every=CLIENTS / args.rate)
        world = Soak(Watched(relays), load, Changes(relays.tree(0)))
        await world.run(args.warm * 60, args.only)
        before, warming = await world.watched.at_rest(), len(world.samples)
        await world.run(args.minutes * 60, args.only)
        after = await world.watched.at_rest(before)
        found, wrong = verdicts(world.samples[warming:], before, after), await missing(relays, mixture.expected)
        if args.out is not None:
            text = "".join(json.dumps(attrs.asdict(one)) + "\n" for one in world.samples)
            await trio.Path(args.out).write_text(text)
        return told(world, found, wrong, args)


def told(world: Soak, found: list[Verdict], wrong: list[str], args: argparse.Namespace) -> bool:
    """Print the results. Returns: whether everything held."""
    telling = args.minutes >= TELLING
    workers = "one process" if args.workers == 1 else f"{args.workers} workers"
    print(f"\n{args.minutes:g} minutes, {workers}, {args.state}, after {args.warm:g} to get warm\n")
    print(f"{table(found, hourly=telling)}\n")
    if not telling:
        print(f"growth under load is not judged: that takes {TELLING:g} minutes")
    print(world.load.text())
    print(f"reloads {dict(world.reloads)}; visits to admin pages, by status {dict(world.visits)}")
    print("\n".join(wrong) or "books and ledger agree")
    unforeseen = set(world.reloads) - {"right applied", "broken rejected"} or set(world.visits) - {200}
    held = all(one.gone and (one.flat or not telling) for one in found)
    return held and not (world.load.failed or wrong or unforeseen)


def main() -> int:
    parser = argparse.ArgumentParser(description="half an hour of everything, and what stays behind")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm", type=float, help="minutes before those (those in which a worker has 15,000 calls)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--state", choices=("sqlite", "redis"), default="sqlite")
    parser.add_argument("--rate", type=float, default=30.0, help="calls a second")
    parser.add_argument("--only", choices=("calls", "reloads", "visits"), default="", help="to find out what grows")
    parser.add_argument("--out", help="a file for all samples")
    args = parser.parse_args()
    if args.warm is None:
        args.warm = round(WARM * args.workers / args.rate / 60, 1)
    return played(soak, args)


if __name__ == "__main__":
    sys.exit(main())
