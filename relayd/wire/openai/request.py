"""Translated requests: a Draft before its wishes are reconciled; `settle` makes the Claude API body of it.

Rule: the parsers (chat.py, responses.py) only collect; whatever depends on the model or on another wish is
decided here, once for both dialects. A wish that cannot be met is named in `ignored`, or refused where ignoring it
would be a lie; what was put in order is named in `mended`.

Theory: wishes conflict pairwise, so they are settled in an order in which each looks only at what is settled: answer
format, tool choice, thinking, room for output, sampling.
Source: API docs, "Extended thinking" (compatibility), "Adaptive thinking", "Effort", "Structured outputs".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs
import msgspec

from relayd.noun import noun
from relayd.wire.capabilities import Capabilities
from relayd.wire.openai.fields import (
    Json,
    a_cap,
    a_choice,
    a_count,
    a_list,
    a_name,
    a_number,
    a_text,
    an_object,
    refuse_field,
)
from relayd.wire.openai.schema import JSON_ONLY, by_name, closed, has_empty_lists, input_schema
from relayd.wire.openai.shapes import Purpose
from relayd.wire.openai.turns import Turns

# Room for output when a client names none (OpenAI needs no cap, the Claude API does). Streams get what Claude Code
# takes on mid-size models. A plain call must end within the 10 minutes that SDKs wait, which the official SDKs put at
# 21,333 tokens (3600 s x tokens / 128,000 <= 600 s).
STREAM_TOKENS = 32_000
PLAIN_TOKENS = 20_000

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# Thinking budgets by effort, where a model takes budgets: each step doubles, and the API's least is 1024.
_BUDGET = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
# What to ask for where a model lacks a level: the next one down.
_LOWER = {"minimal": "low", "max": "xhigh", "xhigh": "high"}

_THINKING = "-thinking"

_COUNTED = ("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control")

MAX_STRICT_TOOLS = 20  # the API refuses more. Source: API docs, "Structured outputs", schema complexity limits

ANSWER_TOOL = "structured_answer"

_EMAIL_OR_PHONE = re.compile(r"[^@\s]+@[^@\s]+|\+?[\d\s()-]{7,}")


@noun(kw_only=True)
class AnswerFormat:
    """The JSON that an answer must be. `schema` None: any object."""

    schema: Json | None = None
    description: str = ""


@attrs.define(kw_only=True)
class RequestDraft:
    """Everything a client asked for. `choice` is a tool_choice of the Claude API."""

    model: str
    stream: bool
    able: Capabilities
    mended: list[str] = attrs.field(factory=list)
    turns: Turns = attrs.field(
        default=attrs.Factory(
            lambda draft: Turns(system_turns=draft.able.system_turns, prefill=draft.able.prefill, mended=draft.mended),
            takes_self=True,
        )
    )
    tools: list[Json] = attrs.field(factory=list)
    choice: Json | None = None
    parallel: bool = True
    max_tokens: int | None = None
    cap_name: str = "max_tokens"  # what the client called it
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = attrs.field(factory=list)
    effort: str | None = None
    thinking: Json | None = None  # given outright, as an extra field
    show_thinking: bool = True
    format: AnswerFormat | None = None
    user_id: str = ""
    cache_control: Json | None = None
    ignored: list[str] = attrs.field(factory=list)
    unwrap: str = ""
    purpose: Purpose = "answer"

    def ignore(self, name: str, wish: object) -> None:
        """Name a parameter that has no effect, if it was given at all."""
        if wish is not None:
            self.ignored.append(name)

    def settle(self, effort_name: str = "reasoning_effort") -> Json:
        """The body for the upstream. `effort_name`: what the client's dialect calls the effort."""
        self.turns.close()
        if not self.turns.messages:
            refuse_field("messages", "no user message with any content")
        output = self._settle_format()
        self._settle_choice()
        thinking, effort = self._settle_thinking(effort_name)
        if effort:
            output["effort"] = effort
        body: Json = {"model": self.model, "max_tokens": self._room(thinking), "messages": self.turns.messages}
        if self.turns.system:
            body["system"] = self.turns.system
        if self.tools:
            body["tools"] = self.tools
            if self.choice:
                body["tool_choice"] = self.choice
        if thinking:
            body["thinking"] = thinking
        if output:
            body["output_config"] = output
        body.update(self._settle_sampling(thinking))
        if self.stop:
            body["stop_sequences"] = self.stop
        if self.user_id:
            body["metadata"] = {"user_id": self.user_id}
        if self.cache_control:
            body["cache_control"] = self.cache_control
        if self.stream:
            body["stream"] = True
        return body

    # --- answer format

    def _settle_format(self) -> Json:
        if self.format is None:
            return {}
        if self.able.structured:
            if self.format.schema is not None:
                return {"format": {"type": "json_schema", "schema": closed(self.format.schema)}}
            # The API's own format needs a schema, and a closed one at that: "any object" can only be asked for.
            self.turns.system.append({"type": "text", "text": JSON_ONLY})
        elif self.choice is None or self.choice["type"] != "tool":
            self._force_answer(self.format)
        return {}

    def _force_answer(self, wanted: AnswerFormat) -> None:
        """Older models: a tool whose input is the answer; beside the client's tools the model picks one."""
        free_to_call = bool(self.tools) and (self.choice is None or self.choice["type"] != "none")
        taken = {tool.get("name") for tool in self.tools}
        self.unwrap = ANSWER_TOOL
        while self.unwrap in taken:
            self.unwrap += "_"
        tool = {
            "name": self.unwrap,
            "description": wanted.description or "Gives the answer to the user, as the JSON object that was asked for.",
            "input_schema": input_schema(wanted.schema) if wanted.schema else {"type": "object"},
        }
        self.tools = [*self.tools, tool] if free_to_call else [tool]
        self.choice = {"type": "any"} if free_to_call else {"type": "tool", "name": self.unwrap}

    # --- tools

    def _settle_choice(self) -> None:
        if not self.tools:
            self.choice = None
            return
        self._settle_strict()
        if self._forced and not self.able.forced_tools:
            self.choice = {"type": "auto"}
            self.ignored.append("tool_choice")
        if not self.parallel and (self.choice is None or self.choice["type"] != "none"):
            self.choice = {**(self.choice or {"type": "auto"}), "disable_parallel_tool_use": True}

    @property
    def _forced(self) -> bool:
        return self.choice is not None and self.choice["type"] in ("any", "tool")

    def _settle_strict(self) -> None:
        strict = [tool for tool in self.tools if tool.get("strict")]
        if strict and (not self.able.structured or len(strict) > MAX_STRICT_TOOLS):
            for tool in strict:
                del tool["strict"]
            self.ignored.append("tools.strict")
        elif strict:
            for tool in strict:
                tool["input_schema"] = closed(tool["input_schema"])

    # --- thinking

    def _settle_thinking(self, effort_name: str) -> tuple[Json | None, str | None]:
        """`thinking` and `output_config.effort`."""
        if self.thinking is not None:
            return self.thinking, self._level()
        if self.able.thinking == "budget" and self.effort not in (None, "none"):
            # An earlier call made without thinking, a forced one, or a prefill excludes thinking by budget.
            if self._forced or self.turns.unthought_call() or self.turns.prefilled:
                self.ignore(effort_name, self.effort)
                return None, None
            return {"type": "enabled", "budget_tokens": _BUDGET[self.effort or ""]}, None
        if self.able.thinking in ("none", "budget"):
            self.ignore(effort_name, None if self.effort == "none" else self.effort)
            return None, None
        return self._adaptive(effort_name), self._level()

    def _adaptive(self, effort_name: str) -> Json | None:
        always = self.able.thinking == "always"
        if self.effort == "none":
            if always:
                self.ignored.append(effort_name)
            return None if always else {"type": "disabled"}
        # Unasked, only where a known model thinks anyway and would else keep it to itself.
        if self.effort is None and not (always and self.able.known and self.show_thinking):
            return None
        if self._forced:
            return None  # excluded by the choice of tool; the effort still counts
        # Newer models think unseen unless a summary is asked for.
        return {"type": "adaptive", "display": "summarized"} if self.show_thinking else {"type": "adaptive"}

    def _level(self) -> str | None:
        """The effort that the model has, at most the one asked for."""
        level = self.effort
        if level is None or level == "none" or not self.able.effort:
            return None
        while level not in self.able.effort:
            level = _LOWER[level]
        return level

    # --- room and sampling

    def _room(self, thinking: Json | None) -> int:
        """max_tokens, which includes thinking and must exceed its budget."""
        default = STREAM_TOKENS if self.stream else PLAIN_TOKENS
        room = min(default, self.able.max_output) if self.max_tokens is None else self.max_tokens
        if room > self.able.max_output and self.able.known:
            self.max_tokens = room = self.able.max_output
            self.mended.append(self.cap_name)
        budget = (thinking or {}).get("budget_tokens")
        if isinstance(budget, int) and room <= budget:
            room = max(min(room + budget, self.able.max_output), budget + 1)
            self.max_tokens = None if self.max_tokens is None else room
        return room

    def _settle_sampling(self, thinking: Json | None) -> Json:
        wishes = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        thinks = thinking is not None and thinking.get("type") in ("enabled", "adaptive")
        kept: Json = {}
        for name, wish in wishes.items():
            if wish is None:
                continue
            if self.able.sampling == "no" or (thinks and not _beside_thinking(name, wish)):
                self.ignore(name, None if wish == 1 and name != "top_k" else wish)  # 1 is what holds anyway
            elif name == "top_p" and "temperature" in kept and self.able.sampling == "one":
                self.ignore(name, None if wish == 1 else wish)
            else:
                kept[name] = wish
        return kept


def _beside_thinking(name: str, wish: float) -> bool:
    """Source: API docs, "Extended thinking": temperature 1 only, top_p from 0.95 to 1, no top_k."""
    return wish == 1 if name == "temperature" else name == "top_p" and wish >= 0.95


# --- fields that both dialects have


def collect_common(draft: RequestDraft, fields: Json) -> None:
    """Sampling, identity and the extensions that pass as they are: the same names in both dialects."""
    temperature = a_number(fields, "temperature", 0, 2)
    draft.temperature = None if temperature is None else min(temperature, 1)  # the API's scale ends at 1
    draft.top_p = a_number(fields, "top_p", 0, 1)
    draft.top_k = a_cap(fields, "top_k")
    draft.parallel = draft.parallel and fields.get("parallel_tool_calls") is not False
    for name in ("thinking", "cache_control"):
        if fields.get(name) is not None:
            setattr(draft, name, an_object(fields[name], name))
    _collect_user(draft, fields)


def _collect_user(draft: RequestDraft, fields: Json) -> None:
    """`metadata.user_id` must be opaque: what looks like an address or a phone number stays here."""
    for name in ("safety_identifier", "user"):
        value = fields.get(name)
        if not isinstance(value, str) or not value:
            draft.ignore(name, value or None)
        elif draft.user_id or len(value) > 256 or _EMAIL_OR_PHONE.fullmatch(value):
            draft.ignored.append(name)
        else:
            draft.user_id = value


def collect_model(aliases: Mapping[str, str], fields: Json) -> tuple[str, str | None]:
    """The model, and the effort that its name asks for: "-thinking" behind a name that is not an alias."""
    model = a_name(fields.get("model"), "model")
    if model.endswith(_THINKING) and model not in aliases and model != _THINKING:
        return model.removesuffix(_THINKING), "high"
    return model, None


def collect_reasoning(draft: RequestDraft, value: object) -> None:
    """OpenRouter's `reasoning`: how hard to think, by effort or tokens, and whether to show it.

    Source: OpenRouter docs, "Reasoning tokens". `enabled` alone is medium there.
    """
    if value is None:
        return
    fields = an_object(value, "reasoning")
    if fields.get("exclude") is True:
        draft.show_thinking = False
    budget = a_count(fields, "max_tokens")
    if fields.get("effort") is not None:
        collect_effort(draft, fields["effort"], "reasoning.effort")
    elif fields.get("enabled") is False:
        draft.effort = "none"
    elif budget is not None:
        draft.effort = next((level for level in EFFORTS[2:] if _BUDGET[level] >= budget), "max")
    elif fields.get("enabled") is True:
        draft.effort = "medium"


def collect_cap(draft: RequestDraft, fields: Json, *names: str) -> None:
    """The cap on output tokens, from the first of `names` that gives one."""
    for name in reversed(names):
        cap = a_cap(fields, name)
        if cap is not None:
            draft.max_tokens, draft.cap_name = cap, name


def collect_effort(draft: RequestDraft, value: object, param: str) -> None:
    """reasoning_effort, by whatever name."""
    if value is not None:
        draft.effort = a_choice(value, param, EFFORTS)


def collect_stop(draft: RequestDraft, value: object) -> None:
    """`stop`: a string or several. Empty and blank ones, which the API refuses, could never have matched usefully."""
    if value is None:
        return
    texts = [value] if isinstance(value, str) else a_list(value, "stop")
    for index, text in enumerate(texts):
        if a_text(text, f"stop[{index}]").strip():
            draft.stop.append(text)
        else:
            draft.ignored.append("stop")


def collect_ignored(draft: RequestDraft, fields: Json, defaults: Mapping[str, object]) -> None:
    """Name what has no counterpart, unless it says what happens anyway."""
    for name, default in defaults.items():
        value = fields.get(name)
        if value is not None and value != default and value not in ([], {}, ""):
            draft.ignored.append(name)


def collect_unknown(draft: RequestDraft, fields: Json, known: frozenset[str]) -> None:
    """Name the fields that nobody here has heard of; they are accepted, as clients send many."""
    for name, value in fields.items():
        if name not in known and value is not None:
            draft.ignored.append(name)


def named_session(fields: Json) -> str:
    """`prompt_cache_key`: what ties the calls of one conversation together."""
    key = fields.get("prompt_cache_key")
    return key if isinstance(key, str) else ""


def function_tool(fields: Json, where: str, name: str) -> Json:
    """A custom tool of the Claude API from a function's fields (which Chat nests and Responses does not)."""
    parameters = fields.get("parameters")
    tool: Json = {
        "name": name,
        "input_schema": input_schema(an_object(parameters or {}, f"{where}.parameters")),
    }
    description = fields.get("description")
    if description:
        tool["description"] = a_text(description, f"{where}.description")
    if fields.get("strict") is True:
        tool["strict"] = True
    if fields.get("cache_control") is not None:
        tool["cache_control"] = an_object(fields["cache_control"], f"{where}.cache_control")
    return tool


def encode_body(body: Json) -> bytes:
    """A settled body as JSON, with odd schemas mended wherever in its tools they are."""
    tools = body.get("tools")
    if tools and has_empty_lists(tools):
        body["tools"] = by_name(tools)
    return msgspec.json.encode(body)


def only_counted(body: Json) -> Json:
    """What of a settled body a count of its tokens takes. Source: API reference, "Count Message tokens"."""
    return {name: value for name, value in body.items() if name in _COUNTED}


# --- bodies that are already translated


def lower_max_tokens(body: bytes, cap: int) -> bytes:
    """A translated body with `max_tokens` at most `cap`, its thinking budget kept below that.

    For a key whose `max_tokens` is less than the default that a client without a wish was given.
    """
    fields = msgspec.json.decode(body)
    if fields["max_tokens"] <= cap:
        return body
    fields["max_tokens"] = cap
    thinking = fields.get("thinking") or {}
    if thinking.get("type") == "enabled" and thinking.get("budget_tokens", 0) >= cap:
        if cap > 1024:
            thinking["budget_tokens"] = max(1024, cap // 2)
        else:
            del fields["thinking"]
    return msgspec.json.encode(fields)


def without_thinking(body: bytes) -> bytes | None:
    """A translated body without thinking blocks; None when it has none.

    A turn that goes on from a call cannot think by budget without the thinking that the call began with.
    """
    fields = msgspec.json.decode(body)
    kept: list[Json] = []
    for message in fields["messages"]:
        content = message["content"]
        if isinstance(content, list):
            content = [block for block in content if block["type"] not in ("thinking", "redacted_thinking")]
        if content:
            kept.append({**message, "content": content})
    if kept == fields["messages"]:
        return None
    fields["messages"] = kept
    if (fields.get("thinking") or {}).get("type") == "enabled" and Turns(messages=kept).unthought_call():
        del fields["thinking"]
    return msgspec.json.encode(fields)


def with_cache_mark(body: bytes) -> bytes:
    """A translated body that asks for automatic prompt caching, unless it places its own marks.

    Source: API docs, "Prompt caching", automatic caching: a top-level cache_control marks the last cacheable block.
    """
    if b'"cache_control"' in body:
        return body
    return body[:-1] + b',"cache_control":{"type":"ephemeral"}}'
