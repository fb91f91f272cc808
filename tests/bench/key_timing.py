"""Whether the time in which a wrong key is refused tells anything of the right one: Welch's t over interleaved samples.

    python tests/bench/key_timing.py [--samples 100000] [--seed 1]

Wrong keys of two kinds are refused in random order: some differ from a good key in their last random letter only, and
some have nothing of one. All have the form of a key and a right checksum, for those that have not are told apart on
purpose, and each is near another good key, so that both kinds have the same letters on average. They are compared over
all samples, and with the slowest 1, 5, 10, 25 and 50 % left out, for what else the machine does lies there. A |t| of
4.5 and more says that they can be told apart (as dudect and TVLA take it): then it exits with 1. A machine that is busy
makes the test blunter.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import sys
import time
from array import array
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from builders import api_key, headers, snapshot

from relayd.config.secrets.api_keys import mint
from relayd.core.access.auth import authenticate
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

BOUND = 4.5
KEYS = 1000  # of the tree
KINDS = ("the last letter", "every letter")
KEPT = (1.0, 0.99, 0.95, 0.9, 0.75, 0.5)  # of the samples, the fastest first
NOW = 1_790_000_000.0


def near(good: bytes) -> Headers:
    """Headers with a key that differs from the one of these random bytes in its last letter, and in its checksum."""
    number = int.from_bytes(good, "big")
    other = number - 1 if number % 62 else number + 1
    return headers(x_api_key=mint(lambda size: other.to_bytes(size, "big")))


def samples(count: int, seed: int) -> list[array[int]]:
    """ns of each refusal, by kind."""
    rng = random.Random(seed)
    goods = [rng.randbytes(32) for _ in range(KEYS)]
    tree = snapshot(keys=tuple(api_key(mint(lambda _, g=good: g), id=f"k{at}") for at, good in enumerate(goods)))
    found = [array("q") for _ in KINDS]
    gc.disable()
    for start in range(0, count, 1000):
        kinds = [rng.randrange(len(KINDS)) for _ in range(min(1000, count - start))]
        asked = [headers(x_api_key=mint(rng.randbytes)) if kind else near(rng.choice(goods)) for kind in kinds]
        for kind, presented in zip(kinds, asked, strict=True):
            began = time.perf_counter_ns()
            try:
                authenticate(presented, tree, "192.0.2.1", NOW)
            except Refusal:
                found[kind].append(time.perf_counter_ns() - began)
    return found


def welch(one: Sequence[int], other: Sequence[int]) -> float:
    """Welch's t."""
    spread = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return (statistics.fmean(one) - statistics.fmean(other)) / sqrt(spread) if spread else 0.0


def compare(found: list[array[int]]) -> float:
    """Print the comparisons; the largest |t|."""
    worst = 0.0
    every = sorted(itertools.chain(*found))
    for kept in KEPT:
        bound = every[int(kept * (len(every) - 1))]
        one, other = ([ns for ns in kind if ns <= bound] for kind in found)
        t = welch(one, other)
        worst = max(worst, abs(t))
        print(f"wrong in {KINDS[0]} or in {KINDS[1]}, {kept:4.0%} kept, up to {bound:9} ns: t = {t:6.2f}")
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description="whether refusing a key takes a time that tells of it")
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    found = samples(args.samples, args.seed)
    print(f"{args.samples} refusals, {statistics.median([*itertools.chain(*found)]):.0f} ns at the median")
    worst = compare(found)
    print(f"largest |t| {worst:.2f}, bound {BOUND}")
    return 0 if worst < BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
