"""Server-sent events: bytes in any chunking to events, and events to bytes.

Rule: no JSON here, no dialect. Lines end with LF, CR or CRLF, wherever a chunk was cut; a multi-byte character is
never decoded in halves, because only whole lines are looked at.

Theory: what has no line end yet waits in one growing buffer, so that feeding n bytes costs O(n) even byte by byte.
A lone CR at the end of a chunk ends its line at once; the LF that may follow is then swallowed.

Source: the WHATWG HTML standard, section "Server-sent events".
"""

from __future__ import annotations

import attrs

from relayd.noun import noun

# One event of a Claude stream is a few hundred bytes; tool results with documents can be megabytes. Beyond this the
# peer is broken, and going on would let it fill our memory.
MAX_EVENT = 16 << 20  # bytes

_BOM = b"\xef\xbb\xbf"


class TooLong(ValueError):
    """An event that does not end within the bound."""


@noun
class Event:
    """One event: its name ("" when it had none) and its data lines, joined with LF."""

    name: str
    data: bytes


@attrs.define(eq=False)
class EventDecoder:
    """Bytes in, complete events out. What is left when the stream ends is not an event and is dropped.

    Args:
        max_event: bytes that one event may have, comments included, before `feed` raises TooLong.
    """

    max_event: int = MAX_EVENT
    _tail: bytearray = attrs.field(factory=bytearray, init=False, repr=False)  # a line without its end
    _name: str = attrs.field(default="", init=False)
    _data: list[bytes] = attrs.field(factory=list, init=False, repr=False)
    _held: int = attrs.field(default=0, init=False)  # bytes in _data
    _after_cr: bool = attrs.field(default=False, init=False)
    _fresh: bool = attrs.field(default=True, init=False)  # a byte order mark may still come

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises: TooLong once an unfinished event exceeds `max_event`; the decoder is of no use afterwards.
        """
        if self._after_cr and data:
            self._after_cr = False
            if data[0] == 0x0A:
                data = data[1:]
        if not data:
            return []
        lines = self._lines(data)
        events: list[Event] = []
        for line in lines:
            if not line:
                self._dispatch(events)
            else:
                self._field(line)
        if self._held + len(self._tail) > self.max_event:
            raise TooLong(f"an event is longer than {self.max_event} bytes")
        return events

    def _lines(self, data: bytes) -> list[bytes]:
        """Every line that is complete now, without its end."""
        if b"\n" not in data and b"\r" not in data:
            self._tail += data
            return []
        lines = (bytes(self._tail) + data if self._tail else data).splitlines(keepends=True)
        self._tail.clear()
        if lines[-1][-1] not in b"\r\n":
            self._tail += lines.pop()
        elif lines[-1][-1] == 0x0D:
            self._after_cr = True
        if self._fresh:
            self._fresh = False
            lines[0] = lines[0].removeprefix(_BOM)
        return [line.rstrip(b"\r\n") for line in lines]

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"data":
            self._data.append(value)
            self._held += len(value)
            if self._held > self.max_event:
                raise TooLong(f"an event is longer than {self.max_event} bytes")
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        # comments (an empty name), id, retry and unknown fields carry nothing for us

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            events.append(Event(self._name, data))
            self._data = []
            self._held = 0
        self._name = ""


def encode(data: bytes, name: str = "") -> bytes:
    """One event as bytes. A line break in `data` becomes one `data:` line more, so any payload survives."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    if b"\n" not in data and b"\r" not in data:
        return head + b"data: " + data + b"\n\n"
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return head + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
