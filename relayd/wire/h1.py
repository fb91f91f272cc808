"""HTTP/1.1 framing of the public edge: request heads and bodies in, response heads and chunks out.

Rule: no socket, no clock. Where a message could be read in two ways it is refused and the connection closed: whoever
stands before or behind the relay (a proxy, a load balancer) might read it the other way, and the difference is a
smuggled request (RFC 9112 section 11.2). So no bare LF, no folded lines, no white space before a colon, no second
`host` or length, no transfer coding but `chunked`, no chunk extension, no trailer, no absolute target. Many back ends
take `a_b` for `a-b`: a field with an underscore that would so become one that frames, authenticates or forwards
(wire/http.py) is left out, and the others pass. An offer to upgrade is not taken (RFC 9110 section 7.8).

Theory: one regular expression checks the whole head at once; only a head that fails it is looked at line by line, to
say what was wrong. Sources: RFC 9112 (syntax, framing), RFC 9110 section 5.5 (values) and 10.1.1 (100-continue).
"""

from __future__ import annotations

import re
from functools import lru_cache
from http import HTTPStatus

from relayd.wire.http import HeaderPairs, Headers, RequestHead, is_disguised

# Bounds of one head. 8 KiB a line and 100 fields are what nginx and Envoy allow by default; 32 KiB is four such lines.
MAX_HEAD = 32 * 1024
MAX_LINE = 8 * 1024
MAX_HEADERS = 100

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_REQUEST_LINE = rb"(GET|POST|HEAD|OPTIONS|PUT|PATCH|DELETE) (/[!-~]*|\*) HTTP/1\.([01])\r\n"
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 section 5.6.2
_FIELD_LINE = _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n"
_HEAD = re.compile(_REQUEST_LINE + rb"(?:" + _FIELD_LINE + rb")*+\r\n")
_FIRST_LINE = re.compile(_REQUEST_LINE)
_PATH = re.compile(rb"[A-Z]{1,16} (/[!->@-~]{0,255})")
_FIELD = re.compile(_FIELD_LINE)
_NAME = re.compile(_TOKEN)
_LONGEST_NAME = 40  # of one that is shown: shorter than any key
_STRAY = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")  # a CR at the very end may still get its LF
# RFC 9112 section 3.2 wants a 400 for anything else; of RFC 3986's host without its sub-delimiters, which no name has.
_HOST = re.compile(rb"[A-Za-z0-9._~%:\[\]-]*")
_LENGTH = re.compile(rb"[0-9]{1,10}")  # 10 digits: more than any body, and no conversion that grows with its input
_ONCE = frozenset(
    {
        b"host", b"content-length", b"transfer-encoding", b"authorization", b"x-api-key", b"content-type", b"expect",
        b"content-encoding",
    }
)  # fmt: skip
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_CHUNK_LINE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,8}\r?")


class FramingError(Exception):
    """A message that cannot be read in exactly one way, or is too large. The connection must be closed.

    Args:
        status: of the answer: 400, 413, 417, 431 or 501.
        reason: what is wrong, for the client's eyes; names a header at most, and quotes no value.
        path: of the request, as far as it can be told; the answer is worded by it, and nothing else is decided.
    """

    def __init__(self, status: int, reason: str, path: str = "") -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"{self.status} {self.reason}"


def path_of(head: bytes) -> str:
    """The path that a head, whole or not, begins with; "" when none can be told."""
    match = _PATH.match(head)
    return match[1].decode("ascii") if match else ""


def find_head(buffer: bytes, start: int = 0, *, max_head: int = MAX_HEAD) -> int | None:
    """Where the head at the beginning of `buffer` ends (after its CRLFCRLF), or None while it is incomplete.

    Args:
        start: how many bytes an earlier call has already seen in vain.

    Raises: FramingError as soon as the head cannot become a good one, so that it does not wait for its timeout.
    """
    end = buffer.find(b"\r\n\r\n", max(0, start - 3))
    if end >= 0:
        return end + 4
    if len(buffer) > max_head:
        raise FramingError(431, f"request head larger than {max_head} bytes", path_of(buffer))
    if _STRAY.search(buffer, max(0, start - 1)):
        raise FramingError(400, "request head: a bare CR, LF or NUL", path_of(buffer))
    if buffer and not 0x41 <= buffer[0] <= 0x5A:  # such as a TLS greeting: every method begins with a capital
        raise FramingError(400, "request line: not an HTTP/1.1 request")
    return None


def parse_head(
    head: bytes, *, max_head: int = MAX_HEAD, max_line: int = MAX_LINE, max_headers: int = MAX_HEADERS
) -> RequestHead:
    """Read a request head, up to and including its CRLFCRLF.

    Raises: FramingError 400, 417, 431, 501.
    """
    try:
        return _parse(head, max_head, max_line, max_headers)
    except FramingError as error:
        error.path = path_of(head)
        raise


def _parse(head: bytes, max_head: int, max_line: int, max_headers: int) -> RequestHead:
    if len(head) > max_head:
        raise FramingError(431, f"request head larger than {max_head} bytes")
    match = _HEAD.fullmatch(head)
    if match is None:
        raise _fault(head, max_line)
    lines = head[match.end(3) + 2 : -4].split(b"\r\n") if match.end(3) + 4 < len(head) else []
    if len(head) > max_line and max([match.end(3), *map(len, lines)]) > max_line:
        raise _too_long(head, max_line)
    if len(lines) > max_headers:
        raise FramingError(431, f"request head: more than {max_headers} headers")
    fields = [line.partition(b":") for line in lines]
    pairs = [(name.lower(), value.strip(b" \t")) for name, _, value in fields]
    if b"_" in head:
        pairs = [pair for pair in pairs if b"_" not in pair[0] or not is_disguised(pair[0])]
    return _understood(match, head, pairs)


def _understood(match: re.Match[bytes], head: bytes, pairs: HeaderPairs) -> RequestHead:
    """The meaning of a head whose syntax is right."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        _refuse_repeats(pairs)
    modern = match[3] == b"1"
    if modern and b"host" not in fields:
        raise FramingError(400, "no host header")
    if not _HOST.fullmatch(fields.get(b"host", b"")):
        raise FramingError(400, "the host header is not a host")
    target = match[2].decode("ascii")
    path, _, query = target.partition("?")
    headers = Headers(pairs)
    keep_alive = modern if b"connection" not in fields else _keeps_alive(headers, modern)
    websocket = modern and match[1] == b"GET" and b"upgrade" in fields and b"websocket" in _protocols(headers)
    if target == "*" and match[1] != b"OPTIONS":
        raise FramingError(400, "request line: * is a target of OPTIONS only")
    return RequestHead(
        method=match[1].decode("ascii"),
        target=target,
        path=path,
        query=query,
        headers=headers,
        http_minor=1 if modern else 0,
        content_length=_body_length(fields, modern, head),
        expects_continue=b"expect" in fields and _expects_continue(fields[b"expect"], modern),
        # Some proxies take whatever follows a WebSocket's handshake for its frames, whatever was answered.
        keep_alive=keep_alive and not websocket,
        websocket=websocket,
    )


def _body_length(fields: dict[bytes, bytes], modern: bool, head: bytes) -> int | None:
    """How many bytes of body follow; None when it is chunked. RFC 9112 section 6.3, without its leniencies."""
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if length is None and coding is None:
        return 0
    if b"\t" in head and re.search(rb"(?i)\n(?:content-length|transfer-encoding):[^\r\n]*\t", head):
        raise FramingError(400, "a tab in content-length or transfer-encoding")  # white space that some parsers keep
    if coding is None:
        if length is None or not _LENGTH.fullmatch(length):
            raise FramingError(400, "content-length is not a plain number")
        return int(length)
    if length is not None:
        raise FramingError(400, "both content-length and transfer-encoding")
    if not modern:
        raise FramingError(400, "transfer-encoding in HTTP/1.0")
    if coding.lower() != b"chunked":
        raise FramingError(501, "transfer-encoding other than chunked")
    return None


def _expects_continue(value: bytes, modern: bool) -> bool:
    if value.lower() != b"100-continue":
        raise FramingError(417, "expect: only 100-continue is understood")
    return modern  # RFC 9110 section 10.1.1: ignored in HTTP/1.0


def _protocols(headers: Headers) -> set[bytes]:
    """What the client would rather speak. Source: RFC 9110 section 7.8."""
    return {token.strip(b" \t").partition(b"/")[0] for token in headers.joined(b"upgrade").lower().split(b",")}


def _keeps_alive(headers: Headers, modern: bool) -> bool:
    value = headers.joined(b"connection").lower()
    if value == b"keep-alive":
        return True
    tokens = {token.strip(b" \t") for token in value.split(b",")}
    return b"close" not in tokens and (modern or b"keep-alive" in tokens)


def _refuse_repeats(pairs: HeaderPairs) -> None:
    seen: set[bytes] = set()
    for name, _ in pairs:
        if name in seen and name in _ONCE:
            raise FramingError(400, f"more than one {name.decode('ascii')} header")
        seen.add(name)


def _fault(head: bytes, max_line: int) -> FramingError:
    """Why `head` has not the form of a head."""
    if _STRAY.search(head) or not head.endswith(b"\r\n\r\n"):
        return FramingError(400, "request head: a bare CR, LF or NUL")
    if max(map(len, head.split(b"\r\n"))) > max_line:
        return _too_long(head, max_line)
    if not _FIRST_LINE.match(head):
        return FramingError(400, "request line: not METHOD /path HTTP/1.1 with a known method")
    lines = head[:-4].split(b"\r\n")
    at = next(at for at, line in enumerate(lines) if at and not _FIELD.fullmatch(line + b"\r\n"))
    return FramingError(400, f"request head: {_line_fault(lines[at], _place(lines, at))}")


def _line_fault(line: bytes, place: str) -> str:
    name, colon, _ = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        return f"{place}: a folded line, or white space before a name"
    if not colon:
        return f"{place}: not a header line (want NAME: VALUE)"
    if name.endswith((b" ", b"\t")):
        return f"{place}: white space before the colon"
    if not _NAME.fullmatch(name):
        return f"{place}: not a header name"
    return f"{place}: a control character in its value"


def _too_long(head: bytes, max_line: int) -> FramingError:
    lines = head[:-4].split(b"\r\n")
    at = max(range(len(lines)), key=lambda at: len(lines[at]))
    place = f"{_place(lines, at)}: " if at else ""
    return FramingError(431, f"request head: {place}a line longer than {max_line} bytes")


def _place(lines: list[bytes], at: int) -> str:
    """Which line: by its name; where it has none to show, by its number. What may be a secret is never shown."""
    name = lines[at].partition(b":")[0].rstrip(b" \t").lower()
    if b":" not in lines[at] or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        return f"header line {at}"
    return f"header {name.decode('ascii')}"


class ChunkedDecoder:
    """A chunked request body, fed piece by piece, cut anywhere.

    Attributes:
        done: the last chunk and its empty line have been seen.
        rest: once done, the bytes after the body: the next request.
    """

    __slots__ = ("_held", "_left", "_room", "done", "rest")

    def __init__(self, limit: int) -> None:
        self.done = False
        self.rest = b""
        self._held = b""  # the beginning of a chunk-size line, or of the end of the body: at most 11 bytes
        self._left = 0  # bytes still to come of the chunk and its CRLF; 0 between chunks
        self._room = limit

    def feed(self, data: bytes) -> bytes:
        """Body bytes out of wire bytes. Not to be called once `done`.

        Raises: FramingError 400 on anything but plain chunks, 413 as soon as a chunk announces more than the limit.
        """
        buffer = self._held + data if self._held else data
        self._held = b""
        pieces: list[bytes] = []
        position = 0
        while position < len(buffer) and not self.done:
            if self._left:
                position = self._take(buffer, position, pieces)
            else:
                position = self._next_chunk(buffer, position)
            if self._held:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take(self, buffer: bytes, position: int, pieces: list[bytes]) -> int:
        """Take what is there of a chunk and the CRLF behind it."""
        if self._left > 2:
            piece = buffer[position : position + self._left - 2]
            pieces.append(piece)
            self._left -= len(piece)
            position += len(piece)
            if self._left > 2:
                return position
        mark = buffer[position : position + self._left]
        if not b"\r\n"[-self._left :].startswith(mark):
            raise FramingError(400, "chunked body: no CRLF after a chunk")
        self._left -= len(mark)
        return position + len(mark)

    def _next_chunk(self, buffer: bytes, position: int) -> int:
        """Read a chunk-size line; for the last one, also the empty line that ends the body."""
        match = _CHUNK_LINE.match(buffer, position)
        if match is None:
            if not _CHUNK_LINE_BEGUN.fullmatch(buffer, position):
                raise FramingError(400, "chunked body: a malformed chunk-size line (extensions are not accepted)")
            self._held = buffer[position:]
            return position
        size = int(match[1], 16)
        if size == 0:
            return self._end(buffer, position, match.end())
        if size > self._room:
            raise FramingError(413, "request body too large")
        self._room -= size
        self._left = size + 2
        return match.end()

    def _end(self, buffer: bytes, position: int, after: int) -> int:
        mark = buffer[after : after + 2]
        if mark == b"\r\n":
            self.done = True
            self.rest = buffer[after + 2 :]
        elif b"\r\n".startswith(mark):
            self._held = buffer[position:]
        else:
            raise FramingError(400, "chunked body: trailers are not accepted")
        return after


# 529 is the Claude API's "overloaded"; 499 is nginx's name for a client that left.
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request", 529: "Overloaded"}
_OURS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"trailer"})


@lru_cache(maxsize=256)
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n".encode("ascii")


@lru_cache(maxsize=1024)  # names recur; whoever sends ever new ones only pays for the check again
def _check_name(name: bytes) -> None:
    if name in _OURS:
        raise ValueError(f"response header {name!r}: framing belongs to the edge")
    if not _NAME.fullmatch(name):
        raise ValueError(f"response header {name!r}: not a header name")


def bodyless(status: int) -> bool:
    """Whether answers of this status never have a body (RFC 9110 section 6.4.1)."""
    return status in (204, 304) or status < 200


def response_head(
    status: int, headers: HeaderPairs, *, length: int | None, keep_alive: bool, date: bytes, http_minor: int
) -> bytes:
    """A response head with its framing.

    Args:
        headers: lower-case names; framing headers are not among them. A `date` of theirs stands.
        length: bytes of body; None: chunked, or until the end of the connection for an HTTP/1.0 client.
        keep_alive: whether the connection stays open; must be False for a length of None in HTTP/1.0.
        date: an IMF-fixdate (RFC 9110 section 5.6.7).
        http_minor: of the request.

    Raises: ValueError on a name or value that would break the head, or a framing header; nothing is dropped silently.
    """
    parts = [_status_line(status)]
    dated = False
    for name, value in headers:
        _check_name(name)
        parts.append(b"%b: %b\r\n" % (name, value))
        dated = dated or name == b"date"
    if not dated:
        parts.append(b"date: %b\r\n" % date)
    fields = b"".join(parts)
    if fields.count(b"\n") != len(parts) or fields.count(b"\r") != len(parts) or b"\0" in fields:
        raise _bad_value(headers)
    return fields + _framing(status, length, keep_alive, http_minor)


def _framing(status: int, length: int | None, keep_alive: bool, http_minor: int) -> bytes:
    """The framing headers and the empty line. A 426 says what is spoken here (RFC 9110 section 15.5.22)."""
    if bodyless(status):
        framing = b""
    elif length is not None:
        framing = b"content-length: %d\r\n" % length
    elif http_minor:
        framing = b"transfer-encoding: chunked\r\n"
    elif keep_alive:
        raise ValueError("an HTTP/1.0 answer of unknown length ends with its connection")
    else:
        framing = b""
    if status == 426:
        return framing + b"upgrade: HTTP/1.1\r\nconnection: upgrade" + (b"" if keep_alive else b", close") + b"\r\n\r\n"
    if not keep_alive:
        return framing + b"connection: close\r\n\r\n"
    return framing + (b"\r\n" if http_minor else b"connection: keep-alive\r\n\r\n")


def _bad_value(headers: HeaderPairs) -> ValueError:
    """Names the header, never its value: that may be a secret."""
    for name, value in headers:
        if any(byte in value for byte in (b"\r", b"\n", b"\0")):
            return ValueError(f"response header {name!r}: CR, LF or NUL in its value")
    return ValueError("response head: CR, LF or NUL")


def chunk(data: bytes) -> bytes:
    """One chunk; nothing for no bytes, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
