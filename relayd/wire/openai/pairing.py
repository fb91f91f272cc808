"""Tool calls and their results, paired as the Claude API insists.

Rule: each call of an assistant turn has one result, in the user turn right after it, and no other result is there; ids
occur once; a turn ends with its calls. Nothing that was said is left out, and what is mended is named.

Theory: clients cut histories, retry calls, number them anew in each turn, and lose results when a tool is cancelled;
then every later call of the conversation would be refused, and nobody at the client can help it. So a result without
its call is told as text, and a call without its result gets one that says so. One pass from the beginning, each turn
looking back only, mends a history that has grown exactly as it did before, which the prompt cache needs.
Source: Claude API docs, "Handling tool calls"; the API's errors for `tool_use` and `tool_result` blocks.
"""

from __future__ import annotations

from collections import deque

import attrs

from relayd.wire.openai.fields import Json
from relayd.wire.openai.parts import Blocks

LOST = "No result of this call was recorded."


@attrs.define
class _Ids:
    """Ids of calls, each once."""

    _seen: dict[str, int] = attrs.field(factory=dict)

    def take(self, wanted: str) -> str:
        """`wanted`, or where that is taken, it with a number."""
        if wanted not in self._seen:
            self._seen[wanted] = 1
            return wanted
        number = self._seen[wanted] + 1
        while (given := f"{wanted}_{number}") in self._seen:
            number += 1
        self._seen[wanted], self._seen[given] = number, 1
        return given


def pair(messages: list[Json], mended: list[str]) -> list[Json]:
    """The conversation with calls and results in pairs.

    Args:
        messages: turns that alternate; their blocks are changed in place. A result without an id answers the next
            call.
        mended: is told what had to be put in order.
    """
    ids, out = _Ids(), list[Json]()
    waiting: list[tuple[str, str]] = []  # calls of the turn before: the id as it came, the id as it goes
    for message in messages:
        if message["role"] == "assistant":
            waiting = _calls(message, ids, mended)
        elif message["role"] == "user":
            message = _answered(message, waiting, mended)
            waiting = []
        out.append(message)
    if waiting:
        out.append(_answered({"role": "user", "content": []}, waiting, mended))
    return out


def _calls(message: Json, ids: _Ids, mended: list[str]) -> list[tuple[str, str]]:
    """The calls of an assistant turn, which come last in it."""
    content = message["content"]
    if isinstance(content, str):
        return []
    kinds = [block["type"] for block in content]
    if "tool_use" not in kinds:
        return []
    if "text" in kinds[kinds.index("tool_use") :]:
        content.sort(key=lambda block: block["type"] == "tool_use")
        mended.append("tool_calls.order")
    waiting = []
    for call in content:
        if call["type"] != "tool_use":
            continue
        came = call["id"]
        call["id"] = ids.take(came or "call")
        if call["id"] != came:
            mended.append("tool_calls.id")
        waiting.append((came, call["id"]))
    return waiting


def _answered(message: Json, waiting: list[tuple[str, str]], mended: list[str]) -> Json:
    """A user turn after `waiting` calls: their results, then the rest."""
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    given = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    if given == [goes for _, goes in waiting]:  # nearly always; results come first as it is
        return message
    unanswered = dict.fromkeys(goes for _, goes in waiting)
    by_id: dict[str, deque[str]] = {}
    for came, goes in waiting:
        by_id.setdefault(came, deque()).append(goes)
    results: Blocks = []
    rest: Blocks = []
    for block in blocks:
        if block["type"] != "tool_result":
            rest.append(block)
        elif _answers(block, by_id, unanswered, mended):
            results.append(block)
        else:
            rest += _as_text(block)
            mended.append("tool_results.stray")
    if unanswered:
        mended.append("tool_calls.unanswered")
        results += [_lost(goes) for goes in unanswered]
    return {"role": "user", "content": results + rest}


def _answers(result: Json, by_id: dict[str, deque[str]], unanswered: dict[str, None], mended: list[str]) -> bool:
    """Whether a result is that of a call; then it bears the call's id."""
    came = result["tool_use_id"]
    queue = by_id.get(came, deque())
    while queue and queue[0] not in unanswered:
        queue.popleft()
    goes = queue.popleft() if queue else next(iter(unanswered), None) if not came else None
    if goes is None:
        return False
    if not came:
        mended.append("tool_results.id")
    del unanswered[goes]
    result["tool_use_id"] = goes
    return True


def _lost(call_id: str) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": LOST, "is_error": True}


def _as_text(result: Json) -> Blocks:
    """A result that answers no call of the turn before, told."""
    told = f"Result of tool call {result['tool_use_id']}:" if result["tool_use_id"] else "Result of a tool call:"
    content = result.get("content", "")
    if isinstance(content, str):
        blocks: Blocks = [{"type": "text", "text": f"{told}\n{content}"}]
    else:
        blocks = [{"type": "text", "text": told}, *content]
    if "cache_control" in result:
        blocks[-1]["cache_control"] = result["cache_control"]
    return blocks
