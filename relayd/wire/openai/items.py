"""Items of a Responses answer, and the Responses object around them.

Rule: the same block becomes the same item, whether the answer came whole or as a stream.
Theory: neighbouring text blocks are one message item; every other block is an item of its own. Ids are made of the
upstream's message id and the item's place, so they need no randomness.
Source: OpenAI API reference, "The response object", output items.
"""

from __future__ import annotations

from typing import Any

import msgspec

from relayd.wire.answer import ContentBlock, Message, UsageCounts, read_block
from relayd.wire.openai.client_calls import BUILT_IN, ITEM, call_members
from relayd.wire.openai.compaction import compaction_item
from relayd.wire.openai.reasoning import enclosed
from relayd.wire.openai.shapes import Hints, ToolName, encode, finish_reason, responses_usage
from relayd.wire.openai.web_search import search_item, url_annotations

Item = dict[str, Any]


def message_item(item_id: str, text: str, annotations: list[Item] | None = None) -> Item:
    """A message of the assistant, complete."""
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [text_part(text, annotations)],
    }


def text_part(text: str, annotations: list[Item] | None = None) -> Item:
    """The text of a message, with what it rests on."""
    return {"type": "output_text", "text": text, "annotations": annotations or [], "logprobs": []}


def reasoning_item(item_id: str, block: ContentBlock, hints: Hints) -> Item:
    """A thinking block; its text is shown if that was asked for, and travels unseen in any case."""
    shown = block.thinking if hints.reasoning else None
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": shown}] if shown else [],
        "encrypted_content": enclosed(block, hints.model),
        "status": "completed",
    }


def call_item(item_id: str, block: ContentBlock, text: str, hints: Hints, status: str = "completed") -> Item:
    """A tool call under the name and in the form that the client knows. `text`: the input as JSON."""
    tool = hints.names.get(block.name or "") or ToolName(name=block.name or "")
    item: Item = {"id": item_id, "call_id": block.id or "", "name": tool.name, "status": status}
    if tool.form in BUILT_IN:
        del item["name"]
    if tool.namespace:
        item["namespace"] = tool.namespace
    return item | {"type": ITEM[tool.form]} | call_members(tool.form, text)


def base_id(hints: Hints, message_id: str | None) -> str:
    """The part that all ids of an answer share."""
    return (message_id or hints.ident).removeprefix("msg_")


def end_state(stop_reason: str | None) -> tuple[str, str | None]:
    """status, and why an answer is incomplete."""
    match finish_reason(stop_reason):
        case "length":
            return "incomplete", "max_output_tokens"
        case "content_filter":
            return "incomplete", "content_filter"
        case _:
            return "completed", None


def response_object(
    hints: Hints,
    base: str,
    status: str,
    output: bytes,
    *,
    usage: UsageCounts | None,
    why: str | None,
    error: Any = None,
) -> bytes:
    """A Responses object. `output` is the items' JSON array; `why` the reason of an incomplete answer."""
    own = {
        "id": f"resp_{base}",
        "object": "response",
        "created_at": hints.created,
        "status": status,
        "model": hints.model,
        "error": error,
        "incomplete_details": {"reason": why} if why else None,
        "usage": responses_usage(usage) if usage else None,
        "output": msgspec.Raw(output),
    }
    echo = hints.echo or b'"parallel_tool_calls":true,"tool_choice":"auto","tools":[]'
    return encode(own)[:-1] + b"," + echo + b"}"


def response(message: Message, items: list[Item], hints: Hints) -> bytes:
    """A whole answer with its items."""
    base = base_id(hints, message.id)
    status, why = end_state(message.stop_reason)
    usage = message.usage or UsageCounts()
    return response_object(hints, base, status, encode(items), usage=usage, why=why)


def answer_items(message: Message, base: str, hints: Hints) -> list[Item]:
    """The items of a whole answer. Raises: Garbled."""
    blocks = [block for block in map(read_block, message.content or []) if block is not None]
    if hints.compacts:
        text = "".join(block.text or "" for block in blocks if block.type == "text")
        return [compaction_item(f"cmp_{base}_0", text)] if text else []
    items: list[Item] = []
    found = {block.tool_use_id: block for block in blocks if block.type == "web_search_tool_result"}
    for block in blocks:
        _add_item(items, block, base, hints, found)
    return items


def _add_item(
    items: list[Item], block: ContentBlock, base: str, hints: Hints, found: dict[str | None, ContentBlock]
) -> None:
    index = len(items)
    if block.type == "tool_use" and not hints.unwraps(block.name):
        items.append(call_item(f"fc_{base}_{index}", block, block.input_text, hints))
    elif block.type in ("thinking", "redacted_thinking"):
        items.append(reasoning_item(f"rs_{base}_{index}", block, hints))
    elif block.is_search:
        items.append(search_item(f"ws_{base}_{index}", block.input_text, found.get(block.id)))
    else:
        _add_text(items, _answer_text(block, hints), block, f"msg_{base}_{index}")


def _add_text(items: list[Item], text: str, block: ContentBlock, item_id: str) -> None:
    """More of the message that is being said, or a new one."""
    if not text:
        return
    if not items or items[-1]["type"] != "message":
        items.append(message_item(item_id, ""))
    part = items[-1]["content"][0]
    start = len(part["text"])
    part["text"] += text
    part["annotations"] += url_annotations(block.citations or (), start, start + len(text))


def compacted(message: Message, hints: Hints) -> bytes:
    """A conversation made smaller: what the user said, and the item that stands for the rest. Raises: Garbled."""
    base = base_id(hints, message.id)
    items = encode(answer_items(message, base, hints))
    kept = hints.echo[1:-1]
    output = b"[" + kept + (b"," if kept else b"") + items[1:]
    whole = {
        "id": f"resp_{base}",
        "object": "response.compaction",
        "created_at": hints.created,
        "output": msgspec.Raw(output),
        "usage": responses_usage(message.usage or UsageCounts()),
    }
    return encode(whole)


def _answer_text(block: ContentBlock, hints: Hints) -> str:
    """Text for the client: of a structured answer, the forced tool's input and nothing beside it."""
    if hints.unwrap:
        return block.input_text if block.type == "tool_use" else ""
    return block.text or ""
