"""The way upstream: an httpx2 transport on trio and httptools, one connection a call.

Rule: an answer is worth what its framing is worth. A connection goes back to the idle ones only after a complete,
exactly framed answer to a completely sent request; on any doubt, error or cancellation it is closed, and closing is
sync. Nothing is followed, stored, decompressed or read from the environment: no redirects, cookies, netrc, proxies.

Theory: a request is encoded to bytes, a connection is taken (`_take_idle`, one plain decision) or dialled, the bytes
are written while an eye is kept on an early answer, and the head is awaited. From then on the caller holds a
`ResponseStream`, which is a `BodySource`: each `take` is one recv, one pass of the parser, one piece of body. Only one
read is ever held, so a slow client makes the upstream block. A reused connection that dies before a byte of answer was
read had been closed by the upstream meanwhile, and is replaced once, free; nothing else is retried here.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Mapping

import attrs
import httptools
import httpx2
import trio

from relayd.daemon.net.connect import ConnectFailed, Origin, ProxyRefused, Resolver, cause, dial, parse_proxy
from relayd.daemon.net.stream import Stream
from relayd.wire.http import HeaderPairs

# A response head, and any other run of bytes without body in it (trailers, chunk extensions, 1xx), bytes. llhttp has
# no bound of its own. Claude API heads are about 1 KiB.
FRAMING_LIMIT = 65536
HEADER_LIMIT = 256
# Body bytes that travel in one write with the request head. Beyond it, joining costs more than a second write.
JOIN_LIMIT = 65536
DEFAULT_PORTS = {"http": 80, "https": 443}


class Disconnected(httpx2.RemoteProtocolError):
    """The upstream closed the connection before its answer was whole; what came until then was HTTP."""


class Body(httpx2.ByteStream):
    """A request body that is whole, and can be had without iterating."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


def build_request(
    method: str, url: httpx2.URL, headers: HeaderPairs, body: bytes, timeout: Mapping[str, float | None]
) -> httpx2.Request:
    """A request in its cheapest form (4 us; `content=` costs 15).

    Args:
        url: keep it and use it again: parsing one costs more than the rest.
        timeout: s, for "connect" (look-up, connect, proxy and TLS together), "write" (no progress while sending) and
            "first_byte" (from the request sent to the end of the response head); None or absent means none.
    """
    return httpx2.Request(method, url, headers=headers, stream=Body(body), extensions={"timeout": timeout})


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """What a transport holds open now (`dialing`, `busy`, `idle`), and what it has done since it was made."""

    dialing: int
    busy: int
    idle: int
    dialed: int
    reused: int
    retried: int


@attrs.define(eq=False)
class UpstreamConnection:
    """A link to an origin, bound to it. `idle_since`: trio's time, s."""

    origin: Origin
    link: Stream
    reused: bool = False
    idle_since: float = 0.0

    def is_quiet(self) -> bool:
        """Whether it may be used again: open, and the upstream has said nothing unasked (TLS tickets aside)."""
        try:
            return self.link.recv() is None
        except OSError:
            return False


class ResponseStream(httpx2.AsyncByteStream):
    """An upstream's answer: the parser's view of it, and a `link.Source` for its body.

    The methods called `on_...` are the parser's; they never raise, because what they raise reaches us only as the
    context of another exception. What is wrong goes to `_failure`, and text read before it is still handed out.
    """

    def __init__(self, connection: UpstreamConnection, transport: Transport, *, bodiless: bool) -> None:
        self.status = 0
        self.headers: HeaderPairs = []
        self.head_complete = False
        self.received = 0  # bytes of answer read so far
        self.sent = False  # the request, to its end
        self._connection = connection
        self._transport = transport
        self._bodiless = bodiless  # the answer to a HEAD: its content-length is not of this message
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._framing = 0  # bytes since the last one of body
        self._until_end = False  # neither sized nor chunked: the end of the connection is the end of the body
        self._keep_alive = False
        self._ended = False
        self._failure: httpx2.TransportError | None = None
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

    # What the link says.

    def poll(self) -> bool:
        """One read, if there is anything; whether there was (bytes, the end, or an error)."""
        try:
            data = self._connection.link.recv()
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
        kind = httpx2.RemoteProtocolError if isinstance(exc, ssl.SSLEOFError) else httpx2.ReadError
        self._failure = kind(f"{self._connection.origin}: {cause(exc)}")
        self._failure.__cause__ = exc

    def _fail(self, why: str, kind: type[httpx2.RemoteProtocolError] = httpx2.RemoteProtocolError) -> None:
        if self._failure is None:
            self._failure = kind(f"{self._connection.origin}: {why}")

    @property
    def failure(self) -> httpx2.TransportError | None:
        """What broke it, if anything has."""
        return self._failure

    # Source.

    def take(self) -> bytes | None:
        """As `link.Source.take`. At most `READ_SIZE` bytes are ever held."""
        parts = self._parts
        while not parts:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            if not self.poll():
                return None
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return body

    async def wait(self) -> None:
        """As `link.Source.wait`."""
        if self._parts or self._ended or self._failure is not None:
            await trio.lowlevel.checkpoint()
        else:
            await self._connection.link.readable()

    def close(self) -> None:
        """As `link.Source.close`."""
        if self._closed:
            return
        self._closed = True
        whole = self._ended and self.sent and self._failure is None
        self._parser = None  # it refers to us; without it no cycle is left for the garbage collector
        if not self._ended and self._failure is None:
            self._failure = httpx2.ReadError(f"{self._connection.origin}: closed by us")
        self._transport._give_back(self._connection, whole and self._keep_alive)

    # AsyncByteStream, for those who use the response as httpx2 does.

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := self.take()) != b"":
            if piece is None:
                await self.wait()
            else:
                yield piece

    async def aclose(self) -> None:
        self.close()


class Transport(httpx2.AsyncBaseTransport):
    """HTTP/1.1 upstream. `response.stream` is an `ResponseStream`; response header names are lower-case.

    Close every response, or cancel inside `handle_async_request`: each gives its connection back. There is no limit
    to the connections and no queue for them; how many calls may run is the caller's business.

    Args:
        tls: the trust policy; see `tls.shared_context`.
        proxy: an http, https or socks5 URL; "" for none.
        idle_per_origin: idle connections kept for each origin; the oldest goes first.
        idle_expiry: s that a connection may be idle; below the 5 s after which the commonest servers (Node.js,
            uvicorn) close one, so that a call seldom meets a connection that is just being closed.
        resolver: shared between transports where there are several.

    Raises: ValueError when `proxy` cannot be read.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext,
        proxy: str = "",
        idle_per_origin: int = 32,
        idle_expiry: float = 4.0,
        resolver: Resolver | None = None,
    ) -> None:
        self._tls = tls
        self._proxy = parse_proxy(proxy) if proxy else None
        self._idle_per_origin = idle_per_origin
        self._idle_expiry = idle_expiry
        self._resolver = resolver or Resolver()
        self._idle: dict[Origin, list[UpstreamConnection]] = {}
        self._closed = False
        self._dialing = self._busy = self._dialed = self._reused = self._retried = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send `request` and wait for the head of its answer, which is returned whatever its status.

        Raises: httpx2.ConnectError, ConnectTimeout, ProxyError: no connection; WriteError, WriteTimeout: the request
            was not sent whole; ReadTimeout, ReadError, RemoteProtocolError: no answer, or none that can be read;
            LocalProtocolError, UnsupportedProtocol: `request` cannot be said in HTTP/1.1. Texts name the origin and
            the cause, never a header or a credential.
        """
        origin = origin_of(request.url)
        stream = request.stream
        body = stream.data if isinstance(stream, Body) else await body_of(request)
        head = encode(request, body)
        timeout = request.extensions.get("timeout") or {}
        connection = self._take_idle(origin, trio.current_time())
        if connection is not None:
            self._reused += 1
            response = await self._exchange(connection, origin, request.method, head, body, timeout)
            if response is not None:
                return response
            self._retried += 1
        connection = await self._dial(origin, timeout)
        response = await self._exchange(connection, origin, request.method, head, body, timeout)
        assert response is not None, "only a reused connection can be stale"
        return response

    def _take_idle(self, origin: Origin, now: float) -> UpstreamConnection | None:
        """The connection to `origin` that was used last, if it is fresh and quiet. Those found unfit are closed."""
        stack = self._idle.get(origin)
        while stack:
            connection = stack.pop()
            if now - connection.idle_since < self._idle_expiry and connection.is_quiet():
                connection.reused = True
                self._busy += 1
                return connection
            connection.link.close()
        return None

    async def _dial(self, origin: Origin, timeout: Mapping[str, float | None]) -> UpstreamConnection:
        self._dialing += 1
        try:
            with trio.fail_after(_seconds(timeout, "connect")):
                link = await dial(origin, tls=self._tls, resolver=self._resolver, proxy=self._proxy)
        except trio.TooSlowError as exc:
            raise httpx2.ConnectTimeout(f"{origin}: not connected in {timeout['connect']:g} s") from exc
        except ProxyRefused as exc:
            raise httpx2.ProxyError(str(exc)) from exc
        except ConnectFailed as exc:
            raise httpx2.ConnectError(str(exc)) from exc
        finally:
            self._dialing -= 1
        self._dialed += 1
        self._busy += 1
        return UpstreamConnection(origin, link)

    async def _exchange(
        self,
        connection: UpstreamConnection,
        origin: Origin,
        method: str,
        head: bytes,
        body: bytes,
        timeout: Mapping[str, float | None],
    ) -> httpx2.Response | None:
        """One request and the head of its answer over `connection`; None when that one turns out to be stale.

        The connection belongs to the response's stream then; if there is none, it is closed here.
        """
        answer = ResponseStream(connection, self, bodiless=method == "HEAD")
        try:
            if connection.origin != origin:
                raise AssertionError(f"a connection to {connection.origin} is not for {origin}")
            await _send(answer, connection, head, body, _seconds(timeout, "write"))
            if not answer.head_complete and answer.failure is None:
                await _await_head_until(answer, origin, _seconds(timeout, "first_byte"))
            if answer.failure is not None and not answer.head_complete:
                raise answer.failure
        except (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError):
            answer.close()
            if connection.reused and not answer.received:
                return None
            raise
        except BaseException:
            answer.close()
            raise
        return httpx2.Response(answer.status, headers=answer.headers, stream=answer)

    def _give_back(self, connection: UpstreamConnection, reusable: bool) -> None:
        """End of a call: keep the connection or close it."""
        self._busy -= 1
        if not reusable or self._closed or not self._idle_per_origin:
            connection.link.close()
            return
        stack = self._idle.setdefault(connection.origin, [])
        if len(stack) >= self._idle_per_origin:
            stack.pop(0).link.close()
        connection.idle_since = trio.current_time()
        stack.append(connection)

    def sweep(self, now: float) -> None:
        """Close the idle connections that have expired at `now` (trio's time, s). Call it every few seconds."""
        for origin, stack in list(self._idle.items()):
            while stack and now - stack[0].idle_since >= self._idle_expiry:
                stack.pop(0).link.close()
            if not stack:
                del self._idle[origin]

    def statistics(self) -> PoolStatistics:
        """The figures at this moment."""
        return PoolStatistics(
            dialing=self._dialing,
            busy=self._busy,
            idle=sum(map(len, self._idle.values())),
            dialed=self._dialed,
            reused=self._reused,
            retried=self._retried,
        )

    def close(self) -> None:
        """Close the idle connections and keep none from now on. Calls in flight, and even new ones, are served."""
        self._closed = True
        self.sweep(math.inf)

    async def aclose(self) -> None:
        self.close()


def _seconds(timeout: Mapping[str, float | None], kind: str) -> float:
    seconds = timeout.get(kind)
    return math.inf if seconds is None else seconds


def origin_of(url: httpx2.URL) -> Origin:
    """Where a request goes. Raises: httpx2.UnsupportedProtocol."""
    scheme = url.scheme
    host = url.raw_host.decode("ascii")
    if scheme not in DEFAULT_PORTS or not host:
        raise httpx2.UnsupportedProtocol("url: not a URL we can call (want http://host or https://host)")
    return Origin(scheme, host, url.port or DEFAULT_PORTS[scheme])


async def body_of(request: httpx2.Request) -> bytes:
    """The whole body of a request that `build_request` did not make."""
    return request.read() if isinstance(request.stream, httpx2.SyncByteStream) else await request.aread()


def encode(request: httpx2.Request, body: bytes) -> bytes:
    """The request's head. Headers go as they are; `host` and `content-length` are added if absent.

    Raises: httpx2.LocalProtocolError on what would not be one request, such as a line break in a value.
    """
    # The body is whole, so it goes with its length and never with a transfer coding.
    pairs = [pair for pair in request.headers.raw if pair[0].lower() != b"transfer-encoding"]
    names = {name.lower(): value for name, value in pairs}
    if b"host" not in names:
        pairs.insert(0, (b"host", request.url.netloc))
    length = b"%d" % len(body)
    if b"content-length" not in names:
        if body or request.method in ("POST", "PUT", "PATCH"):
            pairs.append((b"content-length", length))
    elif sum(name.lower() == b"content-length" for name, _ in pairs) > 1 or names[b"content-length"] != length:
        raise httpx2.LocalProtocolError(f"request headers: content-length: want one, of {len(body)}")
    block = b"\r\n".join([name + b": " + value for name, value in pairs])
    head = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (request.method.encode("ascii"), request.url.raw_path, block)
    breaks = len(pairs) + 2
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise httpx2.LocalProtocolError("request: line break or NUL in the method, a header name or a value")
    return head


async def _send(
    answer: ResponseStream, connection: UpstreamConnection, head: bytes, body: bytes, patience: float
) -> None:
    """Write the request, unless an answer comes first: then the rest is not sent, and `answer.sent` stays False.

    Raises: httpx2.WriteTimeout after `patience` s without progress; httpx2.WriteError.
    """
    pieces = [head + body] if len(body) <= JOIN_LIMIT else [head, body]
    try:
        for piece in pieces:
            if not await _send_piece(answer, connection, piece, patience):
                return
    except OSError as exc:
        # The upstream may have answered and closed, as after a 413; what it said is still in the socket.
        while answer.poll() and not answer.head_complete and answer.failure is None:
            pass
        if not answer.head_complete:
            raise httpx2.WriteError(f"{connection.origin}: {cause(exc)}") from exc
        return
    answer.sent = True


async def _send_piece(answer: ResponseStream, connection: UpstreamConnection, piece: bytes, patience: float) -> bool:
    """Write all of `piece`; False when an answer or its failure came before the end. Raises: OSError, WriteTimeout."""
    taken = connection.link.send(piece)
    rest = memoryview(piece)[taken:]
    while rest:
        with trio.move_on_after(patience) as scope:
            await _either(connection.link)
        if scope.cancelled_caught:
            raise httpx2.WriteTimeout(f"{connection.origin}: took no byte of the request for {patience:g} s")
        answer.poll()
        if answer.head_complete or answer.failure is not None:
            return False
        rest = rest[connection.link.send(rest) :]
    return True


async def _either(link: Stream) -> None:
    """Wait until `link` is readable or writable."""
    async with trio.open_nursery() as nursery:

        async def wait_readable() -> None:
            await link.readable()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_readable)
        await link.writable()
        nursery.cancel_scope.cancel()


async def _await_head(answer: ResponseStream) -> None:
    """Read until the head is complete or broken."""
    while not answer.head_complete and answer.failure is None:
        await answer.wait()  # first: an answer is never there as soon as its request is sent
        answer.poll()


async def _await_head_until(answer: ResponseStream, origin: Origin, patience: float) -> None:
    """As `_await_head`. Raises: httpx2.ReadTimeout after `patience` s."""
    if patience == math.inf:  # the caller has a deadline of its own; a second one costs some 15 us
        await _await_head(answer)
        return
    with trio.move_on_after(patience) as scope:
        await _await_head(answer)
    if scope.cancelled_caught:
        raise httpx2.ReadTimeout(f"{origin}: no answer in {patience:g} s")
