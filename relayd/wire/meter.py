"""Meter: the bytes of an event stream in, token counts and how the stream ended out.

Rule: never decode an event that cannot carry usage. The meter looks for a few event names and at nothing else, so its
cost on the per-chunk path is a few scans.
"""

from __future__ import annotations

import re
from typing import Any

import attrs
import msgspec

from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.resumed import container_of, id_of
from relayd.wire.usage import Usage, UsageAccount
from relayd.wire.usage_report import model_of, read_report


class _Event(msgspec.Struct):
    """An event, as far as it concerns usage. Anything may stand anywhere."""

    message: Any = None
    usage: Any = msgspec.UNSET
    delta: Any = None
    content_block: Any = None


_event = msgspec.json.Decoder(_Event)

# An event of the two kinds that carry usage is some hundred bytes; message_start may echo a container or diagnostics.
_EVENT_LIMIT = 256 * 1024
# Bytes of a stream that are no text: message_start and the first block's start; each delta's own framing.
_HEAD_FRAME, _DELTA_FRAME = 700, 129
# The longest line start worth keeping between reads: b"event: message_start" and some white space.
_TAIL_LIMIT = 40


# The line that names an event which tells something, with what may stand around the name.
_TELLING = re.compile(
    rb"event:[ \t\r\v\f]*(message_start|message_delta|message_stop|content_block_start|error)[ \t\r\v\f]*\n"
)


@attrs.define(eq=False)
class Meter:
    """Reads usage, and how the stream ends, out of the passing bytes of an event stream.

    Theory: between two reads the meter keeps only the start of an unfinished line. Of each read it asks two questions
    with one byte search each: is there a `message_` and is there an `error`? (And of a `"fallback"`, which marks a
    content block that says why another model took over; in text its quotes would be escaped.) Only where such a word
    stands on an `event:` line does it gather that one event and decode its data. `data:` lines without an `event:`
    line are read by no SDK, so they are not read here either.
    """

    told: bool = False  # a report of the final counts was read (message_delta)
    lost: bool = False  # an event that may have carried usage could not be read
    finished: bool = False  # message_stop was read
    failed: bool = False  # an error event was read
    at_boundary: bool = True  # the last byte ended an event, so that a comment may stand here
    passed: int = 0  # bytes seen
    deltas: int = 0  # content deltas among them
    message: str = ""  # id of the answer
    container: str = ""  # id of the container that it used
    _account: UsageAccount = attrs.field(factory=UsageAccount, init=False)
    _gathered: bytes = b""  # the name of the event that is being gathered
    _tail: bytes = b""
    _gathering: bytearray | None = None

    @property
    def usage(self) -> Usage:
        """What was reported."""
        return self._account.total

    @property
    def seen(self) -> bool:
        """Whether any report was read."""
        return self._account.heard

    @property
    def final(self) -> bool:
        """Whether the usage is the stream's last word. If not, there are `passed` bytes and `deltas` to go by."""
        return self.finished and self.told and not self.lost

    def usage_so_far(self) -> Usage:
        """The usage, with the output of a stream without a last word estimated from the text that has passed.

        Only the final report tells the true output; until then the first one says a token or so. The estimate is
        3.5 bytes a token of what is left after each delta's own framing.
        """
        usage = self.usage
        if self.final or not self.deltas:
            return usage
        text = self.passed - _HEAD_FRAME - self.deltas * _DELTA_FRAME
        return attrs.evolve(usage, output=max(usage.output, self.deltas, int(text / 3.5)))

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
        if b"message_" in data or b"error" in data or b"k_start" in data:
            self._look(data)
        elif data[-1:] != b"\n":
            self._keep_tail(data)

    def _boundary_by_pieces(self, data: bytes) -> bool:
        """The blank line may have come in two reads."""
        end = (self._gathering[-3:] if self._gathering is not None else self._tail[-3:]) + data
        return end.endswith((b"\n\n", b"\r\n\r\n")) or (data == b"\n" and not self._tail and self._gathering is None)

    def _keep_tail(self, data: bytes) -> None:
        line = data[max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1 :]
        # A longer line is a data line; its rest cannot start an event, so a stand-in for it is enough.
        self._tail = line if len(line) <= _TAIL_LIMIT else b"-\r" if line[-1:] == b"\r" else b"-"

    def _look(self, data: bytes) -> None:
        for found in _TELLING.finditer(data):
            at, name = found.start(), found[1]
            if at and data[at - 1] not in b"\r\n":
                continue
            if name in _GATHERED:
                self._gathering, self._gathered = bytearray(), name
                self._gather(data[at:])
                return
            self.finished = self.finished or name == b"message_stop"
            self.failed = self.failed or name == b"error"
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
                self._miss()
            return
        self._gathering = None
        self._report(bytes(event[:end]))
        rest = bytes(event[end:])
        if rest:
            self._look(rest)

    def _report(self, event: bytes) -> None:
        if self._gathered == b"content_block_start" and b'"fallback"' not in event:
            return
        lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
        try:
            said = _event.decode(b"\n".join(lines))
        except NOT_JSON:
            self._miss()
            return
        account = self._account
        match self._gathered:
            case b"message_start":
                if not isinstance(said.message, dict):
                    self._miss()
                    return
                self.message = id_of(said.message)
                self.container = container_of(said.message)
                account.model = model_of(said.message) or account.model
                self._read_usage(said.message.get("usage"))
            case b"message_delta":
                delta = said.delta if isinstance(said.delta, dict) else {}
                self.container = container_of(delta) or self.container
                account.stopped(delta.get("stop_reason"), delta.get("stop_details"))
                self.told = self._read_usage(said.usage) or self.told
            case _:
                account.handed_over(said.content_block)

    def _read_usage(self, value: object) -> bool:
        """Whether it told the output."""
        if value is None or value is msgspec.UNSET:
            return False
        report = read_report(value)
        self._account.add(report)
        return "output" in report.counts

    def _miss(self) -> None:
        """The event that was gathered cannot be read: what it said of the usage is in doubt."""
        if self._gathered == b"content_block_start":
            return
        self.lost = True
        self._account.doubt(*(("input", "output") if self._gathered == b"message_start" else ("output",)))


_GATHERED = frozenset({b"message_start", b"message_delta", b"content_block_start"})


def _event_end(event: bytearray, start: int) -> int | None:
    """Where the blank line that ends the first event of `event` is over, looking from `start`."""
    unix = event.find(b"\n\n", start)
    dos = event.find(b"\r\n\r\n", start)
    if unix < 0 and dos < 0:
        return None
    if dos < 0 or 0 <= unix < dos:
        return unix + 2
    return dos + 4
