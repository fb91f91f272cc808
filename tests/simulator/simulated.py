"""Builders for the simulator's tests: bodies, calls, and the SDK without a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
from waiting import PATIENCE

from relayd.config.snapshot import Simulator
from relayd.simulator.api import MessageCount, Routes, respond
from relayd.simulator.script import Script
from relayd.wire.http import Headers

MODEL = "claude-sonnet-5-5"
NOON = 1_800_000_000.0  # a Unix time at a full minute
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 2},
            "place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
            "extra": {"type": "string"},
        },
        "required": ["city", "unit", "days", "place", "tags"],
    },
}
CLOCK = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}


def ask(text: Any = "Hello there", **fields: Any) -> dict[str, Any]:
    """A Messages body; a field given as None is left out."""
    body = {"model": MODEL, "max_tokens": 4000, "messages": [{"role": "user", "content": text}], **fields}
    return {name: value for name, value in body.items() if value is not None}


def call(
    body: Any = None,
    *,
    settings: Simulator | None = None,
    target: str = "/v1/messages",
    method: str = "POST",
    number: int = 1,
    now: float = NOON,
    messages: MessageCount | None = None,
    routes: Routes | None = None,
    **headers: str,
) -> Script:
    """One call. `headers` are given as `x_simulate_status="500"`."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return respond(
        method,
        target,
        Headers(pairs),
        content,
        settings or Simulator(),
        number,
        now,
        messages or MessageCount(),
        routes,
    )


def text_of(script: Script) -> bytes:
    """The whole body."""
    return b"".join(piece for _, piece in script.steps)


def value_of(script: Script) -> Any:
    """The body as JSON."""
    return json.loads(text_of(script))


def header(script: Script, name: str) -> str | None:
    """One header's value."""
    value = Headers(script.headers).get(name.encode())
    return None if value is None else value.decode()


def events_of(body: bytes) -> list[dict[str, Any]]:
    """Events of a stream; each must have an event line that names its type, and a data line."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        named, said = block.split("\n")
        event = json.loads(said.removeprefix("data: "))
        assert named == f"event: {event['type']}"
        found.append(event)
    return found


class Wireless(httpx2.BaseTransport):
    """The simulator under a sync httpx2 client, without socket or waiting. A cut is httpx2.RemoteProtocolError."""

    def __init__(self, settings: Simulator | None = None, routes: Routes | None = None) -> None:
        self.settings = settings or Simulator()
        self.messages = MessageCount()
        self.routes = routes
        self.calls = 0
        self.now = NOON

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.calls += 1
        headers = Headers([(name.lower(), value) for name, value in request.headers.raw])
        target = request.url.raw_path.decode()
        script = respond(
            request.method,
            target,
            headers,
            request.read(),
            self.settings,
            self.calls,
            self.now,
            self.messages,
            self.routes,
        )
        return httpx2.Response(script.status, headers=script.headers, stream=_Body(script), request=request)


class _Body(httpx2.SyncByteStream):
    def __init__(self, script: Script) -> None:
        self.script = script

    def __iter__(self) -> Iterator[bytes]:
        yield from (piece for _, piece in self.script.steps)
        if self.script.end != "proper":
            raise httpx2.RemoteProtocolError(self.script.end)


def client(transport: Wireless | None = None) -> anthropic.Anthropic:
    """The SDK, talking to the simulator."""
    return anthropic.Anthropic(
        api_key="sk-ant-of-no-use",
        base_url="http://simulator",
        max_retries=0,
        http_client=httpx2.Client(transport=transport or Wireless(), trust_env=False, timeout=PATIENCE),
    )
