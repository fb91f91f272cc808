"""Thinking blocks on their way through a stateless client: in fields that it carries back.

Rule: a block goes back exactly as it came, and only with its signature: the API refuses thinking that it did not sign.

In Responses they travel in a reasoning item's `encrypted_content`, with the model that made them, since newer models
bind thinking to themselves. Chat has no field of OpenAI's; there are two that clients know: LiteLLM's `thinking_blocks`
and OpenRouter's `reasoning_details`. Both are sent, either is taken.

Theory: clients treat `encrypted_content` as opaque. Ours is not secret, only signed by the API within: the client is
shown the same thinking as a summary when it asks.
Source: OpenAI API reference, "Reasoning items"; Claude API docs, "Extended thinking", preserving thinking blocks;
OpenRouter docs, "Reasoning tokens", preserving reasoning blocks; LiteLLM docs, "Reasoning content".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

import msgspec

from relayd.wire.answer import ContentBlock
from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.openai.fields import Json, a_list, an_object

_FORMAT = "anthropic-claude-v1"  # OpenRouter's name for whose thinking it is
_MARK = "relayd1."


class _Sealed(msgspec.Struct, omit_defaults=True):
    model: str
    thinking: str = ""
    signature: str = ""
    data: str = ""  # of a redacted block


def enclosed(block: ContentBlock, model: str) -> str | None:
    """The `encrypted_content` for a finished thinking block; None when nothing vouches for the block."""
    if not block.signature and not block.data:
        return None
    sealed = _Sealed(model, block.thinking or "", block.signature or "", block.data or "")
    return _MARK + base64.urlsafe_b64encode(msgspec.json.encode(sealed)).decode("ascii")


def opened(content: object, model: str) -> Json | None:
    """The thinking block within, if it is ours and `model` made it."""
    if not isinstance(content, str) or not content.startswith(_MARK):
        return None
    try:
        sealed = msgspec.json.decode(base64.urlsafe_b64decode(content[len(_MARK) :]), type=_Sealed)
    except (binascii.Error, ValueError, *NOT_JSON):
        return None
    if sealed.model != model:
        return None
    if sealed.data:
        return {"type": "redacted_thinking", "data": sealed.data}
    return {"type": "thinking", "thinking": sealed.thinking, "signature": sealed.signature}


def thought_fields(blocks: Iterable[ContentBlock], first: int = 0) -> dict[str, Any]:
    """Chat's fields for finished thinking blocks that something vouches for; none for no block.

    Args:
        first: the number of the first block within its message.
    """
    signed = [_block(block) for block in blocks if block.signature or block.data]
    if not signed:
        return {}
    details = [
        {"id": None, "format": _FORMAT, "index": first + index, **_detail(block)} for index, block in enumerate(signed)
    ]
    return {"thinking_blocks": signed, "reasoning_details": details}


def _block(block: ContentBlock) -> Json:
    if block.data:
        return {"type": "redacted_thinking", "data": block.data}
    return {"type": "thinking", "thinking": block.thinking or "", "signature": block.signature}


def _detail(block: Json) -> Json:
    if block["type"] == "redacted_thinking":
        return {"type": "reasoning.encrypted", "data": block["data"]}
    return {"type": "reasoning.text", "text": block["thinking"], "signature": block["signature"]}


def returned(message: Json, where: str) -> list[Json]:
    """The thinking blocks that a Chat client has carried back, from the first of the fields that has any.

    `reasoning_content` alone has no signature, and none is invented. A client that kept the pieces of a stream sends
    them one by one, the signature last.
    """
    for name in ("thinking_blocks", "reasoning_details"):
        given = message.get(name)
        if not given:
            continue
        items = enumerate(a_list(given, f"{where}.{name}"))
        blocks = _joined(an_object(item, f"{where}.{name}[{index}]") for index, item in items)
        if blocks:
            return blocks
    return []


def _joined(pieces: Iterable[Json]) -> list[Json]:
    blocks: list[Json] = []
    text = ""
    for piece in pieces:
        match piece.get("type"):
            case "thinking" | "reasoning.text" as kind:
                said, signature = piece.get("thinking" if kind == "thinking" else "text"), piece.get("signature")
                text += said if isinstance(said, str) else ""
                if isinstance(signature, str) and signature:
                    blocks.append({"type": "thinking", "thinking": text, "signature": signature})
                    text = ""
            case "redacted_thinking" | "reasoning.encrypted":
                data = piece.get("data")
                if isinstance(data, str) and data and piece.get("format") in (None, _FORMAT):
                    blocks.append({"type": "redacted_thinking", "data": data})
    return blocks
