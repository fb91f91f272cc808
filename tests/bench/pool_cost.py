"""What choosing an account costs, in microseconds of CPU: `python tests/bench/pool_cost.py`.

The whole of it is what a call pays: pick, begin, observe (with the headers of a subscription's answer) and end. Each
figure is the best of several runs, which is the one least disturbed by the rest of the machine.
"""

from __future__ import annotations

import random
import sys
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from pool_world import GOOD, MODEL, NOW, World, accounts, answered, snapshot

from relayd.config.snapshot import Account, Pace, Routing
from relayd.core.balancing.failover import Deliver
from relayd.core.balancing.pool import Picked
from relayd.wire.http import Headers

SIZES = (1, 10, 100, 1000)
PREFIX = b"anthropic-ratelimit-unified-"
HEADERS = Headers(
    [(b"content-type", b"text/event-stream"), (b"request-id", b"req_1")]
    + [(PREFIX + b"status", b"allowed"), (PREFIX + b"reset", str(NOW + 9000).encode())]
    + [
        (PREFIX + window + end, value)
        for window in (b"5h", b"7d")
        for end, value in ((b"-utilization", b"0.4"), (b"-reset", str(NOW + 9000).encode()), (b"-status", b"allowed"))
    ]
)


def cost(action: Callable[[], object], number: int = 300) -> float:
    """Microseconds of one `action`."""
    return min(timeit.repeat(action, number=number, repeat=7)) / number * 1e6


def world_of(size: int, strategy: str = "balanced", **fields: object) -> World:
    members: list[Account] = [
        account for n in range(size) for account in accounts(f"a{n}", weight=1 + n % 3, models=("claude-*",), **fields)
    ]
    world = World(snapshot(*members, routing=Routing(strategy=strategy)))  # type: ignore[arg-type]
    draw = random.Random(1)
    for account in members:
        for _ in range(draw.randrange(3)):
            world.pool.begin(account.id, MODEL, NOW)
    return world


def limited_but_one(size: int) -> World:
    """All but one account rest after a 429."""
    world = world_of(size)
    for n in range(1, size):
        world.attempt(f"a{n}", answered(429, retry_after="600"))
    return world


def all_limited(size: int) -> World:
    """Every account rests after a 429."""
    world = limited_but_one(size)
    world.attempt("a0", answered(429, retry_after="600"))
    return world


def attempt(world: World) -> None:
    found = world.pick()
    assert isinstance(found, Picked)
    lease = world.pool.begin(found.account, MODEL, NOW)
    world.pool.observe(lease, DELIVER, HEADERS, NOW, world.rng)
    world.pool.end(lease, NOW)


DELIVER = Deliver()


def main() -> None:
    rows: list[tuple[str, Callable[[int], World], Callable[[World], object]]] = [
        ("pick: affinity", world_of, lambda world: world.pick(affinity="a0")),
        ("pick: balanced", world_of, World.pick),
        ("pick: balanced, limits and paces", bounded, World.pick),
        ("pick: balanced, one excluded", world_of, lambda world: world.pick(excluded={"a1"})),
        ("pick: priority", lambda size: world_of(size, "priority"), World.pick),
        ("pick: round-robin", lambda size: world_of(size, "round-robin"), World.pick),
        ("pick: all but one limited", limited_but_one, World.pick),
        ("pick: all limited, refused", all_limited, World.pick),
        ("pick, begin, observe, end", world_of, attempt),
        ("judge", lambda size: world_of(1), lambda world: world.judge(GOOD)),
    ]
    print(f"{'µs':34}" + "".join(f"{size:>9}" for size in SIZES) + "  accounts")
    for name, make, action in rows:
        print(f"{name:34}" + "".join(f"{cost(partial(action, make(size))):9.1f}" for size in SIZES))


def bounded(size: int) -> World:
    return world_of(size, max_concurrency=50, pace=Pace(requests_per_minute=1000))


if __name__ == "__main__":
    main()
