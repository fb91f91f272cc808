"""Requests upstream: as httpx2 has them, as the relay does, and as bytes.

Rule: what is sent is one request, whatever its headers hold: a line break or a second length is an error, and the body
goes with its length, never with a transfer coding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import httpx2

from relayd.daemon.net.connect import Origin
from relayd.wire.http import HeaderPairs

DEFAULT_PORTS = {"http": 80, "https": 443}


class Body(httpx2.ByteStream):
    """A request body that is whole, and can be had without iterating."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


def build_request(
    method: str,
    url: httpx2.URL,
    headers: HeaderPairs,
    body: bytes,
    timeout: Mapping[str, float | None],
    *,
    repeatable: bool = True,
) -> httpx2.Request:
    """A request in its cheapest form (4 us; `content=` costs 15).

    Args:
        url: keep it and use it again: parsing one costs more than the rest.
        timeout: s, for "connect" (look-up, connect, proxy and TLS together), "write" (no progress while sending) and
            "first_byte" (from the request sent to the end of the response head); None or absent means none.
        repeatable: whether doing it twice is harmless; else it goes out on a connection of its own.
    """
    extensions = {"timeout": timeout} if repeatable else {"timeout": timeout, "repeatable": False}
    return httpx2.Request(method, url, headers=headers, stream=Body(body), extensions=extensions)


class RequestTarget(NamedTuple):
    """Where a request goes: the origin, and what the request line and the host header say."""

    origin: Origin
    path: bytes
    host: bytes


class PlainRequest(NamedTuple):
    """A request without httpx2's nouns, for whoever sends one per call. The fields are those of `build_request`."""

    method: str
    target: RequestTarget
    headers: HeaderPairs
    body: bytes
    timeout: Mapping[str, float | None]
    repeatable: bool = True


def target_of(url: httpx2.URL) -> RequestTarget:
    """What a URL says to a client. Raises: httpx2.UnsupportedProtocol."""
    scheme = url.scheme
    host = url.raw_host.decode("ascii")
    if scheme not in DEFAULT_PORTS or not host:
        raise httpx2.UnsupportedProtocol("url: not a URL we can call (want http://host or https://host)")
    return RequestTarget(Origin(scheme, host, url.port or DEFAULT_PORTS[scheme]), url.raw_path, url.netloc)


async def plain(request: httpx2.Request) -> PlainRequest:
    """The same request without httpx2's nouns, its body read. Raises: httpx2.UnsupportedProtocol."""
    target, extensions = target_of(request.url), request.extensions
    return PlainRequest(
        request.method,
        target,
        request.headers.raw,
        request.stream.data if isinstance(request.stream, Body) else await _body_of(request),
        extensions.get("timeout") or {},
        extensions.get("repeatable", True),
    )


async def _body_of(request: httpx2.Request) -> bytes:
    """The whole body of a request that `build_request` did not make."""
    return request.read() if isinstance(request.stream, httpx2.SyncByteStream) else await request.aread()


def encode(request: PlainRequest) -> bytes:
    """The request's head. Headers go as they are; `host` and `content-length` are added if absent.

    Raises: httpx2.LocalProtocolError on what would not be one request, such as a line break in a value.
    """
    method, target, headers, body = request[:4]
    # The body is whole, so it goes with its length and never with a transfer coding.
    pairs = [pair for pair in headers if pair[0].lower() != b"transfer-encoding"]
    names = [name.lower() for name, _ in pairs]
    if b"host" not in names:
        pairs.insert(0, (b"host", target.host))
    lengths = [value for name, value in pairs if name.lower() == b"content-length"]
    if not lengths and (body or method in ("POST", "PUT", "PATCH")):
        pairs.append((b"content-length", b"%d" % len(body)))
    elif lengths and lengths != [b"%d" % len(body)]:
        raise httpx2.LocalProtocolError(f"request headers: content-length: want one, of {len(body)}")
    block = b"\r\n".join([b"%b: %b" % pair for pair in pairs])
    head = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method.encode("ascii"), target.path, block)
    breaks = len(pairs) + 2
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise httpx2.LocalProtocolError("request: line break or NUL in the method, a header name or a value")
    return head
