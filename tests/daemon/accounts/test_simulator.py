"""The simulator in this process and behind a socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
import trio
from trio.testing import MockClock
from waiting import PATIENCE, until

from relayd.config import snapshot
from relayd.config.snapshot import Seconds, Simulator
from relayd.daemon.accounts.simulator import SimulatedBody, SimulatorApplication, SimulatorTransport, serve_simulator
from relayd.daemon.net.client import read_at_most
from relayd.daemon.net.httpx2_transport import open_client
from relayd.daemon.net.request import PlainRequest, target_of
from relayd.daemon.net.server import HttpServer, open_listener
from relayd.daemon.net.transport_errors import ReadTimeout, RemoteProtocolError
from relayd.wire.http import Headers

MODEL = "claude-sonnet-5-5"


def clock() -> float:
    return 1_800_000_000.0


ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 500, "messages": [{"role": "user", "content": "Grüße 你好"}]}
TOOL = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def request(timeout: float | None = None, **fields: Any) -> PlainRequest:
    """A Messages request, as relayd's own transport would be given it."""
    target = target_of("https://api.anthropic.com/v1/messages")
    body = json.dumps({**ASK, **fields}).encode()
    return PlainRequest("POST", target, [(b"content-type", b"application/json")], body, {"first_byte": timeout})


async def open_body(settings: Simulator, **fields: Any) -> SimulatedBody:
    """The body of a streamed answer."""
    return await SimulatorTransport(settings, clock).ask(request(stream=True, **fields))


async def read_all(body: SimulatedBody) -> bytes:
    """Everything, by way of take and wait."""
    found = b""
    while (piece := body.take()) != b"":
        if piece is None:
            await body.wait()
        else:
            found += piece
    return found


async def test_the_transport_answers_without_a_socket() -> None:
    answer = await SimulatorTransport(Simulator(), clock).ask(request())
    body = await read_at_most(answer, 1 << 20)
    assert answer.status == 200
    assert Headers(answer.headers).get(b"content-length") == b"%d" % len(body)
    assert json.loads(body)["content"][0]["text"].startswith("You said: Grüße 你好")


async def test_a_stream_is_paced_by_the_clock(autojump_clock: MockClock) -> None:
    body = await open_body(Simulator(words=3, first_byte=Seconds(2.0), between=Seconds(0.5)))
    assert trio.current_time() == pytest.approx(2.0)
    first = body.take()
    assert first is not None
    assert first.startswith(b"event: message_start")
    assert body.take() is None
    await body.wait()
    assert trio.current_time() == pytest.approx(2.5)
    rest = await read_all(body)
    assert rest.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    # message_start, content_block_start, ping, three deltas, content_block_stop, message_delta, message_stop
    assert trio.current_time() == pytest.approx(2.0 + 8 * 0.5)


async def test_a_slow_reader_finds_everything_that_was_due_meanwhile(autojump_clock: MockClock) -> None:
    body = await open_body(Simulator(words=3, between=Seconds(1.0)))
    await trio.sleep(5.5)
    piece = body.take()
    assert piece is not None
    assert piece.count(b"event: ") == 6
    assert body.take() is None


async def test_one_piece_of_a_fast_stream_is_bounded() -> None:
    body = await open_body(Simulator(words=100_000), max_tokens=200_000)
    pieces = []
    while piece := body.take():
        pieces.append(len(piece))
    assert max(pieces) < 80_000
    assert sum(pieces) > 5_000_000


async def test_an_early_wait_that_is_cancelled_loses_nothing(autojump_clock: MockClock) -> None:
    quiet = await read_all(await open_body(Simulator(words=4)))
    body = await open_body(Simulator(words=4, between=Seconds(1.0)))
    found = b""
    while (piece := body.take()) != b"":
        found += piece or b""
        with trio.move_on_after(0.3):
            await body.wait()
    assert found == quiet


@pytest.mark.parametrize("settings", [Simulator(cut_after=4), Simulator(bad_framing=True, cut_after=4)])
async def test_a_broken_answer_raises_after_what_came_before(settings: Simulator) -> None:
    body = await open_body(settings)
    first = body.take()
    assert first is not None
    assert first.count(b"event: ") == 4
    with pytest.raises(RemoteProtocolError, match="simulator"):
        body.take()


async def test_a_dropped_call_raises_before_the_head() -> None:
    with pytest.raises(RemoteProtocolError, match="without an answer"):
        await SimulatorTransport(Simulator(drop=True), clock).ask(request())


async def test_a_late_answer_runs_into_the_first_byte_timeout(autojump_clock: MockClock) -> None:
    transport = SimulatorTransport(Simulator(first_byte=Seconds(60.0)), clock)
    with pytest.raises(ReadTimeout):
        await transport.ask(request(timeout=5.0))
    assert trio.current_time() == pytest.approx(5.0)


async def test_a_closed_body_has_nothing_more_to_say() -> None:
    body = await open_body(Simulator())
    body.close()
    body.close()
    assert body.take() == b""


async def test_calls_are_counted_for_faults_that_hit_every_nth() -> None:
    transport = SimulatorTransport(Simulator(status=500, every=2), clock)
    statuses = [(await transport.ask(request())).status for _ in range(4)]
    assert statuses == [200, 500, 200, 500]


async def test_the_async_sdk_streams_from_the_transport() -> None:
    async with open_client(SimulatorTransport(Simulator(words=7), clock), httpx2.Timeout(PATIENCE)) as http:
        sdk = anthropic.AsyncAnthropic(api_key="x", base_url="http://simulator", http_client=http, max_retries=0)
        async with sdk.messages.stream(**ASK) as stream:
            pieces = [text async for text in stream.text_stream]
    assert len(pieces) == 7
    assert "".join(pieces).startswith("You said: Grüße 你好")


@pytest.fixture
async def simulator(nursery: trio.Nursery) -> AsyncIterator[Callable[..., Any]]:
    """Start simulators on real sockets: `await simulator(Simulator(...))` gives the base URL."""

    async def start(settings: Simulator | None = None) -> str:
        sockets = open_listener("127.0.0.1:0")
        server = HttpServer(SimulatorApplication(settings or Simulator(), clock), snapshot.Server)
        await nursery.start(server.serve, sockets)
        host, port = sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    yield start
    nursery.cancel_scope.cancel()


def sdk_at(base_url: str) -> anthropic.Anthropic:
    """The sync SDK with its ordinary client, which uses real sockets."""
    http = httpx2.Client(trust_env=False, timeout=60.0)
    return anthropic.Anthropic(api_key="x", base_url=base_url, max_retries=0, http_client=http)


async def test_the_sdk_talks_to_the_server(simulator: Callable[..., Any]) -> None:
    url = await simulator(Simulator(words=12))

    def talk() -> None:
        with sdk_at(url) as sdk:
            whole = sdk.messages.create(**ASK)
            assert whole.content[0].type == "text"
            assert len(whole.content[0].text.split()) == 12
            with sdk.messages.stream(**ASK, tools=[TOOL], tool_choice={"type": "any"}) as stream:
                call = stream.get_final_message().content[-1]
            assert call.type == "tool_use"
            assert call.input == {"city": "example"}
            assert sdk.messages.count_tokens(model=MODEL, messages=ASK["messages"]).input_tokens > 0
            assert len(list(sdk.models.list())) > 3
            with pytest.raises(anthropic.NotFoundError, match="the simulator has messages"):
                sdk.files.upload(file=("a.txt", b"x" * 300_000, "text/plain"))
            with pytest.raises(anthropic.NotFoundError):
                sdk.models.retrieve("claude-unknown-1")

    await trio.to_thread.run_sync(talk)


@pytest.mark.parametrize("fault", [{"cut_after": 4}, {"bad_framing": True}])
async def test_a_broken_answer_is_noticed_over_a_socket(simulator: Callable[..., Any], fault: dict[str, Any]) -> None:
    url = await simulator(Simulator(**fault))

    names = []

    def talk() -> None:
        with sdk_at(url) as sdk, sdk.messages.create(**ASK, stream=True) as stream:
            names.extend(event.type for event in stream)

    with pytest.raises(httpx2.RemoteProtocolError):
        await trio.to_thread.run_sync(talk)
    assert names[:2] == ["message_start", "content_block_start"]
    assert "message_stop" not in names


async def test_a_dropped_call_is_a_connection_error_over_a_socket(simulator: Callable[..., Any]) -> None:
    url = await simulator(Simulator(drop=True))

    def talk() -> None:
        with sdk_at(url) as sdk:
            sdk.messages.create(**ASK)

    with pytest.raises(anthropic.APIConnectionError):
        await trio.to_thread.run_sync(talk)


async def test_what_the_server_itself_refuses_has_the_api_s_form(simulator: Callable[..., Any]) -> None:
    url = await simulator()
    stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    async with stream:
        await stream.send_all(b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n")
        answer = b""
        with trio.fail_after(30):
            async for piece in stream:
                answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert error["error"]["type"] == "invalid_request_error"
    assert f"request-id: {error['request_id']}".encode() in head


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `relayd simulate` with options; it is ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "relayd", "simulate", *options],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": ""},
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_listens_serves_and_ends_well(
    command: Callable[..., subprocess.Popen[str]], how: signal.Signals
) -> None:
    process = command("--listen", "127.0.0.1:0", "--words", "4", "--retry-after", "3")
    assert process.stderr is not None
    url = process.stderr.readline().split()[-1]
    assert f"curl {url}/v1/messages" in process.stderr.readline()
    with sdk_at(url) as sdk:
        assert len(sdk.messages.create(**ASK).content[0].text.split()) == 4  # type: ignore[union-attr]
        with pytest.raises(anthropic.RateLimitError) as caught:
            sdk.messages.create(**ASK, extra_headers={"x-simulate-status": "429"})
    assert caught.value.response.headers["retry-after"] == "3"
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


async def test_a_stream_is_finished_when_the_command_is_stopped(jumping_clock: MockClock) -> None:
    settings, announced = Simulator(words=10, between=Seconds(0.05)), list[socket.socket]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_simulator, "127.0.0.1:0", settings, clock, announced.extend)
        await until(lambda: announced)
        body = json.dumps({**ASK, "stream": True}).encode()
        head = b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        async with await trio.open_tcp_stream(*announced[0].getsockname()) as stream:
            await stream.send_all(head + body)
            answer = b""
            while b"text_delta" not in answer:
                answer += await stream.receive_some(65536)
            signal.raise_signal(signal.SIGTERM)
            async for piece in stream:
                answer += piece
    assert answer.count(b"text_delta") == 10
    assert answer.endswith(b"\r\n0\r\n\r\n")


def test_the_command_serves_a_unix_socket(command: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    path = tmp_path / "sim.sock"
    process = command("--listen", f"unix:{path}")
    assert process.stderr is not None
    assert str(path) in process.stderr.readline()
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), timeout=PATIENCE) as http:
        assert http.get("http://localhost/v1/models").status_code == 200


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--between", "soon"], 2, "seconds are expected"),
        (["--status", "99"], 2, "at least 200"),
        (["--listen", "nonsense"], 1, "nonsense"),
    ],
)
def test_the_command_refuses_bad_options(
    command: Callable[..., subprocess.Popen[str]], options: list[str], code: int, message: str
) -> None:
    process = command(*options)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, message in err) == (code, True), err
    assert "Traceback" not in err


def test_the_command_says_so_when_its_address_is_taken(command: Callable[..., subprocess.Popen[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = command("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "in use" in err
