"""Fakes: stand-ins whose behaviour a test writes down, and a relay of real parts around them.

An upstream is a ScriptedSource where only time and order matter, and a listener on a real socket (daemon/scripted.py)
where bytes do. What stands between it and the client is always the real thing.
"""

from __future__ import annotations

import itertools
import math
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import msgspec
import trio
from builders import KEY, account
from builders import head as request_head
from builders import snapshot as config_tree
from scripted import Conversation, Upstream

from relayd.config import snapshot as config
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Snapshot
from relayd.core.access.body_budget import BodyBudget
from relayd.core.balancing.pool import Pool
from relayd.core.in_flight import InFlight
from relayd.core.live import Live
from relayd.core.receipt import Receipt
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.net.connection import ClientConnection, Edge
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.net.server import HttpServer, open_listener
from relayd.daemon.net.stream import PlainStream, tune
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.proxy.build import build_proxy
from relayd.daemon.store.state_client import StateClient
from relayd.simulator.api import MessageCount, respond
from relayd.wire.anthropic import error_body
from relayd.wire.h1 import ChunkedDecoder
from relayd.wire.http import Headers, RequestHead

PATIENCE = 30.0  # s; on an idle machine nothing here takes more than a fraction of it
NOON = 1_800_000_000.0  # Unix time at which a relay of a test starts
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
MODEL = "claude-sonnet-5-5"
ASK = msgspec.json.encode(
    {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Grüße 你好 😀"}]}
)
ASK_STREAM = ASK[:-1] + b',"stream":true}'


def recorded_stream(words: int = 6) -> bytes:
    """A whole event stream of the API: thinking, text beyond ASCII, two tools at once, usage."""
    body = {
        "model": MODEL,
        "max_tokens": 4000,
        "stream": True,
        "thinking": {"type": "adaptive"},
        "tools": [{"name": name, "input_schema": {"type": "object"}} for name in ("erste", "zweite")],
        "messages": [{"role": "user", "content": "Grüße 你好 😀: erste und zweite"}],
    }
    simulator, whole = config.Simulator(words=words), msgspec.json.encode(body)
    script = respond("POST", "/v1/messages", Headers(), whole, simulator, 1, NOON, MessageCount())
    return b"".join(piece for _, piece in script.steps)


def events_of(stream: bytes) -> list[bytes]:
    """A stream cut into its events, each with its blank line."""
    return [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]]


# Sources.

Line = bytes | float | Exception | trio.Event


@attrs.define(eq=False)
class ScriptedSource:
    """A Source that follows a script: bytes are there, a number is a silence in s, an Event is waited for, an exception
    is raised. After the last line the body ends properly."""

    lines: list[Line]
    taken: int = 0  # bytes
    closed: bool = False
    _due: float | None = None

    def take(self) -> bytes | None:
        while self.lines:
            line = self.lines[0]
            if isinstance(line, Exception):
                raise line
            if isinstance(line, trio.Event):
                if not line.is_set():
                    return None
            elif isinstance(line, bytes):
                self.taken += len(line)
                del self.lines[0]
                return line
            else:
                self._due = self._due if self._due is not None else trio.current_time() + line
                if trio.current_time() < self._due:
                    return None
                self._due = None
            del self.lines[0]
        return b""

    async def wait(self) -> None:
        line = self.lines[0] if self.lines else 0.0
        if isinstance(line, trio.Event):
            await line.wait()
        elif self._due is not None:
            await trio.sleep_until(self._due)
        else:
            await trio.lowlevel.checkpoint()

    async def carry(self, turn: Callable[[], bool]) -> None:
        while not turn():
            await self.wait()

    def close(self) -> None:
        self.closed = True


# An upstream on a socket.


@attrs.frozen
class Asked:
    """One request as it arrived at an upstream."""

    line: str
    pairs: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for one, value in self.pairs if one == name]


@attrs.define(eq=False)
class Reception:
    """A script for `scripted.serving`: gives each request the next answer, the last one again and again.

    Args:
        answers: whole answers on the wire; b"" closes the connection without one.
        before: called with the request before it is answered.
    """

    answers: list[bytes]
    before: Callable[[Asked], None] = lambda asked: None
    asked: list[Asked] = attrs.field(factory=list)

    async def __call__(self, conversation: Conversation) -> None:
        while request := await conversation.request():
            asked = read_request(request)
            self.asked.append(asked)
            self.before(asked)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if not answer:
                return
            await conversation.send(answer)


def read_request(request: bytes) -> Asked:
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    return Asked(line, [(name, value) for name, _, value in (field.partition(": ") for field in fields)], body)


def answering(status: int = 200, body: bytes = b"{}", **headers: str) -> bytes:
    """A sized answer on the wire."""
    fields = {"content_type": "application/json", **headers, "content_length": str(len(body))}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Said", *lines, "", ""]).encode("latin-1") + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nrequest-id: req_upstream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def streaming(*pieces: bytes) -> bytes:
    """An event stream on the wire, a chunk for each piece."""
    return STREAM_HEAD + chunked(*pieces) + b"0\r\n\r\n"


def failing(status: int, kind: str = "api_error", message: str = "no", **headers: str) -> bytes:
    """An error of the API on the wire."""
    return answering(status, error_body(kind, message, "req_upstream"), request_id="req_upstream", **headers)


def message(text: str = "hi", **usage: int) -> bytes:
    """A whole answer of the Messages API."""
    return msgspec.json.encode(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage or {"input_tokens": 7, "output_tokens": 3},
        }
    )


# A client's end.


@attrs.frozen
class Told:
    """One answer as a client reads it. `pairs` are in wire order."""

    status: int
    pairs: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        """The one value of a header. Raises: KeyError when there is none, AssertionError when there are several."""
        found = self.all(name)
        if not found:
            raise KeyError(name)
        assert len(found) == 1, f"{name} came {len(found)} times"
        return found[0]

    def __contains__(self, name: object) -> bool:
        return any(name == one for one, _ in self.pairs)

    def all(self, name: str) -> list[str]:
        return [value for one, value in self.pairs if one == name]

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, error type and message of a refusal in the API's form."""
        assert self.json["type"] == "error"
        return self.status, self.json["error"]["type"], self.json["error"]["message"]


class Cut(Exception):
    """The answer was broken off. `told` is what had come of it."""

    def __init__(self, told: Told) -> None:
        super().__init__(f"cut after {told.body[-200:]!r}")
        self.told = told


class Client:
    """A raw connection to a relay; reading understands lengths and chunks."""

    def __init__(self, stream: trio.SocketStream, patience: float = PATIENCE) -> None:
        self.stream = stream
        self.patience = patience  # s without a byte
        self.buffer = b""
        self.status = 0
        self.pairs: list[tuple[str, str]] = []
        self.body = b""
        self._chunks: ChunkedDecoder | None = None

    async def send(self, wire: bytes) -> None:
        with trio.fail_after(self.patience):
            await self.stream.send_all(wire)

    async def post(self, body: bytes = ASK, path: str = "/v1/messages", *, key: str = KEY, **headers: str) -> None:
        """Send a request. `x_api_key=""` leaves the key away."""
        fields = {"x_api_key": key, **headers}
        await self.send(wire("POST", path, body, **fields))

    async def ask(self, body: bytes = ASK, path: str = "/v1/messages", *, key: str = KEY, **headers: str) -> Told:
        """Send a request and read its answer. Raises: Cut."""
        await self.post(body, path, key=key, **headers)
        return await self.answer()

    async def get(self, path: str, *, method: str = "GET", key: str = KEY, **headers: str) -> Told:
        await self.send(wire(method, path, None, **{"x_api_key": key, **headers}))
        return await self.answer(bodyless=method == "HEAD")

    async def more(self) -> bool:
        """Read once. False at the end of the connection."""
        with trio.fail_after(self.patience):
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
        self.buffer += data
        return bool(data)

    async def head(self) -> None:
        """Read the head of the next answer."""
        while b"\r\n\r\n" not in self.buffer:
            if not await self.more():
                raise Cut(Told(0, [], self.buffer))
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(line.split()[1])
        self.pairs = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
        self.body = b""
        chunked = ("transfer-encoding", "chunked") in self.pairs
        self._chunks = ChunkedDecoder(1 << 30) if chunked else None

    async def until(self, marker: bytes) -> None:
        """Read a streamed answer until `marker` has come."""
        while marker not in self.body:
            if not self._absorb():
                raise AssertionError(f"the answer ended before {marker!r}: {self.body!r}")
            if marker not in self.body and not await self.more():
                raise Cut(self._told())

    def _absorb(self) -> bool:
        """Take what has come of a chunked body. False when it is complete."""
        assert self._chunks is not None
        if self.buffer:
            self.body += self._chunks.feed(self.buffer)
            self.buffer = self._chunks.rest if self._chunks.done else b""
        return not self._chunks.done

    async def answer(self, *, bodyless: bool = False) -> Told:
        """Read an answer to its end. Raises: Cut."""
        await self.head()
        return self._told() if bodyless or self.status in (204, 304) else await self.rest()

    async def rest(self) -> Told:
        """What is left of an answer whose head was read. Raises: Cut."""
        if self._chunks is not None:
            while self._absorb():
                if not await self.more():
                    raise Cut(self._told())
            return self._told()
        length = int(self._told()["content-length"])
        while len(self.buffer) < length:
            if not await self.more():
                raise Cut(self._told())
        self.body, self.buffer = self.buffer[:length], self.buffer[length:]
        return self._told()

    def _told(self) -> Told:
        return Told(self.status, self.pairs, self.body)

    async def leave(self, how: str) -> None:
        """By FIN ("close"), RST ("reset"), or by a FIN with the socket left open ("half_close")."""
        if how == "half_close":
            await self.stream.send_eof()
            return
        if how == "reset":
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


def wire(method: str, path: str, body: bytes | None, **headers: str) -> bytes:
    """A request as bytes; `x_api_key` is `x-api-key`, and an empty value leaves a header away."""
    lines = [f"{method} {path} HTTP/1.1", "host: relay"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
    if body is not None:
        lines += ["content-type: application/json"] * ("content_type" not in headers)
        lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


# An exchange without a server.


@attrs.define(eq=False)
class Pair:
    """An Exchange and the client at its other end, over a socket pair: exact under a clock that jumps."""

    exchange: Exchange
    client: Client
    _theirs: socket.socket

    def heard(self) -> bytes:
        """What has reached the client so far, as it came; up to 1 MiB."""
        try:
            return self._theirs.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""


@asynccontextmanager
async def exchanging(head: RequestHead | None = None, **settings: Any) -> AsyncIterator[Pair]:
    """An exchange for the length of the block. `settings` are of [server]."""
    ours, theirs = socket.socketpair()
    tune(ours)
    connection = ClientConnection(PlainStream(ours), "", Edge())
    exchange = Exchange(connection, head or request_head(), config.Server(**settings), trio.current_time())
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    try:
        yield Pair(exchange, Client(stream, math.inf), theirs)
    finally:
        connection.close()
        stream.socket.close()


# A relay of real parts.


def upstream_account(name: str, port: int, **fields: Any) -> Account:
    """An account whose upstream is a listener of this test."""
    return account(name, kind="api-key", base_url=config.Url(f"http://127.0.0.1:{port}"), **fields)


def credential_of(one: Account) -> Secret:
    """What an account of a test presents."""
    return Secret("" if one.kind == "simulator" else f"sk-ant-test-{one.id}")


@attrs.define(eq=False)
class Receipts:
    """Keeps the receipts, and tells when one comes in."""

    receipts: list[Receipt] = attrs.field(factory=list)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def record(self, receipt: Receipt) -> None:
        self.receipts.append(receipt)
        self._news.set()
        self._news = trio.Event()

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(PATIENCE):
            while len(self.receipts) < count:
                await self._news.wait()


@attrs.define(eq=False)
class House:
    """A relay with its server, clients and receipts. Its accounts and keys come from `live`."""

    live: Live
    pool: Pool
    upstreams: Upstreams
    app: PublicApp
    server: HttpServer
    sockets: list[socket.socket]
    receipts: Receipts
    wall: Callable[[], float]
    clients: list[Client] = attrs.field(factory=list)

    async def connect(self, *, small: bool = False) -> Client:
        """A new connection; `small` has the least receive buffer that the kernel allows."""
        sock = trio.socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect(self.sockets[0].getsockname())
        client = Client(trio.SocketStream(sock))
        self.clients.append(client)
        return client

    async def ask(self, body: bytes = ASK, path: str = "/v1/messages", *, key: str = KEY, **headers: str) -> Told:
        """One call on a connection of its own. Raises: Cut."""
        return await (await self.connect()).ask(body, path, key=key, **headers)

    async def get(self, path: str, *, method: str = "GET", key: str = KEY, **headers: str) -> Told:
        return await (await self.connect()).get(path, method=method, key=key, **headers)

    async def receipt(self, count: int = 1) -> Receipt:
        """The last receipt, once `count` calls have ended."""
        await self.receipts.wait_for(count)
        assert len(self.receipts.receipts) == count
        return self.receipts.receipts[-1]

    def in_flight(self) -> int:
        """Attempts that have not ended, of all accounts."""
        return sum(self.pool.in_flight(name) for name in self.live.snapshot.accounts)


def clock_from_noon() -> Callable[[], float]:
    """A wall clock that starts at NOON and goes with trio's."""
    began = trio.current_time()
    return lambda: NOON + trio.current_time() - began


def make_app(
    live: Live,
    receipts: Receipts,
    *,
    pool: Pool,
    upstreams: Upstreams,
    wall: Callable[[], float],
    in_flight: InFlight | None = None,
    state: StateClient | None = None,
    credential: Callable[[Account], Secret] = credential_of,
    memory: int = 1 << 30,
    ids: str = "req_test",
) -> PublicApp:
    """A relay of real parts, which needs no state store."""
    return build_proxy(
        live=live,
        in_flight=in_flight or InFlight(),
        state=state,
        pool=pool,
        upstreams=upstreams,
        credential=credential,
        keeper=None,
        record=receipts.record,
        known_models=lambda: (MODEL, "claude-haiku-4-5"),
        bodies=BodyBudget(lambda server: memory),
        wall=wall,
        new_id=(f"{ids}{number:06d}" for number in itertools.count(1)).__next__,
        rng=random.Random(7),
    )


@asynccontextmanager
async def relaying(snapshot: Snapshot, *, listen: str = "127.0.0.1:0", **parts: Any) -> AsyncIterator[House]:
    """A relay that serves for the length of the block. At its end nothing may be in flight."""
    live, receipts = Live(snapshot), Receipts()
    wall = parts.pop("wall", None) or clock_from_noon()
    pool = parts.pop("pool", None) or Pool()
    upstreams = parts.pop("upstreams", None) or Upstreams(lambda: NO_TLS, wall)
    app = make_app(live, receipts, pool=pool, upstreams=upstreams, wall=wall, **parts)
    server = HttpServer(app, lambda: live.snapshot.relay.server)
    sockets = open_listener(listen)
    house = House(live, pool, upstreams, app, server, sockets, receipts, wall)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, sockets)
        nursery.start_soon(app.signs.run)
        try:
            yield house
        finally:
            nursery.cancel_scope.cancel()
            for client in house.clients:
                client.stream.socket.close()
            upstreams.close()
    assert house.in_flight() == 0


def through(upstream: Upstream) -> AbstractAsyncContextManager[House]:
    """A relay with one account, at `upstream`."""
    return relaying(config_tree(accounts=(upstream_account("a", upstream.port),)))
