"""What a call costs relayd: CPU of the daemon per request, per event and per open stream.

    python tests/bench/relay_cost.py [--seconds 5] [--connections 32] [--streams 300]

Starts an upstream, `relayd run` with an account on it (file credential, authentication, limits, log and SQLite on), and
a load generator, all on loopback, and bounded in time. CPU is measured, because wall time says little on a
machine that others use too. The last column is the ratio to the first row of the same run; the calibration line is a
fixed amount of pure Python, to compare runs on machines of different speed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from relayd.config.secrets.api_keys import key_hash, mint

HERE = Path(__file__).parents[2]
KEY = mint(os.urandom)
MODEL = "claude-sonnet-4-5"
EVENTS = 20
ANSWER = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "word " * 20}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 20},
    }
).encode()


def event(name: str, **fields: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


START = event("message_start", message={"id": "msg_1", "role": "assistant", "usage": {"input_tokens": 10}})
DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "some words "})
END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 20}) + event("message_stop")


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_1\r\ncontent-length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
NO_MODELS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 28\r\n\r\n" + (
    b'{"data":[],"has_more":false}'
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_1\r\ntransfer-encoding: chunked\r\n\r\n"
)
STREAM = STREAM_HEAD + framed(START) + framed(DELTA) * EVENTS + framed(END) + b"0\r\n\r\n"


@attrs.define(eq=False)
class Peer:
    """One connection of the upstream or of the load."""

    sock: socket.socket
    buffer: bytearray = attrs.field(factory=bytearray)
    left: int = 0  # events still to be sent


def upstream(listener: socket.socket, pause: float) -> None:
    """Answers for ever: whole answers, whole streams, or one event every `pause` seconds where the request asks."""
    chooser = selectors.DefaultSelector()
    chooser.register(listener, selectors.EVENT_READ)
    paced: list[Peer] = []
    due = time.monotonic() + pause
    while True:
        for found, _ in chooser.select(max(0.0, due - time.monotonic()) if paced else None):
            if found.fileobj is listener:
                sock, _ = listener.accept()
                chooser.register(sock, selectors.EVENT_READ, Peer(sock))
                continue
            peer: Peer = found.data
            try:
                data = peer.sock.recv(1 << 18)
            except ConnectionResetError:
                data = b""
            if not data:
                chooser.unregister(peer.sock)
                peer.sock.close()
                continue
            peer.buffer += data
            request = _request(peer.buffer)
            if request is None:
                continue
            if request.startswith(b"GET"):
                peer.sock.sendall(NO_MODELS)
            elif b"x-paced" in request:
                peer.sock.sendall(STREAM_HEAD + framed(START))
                peer.left = 100
                paced.append(peer)
            else:
                peer.sock.sendall(STREAM if b'"stream":true' in request else PLAIN)
        if paced and time.monotonic() >= due:
            due += pause
            for peer in paced:
                peer.left -= 1
                peer.sock.sendall(framed(DELTA) if peer.left > 0 else framed(END) + b"0\r\n\r\n")
            paced = [peer for peer in paced if peer.left > 0]


def _request(buffer: bytearray) -> bytes | None:
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    at = buffer.lower().find(b"content-length:")
    length = int(buffer[at + 15 : buffer.find(b"\r", at)]) if 0 <= at < head else 0
    if len(buffer) < head + 4 + length:
        return None
    request = bytes(buffer[: head + 4 + length])
    del buffer[: head + 4 + length]
    return request


def load(port: int, request: bytes, end: bytes, connections: int, seconds: float) -> int:
    """Closed loop: every connection asks again as soon as its answer has ended. The number of answers."""
    chooser = selectors.DefaultSelector()
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(request)
        chooser.register(sock, selectors.EVENT_READ, Peer(sock))
    done, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        for found, _ in chooser.select(0.2):
            peer: Peer = found.data
            peer.buffer += peer.sock.recv(1 << 18)
            if peer.buffer.endswith(end):
                assert b"HTTP/1.1 200" in peer.buffer[:20], bytes(peer.buffer[:200])
                peer.buffer.clear()
                done += 1
                peer.sock.sendall(request)
    for found in list(chooser.get_map().values()):
        peer = found.data
        peer.sock.close()
    return done


def single_load(port: int, request: bytes, end: bytes, seconds: float, every: float = 0.005) -> int:
    """Calls that are alone: one each `every` seconds, on connections by turns. The number of answers."""
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    due = began = time.monotonic()
    done = 0
    while due < began + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + every, time.monotonic())
        sock, answer = socks[done % len(socks)], b""
        sock.sendall(request)
        while not answer.endswith(end):
            answer += sock.recv(1 << 18)
        assert b"HTTP/1.1 200" in answer[:20], answer[:200]
        done += 1
    for sock in socks:
        sock.close()
    return done


def paced_load(port: int, request: bytes, streams: int, daemon: int) -> tuple[int, float]:
    """`streams` at once, each of 100 events. The number of events, and KB of memory an open stream takes."""
    before = memory(daemon)
    chooser = selectors.DefaultSelector()
    for _ in range(streams):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(request)
        chooser.register(sock, selectors.EVENT_READ, Peer(sock))
    events, after = 0, before
    while chooser.get_map():
        for found, _ in chooser.select(1.0):
            peer: Peer = found.data
            data = peer.sock.recv(1 << 18)
            events += data.count(b"event: ")
            if data.endswith(b"0\r\n\r\n"):
                chooser.unregister(peer.sock)
                peer.sock.close()
        after = max(after, memory(daemon))
    return events, (after - before) / streams


def cpu(pid: int) -> float:
    """CPU seconds of a process up to now, to the nanosecond: its own clock (clock_getcpuclockid(3)), as Linux numbers
    them. /proc counts in steps of 10 ms, which is twenty calls."""
    return time.clock_gettime(~pid << 3 | 2)


def memory(pid: int) -> float:
    """Resident KB of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def asking(body: bytes, *extra: str) -> bytes:
    lines = [
        "POST /api/v1/messages HTTP/1.1",
        "host: 127.0.0.1",
        f"x-api-key: {KEY}",
        "anthropic-version: 2023-06-01",
        "content-type: application/json",
        "user-agent: Anthropic/Python 2.12.0",
        "accept: application/json",
        *extra,
        f"content-length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def body(stream: bool, size: int = 2) -> bytes:
    fields = {"model": MODEL, "max_tokens": 100, "stream": stream}
    messages = [{"role": "user", "content": "x" * size}]
    return json.dumps({**fields, "messages": messages}, separators=(",", ":")).encode()


def start_daemon(
    directory: Path,
    upstream_port: int,
    *,
    tree: Path = HERE,
    command: tuple[str, ...] = (sys.executable,),
    patience: float = 30,
    more: str = "",
) -> tuple[subprocess.Popen[str], int, float]:
    """`relayd run` of the checkout `tree` on a config of its own. Process, port, and seconds until it listened.

    Args:
        command: the Python that runs it, and what that runs in.
        patience: s until it has to listen.
        more: keys of [server].
    """
    # relayd watches the tree and the directory that it is in: a log there would wake the watcher with each line.
    config = directory / "etc" / "relayd"
    for name in ("accounts.d", "keys.d"):
        (config / name).mkdir(parents=True)
    (config / "secret").write_text("sk-ant-bench")
    (config / "relay.toml").write_text(
        'schema = 1\nrealm = "bench"\n[server]\nlisten = ["127.0.0.1:0"]\n' + more + '[admin]\nlisten = ""\n'
        '[upstream]\nmodels_every = "0s"\n'
    )
    (config / "keys.d" / "bench.toml").write_text(f'hashes = [{{ sha256 = "{key_hash(KEY)}" }}]\n')
    (config / "accounts.d" / "up.toml").write_text(
        f'kind = "api-key"\nbase_url = "http://127.0.0.1:{upstream_port}"\n[credential]\nfile = "{config / "secret"}"\n'
    )
    began = time.monotonic()
    log = (directory / "log").open("w")
    process = subprocess.Popen(
        [*command, "-m", "relayd", "run", "--config", str(config)],
        stderr=log,
        text=True,
        cwd=tree,  # the first place where Python looks for a module to run
        env={**os.environ, "PYTHONPATH": str(tree), "RELAYD_CREDENTIALS": str(config)},
    )
    while True:
        for line in (directory / "log").read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "daemon.listening":
                return process, int(entry["listen"][0].rpartition(":")[2]), time.monotonic() - began
        if process.poll() is not None or time.monotonic() > began + patience:
            raise SystemExit((directory / "log").read_text())
        time.sleep(0.01)


def calibration() -> float:
    began = time.process_time()
    sum(number * number for number in range(3_000_000))
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of the daemon per request, event and open stream")
    parser.add_argument("--seconds", type=float, default=5.0, help="per row (default 5)")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--streams", type=int, default=300, help="paced streams at once")
    args = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    answering = multiprocessing.Process(target=upstream, args=(listener, 0.05), daemon=True)
    answering.start()
    with tempfile.TemporaryDirectory() as place:
        process, port, started = start_daemon(Path(place), listener.getsockname()[1])
        try:
            idle = memory(process.pid) / 1024
            print(f"calibration {calibration():.3f} s; listening after {started:.2f} s; idle {idle:.0f} MB")
            measure(process.pid, port, args)
        finally:
            process.terminate()
            process.wait(20)
            answering.terminate()


def measure(pid: int, port: int, args: argparse.Namespace) -> None:
    first = 0.0
    rows: list[tuple[str, Callable[[], int]]] = [
        (name, lambda request=request, end=end: load(port, request, end, args.connections, args.seconds))
        for name, request, end in (
            ("JSON", asking(body(False)), ANSWER[-20:]),
            (f"SSE, {EVENTS} events", asking(body(True)), b"0\r\n\r\n"),
            ("JSON, 200 KB body", asking(body(False, 200_000)), ANSWER[-20:]),
        )
    ]
    for name, run in rows:
        load(port, asking(body(False)), ANSWER[-20:], args.connections, 0.5)
        before = cpu(pid)
        done = run()
        each = (cpu(pid) - before) / done * 1e6
        first = first or each
        print(f"{name:20} {each:7.0f} us a request  ({done} requests, ratio {each / first:.2f})")
    before = cpu(pid)
    events, kilobytes = paced_load(port, asking(body(True), "x-paced: 1"), args.streams, pid)
    each = (cpu(pid) - before) / events * 1e6
    print(f"{'paced, 50 ms apart':20} {each:7.0f} us an event    ({args.streams} streams, ratio {each / first:.2f})")
    print(f"{'an open stream':20} {kilobytes:7.1f} KB; {memory(pid) / 1024:.0f} MB after all")


if __name__ == "__main__":
    main()
