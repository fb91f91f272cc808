"""The Responses dialect, requests: OpenAI's words to a Claude API body.

Rule: as in chat.py. Nothing is kept between calls: `store` has no effect, and whatever refers to a stored thing
(previous_response_id, conversation, background, item_reference) is refused.

Theory: items fill the same Draft as Chat's messages. Tools in namespaces and free-text ("custom") tools have no
counterpart; they travel as ordinary tools and get their names and forms back in the answer (Hints.names). Thinking
travels in a reasoning item's `encrypted_content`, which clients send back untouched: reasoning.py.
Source: OpenAI API reference, "Create a model response"; types of the `openai` SDK 3.54; what Codex 0.169 sends.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import msgspec

from relayd.wire.call import NO_ALIASES, Call, Reply, Translator
from relayd.wire.capabilities import capabilities
from relayd.wire.http import HeaderPairs, RequestHead
from relayd.wire.openai import shapes as openai_shapes
from relayd.wire.openai.chat import named_choice
from relayd.wire.openai.fields import (
    Json,
    a_choice,
    a_flag,
    a_list,
    a_name,
    a_number,
    a_text,
    an_object,
    decode_object,
    header_words,
    refuse_field,
    shown,
    unsupported,
)
from relayd.wire.openai.parts import content_blocks, output_content, text_blocks
from relayd.wire.openai.reasoning import opened
from relayd.wire.openai.request import (
    AnswerFormat,
    RequestDraft,
    collect_cap,
    collect_common,
    collect_effort,
    collect_ignored,
    collect_model,
    collect_unknown,
    encode_body,
    function_tool,
    named_session,
)
from relayd.wire.openai.responses_answer import ResponsesTranslator
from relayd.wire.openai.shapes import Hints, ToolName, refuse
from relayd.wire.openai.turns import arguments, made_id, tool_id, tool_result
from relayd.wire.peek import wide_bytes
from relayd.wire.refusal import Refusal

_STATEFUL = {
    "previous_response_id": "this relay stores no responses; send the whole conversation in `input`",
    "conversation": "this relay stores no conversations; send the whole conversation in `input`",
    "background": "this relay runs nothing in the background",
    "prompt": "this relay stores no prompt templates; send the text itself",
}
_IGNORED: dict[str, object] = {
    "store": False, "truncation": "disabled", "service_tier": "auto", "max_tool_calls": None, "moderation": None,
    "context_management": None, "prompt_cache_options": None, "prompt_cache_retention": None, "stream_options": None,
}  # fmt: skip
_KNOWN = frozenset(_IGNORED) | frozenset(_STATEFUL) | {
    "model", "input", "instructions", "max_output_tokens", "tools", "tool_choice", "parallel_tool_calls", "reasoning",
    "text", "stream", "include", "metadata", "temperature", "top_p", "top_k", "top_logprobs", "prompt_cache_key",
    "user", "safety_identifier", "thinking", "cache_control", "client_metadata",
}  # fmt: skip

# Tools that OpenAI runs itself. Without one of these the model answers from what it knows, and the header says so;
# others stand for data or a machine that the answer could not do without.
_DISPENSABLE_TOOLS = ("web_search", "web_search_preview", "image_generation", "tool_search")
# Records of what OpenAI's own tools did: no counterpart, and what came of it is in the messages after them.
_RECORDS = ("web_search_call", "image_generation_call", "tool_search_call", "tool_search_output", "file_search_call")


@attrs.frozen(kw_only=True)
class ResponsesDialect:
    """Responses, without server state."""

    @property
    def name(self) -> str:
        return "openai-responses"

    def parse(
        self, head: RequestHead, body: bytes, *, now: float = 0.0, aliases: Mapping[str, str] = NO_ALIASES
    ) -> Call:
        """Read a call. See ChatDialect.parse. Raises: Refusal (400) that names the field."""
        try:
            return _call(decode_object(body), now, aliases)
        except RecursionError:
            raise Refusal(status=400, message="the request body is nested too deeply", code="invalid_json") from None

    def refuse(self, refusal: Refusal, request_id: str) -> Reply:
        """A refusal in the form of OpenAI's errors."""
        return refuse(refusal, request_id)

    def translator(self, call: Call) -> Translator:
        """How the answer to a call of `parse` is put."""
        hints = call.reply_hints
        return ResponsesTranslator(hints=hints if isinstance(hints, Hints) else Hints(model=call.model))

    def upstream_headers(self, head: RequestHead) -> HeaderPairs:
        """See openai_shapes.upstream_headers."""
        return openai_shapes.upstream_headers(head)


OPENAI_RESPONSES = ResponsesDialect()


@attrs.define
class _Names:
    """The upstream's names of tools, and what the client calls them."""

    by_upstream: dict[str, ToolName] = attrs.field(factory=dict)

    def upstream(self, name: str, namespace: str) -> str:
        """The name that a tool has upstream: its own, or joined with its namespace."""
        return f"{namespace}__{name}" if namespace else name

    def learn(self, name: str, namespace: str, custom: bool) -> str:
        """Note a tool of this request; returns its upstream name."""
        joined = self.upstream(name, namespace)
        if namespace or custom:
            self.by_upstream[joined] = ToolName(name=name, namespace=namespace, custom=custom)
        return joined


def _call(fields: Json, now: float, aliases: Mapping[str, str]) -> Call:
    model, effort = collect_model(aliases, fields)
    _refuse_impossible(fields)
    able = capabilities(aliases.get(model, model))
    draft = RequestDraft(model=model, stream=a_flag(fields, "stream"), able=able, effort=effort)
    names = _Names()
    instructions = fields.get("instructions")
    if instructions is not None:
        draft.turns.system.extend(text_blocks(a_text(instructions, "instructions"), "instructions"))
    _collect_tools(draft, fields.get("tools"), names)
    _collect_choice(draft, fields.get("tool_choice"), names)
    _collect_input(draft, fields.get("input"), names)
    _collect_rest(draft, fields)
    asked = draft.max_tokens
    body = draft.settle("reasoning.effort")
    encoded = encode_body(body)
    return Call(
        endpoint="messages",
        language="openai",
        model=model,
        stream=draft.stream,
        max_tokens=asked if asked is None else draft.max_tokens,
        room=body["max_tokens"],
        wide=wide_bytes(encoded),
        user_id=draft.user_id,
        session=named_session(fields),
        body=encoded,
        reply_hints=Hints(
            model=model,
            created=int(now),
            ident=made_id(encoded, now),
            reasoning=draft.show_thinking,
            unwrap=draft.unwrap,
            ignored=header_words(draft.ignored),
            mended=header_words(draft.mended),
            names=names.by_upstream,
            echo=_echo(fields),
        ),
    )


def _refuse_impossible(fields: Json) -> None:
    for name, why in _STATEFUL.items():
        if fields.get(name) not in (None, False):
            unsupported(name, why)
    include = a_list(fields.get("include") or [], "include")
    if "message.output_text.logprobs" in include or (a_number(fields, "top_logprobs", 0, 20) or 0) > 0:
        unsupported("top_logprobs", "the models behind this relay do not give log probabilities")


def _echo(fields: Json) -> bytes:
    """The members of a Responses object that repeat the request, without braces."""
    reasoning = fields.get("reasoning") or {}
    repeated = {
        "background": False,
        "instructions": fields.get("instructions"),
        "max_output_tokens": fields.get("max_output_tokens"),
        "metadata": fields.get("metadata") or {},
        "parallel_tool_calls": fields.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": False,
        "temperature": fields.get("temperature"),
        "text": fields.get("text") or {"format": {"type": "text"}},
        "tool_choice": fields.get("tool_choice") or "auto",
        "tools": fields.get("tools") or [],
        "top_p": fields.get("top_p"),
        "truncation": "disabled",
    }
    return msgspec.json.encode(repeated)[1:-1]


def _collect_rest(draft: RequestDraft, fields: Json) -> None:
    collect_common(draft, fields)
    collect_cap(draft, fields, "max_output_tokens")
    reasoning = an_object(fields.get("reasoning") or {}, "reasoning")
    collect_effort(draft, reasoning.get("effort"), "reasoning.effort")
    draft.show_thinking = (reasoning.get("summary") or reasoning.get("generate_summary")) is not None
    text = an_object(fields.get("text") or {}, "text")
    draft.format = _format(text.get("format"))
    if text.get("verbosity") not in (None, "medium"):
        draft.ignored.append("text.verbosity")
    an_object(fields.get("metadata") or {}, "metadata")
    collect_ignored(draft, fields, _IGNORED)
    collect_unknown(draft, fields, _KNOWN)


def _format(value: object) -> AnswerFormat | None:
    if value is None:
        return None
    fields = an_object(value, "text.format")
    match a_choice(fields.get("type"), "text.format.type", ("text", "json_object", "json_schema")):
        case "json_schema":
            description = fields.get("description")
            return AnswerFormat(
                schema=an_object(fields.get("schema"), "text.format.schema"),
                description=description if isinstance(description, str) else "",
            )
        case "json_object":
            return AnswerFormat()
        case _:
            return None


# --- input items


def _collect_input(draft: RequestDraft, value: object, names: _Names) -> None:
    if value is None:
        refuse_field("input", "is required", "missing_required_parameter")
    if isinstance(value, str):
        draft.turns.user(content_blocks(value, "input"), plain=True)
        return
    for index, item in enumerate(a_list(value, "input")):
        where = f"input[{index}]"
        _collect_item(draft, an_object(item, where), where, names)


def _collect_item(draft: RequestDraft, item: Json, where: str, names: _Names) -> None:
    match item.get("type", "message"):
        case "message":
            _collect_message(draft, item, where)
        case "function_call" | "custom_tool_call" as kind:
            draft.turns.assistant([_tool_use(draft, item, where, names, custom=kind == "custom_tool_call")])
        case "function_call_output" | "custom_tool_call_output":
            output = output_content(item.get("output"), f"{where}.output", draft.mended)
            draft.turns.result(tool_result(a_name(item.get("call_id"), f"{where}.call_id"), output))
        case "reasoning":
            # Somebody else's reasoning cannot be read; without it the conversation is still whole.
            block = opened(item.get("encrypted_content"), draft.model)
            draft.turns.assistant([block] if block else [])
        case "item_reference":
            unsupported(where, "this relay stores no items; send the item itself")
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


def _tool_use(draft: RequestDraft, item: Json, where: str, names: _Names, *, custom: bool) -> Json:
    namespace = item.get("namespace")
    name = a_name(item.get("name"), f"{where}.name")
    if custom:
        given: Json = {"input": a_text(item.get("input"), f"{where}.input")}
    else:
        given = arguments(item.get("arguments"), draft.mended)
    return {
        "type": "tool_use",
        "id": tool_id(a_name(item.get("call_id"), f"{where}.call_id")),
        "name": names.upstream(name, namespace if isinstance(namespace, str) else ""),
        "input": given,
    }


# --- tools


def _collect_tools(draft: RequestDraft, value: object, names: _Names) -> None:
    for index, item in enumerate(a_list(value or [], "tools")):
        where = f"tools[{index}]"
        tool = an_object(item, where)
        if tool.get("type") == "namespace":
            namespace = a_name(tool.get("name"), f"{where}.name")
            for inner, part in enumerate(a_list(tool.get("tools"), f"{where}.tools")):
                at = f"{where}.tools[{inner}]"
                _collect_tool(draft, an_object(part, at), at, names, namespace)
        else:
            _collect_tool(draft, tool, where, names, "")


def _collect_tool(draft: RequestDraft, tool: Json, where: str, names: _Names, namespace: str) -> None:
    match tool.get("type"):
        case "function" | "custom" as kind:
            name = names.learn(a_name(tool.get("name"), f"{where}.name"), namespace, kind == "custom")
            made = function_tool(_free_text(tool) if kind == "custom" else tool, where, name)
            draft.tools.append(made)
        case str() as kind if kind.startswith(_DISPENSABLE_TOOLS):
            draft.ignored.append(f"tools.{next(name for name in _DISPENSABLE_TOOLS if kind.startswith(name))}")
        case kind:
            unsupported(f"{where}.type", f"tools of type {shown(kind)} are not possible here")


def _free_text(tool: Json) -> Json:
    """A custom tool as a function of one string. A grammar cannot be enforced; the model is told of it."""
    description = tool.get("description") if isinstance(tool.get("description"), str) else ""
    shape = tool.get("format")
    if isinstance(shape, dict) and isinstance(shape.get("definition"), str):
        description = f"{description}\n\nThe input follows this {shape.get('syntax')} grammar:\n{shape['definition']}"
    text = {"type": "string", "description": "The tool's whole input, as it is."}
    parameters = {"type": "object", "properties": {"input": text}, "required": ["input"]}
    return {"description": (description or "").strip(), "parameters": parameters}


def _collect_choice(draft: RequestDraft, value: object, names: _Names) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        draft.choice = named_choice(value, "tool_choice")
        return
    match value.get("type"):
        case "function" | "custom":
            draft.choice = {"type": "tool", "name": _chosen(value, "tool_choice", names)}
        case "allowed_tools":
            tools = a_list(value.get("tools"), "tool_choice.tools")
            allowed = [
                _chosen(an_object(tool, f"tool_choice.tools[{index}]"), f"tool_choice.tools[{index}]", names)
                for index, tool in enumerate(tools)
            ]
            draft.tools = [tool for tool in draft.tools if tool["name"] in allowed]
            draft.choice = named_choice(value.get("mode"), "tool_choice.mode")
        case kind:
            unsupported("tool_choice.type", f"tools of type {shown(kind)} are not possible here")


def _chosen(tool: Json, where: str, names: _Names) -> str:
    namespace = tool.get("namespace")
    return names.upstream(a_name(tool.get("name"), f"{where}.name"), namespace if isinstance(namespace, str) else "")
