"""Answers of the Claude API, whole or streamed, as far as another dialect needs to read them.

Rule: unknown events, blocks and fields are skipped, never an error: the API adds some every month. A known event that
cannot be read is `Garbled`.

Theory: each event name has its own typed decoder, so that one pass of msgspec both checks and picks what is wanted.
JSON escapes a character beyond the basic plane in two halves, and a stream may be cut between them. msgspec refuses a
half, so only then the slower way is taken: the first half is held back until the delta that has the second.
Source: API docs, "Messages", "Streaming".
"""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
import msgspec

from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.sse import Event


class Garbled(ValueError):
    """The upstream sent something that is not an answer of the Claude API."""


class OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class UsageCounts(msgspec.Struct):
    """The `usage` object; in a stream first in message_start, then, cumulative, in message_delta."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None

    def overlaid(self, later: UsageCounts) -> UsageCounts:
        """These counts where `later` is silent: message_delta need not repeat the prompt's."""
        return UsageCounts(
            *(
                mine if new is None else new
                for mine, new in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(later), strict=True)
            )
        )

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt, cached or not."""
        return (self.input_tokens or 0) + self.cache_write + self.cache_read

    @property
    def cache_write(self) -> int:
        return self.cache_creation_input_tokens or 0

    @property
    def cache_read(self) -> int:
        return self.cache_read_input_tokens or 0

    @property
    def output(self) -> int:
        return self.output_tokens or 0

    @property
    def thinking(self) -> int:
        details = self.output_tokens_details
        return (details.thinking_tokens or 0) if details else 0


class Citation(msgspec.Struct):
    """What a text rests on; `url` where that is a page of the web."""

    url: str | None = None
    title: str | None = None


class ContentBlock(msgspec.Struct):
    """A content block of one of the kinds in KINDS."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")
    citations: list[Citation] | None = None
    tool_use_id: str | None = None
    content: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def is_search(self) -> bool:
        """Whether it asks the API's own web search."""
        return self.type == "server_tool_use" and self.name == "web_search"

    @property
    def input_text(self) -> str:
        """The tool's input as JSON text; "{}" without any."""
        raw = bytes(self.input).strip()
        return "{}" if raw in (b"", b"null") else raw.decode()


class StopDetails(msgspec.Struct):
    explanation: str | None = None


class Message(msgspec.Struct):
    """A message; in message_start `content` is empty."""

    id: str | None = None
    model: str | None = None
    content: list[msgspec.Raw] | None = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: UsageCounts | None = None


class MessageStart(msgspec.Struct, tag="message_start"):
    message: Message


class BlockStart(msgspec.Struct, tag="content_block_start"):
    content_block: msgspec.Raw
    index: int = 0


class Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: Citation | None = None


class BlockDelta(msgspec.Struct, tag="content_block_delta"):
    delta: Delta
    index: int = 0


class BlockStop(msgspec.Struct, tag="content_block_stop"):
    index: int = 0


class MessageEnd(msgspec.Struct):
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class MessageDelta(msgspec.Struct, tag="message_delta"):
    delta: MessageEnd = msgspec.field(default_factory=MessageEnd)
    usage: UsageCounts | None = None


class MessageStop(msgspec.Struct, tag="message_stop"):
    pass


class ErrorDetails(msgspec.Struct):
    error_code: str | None = None


class ApiError(msgspec.Struct):
    """The `error` object of an error body or event."""

    type: str = "api_error"
    message: str = ""
    details: ErrorDetails | None = None

    @property
    def code(self) -> str | None:
        return self.details.error_code if self.details else None


class ErrorEvent(msgspec.Struct, tag="error"):
    error: ApiError


class _Count(msgspec.Struct):
    input_tokens: int


class _Tagged(msgspec.Struct):
    type: str = ""


StreamEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | ErrorEvent

KINDS = frozenset({"text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "web_search_tool_result"})

_events: dict[str, msgspec.json.Decoder[Any]] = {
    "message_start": msgspec.json.Decoder(MessageStart),
    "content_block_start": msgspec.json.Decoder(BlockStart),
    "content_block_delta": msgspec.json.Decoder(BlockDelta),
    "content_block_stop": msgspec.json.Decoder(BlockStop),
    "message_delta": msgspec.json.Decoder(MessageDelta),
    "message_stop": msgspec.json.Decoder(MessageStop),
    "error": msgspec.json.Decoder(ErrorEvent),
}
# Any escape, so that an escaped backslash is not taken for the start of another; lone halves by name.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
_kind = msgspec.json.Decoder(_Tagged)
_block = msgspec.json.Decoder(ContentBlock)
_message = msgspec.json.Decoder(Message)
_error = msgspec.json.Decoder(ErrorEvent)
_count = msgspec.json.Decoder(_Count)


def event_name(event: Event) -> str:
    """An event's name, else the `type` in its data; "" for one that has neither."""
    if event.name:
        return event.name
    try:
        return _kind.decode(event.data).type
    except NOT_JSON:
        return ""


def read_event(event: Event) -> StreamEvent | None:
    """What an event says; None for a ping and whatever else is unknown.

    Raises: Garbled when a known event cannot be read.
    """
    try:
        decoder = _events.get(event.name or _kind.decode(event.data).type)
        if decoder is None:
            return None
        said: StreamEvent = decoder.decode(event.data)
        return said
    except NOT_JSON as error:
        raise Garbled(f"the upstream sent an event that cannot be read ({type(error).__name__})") from None


@attrs.define
class EventReader:
    """`read_event` for one stream, with characters put together that were split over two deltas."""

    _halves: dict[int, str] = attrs.field(factory=dict)  # first halves that wait for the second, by block

    def read(self, event: Event) -> StreamEvent | None:
        """See read_event."""
        try:
            said = read_event(event)
        except Garbled:
            said = _split_delta(event)
            if said is None:
                raise
            self._halves.setdefault(said.index, "")
        if self._halves and isinstance(said, BlockDelta) and said.index in self._halves:
            self._join(said.delta, said.index)
        return said

    def _join(self, delta: Delta, index: int) -> None:
        for name in ("text", "thinking", "partial_json"):
            piece = getattr(delta, name)
            if piece is None:
                continue
            piece = self._halves.pop(index, "") + piece
            if "\ud800" <= piece[-1:] <= "\udbff":
                self._halves[index], piece = piece[-1], piece[:-1]
            setattr(delta, name, piece.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def _split_delta(event: Event) -> BlockDelta | None:
    """A delta with half a character in it; None when it is unreadable for another reason."""
    try:
        return msgspec.convert(json.loads(event.data), BlockDelta)
    except NOT_JSON:
        return None


def _whole_characters(data: bytes) -> bytes:
    """JSON in which each half of a character is U+FFFD."""
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found.lastgroup == "half" else found.group(), data)


def read_block(raw: msgspec.Raw) -> ContentBlock | None:
    """A content block; None when it is of no kind that another dialect has. Raises: Garbled."""
    try:
        return _block.decode(raw) if _kind.decode(raw).type in KINDS else None
    except NOT_JSON as error:
        raise Garbled(f"the upstream sent a content block that cannot be read ({type(error).__name__})") from None


def read_message(body: bytes) -> Message:
    """A whole message. Raises: Garbled for anything else."""
    message = _message_in(body) or _message_in(_whole_characters(body))
    if message is None:
        raise Garbled("the upstream's answer is not a message of the Claude API")
    return message


def read_count(body: bytes) -> int:
    """The answer to a count of tokens. Raises: Garbled."""
    try:
        return _count.decode(body).input_tokens
    except NOT_JSON:
        raise Garbled("the upstream's answer is not a count of tokens") from None


def _message_in(body: bytes) -> Message | None:
    try:
        message: Message | None = _message.decode(body) if _kind.decode(body).type == "message" else None
        return message
    except NOT_JSON:
        return None


def read_error(body: bytes) -> ApiError | None:
    """The error object of an error body; None when the body is something else (a proxy's page)."""
    try:
        fault: ApiError = _error.decode(body).error
        return fault
    except NOT_JSON:
        return None
