"""Traces of calls, as a collector sees them, and what a dead one costs."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from collector import Collector, collecting, values
from fakes import ASK, KEY, Told
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus
from ports import refusing_port
from reload_world import living, make_tree

from relayd.core.receipt import Attempt, Receipt
from relayd.daemon.admin.metrics import metrics_text
from relayd.daemon.build_calls import make_traces
from relayd.daemon.telemetry.settings import TelemetryError, TraceSettings, trace_settings
from relayd.daemon.telemetry.spans import OtlpSender, route
from relayd.daemon.telemetry.trace_queue import TraceQueue
from relayd.wire.usage import Usage

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SETTINGS = TraceSettings(endpoint="http://127.0.0.1:9")


@pytest.fixture(autouse=True)
def _the_sdk_is_left_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("opentelemetry")
    yield
    logger.handlers.clear()
    logger.propagate = True


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield found


def receipt(**fields: Any) -> Receipt:
    dull: dict[str, Any] = {
        "call_id": "req_1",
        "started": 1_800_000_000.0,
        "method": "POST",
        "path": "/v1/messages",
        "dialect": "anthropic",
        "client": "claude-code",
        "peer": "192.0.2.1",
        "key": "dev",
        "owner": "eva",
        "account": "main",
        "status": 200,
        "seconds": 2.0,
    }
    return Receipt(**{**dull, **fields})


def sent(collector: Collector, *receipts: Receipt) -> list[Span]:
    sender = OtlpSender(SETTINGS, "node-1", breathe=lambda: None)
    assert sender.send(receipts) == ""
    return collector.spans


def test_a_call_is_one_span_with_an_event_for_each_attempt(collector: Collector) -> None:
    usage = Usage(input=7, cache_write_5m=5, cache_write_1h=1, cache_read=3, output=2, model="claude-x")
    attempts = (
        Attempt(account="a", status=529, reason="overloaded", seconds=0.25, at=0.25, blame="upstream", kind="overload"),
        Attempt(account="main", status=200, reason="ok", seconds=1.0, at=1.5),
    )
    (span,) = sent(
        collector,
        receipt(
            usage=usage,
            cost=1_250_000,
            attempts=attempts,
            model="claude-x",
            stream=True,
            first_byte=1.5,
            max_tokens=99,
            trace=(PARENT, "vendor=1"),
            revision="abc",
            upstream_request_id="req_up",
        ),
    )

    assert (span.name, span.kind) == ("POST /v1/messages", Span.SPAN_KIND_SERVER)
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert span.trace_state == "vendor=1"
    assert span.start_time_unix_nano == 1_800_000_000 * 10**9
    assert span.end_time_unix_nano - span.start_time_unix_nano == 2 * 10**9
    assert values(span.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/messages",
        "url.path": "/v1/messages",
        "http.response.status_code": 200,
        "client.address": "192.0.2.1",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-x",
        "gen_ai.response.model": "claude-x",
        "gen_ai.request.max_tokens": 99,
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": 1.5,
        "gen_ai.usage.input_tokens": 16,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_creation.input_tokens": 6,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "relayd.request_id": "req_1",
        "relayd.dialect": "anthropic",
        "relayd.outcome": "ok",
        "relayd.key": "dev",
        "relayd.owner": "eva",
        "relayd.client": "claude-code",
        "relayd.account": "main",
        "relayd.attempts": 2,
        "relayd.cost_usd": 1.25,
        "relayd.config.revision": "abc",
        "relayd.upstream_request_id": "req_up",
    }
    assert [values(event.attributes) for event in span.events] == [
        {
            "relayd.attempt.number": 1,
            "relayd.account": "a",
            "http.response.status_code": 529,
            "relayd.blame": "upstream",
            "relayd.verdict": "overload",
            "relayd.reason": "overloaded",
            "relayd.attempt.seconds": 0.25,
        },
        {
            "relayd.attempt.number": 2,
            "relayd.account": "main",
            "http.response.status_code": 200,
            "relayd.blame": "none",
            "relayd.verdict": "ok",
            "relayd.reason": "ok",
            "relayd.attempt.seconds": 1.0,
        },
    ]
    assert span.events[0].time_unix_nano - span.start_time_unix_nano == 250_000_000
    assert span.status.code == SpanStatus.STATUS_CODE_UNSET
    assert collector.resource["service.name"] == "relayd"
    assert collector.resource["service.instance.id"] == "node-1"


def test_failures_are_marked_and_texts_of_others_are_scrubbed(collector: Collector) -> None:
    secret = "sk-ant-api03-" + "x" * 40
    cut, refused = sent(
        collector,
        receipt(outcome="cut", reason=f"upstream said {secret}", model=secret, status=200),
        receipt(outcome="refused", status=429, method="BREW", model=""),
    )

    assert cut.status.code == SpanStatus.STATUS_CODE_ERROR
    assert cut.status.message == "upstream said [secret]"
    assert values(cut.attributes)["error.type"] == "cut"
    assert refused.status.code == SpanStatus.STATUS_CODE_UNSET  # the client's own: semantic conventions, HTTP servers
    assert values(refused.attributes)["error.type"] == "429"
    assert refused.name == "_OTHER /v1/messages"
    assert secret.encode() not in collector.raw


@pytest.mark.parametrize(
    "parent",
    ["", "x" * 55, PARENT.replace("0af7", "ZZZZ"), "00-" + "0" * 32 + "-b7ad6b7169203331-01", f"{PARENT}-more"],
)
def test_a_context_that_is_none_makes_a_trace_of_its_own(collector: Collector, parent: str) -> None:
    (span,) = sent(collector, receipt(trace=(parent, "a=b")))

    assert span.parent_span_id == b""
    assert any(span.trace_id)


def test_whoever_began_the_trace_decides_whether_it_is_recorded(collector: Collector) -> None:
    assert sent(collector, receipt(trace=(f"{PARENT[:-2]}00", ""))) == []


def test_the_usual_variables_name_the_service_and_bring_headers(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "relay-eu")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    traces = make_traces("n")
    assert traces is not None
    traces.record(receipt())
    traces.start()
    collector.wait_for(1)
    traces.stop()

    assert collector.resource["service.name"] == "relay-eu"
    assert collector.resource["deployment.environment.name"] == "prod"
    assert collector.headers[0]["authorization"] == "Bearer abc"
    assert collector.headers[0]["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/messages", "/v1/messages"),
        ("/api/v1/messages/", "/v1/messages"),
        ("/v1/files/file_011CNha8iCJcU1wXNR6q4V8w", "/v1/files/{id}"),
        ("/v1/skills/skill_1/versions/17/content", "/v1/skills/{id}/versions/{id}/content"),
        ("/v1/messages/batches/msgbatch_1/results", "/v1/messages/batches/{id}/results"),
    ],
)
def test_a_route_has_no_ids(path: str, expected: str) -> None:
    assert route(path) == expected


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x:4318"}, False),
    ],
)
def test_traces_are_sent_where_a_collector_is_named(environ: dict[str, str], wanted: bool) -> None:
    assert (trace_settings(environ) is not None) is wanted


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_BSP_MAX_QUEUE_SIZE", "0"), ("OTEL_BSP_SCHEDULE_DELAY", "5s")],
)
def test_what_cannot_be_done_is_said(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret-word@127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises(TelemetryError, match=re.escape(name)):
        trace_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", name: value})

    assert make_traces("n") is None  # calls matter more
    (record,) = caplog.records
    assert (record.message, record.levelname) == ("telemetry.off", "WARNING")
    assert "secret-word" not in str(vars(record))


def test_without_the_extra_the_relay_serves_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "relayd.daemon.telemetry.spans", None)

    assert make_traces("n") is None
    (record,) = caplog.records
    assert record.message == "telemetry.missing"
    assert "relayd[otel]" in vars(record)["hint"]


def test_where_it_is_off_nothing_of_it_is_imported() -> None:
    code = (
        "import sys; from relayd.daemon.build_calls import make_traces; assert make_traces('n') is None;"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'requests', 'google'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    assert done.stdout == "[]\n"


def test_a_full_queue_drops_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answers = ["no route", "no route", "", ""]

    def send(receipts: Sequence[Receipt]) -> str:
        assert len(receipts) <= 4
        return answers.pop(0)

    settings = TraceSettings(endpoint="", most=10, pause=0.001, together=4)
    traces = TraceQueue(settings=settings, send=send, give_up=lambda: None)
    for _ in range(13):
        traces.record(receipt())
    assert (traces.queued, traces.dropped) == (10, 3)

    traces.start()
    traces.stop(30.0)
    assert (traces.queued, traces.failed, traces.sent) == (0, 8, 2)
    events = [(record.message, getattr(record, "reason", "")) for record in caplog.records]
    assert events == [("telemetry.refused", "no route"), ("telemetry.accepted", "")]  # once each, not with every batch


def test_a_collector_that_is_not_there_is_named_once_by_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_port() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
        sender = OtlpSender(SETTINGS, "n", breathe=lambda: None)

        assert "Failed to export" in sender.send([receipt()])
        sender.give_up()


def test_what_a_collector_refuses_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting(status=401) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        assert "401" in OtlpSender(SETTINGS, "n", breathe=lambda: None).send([receipt()])


async def test_a_collector_that_hangs_costs_calls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting(mute=True) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")  # it is not given up
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "5")
        async with living(make_tree(tmp_path / "tree"), watch=False) as world:
            traces = world.daemon.traces
            assert traces is not None
            traces.start()
            assert (await world.call()).status == 200
            await trio.to_thread.run_sync(collector.wait_for_request)  # the thread hangs in it from now on
            assert [(await world.call()).status for _ in range(8)] == [200] * 8
            await world.until(lambda: traces.dropped == 3, "three dropped")
            told = metrics_text(world.sources, 0.0)
            collector.over.set()
            traces.stop(0.0)

    assert "relayd_telemetry_queued 5\n" in told
    assert 'relayd_telemetry_spans_total{result="dropped"} 3\n' in told


async def test_the_span_of_a_served_call_is_the_clients_child_and_has_no_secret(
    tmp_path: Path, collector: Collector
) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        assert world.daemon.traces is not None
        world.daemon.traces.start()
        client = await world.connect()
        answer: Told = await client.ask(traceparent=PARENT, tracestate="a=1")
        refused = await client.ask(key="sk-relay-" + "0" * 40)
        spans = await trio.to_thread.run_sync(collector.wait_for, 2)
        await trio.to_thread.run_sync(world.daemon.traces.stop)

    assert (answer.status, refused.status) == (200, 401)
    served = next(span for span in spans if span.trace_id.hex() in PARENT)
    found = values(served.attributes)
    assert (found["relayd.key"], found["relayd.account"], found["http.response.status_code"]) == ("k0", "a", 200)
    assert found["relayd.request_id"] == dict(answer.pairs)["relayd-request-id"]
    assert [values(event.attributes)["relayd.verdict"] for event in served.events] == ["ok"]
    for secret in (KEY.encode(), b"sk-relay-", "Grüße".encode(), ASK):
        assert secret not in collector.raw
