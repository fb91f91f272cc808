"""Thinking blocks inside a reasoning item's `encrypted_content`, so that a stateless client carries them back.

Rule: a block goes back exactly as it came, and only to the model that made it; anything else is dropped, because the
API refuses thinking that it did not sign, and newer models bind it to themselves.

Theory: clients treat `encrypted_content` as opaque. Ours is not secret, only signed by the API within: the client is
shown the same thinking as a summary when it asks.
Source: OpenAI API reference, "Reasoning items"; Claude API docs, "Extended thinking", preserving thinking blocks.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from relayd.wire.answer import NOT_JSON, ContentBlock
from relayd.wire.openai.fields import Json

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
