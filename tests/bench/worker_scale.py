"""What more workers bring: calls and CPU of one process and of several, by turns, on the same machine.

    python tests/bench/worker_scale.py [--workers 2] [--seconds 5] [--rounds 3] [--connections 64] [--state redis]

Each round starts a relayd with one process and one with WORKERS, and loads each in turn (closed loop, JSON answers,
limits and log on). CPU is that of all its processes together, from /proc, because others use the machine too; on a
machine with nothing else to do and a processor for each worker, `scale` is what they carry as a multiple of one:
WORKERS times the CPU that a call costs one process, by what it costs them together, the supervisor's share included.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "side_by_side")]
import import_paths

import_paths.add()

import redis_server
from machine import family
from relay_cost import ANSWER, asking, body, cpu, load, memory, start_daemon, upstream


@attrs.frozen(kw_only=True)
class Turn:
    """One daemon under load. `each`: us of CPU a call; `shares`: of each process, the supervisor's first."""

    done: int
    seconds: float
    each: float
    shares: tuple[float, ...]
    memory: float


@contextlib.contextmanager
def daemon(upstream_port: int, workers: int, state: str) -> Iterator[tuple[int, int]]:
    """pid and port."""
    with tempfile.TemporaryDirectory() as place:
        os.environ["RELAYD_STATE_URL"] = state or f"sqlite:{place}/state/relayd.db"
        process, port, _ = start_daemon(Path(place), upstream_port, more=f"workers = {workers}\n", patience=90)
        try:
            yield process.pid, port
        finally:
            process.terminate()
            process.wait(30)


def turn(pid: int, port: int, connections: int, seconds: float) -> Turn:
    request, end = asking(body(False)), ANSWER[-20:]
    load(port, request, end, connections, 0.5)
    all_of_them = family(pid)
    before, began = [cpu(one) for one in all_of_them], time.monotonic()
    done = load(port, request, end, connections, seconds)
    used = [cpu(one) - then for one, then in zip(all_of_them, before, strict=True)]
    took = time.monotonic() - began
    shares = tuple(part / done * 1e6 for part in used)
    resident = sum(memory(one) for one in all_of_them) / 1024
    return Turn(done=done, seconds=took, each=sum(shares), shares=shares, memory=resident)


def main() -> None:
    parser = argparse.ArgumentParser(description="one process and several, by turns")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--state", choices=("sqlite", "redis"), default="sqlite")
    args = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    answering = multiprocessing.Process(target=upstream, args=(listener, 0.05), daemon=True)
    answering.start()
    scales = []
    with contextlib.ExitStack() as stack:
        stack.callback(answering.terminate)
        state = stack.enter_context(redis_server.running()).url if args.state == "redis" else ""
        port = listener.getsockname()[1]
        one, one_port = stack.enter_context(daemon(port, 1, state))
        many, many_port = stack.enter_context(daemon(port, args.workers, state))
        for number in range(args.rounds):
            single = turn(one, one_port, args.connections, args.seconds)
            several = turn(many, many_port, args.connections, args.seconds)
            scale = args.workers * single.each / several.each
            scales.append(scale)
            parts = " ".join(f"{share:.0f}" for share in several.shares)
            line = (
                f"one {single.each:.0f} us a call, {single.done / single.seconds:.0f} calls/s; {args.workers} workers"
            )
            line += f" {several.each:.0f} us ({parts}), {several.done / several.seconds:.0f} calls/s; scale {scale:.2f}"
            line += f"; memory {single.memory:.0f} and {several.memory:.0f} MB; load {os.getloadavg()[0]:.1f}"
            print(f"round {number + 1}: {line}", flush=True)
    print(f"{args.state}: scale {statistics.median(scales):.2f} (median of {args.rounds})")


if __name__ == "__main__":
    main()
