"""A cluster on one machine, in network namespaces: three nodes, Redis with replica and sentinels, cut and healed.

    python tests/bench/cluster.py [SCENE ...] [--server valkey-server]

Plays each scene against an upstream that keeps a ledger, prints what came of it, and exits 1 when something that must
hold did not. Needs Linux with `unshare` and `ip` (util-linux, iproute2), and either root or the right to make user
namespaces, which it says when it is missing; nothing of the machine's own network is touched. The scenes `upgrade` need
HAProxy and the repository's history.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

import netspaces
from clock_scenes import clocks
from cluster_world import MACHINES, Outcome
from lease_scenes import leases
from limit_scenes import master_cut_off, node_cut_off
from netspaces import Network
from token_scenes import one_refresh
from upgrade_scenes import drift, rolling_redis, rolling_sqlite

Scene = Callable[[Network, Path], Awaitable[Outcome]]
SCENES: dict[str, Scene] = {
    "limits-deny": partial(node_cut_off, policy="deny"),
    "limits-allow": partial(node_cut_off, policy="allow"),
    "leases": leases,
    "master": partial(master_cut_off, bounded=False),
    "master-bounded": partial(master_cut_off, bounded=True),
    "oauth": one_refresh,
    "clocks": clocks,
    "drift": drift,
    "upgrade-redis": rolling_redis,
    "upgrade-sqlite": rolling_sqlite,
}


def played(name: str, network: Network, place: Path) -> Outcome:
    """What came of a scene; one that breaks is a fault of its own."""
    print(f"{name}", flush=True)
    began = time.monotonic()
    place.mkdir()
    try:
        out = trio.run(SCENES[name], network, place)
    except Exception as error:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        traceback.print_exception(error)
        out = Outcome(name)
        out.must(False, f"the scene broke: {error!r}")
    out.note("took", f"{time.monotonic() - began:.0f} s")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description="a cluster in network namespaces, cut and healed")
    parser.add_argument("scenes", nargs="*", choices=[*SCENES, []], help=f"{', '.join(SCENES)}; default: all")
    parser.add_argument("--server", help="a redis-server or valkey-server, by name or path")
    args = parser.parse_args()
    if args.server:
        os.environ["RELAYD_TEST_REDIS"] = args.server
    netspaces.enter()
    network = Network.of(MACHINES)
    with tempfile.TemporaryDirectory() as place:
        outcomes = [played(name, network, Path(place) / name) for name in args.scenes or SCENES]
    print()
    for out in outcomes:
        print(f"{'FAILED' if out.faults else 'holds '}  {out.scene}")
        for fault in out.faults:
            print(f"        {fault}")
    return 1 if any(out.faults for out in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
