"""Token usage: what a call consumed; Meter: response bytes in, token counts out.

Rule: never decode an event that cannot carry usage. The meter looks for two event names and at nothing else, so its
cost on the per-chunk path is one scan.
"""

from __future__ import annotations

import attrs
import msgspec


@attrs.frozen(kw_only=True)
class Usage:
    """Token counts by kind, as the Claude API reports them. `input` is the uncached part of the prompt only.

    The whole prompt is `input + cache_write_5m + cache_write_1h + cache_read`.
    """

    input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0
    thinking: int = 0  # part of output, not extra
    web_searches: int = 0
    web_fetches: int = 0
    service_tier: str = ""  # "batch", "priority": they change the price
    inference_geo: str = ""
    speed: str = ""

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt, cached or not."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read

    @property
    def total(self) -> int:
        """Tokens in and out, of every kind."""
        return self.prompt + self.output


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _ServerTools(msgspec.Struct):
    web_search_requests: int | None = None
    web_fetch_requests: int | None = None


class _Reported(msgspec.Struct):
    """`usage` as the API writes it: any field may be missing or null."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None


class _Started(msgspec.Struct):
    id: str | None = None
    usage: _Reported | None = None


class _Event(msgspec.Struct):
    type: str = ""
    message: _Started | None = None
    usage: _Reported | None = None


_event = msgspec.json.Decoder(_Event)
_message = msgspec.json.Decoder(_Started)


def merge(known: Usage, reported: _Reported) -> Usage:
    """`known` brought up to date by a later report.

    Counts in `message_delta` are cumulative and never shrink, and a field it leaves out (or sends as 0) keeps what
    `message_start` said: so the larger of both stands, field by field. The 5m/1h split is only in `message_start`; what
    a later total adds to it counts as five-minute writes.
    """
    split = reported.cache_creation or _CacheCreation()
    write_1h = max(known.cache_write_1h, split.ephemeral_1h_input_tokens or 0)
    write_5m = max(known.cache_write_5m, split.ephemeral_5m_input_tokens or 0)
    write_5m = max(write_5m, (reported.cache_creation_input_tokens or 0) - write_1h)
    tools = reported.server_tool_use or _ServerTools()
    details = reported.output_tokens_details or _OutputDetails()
    return Usage(
        input=max(known.input, reported.input_tokens or 0),
        cache_write_5m=write_5m,
        cache_write_1h=write_1h,
        cache_read=max(known.cache_read, reported.cache_read_input_tokens or 0),
        output=max(known.output, reported.output_tokens or 0),
        thinking=max(known.thinking, details.thinking_tokens or 0),
        web_searches=max(known.web_searches, tools.web_search_requests or 0),
        web_fetches=max(known.web_fetches, tools.web_fetch_requests or 0),
        service_tier=reported.service_tier or known.service_tier,
        inference_geo=reported.inference_geo or known.inference_geo,
        speed=reported.speed or known.speed,
    )


def usage_of_message(body: bytes) -> Usage | None:
    """The usage of a whole (not streamed) answer; None when the body does not carry one."""
    try:
        reported = _message.decode(body).usage
    except (msgspec.MsgspecError, RecursionError):
        return None
    return None if reported is None else merge(Usage(), reported)


# An event of the two kinds that carry usage is some hundred bytes; message_start may echo a container or diagnostics.
_EVENT_LIMIT = 256 * 1024
# Bytes of a stream that are not text: message_start and the first block's start; each delta's own framing.
_HEAD_FRAME, _DELTA_FRAME = 700, 129
# The longest line start worth keeping between reads: b"event: message_start" and some white space.
_TAIL_LIMIT = 40


@attrs.define(eq=False)
class Meter:
    """Reads usage, and how the stream ends, out of the passing bytes of an event stream.

    Theory: between two reads the meter keeps only the start of an unfinished line. Of each read it asks two questions
    with one byte search each: is there a `message_` and is there an `error`? Only where such a word stands on an
    `event:` line does it gather that one event and decode its data. `data:` lines without an `event:` line are read
    by no SDK, so they are not read here either.
    """

    usage: Usage = Usage()
    seen: bool = False  # a usage report was read
    finished: bool = False  # message_stop was read
    failed: bool = False  # an error event was read
    at_boundary: bool = True  # the last byte ended an event, so that a comment may stand here
    passed: int = 0  # bytes seen
    deltas: int = 0  # content deltas among them
    _tail: bytes = b""
    _gathering: bytearray | None = None

    def usage_so_far(self) -> Usage:
        """The usage, with the output of a stream that broke off estimated from the text that has passed.

        Only the final report tells the true output; until then the first one says a token or so. The estimate is
        3.5 bytes a token of what is left after each delta's own framing.
        """
        if self.finished or not self.deltas:
            return self.usage
        text = self.passed - _HEAD_FRAME - self.deltas * _DELTA_FRAME
        return attrs.evolve(self.usage, output=max(self.usage.output, self.deltas, int(text / 3.5)))

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the body, cut anywhere."""
        self.passed += len(data)
        self.deltas += data.count(b"content_block_delta\n")
        self.at_boundary = data.endswith((b"\n\n", b"\r\n\r\n")) or self._boundary_by_pieces(data)
        if self._gathering is not None:
            self._gather(data)
            return
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if b"message_" in data or b"error" in data:
            self._look(data)
        elif data[-1:] != b"\n":
            self._keep_tail(data)

    def _boundary_by_pieces(self, data: bytes) -> bool:
        """The blank line may have come in two reads."""
        end = (self._gathering[-3:] if self._gathering is not None else self._tail[-3:]) + data
        return end.endswith((b"\n\n", b"\r\n\r\n")) or (data == b"\n" and not self._tail and self._gathering is None)

    def _keep_tail(self, data: bytes) -> None:
        line = data[data.rfind(b"\n") + 1 :]
        # A longer line is a data line; its rest cannot start an event, so a stand-in byte is enough.
        self._tail = line if len(line) <= _TAIL_LIMIT else b"-"

    def _look(self, data: bytes) -> None:
        at = 0
        while True:
            at = data.find(b"event:", at)
            if at < 0:
                break
            if at and data[at - 1] not in b"\r\n":
                at += 6
                continue
            end = data.find(b"\n", at)
            if end < 0:
                break
            name = data[at + 6 : end].strip()
            if name in (b"message_start", b"message_delta"):
                self._gathering = bytearray()
                self._gather(data[at:])
                return
            self.finished = self.finished or name == b"message_stop"
            self.failed = self.failed or name == b"error"
            at = end
        if data[-1:] != b"\n":
            self._keep_tail(data)

    def _gather(self, data: bytes) -> None:
        event = self._gathering
        assert event is not None
        seam = max(0, len(event) - 3)
        event += data
        end = _event_end(event, seam)
        if end is None:
            if len(event) > _EVENT_LIMIT:
                self._gathering = None
                self._tail = b"-"
            return
        self._gathering = None
        self._report(bytes(event[:end]))
        rest = bytes(event[end:])
        if rest:
            self._look(rest)

    def _report(self, event: bytes) -> None:
        lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
        try:
            decoded = _event.decode(b"\n".join(lines))
        except (msgspec.MsgspecError, RecursionError):
            return  # not ours to judge: the bytes have passed, the counts stay what they were
        reported = decoded.usage
        if reported is None and decoded.message is not None:
            reported = decoded.message.usage
        if reported is not None:
            self.usage = merge(self.usage, reported)
            self.seen = True


def _event_end(event: bytearray, start: int) -> int | None:
    """Where the blank line that ends the first event of `event` is over, looking from `start`."""
    unix = event.find(b"\n\n", start)
    dos = event.find(b"\r\n\r\n", start)
    if unix < 0 and dos < 0:
        return None
    if dos < 0 or 0 <= unix < dos:
        return unix + 2
    return dos + 4
