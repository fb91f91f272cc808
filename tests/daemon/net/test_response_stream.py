"""The response stream: framing, fed whole, byte by byte and at random cuts."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import CHUNKED, OK

from relayd.daemon.net.connect import Origin, Resolver
from relayd.daemon.net.connection_pool import ConnectionPool, UpstreamConnection
from relayd.daemon.net.response_stream import FRAMING_LIMIT, HEADER_LIMIT, ResponseStream
from relayd.daemon.net.transport_errors import ReadError, TransportError

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ORIGIN = Origin("http", "upstream", 80)


class Feed:
    """A stream that hands out pieces and then says how the stream ended, or that nothing is there."""

    def __init__(self, pieces: list[bytes], ending: bytes | OSError | None) -> None:
        self._pieces = pieces[::-1]
        self._ending = ending
        self.closed = False

    def recv(self) -> bytes | None:
        if self._pieces:
            return self._pieces.pop()
        if isinstance(self._ending, OSError):
            raise self._ending
        return self._ending

    def send(self, data: bytes | memoryview) -> int:
        return len(data)

    def send_two(self, head: bytes, body: bytes) -> int:
        return self.send(head + body)

    async def readable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def readable_within(self, seconds: float) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def writable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def ready(self) -> None:
        await trio.lowlevel.checkpoint()

    async def carry(self, turn: Callable[[], bool]) -> None:
        while not turn():
            await self.readable()

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return -1


@attrs.frozen
class Seen:
    """All that a caller can tell of an answer. `ending`: "" after the proper end, "more" when more must come."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    ending: str
    kept: bool


def observe(pieces: list[bytes], ending: bytes | OSError | None = None, *, method: str = "POST") -> Seen:
    """Feed the pieces to an answer and read it to where it goes."""
    feed = Feed([piece for piece in pieces if piece], ending)
    spy = PoolSpy()
    answer = ResponseStream(UpstreamConnection(ORIGIN, feed), spy, bodiless=method == "HEAD")
    answer.sent = True
    body, how = b"", ""
    try:
        while (piece := answer.take()) != b"":
            if piece is None:
                how = "more"
                break
            body += piece
    except TransportError as exc:
        how = f"{type(exc).__name__}: {exc}"
    answer.close()
    headers = tuple(answer.headers) if answer.head_complete else ()
    return Seen(answer.status if answer.head_complete else 0, headers, body, how, spy.kept)


class PoolSpy(ConnectionPool):
    """A pool that only notes whether it gets a connection back for further use."""

    def __init__(self) -> None:
        super().__init__(tls=NO_TLS, proxy=None, resolver=Resolver(), idle_per_origin=1, idle_expiry=1.0)
        self.kept = False

    def give_back(self, connection: UpstreamConnection, reusable: bool) -> None:
        self.kept = reusable


def bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


HELLO = b"5\r\nhello\r\n1;ext=1\r\n!\r\n0\r\n"
# name: (method, bytes, how the connection ends, body, ending, kept)
ANSWERS: dict[str, tuple[str, bytes, bytes | None, bytes, str, bool]] = {
    "sized": ("POST", OK, None, b"hi", "", True),
    "sized, empty": ("POST", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", None, b"", "", True),
    "chunked": ("POST", CHUNKED + HELLO + b"\r\n", None, b"hello!", "", True),
    "chunked with trailers": ("POST", CHUNKED + HELLO + b"a: b\r\nc: d\r\n\r\n", None, b"hello!", "", True),
    "chunked, unfinished": ("POST", CHUNKED + HELLO, None, b"hello!", "more", False),
    "until close": ("POST", b"HTTP/1.1 200 OK\r\n\r\nhello", b"", b"hello", "", False),
    "until close, unfinished": ("POST", b"HTTP/1.1 200 OK\r\n\r\nhello", None, b"hello", "more", False),
    "HTTP/1.0": ("POST", b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", None, b"a", "", False),
    "HTTP/1.0 keep-alive": (
        "POST",
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na",
        None,
        b"a",
        "",
        True,
    ),
    "connection: close": (
        "POST",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na",
        None,
        b"a",
        "",
        False,
    ),
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", None, b"", "", True),
    "HEAD, chunked": ("HEAD", CHUNKED, None, b"", "", False),
    "204": ("POST", b"HTTP/1.1 204 No Content\r\n\r\n", None, b"", "", True),
    "304 with a length": ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", None, b"", "", True),
    "after 100 and 103": (
        "POST",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK,
        None,
        b"hi",
        "",
        True,
    ),
    "redirect": ("POST", b"HTTP/1.1 307 Go\r\nlocation: http://x/\r\ncontent-length: 1\r\n\r\na", None, b"a", "", True),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_framing_reads_the_same_whole_and_byte_by_byte(name: str) -> None:
    method, data, ending, body, how, kept = ANSWERS[name]
    whole = observe([data], ending, method=method)
    assert (whole.body, whole.ending, whole.kept) == (body, how, kept)
    assert observe(bytewise(data), ending, method=method) == whole


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 200), max_size=8))
def test_every_framing_reads_the_same_at_random_cuts(name: str, cuts: list[int]) -> None:
    method, data, ending, *_ = ANSWERS[name]
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(edges)]
    assert observe(pieces, ending, method=method) == observe([data], ending, method=method)


BROKEN: dict[str, bytes] = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\na",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na",
    "length no number": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\na",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 1\n\na",
    "folded header": b"HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
    "blank in a name": b"HTTP/1.1 200 OK\r\na : b\r\n\r\n",
    "NUL in a value": b"HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "gzip coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
    "chunks in HTTP/1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\ncontent-length: 1\r\n\r\na",
    "status 099": b"HTTP/1.1 099 Odd\r\ncontent-length: 1\r\n\r\na",
    "101 with upgrade": b"HTTP/1.1 101 Switch\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "101 without": b"HTTP/1.1 101 Switch\r\n\r\n",
    "long head": b"HTTP/1.1 200 OK\r\na: " + b"x" * FRAMING_LIMIT + b"\r\ncontent-length: 0\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\na: " + b"x" * (3 * FRAMING_LIMIT),
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * HEADER_LIMIT + b"content-length: 0\r\n\r\n",
    "endless 1xx": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 4000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_head_is_a_protocol_error_and_no_answer(name: str) -> None:
    data = BROKEN[name]
    reads = [data[begin : begin + 50000] for begin in range(0, len(data), 50000)]
    for pieces in (reads, [data[:7], data[7:40], *[data[b : b + 30000] for b in range(40, len(data), 30000)]]):
        seen = observe(pieces)
        assert seen.ending.startswith(
            ("RemoteProtocolError: http://upstream:80: ", "Disconnected: http://upstream:80: ")
        )
        assert (seen.status, seen.body, seen.kept) == (0, b"", False)


@pytest.mark.parametrize(
    "data", [b"5\r\nhelloX", b"zz\r\n", b"ffffffffffffffffff\r\n", b"5\nhello\r\n", b"-1\r\n", b"5 \r\nhello"]
)
def test_broken_chunks_end_the_body_with_an_error_after_what_was_good(data: bytes) -> None:
    whole = observe([CHUNKED + b"3\r\nabc\r\n" + data])
    assert whole.body in (b"abc", b"abchello")
    assert whole.ending.startswith("RemoteProtocolError: http://upstream:80: broken answer: ")
    assert not whole.kept
    assert observe(bytewise(CHUNKED + b"3\r\nabc\r\n" + data)) == whole


@pytest.mark.parametrize("tail", [b"1;" + b"x" * 300000, b"0\r\na: " + b"x" * 300000])
def test_framing_without_end_is_not_read_for_ever(tail: bytes) -> None:
    pieces = [tail[begin : begin + 20000] for begin in range(0, len(tail), 20000)]
    seen = observe([CHUNKED + b"3\r\nabc\r\n", *pieces])
    assert seen.ending == "RemoteProtocolError: http://upstream:80: too much framing without a byte of body"
    assert seen.body == b"abc"


@pytest.mark.parametrize("cut", range(len(CHUNKED + HELLO + b"\r\n")))
def test_a_cut_at_any_byte_is_an_error(cut: int) -> None:
    data = (CHUNKED + HELLO + b"\r\n")[:cut]
    ended = observe([data], b"")
    assert ended.ending.startswith("Disconnected: http://upstream:80: c")
    assert b"hello!".startswith(ended.body)
    assert observe(bytewise(data), b"") == ended
    reset = observe([data], ConnectionResetError(104, "Connection reset by peer"))
    assert reset.ending == "ReadError: http://upstream:80: connection reset by peer"
    assert not ended.kept
    assert not reset.kept


def test_an_end_without_close_notify_cuts_a_body_that_only_the_end_delimits() -> None:
    seen = observe([b"HTTP/1.1 200 OK\r\n\r\nhello"], ssl.SSLEOFError(8, "EOF occurred in violation of protocol"))
    assert seen.ending == "RemoteProtocolError: http://upstream:80: tls: cut without close_notify"
    assert seen.body == b"hello"


@pytest.mark.parametrize("surplus", [b"H", b"x", OK, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
@pytest.mark.parametrize("name", ["sized", "chunked", "204", "HEAD"])
def test_surplus_bytes_are_no_body_and_spoil_the_connection(name: str, surplus: bytes) -> None:
    method, data, _, body, _, _ = ANSWERS[name]
    seen = observe([data + surplus], method=method)
    assert (seen.body, seen.ending, seen.kept) == (body, "", False)


def test_header_names_are_lower_case_and_values_are_trimmed_and_repeats_and_empty_ones_stay() -> None:
    seen = observe(
        [b"HTTP/1.1 200 OK\r\nX-A: 1 \t\r\nSet-Cookie: a\r\nset-cookie: b\r\nE:\r\nContent-Length: 0\r\n\r\n"]
    )
    assert seen.headers == (
        (b"x-a", b"1"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"e", b""),
        (b"content-length", b"0"),
    )


def test_headers_of_a_1xx_and_trailers_are_not_the_answers() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    seen = observe([early + CHUNKED + b"0\r\ntrailer: x\r\n\r\n"])
    assert seen.headers == ((b"transfer-encoding", b"chunked"),)


def test_an_answer_to_a_request_that_was_not_sent_whole_is_not_followed_by_another() -> None:
    spy = PoolSpy()
    answer = ResponseStream(UpstreamConnection(ORIGIN, Feed([OK], None)), spy, bodiless=False)
    assert answer.take() == b"hi"
    answer.close()
    assert not spy.kept


def test_a_closed_answer_is_read_no_more() -> None:
    answer = ResponseStream(UpstreamConnection(ORIGIN, Feed([CHUNKED, b"1\r\na\r\n"], None)), PoolSpy(), bodiless=False)
    answer.poll()
    answer.close()
    with pytest.raises(ReadError, match="closed by us"):
        answer.take()
