"""Streaming: the body of an answer on its way from an upstream to a client.

Rule: no decision about accounts is taken here, and no event is decoded. From the first byte pushed there is no
failover; a body that ends before its time ends with an error in the client's words, never neatly.

Theory: between two waits everything is sync: take what the upstream has sent, let the meter look at it, hand it to the
client's socket. So the source itself carries a stream (`Stream.carry`), and the stream's task sleeps until there is
something to decide: the end, an error, silence, a client that is slower than the upstream. Waits lose nothing when they
are cancelled, so one deadline per silence (not per chunk) is enough: when it fires, the loop looks how long it has
really been silent and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import attrs
import trio

from relayd.core.balancing.outcomes import Unreachable
from relayd.daemon.net.exchange import STOPPED, Exchange
from relayd.daemon.net.stream import BodySource
from relayd.daemon.net.transport_errors import TransportError
from relayd.noun import noun
from relayd.wire.answer import event_name
from relayd.wire.anthropic import error_event
from relayd.wire.call import Translator
from relayd.wire.meter import Meter
from relayd.wire.refusal import Refusal
from relayd.wire.sse import EventDecoder, encode

# A whole answer up to this size is gathered before the client sees a byte, so that a cut can still be failed over and
# its usage be read. Messages answers are some kilobytes, a few of them megabytes (documents, code execution); files may
# be hundreds of megabytes and are passed on as they come.
GATHER_LIMIT = 1 << 20
MESSAGE_LIMIT = 32 << 20
# A first event is some hundred bytes; more than this is passed on unjudged.
FIRST_EVENT_LIMIT = 64 << 10
# An event that has not come whole waits here up to this size: clients act on whole events, and half a one, left behind
# by a cut, is what no SDK can decode. Events are some hundred bytes, those with documents up to some hundred thousand.
HALF_LIMIT = 256 << 10

# How nearly every stream begins.
_USUAL = b"event: message_start\ndata: {"

COMMENT = b": keep-alive\n\n"
CUT = Refusal(status=502, message="the upstream broke off its answer", code="upstream_cut")
SILENT = Refusal(status=504, message="the upstream went silent in the middle of its answer", code="upstream_silent")
TIME_IS_UP = Refusal(status=504, message="the call took longer than the relay's total timeout", code="total_timeout")
REVOKED = Refusal(
    status=401, message="Invalid API key: this key has been revoked", should_retry=False, code="invalid_api_key"
)


@noun(kw_only=True)
class BufferedBody:
    """The beginning of a body, or all of it.

    Args:
        ended: `data` is the whole body.
        cut: why no more will come; "" while it may.
        error: the API's error in it, of an event or of a whole body, where it came as a success.
        unnamed: an event stream whose events have no names but the `type` in their data.
    """

    data: bytes
    ended: bool = False
    cut: str = ""
    error: bytes = b""
    unnamed: bool = False


async def gather(source: BodySource, idle: float, limit: int = GATHER_LIMIT) -> BufferedBody:
    """A whole body, or its first `limit` bytes and a few more. `idle` seconds without a byte count as a cut."""
    pieces: list[bytes] = []
    size = 0
    try:
        while size <= limit:
            data = await _next(source, idle)
            if not data:
                return BufferedBody(data=b"".join(pieces), ended=True)
            pieces.append(data)
            size += len(data)
    except (TransportError, trio.TooSlowError) as error:
        return BufferedBody(data=b"".join(pieces), cut=_why(error))
    return BufferedBody(data=b"".join(pieces))


async def first_event(source: BodySource, patience: float) -> tuple[BufferedBody, str | Unreachable]:
    """An event stream up to its first event that counts, or what came of it within `patience` seconds.

    Returns: with it the event's name; "" when the stream ended before one, "unknown" when it has not come yet.
    """
    decoder = EventDecoder()
    deadline = trio.current_time() + patience
    data = b""
    try:
        while len(data) < FIRST_EVENT_LIMIT:
            more = await _next(source, max(0.0, deadline - trio.current_time()))
            if not more:
                return BufferedBody(data=data, ended=True), ""
            data += more
            if _begins_as_usual(data):
                return BufferedBody(data=data), "message_start"
            for event in decoder.feed(more):
                name = event_name(event)
                if name not in ("ping", ""):
                    error = event.data if name == "error" else b""
                    return BufferedBody(data=data, error=error, unnamed=not event.name), name
    except trio.TooSlowError:
        pass  # thinking for long is not a fault: go on, and keep the client awake
    except TransportError as error:
        return BufferedBody(data=data, cut=_why(error)), Unreachable(kind="reset", reason=_why(error))
    return BufferedBody(data=data), "unknown"


def _begins_as_usual(data: bytes) -> bool:
    """Whether the first event is a whole `message_start` of one line of data, which says nothing that decides."""
    end = data.find(b"\n", len(_USUAL))
    return end > 0 and data.startswith(_USUAL) and data.startswith(b"\n\n", end)


async def _next(source: BodySource, patience: float) -> bytes:
    data = source.take()
    if data is not None:
        return data
    with trio.fail_after(patience):
        while True:
            await source.wait()
            data = source.take()
            if data is not None:
                return data


def _why(error: Exception) -> str:
    return "went silent" if isinstance(error, trio.TooSlowError) else str(error) or type(error).__name__


@attrs.define(eq=False, kw_only=True)
class EventStream:
    """One event stream, from the moment its head is due until its end.

    Args:
        keepalive: seconds of silence after which the client gets a comment; 0 = never.
        idle: seconds without an upstream byte after which the stream counts as dead.
        deadline: of the call as a whole, on trio's clock; whoever cancels then does so for that reason.
        revoked: whether whoever cancels does so because the key is no longer accepted.
        before_end: awaited once the upstream has said its last word, before the client hears it.
        unnamed: as in BufferedBody; the meter is told the names, the client gets the bytes as they are.

    Attributes:
        whole: the client's kernel has the last word of it; Codex closes then, and does not wait for the end.
    """

    exchange: Exchange
    source: BodySource
    meter: Meter
    translator: Translator | None
    keepalive: float
    idle: float
    request_id: str
    deadline: float = math.inf
    revoked: Callable[[], bool] = lambda: False
    before_end: Callable[[], Awaitable[None]] | None = None
    unnamed: bool = False
    whole: bool = attrs.field(default=False, init=False)
    heard: float = attrs.field(default=0.0, init=False)  # when the upstream last sent a byte
    _over: bool = attrs.field(default=False, init=False)  # the upstream has ended it, or went silent
    _at_end: bool = attrs.field(default=False, init=False)  # all of it has been taken
    _on_hold: bool = attrs.field(default=False, init=False)  # the last word, which may leave together with the end
    _last: bytes = attrs.field(default=b"", init=False)  # what waits for before_end
    _spoken: float = 0.0  # when the client was last sent one
    _half: bytearray = attrs.field(factory=bytearray, repr=False)  # the event that has not come whole
    _names: EventDecoder = attrs.field(factory=EventDecoder, repr=False)
    _torn: bool = False  # the client has part of an event that was too large to wait for

    async def run(self, beginning: bytes, *, ended: bool) -> Refusal | None:
        """Pass everything on; `ended` when `beginning` is all there is.

        Returns: None after a proper end, else why it ended; the client has been told.
        """
        self.heard = self._spoken = trio.current_time()
        try:
            fault = await self._pass_on(beginning, ended)
            self._over = not self.exchange.gone
            if self._last:
                await self._let_go()
        except trio.Cancelled:
            self._say(self._farewell())  # sync: what fits the socket's buffer still arrives
            self.exchange.abort()
            raise
        if (self.meter.finished or self.meter.failed) and not self._half:
            fault = None  # the last word was said; how the connection ended then does not matter
        elif fault is None:
            fault = CUT  # a neat end without message_stop: SDKs would take it for success
        if fault is not None:
            self._say(fault)
        elif self.translator is not None:
            self.exchange.push(self.translator.finish(), hold=True)
        await self.exchange.finish()
        self._on_hold = False
        self._see_whether_whole()
        return fault

    def upstream_until(self, now: float) -> float:
        """Until when the upstream has worked on this answer, as far as is known. On trio's clock, s."""
        return self.heard if self._over else now

    def _farewell(self) -> Refusal:
        """Why the stream is cancelled."""
        if self.revoked():
            return REVOKED
        return STOPPED if trio.current_time() < self.deadline else TIME_IS_UP

    async def _pass_on(self, beginning: bytes, ended: bool) -> Refusal | None:
        if beginning:
            self._forward(beginning)
        if not self.exchange.answered and not self._last:
            self.exchange.push(b"")
        while not ended:
            if self.exchange.pending:
                await self.exchange.flush()  # outside the scope: a slow client is not a silent upstream
                self._see_whether_whole()
                self.heard = trio.current_time()
            if self.exchange.gone:
                return None
            if self._last:
                await self._let_go()
                continue
            with trio.CancelScope(deadline=self._next_look()) as scope:
                try:
                    if await self._flow():
                        return None
                except TransportError:
                    return CUT
            if scope.cancelled_caught and self._silent_too_long():
                return SILENT
        return None

    async def _flow(self) -> bool:
        """Until the proper end (True), or until the socket is full or the end has to wait (False).

        Raises: TransportError.
        """
        await self.source.carry(self._carry_on)
        return self._at_end

    def _carry_on(self) -> bool:
        """Pass on what is there; whether there is something to decide. As `Stream.carry` asks of its function."""
        source = self.source
        while (data := source.take()) is not None:
            if not data:
                self._at_end = True
                return True
            self.heard = trio.current_time()
            if not self._forward(data):
                return True
        return self._on_hold and not self._push(b"")

    def _forward(self, data: bytes) -> bool:
        self.meter.feed(self._named(data) if self.unnamed else data)
        if self.translator is not None:
            data = self.translator.feed(data)
        elif self.unnamed or self._half or self._torn or not self.meter.at_boundary:
            data = self._whole_events(data)
        if data and self.before_end is not None and self.meter.finished:
            self._last += data
            return False
        return self._push(data, hold=self.meter.finished and not self._on_hold) if data else True

    def _push(self, data: bytes, *, hold: bool = False) -> bool:
        """Whether the socket took it, or what was on hold with it."""
        self._on_hold = hold
        taken = self.exchange.push(data, hold=hold)
        self._see_whether_whole()
        return taken

    def _see_whether_whole(self) -> None:
        exchange = self.exchange
        waiting = self._half or self._last or self._on_hold or exchange.pending
        if self.meter.finished and not (waiting or exchange.gone):
            self.whole = True

    async def _let_go(self) -> None:
        """Send the end, once what has to be done before has been done."""
        last, self._last = self._last, b""
        if self.before_end is not None:
            before, self.before_end = self.before_end, None
            await before()
        self._push(last, hold=self._at_end)

    def _named(self, data: bytes) -> bytes:
        """The events that are complete by now, with their names."""
        return b"".join(encode(event.data, event_name(event)) for event in self._names.feed(data))

    def _whole_events(self, data: bytes) -> bytes:
        """What can go out now: up to the end of the last whole event, or most of one that is too large to hold."""
        half = self._half
        seam = max(0, len(half) - 2)
        half += data
        unix, dos = half.rfind(b"\n\n", seam), half.rfind(b"\n\r\n", seam)
        end = max(unix + 2, dos + 3)
        if unix >= 0 or dos >= 0:
            self._torn = False
        elif self._torn or len(half) > HALF_LIMIT:
            self._torn = True
            end = len(half) - 2  # its end may be halfway here
        else:
            return b""
        out = bytes(half[:end])
        del half[:end]
        return out

    def _next_look(self) -> float:
        dead = self.heard + self.idle
        return min(dead, max(self.heard, self._spoken) + self.keepalive) if self.keepalive else dead

    def _silent_too_long(self) -> bool:
        """Look how long it has been; send a comment if one is due. True when the upstream counts as dead."""
        now = trio.current_time()
        if now - self.heard >= self.idle:
            return True
        if self.keepalive and now - max(self.heard, self._spoken) >= self.keepalive:
            # Only between events: inside one, a comment would still be legal SSE but not for every parser.
            if not self._torn and not self.exchange.pending:
                self.exchange.push(COMMENT)
            self._spoken = now
        return False

    def _say(self, fault: Refusal) -> None:
        """Tell the client, in its dialect, that the stream is broken. A half-sent event is ended first."""
        if self.translator is not None:
            self.exchange.push(self.translator.fail(fault))
            return
        seam = b"\n\n" if self._torn else b""
        self.exchange.push(seam + error_event(fault, self.request_id))


async def pass_through(exchange: Exchange, source: BodySource, beginning: bytes, idle: float) -> str:
    """A large body that is not an event stream. Returns "" after its proper end, else what went wrong."""
    data = beginning
    try:
        while data:
            if not exchange.push(data):
                await exchange.flush()
            if exchange.gone:
                return "the client left"
            data = await _next(source, idle)
    except (TransportError, trio.TooSlowError) as error:
        exchange.abort()
        return _why(error)
    await exchange.finish()
    return ""
