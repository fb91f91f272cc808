"""The HTTP/1.1 server: connections in, exchanges out.

Rule: it never knows a dialect; what to answer is up to the application, also where the server itself refuses. One
failing connection never stops the daemon: each has a boundary of its own.

Theory: one task a connection, which serves its requests one after another, so pipelined answers are in order; bytes
of later requests stay in the kernel, where they are bounded. No task, nursery or timer a request: one sweep over all
connections ends those that have waited too long for a head, and disconnects are edges of the poller (or disconnect.py).
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio

from relayd.config import snapshot
from relayd.daemon.net.accepting import Acceptor
from relayd.daemon.net.board import BoardRow
from relayd.daemon.net.connection import LINGER, OURS, ClientConnection, Edge, tell_fault
from relayd.daemon.net.exchange import STOPPED, Exchange
from relayd.daemon.net.listen import BACKLOG, open_listener
from relayd.daemon.net.polled_stream import open_stream
from relayd.daemon.net.stream import READ_SIZE, tune
from relayd.noun import noun
from relayd.wire.call import Reply
from relayd.wire.h1 import FramingError, find_head, parse_head, path_of, response_head
from relayd.wire.http import RequestHead
from relayd.wire.refusal import Refusal

__all__ = ["Application", "Exchange", "HttpServer", "ServerStatistics", "open_listener"]

logger = logging.getLogger("relayd.server")

# The kernel's share of a client that does not read; without it Linux lets it grow to 4 MB (tcp_wmem).
SEND_BUFFER = 64 * 1024
# Clients over max_connections that are refused with a 503 at the same time; further ones are just closed.
TURNED_AWAY_AT_ONCE = 100


class Application(Protocol):
    """What the server serves."""

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request. A Refusal that comes out is answered by `refuse`, any other exception by a 500."""
        ...

    def refuse(self, refusal: Refusal, path: str) -> Reply:
        """The answer to a refusal of the server itself (framing, 408, 413, 431, 500, 503). `path`: "" if not known."""
        ...


@noun(kw_only=True)
class ServerStatistics:
    """Connections: open now; accepted and turned away (over max_connections) since the start."""

    open: int = 0
    accepted: int = 0
    refused: int = 0

    def __add__(self, other: ServerStatistics) -> ServerStatistics:
        """Of both together."""
        return ServerStatistics(
            open=self.open + other.open,
            accepted=self.accepted + other.accepted,
            refused=self.refused + other.refused,
        )


class HttpServer:
    """An HTTP/1.1 server on listening sockets that it is given.

    Args:
        application: serves requests.
        settings: the [server] table in force; asked afresh for each connection and request.
        most: connections that this process has descriptors for, whatever the settings allow.
        together: connections that there is memory for under a config, of all processes that serve together.
        row: see `share`.
        held: somebody else holds the listening sockets too (inherited.py): what is queued on them is left to whoever
            accepts next.
    """

    def __init__(
        self,
        application: Application,
        settings: Callable[[], snapshot.Server],
        *,
        most: int = sys.maxsize,
        together: Callable[[snapshot.Server], int] = lambda settings: sys.maxsize,
        row: BoardRow | None = None,
        held: bool = False,
    ) -> None:
        self._application = application
        self._row = row
        self._most = most
        self._together = together
        self._held = held
        self._settings = settings
        self._edge = Edge()
        self._gently = False
        self._open: set[ClientConnection] = set()
        self._accepting = trio.CancelScope()
        self._listening: dict[socket.socket, trio.CancelScope] = {}
        self._nurseries: tuple[trio.Nursery, trio.Nursery] | None = None  # acceptors, connections
        self._accepted = 0
        self._refused = 0
        self._turning_away = 0
        self._acceptor = Acceptor(logger, "server.accept")

    @property
    def statistics(self) -> ServerStatistics:
        """How many connections there are and were."""
        return ServerStatistics(open=len(self._open), accepted=self._accepted, refused=self._refused)

    def share(self, row: BoardRow) -> None:
        """Other processes serve along with this one from now on.

        Args:
            row: this process's figures, and those of all.
        """
        self._row = row
        self._tell_row()

    @property
    def draining(self) -> bool:
        """Whether it takes nothing more."""
        return self._edge.draining

    async def serve(
        self, sockets: list[socket.socket], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until drained. Owns the sockets. Cancelled, it closes everything at once."""
        try:
            async with trio.open_nursery() as watchers:
                watchers.start_soon(self._edge.disconnects.run)
                watchers.start_soon(self._sweep)
                async with trio.open_nursery() as connections:
                    with self._accepting:
                        async with trio.open_nursery() as acceptors:
                            self._nurseries = acceptors, connections
                            for sock in sockets:
                                self.listen(sock)
                            task_status.started()
                            await trio.sleep_forever()  # listeners come and go; only `drain` ends this
                    for sock in list(self._listening):
                        self.unlisten(sock)
                    self._nurseries = None
                watchers.cancel_scope.cancel()
        finally:
            self._nurseries = None
            for sock in {*sockets, *self._listening}:
                _close_listener(sock)
            self._listening.clear()

    def listen(self, sock: socket.socket) -> None:
        """Accept on one more socket, which is owned from now on. Closed at once by a server that drains. Sync."""
        if self._nurseries is None or self._edge.draining:
            _close_listener(sock)
            return
        acceptors, connections = self._nurseries
        sock.setblocking(False)
        scope = self._listening[sock] = trio.CancelScope()
        self._tell_row()
        acceptors.start_soon(self._accept, sock, scope, connections)

    def unlisten(self, sock: socket.socket) -> None:
        """Accept no more on a socket. Connections that the kernel has already made on it, and that would be lost with
        it, are served too. Sync.
        """
        scope = self._listening.pop(sock, None)
        if scope is None or self._nurseries is None:
            return
        scope.cancel()  # before the close, which a waiting task would take for an error
        self._tell_row()
        if not self._held:
            self._acceptor.accept_ready(sock, partial(self._admit, self._nurseries[1]), most=2 * BACKLOG)
        _close_listener(sock)

    def drain(self, *, gently: bool = False) -> None:
        """Accept no more, close idle connections, let the others end after their answer. `serve` then returns.

        A client that asked a moment ago is probably about to ask again, and a POST that meets a closing connection is
        lost: it may do so once more, for LINGER s, and is told then that the connection ends.

        Args:
            gently: others serve on, so nobody is in a hurry: an idle connection is closed by its time, or after its
                next answer.
        """
        self._edge.draining = True
        self._gently = gently
        self._tell_row()
        self._accepting.cancel()
        if gently:
            return
        now, kept = trio.current_time(), self._settings().keep_alive_timeout
        for connection in self._open:
            if connection.due == math.inf or connection.buffer:
                continue
            idle = now - (connection.due - kept) if connection.served else 0.0
            connection.due = min(connection.due, now + min(max(LINGER - idle, 0.0), LINGER))
            if connection.due <= now and not _has_input(connection.stream.sock):
                connection.expire()

    # Connections in

    async def _accept(self, listener: socket.socket, scope: trio.CancelScope, connections: trio.Nursery) -> None:
        with scope:
            await self._acceptor.accept_always(listener, partial(self._admit, connections), self._has_turn)

    def _admit(self, connections: trio.Nursery, sock: socket.socket, address: object) -> None:
        peer = str(address[0]) if isinstance(address, tuple) else ""
        try:
            settings = self._settings()
            tune(sock, send_buffer=SEND_BUFFER, dead_after=settings.write_timeout)
            stream = open_stream(sock)
        except OSError as error:  # reset already
            tell_fault(error, peer)
            sock.close()
            return
        connection = ClientConnection(stream, peer, self._edge)
        self._accepted += 1
        allowed = min(settings.max_connections, self._together(settings))
        if len(self._open) < self._most and self._all_open() < allowed:
            self._open.add(connection)
            self._tell_row()
            connections.start_soon(self._serve_connection, connection)
            return
        self._refused += 1
        if self._turning_away < TURNED_AWAY_AT_ONCE:
            self._turning_away += 1
            connections.start_soon(self._turn_away, connection)
        else:
            connection.close()

    def _all_open(self) -> int:
        """Connections of all processes that serve together."""
        return len(self._open) if self._row is None else self._row.connections

    def _tell_row(self) -> None:
        if self._row is not None:
            self._row.tell_connections(len(self._open))
            self._row.tell_accepts(bool(self._listening) and not self._edge.draining)

    def _has_turn(self) -> bool:
        return self._row is None or self._row.has_turn()

    async def _turn_away(self, connection: ClientConnection) -> None:
        """Say 503 to a client that is one too many, once it has asked."""
        try:
            with trio.move_on_after(LINGER):
                await connection.stream.readable()
            await self._refuse(connection, Refusal(status=503, message="too many connections", retry_after=1))
        finally:
            self._turning_away -= 1
            connection.close()

    async def _sweep(self) -> None:
        """End the waiting of connections that are overdue."""
        while True:
            settings = self._settings()
            shortest = min(settings.header_timeout, settings.keep_alive_timeout or math.inf)
            await trio.sleep(min(max(shortest / 8, 0.01), 0.5))  # so much later than promised, at most
            now = trio.current_time()
            for connection in self._open:
                # A request that has just come is served: closing over it would reset it.
                if connection.due <= now and (connection.buffer or not _has_input(connection.stream.sock)):
                    connection.expire()

    # One connection

    async def _serve_connection(self, connection: ClientConnection) -> None:
        """Serve a connection to its end; nothing that goes wrong in it reaches the others."""
        try:
            await self._serve_requests(connection)
        except OSError as error:  # the peer is gone
            tell_fault(error, connection.peer)
        except Exception:
            logger.exception("server.failed", extra={"peer": connection.peer, "path": ""})
        finally:
            connection.close()
            self._open.discard(connection)
            self._tell_row()

    async def _serve_requests(self, connection: ClientConnection) -> None:
        try:
            with connection.scope:
                while head := await self._next_head(connection):
                    connection.served += 1
                    if not await self._serve_request(connection, head):
                        return
        except FramingError as error:
            refusal = Refusal(status=error.status, message=f"malformed request: {error.reason}")
            await self._refuse(connection, refusal, error.path)
            return
        except trio.Cancelled:
            await self._part_from(connection)
            raise
        if connection.expired and connection.buffer:
            refusal = Refusal(status=408, message="the request head took too long")
            await self._refuse(connection, refusal, path_of(connection.buffer))

    async def _part_from(self, connection: ClientConnection) -> None:
        """The server ends at once. Who has begun to ask is told; who was answered over unread bytes can read it."""
        if connection.stream.fileno() < 0:
            return
        with contextlib.suppress(BlockingIOError):  # not by the stream, to which the poller may not have told of it
            data = connection.stream.sock.recv(READ_SIZE)
            if not data:
                return
            connection.buffer += data
        if not connection.buffer:
            return
        with trio.CancelScope(shield=True):  # for LINGER at most
            if connection.due < math.inf:  # a head is waited for
                await self._refuse(connection, STOPPED, path_of(connection.buffer))
            else:
                await connection.linger()

    async def _next_head(self, connection: ClientConnection) -> RequestHead | None:
        """Wait for the next request. None when there will be none.

        Raises: FramingError when it cannot be read; OSError when the connection broke.
        """
        settings = self._settings()
        stream, buffer, seen = connection.stream, connection.buffer, 0
        if buffer:
            await trio.lowlevel.checkpoint()  # a long pipeline must not keep the others waiting
        patience: float = settings.keep_alive_timeout if connection.served and not buffer else settings.header_timeout
        if self._edge.draining and not self._gently and not buffer:  # it may ask once more
            patience = min(LINGER, patience)
        connection.due = trio.current_time() + patience
        while True:
            if buffer:
                end = find_head(buffer, seen)
                if end is not None:
                    break
                if not seen:  # its first bytes
                    connection.due = trio.current_time() + settings.header_timeout
                seen = len(buffer)
            await stream.readable()
            if connection.expired:
                return None
            data = stream.recv()
            if data is None:
                continue
            if not data:
                return None
            connection.buffer = buffer = buffer + data if buffer else data
        connection.due = math.inf
        connection.buffer = buffer[end:]
        return parse_head(buffer[:end])

    async def _serve_request(self, connection: ClientConnection, head: RequestHead) -> bool:
        """Serve one request. Returns: whether the connection can carry another one."""
        exchange = Exchange(connection, head, self._settings(), trio.current_time())
        try:
            await self._application.serve(exchange)
            if not exchange.ended:
                raise RuntimeError("the application left a request without an answer")
        except Exception as error:
            await self._answer_failure(exchange, error)
        return await exchange.settle()

    async def _answer_failure(self, exchange: Exchange, error: Exception) -> None:
        """Answer for an application that raised; where an answer has begun, cut it."""
        wanted = isinstance(error, Refusal) and not exchange.answered
        if not wanted:
            logger.error("server.failed", exc_info=error, extra={"peer": exchange.peer, "path": exchange.head.path})
        if exchange.ended:
            return
        if exchange.answered:
            exchange.abort()
            return
        exchange.withdraw()
        refusal = error if isinstance(error, Refusal) else Refusal(status=500, message="internal error")
        await exchange.reply(self._application.refuse(refusal, exchange.head.path))

    async def _refuse(self, connection: ClientConnection, refusal: Refusal, path: str = "") -> None:
        """Our own refusal, where there is no exchange; the connection is to be closed after it."""
        reply = self._application.refuse(refusal, path)
        date = self._edge.date()
        length = len(reply.body)
        head = response_head(reply.status, reply.headers, length=length, keep_alive=False, date=date, http_minor=1)
        try:
            connection.stream.send(
                head + reply.body
            )  # far below the socket's buffer, which is empty or not worth a wait
        except OSError as error:
            tell_fault(error, connection.peer)
            return
        await connection.linger()


def _has_input(sock: socket.socket) -> bool:
    """Whether bytes (or the end) wait to be read; not where the socket is lost, of which nobody will be told."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError as error:
        return error.errno not in OURS
    return True


def _close_listener(sock: socket.socket) -> None:
    if sock.fileno() >= 0:
        trio.lowlevel.notify_closing(sock)
        sock.close()
