"""The response stream: an upstream's answer as it is read from its connection, framing removed.

Rule: an answer is worth what its framing is worth. Only after a complete, exactly framed answer to a completely sent
request does the connection go back to the pool; on any doubt, error or cancellation it is closed, and closing is sync.
Nothing is decompressed.

Theory: each `take` is one recv, one pass of the parser, one piece of body. Only one read is ever held, so a slow client
makes the upstream block.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncGenerator, Callable

import httptools
import trio

from relayd.daemon.net.connect import cause
from relayd.daemon.net.connection_pool import ConnectionPool, UpstreamConnection
from relayd.daemon.net.transport_errors import Disconnected, ReadError, ReadTimeout, RemoteProtocolError, TransportError
from relayd.wire.http import HeaderPairs

# A response head, and any other run of bytes without body in it (trailers, chunk extensions, 1xx), bytes. llhttp has
# no bound of its own. Claude API heads are about 1 KiB.
FRAMING_LIMIT = 65536
HEADER_LIMIT = 256


class ResponseStream:
    """An upstream's answer: the parser's view of it, and a `BodySource` for its body.

    The methods called `on_...` are the parser's; they never raise, because what they raise reaches us only as the
    context of another exception. What is wrong goes to `_failure`, and text read before it is still handed out.
    """

    def __init__(
        self,
        connection: UpstreamConnection,
        pool: ConnectionPool,
        *,
        bodiless: bool,
        read_timeout: float = math.inf,
    ) -> None:
        self.status = 0
        self.headers: HeaderPairs = []
        self.head_complete = False
        self.received = 0  # bytes of answer read so far
        self.sent = False  # the request, to its end
        self._connection = connection
        self._pool = pool
        self._read_timeout = read_timeout  # s between pieces, when iterated
        self._bodiless = bodiless  # the answer to a HEAD: its content-length is not of this message
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._framing = 0  # bytes since the last one of body
        self._until_end = False  # neither sized nor chunked: the end of the connection is the end of the body
        self._keep_alive = False
        self._ended = False
        self._failure: TransportError | None = None
        self._closed = False

    # What the parser says.

    def on_message_begin(self) -> None:
        if self._ended:
            self._keep_alive = False  # bytes after the end: nothing on this connection is to be trusted

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_complete:  # else a trailer
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._ended or self._failure or self._parser is None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return  # on_message_complete follows at once
        self.status = status
        self._read_framing(self._parser)
        self.head_complete = self._failure is None
        self._ended = self.head_complete and self._bodiless

    def _read_framing(self, parser: httptools.HttpResponseParser) -> None:
        """How the body ends (RFC 9112 section 6.3), as far as llhttp leaves it to us."""
        codings, sized = [], False
        for name, value in self.headers:
            if name == b"content-length":
                sized = True
            elif name == b"transfer-encoding":
                codings.append(value.lower())
        version = parser.get_http_version()
        if self.status < 200 or version not in ("1.1", "1.0"):
            self._fail(f"not an answer to this request: status {self.status}, HTTP/{version}")
        elif codings and (codings != [b"chunked"] or version == "1.0"):
            self._fail("transfer coding not supported")
        elif len(self.headers) > HEADER_LIMIT or self._head_too_large():
            self._fail("response head too large")
        self._until_end = not codings and not sized
        # The answer to a HEAD that announces chunks: llhttp expects them, so surplus bytes might go unnoticed.
        self._keep_alive = parser.should_keep_alive() and not (self._bodiless and codings)

    def _head_too_large(self) -> bool:
        """Whether the head, read in several pieces or in one with body, is beyond its bound."""
        if self.received <= FRAMING_LIMIT:
            return False
        return sum(len(name) + len(value) + 4 for name, value in self.headers) > FRAMING_LIMIT

    def on_body(self, piece: bytes) -> None:
        if self._ended:
            self._keep_alive = False
        elif not self._failure:
            self._parts.append(piece)

    def on_message_complete(self) -> None:
        if self.head_complete:
            self._ended = True
        else:  # 1xx: what it said is not for the final answer
            self.headers.clear()

    # What the stream says.

    def poll(self) -> bool:
        """One read, if there is anything; whether there was (bytes, the end, or an error)."""
        try:
            data = self._connection.stream.recv()
        except OSError as exc:
            self._break(exc)
            return True
        if data is None:
            return False
        if data:
            self._feed(data)
        else:
            self._end_of_stream()
        return True

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None, "a closed answer is not read"
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._keep_alive = False
            if not self._ended:
                self._fail(f"broken answer: {str(exc).lower()}")
        if self._parts:
            self._framing = 0
        elif not self._ended:
            self._framing += len(data)
            if self._framing > FRAMING_LIMIT:
                self._fail("too much framing without a byte of body" if self.status else "response head too large")

    def _end_of_stream(self) -> None:
        self._keep_alive = False
        if self._until_end and self.head_complete:
            self._ended = True
        elif not self._ended:
            self._fail("cut off" if self.received else "closed the connection without an answer", Disconnected)

    def _break(self, exc: OSError) -> None:
        kind = RemoteProtocolError if isinstance(exc, ssl.SSLEOFError) else ReadError
        self._failure = kind(f"{self._connection.origin}: {cause(exc)}")
        self._failure.__cause__ = exc.with_traceback(None)  # whose frames hold us

    def _fail(self, why: str, kind: type[RemoteProtocolError] = RemoteProtocolError) -> None:
        if self._failure is None:
            self._failure = kind(f"{self._connection.origin}: {why}")

    @property
    def failure(self) -> TransportError | None:
        """What broke it, if anything has."""
        return self._failure

    def fault(self) -> TransportError:
        """What broke it, to be raised: a fresh one each time, for one that we kept would keep us, by its frames."""
        kept = self._failure
        assert kept is not None
        fresh = type(kept)(*kept.args)
        fresh.__cause__ = kept.__cause__
        return fresh

    # Source.

    def take(self) -> bytes | None:
        """As `BodySource.take`. At most `READ_SIZE` bytes are ever held."""
        parts = self._parts
        while not parts:
            if self._failure is not None:
                raise self.fault()
            if self._ended:
                return b""
            if not self.poll():
                return None
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return body

    async def wait(self) -> None:
        """As `BodySource.wait`."""
        await self.wait_within(math.inf)

    async def wait_within(self, seconds: float) -> bool:
        """As `wait`; False when there was nothing for so long."""
        if self._parts or self._ended or self._failure is not None:
            await trio.lowlevel.checkpoint()
            return True
        return await self._connection.stream.readable_within(seconds)

    async def carry(self, turn: Callable[[], bool]) -> None:
        """As `BodySource.carry`."""
        await self._connection.stream.carry(turn)

    def close(self) -> None:
        """As `BodySource.close`."""
        if self._closed:
            return
        self._closed = True
        whole = self._ended and self.sent and self._failure is None
        self._parser = None  # it refers to us; without it no cycle is left for the garbage collector
        if not self._ended and self._failure is None:
            self._failure = ReadError(f"{self._connection.origin}: closed by us")
        self._pool.give_back(self._connection, whole and self._keep_alive)

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """The pieces of the body. Raises: TransportError."""
        while (piece := self.take()) != b"":
            if piece is None:
                await self._wait_in_time()
            else:
                yield piece

    async def _wait_in_time(self) -> None:
        """As `wait`. Raises: ReadTimeout."""
        if not await self.wait_within(self._read_timeout):
            raise ReadTimeout(f"{self._connection.origin}: no byte for {self._read_timeout:g} s")
