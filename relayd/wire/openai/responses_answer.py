"""The Responses dialect, answers: Claude API messages and streams to OpenAI's items and events.

Rule: response.completed or response.incomplete only after message_stop; whatever ends before that is response.failed.
Events bear sequence numbers from 0 without gaps.

Theory: unlike Chat, this API repeats every text whole when it is done, and all of them in the last event; so what has
been said is kept until the end; it is at most what the model may answer. Items are those of items.py.
Source: OpenAI API reference, "Responses", "Streaming events"; Claude API docs, "Streaming".
"""

from __future__ import annotations

from typing import Any, Literal, assert_never

import attrs

from relayd.wire.answer import (
    ApiError,
    BlockDelta,
    BlockStart,
    BlockStop,
    Citation,
    ContentBlock,
    Delta,
    ErrorEvent,
    EventReader,
    Garbled,
    MessageDelta,
    MessageStart,
    MessageStop,
    StreamEvent,
    UsageCounts,
    read_block,
    read_count,
    read_message,
)
from relayd.wire.http import HeaderPairs
from relayd.wire.openai.client_calls import BUILT_IN, free_text
from relayd.wire.openai.compaction import compaction_item
from relayd.wire.openai.items import (
    Item,
    answer_items,
    base_id,
    call_item,
    compacted,
    end_state,
    message_item,
    reasoning_item,
    response,
    response_object,
    text_part,
)
from relayd.wire.openai.request import without_thinking
from relayd.wire.openai.shapes import (
    CUT_SHORT,
    CallForm,
    Hints,
    answer_headers,
    encode,
    refusal_object,
    unreadable,
    upstream_error,
)
from relayd.wire.openai.web_search import search_item, url_annotations
from relayd.wire.refusal import Refusal
from relayd.wire.sse import EventDecoder, TooLong


@attrs.define(eq=False)
class ResponsesTranslator:
    """One answer on its way to a Responses client. See call.Translator.

    Args:
        finished: items that the client may refer to later, with their ids; whoever keeps them takes them out.
    """

    hints: Hints
    finished: list[tuple[str, bytes]] = attrs.field(factory=list, init=False)
    _stream: ResponsesStream | None = attrs.field(default=None, init=False)

    def head(self, status: int, headers: HeaderPairs) -> HeaderPairs:
        return answer_headers(headers, self.hints)

    def whole(self, status: int, body: bytes) -> bytes:
        if status >= 400:
            return upstream_error(status, body)
        try:
            match self.hints.purpose:
                case "count":
                    return encode({"object": "response.input_tokens", "input_tokens": read_count(body)})
                case "compact":
                    return compacted(read_message(body), self.hints)
                case _:
                    message = read_message(body)
                    items = answer_items(message, base_id(self.hints, message.id), self.hints)
                    if self.hints.store:
                        self.finished += [(item["id"], encode(item)) for item in items]
                    return response(message, items, self.hints)
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
        return self._open().fail(CUT_SHORT)

    def fail(self, refusal: Refusal) -> bytes:
        error = refusal_object(refusal)["error"]
        return self._open().fail(ApiError(type=error["type"], message=error["message"]))

    def _open(self) -> ResponsesStream:
        if self._stream is None:
            self._stream = ResponsesStream(self.hints, self.finished)
        return self._stream


OpenKind = Literal["message", "reasoning", "call", "search"]


@attrs.define
class _OpenText:
    """A text block, or the structured answer's tool call. Its text goes to the message item that is open."""

    whole: str = ""  # said at the block's end if nothing came in pieces
    fed: bool = False
    start: int = 0  # where in the message its text begins
    citations: list[Citation] = attrs.field(factory=list)


@attrs.define
class _OpenItem:
    kind: OpenKind
    index: int  # among the output
    id: str
    block: ContentBlock
    pieces: list[str] = attrs.field(factory=list)
    shown: bool = False  # a reasoning item's summary has begun
    form: CallForm = "function"
    length: int = 0  # of a message's text so far
    annotations: list[Item] = attrs.field(factory=list)


@attrs.define(eq=False)
class ResponsesStream:
    """A Claude API event stream in, Responses events out. `finished`: as in ResponsesTranslator."""

    hints: Hints
    finished: list[tuple[str, bytes]] = attrs.field(factory=list)
    _events: EventDecoder = attrs.field(factory=EventDecoder, init=False)
    _reader: EventReader = attrs.field(factory=EventReader, init=False)
    _base: str = attrs.field(default="", init=False)
    _sequence: int = attrs.field(default=0, init=False)
    _blocks: dict[int, _OpenItem | _OpenText] = attrs.field(factory=dict, init=False)
    _message: _OpenItem | None = attrs.field(default=None, init=False)  # the message item that is still open
    _searches: list[_OpenItem] = attrs.field(factory=list, init=False)  # that wait for what they found
    _added: int = attrs.field(default=0, init=False)
    _done: dict[int, bytes] = attrs.field(factory=dict, init=False)  # finished items by output index
    _counts: UsageCounts = attrs.field(factory=UsageCounts, init=False)
    _stop_reason: str | None = attrs.field(default=None, init=False)
    _over: bool = attrs.field(default=False, init=False)
    _out: list[bytes] = attrs.field(factory=list, init=False)

    def feed(self, data: bytes) -> bytes:
        """Stream bytes in; the events that they complete out."""
        try:
            for event in () if self._over else self._events.feed(data):
                said = self._reader.read(event)
                if said is not None and not self._over:
                    self._say(said)
        except (Garbled, TooLong) as error:
            self._fail(ApiError(message=str(error)))
        return self._taken()

    def fail(self, fault: ApiError) -> bytes:
        """An error instead of the end; nothing when the end has been said."""
        self._fail(fault)
        return self._taken()

    def _taken(self) -> bytes:
        out, self._out = self._out, []
        return b"".join(out)

    def _put(self, kind: bytes, members: bytes) -> None:
        """One event; `members` is its JSON object without the braces."""
        head = b'event: %b\ndata: {"type":"%b","sequence_number":%d,' % (kind, kind, self._sequence)
        self._out.append(head + members + b"}\n\n")
        self._sequence += 1

    def _put_item(self, kind: bytes, item: _OpenItem, **members: Any) -> None:
        self._put(kind, encode({"item_id": item.id, "output_index": item.index, **members})[1:-1])

    def _say(self, said: StreamEvent) -> None:
        match said:
            case BlockDelta(delta=delta, index=index):
                self._delta(delta, self._blocks.get(index))
            case BlockStart(content_block=raw, index=index):
                block = read_block(raw)
                if block is not None:
                    self._begin(None)
                    self._begin_block(block, index)
            case BlockStop(index=index):
                self._end_block(self._blocks.pop(index, None))
            case MessageStart(message=message):
                self._counts = self._counts.overlaid(message.usage or UsageCounts())
                self._begin(message.id)
            case MessageDelta(delta=ending, usage=usage):
                self._counts = self._counts.overlaid(usage or UsageCounts())
                self._stop_reason = ending.stop_reason or self._stop_reason
            case MessageStop():
                self._end()
            case ErrorEvent(error=fault):
                self._fail(fault)
            case _:
                assert_never(said)

    # --- the response

    def _begin(self, message_id: str | None) -> None:
        if self._base:
            return
        self._base = base_id(self.hints, message_id) or "0"
        started = self._response("in_progress")
        self._put(b"response.created", started)
        self._put(b"response.in_progress", started)

    def _response(
        self, status: str, why: str | None = None, error: Any = None, usage: UsageCounts | None = None
    ) -> bytes:
        output = b"[" + b",".join(item for _, item in sorted(self._done.items())) + b"]"
        whole = response_object(self.hints, self._base, status, output, usage=usage, why=why, error=error)
        return b'"response":' + whole

    def _end(self) -> None:
        self._begin(None)
        for item in self._blocks.values():  # a block that was never stopped
            self._end_block(item)
        for search in list(self._searches):
            self._end_search(search, None)
        self._end_message()
        status, why = end_state(self._stop_reason)
        self._put(b"response.%b" % status.encode(), self._response(status, why, usage=self._counts))
        self._over = True

    def _fail(self, fault: ApiError) -> None:
        if self._over:
            return
        self._begin(None)
        error = {"code": failure_code(fault.type), "message": fault.message, "type": fault.type}
        self._put(b"response.failed", self._response("failed", error=error))
        self._over = True

    # --- items

    def _add(self, kind: OpenKind, prefix: str, block: ContentBlock) -> _OpenItem:
        if kind != "message":
            self._end_message()
        item = _OpenItem(kind, self._added, f"{prefix}_{self._base}_{self._added}", block)
        self._added += 1
        return item

    def _announce(self, item: _OpenItem, shape: Item) -> None:
        self._put(b"response.output_item.added", encode({"output_index": item.index, "item": shape})[1:-1])

    def _finish_item(self, item: _OpenItem, shape: Item) -> None:
        encoded = encode(shape)
        self._done[item.index] = encoded
        if self.hints.store:
            self.finished.append((item.id, encoded))
        self._put(b"response.output_item.done", b'"output_index":%d,"item":' % item.index + encoded)

    def _begin_block(self, block: ContentBlock, index: int) -> None:
        if block.type == "text":
            if not self.hints.unwrap:
                start = self._message.length if self._message else 0
                self._blocks[index] = _OpenText(start=start, citations=block.citations or [])
                self._text(block.text)
        elif self.hints.compacts:
            pass  # of a summary, its text alone
        elif block.type == "tool_use" and self.hints.unwraps(block.name):
            self._blocks[index] = _OpenText(whole=block.input_text)
        elif block.type == "tool_use":
            self._blocks[index] = self._begin_call(block)
        elif block.is_search:
            self._blocks[index] = self._begin_search(block)
        elif block.type == "web_search_tool_result":
            for item in [one for one in self._searches if one.block.id == block.tool_use_id]:
                self._end_search(item, block)
        elif block.type in ("thinking", "redacted_thinking"):
            self._blocks[index] = self._begin_reasoning(block)

    def _open_message(self) -> _OpenItem:
        item = self._message = self._add("message", "cmp" if self.hints.compacts else "msg", ContentBlock(type="text"))
        if self.hints.compacts:
            return item  # said at its end
        self._announce(item, message_item(item.id, "") | {"status": "in_progress", "content": []})
        self._put_item(b"response.content_part.added", item, content_index=0, part=text_part(""))
        return item

    def _begin_call(self, block: ContentBlock) -> _OpenItem:
        name = self.hints.names.get(block.name or "")
        item = self._add("call", "fc", block)
        item.form = name.form if name is not None else "function"
        if item.form not in BUILT_IN:  # those are announced once it is known what they do
            self._announce(item, call_item(item.id, block, "", self.hints, "in_progress"))
        return item

    def _begin_search(self, block: ContentBlock) -> _OpenItem:
        item = self._add("search", "ws", block)
        self._searches.append(item)
        self._announce(item, search_item(item.id, "", None, "in_progress"))
        self._put_item(b"response.web_search_call.in_progress", item)
        self._put_item(b"response.web_search_call.searching", item)
        return item

    def _end_search(self, item: _OpenItem, result: ContentBlock | None) -> None:
        self._searches.remove(item)
        query = "".join(item.pieces) or item.block.input_text
        self._put_item(b"response.web_search_call.completed", item)
        self._finish_item(item, search_item(item.id, query, result))

    def _begin_reasoning(self, block: ContentBlock) -> _OpenItem:
        item = self._add("reasoning", "rs", block)
        shape = reasoning_item(item.id, ContentBlock(type="thinking"), self.hints)
        self._announce(item, shape | {"status": "in_progress"})
        self._thought(item, block.thinking)
        return item

    def _delta(self, delta: Delta, item: _OpenItem | _OpenText | None) -> None:
        match item:
            case None:
                pass
            case _OpenText():
                text = delta.text or delta.partial_json
                item.fed = item.fed or bool(text)
                self._text(text)
                if delta.citation is not None:
                    item.citations.append(delta.citation)
            case _OpenItem(kind="reasoning"):
                self._thought(item, delta.thinking)
                item.block.signature = delta.signature or item.block.signature
            case _OpenItem():
                self._input(item, delta.partial_json)
            case _:
                assert_never(item)

    def _text(self, text: str | None) -> None:
        if not text:
            return
        item = self._message or self._open_message()
        item.pieces.append(text)
        item.length += len(text)
        if self.hints.compacts:
            return
        where = b'"item_id":%b,"output_index":%d,"content_index":0,"logprobs":[],"delta":'
        self._put(b"response.output_text.delta", where % (encode(item.id), item.index) + encode(text))

    def _thought(self, item: _OpenItem, text: str | None) -> None:
        if not text:
            return
        item.pieces.append(text)
        if not self.hints.reasoning:
            return
        if not item.shown:
            item.shown = True
            part = {"type": "summary_text", "text": ""}
            self._put_item(b"response.reasoning_summary_part.added", item, summary_index=0, part=part)
        self._put_item(b"response.reasoning_summary_text.delta", item, summary_index=0, delta=text)

    def _input(self, item: _OpenItem, piece: str | None) -> None:
        if not piece:
            return
        item.pieces.append(piece)
        if item.kind == "call" and item.form == "function":
            self._put_item(b"response.function_call_arguments.delta", item, delta=piece)

    def _end_block(self, item: _OpenItem | _OpenText | None) -> None:
        match item:
            case None:
                pass
            case _OpenText():
                if not item.fed:
                    self._text(item.whole)
                self._annotate(item)
            case _OpenItem(kind="reasoning"):
                self._end_reasoning(item)
            case _OpenItem(kind="search"):
                pass  # it ends with what was found
            case _OpenItem():
                self._end_call(item)
            case _:
                assert_never(item)

    def _end_message(self) -> None:
        item, self._message = self._message, None
        if item is None:
            return
        text = "".join(item.pieces)
        if self.hints.compacts:
            shape = compaction_item(item.id, text)
            self._announce(item, shape)
            self._finish_item(item, shape)
            return
        self._put_item(b"response.output_text.done", item, content_index=0, text=text, logprobs=[])
        self._put_item(b"response.content_part.done", item, content_index=0, part=text_part(text, item.annotations))
        self._finish_item(item, message_item(item.id, text, item.annotations))

    def _annotate(self, text: _OpenText) -> None:
        """What a text that is complete rests on."""
        item = self._message
        if item is None or not text.citations:
            return
        for made in url_annotations(text.citations, text.start, item.length):
            at = len(item.annotations)
            item.annotations.append(made)
            kind = b"response.output_text.annotation.added"
            self._put_item(kind, item, content_index=0, annotation_index=at, annotation=made)

    def _end_reasoning(self, item: _OpenItem) -> None:
        item.block.thinking = text = "".join(item.pieces)
        if item.shown:
            self._put_item(b"response.reasoning_summary_text.done", item, summary_index=0, text=text)
            part = {"type": "summary_text", "text": text}
            self._put_item(b"response.reasoning_summary_part.done", item, summary_index=0, part=part)
        self._finish_item(item, reasoning_item(item.id, item.block, self.hints))

    def _end_call(self, item: _OpenItem) -> None:
        if not item.pieces:
            self._input(item, item.block.input_text)
        text = "".join(item.pieces)
        shape = call_item(item.id, item.block, text, self.hints)
        if item.form == "function":
            self._put_item(b"response.function_call_arguments.done", item, arguments=text)
        elif item.form == "custom":
            given = free_text(text)
            self._put_item(b"response.custom_tool_call_input.delta", item, delta=given)
            self._put_item(b"response.custom_tool_call_input.done", item, input=given)
        else:
            self._end_built_in(item, shape)
        self._finish_item(item, shape)

    def _end_built_in(self, item: _OpenItem, shape: Item) -> None:
        """A shell call or a patch, announced now that all of it is known. A patch is told once more, as clients that
        watch it grow expect."""
        change = shape.get("operation", {}).get("diff")
        started = shape if change is None else {**shape, "operation": {**shape["operation"], "diff": ""}}
        self._announce(item, {**started, "status": "in_progress"})
        if change is not None:
            self._put_item(b"response.apply_patch_call_operation_diff.delta", item, delta=change)
            self._put_item(b"response.apply_patch_call_operation_diff.done", item, diff=change)


def failure_code(kind: str) -> str:
    """The `code` of a failed response, from an error type. Source: OpenAI API reference, ResponseError."""
    return {"rate_limit_error": "rate_limit_exceeded", "invalid_request_error": "invalid_prompt"}.get(
        kind, "server_error"
    )
