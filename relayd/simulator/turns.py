"""Turns: tool calls and their results must pair up, as the API insists.

Theory: consecutive messages of one role are one turn; a `system` message in mid-conversation belongs to none. Each
tool_use of an assistant turn is answered in the very next user turn, and nothing else is answered there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relayd.wire.refusal import Refusal


def check_pairs(messages: list[dict[str, Any]]) -> None:
    """Raises: Refusal (400) when a tool_use has no result, or a result no tool_use."""
    open_calls: set[str] = set()
    opened_at = 0
    for role, first, ids in _turns(messages):
        if role == "assistant":
            open_calls, opened_at = ids, first
            continue
        if stray := sorted(ids - open_calls):
            raise Refusal(
                status=400,
                message=f"messages.{first}: unexpected `tool_use_id` found in `tool_result` blocks: {stray[0][:64]}. "
                "Each `tool_result` block must have a corresponding `tool_use` block in the previous message.",
            )
        open_calls -= ids
        if open_calls:
            break
    if open_calls:
        raise Refusal(
            status=400,
            message=f"messages.{opened_at}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(sorted(open_calls))[:200]}. Each `tool_use` block must have a corresponding `tool_result` "
            "block in the next message.",
        )


def _turns(messages: list[dict[str, Any]]) -> Iterator[tuple[str, int, set[str]]]:
    """(role, index of the first message, ids of calls or results) of each turn."""
    role, first, ids = "", 0, set[str]()
    for index, message in enumerate(messages):
        if message["role"] == "system":
            continue
        if message["role"] != role:
            if role:
                yield role, first, ids
            role, first, ids = message["role"], index, set()
        ids |= _ids(message)
    if role:
        yield role, first, ids


def _ids(message: dict[str, Any]) -> set[str]:
    if isinstance(message["content"], str):
        return set()
    kind, field = ("tool_use", "id") if message["role"] == "assistant" else ("tool_result", "tool_use_id")
    found = (block.get(field) for block in message["content"] if block["type"] == kind)
    return {name for name in found if isinstance(name, str)}
