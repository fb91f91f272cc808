"""The Chat Completions dialect, requests: OpenAI's words to a Claude API body.

Rule: all that was said is kept, in order; what cannot be kept is refused (400, naming the field) where ignoring it
would be a lie, else named in the answer's `relayd-ignored` header.

Theory: one pass over the messages fills a Draft, which `settle` reconciles with what the model can do. The answer's
way back is openai_chat_answer.py, told by Hints.
Source: OpenAI API reference, "Create chat completion"; types of the `openai` SDK 3.54.

Choices where the two APIs differ: audio, n > 1 and logprobs are refused; a temperature above 1 is 1; JSON mode without
a schema is asked for in a system line; arguments that are no JSON object are refused, since a tool_use must have one.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import msgspec

from relayd.wire.call import NO_ALIASES, Call, Endpoint, Reply, Translator
from relayd.wire.capabilities import capabilities
from relayd.wire.http import HeaderPairs, RequestHead
from relayd.wire.openai import shapes as openai_shapes
from relayd.wire.openai.chat_answer import ChatTranslator
from relayd.wire.openai.fields import (
    Json,
    a_choice,
    a_count,
    a_flag,
    a_list,
    a_name,
    a_number,
    an_object,
    decode_object,
    header_words,
    refuse_field,
    shown,
    unsupported,
)
from relayd.wire.openai.parts import Blocks, content_blocks, text_block, text_blocks
from relayd.wire.openai.request import (
    AnswerFormat,
    RequestDraft,
    collect_common,
    collect_effort,
    collect_ignored,
    collect_stop,
    collect_unknown,
    function_tool,
)
from relayd.wire.openai.shapes import Hints, refuse
from relayd.wire.openai.turns import arguments, conversation_of, made_id, tool_id, tool_result
from relayd.wire.peek import wide_bytes
from relayd.wire.refusal import Refusal

# Without a counterpart, and what OpenAI does when they are absent.
_IGNORED: dict[str, object] = {
    "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": None, "seed": None, "metadata": None, "store": False,
    "prediction": None, "verbosity": "medium", "service_tier": "auto", "moderation": None, "web_search_options": None,
    "prompt_cache_options": None, "prompt_cache_retention": None,
}  # fmt: skip
_KNOWN = frozenset(_IGNORED) | {
    "messages", "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "top_k", "stop", "n", "logprobs", "top_logprobs", "audio", "modalities", "tools", "tool_choice", "functions",
    "function_call", "parallel_tool_calls", "response_format", "reasoning_effort", "thinking", "cache_control", "user",
    "safety_identifier", "prompt_cache_key", "include_reasoning",
}  # fmt: skip


@attrs.frozen(kw_only=True)
class ChatDialect:
    """Chat Completions.

    Args:
        reasoning: whether thinking is shown, as `reasoning_content`: no field of OpenAI's, but what DeepSeek's API
            began and most clients read. A request can turn it off with `include_reasoning: false`.
    """

    reasoning: bool = True

    @property
    def name(self) -> str:
        return "openai-chat"

    @property
    def endpoint(self) -> Endpoint:
        return "openai"

    def parse(
        self, head: RequestHead, body: bytes, *, now: float = 0.0, aliases: Mapping[str, str] = NO_ALIASES
    ) -> Call:
        """Read a call.

        Args:
            now: Unix time, s: the answer's `created`.
            aliases: model names of the operator's; they say what the model can do, and stay as they are in the body.

        Raises: Refusal (400) that names the field.
        """
        try:
            return _call(decode_object(body), now, aliases, self.reasoning)
        except RecursionError:
            raise Refusal(status=400, message="the request body is nested too deeply", code="invalid_json") from None

    def refuse(self, refusal: Refusal, request_id: str) -> Reply:
        """Our "no" in OpenAI's words."""
        return refuse(refusal, request_id)

    def translator(self, call: Call) -> Translator:
        """How the answer to a call of `parse` is put."""
        hints = call.reply_hints
        return ChatTranslator(hints=hints if isinstance(hints, Hints) else Hints(model=call.model))

    def upstream_headers(self, head: RequestHead) -> HeaderPairs:
        """See openai_shapes.upstream_headers."""
        return openai_shapes.upstream_headers(head)


OPENAI_CHAT = ChatDialect()


def _call(fields: Json, now: float, aliases: Mapping[str, str], reasoning: bool) -> Call:
    model = a_name(fields.get("model"), "model")
    draft = RequestDraft(model=model, stream=a_flag(fields, "stream"), able=capabilities(aliases.get(model, model)))
    draft.show_thinking = reasoning and a_flag(fields, "include_reasoning", default=True)
    _refuse_impossible(fields)
    _collect_messages(draft, fields.get("messages"))
    legacy = _collect_tools(draft, fields)
    _collect_rest(draft, fields)
    asked = draft.max_tokens
    body = draft.settle()
    encoded = msgspec.json.encode(body)
    return Call(
        endpoint="openai",
        model=model,
        stream=draft.stream,
        max_tokens=asked if asked is None else draft.max_tokens,
        room=body["max_tokens"],
        wide=wide_bytes(encoded),
        user_id=draft.user_id,
        conversation=conversation_of(
            fields.get("prompt_cache_key"),
            msgspec.json.encode([body.get("system"), body.get("tools")]),
            msgspec.json.encode(body["messages"][0]),
        ),
        body=encoded,
        reply_hints=Hints(
            model=model,
            created=int(now),
            ident=made_id(encoded, now),
            include_usage=_include_usage(fields),
            reasoning=draft.show_thinking,
            unwrap=draft.unwrap,
            legacy=legacy,
            ignored=header_words(draft.ignored),
        ),
    )


def _refuse_impossible(fields: Json) -> None:
    if (a_count(fields, "n") or 1) > 1:
        unsupported("n", "only one choice a call is possible; ask several times instead")
    if a_flag(fields, "logprobs") or (a_number(fields, "top_logprobs", 0, 20) or 0) > 0:
        unsupported("logprobs", "the models behind this relay do not give them")
    modalities = fields.get("modalities")
    if fields.get("audio") is not None or (isinstance(modalities, list) and "audio" in modalities):
        unsupported("audio", "the models behind this relay do not speak")


def _include_usage(fields: Json) -> bool:
    options = fields.get("stream_options")
    return options is not None and an_object(options, "stream_options").get("include_usage") is True


def _collect_rest(draft: RequestDraft, fields: Json) -> None:
    collect_common(draft, fields)
    newer, older = a_count(fields, "max_completion_tokens"), a_count(fields, "max_tokens")
    draft.max_tokens = older if newer is None else newer
    collect_stop(draft, fields.get("stop"))
    collect_effort(draft, fields.get("reasoning_effort"), "reasoning_effort")
    draft.format = _format(fields.get("response_format"))
    collect_ignored(draft, fields, _IGNORED)
    collect_unknown(draft, fields, _KNOWN)


def _format(value: object) -> AnswerFormat | None:
    if value is None:
        return None
    fields = an_object(value, "response_format")
    match a_choice(fields.get("type"), "response_format.type", ("text", "json_object", "json_schema")):
        case "json_schema":
            where = "response_format.json_schema"
            named = an_object(fields.get("json_schema"), where)
            description = named.get("description")
            return AnswerFormat(
                schema=an_object(named.get("schema"), f"{where}.schema"),
                description=description if isinstance(description, str) else "",
            )
        case "json_object":
            return AnswerFormat()
        case _:
            return None


# --- messages


def _collect_messages(draft: RequestDraft, value: object) -> None:
    if value is None:
        refuse_field("messages", "is required", "missing_required_parameter")
    calls: list[str] = []  # ids given to old function_calls, so that their results find them
    for index, item in enumerate(a_list(value, "messages")):
        where = f"messages[{index}]"
        message = an_object(item, where)
        match message.get("role"):
            case "user":
                blocks, plain = _content(message, where)
                draft.turns.user(blocks, plain=plain)
            case "assistant":
                _collect_assistant(draft, message, where, calls)
            case "tool":
                _collect_result(draft, message, a_name(message.get("tool_call_id"), f"{where}.tool_call_id"), where)
            case "system" | "developer":
                draft.turns.system.extend(_marked(text_blocks(message.get("content"), f"{where}.content"), message))
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
    blocks = [] if isinstance(content, str) else content_blocks(content, f"{where}.content")
    result = tool_result(call_id, content, blocks)
    if isinstance(message.get("cache_control"), dict):
        result["cache_control"] = message["cache_control"]
    draft.turns.result(result)


def _collect_assistant(draft: RequestDraft, message: Json, where: str, calls: list[str]) -> None:
    thinking = _thinking_blocks(message, where)
    said, plain = _content(message, where)
    if not said and isinstance(message.get("refusal"), str):
        refusal = text_block(message["refusal"])
        said, plain = ([refusal] if refusal else []), False
    called = _tool_calls(message, where)
    old = message.get("function_call")
    if old is not None:
        calls.append(f"function_{len(calls)}")
        called.append(_tool_use(an_object(old, f"{where}.function_call"), calls[-1], f"{where}.function_call"))
    draft.turns.assistant(thinking + said + called, plain=plain and not thinking and not called)


def _thinking_blocks(message: Json, where: str) -> Blocks:
    """Thinking goes back only with its signature; `reasoning_content` alone has none, and none is invented."""
    given = message.get("thinking_blocks")
    blocks: Blocks = []
    for index, item in enumerate(a_list(given, f"{where}.thinking_blocks") if given else ()):
        block = an_object(item, f"{where}.thinking_blocks[{index}]")
        if block.get("type") == "thinking" and block.get("signature"):
            blocks.append(
                {"type": "thinking", "thinking": block.get("thinking") or "", "signature": block["signature"]}
            )
        elif block.get("type") == "redacted_thinking" and block.get("data"):
            blocks.append({"type": "redacted_thinking", "data": block["data"]})
    return blocks


def _tool_calls(message: Json, where: str) -> Blocks:
    calls = message.get("tool_calls")
    blocks: Blocks = []
    for index, item in enumerate(a_list(calls, f"{where}.tool_calls") if calls else ()):
        at = f"{where}.tool_calls[{index}]"
        call = an_object(item, at)
        if call.get("type", "function") not in ("function", None):
            unsupported(f"{at}.type", f"only function calls are understood, not {shown(call.get('type'))}")
        given = an_object(call.get("function"), f"{at}.function")
        blocks.append(_tool_use(given, a_name(call.get("id"), f"{at}.id"), f"{at}.function"))
    return blocks


def _tool_use(given: Json, call_id: str, where: str) -> Json:
    return {
        "type": "tool_use",
        "id": tool_id(call_id),
        "name": a_name(given.get("name"), f"{where}.name"),
        "input": arguments(given.get("arguments"), f"{where}.arguments"),
    }


# --- tools


def _collect_tools(draft: RequestDraft, fields: Json) -> bool:
    """Tools and the choice among them. Returns whether the form before tools was used."""
    functions = fields.get("functions")
    if functions and not fields.get("tools"):
        for index, item in enumerate(a_list(functions, "functions")):
            where = f"functions[{index}]"
            given = an_object(item, where)
            draft.tools.append(function_tool(given, where, a_name(given.get("name"), f"{where}.name")))
        draft.choice = _function_choice(fields.get("function_call"))
        draft.parallel = False  # that form has room for one call
        return True
    for index, item in enumerate(a_list(fields.get("tools") or [], "tools")):
        draft.tools.append(_tool(an_object(item, f"tools[{index}]"), f"tools[{index}]"))
    _collect_choice(draft, fields.get("tool_choice"))
    return False


def _tool(tool: Json, where: str) -> Json:
    if tool.get("type", "function") != "function":
        unsupported(f"{where}.type", f"only function tools are understood, not {shown(tool.get('type'))}")
    given = an_object(tool.get("function"), f"{where}.function")
    made = function_tool(given, f"{where}.function", a_name(given.get("name"), f"{where}.function.name"))
    if tool.get("cache_control") is not None:
        made["cache_control"] = an_object(tool["cache_control"], f"{where}.cache_control")
    return made


def _function_choice(value: object) -> Json | None:
    if isinstance(value, dict):
        return {"type": "tool", "name": a_name(value.get("name"), "function_call.name")}
    return None if value is None else {"type": a_choice(value, "function_call", ("auto", "none"))}


def _collect_choice(draft: RequestDraft, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        draft.choice = named_choice(value, "tool_choice")
        return
    match value.get("type"):
        case "function":
            given = an_object(value.get("function"), "tool_choice.function")
            draft.choice = {"type": "tool", "name": a_name(given.get("name"), "tool_choice.function.name")}
        case "allowed_tools":
            allowed = an_object(value.get("allowed_tools"), "tool_choice.allowed_tools")
            where = "tool_choice.allowed_tools"
            tools = a_list(allowed.get("tools"), f"{where}.tools")
            names = [_allowed_name(tool, f"{where}.tools[{index}]") for index, tool in enumerate(tools)]
            draft.tools = [tool for tool in draft.tools if tool["name"] in names]
            draft.choice = named_choice(allowed.get("mode"), f"{where}.mode")
        case kind:
            refuse_field("tool_choice.type", f"unknown choice {shown(kind)}")


def _allowed_name(tool: object, where: str) -> str:
    given = an_object(tool, where)
    return a_name(an_object(given.get("function"), f"{where}.function").get("name"), f"{where}.function.name")


def named_choice(value: object, where: str) -> Json:
    """A tool_choice that is one word."""
    word = a_choice(value, where, ("auto", "none", "required"))
    return {"type": "any" if word == "required" else word}
