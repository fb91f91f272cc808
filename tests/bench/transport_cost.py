"""What the way upstream costs: CPU of this process per call and per piece of a stream, in microseconds.

    python tests/bench/transport_cost.py [--url http://127.0.0.1:PORT/v1/messages] [--calls N]

Without `--url` a small scripted upstream is started as another process, so that its work is not in the figures.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import httpx2
import trio

from relayd.daemon.net.client import Transport
from relayd.daemon.net.connect import Origin
from relayd.daemon.net.connection_pool import UpstreamConnection
from relayd.daemon.net.request import PlainRequest, RequestTarget, encode, target_of
from relayd.daemon.net.response_stream import ResponseStream
from relayd.daemon.net.tls import shared_context

JSON_BODY = b'{"model":"claude-sonnet-4-5","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}'
STREAM_BODY = JSON_BODY[:-1] + b',"stream":true}'
HEADERS = [
    (b"host", b"127.0.0.1"),
    (b"content-type", b"application/json"),
    (b"x-api-key", b"sk-ant-" + b"x" * 90),
    (b"anthropic-version", b"2023-06-01"),
    (b"user-agent", b"bench/1"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),
]
EVENT = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"hello "}}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
TIMEOUT = {"connect": 10.0, "write": 60.0, "first_byte": 300.0}


def upstream(listener: socket.socket) -> None:
    """Answer each request of one connection after the other; `"stream":true` gets 20 chunks, 1 ms apart."""
    answer = b'{"type":"message","content":[{"type":"text","text":"' + b"x" * 400 + b'"}]}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_1\r\nserver: bench\r\n"
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(65536):
            if b'"stream":true' not in data:
                sock.sendall(head + b"content-length: %d\r\n\r\n" % len(answer) + answer)
                continue
            sock.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
            for _ in range(20):
                time.sleep(0.001)
                sock.sendall(CHUNK)
            sock.sendall(b"0\r\n\r\n")


class Endless:
    """A Stream that always has the same bytes to read, without a kernel behind it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self) -> bytes | None:
        return self.data

    def send(self, data: bytes | memoryview) -> int:
        return len(data)

    def send_two(self, head: bytes, body: bytes) -> int:
        return len(head) + len(body)

    async def readable(self) -> None: ...

    async def writable(self) -> None: ...

    def close(self) -> None: ...

    def fileno(self) -> int:
        return -1


def measure(name: str, count: int, run: Callable[[], object]) -> None:
    """Best of five, to leave out what else the machine does."""
    best = float("inf")
    for _ in range(5):
        begin = time.process_time()
        for _ in range(count):
            run()
        best = min(best, time.process_time() - begin)
    print(f"{name:44s} {best / count * 1e6:8.2f} us")


async def call(transport: Transport, target: RequestTarget, body: bytes, timeout: Mapping[str, float | None]) -> int:
    """One call, its body read to the end; how many pieces it came in."""
    stream = await transport.ask(PlainRequest("POST", target, HEADERS, body, timeout))
    pieces = 0
    while (piece := stream.take()) != b"":
        if piece is None:
            await stream.wait()
        else:
            pieces += 1
    stream.close()
    return pieces


async def measure_calls(
    name: str, target: RequestTarget, body: bytes, calls: int, timeout: Mapping[str, float | None]
) -> None:
    """CPU per call on a kept connection, best of five."""
    transport = Transport(tls=shared_context())
    await call(transport, target, body, timeout)
    best, pieces = float("inf"), 0
    for _ in range(5):
        begin, pieces = time.process_time(), 0
        for _ in range(calls):
            pieces += await call(transport, target, body, timeout)
        best = min(best, time.process_time() - begin)
    print(f"{name:44s} {best / calls * 1e6:8.2f} us, {best / pieces * 1e6:.2f} a piece ({pieces / calls:g} pieces)")
    transport.close()


def measure_parts(url: str) -> None:
    """The parts that need no kernel."""
    measure("target_of", 5000, lambda: target_of(url))
    target = target_of(url)
    measure("encode", 5000, lambda: encode(PlainRequest("POST", target, HEADERS, JSON_BODY, TIMEOUT)))
    measure(
        "httpx2.Request(content=...)",
        5000,
        lambda: httpx2.Request("POST", url, headers=HEADERS, content=JSON_BODY, extensions={"timeout": TIMEOUT}),
    )
    pairs = [(b"x-header-%d" % index, b"value") for index in range(15)]
    measure(
        "httpx2.Response, 15 headers", 5000, lambda: httpx2.Response(200, headers=pairs, stream=httpx2.ByteStream(b""))
    )
    stream = Endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    connection = UpstreamConnection(Origin("http", "bench", 80), stream)
    answer = ResponseStream(connection, Transport(tls=shared_context())._pool, bodiless=False)
    answer.poll()
    stream.data = CHUNK
    measure("take, one chunk of an event", 20000, answer.take)
    stream.data = CHUNK * 100
    measure("take, 100 chunks in one read", 500, answer.take)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--upstream", type=int, default=-1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.upstream >= 0:
        upstream(socket.socket(fileno=args.upstream))
        return
    listener = socket.create_server(("127.0.0.1", 0))
    url = args.url or f"http://127.0.0.1:{listener.getsockname()[1]}/v1/messages"
    measure_parts(url)
    target, descriptor = target_of(url), listener.fileno()
    child = subprocess.Popen([sys.executable, __file__, "--upstream", str(descriptor)], pass_fds=[descriptor])
    try:
        trio.run(measure_calls, "JSON call", target, JSON_BODY, args.calls, TIMEOUT)
        trio.run(measure_calls, "JSON call, the caller keeps the time", target, JSON_BODY, args.calls, {})
        trio.run(measure_calls, "stream of 20 events", target, STREAM_BODY, max(10, args.calls // 20), {})
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main()
