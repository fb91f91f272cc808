"""The simulator as an account inside relayd, and as a server of its own.

Rule: a Script says what to send and when; here it is only played. Theory: each step is due at a fixed time after the
answer began, whether or not the reader kept up, just as a real upstream goes on talking into the socket's buffer.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

import attrs
import trio

from relayd.config import snapshot
from relayd.config.snapshot import Simulator
from relayd.daemon.net.request import PlainRequest
from relayd.daemon.net.server import Exchange, HttpServer, open_listener
from relayd.daemon.net.stream import READ_SIZE
from relayd.daemon.net.transport_errors import Disconnected, ReadTimeout, RemoteProtocolError
from relayd.noun import noun
from relayd.simulator.api import MessageCount, Routes, respond
from relayd.simulator.request import MAX_BODY
from relayd.simulator.script import Ending, Script, Step, error_script, make_id
from relayd.wire.call import Reply
from relayd.wire.http import HeaderPairs, Headers
from relayd.wire.refusal import Refusal

ENDINGS: dict[Ending, str] = {
    "cut": "the simulator closed the connection in mid-answer",
    "bad-framing": "the simulator broke the chunked framing",
    "drop": "the simulator closed the connection without an answer",
}


@attrs.define(eq=False)
class Play:
    """A script being played: what is due now, and when the next piece is."""

    _steps: Iterator[Step]
    _due: float  # trio time of the next piece
    _next: bytes | None = None

    @classmethod
    def start(cls, script: Script, now: float) -> Play:
        play = cls(iter(script.steps), now)
        play._advance()
        return play

    def _advance(self) -> None:
        wait, self._next = next(self._steps, (0.0, None))
        self._due += wait

    @property
    def over(self) -> bool:
        return self._next is None

    @property
    def due(self) -> float:
        """When `take` has something to say."""
        return self._due

    def take(self, now: float) -> bytes:
        """All that is due, up to about READ_SIZE bytes; `b""` when nothing is."""
        pieces, size = [], 0
        while self._next is not None and self._due <= now and size < READ_SIZE:
            pieces.append(self._next)
            size += len(self._next)
            self._advance()
        return b"".join(pieces)


class SimulatedBody:
    """An answer: its head, and a relayd.daemon.net.stream.BodySource."""

    def __init__(self, script: Script) -> None:
        self.status = script.status
        self.headers = _framed(script)
        self._play = Play.start(script, trio.current_time())
        self._end = script.end
        self._closed = False

    def take(self) -> bytes | None:
        if self._closed:
            return b""
        piece = self._play.take(trio.current_time())
        if piece:
            return piece
        if not self._play.over:
            return None
        if self._end != "proper":
            self._closed = True
            raise RemoteProtocolError(ENDINGS[self._end])
        return b""

    async def wait(self) -> None:
        await trio.sleep_until(self._play.due)

    async def carry(self, turn: Callable[[], bool]) -> None:
        while not turn():
            await self.wait()

    def close(self) -> None:
        self._closed = True

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        while (piece := self.take()) != b"":
            if piece is None:
                await self.wait()
            else:
                yield piece


class SimulatorTransport:
    """An account of kind "simulator": answers in this process, without a socket.

    Args:
        settings: how to answer.
        clock: Unix time, s.
        routes: the paths that are answered; None means those of `simulator.api`.
    """

    def __init__(self, settings: Simulator, clock: Callable[[], float], routes: Routes | None = None) -> None:
        self.settings = settings
        self._clock = clock
        self._routes = routes
        self._messages = MessageCount()
        self._calls = 0

    async def ask(self, request: PlainRequest) -> SimulatedBody:
        """Raises: Disconnected for a dropped connection, ReadTimeout past "first_byte"."""
        self._calls += 1
        headers = Headers([(name.lower(), value) for name, value in request.headers])
        script = respond(
            request.method,
            request.target.path.decode("ascii"),
            headers,
            request.body,
            self.settings,
            self._calls,
            self._clock(),
            self._messages,
            self._routes,
        )
        await _wait_for_head(script, request)
        if script.end == "drop":
            raise Disconnected(ENDINGS["drop"])
        return SimulatedBody(script)

    def close(self) -> None:
        """Nothing is open between calls."""


async def _wait_for_head(script: Script, request: PlainRequest) -> None:
    limit = request.timeout.get("first_byte")
    if limit is not None and script.delay > limit:
        await trio.sleep(limit)
        raise ReadTimeout(f"no answer within {limit:g} s")
    await trio.sleep(script.delay)


def _framed(script: Script) -> HeaderPairs:
    if script.length is None:
        return [*script.headers, (b"transfer-encoding", b"chunked")]
    return [*script.headers, (b"content-length", b"%d" % script.length)]


class SimulatorApplication:
    """The simulator behind our own HTTP server.

    Args:
        settings: how to answer.
        clock: Unix time, s.
        routes: as for SimulatorTransport.
    """

    def __init__(self, settings: Simulator, clock: Callable[[], float], routes: Routes | None = None) -> None:
        self.settings = settings
        self._clock = clock
        self._routes = routes
        self._messages = MessageCount()
        self._calls = 0
        self._refusals = 0

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request. Raises: Refusal when its body cannot be read."""
        head = exchange.head
        body = await exchange.body(BODY_LIMIT)
        self._calls += 1
        script = respond(
            head.method,
            head.target,
            head.headers,
            body,
            self.settings,
            self._calls,
            self._clock(),
            self._messages,
            self._routes,
        )
        with exchange.watch():
            await perform(script, exchange)

    def refuse(self, refusal: Refusal, path: str) -> Reply:
        """A refusal of the server itself, in the API's form."""
        self._refusals += 1
        request_id = make_id("req", path.encode("utf-8", "replace"), b"refused", self._refusals)
        script = error_script(refusal, [(b"request-id", request_id.encode())], request_id)
        return Reply(status=script.status, headers=script.headers, body=b"".join(piece for _, piece in script.steps))


# What the server reads of a body: a little more than the API takes, so that the simulator refuses what is too large.
BODY_LIMIT = MAX_BODY + (1 << 20)


async def perform(script: Script, exchange: Exchange) -> None:
    """Play `script` to a client. Bad framing is a chunked body without its end: the server frames, not we."""
    await trio.sleep(script.delay)
    if script.end == "drop":
        exchange.abort()
        return
    if script.length is not None and script.end == "proper":
        body = b"".join(piece for _, piece in script.steps)
        await exchange.reply(Reply(status=script.status, headers=script.headers, body=body))
        return
    exchange.start(script.status, script.headers, script.length)
    await _push(exchange, b"")
    play = Play.start(script, trio.current_time())
    while not play.over and not exchange.gone:
        if piece := play.take(trio.current_time()):
            await _push(exchange, piece)
        else:
            await trio.sleep_until(play.due)
    if script.end == "proper":
        await exchange.finish()
    else:
        exchange.abort()


async def _push(exchange: Exchange, piece: bytes) -> None:
    if not exchange.push(piece):
        await exchange.flush()


LAST_WORDS = 3.0  # seconds that answers may take after a signal to stop; a simulator's client can start over


async def serve_simulator(
    listen: str, settings: Simulator, clock: Callable[[], float], announce: Callable[[list[socket.socket]], None]
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is being answered; a second signal stops at once.

    Args:
        listen: host:port, [v6]:port or unix:/path.
        clock: Unix time, s.
        announce: called with the listening sockets once connections are accepted.

    Raises: OSError when the address cannot be had, ValueError when it is not an address.
    """
    sockets = open_listener(listen)
    limits = snapshot.Server(max_request_body=snapshot.Size(BODY_LIMIT))
    server = HttpServer(SimulatorApplication(settings, clock), lambda: limits)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, signals, server, nursery.cancel_scope)
            await server.serve(sockets, task_status=_Announced(lambda: announce(sockets)))
            nursery.cancel_scope.cancel()


@noun
class _Announced(trio.TaskStatus[None]):
    """Told by a server that it accepts connections."""

    announce: Callable[[], None]

    def started(self, value: None = None) -> None:
        self.announce()


async def _stop_on_signal(signals: AsyncIterator[int], server: HttpServer, scope: trio.CancelScope) -> None:
    await anext(signals)
    server.drain()
    scope.deadline = trio.current_time() + LAST_WORDS
    await anext(signals)
    scope.cancel()
