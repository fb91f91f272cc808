"""What a call costs relayd in machine instructions, which stay the same where CPU time swings with the load.

    python tests/bench/instruction_count.py [--calls 300] [--connections 8] [--tree ../other] [--where]

Runs the daemon of `relay_cost` under callgrind (valgrind), warms it up, and counts the instructions of a fixed number
of calls by dumping before and after. `--tree` counts another checkout with the same load, to compare two; `--where`
prints the C functions that take most. Timers tick by the clock and not by instructions: compare on a machine at rest.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import relay_cost as cost

VALGRIND = ("valgrind", "--tool=callgrind", "--instr-atstart=yes", "--trace-children=no")


def totals(place: Path) -> list[int]:
    """Instructions of each dump so far, in order."""
    dumps = sorted(place.glob("callgrind.out.*.*"), key=lambda path: int(path.suffix[1:]))
    return [
        int(found[1]) for path in dumps if (found := re.search(r"^(?:summary|totals): (\d+)", path.read_text(), re.M))
    ]


def dump(pid: int, place: Path) -> int:
    """The instructions since the last dump."""
    before = len(totals(place))
    subprocess.run(["callgrind_control", "--dump", str(pid)], check=True, stdout=subprocess.DEVNULL, cwd=place)
    while len(totals(place)) == before:
        pass
    return totals(place)[-1]


def fixed_load(port: int, request: bytes, end: bytes, connections: int, calls: int) -> int:
    """`calls` calls over `connections` connections, each asking again as soon as its answer has ended."""
    chooser = cost.selectors.DefaultSelector()
    asked = 0
    for _ in range(min(connections, calls)):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(request)
        asked += 1
        chooser.register(sock, cost.selectors.EVENT_READ, cost.Peer(sock))
    done = 0
    while done < calls:
        for found, _ in chooser.select(30):
            peer: cost.Peer = found.data
            peer.buffer += peer.sock.recv(1 << 18)
            if not peer.buffer.endswith(end):
                continue
            assert b"HTTP/1.1 200" in peer.buffer[:20], bytes(peer.buffer[:200])
            peer.buffer.clear()
            done += 1
            if asked < calls:
                asked += 1
                peer.sock.sendall(request)
    for found in list(chooser.get_map().values()):
        found.data.sock.close()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description="instructions of the daemon per request and event")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--tree", type=Path, default=cost.HERE, help="the checkout whose daemon is counted")
    parser.add_argument("--rows", default="JSON,SSE,200,paced")
    parser.add_argument("--where", action="store_true", help="also the C functions that take most")
    args = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    answering = multiprocessing.Process(target=cost.upstream, args=(listener, 0.4), daemon=True)
    answering.start()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        command = (*VALGRIND, f"--callgrind-out-file={place}/callgrind.out.{os.getpid()}", sys.executable)
        process, port, _ = cost.start_daemon(
            place, listener.getsockname()[1], tree=args.tree.resolve(), command=command, patience=900
        )
        try:
            count(process.pid, port, place, args)
        finally:
            process.terminate()
            process.wait(60)
            answering.terminate()


def count(pid: int, port: int, place: Path, args: argparse.Namespace) -> None:
    plain, streamed = cost.asking(cost.body(False)), cost.asking(cost.body(True))
    end = cost.ANSWER[-20:]
    rows: dict[str, Callable[[int], int]] = {
        "JSON": lambda calls: fixed_load(port, plain, end, args.connections, calls),
        "SSE": lambda calls: fixed_load(port, streamed, b"0\r\n\r\n", args.connections, calls),
        "200": lambda calls: fixed_load(port, cost.asking(cost.body(False, 200_000)), end, args.connections, calls),
        "paced": lambda calls: cost.paced_load(port, cost.asking(cost.body(True), "x-paced: 1"), calls // 20, pid)[0],
    }
    for name in args.rows.split(","):
        rows[name](40)
        dump(pid, place)
        done = rows[name](args.calls)
        print(f"{name:8} {dump(pid, place) / done / 1000:8.0f} thousand instructions each ({done})", flush=True)
        if args.where:
            latest = max(place.glob("callgrind.out.*.*"), key=lambda path: int(path.suffix[1:]))
            shown = subprocess.run(["callgrind_annotate", str(latest)], capture_output=True, text=True, check=True)
            print("\n".join(shown.stdout.splitlines()[:60]))


if __name__ == "__main__":
    main()
