"""The Responses dialect, requests: OpenAI's words to a Claude API body.

Rule: as in chat.py. No response and no conversation is kept between calls: what refers to one (previous_response_id,
conversation, background) is refused. Items are kept for a while for clients that leave them here, by whoever serves
the call (kept_items.py); to this module a reference is an item like another, or one that is missing.

Theory: items fill the same Draft as Chat's messages: responses_input.py, responses_tools.py. Thinking travels in a
reasoning item's `encrypted_content`, which clients send back untouched: reasoning.py. Two paths beside the answer's own
read the same body: one asks for a summary of it (compaction.py), one for the count of its tokens.
Source: OpenAI API reference, "Create a model response", "Compact a response", "Get input token counts"; types of the
`openai` SDK 3.54; what Codex 0.169 sends.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from relayd.noun import noun
from relayd.wire.call import NO_ALIASES, Call, Endpoint, Language, Reply, Translator
from relayd.wire.capabilities import capabilities
from relayd.wire.http import HeaderPairs, RequestHead
from relayd.wire.openai import shapes as openai_shapes
from relayd.wire.openai.fields import (
    Json,
    a_choice,
    a_flag,
    a_list,
    a_number,
    a_text,
    an_object,
    decode_object,
    header_words,
    unsupported,
)
from relayd.wire.openai.parts import text_blocks
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
    named_session,
    only_counted,
)
from relayd.wire.openai.responses_answer import ResponsesTranslator
from relayd.wire.openai.responses_input import ask_for_summary, collect_input
from relayd.wire.openai.responses_tools import ToolNames, collect_choice, collect_tools
from relayd.wire.openai.shapes import Hints, Purpose, refuse
from relayd.wire.openai.turns import made_id
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


@noun(kw_only=True)
class ResponsesDialect:
    """Responses, without server state.

    Args:
        purpose: "answer", "compact" or "count": which of the paths it is.
    """

    purpose: Purpose = "answer"

    @property
    def name(self) -> str:
        return "openai-responses"

    @property
    def endpoint(self) -> Endpoint:
        return "count_tokens" if self.purpose == "count" else "messages"

    @property
    def language(self) -> Language:
        return "openai"

    def parse(
        self, head: RequestHead, body: bytes, *, now: float = 0.0, aliases: Mapping[str, str] = NO_ALIASES
    ) -> Call:
        """Read a call. See ChatDialect.parse. Raises: Refusal (400) that names the field."""
        try:
            return _call(decode_object(body), now, aliases, self.purpose)
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
OPENAI_COMPACT = ResponsesDialect(purpose="compact")
OPENAI_COUNT = ResponsesDialect(purpose="count")


def _call(fields: Json, now: float, aliases: Mapping[str, str], purpose: Purpose) -> Call:
    model, effort = collect_model(aliases, fields)
    _refuse_impossible(fields)
    stream = purpose == "answer" and a_flag(fields, "stream")
    draft = RequestDraft(
        model=model, stream=stream, able=capabilities(aliases.get(model, model)), effort=effort, purpose=purpose
    )
    names = ToolNames()
    instructions = fields.get("instructions")
    if instructions is not None:
        draft.turns.system.extend(text_blocks(a_text(instructions, "instructions"), "instructions"))
    collect_tools(draft, fields.get("tools"), names)
    changed = collect_input(draft, fields.get("input"), names)
    collect_choice(draft, fields.get("tool_choice"), names)
    _collect_rest(draft, fields)
    _collect_settings(draft, changed)
    if draft.purpose in ("checkpoint", "compact"):
        ask_for_summary(draft)
    asked = draft.max_tokens
    body = draft.settle("reasoning.effort")
    encoded = encode_body(only_counted(body) if purpose == "count" else body)
    return Call(
        endpoint="count_tokens" if purpose == "count" else "messages",
        language="openai",
        path="/v1/messages/count_tokens" if purpose == "count" else "/v1/messages",
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
            purpose=draft.purpose,
            store=fields.get("store") is not False,
            echo=_kept_items(fields) if purpose == "compact" else _echo(fields),
        ),
    )


def _refuse_impossible(fields: Json) -> None:
    for name, why in _STATEFUL.items():
        if fields.get(name):  # "" and {} name nothing
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


def _kept_items(fields: Json) -> bytes:
    """What a compacted conversation keeps as it is: what the user said. Source: types of the `openai` SDK, compact."""
    given = fields.get("input")
    items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given or []
    kept = [item for item in items if item.get("role") == "user" and (item.get("type") or "message") == "message"]
    return msgspec.json.encode([_output_message(item, index) for index, item in enumerate(kept)])


def _output_message(item: Json, index: int) -> Json:
    """A message of the user's as an item of an answer: with a name, a status, and its content in parts."""
    content = item.get("content")
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content or []
    return {"id": f"msg_kept_{index}", "status": "completed", **item, "type": "message", "content": parts}


def _collect_settings(draft: RequestDraft, changed: Json) -> None:
    """What the input changes midway (configuration_update); the last word holds for the answer."""
    collect_effort(draft, (changed.get("reasoning") or {}).get("effort"), "input.reasoning.effort")
    text = changed.get("text")
    if text is not None:
        draft.format = _format(an_object(text, "input.text").get("format"))


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
