"""The HTTP client, on trio and httptools, one connection a call.

Rule: nothing is followed, stored, decompressed or read from the environment: no redirects, cookies, netrc, proxies.

Theory: a request is encoded to bytes, a connection is taken from the pool or made, the bytes are written while an eye
is kept on an early answer, and the head is awaited. From then on the caller holds a `ResponseStream`, which is a
`BodySource`. A reused connection that dies before a byte of answer was read had been closed by the upstream meanwhile,
and is replaced once, free; nothing else is retried here. Yet nobody can know: it may have died while it served the
request, so what must not be done twice never goes out on one. `httpx2_transport` is the same client for
whoever speaks httpx2.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Mapping
from contextlib import aclosing

import trio

from relayd.daemon.net.connect import Origin, Resolver, cause, parse_proxy
from relayd.daemon.net.connection_pool import ConnectionPool, PoolStatistics, UpstreamConnection
from relayd.daemon.net.request import PlainRequest, UpstreamAnswer, encode
from relayd.daemon.net.response_stream import ResponseStream
from relayd.daemon.net.transport_errors import ReadError, ReadTimeout, RemoteProtocolError, SendError, WriteTimeout

# Up to so many body bytes are joined with the request head; beyond it, joining costs more than a list of two.
JOIN_LIMIT = 65536


class Transport:
    """HTTP/1.1 upstream. Response header names are lower-case.

    Close every answer, or cancel inside `ask`: each gives its connection back. There is no limit to the connections and
    no queue for them; how many calls may run is the caller's business.

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
        self._pool = ConnectionPool(
            tls=tls,
            proxy=parse_proxy(proxy) if proxy else None,
            resolver=resolver or Resolver(),
            idle_per_origin=idle_per_origin,
            idle_expiry=idle_expiry,
        )

    async def ask(self, request: PlainRequest) -> ResponseStream:
        """Send `request` and wait for the head of its answer, which is returned whatever its status. Close the answer.

        Raises: ConnectError, ConnectTimeout, ProxyError: no connection; SendError, WriteTimeout: the request was not
            sent whole; ReadTimeout, ReadError, RemoteProtocolError: no answer, or none that can be read;
            LocalProtocolError: `request` cannot be said in HTTP/1.1. Texts name the origin and the cause, never a
            header or a credential.
        """
        head, origin = encode(request), request.target.origin
        connection = self._pool.take_idle(origin, trio.current_time()) if request.repeatable else None
        if connection is not None:
            answer = await self._exchange(connection, request, head)
            if answer is not None:
                return answer
            self._pool.retried += 1
        connection = await self._pool.connect(origin, _seconds(request.timeout, "connect"))
        answer = await self._exchange(connection, request, head)
        assert answer is not None, "only a reused connection can be stale"
        return answer

    async def _exchange(
        self, connection: UpstreamConnection, request: PlainRequest, head: bytes
    ) -> ResponseStream | None:
        """One request and the head of its answer over `connection`; None when that one turns out to be stale.

        The connection belongs to the answer then; if there is none, it is closed here.
        """
        origin, timeout = request.target.origin, request.timeout
        answer = ResponseStream(
            connection, self._pool, bodiless=request.method == "HEAD", read_timeout=_seconds(timeout, "read")
        )
        try:
            if connection.origin != origin:
                raise AssertionError(f"a connection to {connection.origin} is not for {origin}")
            await _send(answer, connection, head, request.body, _seconds(timeout, "write"))
            if not answer.head_complete and answer.failure is None:
                patience = _seconds(timeout, "first_byte" if "first_byte" in timeout else "read")
                await _await_head(answer, origin, patience)
            if answer.failure is not None and not answer.head_complete:
                raise answer.fault()
        except (ReadError, SendError, RemoteProtocolError):
            answer.close()
            if connection.reused and not answer.received:
                return None
            raise
        except BaseException:
            answer.close()
            raise
        return answer

    def sweep(self, now: float) -> None:
        """Close the idle connections that have expired at `now` (trio's time, s). Call it every few seconds."""
        self._pool.sweep(now)

    def statistics(self) -> PoolStatistics:
        """The figures at this moment."""
        return self._pool.statistics()

    def close(self) -> None:
        """Close the idle connections and keep none from now on. Calls in flight, and even new ones, are served."""
        self._pool.close()


async def read_at_most(answer: UpstreamAnswer, limit: int) -> bytes:
    """The first `limit` bytes of an answer's body; the answer is closed. Raises: TransportError."""
    body = b""
    try:
        async with aclosing(answer.__aiter__()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) >= limit:
                    break
    finally:
        answer.close()
    return body[:limit]


def _seconds(timeout: Mapping[str, float | None], kind: str) -> float:
    seconds = timeout.get(kind)
    return math.inf if seconds is None else seconds


async def _send(
    answer: ResponseStream, connection: UpstreamConnection, head: bytes, body: bytes, patience: float
) -> None:
    """Write the request, unless an answer comes first: then the rest is not sent, and `answer.sent` stays False.

    Raises: WriteTimeout after `patience` s without progress; SendError.
    """
    stream = connection.stream
    try:
        taken = stream.send(head + body) if len(body) <= JOIN_LIMIT else stream.send_two(head, body)
        if taken < len(head) + len(body):
            for rest in (memoryview(head)[taken:], memoryview(body)[max(taken - len(head), 0) :]):
                if not await _send_rest(answer, connection, rest, patience):
                    return
    except OSError as exc:
        # The upstream may have answered and closed, as after a 413; what it said is still in the socket.
        while answer.poll() and not answer.head_complete and answer.failure is None:
            pass
        if not answer.head_complete:
            raise SendError(f"{connection.origin}: {cause(exc)}") from exc
        return
    answer.sent = True


async def _send_rest(answer: ResponseStream, connection: UpstreamConnection, rest: memoryview, patience: float) -> bool:
    """Write what was not taken at once; False when an answer or its failure came before the end.

    Raises: OSError, WriteTimeout.
    """
    while rest:
        with trio.move_on_after(patience) as scope:
            await connection.stream.ready()
        if scope.cancelled_caught:
            raise WriteTimeout(f"{connection.origin}: took no byte of the request for {patience:g} s")
        answer.poll()
        if answer.head_complete or answer.failure is not None:
            return False
        rest = rest[connection.stream.send(rest) :]
    return True


async def _await_head(answer: ResponseStream, origin: Origin, patience: float) -> None:
    """Read until the head is complete or broken. Raises: ReadTimeout after `patience` s."""
    left, due = patience, trio.current_time() + patience
    while await answer.wait_within(left):  # first: an answer is never there as soon as its request is sent
        answer.poll()
        if answer.head_complete or answer.failure is not None:
            return
        left = max(0.0, due - trio.current_time())
    raise ReadTimeout(f"{origin}: no answer in {patience:g} s")
