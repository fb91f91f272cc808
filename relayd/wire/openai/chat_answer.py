"""The Chat Completions dialect, answers: Claude API messages and streams to OpenAI's words.

Rule: a stream is translated event by event; what is remembered is a few words per open block, whatever the length, but
for thinking: shown as it comes, it is said once more, whole and signed, when its block ends (reasoning.py).
`[DONE]` is sent only after message_stop: a client must be able to tell a whole answer from one cut short.

Theory: every chunk of a stream is the same envelope around a `delta`, so the envelope is encoded once, and a delta
costs one small encode. Tool calls are counted for themselves (0, 1, 2), not by content block index.
Source: OpenAI API reference, "Chat completion chunk object"; Claude API docs, "Streaming".
"""

from __future__ import annotations

from typing import Any, Literal, assert_never

import attrs

from relayd.wire.answer import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Citation,
    ContentBlock,
    Delta,
    ErrorEvent,
    EventReader,
    Garbled,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    StopDetails,
    StreamEvent,
    UsageCounts,
    read_block,
    read_message,
)
from relayd.wire.http import HeaderPairs
from relayd.wire.openai.reasoning import thought_fields
from relayd.wire.openai.request import without_thinking
from relayd.wire.openai.shapes import (
    CUT_SHORT,
    Hints,
    answer_headers,
    chat_usage,
    encode,
    error_object,
    fault_object,
    finish_reason,
    refusal_object,
    unreadable,
    upstream_error,
)
from relayd.wire.openai.web_search import chat_annotations
from relayd.wire.refusal import Refusal
from relayd.wire.sse import EventDecoder, TooLong

DONE = b"data: [DONE]\n\n"


@attrs.define(eq=False)
class ChatTranslator:
    """One answer on its way to a Chat Completions client. See call.Translator."""

    hints: Hints
    _stream: ChatStream | None = attrs.field(default=None, init=False)

    def head(self, status: int, headers: HeaderPairs) -> HeaderPairs:
        return answer_headers(headers, self.hints)

    def whole(self, status: int, body: bytes) -> bytes:
        if status >= 400:
            return upstream_error(status, body)
        try:
            return encode(completion(read_message(body), self.hints))
        except Garbled as error:
            raise unreadable(error) from None

    def unsigned(self, body: bytes) -> bytes | None:
        bare = without_thinking(body)
        if bare is not None:
            self.hints = attrs.evolve(self.hints, mended=(*self.hints.mended, "thinking"))
        return bare

    def feed(self, data: bytes) -> bytes:
        return self._open().feed(data)

    def finish(self) -> bytes:
        return self._open().finish()

    def fail(self, refusal: Refusal) -> bytes:
        return self._open().cut(refusal_object(refusal))

    def _open(self) -> ChatStream:
        if self._stream is None:
            self._stream = ChatStream(self.hints)
        return self._stream


# --- whole answers


def completion_id(hints: Hints, message_id: str | None) -> str:
    """The same id whether the answer is streamed or whole."""
    return "chatcmpl-" + (message_id or hints.ident).removeprefix("msg_")


def completion(message: Message, hints: Hints) -> dict[str, Any]:
    """A chat.completion object. Raises: Garbled."""
    blocks = [block for block in map(read_block, message.content or []) if block is not None]
    said, finish = _message(blocks, message, hints)
    return {
        "id": completion_id(hints, message.id),
        "object": "chat.completion",
        "created": hints.created,
        "model": hints.model,
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish}],
        "usage": chat_usage(message.usage or UsageCounts()),
    }


def _message(blocks: list[ContentBlock], message: Message, hints: Hints) -> tuple[dict[str, Any], str]:
    calls = [_call(block) for block in blocks if block.type == "tool_use" and not hints.unwraps(block.name)]
    text = _text(blocks, hints)
    said: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": refusal_text(message.stop_reason, message.stop_details),
    }
    thinking = "".join(block.thinking or "" for block in blocks)
    if thinking and hints.reasoning:
        said["reasoning_content"] = thinking
    if hints.reasoning:
        said |= thought_fields(blocks)
    found = _cited(blocks, hints)
    if found:
        said["annotations"] = found
    if calls and hints.legacy:
        said["function_call"] = calls[0]["function"]
    elif calls:
        said["tool_calls"] = calls
    return said, final_word(message.stop_reason, bool(calls), hints)


def _text(blocks: list[ContentBlock], hints: Hints) -> str:
    """The text; of a structured answer the forced tool's input alone, for anything beside it would break the JSON."""
    if hints.unwrap:
        return "".join(block.input_text for block in blocks if hints.unwraps(block.name))
    return "".join(block.text or "" for block in blocks if block.type == "text")


def _cited(blocks: list[ContentBlock], hints: Hints) -> list[dict[str, Any]]:
    """What stretches of the text rest on."""
    found: list[dict[str, Any]] = []
    start = 0
    for block in blocks if not hints.unwrap else ():
        if block.type == "text":
            end = start + len(block.text or "")
            found += chat_annotations(block.citations or (), start, end)
            start = end
    return found


def _call(block: ContentBlock) -> dict[str, Any]:
    return {
        "id": block.id or "",
        "type": "function",
        "function": {"name": block.name or "", "arguments": block.input_text},
    }


def refusal_text(stop_reason: str | None, details: StopDetails | None) -> str | None:
    """Why the model refused, where it says so."""
    return details.explanation if stop_reason == "refusal" and details else None


def final_word(stop_reason: str | None, called: bool, hints: Hints) -> str:
    """finish_reason, given whether the client sees any tool call."""
    word = finish_reason(stop_reason)
    if word == "tool_calls":
        return "stop" if not called else "function_call" if hints.legacy else word
    return word


# --- streams


@attrs.define
class _OpenBlock:
    kind: Literal["text", "thinking", "call", "answer"]
    index: int = 0  # of a call, among the calls
    whole: str = "{}"  # a tool's input, as far as the start of the block had it
    fed: bool = False  # some of the input has been passed on
    thought: ContentBlock | None = None  # thinking, as far as it has come
    pieces: list[str] = attrs.field(factory=list)  # of its text
    start: int = 0  # of a text, where in the message it begins
    citations: list[Citation] = attrs.field(factory=list)


def _think(block: _OpenBlock, delta: Delta) -> None:
    block.pieces.append(delta.thinking or "")
    if block.thought is not None and delta.signature:
        block.thought.signature = delta.signature


@attrs.define(eq=False)
class ChatStream:
    """A Claude API event stream in, chunks out."""

    hints: Hints
    _events: EventDecoder = attrs.field(factory=EventDecoder, init=False)
    _reader: EventReader = attrs.field(factory=EventReader, init=False)
    _before: bytes = attrs.field(default=b"", init=False)  # a chunk up to its delta
    _after: bytes = attrs.field(default=b"", init=False)  # and what follows it
    _blocks: dict[int, _OpenBlock] = attrs.field(factory=dict, init=False)
    _calls: int = attrs.field(default=0, init=False)
    _said: int = attrs.field(default=0, init=False)  # characters of text so far
    _thoughts: int = attrs.field(default=0, init=False)
    _counts: UsageCounts = attrs.field(factory=UsageCounts, init=False)
    _stop_reason: str | None = attrs.field(default=None, init=False)
    _stop_details: StopDetails | None = attrs.field(default=None, init=False)
    _over: bool = attrs.field(default=False, init=False)

    def feed(self, data: bytes) -> bytes:
        """Stream bytes in; the chunks that they complete out."""
        out: list[bytes] = []
        try:
            for event in () if self._over else self._events.feed(data):
                said = self._reader.read(event)
                if said is not None and not self._over:
                    self._say(said, out)
        except (Garbled, TooLong) as error:
            out.append(self.cut(error_object(str(error), "api_error", code="bad_upstream_answer")))
        return b"".join(out)

    def finish(self) -> bytes:
        """The upstream has nothing more to say."""
        return self.cut(fault_object(CUT_SHORT))

    def cut(self, error: dict[str, Any]) -> bytes:
        """An error instead of the end; nothing when the end has been said. Source: `openai` SDK, Stream."""
        if self._over:
            return b""
        self._over = True
        return b"data: " + encode(error) + b"\n\n"

    def _say(self, said: StreamEvent, out: list[bytes]) -> None:
        match said:
            case BlockDelta(delta=delta, index=index):
                self._delta(delta, self._blocks.get(index), out)
            case BlockStart(content_block=raw, index=index):
                self._begin_block(read_block(raw), index, out)
            case BlockStop(index=index):
                self._end_block(self._blocks.pop(index, None), out)
            case MessageStart(message=message):
                self._counts = self._counts.overlaid(message.usage or UsageCounts())
                self._begin(message.id, out)
            case MessageDelta(delta=ending, usage=usage):
                self._counts = self._counts.overlaid(usage or UsageCounts())
                self._stop_reason = ending.stop_reason or self._stop_reason
                self._stop_details = ending.stop_details or self._stop_details
            case MessageStop():
                self._end(out)
            case ErrorEvent(error=fault):
                out.append(self.cut(fault_object(fault)))
            case _:
                assert_never(said)

    def _begin(self, message_id: str | None, out: list[bytes]) -> None:
        if self._before:
            return
        envelope = {
            "id": completion_id(self.hints, message_id),
            "object": "chat.completion.chunk",
            "created": self.hints.created,
            "model": self.hints.model,
        }
        usage = b',"usage":null' if self.hints.include_usage else b""
        self._before = b"data: " + encode(envelope)[:-1] + b',"choices":[{"index":0,"delta":'
        self._after = b',"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"
        out.append(self._before + b'{"role":"assistant","content":""}' + self._after)

    def _put(self, delta: bytes, out: list[bytes]) -> None:
        if not self._before:
            self._begin(None, out)
        out.append(self._before + delta + self._after)

    def _put_text(self, text: str | None, out: list[bytes]) -> None:
        if text:
            self._said += len(text)
            self._put(b'{"content":' + encode(text) + b"}", out)

    def _put_thinking(self, text: str | None, out: list[bytes]) -> None:
        if text and self.hints.reasoning:
            self._put(b'{"reasoning_content":' + encode(text) + b"}", out)

    def _begin_block(self, block: ContentBlock | None, index: int, out: list[bytes]) -> None:
        if block is None:
            return
        if block.type == "text":
            self._blocks[index] = _OpenBlock("text", start=self._said, citations=block.citations or [])
            if not self.hints.unwrap:
                self._put_text(block.text, out)
        elif block.type in ("thinking", "redacted_thinking"):
            self._blocks[index] = _OpenBlock("thinking", thought=block, pieces=[block.thinking or ""])
            self._put_thinking(block.thinking, out)
        elif block.type == "tool_use" and self.hints.unwraps(block.name):
            self._blocks[index] = _OpenBlock("answer", whole=block.input_text)
        elif block.type == "tool_use":
            self._begin_call(block, index, out)

    def _begin_call(self, block: ContentBlock, index: int, out: list[bytes]) -> None:
        self._blocks[index] = _OpenBlock("call", index=self._calls, whole=block.input_text)
        self._calls += 1
        function = {"name": block.name or "", "arguments": ""}
        if not self.hints.legacy:
            call = {"index": self._calls - 1, "id": block.id or "", "type": "function", "function": function}
            self._put(encode({"tool_calls": [call]}), out)
        elif self._calls == 1:
            self._put(encode({"function_call": function}), out)

    def _delta(self, delta: Delta, block: _OpenBlock | None, out: list[bytes]) -> None:
        if block is None:
            return
        match block.kind:
            case "text":
                if not self.hints.unwrap:
                    self._put_text(delta.text, out)
                    if delta.citation is not None:
                        block.citations.append(delta.citation)
            case "thinking":
                self._put_thinking(delta.thinking, out)
                _think(block, delta)
            case "call" | "answer":
                self._put_input(delta.partial_json, block, out)
            case _:
                assert_never(block.kind)

    def _put_thought(self, block: _OpenBlock, out: list[bytes]) -> None:
        """A thinking block that is complete, in the fields in which a client carries it back."""
        if block.thought is None or not self.hints.reasoning:
            return
        block.thought.thinking = "".join(block.pieces)
        fields = thought_fields([block.thought], first=self._thoughts)
        if fields:
            self._thoughts += 1
            self._put(encode(fields), out)

    def _put_input(self, piece: str | None, block: _OpenBlock, out: list[bytes]) -> None:
        if not piece:
            return
        block.fed = True
        if block.kind == "answer":
            self._put_text(piece, out)
        elif not self.hints.legacy:
            at = b'{"tool_calls":[{"index":%d,"function":{"arguments":' % block.index
            self._put(at + encode(piece) + b"}}]}", out)
        elif block.index == 0:
            self._put(b'{"function_call":{"arguments":' + encode(piece) + b"}}", out)

    def _end_block(self, block: _OpenBlock | None, out: list[bytes]) -> None:
        """An input without a piece is said once, whole: "" would not be JSON."""
        if block is None:
            return
        self._put_thought(block, out)
        if block.citations and not self.hints.unwrap:
            found = chat_annotations(block.citations, block.start, self._said)
            if found:
                self._put(encode({"annotations": found}), out)
        if block.kind in ("call", "answer") and not block.fed:
            self._put_input(block.whole, block, out)

    def _end(self, out: list[bytes]) -> None:
        reason = final_word(self._stop_reason, self._calls > 0, self.hints)
        refusal = refusal_text(self._stop_reason, self._stop_details)
        if refusal:
            self._put(encode({"refusal": refusal}), out)
        if not self._before:
            self._begin(None, out)
        out.append(self._before + b"{}" + self._after.replace(b'reason":null', b'reason":"%s"' % reason.encode(), 1))
        if self.hints.include_usage:
            usage = encode(chat_usage(self._counts))
            out.append(self._before.partition(b',"choices"')[0] + b',"choices":[],"usage":' + usage + b"}\n\n")
        out.append(DONE)
        self._over = True
