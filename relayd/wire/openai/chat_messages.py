"""Messages of Chat Completions, collected into turns.

Rule: all that was said is kept, in order. Parts, calls and results in the Claude API's own form are what they say.
Source: OpenAI API reference, "Create chat completion", messages.
"""

from __future__ import annotations

from relayd.wire.openai.fields import Json, a_list, a_name, a_text, an_object, refuse_field, shown, unsupported
from relayd.wire.openai.parts import Blocks, content_blocks, output_content, text_block, text_blocks
from relayd.wire.openai.reasoning import returned
from relayd.wire.openai.request import RequestDraft
from relayd.wire.openai.turns import arguments, tool_id, tool_result


def collect_messages(draft: RequestDraft, value: object) -> None:
    """The conversation, into the draft's turns. Raises: Refusal (400)."""
    if value is None:
        refuse_field("messages", "is required", "missing_required_parameter")
    calls: list[str] = []  # ids given to old function_calls, so that their results find them
    for index, item in enumerate(a_list(value, "messages")):
        where = f"messages[{index}]"
        message = an_object(item, where)
        match message.get("role"):
            case "user":
                if isinstance(message.get("content"), list):
                    message = _without_results(draft, message, where)
                blocks, plain = _content(message, where)
                draft.turns.user(blocks, plain=plain)
            case "assistant":
                _collect_assistant(draft, message, where, calls)
            case "tool":
                call_id = message.get("tool_call_id")
                _collect_result(draft, message, a_text(call_id or "", f"{where}.tool_call_id"), where)
            case "system" | "developer":
                draft.turns.instruct(_marked(text_blocks(message.get("content"), f"{where}.content"), message))
            case "function":
                _collect_result(draft, message, calls[-1] if calls else "function_0", where)
            case role:
                refuse_field(f"{where}.role", f"unknown role {shown(role)}")


def _content(message: Json, where: str) -> tuple[Blocks, bool]:
    """The content's blocks, and whether it is a string that may stay one."""
    content = message.get("content")
    if isinstance(content, str):  # most messages: worth not naming the field in advance
        block = text_block(content)
        return _marked([block] if block else [], message), message.get("cache_control") is None
    return _marked(content_blocks(content, f"{where}.content"), message), False


def _marked(blocks: Blocks, message: Json) -> Blocks:
    """`cache_control` beside a string content, as some clients put it, belongs to the last block."""
    if blocks and isinstance(message.get("cache_control"), dict):
        blocks[-1]["cache_control"] = message["cache_control"]
    return blocks


def _collect_result(draft: RequestDraft, message: Json, call_id: str, where: str) -> None:
    content = message.get("content")
    if not isinstance(content, str):
        content = output_content(content, f"{where}.content", draft.mended)
    result = tool_result(call_id, content)
    if isinstance(message.get("cache_control"), dict):
        result["cache_control"] = message["cache_control"]
    if message.get("is_error") is True:
        result["is_error"] = True
    draft.turns.result(result)


def _collect_assistant(draft: RequestDraft, message: Json, where: str, calls: list[str]) -> None:
    own, used = Blocks(), Blocks()
    if isinstance(message.get("content"), list):
        message, own = _parted(message, "thinking", "redacted_thinking")
        message, used = _without_uses(draft, message, where)
    thinking = [] if draft.able.thinking == "none" else returned({"thinking_blocks": own} if own else message, where)
    said, plain = _content(message, where)
    if not said and isinstance(message.get("refusal"), str):
        refusal = text_block(message["refusal"])
        said, plain = ([refusal] if refusal else []), False
    called = _tool_calls(draft, message, where) + used
    old = message.get("function_call")
    if old is not None:
        calls.append(f"function_{len(calls)}")
        called.append(_tool_use(draft, an_object(old, f"{where}.function_call"), calls[-1], f"{where}.function_call"))
    draft.turns.assistant(thinking + said + called, plain=plain and not thinking and not called)


def _without_results(draft: RequestDraft, message: Json, where: str) -> Json:
    """A user message without the tool results in the Claude API's form that some clients put into its content."""
    others, results = _parted(message, "tool_result")
    for result in results:
        call_id = a_text(result.get("tool_use_id") or "", f"{where}.content.tool_use_id")
        _collect_result(draft, result, call_id, where)
    return others


def _without_uses(draft: RequestDraft, message: Json, where: str) -> tuple[Json, Blocks]:
    """An assistant message without the calls in the Claude API's form, and those calls."""
    others, uses = _parted(message, "tool_use")
    at = f"{where}.content"
    return others, [
        _tool_use(draft, {**use, "arguments": use.get("input")}, a_text(use.get("id") or "", f"{at}.id"), at)
        for use in uses
    ]


def _parted(message: Json, *kinds: str) -> tuple[Json, list[Json]]:
    """A message without its parts of these kinds, and those parts."""
    content = message["content"]
    found = [part for part in content if isinstance(part, dict) and part.get("type") in kinds]
    if not found:
        return message, []
    others = [part for part in content if not (isinstance(part, dict) and part.get("type") in kinds)]
    return {**message, "content": others}, found


def _tool_calls(draft: RequestDraft, message: Json, where: str) -> Blocks:
    calls = message.get("tool_calls")
    blocks: Blocks = []
    for index, item in enumerate(a_list(calls, f"{where}.tool_calls") if calls else ()):
        at = f"{where}.tool_calls[{index}]"
        call = an_object(item, at)
        if call.get("type", "function") not in ("function", None):
            unsupported(f"{at}.type", f"only function calls are understood, not {shown(call.get('type'))}")
        given = an_object(call.get("function"), f"{at}.function")
        blocks.append(_tool_use(draft, given, a_text(call.get("id") or "", f"{at}.id"), f"{at}.function"))
    return blocks


def _tool_use(draft: RequestDraft, given: Json, call_id: str, where: str) -> Json:
    return {
        "type": "tool_use",
        "id": tool_id(call_id),
        "name": a_name(given.get("name"), f"{where}.name"),
        "input": arguments(given.get("arguments"), draft.mended),
    }
