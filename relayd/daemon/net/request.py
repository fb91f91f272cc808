"""Requests upstream: as the relay has them, and as bytes.

Rule: what is sent is one request, whatever its headers hold: a line break or a second length is an error, and the body
goes with its length, never with a transfer coding.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple, Protocol

from relayd import __version__
from relayd.daemon.net.connect import Origin, authority
from relayd.daemon.net.stream import BodySource
from relayd.daemon.net.transport_errors import LocalProtocolError, UnsupportedProtocol
from relayd.wire.http import HeaderPairs

DEFAULT_PORTS = {"http": 80, "https": 443}
OUR_NAME = b"user-agent", f"relayd/{__version__}".encode()  # where relayd itself asks, and not a client by way of it
NO_URL = "url: not a URL we can call (want http://host or https://host)"
# What stands in a path and in a query as it is, besides letters, digits and -._~ (the percent-encode sets of the URL
# standard); what is percent-encoded already stays so.
_IN_PATH = "%!$&'()*+,/:;=@[\\]^|"
_IN_QUERY = _IN_PATH + "?`{}"


class RequestTarget(NamedTuple):
    """Where a request goes: the origin, and what the request line and the host header say."""

    origin: Origin
    path: bytes
    host: bytes


class PlainRequest(NamedTuple):
    """A request. `timeout` is in s; what it does not name, or has None for, takes as long as it takes.

    Args:
        timeout: for "connect" (look-up, connect, proxy and TLS together), "write" (no progress while sending),
            "first_byte" (from the request sent to the end of the response head) and "read" (between the pieces of a
            body that is iterated, and where "first_byte" is absent).
        repeatable: whether doing it twice is harmless; else it goes out on a connection of its own.
    """

    method: str
    target: RequestTarget
    headers: HeaderPairs
    body: bytes
    timeout: Mapping[str, float | None]
    repeatable: bool = True


class UpstreamAnswer(BodySource, Protocol):
    """The head of an answer, and its body, to be taken or iterated."""

    status: int
    headers: HeaderPairs

    def __aiter__(self) -> AsyncGenerator[bytes, None]: ...


class Asking(Protocol):
    """What sends requests. Close the answers."""

    async def ask(self, request: PlainRequest) -> UpstreamAnswer: ...

    def close(self) -> None: ...


def target_of(url: str) -> RequestTarget:
    """What a URL says to a client. Raises: UnsupportedProtocol, whose text quotes nothing."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UnsupportedProtocol(NO_URL) from None
    if parts.scheme not in DEFAULT_PORTS or not host or not host.isascii():
        raise UnsupportedProtocol(NO_URL)
    usual = DEFAULT_PORTS[parts.scheme]
    origin = Origin(parts.scheme, host, port or usual)
    path = urllib.parse.quote(parts.path or "/", safe=_IN_PATH)
    query = f"?{urllib.parse.quote(parts.query, safe=_IN_QUERY)}" if parts.query else ""
    named = authority(host, origin.port).removesuffix(f":{usual}")
    return RequestTarget(origin, f"{path}{query}".encode("ascii"), named.encode("ascii"))


def encode(request: PlainRequest) -> bytes:
    """The request's head. Headers go as they are; `host` and `content-length` are added if absent.

    Raises: LocalProtocolError on what would not be one request, such as a line break in a value.
    """
    method, target, headers, body = request[:4]
    # The body is whole, so it goes with its length and never with a transfer coding.
    names = [name.lower() for name, _ in headers]
    pairs = [pair for pair, name in zip(headers, names, strict=True) if name != b"transfer-encoding"]
    if b"content-length" not in names:
        if body or method in ("POST", "PUT", "PATCH"):
            pairs.append((b"content-length", b"%d" % len(body)))
    elif [value for name, value in pairs if name.lower() == b"content-length"] != [b"%d" % len(body)]:
        raise LocalProtocolError(f"request headers: content-length: want one, of {len(body)}")
    if b"host" not in names:
        pairs.insert(0, (b"host", target.host))
    block = b"\r\n".join([b"%b: %b" % pair for pair in pairs])
    head = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method.encode("ascii"), target.path, block)
    breaks = len(pairs) + 2
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise LocalProtocolError("request: line break or NUL in the method, a header name or a value")
    return head
