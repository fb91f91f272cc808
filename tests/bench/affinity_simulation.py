"""Which share of calls finds its prompt cached, by strategy: `python tests/bench/affinity_simulation.py`.

Conversations of many turns run over ten accounts for four hours of simulated time. Now and then an account is limited
for some minutes, or fails for a while. A prompt is cached on an account for five minutes after its last call there
(API docs, "Prompt caching"). "landed" counts calls after a conversation's first; the last column is the largest share
of all calls that one account got (a tenth would be even).
"""

from __future__ import annotations

import collections
import heapq
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from pool_world import GOOD, NOW, World, accounts, answered, snapshot

from relayd.config.snapshot import Routing
from relayd.core.balancing.affinity import Pins
from relayd.core.balancing.outcomes import Outcome

ACCOUNTS = tuple("abcdefghij")
CONVERSATIONS = 600
HOURS = 4
CACHED = 300.0  # s
Name = Callable[[int], str]  # conversation number to what affinity goes by


@attrs.define
class Weather:
    """When each account is limited or failing: spans of (start, end, status)."""

    spans: dict[str, list[tuple[float, float, int]]]

    @classmethod
    def make(cls, rng: random.Random) -> Weather:
        spans: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ACCOUNTS}
        for name in ACCOUNTS:
            at = NOW
            while at < NOW + HOURS * 3600:
                at += rng.expovariate(1 / 3000)  # well for 50 minutes on average
                length = rng.uniform(60, 600)
                spans[name].append((at, at + length, rng.choice([429, 500, 529])))
                at += length
        return Weather(spans)

    def answer(self, account: str, now: float) -> Outcome:
        for start, end, status in self.spans[account]:
            if start <= now < end:
                return answered(status, retry_after=str(int(end - now) + 1)) if status == 429 else answered(status)
        return GOOD


def simulate(routing: Routing, name_of: Name) -> tuple[float, float, float]:
    """Shares of calls: landed where the prompt was cached, served at all, on the busiest account."""
    world = World(snapshot(*accounts(*ACCOUNTS), routing=routing), rng=random.Random(5))
    rng, weather, pins = random.Random(6), Weather.make(random.Random(7)), Pins()
    turns = [(NOW + rng.uniform(0, HOURS * 1800), number, 0) for number in range(CONVERSATIONS)]
    heapq.heapify(turns)
    cached: dict[tuple[int, str], float] = {}
    later = landed = served = calls = 0
    share: collections.Counter[str] = collections.Counter()
    while turns:
        world.now, number, turn = heapq.heappop(turns)
        home = pins.look(name_of(number), world.now, routing.affinity)
        done = world.deliver(lambda account: weather.answer(account, world.now), affinity=home)
        calls += 1
        later += turn > 0
        if account := done.served_by:
            served += 1
            share[account] += 1
            landed += turn > 0 and cached.get((number, account), 0.0) > world.now
            cached[number, account] = world.now + CACHED
            pins.pin(name_of(number), account, world.now, 3600.0)
        if turn < 60:
            heapq.heappush(turns, (world.now + rng.uniform(10, 120), number, turn + 1))
    return landed / later, served / calls, max(share.values()) / served


def main() -> None:
    one: Name = lambda number: f"conversation {number}"  # noqa: E731
    folded: Name = lambda number: "system and tools"  # noqa: E731
    off: dict[str, Any] = {"affinity": 0.0}
    rows = [
        ("balanced, affinity by conversation", Routing(), one),
        ("priority, affinity by conversation", Routing(strategy="priority"), one),
        ("round-robin, affinity by conversation", Routing(strategy="round-robin"), one),
        ("balanced, affinity by system and tools only", Routing(), folded),
        ("balanced, no affinity", Routing(**off), one),
        ("round-robin, no affinity", Routing(strategy="round-robin", **off), one),
    ]
    print(f"{'':44}{'landed':>9}{'served':>9}{'busiest':>9}")
    for name, routing, name_of in rows:
        landed, served, busiest = simulate(routing, name_of)
        print(f"{name:44}{landed:9.1%}{served:9.2%}{busiest:9.1%}")


if __name__ == "__main__":
    main()
