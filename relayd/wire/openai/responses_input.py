"""Input items of a Responses request: messages, calls and their results, reasoning, records, references.

Rule: what only tells what OpenAI's own tools did is named as ignored; what the conversation is not whole without is
taken or refused.

Theory: a reference names an item that the client believes to be kept. Those that are kept stand in its place before a
request is read (kept_items.py); so one that is still here points to an item of this request, which is there already, or
to nothing. Reasoning may be missing: the conversation is whole without it.
Source: OpenAI API reference, "Input items"; what Codex 0.169 and the AI SDK 6 send.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from relayd.wire.openai.client_calls import FORM, call_input
from relayd.wire.openai.compaction import WISH, told
from relayd.wire.openai.fields import Json, a_list, a_name, a_text, an_object, refuse_field, shown, unsupported
from relayd.wire.openai.parts import content_blocks, output_content, text_blocks
from relayd.wire.openai.reasoning import opened
from relayd.wire.openai.request import RequestDraft
from relayd.wire.openai.responses_tools import ToolNames, collect_tools
from relayd.wire.openai.shapes import CallForm
from relayd.wire.openai.turns import arguments, tool_id, tool_result

# Records of what OpenAI's own tools did: no counterpart, and what came of it is in the messages after them.
_RECORDS = (
    "web_search_call", "image_generation_call", "tool_search_call", "tool_search_output", "file_search_call",
    "code_interpreter_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response",
)  # fmt: skip
_OUTPUT = "_output"


def collect_input(draft: RequestDraft, value: object, names: ToolNames) -> Json:
    """The conversation into the draft. Returns: settings that it changes midway. Raises: Refusal (400)."""
    if value is None:
        refuse_field("input", "is required", "missing_required_parameter")
    if isinstance(value, str):
        draft.turns.user(content_blocks(value, "input"), plain=True)
        return {}
    items = [an_object(item, f"input[{index}]") for index, item in enumerate(a_list(value, "input"))]
    present = {item.get("id") for item in items if not is_reference(item)}
    changed: Json = {}
    for index, item in enumerate(items):
        where = f"input[{index}]"
        if is_reference(item):
            _check_reference(draft, item, where, present)
        elif item.get("type") == "configuration_update":
            changed |= item
        else:
            _collect_item(draft, item, where, names)
    return changed


def is_reference(item: Mapping[str, object]) -> bool:
    """Whether an item is only the name of one. Its type may be left out."""
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and "id" in item and "role" not in item and "content" not in item)


def _check_reference(draft: RequestDraft, item: Json, where: str, present: set[object]) -> None:
    name = a_name(item.get("id"), f"{where}.id")
    if name in present:
        return
    if name.startswith("rs_"):
        draft.ignored.append("input.item_reference")
        return
    refuse_field(
        where,
        f"item {shown(name)} is not kept here, or no longer; send the item itself (with `store: false` clients do; in "
        "the AI SDK: providerOptions.openai.store)",
        "item_not_found",
    )


def _collect_item(draft: RequestDraft, item: Json, where: str, names: ToolNames) -> None:
    match item.get("type") or "message":
        case "message":
            _collect_message(draft, item, where)
        case "reasoning":
            # Somebody else's reasoning cannot be read; without it the conversation is still whole.
            block = opened(item.get("encrypted_content"), draft.model)
            draft.turns.assistant([block] if block else [])
        case "additional_tools":
            collect_tools(draft, item.get("tools"), names, f"{where}.tools")
        case "compaction" | "compaction_summary":
            _collect_compaction(draft, item, where)
        case "compaction_trigger":
            draft.purpose = draft.purpose if draft.purpose != "answer" else "checkpoint"
        case "mcp_call":
            _collect_mcp_call(draft, item, where, names)
        case str() as kind if kind in FORM:
            draft.turns.assistant([_tool_use(draft, item, where, names, FORM[kind])])
        case str() as kind if kind.removesuffix(_OUTPUT) in FORM:
            _collect_result(draft, item, where, FORM[kind.removesuffix(_OUTPUT)])
        case str() as kind if kind in _RECORDS:
            draft.ignored.append(f"input.{kind}")
        case kind:
            unsupported(f"{where}.type", f"items of type {shown(kind)} are not understood")


def _collect_message(draft: RequestDraft, item: Json, where: str) -> None:
    content, at = item.get("content"), f"{where}.content"
    match item.get("role"):
        case "user":
            draft.turns.user(content_blocks(content, at), plain=isinstance(content, str))
        case "assistant":
            draft.turns.assistant(content_blocks(content, at), plain=isinstance(content, str))
        case "system" | "developer":
            draft.turns.instruct(text_blocks(content, at))
        case role:
            refuse_field(f"{where}.role", f"unknown role {shown(role)}")


def _tool_use(draft: RequestDraft, item: Json, where: str, names: ToolNames, form: CallForm) -> Json:
    if form == "custom":
        given: Json = {"input": a_text(item.get("input"), f"{where}.input")}
    elif form == "function":
        given = arguments(item.get("arguments"), draft.mended)
    else:
        given = call_input(form, item, where)
    name = a_name(item.get("name"), f"{where}.name") if form in ("function", "custom") else form
    return {
        "type": "tool_use",
        "id": tool_id(_call_id(item, where)),
        "name": names.upstream(name, item.get("namespace")),
        "input": given,
    }


def _call_id(item: Json, where: str) -> str:
    """The id that ties a call and its result; a local shell's result has it in `id`."""
    return a_name(item.get("call_id") or item.get("id"), f"{where}.call_id")


def _collect_result(draft: RequestDraft, item: Json, where: str, form: CallForm) -> None:
    output = item.get("output")
    if form == "shell":  # what each command printed
        output = msgspec.json.encode(a_list(output, f"{where}.output")).decode()
    elif form == "apply_patch":
        output = output or item.get("status")
    result = tool_result(_call_id(item, where), output_content(output, f"{where}.output", draft.mended))
    if item.get("status") == "failed":
        result["is_error"] = True
    draft.turns.result(result)


def _collect_mcp_call(draft: RequestDraft, item: Json, where: str, names: ToolNames) -> None:
    """A call that OpenAI made of a remote tool, with what came of it: to the model, a call like another."""
    call_id = tool_id(_call_id(item, where))
    name = names.upstream(a_name(item.get("name"), f"{where}.name"), item.get("server_label"))
    use = {"type": "tool_use", "id": call_id, "name": name, "input": arguments(item.get("arguments"), draft.mended)}
    error = item.get("error")
    output = item.get("output") if error is None else error
    result = tool_result(call_id, output_content(output, f"{where}.output", draft.mended))
    draft.turns.assistant([use])
    draft.turns.result(result if error is None else {**result, "is_error": True})


def _collect_compaction(draft: RequestDraft, item: Json, where: str) -> None:
    text = told(item.get("encrypted_content"))
    if text is None:
        unsupported(where, "this compaction was not made here and cannot be read; compact the conversation anew")
    draft.turns.user([{"type": "text", "text": text}])


def ask_for_summary(draft: RequestDraft) -> None:
    """The wish for a compaction, behind everything that was said."""
    draft.turns.user([{"type": "text", "text": WISH}])
    draft.choice = {"type": "none"}
    draft.format = None
