"""Does a process that is killed while it stores generations leave a store that a node can start from?

    python tests/bench/kill_store.py [KILLS] [SEED]     (200 kills, about a minute)

A child stores one tree after the other as fast as it can and is killed (SIGKILL) at a random moment; then the newest
generation must be whole, one of those that were stored, and no older than the last one that the child had reported.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from relayd.config.source.history import Generation, Meta, newest, save

WORK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from kill_store import store
store(Path(sys.argv[2]), int(sys.argv[3]))
"""
SIZE = 200_000  # bytes of a tree: writing it takes as long as syncing it


def tree_of(number: int) -> dict[str, bytes]:
    """A tree that tells its number in every byte."""
    return {"relay.toml": b"# %d\n" % number, "keys.d/k.toml": b"%08d\n" % number * (SIZE // 9)}


def store(directory: Path, number: int) -> None:
    """Store trees with rising numbers for ever; each is reported once it is stored."""
    while True:
        save(directory, tree_of(number), Meta(digest=f"{number:064x}", realm="test", saved=float(number)))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


def kill_once(directory: Path, number: int, delay: float) -> tuple[int, Generation | None]:
    """Store from `number` on, kill after `delay` seconds of it. Returns: the last number reported, what is found."""
    words = [sys.executable, "-c", WORK, str(Path(__file__).parent), str(directory), str(number)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split("\n")
    whole = [line for line in (first.strip(), *rest[:-1]) if line]
    return int(whole[-1]), newest(directory)[0]


def torture(directory: Path, kills: int, seed: int = 1) -> int:
    """Kill so often. Returns: how many trees were stored. Raises: AssertionError for a store that is no good."""
    rng, number = random.Random(seed), 1
    for _ in range(kills):
        reported, found = kill_once(directory, number, rng.uniform(0.0, 0.05))
        assert found is not None, "nothing is left"
        stored = int(found.meta.saved)
        assert found.files == tree_of(stored), "a mixture"
        assert reported <= stored <= reported + 1, f"{stored} is found, {reported} was reported"
        number = stored + 1
    return number - 1


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        stored = torture(Path(folder) / "store", *(numbers or [200]))
    print(f"{numbers[0] if numbers else 200} kills, {stored} trees stored, the newest one always whole")
