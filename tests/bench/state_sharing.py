"""How several processes best count in one SQLite file: all of them in it, or one that writes for the others.

    python tests/bench/state_sharing.py [--processes 2] [--seconds 4] [--rate 800]

Each process admits and settles RATE calls a second with six limits each, as a worker does, in one of these ways:

    alone    one process, for comparison
    shared   every process has the file open; whoever finds it locked tries again
    writer   one further process has it open, and the others send it their batches over a socket

Told are the CPU of all processes together per call, and how long an admission takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import pickle
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import import_paths

import_paths.add()

from state_cost import cpu, cpu_of, key, one_call

from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Answer, Op, Ping
from relayd.state.sqlite import SqliteStore

TASKS = 32


def clock() -> int:
    return time.time_ns() // 10**6


class ThroughWriter:
    """A store that is another process's."""

    name, life, deadline, damaged = "writer", "", 1.0, ()

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(path)

    def check(self) -> list[str]:
        return []

    def apply(self, batch: Sequence[Op]) -> list[Answer]:
        self.sock.send(pickle.dumps(list(batch), 5))
        answers: list[Answer] = pickle.loads(self.sock.recv(1 << 18))
        return answers

    def close(self) -> None:
        self.sock.close()


def write_for_all(listener: socket.socket, file: str) -> None:
    store, one = SqliteStore(file, clock=clock), threading.Lock()

    def serve(sock: socket.socket) -> None:
        while data := sock.recv(1 << 18):
            with one:
                answers = store.apply(pickle.loads(data))
            sock.send(pickle.dumps(answers, 5))

    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


async def count(way: str, place: str, seconds: float, rate: float) -> dict[str, float]:
    if way == "writer":
        pump = Batcher(StoreSession(ThroughWriter(f"{place}/writer")))
    else:
        file = f"{place}/relayd.db"
        pump = Batcher(StoreSession(SqliteStore(file, clock=clock)), quick=SqliteStore(file, clock=clock, busy=0))
    times: list[float] = []
    numbers = itertools.count(time.time_ns() + os.getpid())
    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        end, began = time.perf_counter() + seconds, cpu()

        async def client(number: int) -> None:
            while time.perf_counter() < end:
                await one_call(pump, next(numbers), key(number % 8), times)
                await trio.sleep(TASKS / rate)

        async with trio.open_nursery() as clients:
            for number in range(TASKS):
                clients.start_soon(client, number)
        await pump.ask(Ping())
        used = cpu() - began
        nursery.cancel_scope.cancel()
    times.sort()
    at = {f"p{part}": times[int(len(times) * part / 100)] * 1e3 for part in (50, 99)}
    return {"calls": len(times), "cpu": used, "most": times[-1] * 1e3, "batches": pump.session.stats.batches, **at}


def run(way: str, processes: int, seconds: float, rate: float) -> str:
    with tempfile.TemporaryDirectory() as place:
        writer = None
        if way == "writer":
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(f"{place}/writer")
            listener.listen()
            writer = multiprocessing.Process(target=write_for_all, args=(listener, f"{place}/relayd.db"), daemon=True)
            writer.start()
        command = [sys.executable, __file__, "--as", way, place, str(seconds), str(rate)]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
        found = [json.loads(child.communicate()[0]) for child in children]
        calls, used = sum(one["calls"] for one in found), sum(one["cpu"] for one in found)
        if writer is not None and writer.pid is not None:
            used += cpu_of(writer.pid)
            writer.terminate()
        p50, p99 = (statistics.mean(one[name] for one in found) for name in ("p50", "p99"))
        most = max(one["most"] for one in found)
        return (
            f"{way:7} {processes} processes: {calls / seconds:6.0f} calls/s, {used / calls * 1e6:6.0f} us CPU a call,"
            f" admission p50 {p50:.2f} p99 {p99:.2f} most {most:.1f} ms; load {os.getloadavg()[0]:.1f}"
        )


def main() -> None:
    if sys.argv[1:2] == ["--as"]:
        way, place, seconds, rate = sys.argv[2:6]
        print(json.dumps(trio.run(count, way, place, float(seconds), float(rate))))
        return
    parser = argparse.ArgumentParser(description="several processes, one SQLite file")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=800.0)
    args = parser.parse_args()
    for _ in range(2):
        print(run("alone", 1, args.seconds, args.rate), flush=True)
        for way in ("shared", "writer"):
            print(run(way, args.processes, args.seconds, args.rate), flush=True)


if __name__ == "__main__":
    main()
