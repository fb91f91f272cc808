"""A scripted upstream on a real socket, and a short way to ask it something."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx2
import trio

from relayd.daemon.net.client import Transport
from relayd.daemon.net.poller import current_poller
from relayd.daemon.net.request import PlainRequest, target_of
from relayd.daemon.net.response_stream import ResponseStream
from relayd.wire.http import HeaderPairs

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
PATIENCE = 30.0  # s; on an idle machine nothing here takes more than a fraction of it


class Conversation:
    """The server's end of one connection."""

    def __init__(self, stream: trio.abc.Stream, raw: trio.SocketStream) -> None:
        self.stream = stream
        self._raw = raw
        self._read = b""

    async def more(self) -> bytes:
        """Whatever comes next; b"" at the end."""
        try:
            return await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            return b""

    async def head(self) -> bytes:
        """The next request's head, with its empty line; b"" when the peer has gone."""
        while b"\r\n\r\n" not in self._read:
            data = await self.more()
            if not data:
                return b""
            self._read += data
        head, end, self._read = self._read.partition(b"\r\n\r\n")
        return head + end

    async def exactly(self, size: int) -> bytes:
        pieces, missing = [self._read], size - len(self._read)
        while missing > 0:
            data = await self.more()
            if not data:
                raise AssertionError("the peer left early")
            pieces.append(data)
            missing -= len(data)
        read = b"".join(pieces)
        self._read = read[size:]
        return read[:size]

    async def request(self) -> bytes:
        """The next request, head and sized body; b"" when the peer has gone."""
        head = await self.head()
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return head + await self.exactly(int(line.partition(b":")[2]))
        return head

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def bytewise(self, data: bytes) -> None:
        for index in range(len(data)):
            await self.stream.send_all(data[index : index + 1])
            await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Break the connection off with a RST."""
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._raw.socket.close()

    def cut(self) -> None:
        """End the connection below TLS, without close_notify."""
        self._raw.socket.close()

    async def until_peer_leaves(self) -> None:
        while await self.more():
            pass


Script = Callable[[Conversation], Awaitable[None]]


@attrs.define(eq=False)
class Upstream:
    """A listener. The n-th connection follows the n-th script; the last one serves all that come after."""

    port: int
    accepted: int = 0
    open: int = 0
    _one_ended: trio.Event = attrs.field(factory=trio.Event)

    def ended(self) -> None:
        self.open -= 1
        self._one_ended.set()
        self._one_ended = trio.Event()

    def url(self, path: str = "/v1/messages", *, scheme: str = "http", host: str = "127.0.0.1") -> httpx2.URL:
        return httpx2.URL(f"{scheme}://{host}:{self.port}{path}")

    async def all_closed(self) -> None:
        """Wait until the server has seen every connection end."""
        with trio.fail_after(PATIENCE):
            while self.open:
                await self._one_ended.wait()


@asynccontextmanager
async def serving(
    *scripts: Script, tls: ssl.SSLContext | None = None, sockets: Sequence[socket.socket] = ()
) -> AsyncIterator[Upstream]:
    """An upstream on 127.0.0.1, for the length of the block.

    Args:
        sockets: that listen already, all on one port, in place of one of its own.
    """
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    listeners = listeners or await trio.open_tcp_listeners(0, host="127.0.0.1")
    for listener in listeners:
        # A small window, so that a sender soon feels a reader that has stopped, however large the system's buffers are.
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    upstream = Upstream(port=listeners[0].socket.getsockname()[1])

    async def serve(raw: trio.SocketStream) -> None:
        script = scripts[min(upstream.accepted, len(scripts) - 1)]
        upstream.accepted += 1
        upstream.open += 1
        stream: trio.abc.Stream = raw
        if tls is not None:
            stream = trio.SSLStream(raw, tls, server_side=True, https_compatible=True)
        try:
            await script(Conversation(stream, raw))
        except (trio.BrokenResourceError, trio.ClosedResourceError, AssertionError):
            pass  # the peer left; whether it should have is for the test to say
        finally:
            await trio.aclose_forcefully(stream)
            upstream.ended()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        try:
            yield upstream
        finally:
            nursery.cancel_scope.cancel()


def answering(answer: bytes = OK) -> Script:
    """Answers every request on a kept connection the same way."""

    async def script(conversation: Conversation) -> None:
        while await conversation.request():
            await conversation.send(answer)

    return script


def answering_once(answer: bytes = OK) -> Script:
    """Answers one request and closes."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(answer)

    return script


async def silent(conversation: Conversation) -> None:
    """Reads and never answers."""
    await conversation.until_peer_leaves()


async def send(
    transport: Transport,
    url: httpx2.URL,
    *,
    method: str = "POST",
    headers: HeaderPairs | None = None,
    body: bytes = b"{}",
    timeout: Mapping[str, float | None] | None = None,
) -> ResponseStream:
    """One request; the answer's body is still to be taken."""
    limits = {"connect": PATIENCE, "write": PATIENCE, "first_byte": PATIENCE} if timeout is None else timeout
    return await transport.ask(PlainRequest(method, target_of(str(url)), headers or [], body, limits))


async def read(answer: ResponseStream) -> bytes:
    """The whole body; the answer is closed, come what may."""
    pieces = []
    try:
        while (piece := answer.take()) != b"":
            if piece is None:
                with trio.fail_after(PATIENCE):
                    await answer.wait()
            else:
                pieces.append(piece)
    finally:
        answer.close()
    return b"".join(pieces)


async def ask(transport: Transport, url: httpx2.URL, **more: Any) -> tuple[int, bytes]:
    """Status and body of one request."""
    answer = await send(transport, url, **more)
    return answer.status, await read(answer)


def descriptors() -> int:
    """How many file descriptors this process has open, with that of the run's poller."""
    current_poller()
    return len(os.listdir("/proc/self/fd"))


async def back_to(count: int) -> None:
    """Wait until no more than `count` descriptors are open; a server may still have a connection to accept."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if descriptors() <= count:
            return
        await trio.sleep(0.001)
    raise AssertionError(f"{descriptors()} descriptors are open, {count} were")


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` after the n-th step of `task`, that is, in its n-th wait."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, steps: int) -> None:
        self._task = task
        self._scope = scope
        self._left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_at(step: int, act: Callable[[], Awaitable[object]]) -> bool:
    """Run `act` and cancel it in its `step`-th wait; whether that came to pass."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await act()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught
