"""Rounds of `kill -9` under load, and whether the books are whole afterwards.

    python tests/bench/kill_rounds.py [--rounds 100] [--state redis|sqlite] [--nodes 2] [--rate 50] [--lease 4]

Starts an upstream that keeps a ledger, so many `relayd run` on one store, and a load of plain calls and streams; kills
and restarts one node a round, some 2 s each; waits until the last leases have run out; prints what it found, and exits
1 if a call is missing from the books, stands there twice or with wrong figures, or a slot leaked.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

import redis_server
from kills import kill_rounds


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 under load, and what the books say afterwards")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--state", choices=["redis", "sqlite"], default="redis")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rate", type=float, default=50.0, help="calls a second")
    parser.add_argument("--lease", type=float, default=4.0, help="[state].lease, s")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        state = f"sqlite:{place}/state/relayd.db"
        if args.state == "redis":
            state = stack.enter_context(redis_server.running()).url

        async def run() -> bool:
            tally = await kill_rounds(
                place, state, rounds=args.rounds, nodes=args.nodes, rate=args.rate, lease=args.lease
            )
            print(f"{args.state}: {tally.text()}")
            return not tally.faults and not tally.leaked

        return 0 if trio.run(run) else 1


if __name__ == "__main__":
    sys.exit(main())
