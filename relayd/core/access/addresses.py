"""Client addresses: where a request comes from, as far as trusted proxies tell, and in which network that lies.

Rule: one parser reads every spelling that proxies use. What it cannot read is no address, and in particular not the
proxy's own: it is UNKNOWN, and refused wherever an address decides.

Theory: each proxy appends the peer it saw, so the right-most hop that no trusted proxy added is the client; everything
left of it is the client's own claim. Source: RFC 7239 section 5.2.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from relayd.wire.http import Headers

# The client of a trusted proxy that did not say whose request it passes on, or not in words that can be read.
UNKNOWN = "unknown"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Range = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=4096)
def _network(text: str) -> Range:
    return ipaddress.ip_network(text, strict=False)


@lru_cache(maxsize=8192)
def inside(address: str, networks: tuple[str, ...]) -> bool:
    """Whether an address lies in one of the networks. An IPv4 address mapped into IPv6 counts as IPv4."""
    one = _read(address)
    return one is not None and any(one in _network(text) for text in networks)


def client_address(peer: str, headers: Headers, trusted: tuple[str, ...]) -> str:
    """The client's address: the right-most of X-Forwarded-For that no trusted proxy added, else X-Real-IP, else `peer`.

    Only a trusted peer is believed. A unix socket (`peer` is "") is as trusted as whoever may open it.

    Returns: "" on a unix socket behind which nobody said more, UNKNOWN where what was said cannot be read.
    """
    if (b"x-forwarded-for" not in headers and b"x-real-ip" not in headers) or (peer and not inside(peer, trusted)):
        return peer
    hops = [hop for hop in headers.joined(b"x-forwarded-for").decode("latin-1").split(",") if hop.strip()]
    if not hops:
        return forwarded_address(headers.joined(b"x-real-ip").decode("latin-1")) or UNKNOWN
    address = UNKNOWN
    for hop in reversed(hops):
        address = forwarded_address(hop) or UNKNOWN
        if not inside(address, trusted):
            return address
    return address  # all of them are trusted: the first one asked on its own behalf


def forwarded_address(text: str) -> str:
    """One hop as proxies write it: an address, in brackets or quotes, with a port or a zone; "" for anything else.

    Source: RFC 7239 section 6 (node names, also `unknown` and `_hidden`); RFC 4007 section 11 (zones).
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not (port[0] == ":" and _is_port(port[1:]))):
            return ""
    elif not (colon and ":" not in host and _is_port(port)):  # a bare IPv6 address has more than one colon, no port
        host = text
    one = _read(host)
    return "" if one is None else str(one)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:6]) <= 65535 and len(text) <= 5


def _read(text: str) -> Address | None:
    """An address without its zone, which names an interface of whoever wrote it."""
    try:
        one = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return one.ipv4_mapped or one if isinstance(one, ipaddress.IPv6Address) else one
