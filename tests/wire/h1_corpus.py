"""Request framing: some fifty messages that parsers have disagreed about, and readers to compare on them.

Each case is a whole client's output: (name, bytes, status). Status 0 means that it is served; another number is the
refusal. Most are known from published request-smuggling research and advisories (CVE-2025-55315, CVE-2025-22871,
CVE-2025-43859, CVE-2025-64484).
"""

from __future__ import annotations

import random

import httptools

from relayd.wire.h1 import ChunkedDecoder, FramingError, find_head, parse_head


def post(fields: bytes, body: bytes = b"", *, version: bytes = b"1.1") -> bytes:
    """A POST with a host and `fields` (lines without their CRLF at the end)."""
    return b"POST / HTTP/" + version + b"\r\nHost: a\r\n" + fields + b"\r\n\r\n" + body


def get(fields: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + fields + b"\r\n\r\n"


TE = b"Transfer-Encoding: chunked"
NOTHING = b"0\r\n\r\n"


def chunked(body: bytes) -> bytes:
    return post(TE, body)


CASES: list[tuple[str, bytes, int]] = [
    # Two lengths, or a length that is not one.
    ("length and chunked", post(b"Content-Length: 6\r\n" + TE, b"0\r\n\r\nX"), 400),
    ("chunked in HTTP/1.0", post(TE, NOTHING, version=b"1.0"), 400),
    ("length twice, equal", post(b"Content-Length: 1\r\nContent-Length: 1", b"X"), 400),
    ("length twice, different", post(b"Content-Length: 1\r\nContent-Length: 0", b"X"), 400),
    ("length as a list", post(b"Content-Length: 1, 1", b"X"), 400),
    ("length with a plus", post(b"Content-Length: +1", b"X"), 400),
    ("length below zero", post(b"Content-Length: -1", b"X"), 400),
    ("length in hex", post(b"Content-Length: 0x1", b"X"), 400),
    ("length with an underscore", post(b"Content-Length: 1_0", b"0123456789"), 400),
    ("length empty", post(b"Content-Length: "), 400),
    ("length of 30 digits", post(b"Content-Length: " + b"9" * 30), 400),
    ("length in Arabic digits", post("Content-Length: \u0661".encode(), b"X"), 400),
    # Transfer codings.
    ("coding xchunked", post(b"Transfer-Encoding: xchunked", NOTHING), 501),
    ("coding gzip, chunked", post(b"Transfer-Encoding: gzip, chunked", NOTHING), 501),
    ("coding identity", post(b"Transfer-Encoding: identity"), 501),
    ("coding chunked, identity", post(b"Transfer-Encoding: chunked, identity", NOTHING), 501),
    ("coding twice", post(TE + b"\r\n" + TE, NOTHING), 400),
    ("coding after a vertical tab", post(b"Transfer-Encoding: \x0bchunked", NOTHING), 400),
    ("coding, space before the colon", post(b"Transfer-Encoding : chunked", NOTHING), 400),
    ("coding in capitals", post(b"Transfer-Encoding: CHUNKED", NOTHING), 0),
    ("coding with an underscore", post(b"Transfer_Encoding: chunked\r\nContent-Length: 1", b"X"), 0),
    ("length with an underscore in its name", post(b"Content_Length: 5\r\nContent-Length: 1", b"X"), 0),
    # Lines.
    ("coding in a folded line", post(b"Transfer-Encoding:\r\n chunked", NOTHING), 400),
    ("a folded line", get(b"Host: a\r\nX: a\r\n b"), 400),
    ("white space before the first header", get(b" Host: a\r\nHost: b"), 400),
    ("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("bare LF once", get(b"Host: a\nX: y"), 400),
    ("bare CR in a value", get(b"Host: a\r\nX: a\rY: b"), 400),
    ("NUL in a value", get(b"Host: a\r\nX: a\0b"), 400),
    # Chunks.
    ("chunk without CRLF", chunked(b"3\r\nabcXX0\r\n\r\n"), 400),
    ("chunk size ended by LF", chunked(b"3\nabc\r\n0\r\n\r\n"), 400),
    ("chunk size 0x3", chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
    ("chunk size +3", chunked(b"+3\r\nabc\r\n0\r\n\r\n"), 400),
    ("chunk size 0_3", chunked(b"0_3\r\nabc\r\n0\r\n\r\n"), 400),
    ("chunk size of 18 digits", chunked(b"f" * 17 + b"1\r\nabc\r\n0\r\n\r\n"), 400),
    ("LF in a chunk extension", chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n"), 400),
    ("chunk extension of 16 KB", chunked(b"3;" + b"a" * 16384 + b"\r\nabc\r\n0\r\n\r\n"), 400),
    ("chunk size and a space", chunked(b"3 \r\nabc\r\n0\r\n\r\n"), 400),
    ("trailers", chunked(b"0\r\nContent-Length: 5\r\nX-Api-Key: z\r\n\r\n"), 400),
    # Hosts, targets, versions, methods.
    ("no host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("host twice", get(b"Host: a\r\nHost: b"), 400),
    ("absolute target", b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("target beyond ASCII", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("CRLF before the request", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT", b"CONNECT evil:443 HTTP/1.1\r\nHost: evil\r\n\r\n", 400),
    # Unusual and fine.
    ("upgrade to h2c", get(b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c"), 0),
    ("GET with a body", get(b"Host: a\r\nContent-Length: 1") + b"X", 0),
    ("100-continue", post(b"Content-Length: 1\r\nExpect: 100-continue", b"X"), 0),
]

Seen = tuple[bytes, bytes, bytes]  # method, target, body

MOST = 1 << 26  # bytes of body, in these readers


def read_all(wire: bytes) -> tuple[list[Seen], int]:
    """What our own reader makes of a connection's bytes: requests, and the refusal's status (0: none)."""
    seen: list[Seen] = []
    try:
        while end := find_head(wire):
            head = parse_head(wire[:end])
            wire = wire[end:]
            if head.content_length is None:
                decoder = ChunkedDecoder(MOST)
                body = decoder.feed(wire) if wire else b""
                if not decoder.done:
                    return seen, 0
                wire = decoder.rest
            elif len(wire) < head.content_length:
                return seen, 0
            else:
                body, wire = wire[: head.content_length], wire[head.content_length :]
            seen.append((head.method.encode(), head.target.encode(), body))
            if not head.keep_alive:
                return seen, 0
    except FramingError as error:
        return seen, error.status
    return seen, 0


class _Listener:
    """What llhttp tells: one entry a complete request."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.target = self.body = b""

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.seen.append((self.parser.get_method(), self.target, self.body))


def read_all_llhttp(wire: bytes) -> tuple[list[Seen], bool]:
    """The requests that llhttp finds before it refuses, wants more, or is offered an upgrade, and whether it was."""
    listener = _Listener()
    try:
        listener.parser.feed_data(wire)
    except httptools.HttpParserError:
        pass
    except httptools.HttpParserUpgrade:
        return listener.seen[:-1], True  # httptools leaves the body of such a request to the other protocol
    return listener.seen, False


PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";", b",", b"0", b"1", b"_", b"\x0b", b"\xff", b"chunked",
    b"\r\n\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"a" * 50,
]  # fmt: skip


def mutate(rng: random.Random) -> bytes:
    """A case of the corpus, damaged in one to five places."""
    wires = [wire for _, wire, _ in CASES]
    wire = bytearray(rng.choice(wires))
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        at = rng.randrange(len(wire) + 1)
        match rng.randrange(5):
            case 0 if wire:
                wire[at % len(wire)] = rng.randrange(256)
            case 1:
                wire[at:at] = rng.choice(PIECES)
            case 2:
                del wire[at : at + rng.randrange(1, 8)]
            case 3:
                other = rng.choice(wires)
                begin = rng.randrange(len(other))
                wire[at:at] = other[begin : begin + rng.randrange(1, 40)]
            case _:
                wire += rng.choice(wires)
    return bytes(wire)


def disagreement(wire: bytes) -> str:
    """ "" where we and llhttp agree: same framing of what both accept, and nothing accepted that it refuses."""
    ours, _ = read_all(wire)
    theirs, upgraded = read_all_llhttp(wire)
    common = min(len(ours), len(theirs))
    if ours[:common] != theirs[:common]:
        return f"framing: {ours!r} is not {theirs!r}"
    if len(ours) > len(theirs) and not upgraded:
        return f"accepted more: {ours!r} than {theirs!r}"
    return ""
