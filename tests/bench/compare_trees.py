"""What a call costs the daemons of two checkouts: the same load by turns, so that the machine's moods hit both.

    python tests/bench/compare_trees.py --other ../main [--rounds 12] [--seconds 0.5] [--connections 32]

Prints the CPU of the daemon per request and event, minimum and median of the rounds, and the ratio of the medians. The
parts are those of relay_cost.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import relay_cost as cost


def start(tree: Path, place: Path, upstream_port: int) -> tuple[int, int, Callable[[], None]]:
    """A daemon of a checkout: its process number, its port, and how to stop it."""
    place.mkdir()
    process, port, _ = cost.start_daemon(place, upstream_port, tree=tree)

    def stop() -> None:
        process.terminate()
        process.wait(20)

    return process.pid, port, stop


def rows(connections: int, seconds: float, streams: int) -> dict[str, Callable[[int, int], int]]:
    """Name of a load: what it does to a port and a process, and how many requests or events that were."""
    plain, streamed = cost.asking(cost.body(False)), cost.asking(cost.body(True))
    large, paced = cost.asking(cost.body(False, 200_000)), cost.asking(cost.body(True), "x-paced: 1")
    end = cost.ANSWER[-20:]
    return {
        "JSON": lambda port, pid: cost.load(port, plain, end, connections, seconds),
        "one at a time": lambda port, pid: cost.single_load(port, plain, end, seconds),
        "SSE, 20 events": lambda port, pid: cost.load(port, streamed, b"0\r\n\r\n", connections, seconds),
        "JSON, 200 KB body": lambda port, pid: cost.load(port, large, end, connections, seconds),
        "paced event": lambda port, pid: cost.paced_load(port, paced, streams, pid)[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of the daemons of two checkouts per request and event")
    parser.add_argument("--other", type=Path, required=True, help="the checkout to compare with")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each load in each round")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--streams", type=int, default=60, help="paced streams at once")
    parser.add_argument("--only", default="", help="the row to run, by its beginning")
    args = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    answering = multiprocessing.Process(target=cost.upstream, args=(listener, 0.02), daemon=True)
    answering.start()
    with tempfile.TemporaryDirectory() as folder:
        port = listener.getsockname()[1]
        daemons = [
            start(args.other.resolve(), Path(folder, "other"), port),
            start(cost.HERE, Path(folder, "here"), port),
        ]
        try:
            for name, run in rows(args.connections, args.seconds, args.streams).items():
                if name.startswith(args.only):
                    print_row(name, [measure(run, daemons) for _ in range(args.rounds)])
        finally:
            for _, _, stop in daemons:
                stop()
            answering.terminate()


def measure(run: Callable[[int, int], int], daemons: list[tuple[int, int, Callable[[], None]]]) -> list[float]:
    """Microseconds each, by daemon."""
    found = []
    for pid, port, _ in daemons:
        before = cost.cpu(pid)
        done = run(port, pid)
        found.append((cost.cpu(pid) - before) / max(1, done) * 1e6)
    return found


def print_row(name: str, rounds: list[list[float]]) -> None:
    other, here = ([pair[at] for pair in rounds] for at in (0, 1))
    medians = statistics.median(other), statistics.median(here)
    print(
        f"{name:20} other {min(other):6.0f} {medians[0]:6.0f}   here {min(here):6.0f} {medians[1]:6.0f} us"
        f"   ratio {medians[1] / medians[0]:.2f}, of the minima {min(here) / min(other):.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
