"""Rounds of `kill -9` under load, and whether the books are whole afterwards.

    python tests/bench/kill_rounds.py [--rounds 200] [--state redis|sqlite] [--nodes 2] [--workers 1] [--rate 30]
                                      [--victims node|worker|supervisor ...] [--lease 4]

Starts an upstream that keeps a ledger, so many `relayd run` on one store, and a load of plain calls and streams. Each
round, some 2 s, kills one of the victims by turns: a whole node, which is started again; with --workers a worker, which
its supervisor replaces, or a supervisor, whose workers finish their calls while it is started again. Waits until the
last leases have run out; prints what it found, and exits 1 if a call is missing from the books, stands there twice or
with wrong figures, or a slot leaked.
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
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--state", choices=["redis", "sqlite"], default="redis")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="of each node")
    parser.add_argument("--victims", nargs="+", choices=("node", "worker", "supervisor"), help="by turns")
    parser.add_argument("--rate", type=float, default=30.0, help="calls a second")
    parser.add_argument("--lease", type=float, default=4.0, help="[state].lease, s")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        state = f"sqlite:{place}/state/relayd.db"
        if args.state == "redis":
            state = stack.enter_context(redis_server.running()).url

        async def run() -> bool:
            victims = args.victims or (["node"] if args.workers == 1 else ["worker"])
            shape = {"nodes": args.nodes, "workers": args.workers, "rate": args.rate, "lease": args.lease}
            tally = await kill_rounds(place, state, rounds=args.rounds, victims=victims, **shape)
            print(f"{args.state}, {args.nodes} x {args.workers}, {', '.join(victims)}: {tally.text()}")
            return not tally.faults and not tally.leaked

        return 0 if trio.run(run) else 1


if __name__ == "__main__":
    sys.exit(main())
