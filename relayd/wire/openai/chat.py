"""The Chat Completions dialect, requests: OpenAI's words to a Claude API body.

Rule: all that was said is kept, in order; what cannot be kept is refused (400, naming the field) where ignoring it
would be a lie, else named in the answer's `relayd-ignored` header.

Theory: one pass over the messages fills a Draft, which `settle` reconciles with what the model can do. The answer's
way back is chat_answer.py, told by Hints.
Source: OpenAI API reference, "Create chat completion"; types of the `openai` SDK 3.54.

Choices where the two APIs differ: audio, n > 1 and logprobs are refused; a temperature above 1 is 1; JSON mode without
a schema is asked for in a system line. A history that the API would refuse is mended (pairing.py), since the client
cannot help it, and named in `relayd-mended`.
"""

from __future__ import annotations

from collections.abc import Mapping

from relayd.noun import noun
from relayd.wire.call import NO_ALIASES, Call, Endpoint, Language, Reply, Translator
from relayd.wire.capabilities import capabilities
from relayd.wire.http import HeaderPairs, RequestHead
from relayd.wire.openai import shapes as openai_shapes
from relayd.wire.openai.chat_answer import ChatTranslator
from relayd.wire.openai.chat_messages import collect_messages
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
from relayd.wire.openai.request import (
    AnswerFormat,
    RequestDraft,
    collect_cap,
    collect_common,
    collect_effort,
    collect_ignored,
    collect_model,
    collect_reasoning,
    collect_stop,
    collect_unknown,
    encode_body,
    function_tool,
    named_session,
)
from relayd.wire.openai.shapes import Hints, refuse
from relayd.wire.openai.turns import made_id
from relayd.wire.openai.web_search import SEARCHES, search_tool
from relayd.wire.peek import wide_bytes
from relayd.wire.refusal import Refusal

# Without a counterpart, and what OpenAI does when they are absent.
_IGNORED: dict[str, object] = {
    "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": None, "seed": None, "metadata": None, "store": False,
    "prediction": None, "verbosity": "medium", "service_tier": "auto", "moderation": None,
    "prompt_cache_options": None, "prompt_cache_retention": None,
}  # fmt: skip
_KNOWN = frozenset(_IGNORED) | {
    "messages", "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "top_k", "stop", "n", "logprobs", "top_logprobs", "audio", "modalities", "tools", "tool_choice", "functions",
    "function_call", "parallel_tool_calls", "response_format", "reasoning_effort", "thinking", "cache_control", "user",
    "web_search_options", "safety_identifier", "prompt_cache_key", "include_reasoning", "reasoning",
}  # fmt: skip


@noun(kw_only=True)
class ChatDialect:
    """Chat Completions.

    Args:
        reasoning: whether thinking is shown, as `reasoning_content`: not a field of OpenAI's, but what DeepSeek's API
            began and most clients read. A request can turn it off with `include_reasoning: false`.
    """

    reasoning: bool = True

    @property
    def name(self) -> str:
        return "openai-chat"

    @property
    def endpoint(self) -> Endpoint:
        return "messages"

    @property
    def language(self) -> Language:
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
        """A refusal in the form of OpenAI's errors."""
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
    model, effort = collect_model(aliases, fields)
    able = capabilities(aliases.get(model, model))
    draft = RequestDraft(model=model, stream=a_flag(fields, "stream"), able=able, effort=effort)
    draft.show_thinking = reasoning and a_flag(fields, "include_reasoning", default=True)
    _refuse_impossible(fields)
    collect_messages(draft, fields.get("messages"))
    legacy = _collect_tools(draft, fields)
    _collect_rest(draft, fields)
    asked = draft.max_tokens
    body = draft.settle()
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
            include_usage=_include_usage(fields),
            reasoning=draft.show_thinking,
            unwrap=draft.unwrap,
            legacy=legacy,
            ignored=header_words(draft.ignored),
            mended=header_words(draft.mended),
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
    collect_cap(draft, fields, "max_completion_tokens", "max_tokens")
    collect_stop(draft, fields.get("stop"))
    collect_reasoning(draft, fields.get("reasoning"))
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
        tool, where = an_object(item, f"tools[{index}]"), f"tools[{index}]"
        kind = tool.get("type")
        searches = isinstance(kind, str) and kind.startswith(SEARCHES)
        made = search_tool(draft, tool, where) if searches else _tool(tool, where)
        draft.tools += [made] if made else []
    options = fields.get("web_search_options")
    if options is not None and all(tool.get("name") != SEARCHES for tool in draft.tools):
        found = search_tool(draft, an_object(options, "web_search_options"), "web_search_options")
        draft.tools += [found] if found else []
    _collect_choice(draft, fields.get("tool_choice"))
    return False


def _tool(tool: Json, where: str) -> Json:
    """A tool as Chat nests it, flat as in Responses, or in the Claude API's own form: clients mix them."""
    if tool.get("type") not in ("function", "custom", None) or "custom" in tool:
        unsupported(f"{where}.type", f"only function tools are understood, not {shown(tool.get('type'))}")
    if "function" not in tool and "name" in tool:
        parameters = tool.get("parameters") if tool.get("input_schema") is None else tool["input_schema"]
        return function_tool({**tool, "parameters": parameters}, where, a_name(tool["name"], f"{where}.name"))
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
        case "function" | "tool":
            draft.choice = {"type": "tool", "name": _function_name(value, "tool_choice")}
        case "auto" | "none" | "any" | "required" as word:
            draft.choice = {"type": "any" if word == "required" else word}
            draft.parallel = draft.parallel and value.get("disable_parallel_tool_use") is not True
        case "allowed_tools":
            allowed = an_object(value.get("allowed_tools"), "tool_choice.allowed_tools")
            where = "tool_choice.allowed_tools"
            tools = a_list(allowed.get("tools"), f"{where}.tools")
            names = [
                _function_name(an_object(tool, f"{where}.tools[{index}]"), f"{where}.tools[{index}]")
                for index, tool in enumerate(tools)
            ]
            draft.tools = [tool for tool in draft.tools if tool["name"] in names]
            draft.choice = named_choice(allowed.get("mode"), f"{where}.mode")
        case kind:
            refuse_field("tool_choice.type", f"unknown choice {shown(kind)}")


def _function_name(tool: Json, where: str) -> str:
    """The function that is named, nested as in Chat or flat."""
    if "function" not in tool and "name" in tool:
        return a_name(tool["name"], f"{where}.name")
    return a_name(an_object(tool.get("function"), f"{where}.function").get("name"), f"{where}.function.name")


def named_choice(value: object, where: str) -> Json:
    """A tool_choice that is one word."""
    word = a_choice(value, where, ("auto", "none", "required"))
    return {"type": "any" if word == "required" else word}
