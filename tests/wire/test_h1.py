"""Request framing is strict: what could be read in two ways is refused, whatever way it arrives."""

from __future__ import annotations

import random

import pytest
from builders import KEY
from h1_corpus import CASES, chunked, disagreement, get, mutate, post, read_all
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.h1 import (
    LAST_CHUNK,
    MAX_HEAD,
    MAX_HEADERS,
    MAX_LINE,
    ChunkedDecoder,
    FramingError,
    chunk,
    find_head,
    parse_head,
    response_head,
)
from relayd.wire.http import HeaderPairs, end_to_end

DATE = b"Sun, 22 Nov 2026 10:00:00 GMT"


def refusal(wire: bytes) -> int:
    with pytest.raises(FramingError) as caught:
        parse_head(wire)
    return caught.value.status


# Heads


@pytest.mark.parametrize(("wire", "status"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_verdict_on_each_doubtful_message(wire: bytes, status: int) -> None:
    seen, verdict = read_all(wire)

    assert verdict == status
    assert len(seen) == (0 if status else 1)


def test_the_corpus_is_whole() -> None:
    assert len(CASES) == len({wire for _, wire, _ in CASES}) == 51


def test_a_head_is_read_into_lower_case_names_and_stripped_values() -> None:
    head = parse_head(b"POST /v1/messages?beta=true&x=%20 HTTP/1.1\r\nHost: a\r\nX-Api-Key:\t k 1 \r\nEmpty:\r\n\r\n")

    assert (head.method, head.target, head.path, head.query) == (
        "POST", "/v1/messages?beta=true&x=%20", "/v1/messages", "beta=true&x=%20",
    )  # fmt: skip
    assert list(head.headers) == [(b"host", b"a"), (b"x-api-key", b"k 1"), (b"empty", b"")]
    assert (head.http_minor, head.content_length, head.expects_continue, head.keep_alive) == (1, 0, False, True)


def test_repeated_list_headers_are_kept_in_order() -> None:
    head = parse_head(get(b"Host: a\r\nVia: x\r\nAccept: a/b\r\nvia: y"))

    assert head.headers.joined(b"via") == b"x, y"


@pytest.mark.parametrize(
    ("line", "version", "kept"),
    [
        (b"X: y", b"1.1", True),
        (b"Connection: close", b"1.1", False),
        (b"Connection: keep-alive", b"1.1", True),
        (b"Connection: TE, Close", b"1.1", False),
        (b"Connection: te\r\nConnection: close", b"1.1", False),
        (b"Connection: closed", b"1.1", True),
        (b"X: y", b"1.0", False),
        (b"Connection: Keep-Alive", b"1.0", True),
        (b"Connection: keep-alive, close", b"1.0", False),
    ],
)
def test_a_connection_is_kept_as_its_version_and_tokens_say(line: bytes, version: bytes, kept: bool) -> None:
    head = parse_head(b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + line + b"\r\n\r\n")

    assert head.keep_alive is kept


def test_http_1_0_needs_no_host_and_never_waits_for_100_continue() -> None:
    head = parse_head(b"POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")

    assert (head.http_minor, head.content_length, head.expects_continue) == (0, 3, False)


def test_expect_100_continue_is_told_in_any_case_of_letters() -> None:
    assert parse_head(post(b"Content-Length: 3\r\nExpect: 100-Continue")).expects_continue


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"Expect: 200-ok", 417),
        (b"Content-Length:\t3", 400),
        (b"Transfer-Encoding:\tchunked", 400),
        (b"Authorization: a\r\nAuthorization: b", 400),
        (b"X-Api-Key: a\r\nx-api-key: a", 400),
        (b"no colon", 400),
        (b": no name", 400),
    ],
)
def test_doubtful_fields_are_refused(line: bytes, status: int) -> None:
    assert refusal(get(b"Host: a\r\n" + line)) == status


@pytest.mark.parametrize("name", [b"session_id", b"X_Request_ID", b"_", b"anthropic_beta"])
def test_a_field_with_an_underscore_is_kept_as_it_is(name: bytes) -> None:
    assert list(parse_head(get(b"Host: a\r\n" + name + b": 1")).headers) == [(b"host", b"a"), (name.lower(), b"1")]


DISGUISES = [
    "Content_Length", "TRANSFER_ENCODING", "transfer-_encoding", "Ho_st", "content_encoding", "content_type",
    "proxy_connection", "keep_alive", "http2_settings", "x_api_key", "x-api_key", "Proxy_Authorization",
    "X_Forwarded_For", "x-real_ip", "x_auth_request_user", "remote_user", "cf_connecting_ip", "relayd_call",
    "user_agent", "accept_encoding",
]  # fmt: skip


@pytest.mark.parametrize("name", DISGUISES)
def test_a_field_that_is_another_after_underscores_is_dropped_or_is_none_that_counts(name: str) -> None:
    head = parse_head(get(b"Host: a\r\n" + name.encode() + b": 7"))
    plain = name.lower().replace("_", "-").encode()

    assert head.content_length == 0
    assert plain not in head.headers
    dropped = name.lower().encode() not in head.headers
    assert dropped == (name not in ("transfer-_encoding", "Ho_st"))  # no back end reads these as the real ones


def test_an_offer_to_upgrade_is_not_taken() -> None:
    offer = b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB"
    head = parse_head(get(offer))

    assert (head.keep_alive, head.websocket) == (True, False)
    assert [name for name, _ in end_to_end(head.headers, frozenset())] == [b"host"]


@pytest.mark.parametrize("offer", [b"websocket", b"h2c, WebSocket", b"websocket/13"])
def test_a_websocket_is_told_by_its_handshake_and_ends_the_connection(offer: bytes) -> None:
    head = parse_head(get(b"Host: a\r\nConnection: Upgrade\r\nUpgrade: " + offer))

    assert (head.websocket, head.keep_alive) == (True, False)
    assert not parse_head(post(b"Content-Length: 0\r\nUpgrade: " + offer)).websocket


def test_a_star_is_a_target_of_options_only() -> None:
    assert parse_head(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path == "*"
    assert refusal(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n") == 400


def test_a_refusal_quotes_nothing_of_the_message() -> None:
    with pytest.raises(FramingError) as caught:
        parse_head(get(b"Host: a\r\nX-Api-Key: sk-relay-secret\x01"))

    assert "secret" not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"X-Api-Key: a\x01", "header x-api-key: a control character in its value"),
        (b"X-Team : a", "header x-team: white space before the colon"),
        (b" folded", "header line 3: a folded line, or white space before a name"),
        (b"Authorization Bearer k", "header line 3: not a header line (want NAME: VALUE)"),
        (b"X Team: a", "header line 3: not a header name"),
        (KEY.encode() + b" : a", "header line 3: white space before the colon"),
        (b"X-Team: " + b"x" * MAX_LINE, f"header x-team: a line longer than {MAX_LINE} bytes"),
    ],
)
def test_an_error_names_the_header(line: bytes, reason: str) -> None:
    with pytest.raises(FramingError) as caught:
        parse_head(b"POST /openai/v1/responses?x=1 HTTP/1.1\r\nHost: a\r\nAccept: b\r\n" + line + b"\r\n\r\n")

    assert caught.value.reason == f"request head: {reason}"
    assert caught.value.path == "/openai/v1/responses"


# Bounds


def head_of(size: int) -> bytes:
    """A good head of `size` bytes, in lines far below the line limit."""
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    fill = size - len(start) - 2
    lines = [b"a: " + b"x" * 995 + b"\r\n"] * (fill // 1000 - 1)
    rest = fill - sum(map(len, lines))
    return start + b"".join(lines) + b"b: " + b"y" * (rest - 5) + b"\r\n\r\n"


def test_a_head_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert len(head_of(MAX_HEAD)) == MAX_HEAD
    assert parse_head(head_of(MAX_HEAD)).method == "GET"
    assert refusal(head_of(MAX_HEAD + 1)) == 431


def test_a_line_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert parse_head(get(b"Host: a\r\nX: " + b"x" * (MAX_LINE - 3))).method == "GET"
    assert refusal(get(b"Host: a\r\nX: " + b"x" * (MAX_LINE - 2))) == 431


def test_the_request_line_counts_as_a_line() -> None:
    overhead = len(b"GET  HTTP/1.1")
    fits = b"GET /" + b"x" * (MAX_LINE - overhead - 1) + b" HTTP/1.1\r\nHost: a\r\n\r\n"

    assert len(parse_head(fits).path) == MAX_LINE - overhead
    assert refusal(fits.replace(b" HTTP", b"x HTTP")) == 431
    assert refusal(b"GET /" + b"x" * MAX_LINE + b" HTTP/1.0\r\n\r\n") == 431


def test_as_many_headers_as_the_limit_and_no_more() -> None:
    lines = [b"Host: a", *[b"x: y"] * (MAX_HEADERS - 1)]

    assert len(list(parse_head(get(b"\r\n".join(lines))).headers)) == MAX_HEADERS
    assert refusal(get(b"\r\n".join([*lines, b"x: y"]))) == 431


def test_limits_are_arguments() -> None:
    wire = get(b"Host: a\r\nX: y")

    for limits in ({"max_head": len(wire) - 1}, {"max_line": 9}, {"max_headers": 1}):
        with pytest.raises(FramingError, match="431"):
            parse_head(wire, **limits)


# Finding the end


def test_a_head_is_found_however_it_is_cut() -> None:
    wire = get(b"Host: a\r\nX: y")
    for cut in range(len(wire)):
        assert find_head(wire[:cut]) is None
        assert find_head(wire + b"GET", cut) == len(wire)


@pytest.mark.parametrize(
    "begun",
    [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nX: \rY", b"GET /\0", b"\x16\x03\x01\x02\x00\x01", b"\r\n", b"get / HTTP"],
    ids=["LF", "CR", "NUL", "TLS", "empty line", "small letters"],
)
def test_a_head_that_cannot_become_good_is_refused_before_its_end(begun: bytes) -> None:
    with pytest.raises(FramingError, match="400"):
        find_head(begun)


def test_a_stray_line_feed_is_seen_at_the_border_of_two_reads() -> None:
    assert find_head(b"GET / HTTP/1.1\r") is None
    assert find_head(b"GET / HTTP/1.1\r\n", 15) is None
    with pytest.raises(FramingError, match="400"):
        find_head(b"GET / HTTP/1.1\rX", 15)
    with pytest.raises(FramingError, match="400"):
        find_head(b"GET / HTTP/1.1\n", 14)


def test_a_head_without_end_is_refused_at_the_limit() -> None:
    begun = head_of(MAX_HEAD + 100)

    assert find_head(begun[:MAX_HEAD]) is None
    with pytest.raises(FramingError, match="431"):
        find_head(begun[: MAX_HEAD + 1])


# Chunked bodies

bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def decode(wire: bytes, cuts: list[int], limit: int = 1000) -> tuple[bytes, bytes]:
    decoder = ChunkedDecoder(limit)
    body, given_so_far = b"", 0
    for cut in [*sorted(cuts), len(wire)]:
        if decoder.done:
            break
        piece = wire[given_so_far:cut]
        if piece:
            body += decoder.feed(piece)
        given_so_far = max(cut, given_so_far)
    assert decoder.done
    return body, decoder.rest + wire[given_so_far:]


@settings(deadline=None, max_examples=150)
@given(bodies, st.binary(max_size=20), st.data())
def test_a_chunked_body_is_the_same_at_any_cuts(pieces: list[bytes], after: bytes, data: st.DataObject) -> None:
    wire = b"".join(map(chunk, pieces)) + LAST_CHUNK + after
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=8))

    for places in ([], list(range(len(wire))), cuts):
        assert decode(wire, places) == (b"".join(pieces), after)


@pytest.mark.parametrize(("wire", "status"), [(w, s) for _, w, s in CASES if w.startswith(chunked(b"")) and s])
def test_a_bad_chunked_body_is_refused_at_any_cut(wire: bytes, status: int) -> None:
    body = wire[wire.index(b"\r\n\r\n") + 4 :]
    parse_head(wire[: -len(body)])
    for cut in range(min(len(body), 60)):
        with pytest.raises(FramingError, match=str(status)):
            feed_all(ChunkedDecoder(1000), body[:cut], body[cut:])


def feed_all(decoder: ChunkedDecoder, *pieces: bytes) -> bytes:
    return b"".join(decoder.feed(piece) for piece in pieces if piece)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=30), st.integers(0, 30))
def test_a_chunked_decoder_says_the_same_whole_and_cut(wire: bytes, cut: int) -> None:
    def outcome(*pieces: bytes) -> tuple[int, bool, bytes]:
        decoder, body = ChunkedDecoder(20), b""
        try:
            for piece in pieces:
                if piece and not decoder.done:
                    body += decoder.feed(piece)
        except FramingError as error:
            return error.status, False, b""
        return 0, decoder.done, body

    assert outcome(wire) == outcome(wire[:cut], wire[cut:])


def test_a_chunked_body_may_be_as_large_as_the_limit_and_no_larger() -> None:
    def send(*sizes: int) -> bytes:
        return b"".join(chunk(b"x" * size) for size in sizes) + LAST_CHUNK

    assert decode(send(600, 400), []) == (b"x" * 1000, b"")
    with pytest.raises(FramingError, match="413"):
        decode(send(600, 401), [])


def test_a_chunk_that_announces_too_much_is_refused_before_it_comes() -> None:
    with pytest.raises(FramingError, match="413"):
        ChunkedDecoder(1000).feed(b"ffffffff\r\n")


# Against llhttp


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32))
def test_we_never_serve_what_llhttp_refuses_and_agree_on_the_rest(seed: int) -> None:
    wire = mutate(random.Random(seed))

    assert disagreement(wire) == ""


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([wire for _, wire, _ in CASES]), st.data())
def test_what_llhttp_would_read_otherwise_is_never_served(wire: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(wire)))
    garbage = data.draw(st.binary(min_size=1, max_size=4))

    assert disagreement(wire[:at] + garbage + wire[at:]) == ""


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.data())
def test_a_head_has_the_same_verdict_whole_and_byte_by_byte(seed: int, data: st.DataObject) -> None:
    wire = mutate(random.Random(seed))[:400]

    def status(step: int) -> int:
        seen = 0
        try:
            for end in range(step, len(wire) + step, step):
                found = find_head(wire[:end], seen)
                if found:
                    parse_head(wire[:found])
                    return 0
                seen = min(end, len(wire))
        except FramingError as error:
            return error.status
        return -1

    # A stray byte is found before or after the end of the head, with the same result; a refusal of another kind
    # may be overtaken by a stray byte only where both are in one head.
    whole, dripped = status(len(wire) or 1), status(1)
    assert (whole > 0) == (dripped > 0)


# Answers


def answer(status: int = 200, headers: HeaderPairs | None = None, **framing: object) -> bytes:
    wanted: dict[str, object] = {"length": 5, "keep_alive": True, "date": DATE, "http_minor": 1, **framing}
    return response_head(status, headers or [], **wanted)  # type: ignore[arg-type]


def test_an_answer_of_known_length() -> None:
    assert answer(headers=[(b"content-type", b"text/plain")]) == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: " + DATE + b"\r\ncontent-length: 5\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("framing", "ending"),
    [
        ({"length": None}, b"transfer-encoding: chunked\r\n\r\n"),
        ({"length": 0, "keep_alive": False}, b"content-length: 0\r\nconnection: close\r\n\r\n"),
        ({"http_minor": 0}, b"content-length: 5\r\nconnection: keep-alive\r\n\r\n"),
        ({"http_minor": 0, "length": None, "keep_alive": False}, DATE + b"\r\nconnection: close\r\n\r\n"),
        ({"status": 204}, DATE + b"\r\n\r\n"),
        ({"status": 304, "length": None}, DATE + b"\r\n\r\n"),
    ],
)
def test_framing_headers_are_ours(framing: dict[str, object], ending: bytes) -> None:
    assert answer(**framing).endswith(ending)  # type: ignore[arg-type]


def test_an_http_1_0_stream_cannot_be_kept_alive() -> None:
    with pytest.raises(ValueError, match=r"HTTP/1\.0"):
        answer(length=None, http_minor=0)


def test_every_status_has_its_phrase_also_529() -> None:
    assert answer(529).startswith(b"HTTP/1.1 529 Overloaded\r\n")
    assert answer(431).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert answer(599).startswith(b"HTTP/1.1 599 \r\n")


def test_a_date_of_the_application_stands() -> None:
    wire = answer(headers=[(b"date", b"yesterday")])

    assert wire.count(b"date:") == 1
    assert b"date: yesterday\r\n" in wire


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding", b"connection", b"", b"a b", b"a:", b"a\r\n"])
def test_a_header_name_that_would_break_the_head_is_an_error(name: bytes) -> None:
    with pytest.raises(ValueError):
        answer(headers=[(b"x-a", b"1"), (name, b"v")])


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\rb", b"a\nb", b"a\0", b"\n\r"])
def test_a_header_value_that_would_break_the_head_is_an_error_that_does_not_show_it(value: bytes) -> None:
    with pytest.raises(ValueError, match="x-key") as caught:
        answer(headers=[(b"x-key", b"secret" + value)])

    assert "secret" not in str(caught.value)


def test_no_bytes_are_no_chunk() -> None:
    assert chunk(b"") == b""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
