"""Compare our request framing with llhttp's on many damaged messages: `edge_differential.py N [SEED]`.

Exits with 1 at a disagreement and prints the first ones. About 20 µs an input.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from h1_corpus import disagreement, mutate, read_all


def main(count: int, seed: int) -> int:
    rng = random.Random(seed)
    begun = time.perf_counter()
    accepted = found = 0
    for _ in range(count):
        wire = mutate(rng)
        accepted += bool(read_all(wire)[0])
        difference = disagreement(wire)
        if difference:
            found += 1
            if found <= 8:
                print(f"{wire[:300]!r}\n    {difference}")
    seconds = time.perf_counter() - begun
    print(f"{count} inputs, seed {seed}, {seconds:.1f} s: {accepted} with a request we serve, {found} disagreements")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
