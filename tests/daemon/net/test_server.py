"""The HTTP edge over real sockets: framing, order, bounds, timeouts, disconnects, failures and drain."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing
from trio.testing import MockClock
from waiting import until
from wire.h1_corpus import CASES

from relayd.config import snapshot
from relayd.daemon.net.accepting import ACCEPTS_PER_TURN
from relayd.daemon.net.connection import LINGER
from relayd.daemon.net.server import Exchange, HttpServer, open_listener
from relayd.wire.call import Reply
from relayd.wire.h1 import LAST_CHUNK, MAX_HEAD, ChunkedDecoder
from relayd.wire.http import HeaderPairs
from relayd.wire.refusal import Refusal

PATIENCE = 30.0  # s; on an idle machine nothing here takes more than a fraction of it
LIMIT = 100_000  # bytes of body that the echo takes

Serve = Callable[[Exchange], Awaitable[None]]


def text(body: str | bytes, status: int = 200, headers: HeaderPairs | None = None) -> Reply:
    content = body.encode() if isinstance(body, str) else body
    return Reply(status=status, headers=[(b"content-type", b"text/plain"), *(headers or [])], body=content)


async def echo(exchange: Exchange) -> None:
    body = await exchange.body(LIMIT)
    await exchange.reply(text(f"{exchange.head.method} {exchange.head.target} ".encode() + body))


@attrs.define
class Desk:
    """An application made of one function."""

    answer: Serve = echo

    async def serve(self, exchange: Exchange) -> None:
        await self.answer(exchange)

    def refuse(self, refusal: Refusal, path: str) -> Reply:
        return text(f"refused {refusal.status} {path}", refusal.status)


class Told:
    """One answer as a client reads it."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(line.split()[1])
        self.headers = dict(field.split(": ", 1) for field in fields if field)
        self.body = body


class Client:
    """A raw connection; reading understands lengths and chunks."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, wire: bytes) -> None:
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(wire)

    async def more(self) -> bool:
        with trio.fail_after(PATIENCE):
            data = await self.stream.receive_some(65536)
        self.buffer += data
        return bool(data)

    async def head(self) -> bytes:
        while b"\r\n\r\n" not in self.buffer:
            assert await self.more(), f"closed after {self.buffer!r}"
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head

    async def answer(self, *, bodyless: bool = False) -> Told:
        told = Told(await self.head(), b"")
        if bodyless:
            return told
        if told.headers.get("transfer-encoding") == "chunked":
            decoder = ChunkedDecoder(1 << 30)
            while True:
                if self.buffer:
                    told.body += decoder.feed(self.buffer)
                    self.buffer = decoder.rest
                if decoder.done:
                    return told
                assert await self.more(), "cut in a chunked answer"
        length = int(told.headers["content-length"])
        while len(self.buffer) < length:
            assert await self.more(), "cut in a sized answer"
        told.body, self.buffer = self.buffer[:length], self.buffer[length:]
        return told

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        while await self.more():
            pass
        return self.buffer

    async def is_closed(self) -> bool:
        return await self.rest() == b""

    def reset(self) -> None:
        """Close with an RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


class House:
    """A running server and its front door."""

    def __init__(self, server: HttpServer, sockets: list[socket.socket]) -> None:
        self.server = server
        self.sockets = sockets
        self.place = sockets[0].getsockname()
        self.family = sockets[0].family
        self.returned = trio.Event()
        self.clients: list[Client] = []

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self.server.serve(self.sockets, task_status=task_status)
            self.returned.set()
            await trio.sleep_forever()
        finally:
            for client in self.clients:
                client.stream.socket.close()

    async def client(self, *, receive_buffer: int = 0) -> Client:
        sock = trio.socket.socket(self.family, socket.SOCK_STREAM)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            with trio.fail_after(PATIENCE):
                await sock.connect(self.place)
        except OSError:
            sock.close()
            raise
        self.clients.append(Client(trio.SocketStream(sock)))
        return self.clients[-1]

    async def ask(self, wire: bytes) -> Told:
        client = await self.client()
        await client.send(wire)
        told = await client.answer()
        await client.stream.aclose()
        return told


async def open_house(
    nursery: trio.Nursery,
    answer: Serve = echo,
    *,
    desk: Desk | None = None,
    sockets: list[socket.socket] | None = None,
    at: str = "127.0.0.1:0",
    most: int = 100,
    together: int = 100,
    held: bool = False,
    **settings: object,
) -> House:
    table = snapshot.Server(**settings)  # type: ignore[arg-type]
    server = HttpServer(desk or Desk(answer), lambda: table, most=most, together=lambda _: together, held=held)
    house = House(server, sockets or open_listener(at))
    await nursery.start(house.run)
    return house


def get(path: str = "/", *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def post(body: bytes, *lines: str) -> bytes:
    head = "\r\n".join(["POST /p HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *lines, "", ""])
    return head.encode() + body


# Requests and answers


async def test_a_request_is_answered_and_the_connection_kept(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery)).client()
    for number in range(3):
        await client.send(get(f"/{number}"))
        told = await client.answer()

        assert (told.status, told.body) == (200, f"GET /{number} ".encode())
        assert "connection" not in told.headers
        assert told.headers["date"].endswith(" GMT")


async def test_connection_close_is_honoured(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery)).client()
    await client.send(get("/", "Connection: close"))

    assert (await client.answer()).headers["connection"] == "close"
    assert await client.is_closed()


@pytest.mark.parametrize("line", ["X: y", "Connection: keep-alive"])
async def test_http_1_0_closes_unless_it_asks(nursery: trio.Nursery, line: str) -> None:
    client = await (await open_house(nursery)).client()
    await client.send(f"GET / HTTP/1.0\r\n{line}\r\n\r\n".encode())
    told = await client.answer()

    assert told.headers["connection"] == ("keep-alive" if "keep" in line else "close")
    if "keep" in line:
        await client.send(get("/again"))
        assert (await client.answer()).body == b"GET /again "
    else:
        assert await client.is_closed()


@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
async def test_pipelined_requests_are_answered_in_order_and_bodies_not_confused(
    nursery: trio.Nursery, step: int
) -> None:
    client = await (await open_house(nursery)).client()
    bodies = [f"body {number} {'x' * number}".encode() for number in range(12)]
    wire = b"".join(post(body) if number % 2 else get(f"/{number}") for number, body in enumerate(bodies))
    for start in range(0, len(wire), step):
        await client.send(wire[start : start + step])

    for number, body in enumerate(bodies):
        expected = b"POST /p " + body if number % 2 else f"GET /{number} ".encode()
        assert (await client.answer()).body == expected


async def test_pipelined_input_does_not_pile_up_in_the_server(nursery: trio.Nursery, jumping_clock: MockClock) -> None:
    release = trio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        await exchange.reply(text(""))

    house = await open_house(nursery, wait)
    client = await house.client()
    with trio.move_on_after(0.3) as scope:
        await client.stream.send_all(get() * 1_000_000)

    assert scope.cancelled_caught
    (connection,) = house.server._open
    assert len(connection.buffer) <= 65536


async def test_a_chunked_body_arrives_whole_at_every_cut(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery)).client()
    head = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"3\r\nabc\r\n0a\r\n0123456789\r\n0\r\n\r\n"
    for cut in range(len(body) + 1):
        await client.send(head + body[:cut])
        await trio.sleep(0.001)
        await client.send(body[cut:] + get("/next"))

        assert (await client.answer()).body == b"POST /c abc0123456789"
        assert (await client.answer()).body == b"GET /next "


async def test_a_large_body_arrives_whole(nursery: trio.Nursery) -> None:
    async def measure(exchange: Exchange) -> None:
        body = await exchange.body(1 << 24)
        await exchange.reply(text(f"{len(body)} {body == bytes(range(256)) * 30_000}"))

    house = await open_house(nursery, measure)

    assert (await house.ask(post(bytes(range(256)) * 30_000))).body == b"7680000 True"


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
async def test_a_body_may_be_as_large_as_the_limit_and_no_larger(nursery: trio.Nursery, size: int, status: int) -> None:
    house = await open_house(nursery)
    chunked = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    half = b"%x\r\n%b\r\n" % (size // 2, b"x" * (size // 2)) + b"%x\r\n%b\r\n" % (
        size - size // 2,
        b"x" * -(-size // 2),
    )

    assert (await house.ask(post(b"x" * size))).status == status
    assert (await house.ask(chunked + half + LAST_CHUNK)).status == status


async def test_a_body_known_to_be_too_large_is_refused_before_it_is_read(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery)).client()
    await client.send(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LIMIT + 1}\r\n\r\n".encode())

    assert (await client.answer()).status == 413
    assert await client.is_closed()


async def test_head_gets_the_length_and_no_body(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery)).client()
    await client.send(get("/h").replace(b"GET", b"HEAD") + get("/g"))
    told = await client.answer(bodyless=True)

    assert told.headers["content-length"] == str(len(b"HEAD /h "))
    assert (await client.answer()).body == b"GET /g "


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_have_no_framing(nursery: trio.Nursery, status: int) -> None:
    async def bare(exchange: Exchange) -> None:
        await exchange.reply(text("", status))

    client = await (await open_house(nursery, bare)).client()
    for _ in range(2):
        await client.send(get())
        told = await client.answer(bodyless=True)

        assert told.status == status
        assert not {"content-length", "transfer-encoding"} & told.headers.keys()


async def test_a_head_stream_sends_no_chunk(nursery: trio.Nursery) -> None:
    async def stream(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.push(b"never seen")
        await exchange.finish()

    client = await (await open_house(nursery, stream)).client()
    await client.send(get().replace(b"GET", b"HEAD") + get("/", "Connection: close"))
    told = await client.answer(bodyless=True)

    assert told.status == 200
    assert (await client.answer()).body == b"never seen"
    assert await client.is_closed()


async def test_the_application_sees_the_peer_and_a_monotonic_start(nursery: trio.Nursery) -> None:
    seen: list[Exchange] = []

    async def note(exchange: Exchange) -> None:
        seen.append(exchange)
        await exchange.reply(text(""))

    before = trio.current_time()
    await (await open_house(nursery, note)).ask(get())

    assert seen[0].peer == "127.0.0.1"
    assert before <= seen[0].clock_start <= trio.current_time()


# Framing


async def test_the_corpus_of_doubtful_messages_over_a_real_socket(nursery: trio.Nursery) -> None:
    house = await open_house(nursery)
    for name, wire, status in CASES:
        client = await house.client()
        await client.send(wire)
        told = await client.answer()

        assert told.status == (status or 200), name
        if status:
            assert told.headers["connection"] == "close", name
            assert await client.is_closed(), name
        await client.stream.aclose()


@pytest.mark.parametrize("size", [MAX_HEAD + 1, 200_000])
async def test_a_head_that_is_too_large_is_431_and_closed(nursery: trio.Nursery, size: int) -> None:
    client = await (await open_house(nursery)).client()
    await client.send((get()[:-2] + b"a: b\r\n" * (size // 6 + 1))[:size])

    assert (await client.answer()).status == 431
    assert await client.is_closed()


async def test_a_bad_request_in_a_pipeline_does_not_take_back_the_good_one(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery)).client()
    await client.send(get("/good") + b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" + get("/never"))

    assert (await client.answer()).body == b"GET /good "
    assert (await client.answer()).status == 400
    assert await client.is_closed()


# 100-continue, and bodies that nobody reads


async def test_100_continue_is_sent_when_the_body_is_asked_for(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery)).client()
    wire = post(b"hello", "Expect: 100-continue")
    await client.send(wire[:-5])

    assert await client.head() == b"HTTP/1.1 100 Continue"
    await client.send(b"hello")
    assert (await client.answer()).body == b"POST /p hello"


async def test_100_continue_is_not_sent_when_the_body_is_there_already(nursery: trio.Nursery) -> None:
    told = await (await open_house(nursery)).ask(post(b"hello", "Expect: 100-continue"))

    assert (told.status, told.body) == (200, b"POST /p hello")


async def deny(exchange: Exchange) -> None:
    await exchange.reply(text("no", 401))


async def test_a_refused_100_continue_gets_its_final_answer_and_a_close(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery, deny)).client()
    await client.send(post(b"hello", "Expect: 100-continue")[:-5])
    told = await client.answer()

    assert (told.status, told.headers["connection"]) == (401, "close")
    assert await client.is_closed()


async def test_a_small_unread_body_is_thrown_away_and_the_connection_kept(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery, deny)).client()
    wire = post(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n" + b"x" * 50_000)
    for cut in (len(wire) - 30_000, len(wire)):
        await client.send(wire[:cut])
        assert (await client.answer()).status == 401
        await client.send(wire[cut:])
    await client.send(get())

    assert (await client.answer()).status == 401
    assert client.buffer == b""


async def test_a_small_unread_body_that_does_not_come_closes_the_connection(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery, deny)).client()
    await client.send(post(b"hello")[:-1])

    assert (await client.answer()).status == 401
    assert await client.is_closed()


async def test_an_unread_chunked_body_is_passed_over_when_it_is_there_and_else_closes(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery, deny)).client()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(head + b"3\r\nabc\r\n0\r\n\r\n" + head + b"3\r\nab")

    assert "connection" not in (await client.answer()).headers
    assert (await client.answer()).headers["connection"] == "close"
    assert await client.is_closed()


async def test_a_large_unread_body_closes_after_an_answer_that_still_arrives(
    nursery: trio.Nursery, jumping_clock: MockClock
) -> None:
    client = await (await open_house(nursery, deny)).client()
    with trio.move_on_after(0.3):
        try:
            await client.stream.send_all(post(b"x" * 50_000_000))
        except trio.BrokenResourceError:
            pytest.fail("reset before the answer was read")
    told = await client.answer()

    assert (told.status, told.headers["connection"]) == (401, "close")


# Streams


async def stream_three(exchange: Exchange) -> None:
    exchange.start(200, [(b"content-type", b"text/event-stream")])
    for piece in (b"one", b"", b"two", b"three"):
        assert exchange.push(piece)
    await exchange.finish()


async def test_a_stream_is_chunked_and_the_connection_kept(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery, stream_three)).client()
    for _ in range(2):
        await client.send(get())
        assert (await client.answer()).body == b"onetwothree"


async def test_the_head_leaves_with_the_first_piece_in_one_segment(nursery: trio.Nursery) -> None:
    go_on = trio.Event()

    async def stream(exchange: Exchange) -> None:
        exchange.start(200, [])
        assert not exchange.answered
        exchange.push(b"first")
        assert exchange.answered
        await go_on.wait()
        await exchange.finish()

    client = await (await open_house(nursery, stream)).client()
    await client.send(get())
    await client.more()

    assert client.buffer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.buffer.endswith(b"\r\n\r\n5\r\nfirst\r\n")
    go_on.set()
    assert (await client.answer()).body == b"first"


async def test_an_empty_push_sends_the_head_alone(nursery: trio.Nursery) -> None:
    async def stream(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.push(b"")
        await exchange.body(10)
        exchange.push(b"x")
        await exchange.finish()

    client = await (await open_house(nursery, stream)).client()
    await client.send(post(b"hello")[:-5])

    assert (await client.head()).startswith(b"HTTP/1.1 200 OK")
    await client.send(b"hello")
    while not client.buffer.endswith(b"0\r\n\r\n"):
        assert await client.more()
    assert client.buffer == b"1\r\nx\r\n0\r\n\r\n"


async def test_an_http_1_0_stream_ends_with_its_connection(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery, stream_three)).client()
    await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head = await client.head()

    assert b"chunked" not in head
    assert b"connection: close" in head
    assert await client.rest() == b"onetwothree"


async def test_an_aborted_stream_has_no_proper_end(nursery: trio.Nursery) -> None:
    async def stream(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.push(b"one")
        exchange.abort()
        exchange.abort()

    client = await (await open_house(nursery, stream)).client()
    await client.send(get())

    assert (await client.rest()).endswith(b"\r\n\r\n3\r\none\r\n")


async def test_an_aborted_http_1_0_stream_is_reset(nursery: trio.Nursery) -> None:
    go_on = trio.Event()

    async def stream(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.push(b"one")
        await go_on.wait()
        exchange.abort()

    client = await (await open_house(nursery, stream)).client()
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    await client.head()
    go_on.set()

    with pytest.raises(trio.BrokenResourceError):
        await client.rest()


async def test_a_stream_of_promised_length_keeps_its_promise(nursery: trio.Nursery) -> None:
    async def stream(exchange: Exchange) -> None:
        exchange.start(200, [], length=6)
        exchange.push(b"abc")
        if exchange.head.path == "/more":
            exchange.push(b"defg")
        if exchange.head.path == "/whole":
            exchange.push(b"def")
        await exchange.finish()

    house = await open_house(nursery, stream)
    whole = await house.client()
    await whole.send(get("/whole"))
    assert (await whole.answer()).body == b"abcdef"
    for path in ("/less", "/more"):
        client = await house.client()
        await client.send(get(path))
        assert (await client.rest()).endswith(b"content-length: 6\r\n\r\nabc")


@pytest.mark.usefixtures("both_forms")
async def test_a_slow_reader_costs_one_piece_and_a_cancelled_flush_loses_nothing(nursery: trio.Nursery) -> None:
    piece, blocked, pieces = bytes(range(256)) * 256, trio.Event(), 0

    async def pour(exchange: Exchange) -> None:
        nonlocal pieces
        exchange.start(200, [])
        while exchange.push(piece):
            pieces += 1
        pieces += 1
        for _ in range(3):
            with trio.move_on_after(0.02):
                await exchange.flush()
        assert exchange._pending is not None
        assert len(exchange._pending) < len(piece) + 20
        blocked.set()
        await exchange.flush()
        await exchange.finish()

    client = await (await open_house(nursery, pour)).client(receive_buffer=32768)
    await client.send(get())
    with trio.fail_after(PATIENCE):
        await blocked.wait()

    assert pieces <= 8  # the two socket buffers, no more
    assert (await client.answer()).body == piece * pieces


@pytest.mark.usefixtures("both_forms")
async def test_a_client_that_takes_nothing_for_the_write_timeout_is_gone(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    ended = trio.Event()

    async def pour(exchange: Exchange) -> None:
        with exchange.watch() as scope:
            exchange.start(200, [])
            while exchange.push(b"x" * 65536):
                pass
            await exchange.flush()
            await trio.sleep(PATIENCE)
        assert exchange.gone
        assert scope.cancelled_caught
        assert exchange.push(b"into the void")
        await exchange.finish()
        ended.set()

    house = await open_house(nursery, pour, write_timeout=0.1)
    client = await house.client(receive_buffer=32768)
    await client.send(get())
    with trio.fail_after(PATIENCE):
        await ended.wait()
    await until(lambda: house.server.statistics.open == 0)


async def test_a_large_whole_answer_waits_for_a_slow_reader(nursery: trio.Nursery) -> None:
    async def large(exchange: Exchange) -> None:
        await exchange.reply(text(b"y" * 2_000_000))

    client = await (await open_house(nursery, large)).client(receive_buffer=32768)
    await client.send(get())
    await trio.sleep(0.05)

    assert (await client.answer()).body == b"y" * 2_000_000


# Disconnects


def leave_by_fin(client: Client) -> None:
    client.stream.socket.close()


def leave_by_half_close(client: Client) -> None:
    client.stream.socket.shutdown(socket.SHUT_WR)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("leave", [leave_by_fin, Client.reset, leave_by_half_close], ids=["FIN", "RST", "half"])
async def test_a_client_that_leaves_is_noticed_while_the_application_waits(
    jumping_clock: MockClock, nursery: trio.Nursery, leave: Callable[[Client], None]
) -> None:
    began, ended = trio.Event(), trio.Event()
    noticed = 0.0

    async def wait(exchange: Exchange) -> None:
        nonlocal noticed
        with exchange.watch() as scope:
            began.set()
            await trio.sleep(PATIENCE)
        noticed = trio.current_time()
        assert scope.cancelled_caught
        assert exchange.gone
        await exchange.reply(text("nobody reads this"))
        ended.set()

    house = await open_house(nursery, wait)
    client = await house.client()
    await client.send(get())
    await began.wait()
    await trio.sleep(0.02)
    left = trio.current_time()
    leave(client)
    with trio.fail_after(PATIENCE):
        await ended.wait()

    assert noticed - left < 0.25


@pytest.mark.usefixtures("both_forms")
async def test_a_client_that_left_before_the_watch_is_noticed(nursery: trio.Nursery) -> None:
    left, ended = trio.Event(), trio.Event()

    async def wait(exchange: Exchange) -> None:
        await left.wait()
        with exchange.watch():
            await trio.sleep(PATIENCE)
        assert exchange.gone
        with exchange.watch() as scope:
            await trio.sleep(PATIENCE)
        assert scope.cancelled_caught
        ended.set()

    client = await (await open_house(nursery, wait)).client()
    await client.send(get() + get("/pipelined"))
    await trio.sleep(0.02)
    client.stream.socket.close()
    left.set()
    with trio.fail_after(PATIENCE):
        await ended.wait()


@pytest.mark.usefixtures("both_forms")
async def test_a_watch_that_has_ended_disturbs_nobody(nursery: trio.Nursery) -> None:
    async def watched(exchange: Exchange) -> None:
        with exchange.watch() as scope:
            await trio.lowlevel.checkpoint()
        assert not scope.cancelled_caught
        await exchange.reply(text("fine"))

    house = await open_house(nursery, watched)
    for _ in range(3):
        client = await house.client()
        for _ in range(3):
            await client.send(get())
            assert (await client.answer()).body == b"fine"
        client.stream.socket.close()
    await until(lambda: house.server.statistics.open == 0)


async def test_an_abort_within_a_watch_is_no_hang_up(nursery: trio.Nursery) -> None:
    gone: list[bool] = []

    async def cut(exchange: Exchange) -> None:
        with exchange.watch():
            exchange.abort()
        gone.append(exchange.gone)

    house = await open_house(nursery, cut)
    client = await house.client()
    await client.send(get())

    assert await client.is_closed()
    assert gone == [False]


@pytest.mark.usefixtures("both_forms")
async def test_a_client_that_leaves_in_its_body_is_a_499_for_the_application(nursery: trio.Nursery) -> None:
    caught: list[tuple[int, bool]] = []

    async def read(exchange: Exchange) -> None:
        try:
            await exchange.body(LIMIT)
        except Refusal as refusal:
            caught.append((refusal.status, exchange.gone))
            raise

    client = await (await open_house(nursery, read)).client()
    await client.send(post(b"hello")[:-1])
    await trio.sleep(0.02)
    client.stream.socket.close()
    await until(lambda: caught == [(499, True)])


# Timeouts


async def test_a_head_that_takes_too_long_is_408_however_it_drips(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    client = await (await open_house(nursery, header_timeout=0.15)).client()

    async def drip() -> None:
        for byte in get("/" + "x" * 1000):
            await client.stream.send_all(bytes([byte]))
            await trio.sleep(0.02)

    begun = trio.current_time()
    async with trio.open_nursery() as own:
        own.start_soon(drip)

        assert (await client.answer()).status == 408
        assert trio.current_time() - begun == pytest.approx(0.15, abs=0.03)
        own.cancel_scope.cancel()


async def test_a_408_comes_while_the_client_is_silent(jumping_clock: MockClock, nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery, header_timeout=0.1)).client()
    await client.send(b"GET / HT")

    assert (await client.answer()).status == 408
    assert await client.is_closed()


async def test_the_head_of_a_later_request_has_the_header_timeout_too(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    client = await (await open_house(nursery, header_timeout=0.1)).client()
    await client.send(get() + b"GET / HT")
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 408

    client = await (await open_house(nursery, header_timeout=0.1)).client()
    await client.send(get())
    assert (await client.answer()).status == 200
    await client.send(b"GET / HT")
    assert (await client.answer()).status == 408


async def test_a_request_that_comes_at_the_very_end_of_the_keep_alive_timeout_is_served(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    house = await open_house(nursery, keep_alive_timeout=0.05)
    for _ in range(8):  # trio wakes those that are due together in an order by chance
        client = await house.client()
        await client.send(get())
        await client.answer()
        await trio.testing.wait_all_tasks_blocked()
        os.write(client.stream.socket.fileno(), get("/late"))
        mock_clock.jump(0.1)  # what was just sent and the timeout are there in one turn of the loop

        assert (await client.answer()).body == b"GET /late "


async def test_a_head_that_ends_with_its_timeout_is_served_or_408_but_no_call_is_cancelled(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    cancelled: list[str] = []

    async def answer(exchange: Exchange) -> None:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            cancelled.append(exchange.head.path)
            raise
        await exchange.reply(text("served"))

    house = await open_house(nursery, answer, header_timeout=0.05)
    for _ in range(8):
        client = await house.client()
        await client.send(get()[:-2])
        await trio.testing.wait_all_tasks_blocked()
        os.write(client.stream.socket.fileno(), get()[-2:])
        mock_clock.jump(0.1)  # what was just sent and the timeout are there in one turn of the loop

        assert (await client.answer()).status in (200, 408)
    assert cancelled == []


async def test_a_connection_without_a_byte_is_closed_without_a_word(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    house = await open_house(nursery, header_timeout=0.1)

    assert await (await house.client()).is_closed()


async def test_an_idle_connection_is_closed_without_a_word(jumping_clock: MockClock, nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery, keep_alive_timeout=0.1)).client()
    await client.send(get())
    await client.answer()

    assert await client.is_closed()


async def test_no_keep_alive_timeout_means_one_request_a_connection(nursery: trio.Nursery) -> None:
    client = await (await open_house(nursery, keep_alive_timeout=0)).client()
    await client.send(get())

    assert (await client.answer()).headers["connection"] == "close"
    assert await client.is_closed()


async def test_no_timeout_touches_a_request_that_is_being_served(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def slow(exchange: Exchange) -> None:
        await trio.sleep(0.3)
        await exchange.reply(text("late"))

    house = await open_house(nursery, slow, header_timeout=0.1, keep_alive_timeout=0.1, body_timeout=0.1)

    assert (await house.ask(get())).body == b"late"


async def test_a_body_that_stops_is_408_and_one_that_drips_is_not(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    house = await open_house(nursery, body_timeout=0.15)
    stopped, dripping = await house.client(), await house.client()
    await stopped.send(post(b"hello")[:-1])
    told = await stopped.answer()
    assert (told.status, told.headers["connection"]) == (408, "close")
    assert await stopped.is_closed()

    wire = post(b"x" * 10)
    await dripping.send(wire[:-10])
    for _ in range(10):
        await trio.sleep(0.03)
        await dripping.send(b"x")
    assert (await dripping.answer()).status == 200


@pytest.mark.usefixtures("both_forms")
async def test_a_body_that_drips_for_ever_is_408_at_its_deadline(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    house = await open_house(nursery, body_timeout=10.0, body_deadline=30.0)
    client = await house.client()
    wire = post(b"x" * 100)
    await client.send(wire[:-100])
    began = trio.current_time()
    for _ in range(9):
        await trio.sleep(4.0)
        if trio.current_time() - began < 30.0:
            await client.send(b"x")

    told = await client.answer()
    assert told.status == 408
    assert trio.current_time() - began >= 30.0
    assert await client.is_closed()


# Bounds on connections


async def test_a_connection_too_many_is_told_503_and_the_place_becomes_free_again(
    nursery: trio.Nursery, jumping_clock: MockClock
) -> None:
    house = await open_house(nursery, max_connections=2)
    first, second = await house.client(), await house.client()
    for client in (first, second):
        await client.send(get())
        assert (await client.answer()).status == 200

    third = await house.client()
    await third.send(get())
    assert (await third.answer()).status == 503
    assert await third.is_closed()
    figures = house.server.statistics
    assert (figures.open, figures.accepted, figures.refused) == (2, 3, 1)

    await first.stream.aclose()
    await until(lambda: house.server.statistics.open == 1)
    assert (await house.ask(get())).status == 200


@pytest.mark.parametrize(("most", "together"), [(1, 9), (9, 1)])
async def test_there_are_never_more_connections_than_descriptors_and_memory_allow(
    most: int, together: int, nursery: trio.Nursery
) -> None:
    house = await open_house(nursery, most=most, together=together, max_connections=2)
    first = await house.client()
    await first.send(get())
    assert (await first.answer()).status == 200

    assert (await house.ask(get())).status == 503
    assert (house.server.statistics.open, house.server.statistics.refused) == (1, 1)


class Starved(socket.socket):
    """A listener whose process has run out of descriptors for a while."""

    failures = 3

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_running_out_of_descriptors_is_survived_with_one_log_line(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    (plain,) = open_listener("127.0.0.1:0")
    listener = Starved(fileno=plain.detach())
    house = await open_house(nursery, sockets=[listener])

    assert (await house.ask(get())).status == 200
    assert listener.failures == 0
    assert [record.message for record in caplog.records] == ["server.accept"]
    assert "open files" in caplog.records[0].__dict__["reason"]


# Failures


async def fail_at_once(exchange: Exchange) -> None:
    raise LookupError("a bug")


async def fail_after_the_body(exchange: Exchange) -> None:
    await exchange.body(LIMIT)
    raise LookupError("a bug")


async def fail_after_start(exchange: Exchange) -> None:
    exchange.start(200, [])
    raise LookupError("a bug")


async def fail_with_bad_headers(exchange: Exchange) -> None:
    await exchange.reply(text("", 200, [(b"x-evil", b"a\r\nset-cookie: b")]))


async def fail_by_silence(exchange: Exchange) -> None:
    await exchange.body(LIMIT)


async def fail_in_a_group(exchange: Exchange) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_at_once, exchange)


@pytest.mark.parametrize(
    "fail",
    [
        fail_at_once, fail_after_the_body, fail_after_start, fail_with_bad_headers, fail_by_silence, fail_in_a_group,
    ],
)  # fmt: skip
async def test_a_failing_application_is_a_500_and_the_server_goes_on(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, fail: Serve
) -> None:
    async def answer(exchange: Exchange) -> None:
        await (fail if exchange.head.method == "POST" else echo)(exchange)

    house = await open_house(nursery, answer)
    told = await house.ask(post(b"hello"))

    assert (told.status, told.body) == (500, b"refused 500 /p")
    assert [(record.name, record.message) for record in caplog.records] == [("relayd.server", "server.failed")]
    assert caplog.records[0].exc_info is not None
    assert (await house.ask(get())).status == 200


async def test_a_failure_in_the_middle_of_an_answer_cuts_it(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.push(b"one")
        raise LookupError("a bug")

    client = await (await open_house(nursery, fail)).client()
    await client.send(get())

    assert (await client.rest()).endswith(b"\r\n\r\n3\r\none\r\n")
    assert [record.message for record in caplog.records] == ["server.failed"]


async def test_a_failure_after_a_whole_answer_is_logged_and_harms_nobody(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.reply(text("whole"))
        raise LookupError("a bug")

    client = await (await open_house(nursery, fail)).client()
    for _ in range(2):
        await client.send(get())
        assert (await client.answer()).body == b"whole"
    await until(lambda: len(caplog.records) == 2)


def give_away(number: int) -> None:
    """Another file gets a descriptor's number."""
    with open(os.devnull, "rb") as other:
        os.dup2(other.fileno(), number)


@pytest.mark.parametrize("lose", [os.close, give_away])
async def test_a_descriptor_that_is_lost_while_it_answers_is_a_failure_not_a_client_that_left(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, lose: Callable[[int], None]
) -> None:
    numbers: list[int] = []

    async def answer(exchange: Exchange) -> None:
        if exchange.head.method == "POST":
            numbers.append(exchange._connection.stream.fileno())
            lose(numbers[0])
        await exchange.reply(text("here"))

    house = await open_house(nursery, answer)
    client = await house.client()
    await client.send(post(b"hello"))

    assert await client.is_closed()
    await until(lambda: not house.server.statistics.open)
    assert [record.message for record in caplog.records] == ["server.failed", "server.failed"]  # to send, to close
    if lose is give_away:
        os.close(numbers[0])  # nobody has closed the other file
    assert (await house.ask(get())).status == 200


async def test_a_descriptor_that_is_lost_while_its_connection_is_idle_is_a_failure_too(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, jumping_clock: MockClock
) -> None:
    numbers: list[int] = []

    async def answer(exchange: Exchange) -> None:
        numbers.append(exchange._connection.stream.fileno())
        await exchange.reply(text("here"))

    house = await open_house(nursery, answer, keep_alive_timeout=0.1)
    client = await house.client()
    await client.send(get())
    await client.answer()
    os.close(numbers[0])

    await until(lambda: not house.server.statistics.open)
    assert [record.message for record in caplog.records] == ["server.failed"]


async def test_a_refusal_that_comes_out_of_the_application_is_an_answer_not_a_failure(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(exchange: Exchange) -> None:
        raise Refusal(status=403, message="not you")

    client = await (await open_house(nursery, refuse)).client()
    for _ in range(2):
        await client.send(get("/x?key=1"))
        told = await client.answer()
        assert (told.status, told.body) == (403, b"refused 403 /x")
    assert caplog.records == []


async def test_an_application_that_cannot_even_refuse_costs_its_connection_only(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Desk):
        def refuse(self, refusal: Refusal, path: str) -> Reply:
            raise LookupError("no words")

    house = await open_house(nursery, desk=Broken())
    client = await house.client()
    await client.send(b"nonsense\r\n\r\n")

    assert await client.is_closed()
    assert [record.message for record in caplog.records] == ["server.failed"]
    assert (await house.ask(get())).status == 200


@pytest.mark.parametrize(
    "wrong", ["reply twice", "push before start", "finish before start", "body twice", "watch twice"]
)
async def test_a_wrong_order_of_calls_is_an_error(nursery: trio.Nursery, wrong: str) -> None:
    seen: list[str] = []

    async def answer(exchange: Exchange) -> None:
        try:
            if wrong == "reply twice":
                await exchange.reply(text("once"))
                await exchange.reply(text("twice"))
            elif wrong == "push before start":
                exchange.push(b"x")
            elif wrong == "finish before start":
                await exchange.finish()
            elif wrong == "body twice":
                await exchange.body(10)
                await exchange.body(10)
            else:
                with exchange.watch(), exchange.watch():
                    pass
        except RuntimeError as error:
            seen.append(str(error))
        if not exchange.answered:
            await exchange.reply(text("once"))

    assert (await (await open_house(nursery, answer)).ask(post(b"x"))).body == b"once"
    assert len(seen) == 1


@pytest.mark.usefixtures("both_forms")
async def test_a_cancelled_server_closes_every_connection_and_lets_cancelled_pass(nursery: trio.Nursery) -> None:
    began, cancelled = trio.Event(), trio.Event()

    async def wait(exchange: Exchange) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    async with trio.open_nursery() as own:
        house = await open_house(own, wait)
        busy, idle = await house.client(), await house.client()
        await busy.send(get())
        await until(lambda: house.server.statistics.open == 2)
        await began.wait()
        house.clients.clear()  # they outlive their house here
        own.cancel_scope.cancel()

    assert cancelled.is_set()
    assert house.server.statistics.open == 0
    for client in (busy, idle):
        assert await client.is_closed()
        client.stream.socket.close()


@pytest.mark.usefixtures("both_forms")
async def test_who_has_begun_to_ask_when_the_server_ends_is_told(
    nursery: trio.Nursery, jumping_clock: MockClock
) -> None:
    """Half a head; a whole one that nobody has read yet, also as the second on its connection; nothing, or a close."""
    async with trio.open_nursery() as own:
        house = await open_house(own)
        half, whole, second, idle, left = [await house.client() for _ in range(5)]
        await half.send(get("/half")[:14])
        await second.send(get())
        assert (await second.answer()).status == 200
        await until(lambda: house.server.statistics.open == 5)
        await trio.testing.wait_all_tasks_blocked(0.02)
        house.clients.clear()
        await left.stream.aclose()
        for client in (whole, second):
            os.write(client.stream.socket.fileno(), get("/whole"))  # no other task runs before the end
        began = trio.current_time()
        own.cancel_scope.cancel()

        async def hear(client: Client, path: str) -> None:
            told = await client.answer()
            assert (told.status, told.headers["connection"]) == (503, "close")
            assert told.body.decode() == f"refused 503 {path}"
            assert await client.is_closed()
            client.stream.socket.close()

        nursery.start_soon(hear, half, "/half")
        nursery.start_soon(hear, whole, "/whole")
        nursery.start_soon(hear, second, "/whole")
    assert trio.current_time() - began < LINGER, "it waited for those who had not asked"
    assert await idle.is_closed()
    idle.stream.socket.close()


@pytest.mark.usefixtures("both_forms")
async def test_an_answer_over_a_body_that_is_on_its_way_when_the_server_ends_can_be_read(
    nursery: trio.Nursery,
) -> None:
    began = trio.Event()

    async def answer(exchange: Exchange) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await exchange.reply(text("stopping", 503))
            raise

    async with trio.open_nursery() as own:
        house = await open_house(own, answer)
        client = await house.client()
        await client.send(post(b"x" * 100_000)[:60_000])
        await began.wait()
        house.clients.clear()
        own.cancel_scope.cancel()

        async def hear() -> None:
            told = await client.answer()
            assert (told.status, told.body) == (503, b"stopping")
            client.stream.socket.close()

        nursery.start_soon(hear)


# Drain


@pytest.mark.usefixtures("both_forms")
async def test_drain_closes_idle_connections_and_lets_the_others_end(
    nursery: trio.Nursery, jumping_clock: MockClock
) -> None:
    go_on, served = trio.Event(), trio.Event()

    async def answer(exchange: Exchange) -> None:
        if exchange.head.path == "/slow":
            served.set()
            await go_on.wait()
        await exchange.reply(text("done"))

    house = await open_house(nursery, answer)
    idle, busy, half = await house.client(), await house.client(), await house.client()
    await idle.send(get())
    await idle.answer()
    await busy.send(get("/slow"))
    await half.send(get("/half")[:-4])
    await served.wait()
    await trio.sleep(0.02)
    house.server.drain()

    assert await idle.is_closed()
    await half.send(get("/half")[-4:])
    assert (await half.answer()).headers["connection"] == "close"
    with pytest.raises(OSError):
        await house.client()
    assert not house.returned.is_set()
    go_on.set()
    told = await busy.answer()
    assert (told.body, told.headers["connection"]) == (b"done", "close")
    assert await busy.is_closed()
    with trio.fail_after(PATIENCE):
        await house.returned.wait()


def connect_unseen(house: House) -> Client:
    """A connection made while the server has no chance to run: only the kernel knows it."""
    sock = socket.create_connection(house.place)
    house.clients.append(Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock))))
    return house.clients[-1]


@pytest.mark.parametrize("count", [1, 3 * ACCEPTS_PER_TURN])
async def test_drain_serves_connections_that_were_made_before_it(
    count: int, nursery: trio.Nursery, jumping_clock: MockClock
) -> None:
    house = await open_house(nursery)
    clients = [connect_unseen(house) for _ in range(count)]
    house.server.drain()
    for client in clients:
        await client.send(get())

    for client in clients:
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.is_closed()


@pytest.mark.usefixtures("both_forms")
async def test_who_asked_a_moment_ago_may_ask_once_more_when_a_drain_begins(
    nursery: trio.Nursery, jumping_clock: MockClock
) -> None:
    house = await open_house(nursery)
    client = await house.client()
    await client.send(get())
    assert "connection" not in (await client.answer()).headers
    house.server.drain()
    await trio.sleep(0.05)  # what would be closed at once is closed by now
    await client.send(get())

    assert (await client.answer()).headers["connection"] == "close"
    assert await client.is_closed()


async def test_what_is_queued_on_a_socket_that_another_process_holds_is_left_to_it(nursery: trio.Nursery) -> None:
    ours = open_listener("127.0.0.1:0")
    with socket.socket(fileno=os.dup(ours[0].fileno())) as theirs:
        house = await open_house(nursery, sockets=ours, held=True)
        client = connect_unseen(house)
        house.server.drain()
        with trio.fail_after(PATIENCE):
            await house.returned.wait()
        theirs.settimeout(PATIENCE)
        accepted, address = theirs.accept()
        accepted.close()

    assert address == client.stream.socket.getsockname()


async def test_drain_does_not_wait_long_for_a_connection_that_never_asks(nursery: trio.Nursery) -> None:
    house = await open_house(nursery)
    seen = await house.client()
    await until(lambda: house.server.statistics.open == 1)
    unseen = connect_unseen(house)
    house.server.drain()

    assert await seen.is_closed()
    assert await unseen.is_closed()


# Listening


async def test_unix_sockets_are_served_and_have_no_peer_address(nursery: trio.Nursery, tmp_path: Path) -> None:
    async def peer(exchange: Exchange) -> None:
        await exchange.reply(text(f"[{exchange.peer}]"))

    path = tmp_path / "relayd.sock"
    house = await open_house(nursery, peer, at=f"unix:{path}")

    assert (await house.ask(get())).body == b"[]"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_an_error(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'relayd.sock'}"
    (first,) = open_listener(address)
    with pytest.raises(OSError, match=r"relayd\.sock: cannot listen: another process"):
        open_listener(address)
    first.close()
    (second,) = open_listener(address)
    second.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("kept")
    with pytest.raises(OSError, match="not a socket"):
        open_listener(f"unix:{path}")

    assert path.read_text() == "kept"


async def test_ipv6_is_served(nursery: trio.Nursery) -> None:
    async def peer(exchange: Exchange) -> None:
        await exchange.reply(text(exchange.peer))

    house = await open_house(nursery, peer, at="[::1]:0")

    assert (await house.ask(get())).body == b"::1"


def test_a_port_that_is_taken_is_an_error_with_the_address() -> None:
    (taken,) = open_listener("127.0.0.1:0")
    with taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"{address}: cannot listen") as caught:
            open_listener(address)

    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("address", ["", "3000", "localhost", "::1:3000", "127.0.0.1:99999", "127.0.0.1:x", "a:-1"])
def test_an_address_that_is_none_is_an_error(address: str) -> None:
    with pytest.raises(ValueError, match="not a listen address"):
        open_listener(address)


def test_all_addresses_share_one_free_port() -> None:
    sockets = open_listener("*:0")
    ports = {sock.getsockname()[1] for sock in sockets}
    for sock in sockets:
        sock.close()

    assert len(ports) == 1
    assert 0 not in ports


def test_a_listener_can_be_opened_again_at_once() -> None:
    (first,) = open_listener("127.0.0.1:0")
    address = f"127.0.0.1:{first.getsockname()[1]}"
    with socket.create_connection(first.getsockname()):
        first.setblocking(True)
        accepted, _ = first.accept()
        accepted.close()  # the server's side closes first: TIME_WAIT
        first.close()
        time.sleep(0.01)
    (second,) = open_listener(address)
    second.close()


async def test_a_body_that_fails_after_the_answer_began_closes_the_connection(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def answer(exchange: Exchange) -> None:
        exchange.start(200, [], length=3)
        exchange.push(b"a")
        with pytest.raises(Refusal, match="408"):
            await exchange.body(LIMIT)
        exchange.push(b"bc")
        await exchange.finish()

    client = await (await open_house(nursery, answer, body_timeout=0.1)).client()
    await client.send(post(b"hello")[:-2])

    assert (await client.answer()).body == b"abc"
    await client.send(b"lo" + get())
    assert await client.is_closed()
