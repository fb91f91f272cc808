"""HTTP nouns and header hygiene.

Rule: no I/O, no dialect. Header names are lower-case bytes everywhere behind the edge; values are the bytes that
came, without surrounding white space. Order and repeats are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from relayd.noun import noun

HeaderPairs = list[tuple[bytes, bytes]]


@attrs.define(eq=True, repr=False)
class Headers:
    """A header section: pairs in wire order, with look-up by lower-case name.

    `repr` shows names only: a value may be a credential.
    """

    pairs: HeaderPairs = attrs.field(factory=list)

    def get(self, name: bytes) -> bytes | None:
        """The first value of `name` (lower-case), or None."""
        for key, value in self.pairs:
            if key == name:
                return value
        return None

    def text(self, name: bytes) -> str:
        """The first value of `name` as text, or `""`. Bytes above 0x7f are read as Latin-1 (RFC 9110 section 5.5)."""
        value = self.get(name)
        return "" if value is None else value.decode("latin-1")

    def joined(self, name: bytes) -> bytes:
        """All values of a list header, joined with commas in order."""
        return b", ".join([value for key, value in self.pairs if key == name])

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.pairs)

    def __contains__(self, name: object) -> bool:
        for key, _ in self.pairs:  # noqa: SIM110  a generator would cost three times as much
            if key == name:
                return True
        return False

    def __repr__(self) -> str:
        return f"Headers({', '.join(key.decode('latin-1') for key, _ in self.pairs)})"


@noun(kw_only=True)
class RequestHead:
    """A request line and its headers, already checked by the edge (wire/h1.py)."""

    method: str
    target: str  # as sent, ASCII: path and query
    path: str  # the part before "?"
    query: str  # the part after "?", without it; "" when there is none
    headers: Headers
    http_minor: int = 1  # HTTP/1.x
    content_length: int | None = 0  # None: chunked
    expects_continue: bool = False
    keep_alive: bool = True
    websocket: bool = False  # it opens a WebSocket


# RFC 9110 section 7.6.1, with `keep-alive` and `proxy-connection` of older agents; `te` speaks of this hop too.
HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
        b"http2-settings", b"proxy-authenticate", b"proxy-authorization",
    }
)  # fmt: skip


def end_to_end(headers: Headers, drop: frozenset[bytes]) -> HeaderPairs:
    """The pairs that travel on: without hop-by-hop headers, those that `connection` names, and `drop`.

    `drop` is ours and is applied whatever `connection` says, so that a peer cannot nominate one of our headers away.
    Source: RFC 9110 section 7.6.1.
    """
    gone = HOP_BY_HOP
    nominated = headers.joined(b"connection")
    if nominated and nominated.lower() not in (b"keep-alive", b"close"):
        gone = gone | {token.strip() for token in nominated.lower().split(b",")}
    return [pair for pair in headers.pairs if pair[0] not in gone and pair[0] not in drop]


def header_pairs(items: Iterable[tuple[str, str]]) -> HeaderPairs:
    """Text pairs (from the config) to wire pairs, lower-cased."""
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in items]


# What a client says to relayd and not to the upstream: its key, what proxies said of it. `accept-encoding` is asked for
# anew, `host` and `content-length` belong to the next hop, bodies go on decoded. Fronts that add who is asking: nginx,
# Caddy, Envoy, Fastly, Cloudflare, Akamai, Google's and Amazon's load balancers.
NOT_FOR_UPSTREAM = frozenset(
    {
        b"host", b"content-length", b"content-encoding", b"expect", b"accept-encoding",
        b"x-api-key", b"authorization", b"cookie",
        b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip",
        b"fastly-client-ip", b"x-original-forwarded-for", b"remote-user", b"x-remote-user", b"cf-connecting-ip",
        b"cf-connecting-ipv6", b"cf-pseudo-ipv4", b"cf-ipcountry", b"cf-ray", b"cf-visitor", b"cf-worker", b"cf-ew-via",
    }
)  # fmt: skip
_NOT_FOR_UPSTREAM_PREFIXES = (
    b"x-forwarded-", b"cf-access-", b"x-auth-request-", b"x-amzn-oidc-", b"x-goog-iap-", b"x-goog-authenticated-user-",
    b"x-envoy-", b"relayd-",
)  # fmt: skip
_OUR_KEY = b"sk-relay-"
_SHORTEST_KEY = 16  # bytes; anything shorter may stand in a header for other reasons
_DISGUISES = HOP_BY_HOP | NOT_FOR_UPSTREAM | {b"content-type", b"origin", b"user-agent"}


def is_disguised(name: bytes) -> bool:
    """Whether a field, its underscores read as hyphens, would be one that frames, authenticates, forwards or is ours.

    Args:
        name: lower-case, with an underscore.
    """
    plain = name.replace(b"_", b"-")
    return plain in _DISGUISES or plain.startswith(_NOT_FOR_UPSTREAM_PREFIXES)


def client_headers(headers: Headers) -> HeaderPairs:
    """A client's end-to-end headers, without its key, in whatever header it stands, and what proxies said of it."""
    pairs = [
        (name, value)
        for name, value in end_to_end(headers, NOT_FOR_UPSTREAM)
        if _OUR_KEY not in value and not name.startswith(_NOT_FOR_UPSTREAM_PREFIXES)
    ]
    foreign = _foreign_keys(headers)
    return [pair for pair in pairs if not any(key in pair[1] for key in foreign)] if foreign else pairs


def _foreign_keys(headers: Headers) -> tuple[bytes, ...]:
    """What a client presents that is no key of relayd's own form, such as one that another relay issued."""
    presented = (headers.get(b"x-api-key") or b"", (headers.get(b"authorization") or b"").rpartition(b" ")[2])
    return tuple(key for key in presented if len(key) >= _SHORTEST_KEY and not key.startswith(_OUR_KEY))
