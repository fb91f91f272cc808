"""Reloads to and fro under load: does anybody notice, and does anything stay behind?

    python tests/bench/reload_soak.py [--reloads 1000] [--calls 200] [--streams 100] [--keys 100] [--accounts 10]
                                      [--still 0]

A `relayd run` of its own serves calls and streams of its simulator, while its tree goes to and fro between two states
(an account and a key come and go, weights and limits change) and `reload` is asked for through the control socket.
Printed: calls and streams that failed or were cut, time per reload, how long the event loop was held (by a probe that
asks /livez every 5 ms), and memory, descriptors, threads, tasks and live generations on the way. `--still S` is the
comparison: as long without a reload, under the same calls. Calls fill SQLite's page cache, 8 MiB a connection: over the
first 150,000 memory grows by about 60 bytes a call, with reloads or without (--calls 0 --streams 0 shows them alone).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import trio
from ports import free_port

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from fakes import Client, Cut, wire
from reload_world import RELAYD, Tree, key_of, make_tree

PLAIN = b'{"model":"claude-plain","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"model":"claude-slow","max_tokens":10,"stream":true,"messages":[{"role":"user","content":"hi"}]}'


@attrs.define
class Tally:
    """What happened."""

    calls: Counter[str] = attrs.field(factory=Counter)
    latencies: list[float] = attrs.field(factory=list)
    probes: list[float] = attrs.field(factory=list)
    reloads: list[float] = attrs.field(factory=list)
    results: Counter[str] = attrs.field(factory=Counter)


def lay_out(root: Path, port: int, keys: int, accounts: int) -> Tree:
    tree = make_tree(root, keys=keys)
    tree.relay(listen=f'"127.0.0.1:{port}"')
    tree.remove("accounts.d/a.toml")
    for number in range(accounts):
        tree.account(f"p{number}", f'models = ["claude-plain"]\nweight = {1 + number % 5}')
    slow = 'kind = "simulator"\nmodels = ["claude-slow"]\n[simulator]\nwords = 30\nbetween = "100ms"\n'
    tree.write("accounts.d/slow.toml", slow)
    return tree


def change(tree: Tree, number: int) -> None:
    """The one state or the other."""
    if number % 2:
        tree.account("extra", 'models = ["claude-plain"]\npriority = 3')
        tree.key(99_999)
        tree.key(0, f"[limits]\nconcurrency = {1000 + number % 7}\n")
    else:
        tree.remove("accounts.d/extra.toml")
        tree.remove("keys.d/k99999.toml")
        tree.account("p0", f'models = ["claude-plain"]\nweight = {1 + number % 7}')


async def connect(port: int) -> Client:
    return Client(await trio.open_tcp_stream("127.0.0.1", port), 30.0)


async def call_for_ever(port: int, interval: float, tally: Tally, key: str) -> None:
    client = await connect(port)
    due = trio.current_time()
    while True:
        due = max(due + interval, trio.current_time() - 1.0)
        await trio.sleep_until(due)
        began = trio.current_time()
        try:
            told = await client.ask(PLAIN, key=key)
            tally.calls[f"call {told.status}"] += 1
            tally.latencies.append(trio.current_time() - began)
        except (Cut, OSError) as error:
            tally.calls[f"call failed: {type(error).__name__}"] += 1
            client = await connect(port)


async def stream_for_ever(port: int, tally: Tally, key: str) -> None:
    client = await connect(port)
    while True:
        try:
            told = await client.ask(STREAM, key=key)
            whole = told.status == 200 and b"message_stop" in told.body and b"event: error" not in told.body
            tally.calls["stream whole" if whole else f"stream {told.status} broken"] += 1
        except (Cut, OSError) as error:
            tally.calls[f"stream failed: {type(error).__name__}"] += 1
            client = await connect(port)


async def probe_for_ever(port: int, tally: Tally) -> None:
    client = await connect(port)
    ask = wire("GET", "/livez", None)
    while True:
        began = trio.current_time()
        await client.send(ask)
        await client.answer()
        tally.probes.append(trio.current_time() - began)
        await trio.sleep(0.005)


class ControlClient:
    """One connection to the control socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def ask(self, **request: Any) -> dict[str, Any]:
        await self.stream.send_all(json.dumps(request).encode() + b"\n")
        while b"\n" not in self.buffer:
            data = await self.stream.receive_some(1 << 20)
            if not data:
                raise SystemExit("the daemon broke off")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def process_status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def control_of(path: Path) -> ControlClient:
    """A connection to a daemon that is about to start."""
    for _ in range(400):
        try:
            return ControlClient(await trio.open_unix_socket(str(path)))
        except OSError:
            await trio.sleep(0.05)
    raise SystemExit("the daemon did not start")


async def standing(pid: int, control: ControlClient) -> dict[str, int]:
    """What the daemon holds."""
    status = (await control.ask(verb="status"))["status"]
    about = process_status(pid)
    return {
        "rss_kib": int(about["VmRSS"].split()[0]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(about["Threads"]),
        "tasks": status["tasks"],
        "generations": status["generations_live"],
    }


async def drive(args: argparse.Namespace, tree: Tree, port: int, path: Path, pid: int) -> None:
    control = await control_of(path)
    tally = Tally()
    marks: list[tuple[str, dict[str, int]]] = []
    async with trio.open_nursery() as nursery:
        for number in range(args.streams):
            nursery.start_soon(stream_for_ever, port, tally, key_of(number % args.keys))
        callers = 10
        for number in range(callers if args.calls else 0):
            nursery.start_soon(call_for_ever, port, callers / args.calls, tally, key_of(number % args.keys))
        nursery.start_soon(probe_for_ever, port, tally)
        await trio.sleep(2)
        if args.still:
            marks += await still(args.still, pid, path)
            control = await control_of(path)
        tally.probes.clear()
        for number in range(1, args.reloads + 1):
            change(tree, number)
            began = trio.current_time()
            answer = await control.ask(verb="reload")
            tally.reloads.append(trio.current_time() - began)
            tally.results[answer["result"]["result"]] += 1
            if number % max(1, args.reloads // 10) == 0:
                marks.append((f"{number} reloads", await standing(pid, control)))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    report(tally, marks)


async def still(seconds: float, pid: int, path: Path) -> list[tuple[str, dict[str, int]]]:
    """What the daemon holds as time passes without a reload."""
    marks = []
    for part in range(5):
        mark = await standing(pid, await control_of(path))  # a connection that is silent for long is closed
        marks.append((f"{part * seconds / 4:.0f} s without a reload", mark))
        await trio.sleep(seconds / 4 if part < 4 else 0)
    return marks


async def drive_at_most(args: argparse.Namespace, tree: Tree, port: int, path: Path, pid: int) -> None:
    with trio.fail_after(args.most):
        await drive(args, tree, port, path, pid)


def report(tally: Tally, marks: list[tuple[str, dict[str, int]]]) -> None:
    print("reloads", dict(tally.results), spread(tally.reloads))
    print("calls", dict(tally.calls))
    print("call latency", spread(tally.latencies))
    print("event loop, by a probe", spread(tally.probes))
    for when, mark in marks:
        print(f"after {when}:", mark)


def spread(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)

    def at(share: float) -> str:
        return f"{ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000:.1f}"

    return f"ms: median {at(0.5)}, p99 {at(0.99)}, p99.9 {at(0.999)}, max {at(1.0)} (n {len(ordered)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("reloads", 1000), ("calls", 200), ("streams", 100), ("keys", 100), ("accounts", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--still", type=float, default=0.0, help="seconds without a reload, before them")
    parser.add_argument("--most", type=float, default=900.0, help="seconds, at most")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        tree = lay_out(Path(folder) / "tree", port, args.keys, args.accounts)
        time.sleep(0.3)
        path = Path(folder) / "node" / "c.sock"
        command = [*RELAYD, "run", "--no-watch", "--config", str(tree.root), "--control", str(path)]
        command += ["--state", f"sqlite:{folder}/node/relayd.db"]
        with open(Path(folder) / "log", "wb") as log:
            daemon = subprocess.Popen(command, stderr=log)
        try:
            trio.run(drive_at_most, args, tree, port, path, daemon.pid)
        finally:
            daemon.kill()
            daemon.wait()


if __name__ == "__main__":
    main()
