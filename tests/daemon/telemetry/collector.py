"""An OpenTelemetry collector on a real socket: takes OTLP over HTTP, decodes it, keeps the spans."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE = 30.0  # s


@attrs.define(eq=False)
class Collector:
    """What has come.

    Args:
        status: what it answers.
        mute: it reads and never answers.
    """

    status: int = 200
    mute: bool = False
    url: str = ""
    spans: list[Span] = attrs.field(factory=list)
    resource: dict[str, Any] = attrs.field(factory=dict)
    headers: list[Mapping[str, str]] = attrs.field(factory=list)
    raw: bytes = b""
    came: threading.Condition = attrs.field(factory=threading.Condition)
    over: threading.Event = attrs.field(factory=threading.Event)

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        assert path == "/v1/traces"
        assert headers["content-type"] == "application/x-protobuf"
        data = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        asked = ExportTraceServiceRequest.FromString(data)
        with self.came:
            self.raw += data
            self.headers.append(headers)
            for resource in asked.resource_spans:
                self.resource = values(resource.resource.attributes)
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self.came.notify_all()

    def wait_for(self, count: int) -> list[Span]:
        """The spans, once there are so many."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.spans) >= count, PATIENCE), self.spans
        return self.spans

    def wait_for_request(self) -> None:
        with self.came:
            assert self.came.wait_for(lambda: self.headers, PATIENCE)


@contextmanager
def collecting(*, status: int = 200, mute: bool = False) -> Iterator[Collector]:
    """A collector for the length of the block."""
    collector = Collector(status=status, mute=mute)

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            if collector.mute:
                collector.over.wait(PATIENCE)
                self.close_connection = True
                return
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        collector.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
