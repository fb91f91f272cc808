"""Compaction: a conversation made into one item that stands for it, written by the model itself.

Rule: what is called encrypted is opaque to clients, not secret: the summary is told to whoever holds the conversation.
Only an item of relayd's can be read; another's is refused, since without it the conversation is not whole.

Theory: OpenAI compacts on its own path (`/responses/compact`), or where the input ends with a `compaction_trigger`, as
today's Codex asks. Both become the same question to the model; the answer's text becomes the item, which later calls
carry instead of what went before.
Source: OpenAI API reference, "Compact a response", "Compaction"; types of the `openai` SDK 3.54.
"""

from __future__ import annotations

import base64
import binascii

from relayd.wire.openai.fields import Json

WISH = (
    "Write a summary of this conversation so far, from which another assistant can go on with the work without having "
    "seen it: what the user wants, with every instruction that still holds; what was done and decided, and why; the "
    "state of things, with the names of files, functions, commands and values that matter; what is still to be done, "
    "and what comes next. Answer with the summary alone. Call no tool."
)
_INTRODUCTION = "Summary of the conversation up to here, whose earlier messages are no longer shown:\n\n"
_MARK = "relayd-summary1."


def compaction_item(item_id: str, summary: str) -> Json:
    """The item that stands for a conversation."""
    sealed = _MARK + base64.urlsafe_b64encode(summary.encode()).decode("ascii")
    return {"id": item_id, "type": "compaction", "encrypted_content": sealed}


def told(content: object) -> str | None:
    """What the model is told in place of the conversation; None for an item that is not relayd's."""
    if not isinstance(content, str) or not content.startswith(_MARK):
        return None
    try:
        return _INTRODUCTION + base64.b64decode(content[len(_MARK) :], altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return None
