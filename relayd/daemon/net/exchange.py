"""An HTTP exchange: one request of a client and the answer to it, on a connection that may carry more.

Rule: what a client sends is read only when it is asked for, and what it does not take is kept in one bounded place.
An answer is either whole or visibly cut: an HTTP/1.1 stream without its last chunk, a body shorter than its length,
a reset where the end of the connection would mean the end of the answer.

Theory: writing is a sync attempt; what the kernel does not take waits in one buffer, which the caller does not add to
before it is empty. So a client that stops reading costs one chunk here and one socket buffer in the kernel. None of
the `async` methods is a checkpoint when it has nothing to wait for.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from types import TracebackType

import trio

from relayd.config import snapshot
from relayd.daemon.net.connection import LINGER, UNREAD_LIMIT, ClientConnection, tell_fault
from relayd.wire.call import Reply
from relayd.wire.content_coding import coding_of, unsupported
from relayd.wire.h1 import CONTINUE, LAST_CHUNK, ChunkedDecoder, FramingError, bodyless, chunk, response_head
from relayd.wire.http import HeaderPairs, RequestHead
from relayd.wire.refusal import Refusal

# So many reads without a wait, then the other tasks have a turn: a megabyte from a fast local client.
READS_PER_TURN = 16
# To a client that has begun to ask, or whose answer has not begun, when the server ends.
STOPPED = Refusal(status=503, message="the relay is stopping", code="stopping")


class Phase(Enum):
    """How far an answer is."""

    NEW = 0  # nothing begun
    BEGUN = 1  # start() was called
    ENDED = 2  # replied, finished or aborted


class Exchange:
    """One request and its answer.

    Attributes:
        head: the request's head.
        peer: address of the TCP peer, "" for unix sockets. X-Forwarded-For is the application's business.
        clock_start: when the head was complete, on trio's clock.
        answered: a byte of an answer has been handed over; an answer begun may still be taken back before.
        sent: body bytes handed over.
        gone: the client disconnected or took no byte for `write_timeout`; writing is then without effect.
    """

    __slots__ = (
        "_begun_body", "_bodiless", "_body_due", "_chunked", "_connection", "_done_body", "_held", "_keep", "_left",
        "_pending", "_phase", "_reads", "_scope", "_settings", "_stream", "answered", "clock_start", "gone",
        "head", "peer", "sent",
    )  # fmt: skip

    def __init__(
        self, connection: ClientConnection, head: RequestHead, settings: snapshot.Server, clock_start: float
    ) -> None:
        self.head = head
        self.peer = connection.peer
        self.clock_start = clock_start
        self.answered = False
        self.sent = 0
        self.gone = False
        self._connection = connection
        self._stream = connection.stream
        self._settings = settings
        self._done_body = head.content_length == 0
        self._begun_body = False
        self._body_due = math.inf  # when the whole body must have come, on trio's clock
        self._phase = Phase.NEW
        self._held = b""  # a begun head and what was pushed on hold, until the next push takes them along
        self._pending: bytearray | None = None  # what the kernel did not take yet
        self._chunked = False
        self._left: int | None = None  # body bytes still owed, where a length was promised
        self._bodiless = False  # the answer to a HEAD, or a 204 or 304: no body whatever is pushed
        self._keep = False  # the connection stays open after this answer
        self._scope: trio.CancelScope | None = None  # of the watch
        self._reads = 0

    # Reading

    async def body(
        self, limit: int, took: Callable[[int], None] = lambda size: None, *, codings: tuple[str, ...] = ()
    ) -> bytes:
        """The whole request body, as it came. A client that waits for `100 Continue` gets it first.

        Args:
            limit: bytes; a longer body is refused, before anything is read where its length is known.
            took: told of bytes as they are kept; may refuse them.
            codings: content codings that the caller can undo.

        Raises: Refusal 413 too large; 415 another coding; 408 no byte for `body_timeout`, or not the whole body by
            `body_deadline`; 400 chunk framing; 499 the client left (`gone` is True); what `took` raises. RuntimeError
            when the body was asked for before.
        """
        if self._begun_body:
            raise RuntimeError("the body was read before")
        coding = coding_of(self.head.headers)
        if coding and coding not in codings:
            raise unsupported(coding, codings)
        self._begun_body = True
        length = self.head.content_length
        if length is not None and length > limit:
            raise _too_large(limit)
        body = await (self._chunks(limit, took) if length is None else self._sized(length, took))
        self._done_body = True
        return body

    async def _sized(self, length: int, took: Callable[[int], None]) -> bytes:
        connection = self._connection
        have = connection.buffer
        took(min(len(have), length))
        if len(have) < length:
            await self._send_continue()
            gathered, missing = bytearray(have), length - len(have)  # pieces in a list would leave holes in the heap
            connection.buffer = b""
            while missing > 0:
                data = await self._more()
                took(min(len(data), missing))
                gathered += data
                missing -= len(data)
            have = bytes(gathered)
            del gathered
        if len(have) == length:
            connection.buffer = b""
            return have
        connection.buffer = have[length:]
        return have[:length]

    async def _chunks(self, limit: int, took: Callable[[int], None]) -> bytes:
        connection = self._connection
        decoder = ChunkedDecoder(limit)
        gathered = bytearray()
        try:
            if connection.buffer:
                gathered += decoder.feed(connection.buffer)
                connection.buffer = b""
                took(len(gathered))
            if not decoder.done:
                await self._send_continue()
            while not decoder.done:
                data = decoder.feed(await self._more())
                took(len(data))
                gathered += data
        except FramingError as error:
            if error.status == 413:
                raise _too_large(limit) from None
            raise Refusal(status=error.status, message=error.reason) from None
        connection.buffer = decoder.rest
        return bytes(gathered)

    async def _send_continue(self) -> None:
        """Send `100 Continue` to a client that waits for it, unless its body is on the way already."""
        if self.head.expects_continue and not self._connection.buffer and not self._put(CONTINUE):
            await self.flush()

    async def _more(self) -> bytes:
        """The next bytes from the client."""
        self._reads += 1
        if self._reads % READS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        patience, now = self._settings.body_timeout, trio.current_time()
        if self._body_due == math.inf:  # a body that came with its head needs no time
            self._body_due = now + self._settings.body_deadline
        left = self._body_due - now
        try:
            data = self._stream.recv() if left > 0 else None
            if data is None:
                with trio.move_on_after(min(patience, left)):
                    while data is None:
                        await self._stream.readable()
                        data = self._stream.recv()
        except OSError as error:
            tell_fault(error, self.peer)
            data = b""
        if data is None and left <= patience:
            message = f"the request body did not come whole within {self._settings.body_deadline:g} s"
            raise Refusal(status=408, message=message)
        if data is None:
            raise Refusal(status=408, message=f"no byte of the request body for {patience:g} s")
        if not data:
            self._client_left()
            raise Refusal(status=499, message="the client closed the connection before the end of its request")
        return data

    # Writing

    async def reply(self, reply: Reply) -> None:
        """A whole answer, head and body in one write. To a HEAD and with 204 and 304 no body is sent.

        Raises: ValueError on headers that would break the head (nothing is sent then); RuntimeError when an answer
            has begun.
        """
        self._begin(reply.status, reply.headers, len(reply.body))
        body = b"" if self._bodiless else reply.body
        self._phase = Phase.ENDED
        if self.gone:
            return
        self.sent += len(body)
        self.answered = True
        if not self._put(self._take_held() + body):
            await self.flush()

    def start(self, status: int, headers: HeaderPairs, length: int | None = None) -> None:
        """Begin a streamed answer. Its head leaves together with the first push.

        Args:
            length: bytes of body, if known; otherwise chunks (or, for an HTTP/1.0 client, the rest of the connection).

        Raises: ValueError, RuntimeError as `reply`.
        """
        self._begin(status, headers, length)

    def push(self, data: bytes, *, hold: bool = False) -> bool:
        """Frame `data` and try to send it now, without blocking. No data sends the head alone, if it still waits.

        Args:
            hold: it goes along with the next push, or with the end, which is about to come; each is one write.

        Returns: True when nothing is pending (also when the client is gone: look at `gone`). False: `flush` before
            the next push, so that at most one piece is pending.

        Raises: RuntimeError outside start and finish, or beyond the promised length.
        """
        if self._phase is not Phase.BEGUN:
            raise RuntimeError("push needs a begun answer")
        if self.gone:
            return True
        if self._bodiless:
            data = b""
        if self._left is not None and not self._bodiless:
            if len(data) > self._left:
                raise RuntimeError("an answer longer than its content-length")
            self._left -= len(data)
        self.sent += len(data)
        self.answered = True
        framed = chunk(data) if self._chunked else data
        if self._held:
            framed = self._take_held() + framed
        if hold:
            self._held = framed
            return True
        return self._put(framed)

    async def flush(self) -> None:
        """Wait until nothing is pending, or the client is gone. Cancelled, it loses nothing and may be called again.

        A client that takes no byte for `write_timeout` counts as gone.
        """
        while self._pending:
            with trio.move_on_after(self._settings.write_timeout) as scope:
                await self._stream.writable()
            waiting = len(self._pending or b"")
            # The kernel calls a socket writable only when a third of its buffer is free: on a timeout, try once more.
            if not self._push_pending() and scope.cancelled_caught and len(self._pending or b"") == waiting:
                self._client_left()

    async def finish(self) -> None:
        """The proper end of a streamed answer, sent.

        Raises: RuntimeError when it is shorter than its promised length: it must be cut, not ended.
        """
        if self._phase is not Phase.BEGUN:
            raise RuntimeError("finish needs a begun answer")
        if self._left and not self._bodiless and not self.gone:
            raise RuntimeError("an answer shorter than its content-length")
        self._phase = Phase.ENDED
        if self.gone:
            return
        self.answered = True
        if not self._put(self._take_held() + (LAST_CHUNK if self._chunked else b"")):
            await self.flush()

    def abort(self) -> None:
        """Close without a proper end, so that the client notices that something is missing. Idempotent."""
        if self._phase is Phase.BEGUN and self._left is None and not self._chunked and self._stream.fileno() >= 0:
            # The end of the connection would be a proper end here; a reset is not.
            self._stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._phase = Phase.ENDED
        self._keep = False
        self._held, self._pending = b"", None
        self._connection.close()

    # Disconnects

    def watch(self, deadline: float = math.inf) -> AbstractContextManager[trio.CancelScope]:
        """The body of the `with` is cancelled as soon as the client disconnects (FIN, also half-close, or RST), and
        `gone` becomes True; also at `deadline`, on trio's clock. One watch at a time."""
        return _Watch(self, deadline)

    def _broke(self, error: OSError) -> None:
        tell_fault(error, self.peer)
        self._client_left()

    def _client_left(self) -> None:
        self.gone = True
        self._pending = None
        if self._scope is not None:
            self._scope.cancel()

    # For the server

    @property
    def pending(self) -> bool:
        """Something handed over has not been taken by the kernel yet: `flush` before the next push."""
        return bool(self._pending)

    @property
    def ended(self) -> bool:
        """The answer is complete, aborted, or nobody is there to take it."""
        return self._phase is Phase.ENDED or self.gone

    def withdraw(self) -> None:
        """Forget an answer of which no byte has left."""
        self._phase = Phase.NEW
        self._held = b""

    async def settle(self) -> bool:
        """Bring the connection to the next request. Returns: whether there can be one; else it is to be closed."""
        if self.gone or self._stream.fileno() < 0 or self._pending:
            return False
        halfway = self._begun_body and not self._done_body
        if self._keep and not halfway and await self._skip_body():
            return True
        if not self._done_body or self._connection.buffer:
            await self._connection.linger()
        return False

    async def _skip_body(self) -> bool:
        """Throw away a small body that nobody asked for. `_can_skip` has seen to it that it is small."""
        connection = self._connection
        have = connection.buffer
        missing = (self.head.content_length or 0) - len(have)
        if self._done_body or missing <= 0:
            connection.buffer = have if self._done_body else have[len(have) + missing :]
            return True
        connection.buffer = b""
        try:
            with trio.move_on_after(LINGER):
                while missing > 0:
                    data = self._stream.recv()
                    if data is None:
                        await self._stream.readable()
                    elif data:
                        missing -= len(data)
                        connection.buffer = data[len(data) + missing :] if missing < 0 else b""
                    else:
                        return False
        except OSError as error:
            tell_fault(error, self.peer)
            return False
        return missing <= 0

    def _can_skip(self) -> bool:
        """Whether the request's body is out of the way, or will be soon."""
        if self._done_body:
            return True
        if self._begun_body:  # refused or cancelled halfway
            return False
        length = self.head.content_length
        if length is None:
            return self._skip_chunks()
        missing = length - len(self._connection.buffer)
        return missing <= 0 or (missing <= UNREAD_LIMIT and not self.head.expects_continue)

    def _skip_chunks(self) -> bool:
        """Take a chunked body out of the buffer, if it is there to its end."""
        decoder = ChunkedDecoder(UNREAD_LIMIT)
        try:
            decoder.feed(self._connection.buffer)
        except FramingError:
            return False
        if decoder.done:
            self._connection.buffer = decoder.rest
            self._done_body = True
        return decoder.done

    # Bytes

    def _begin(self, status: int, headers: HeaderPairs, length: int | None) -> None:
        if self._phase is not Phase.NEW:
            raise RuntimeError("an answer has begun before")
        if status < 200:
            raise ValueError(f"status {status}: not a final answer")
        head, edge = self.head, self._connection.edge
        until_close = length is None and not head.http_minor
        keep = head.keep_alive and not until_close and not edge.draining and self._settings.keep_alive_timeout > 0
        self._keep = keep and self._can_skip()
        self._held = response_head(
            status, headers, length=length, keep_alive=self._keep, date=edge.date(), http_minor=head.http_minor
        )
        self._bodiless = head.method == "HEAD" or bodyless(status)
        self._chunked = length is None and not until_close and not self._bodiless
        self._left = length
        self._phase = Phase.BEGUN

    def _take_held(self) -> bytes:
        head = self._held
        self._held = b""
        return head

    def _put(self, out: bytes) -> bool:
        """Send, behind what is pending; the kernel's leftovers become pending. True when nothing is."""
        if self._pending:
            self._pending += out
            return self._push_pending()
        if not out:
            return True
        try:
            taken = self._stream.send(out)
        except OSError as error:
            self._broke(error)
            return True
        if taken == len(out):
            return True
        self._pending = bytearray(memoryview(out)[taken:])
        return False

    def _push_pending(self) -> bool:
        pending = self._pending
        if not pending:
            return True
        try:
            with memoryview(pending) as view:
                taken = self._stream.send(view)
        except OSError as error:
            self._broke(error)
            return True
        del pending[:taken]
        return not pending


class _Watch:
    """The context manager of `Exchange.watch`; a class, because a generator would cost twice as much."""

    __slots__ = ("_exchange", "_scope")

    def __init__(self, exchange: Exchange, deadline: float) -> None:
        self._exchange = exchange
        self._scope = trio.CancelScope(deadline=deadline)

    def __enter__(self) -> trio.CancelScope:
        exchange = self._exchange
        if exchange._scope is not None:
            raise RuntimeError("one watch at a time")
        exchange._scope = self._scope
        if exchange.gone or exchange._stream.fileno() < 0:
            self._scope.cancel()
        else:
            exchange._connection.notice_leaving(exchange._client_left)
        return self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        exchange = self._exchange
        exchange._scope = None
        exchange._connection.notice_leaving(None)
        return self._scope.__exit__(kind, error, trace)


def _too_large(limit: int) -> Refusal:
    return Refusal(status=413, message=f"request body larger than {limit} bytes")
