"""Spans: a call's receipt as an OpenTelemetry span, and the exporter that sends them. The door to the SDK.

Rule: imported only where traces are wanted. A span says who was served, by which account, how it went and what it cost;
never a prompt, a key or a credential. Every text that a client or an upstream may have written is scrubbed and cut.

Theory: one SERVER span a call, with the names of the semantic conventions for HTTP and generative AI where they fit;
each attempt is an event of it. A client's `traceparent` makes its span the parent. What is sent upstream stays the
client's own header, unchanged as all end-to-end headers are: relayd does not put itself between two ends.
Source: W3C Trace Context; OpenTelemetry semantic conventions, "HTTP server spans" and "Generative AI".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from relayd import __version__
from relayd.core.access.owned_paths import COLLECTIONS
from relayd.core.receipt import Attempt, Receipt
from relayd.core.traffic import failed
from relayd.daemon.log import scrub
from relayd.daemon.telemetry.settings import TraceSettings
from relayd.wire.api_paths import canonical

LONGEST = 300  # characters of a text
METHODS = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH"})

SpanValue = str | int | float | bool


class _Ended(SpanProcessor):
    """Keeps the spans that have ended, until they are taken."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    def take(self) -> list[ReadableSpan]:
        taken, self.spans = self.spans, []
        return taken


class _LastWords(logging.Handler):
    """Keeps the last thing that the SDK complained of; its own lines would repeat it with every batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = scrub(record.getMessage())[:LONGEST]


class OtlpSender:
    """Sends receipts as spans over OTLP/HTTP.

    Args:
        node: this node's name, `service.instance.id`.
        breathe: called after each span; lets other threads have the interpreter.
    """

    def __init__(self, settings: TraceSettings, node: str, breathe: Callable[[], None]) -> None:
        own = {"service.version": __version__, "service.instance.id": node}
        if settings.service:
            own["service.name"] = settings.service
        self._ended, self._words, self._breathe = _Ended(), _LastWords(), breathe
        complaints = logging.getLogger("opentelemetry")
        complaints.addHandler(self._words)
        complaints.propagate = False
        self._provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        self._provider.add_span_processor(self._ended)
        self._tracer = self._provider.get_tracer("relayd", __version__)
        self._context = TraceContextTextMapPropagator()
        self._exporter = OTLPSpanExporter()

    def send(self, receipts: Sequence[Receipt]) -> str:
        """As `TraceQueue.send`."""
        for receipt in receipts:
            self._make(receipt)
            self._breathe()
        spans = self._ended.take()
        if not spans:  # none of them was sampled
            return ""
        self._words.text = ""
        try:
            if self._exporter.export(spans) is SpanExportResult.SUCCESS:
                return ""
        except Exception as error:  # the thread goes on, whatever a library thinks of an answer
            return scrub(f"{type(error).__name__}: {error}")[:LONGEST]
        return self._words.text or "the collector did not take it"

    def give_up(self) -> None:
        """As `TraceQueue.give_up`."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call] # the SDK does not say that it returns nothing

    def _make(self, receipt: Receipt) -> None:
        parent, state = receipt.trace
        carrier = {"traceparent": parent, "tracestate": state} if parent else {}
        began = _ns(receipt.started)
        span = self._tracer.start_span(
            span_name(receipt),
            context=self._context.extract(carrier, Context()),
            kind=SpanKind.SERVER,
            attributes=span_attributes(receipt),
            start_time=began,
        )
        for number, attempt in enumerate(receipt.attempts, 1):
            span.add_event("relayd.attempt", _of_attempt(attempt, number), timestamp=began + _ns(attempt.at))
        if failed(receipt) or receipt.status >= 500:
            span.set_status(Status(StatusCode.ERROR, _text(receipt.reason) or None))
        span.end(began + _ns(receipt.seconds))


def span_name(receipt: Receipt) -> str:
    """Method and route: few names, whatever clients ask for."""
    return f"{_method(receipt.method)} {route(receipt.path)}"


def route(path: str) -> str:
    """A served path with ids left open."""
    plain = canonical(path)
    below = next((root for root in COLLECTIONS if plain.startswith(f"{root}/")), "")
    if not below:
        return plain
    parts = plain[len(below) + 1 :].split("/")  # ids and words in turn
    return "/".join([below, *(part if number % 2 else "{id}" for number, part in enumerate(parts))])


def span_attributes(receipt: Receipt) -> dict[str, SpanValue]:
    """What a span says of its call; what is empty is left out."""
    found: dict[str, SpanValue] = {
        "http.request.method": _method(receipt.method),
        "http.route": route(receipt.path),
        "url.path": _text(receipt.path),
        "client.address": receipt.peer,
        "relayd.request_id": receipt.call_id,
        "relayd.dialect": receipt.dialect,
        "relayd.outcome": receipt.outcome,
        "relayd.reason": _text(receipt.reason),
        "relayd.key": receipt.key,
        "relayd.owner": _text(receipt.owner),
        "relayd.client": receipt.client,
        "relayd.account": receipt.account,
        "relayd.config.revision": receipt.revision,
        "relayd.upstream_request_id": _text(receipt.upstream_request_id),
    }
    found = {name: value for name, value in found.items() if value}
    found["relayd.attempts"] = len(receipt.attempts)
    if receipt.status:
        found["http.response.status_code"] = receipt.status
    if receipt.status >= 400 or receipt.outcome != "ok":
        found["error.type"] = receipt.outcome if receipt.outcome in ("cut", "left", "failed") else str(receipt.status)
    if receipt.cost is not None:
        found["relayd.cost_usd"] = receipt.cost / 1_000_000
    return found | (_generative(receipt) if receipt.model else {})


def _generative(receipt: Receipt) -> dict[str, SpanValue]:
    """The conventions for calls of models. Of the prompt all tokens count, those from the cache too."""
    usage = receipt.usage
    written = usage.cache_write_5m + usage.cache_write_1h
    found: dict[str, SpanValue] = {
        "gen_ai.operation.name": "count_tokens" if receipt.path.rstrip("/").endswith("_tokens") else "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": _text(receipt.model),
    }
    if answered := usage.model or receipt.sent_model:
        found["gen_ai.response.model"] = _text(answered)
    if receipt.max_tokens is not None:
        found["gen_ai.request.max_tokens"] = receipt.max_tokens
    if receipt.stream:
        found["gen_ai.request.stream"] = True
        if receipt.first_byte is not None:
            found["gen_ai.response.time_to_first_chunk"] = receipt.first_byte
    if usage.total:
        found["gen_ai.usage.input_tokens"] = usage.input + written + usage.cache_read
        found["gen_ai.usage.output_tokens"] = usage.output
        found["gen_ai.usage.cache_creation.input_tokens"] = written
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cache_read
    return found


def _of_attempt(attempt: Attempt, number: int) -> dict[str, SpanValue]:
    found: dict[str, SpanValue] = {
        "relayd.attempt.number": number,
        "relayd.account": attempt.account,
        "relayd.verdict": attempt.kind,
        "relayd.blame": attempt.blame,
        "relayd.reason": _text(attempt.reason),
        "relayd.attempt.seconds": attempt.seconds,
    }
    return found | ({"http.response.status_code": attempt.status} if attempt.status else {})


def _method(method: str) -> str:
    return method if method in METHODS else "_OTHER"


def _text(text: str) -> str:
    return scrub(text)[:LONGEST]


def _ns(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
