"""Scenes of strain with a great many peers, or with too little of something, against whole processes.

    python tests/bench/strain_rounds.py [SCENE ...] [--scale 1.0]       # about half an hour for all of them

Without a scene all of them are played that this user may (root may all), each with a node, an upstream that keeps a
ledger and clients of its own on this machine. The figures are printed; what must hold and did not is told, and then
this exits with 1. `--scale 0.1` plays them with a tenth of the peers. What each scene does stands in
tests/live/crowds.py, scarcity.py and bad_disks.py; tests/live/test_crowds.py and test_scarcity.py play them small.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

import bad_disks
import crowds
import fleet
import scarcity
import strain
from strain import Figures

Play = Callable[[Path, Callable[[int], int]], Awaitable[Figures]]

SCENES: Mapping[str, Play] = MappingProxyType(
    {
        "drained": lambda place, n: crowds.drained(place, streams=n(500), rounds=n(50)),
        "blasted": lambda place, n: crowds.blasted(place, streams=n(100)),
        "stalled": lambda place, n: crowds.stalled(place, clients=n(1000), patience=3.0),
        "trickled": lambda place, n: crowds.trickled(place, clients=n(4000), head=10.0, body=12.0),
        "slow_readers": lambda place, n: crowds.slow_readers(place, slow=n(200), fast=n(200)),
        "many_open": lambda place, n: crowds.many_open(place, streams=n(9000)),
        "deaf_clients": lambda place, n: crowds.deaf_clients(place, clients=n(400), patience=30.0),
        "deaf_upstreams": lambda place, n: crowds.deaf_upstreams(place),
        "without_descriptors": lambda place, n: scarcity.without_descriptors(place, clients=n(1000)),
        "without_memory": lambda place, n: scarcity.without_memory(
            place, bytes_at_most=256 << 20, streams=n(3000), bodies=n(200), body=8_000_000
        ),
        "two_without_memory": lambda place, n: scarcity.without_memory(
            place, bytes_at_most=256 << 20, streams=n(700), bodies=n(200), body=8_000_000, workers=2
        ),
        "four_without_memory": lambda place, n: scarcity.without_memory(
            place, bytes_at_most=400 << 20, streams=n(3000), bodies=n(200), body=8_000_000, workers=4
        ),
        "without_fsync": lambda place, n: bad_disks.without_fsync(place, calls=n(500)),
        "without_room": lambda place, n: bad_disks.without_room(place, calls=n(500)),
        "failed_disk": lambda place, n: bad_disks.failed_disk(place, calls=n(500)),
        "turned_read_only": lambda place, n: bad_disks.turned_read_only(place, calls=n(500)),
    }
)
IN_A_GROUP = {"without_memory", "two_without_memory", "four_without_memory"}
OF_ROOT = {"failed_disk"}  # it mounts a disk of its own


@attrs.frozen
class Scaled:
    """A share of a number, and at least 2."""

    scale: float

    def __call__(self, number: int) -> int:
        return max(2, round(number * self.scale))


def played(name: str, scale: float) -> bool:
    """Play one scene and print what came of it; whether all held that must."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="relayd-strain-") as place:
        try:
            figures = trio.run(SCENES[name], Path(place), Scaled(scale))
        except ExceptionGroup as error:
            traceback.print_exception(error)
            print(f"{name}: FAILED", flush=True)
            return False
    told = ", ".join(f"{what} {figure:.4g}" for what, figure in figures.items())
    print(f"{name} ({time.monotonic() - began:.0f} s): {told}", flush=True)
    return True


def hindered() -> dict[str, str]:
    """The scenes that this user cannot play in earnest, and why."""
    found = {}
    if not scarcity.may_bound():
        why = "no control group may be made here, so nothing would hold it to the bound; be root"
        found |= dict.fromkeys(IN_A_GROUP, why)
    if os.geteuid():
        found |= dict.fromkeys(OF_ROOT, "it mounts a disk of its own; be root")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="whole processes under strain")
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of peers")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fleet.PATIENCE = strain.PATIENCE = 600.0
    if unknown := set(args.scenes) - SCENES.keys():
        parser.error(f"no such scene: {sorted(unknown)}")
    barred = hindered()
    if refused := [f"{name}: {barred[name]}" for name in args.scenes if name in barred]:
        parser.error("; ".join(refused))
    for name in () if args.scenes else sorted(barred):
        print(f"{name} is left out: {barred[name]}", flush=True)
    names = args.scenes or [name for name in SCENES if name not in barred]
    held = [played(name, args.scale) for name in names]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
