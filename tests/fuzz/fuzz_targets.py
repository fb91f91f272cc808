"""Fuzz targets: what relayd reads of strangers, each as a function of bytes that fails when a promise is broken.

Rule: a target knows no fuzzer. `fuzz.py` feeds them with what atheris finds by coverage, `test_fuzz_targets.py` with
seeds damaged at random, and with every input that ever broke one. Refusals that a target expects are no failure.

Theory: the bytes are a text in the form the code under test reads, so that seeds are readable, and damage makes
what a real peer could send. Where a target takes two things, the first byte says how they are cut.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import brotli
from builders import head
from openai_cases import DIALECTS, begin, chat, end, message, respond, streamed, text, tool

from relayd.config.compile import compile_tree
from relayd.config.problems.report import as_dict, as_text
from relayd.config.source.tree import read_files
from relayd.core.balancing.headroom import limited, pull, read_gauges
from relayd.wire.anthropic import Native, read_models
from relayd.wire.content_coding import CODINGS, BodyDecoder, CodingDamaged, PieceDecoder
from relayd.wire.h1 import ChunkedDecoder, FramingError, find_head, parse_head
from relayd.wire.http import Headers
from relayd.wire.meter import Meter
from relayd.wire.objects import (
    Unreadable,
    batch_requests,
    file_ids,
    object_id,
    read_page,
    shared_only,
    with_results_url,
)
from relayd.wire.refusal import Refusal
from relayd.wire.resumed import made_by_message
from relayd.wire.sse import Event, EventDecoder, TooLong
from relayd.wire.usage import Usage, usage_of_message

NOW = 1_790_000_000.0
LARGEST = 2**53 - 1
CORPUS = Path(__file__).parent.parent / "corpus"
SAMPLE = read_files(CORPUS / "config" / "sample.good")
_HEAD = head()


def split(data: bytes) -> tuple[bytes, bytes]:
    """The rest of the bytes in two, where the first one says."""
    at = 1 + (data[0] if data else 0)
    return data[1:at], data[at:]


def edge_head(data: bytes) -> None:
    """A request head is understood or refused with a 4xx or 5xx, whatever the first read held of it."""
    first, rest = split(data)
    wire, verdicts = first + rest, []
    for look in (lambda: find_head(wire), lambda: find_head(first) or find_head(wire, len(first))):
        try:
            end = look()
            told = 0 if end is None else (parse_head(wire[:end]), 200)[1]
        except FramingError as error:
            told = error.status
        assert told in (0, 200) or 400 <= told < 600
        verdicts.append(told in (0, 200))
    # What is refused in pieces is refused whole; whole, a stray byte behind may be seen before the end.
    assert verdicts[0] == verdicts[1] or not verdicts[0]


def edge_chunks(data: bytes) -> None:
    """A chunked body is the same whole and cut, and never longer than its limit."""
    first, rest = split(data)

    def outcome(*pieces: bytes) -> tuple[int, bool, bytes]:
        decoder, body = ChunkedDecoder(64), b""
        try:
            for piece in pieces:
                if piece and not decoder.done:
                    body += decoder.feed(piece)
        except FramingError as error:
            return error.status, False, b""
        assert len(body) <= 64
        return 0, decoder.done, body

    assert outcome(first + rest) == outcome(first, rest)


def event_stream(data: bytes) -> None:
    """An event stream says the same whole and cut."""
    first, rest = split(data)

    def said(*pieces: bytes) -> list[Event] | None:
        decoder = EventDecoder(max_event=400)
        try:
            return [event for piece in pieces for event in decoder.feed(piece)]
        except TooLong:
            return None

    whole, cut = said(first + rest), said(first, rest)
    assert whole == cut or None in (whole, cut)


def check_usage(usage: Usage) -> None:
    counts = (usage.input, usage.output, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h)
    assert all(isinstance(count, int) and 0 <= count <= LARGEST for count in counts), usage
    assert usage.total >= 0


def usage_of_a_stream(data: bytes) -> None:
    """The meter never fails, counts are counts, and a cut changes none of them."""
    first, rest = split(data)
    meters = []
    for pieces in ((first + rest,), (first, rest)):
        meter = Meter()
        for piece in pieces:
            if piece:
                meter.feed(piece)
        check_usage(meter.usage)
        check_usage(meter.usage_so_far())
        meters.append(meter)
    whole, cut = meters
    assert (whole.usage, whole.finished, whole.failed) == (cut.usage, cut.finished, cut.failed)


def usage_of_an_answer(data: bytes) -> None:
    """A plain answer and a list of models are read or not."""
    usage = usage_of_message(data)
    if usage is not None:
        check_usage(usage)
    read_models(data)


def limit_headers(data: bytes) -> None:
    """No header of an answer is an error, and what it says is held within a week."""
    pairs = [
        (name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in data.split(b"\n"))
    ]
    said = Headers(pairs)
    found, gauges = limited(said, NOW), read_gauges(said, NOW)
    assert found is None or NOW <= found.until <= NOW + 7 * 86_400
    assert all(0.0 <= one.left <= 1.0 and NOW < one.resets <= NOW + 7 * 86_400 for one in gauges)
    assert 1 / 16 <= pull(gauges, NOW) <= 16


def native_body(data: bytes) -> None:
    """A body for /v1/messages is a call or a refusal."""
    try:
        call = Native().parse(_HEAD, data)
    except Refusal as refusal:
        _is_blame(refusal)
        return
    assert call.model


def batch_body(data: bytes) -> None:
    """A batch is read or refused; an answer that keeps or lists objects is read or not."""
    try:
        assert batch_requests(data)
    except Refusal as refusal:
        _is_blame(refusal)
    with contextlib.suppress(Unreadable):
        read_page(data)
    for look in (object_id, file_ids, shared_only, made_by_message):
        look(data)
    with_results_url(data, "https://relay.example/v1/messages/batches/b/results")


def _is_blame(refusal: Refusal) -> None:
    assert 400 <= refusal.status < 500
    assert refusal.message


def _translated(dialect: str, data: bytes) -> None:
    try:
        call = DIALECTS[dialect].parse(_HEAD, data)
    except Refusal as refusal:
        _is_blame(refusal)
        return
    assert call.body


def chat_body(data: bytes) -> None:
    """A body for /v1/chat/completions is a call or a refusal."""
    _translated("chat", data)


def responses_body(data: bytes) -> None:
    """A body for /v1/responses is a call or a refusal."""
    _translated("responses", data)


def translated_stream(data: bytes) -> None:
    """Whatever an upstream streams is translated, or ends in an error that the client can read."""
    first, rest = split(data)
    for make in (chat, respond):
        streamed(make(stream=True), first + rest)
        streamed(make(stream=True), first, rest)


def tree(data: bytes) -> None:
    """Any text in place of a file of the tree gives a snapshot or problems with places that exist."""
    names = sorted(SAMPLE)
    name, content = names[(data[0] if data else 0) % len(names)], data[1:]
    compiled = compile_tree({**SAMPLE, name: content})
    assert (compiled.snapshot is None) == any(problem.severity == "error" for problem in compiled.problems)
    assert all(problem.line <= content.count(b"\n") + 1 for problem in compiled.problems if problem.file == name)
    assert as_text(compiled.problems) or not compiled.problems
    assert all(map(as_dict, compiled.problems))


def packed_body(data: bytes) -> None:
    """A compressed body or answer is unpacked within its limit, or refused."""
    coding, packed = CODINGS[(data[0] if data else 0) % len(CODINGS)], data[1:]
    try:
        decoder = BodyDecoder(coding, packed, 1 << 16)
        while not decoder.ended:
            decoder.run(1 << 14)
        assert len(decoder.whole()) <= 1 << 16
    except Refusal as refusal:
        _is_blame(refusal)
    piece = PieceDecoder(coding)
    try:
        piece.feed(packed)
        for _ in range(8):  # a bomb has no end
            assert len(piece.take(1 << 14)) <= 1 << 20
    except CodingDamaged:
        pass


_STREAM = begin() + text(0, "a", "b") + tool(1, "f", '{"a":', "1}") + end()
_CALL = (
    b'{"model": "claude-sonnet-4-6", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "a"}]}'
)
_BATCH = b'{"requests": [{"custom_id": "a", "params": %b}, {"custom_id": "b", "params": %b}]}' % (_CALL, _CALL)
_PAGE = (
    b'{"data": [{"id": "file_1", "created_at": "2026-10-21T07:28:00Z", "source": {"type": "anthropic"}}], '
    b'"has_more": true, "last_id": "file_1", "next_page": "page_1", "results_url": "https://a/b"}'
)
_CHAT = (
    b'{"model": "claude-sonnet-4-6", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, '
    b'{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": '
    b'{"name": "f", "arguments": "{}"}}]}, '
    b'{"role": "tool", "tool_call_id": "c", "content": "b"}], "stop": ["x"], "reasoning_effort": "low"}'
)
_RESPONSES = (
    b'{"model": "claude-sonnet-4-6", "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", '
    b'"text": "a"}]}, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, {"type": '
    b'"function_call_output", "call_id": "c", "output": "b"}], "tools": [{"type": "function", "name": "f"}]}'
)
_LIMITS = (
    b"retry-after: Wed, 21 Oct 2026 07:28:00 GMT\nretry-after-ms: 1.5\nanthropic-ratelimit-requests-limit: 50\n"
    b"anthropic-ratelimit-requests-remaining: 0\nanthropic-ratelimit-requests-reset: 2026-10-21T07:28:00Z\n"
    b"anthropic-ratelimit-unified-status: rejected\nanthropic-ratelimit-unified-reset: 1790003600\n"
    b"anthropic-ratelimit-unified-5h-utilization: 0.9\nanthropic-ratelimit-unified-5h-reset: 1790003600"
)
_REQUEST = b"POST /v1/messages HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"
_PACKED = (gzip.compress(b"{}" * 40), zlib.compress(b"{}" * 40), brotli.compress(b"{}" * 40))

# By name: the target, and texts of its form to begin with.
TARGETS: Mapping[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = MappingProxyType(
    {
        "edge_head": (
            edge_head,
            (b"\x09" + _REQUEST, b"\x20GET http://a/b?c HTTP/1.0\nTransfer-Encoding: chunked\n\n"),
        ),
        "edge_chunks": (edge_chunks, (b"\x045;x=y\r\nhello\r\n0\r\na: b\r\n\r\nrest",)),
        "event_stream": (event_stream, (b"\x30" + _STREAM, b"\x03\xef\xbb\xbfdata: a\r\r\n: b\ndata\n\n")),
        "usage_of_a_stream": (usage_of_a_stream, (b"\xff" + _STREAM, b"\x30" + _STREAM.replace(b"\n", b"\r\n"))),
        "usage_of_an_answer": (usage_of_an_answer, (message({"type": "text", "text": "a"}),)),
        "limit_headers": (limit_headers, (_LIMITS,)),
        "native_body": (native_body, (_CALL,)),
        "batch_body": (batch_body, (_BATCH, _PAGE)),
        "chat_body": (chat_body, (_CHAT,)),
        "responses_body": (responses_body, (_RESPONSES,)),
        "translated_stream": (translated_stream, (b"\x30" + _STREAM,)),
        "tree": (tree, tuple(bytes([at]) + SAMPLE[name] for at, name in enumerate(sorted(SAMPLE)))),
        "packed_body": (packed_body, tuple(bytes([at]) + some for at, some in enumerate(_PACKED))),
    }
)
