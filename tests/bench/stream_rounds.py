"""A great many events over streams, cut, paused and cancelled at random: no wake-up and no byte may be lost.

    python tests/bench/stream_rounds.py [--events 1000000] [--seed 1] [--waiting]

Both ways at once over TCP on loopback. `--waiting` tries the streams that wait as trio does. Exits with 1 when
something is missing, or when nothing moved for a minute.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from test_streams import over_tcp, pass_at_random

from relayd.daemon.net import poller
from relayd.daemon.net.polled_stream import open_stream
from relayd.daemon.net.stream import tune

ROUND = 10_000  # events each way, between two looks at the clock


async def run(events: int, seed: int, waiting: bool) -> None:
    if waiting:
        poller.current.set(None)
    rng = random.Random(seed)
    done = 0
    while done < events:
        one, other = over_tcp()
        tune(one)
        with trio.fail_after(60):
            await pass_at_random(open_stream(one), other, events=ROUND, rng=rng)
        one.close()
        other.close()
        done += 2 * ROUND


def main() -> None:
    parser = argparse.ArgumentParser(description="events over streams, cut and cancelled at random")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--waiting", action="store_true", help="streams that wait as trio does")
    args = parser.parse_args()
    began = time.monotonic()
    trio.run(run, args.events, args.seed, args.waiting)
    print(f"{args.events} events, none lost, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
