"""How often a reading is a mixture while git goes to and fro between two commits: `coherence_flipflop.py [SECONDS]`.

Reads naively and coherently in turn, and counts mixtures, empty files and wrong commits.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import attrs

from relayd.config.source.tree import Tree, read_coherent, read_tree

FILES = 120


@attrs.define
class Count:
    naive: int = 0
    naive_mixed: int = 0
    good: int = 0
    unstable: int = 0
    mixed: int = 0
    wrong_commit: int = 0


def git(repo: Path, *words: str) -> str:
    command = ["git", "-C", str(repo), "-c", "user.name=a", "-c", "user.email=a@example.com", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def make_repository(repo: Path, files: int = FILES) -> dict[str, int]:
    """Two commits that differ in every file and in their set of files. Returns commit: generation."""
    (repo / "accounts.d").mkdir(parents=True)
    git(repo, "init", "-q")
    commits = {}
    for generation in (1, 2):
        content = f"# generation {generation}\n"
        for number in range(files):
            (repo / "accounts.d" / f"a{number}.toml").write_text(content)
        if generation == 2:
            (repo / "accounts.d" / "extra.toml").write_text(content)
        (repo / "relay.toml").write_text(content)
        git(repo, "add", "-A")
        git(repo, "commit", "-qm", f"generation {generation}")
        git(repo, "tag", f"g{generation}")
        commits[git(repo, "rev-parse", "HEAD")] = generation
    return commits


def generation_of(contents: dict[str, bytes], files: int = FILES) -> int:
    """Which commit a reading is of; 0 for a mixture."""
    kinds = set(contents.values())
    for generation in (1, 2):
        if kinds == {b"# generation %d\n" % generation} and len(contents) == files + generation:
            return generation
    return 0


def flip(repo: Path, stop: threading.Event, rng: random.Random) -> None:
    generation = 1
    while not stop.is_set():
        git(repo, "checkout", "-q", f"g{generation}")
        generation = 3 - generation
        stop.wait(rng.choice((0.0, 0.05, 0.3, 0.6)))


def torture(repo: Path, seconds: float, *, naive: bool = True, quiet: float = 0.25) -> Count:
    """Read for so long while git flips. Without `naive` only coherently."""
    commits = make_repository(repo)
    count, stop = Count(), threading.Event()
    flipper = threading.Thread(target=flip, args=(repo, stop, random.Random(1)))
    flipper.start()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            if naive:
                count.naive += 1
                count.naive_mixed += generation_of(read_tree(repo).files) == 0
            found = read_coherent(repo, wall=time.time, sleep=time.sleep, deadline=0, quiet=quiet)
            if not isinstance(found, Tree):
                count.unstable += 1
                continue
            count.good += 1
            generation = generation_of(found.files)
            count.mixed += generation == 0
            count.wrong_commit += commits[found.provenance.commit] != generation or found.provenance.dirty != ()
    finally:
        stop.set()
        flipper.join()
    return count


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(torture(Path(folder) / "repo", float(sys.argv[1] if len(sys.argv) > 1 else 60)))
