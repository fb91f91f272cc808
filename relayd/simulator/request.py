"""Messages requests: what a body asks for, checked the way the API checks it.

Rule: whatever bytes come, the outcome is a MessageRequest or a Refusal. Fields that are not read here are accepted,
whatever they hold: new fields appear in the API every month. Wordings follow the API's where clients look at them.
Source: API docs, "Messages" and "Errors"; behaviour of the reference SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from relayd.noun import noun
from relayd.simulator.catalog import JsonObject
from relayd.simulator.turns import check_pairs
from relayd.wire.openai.schema import JSON_ONLY
from relayd.wire.refusal import Refusal

MAX_BODY = 32 << 20  # bytes, Messages and token counting. Source: API docs, "Request size limits"
MAX_MESSAGES = 100_000  # Source: API reference, `messages`
MIN_THINKING = 1024  # tokens of `budget_tokens`. Source: API docs, "Extended thinking"
ROLES = ("user", "assistant", "system")
CHOICES = ("auto", "any", "tool", "none")
SAMPLING = ("temperature", "top_p", "top_k")
NO_SAMPLING_VERSION = b"2026-10-21"  # from this API version on, sampling parameters are refused
# With it the thinking budget is that of a whole turn with its tool calls, and may exceed max_tokens. Source: API docs,
# "Extended thinking", "Interleaved thinking".
INTERLEAVED = b"interleaved-thinking-2025-05-14"
# What an answer is made of where a system prompt asks for a JSON object and gives no schema.
ANY_OBJECT: JsonObject = {
    "type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"],
}  # fmt: skip


@noun(kw_only=True)
class MessageRequest:
    """A checked Messages request: the parts that shape an answer.

    Args:
        said: the last text block of the last user turn; "" without one.
        results: texts of the tool results that end the conversation.
        answered: whether an assistant turn precedes, so that a cache would be warm.
        forced: tool_choice is "any" or "tool".
        prompt: tools, system and messages as they came, for the token count.
    """

    model: str
    max_tokens: int
    stream: bool
    said: str
    results: tuple[str, ...]
    answered: bool
    tools: tuple[JsonObject, ...]
    choice: str
    chosen: str
    parallel: bool
    thinking: bool
    shown: bool
    schema: JsonObject | bool | None
    stops: tuple[str, ...]
    prompt: JsonObject = attrs.field(repr=False)

    @property
    def forced(self) -> bool:
        return self.choice in ("any", "tool")


def bad(message: str) -> Refusal:
    """A 400."""
    return Refusal(status=400, message=message)


def decode(body: bytes) -> JsonObject:
    """The JSON object in `body`. Raises: Refusal (413, 400)."""
    if len(body) > MAX_BODY:
        raise Refusal(status=413, message="Request exceeds the maximum size")
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise bad("The request body is not valid JSON: it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise bad(f"The request body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad("The request body is not a JSON object")
    return value


def parse_request(
    body: JsonObject, version: bytes = b"", *, betas: bytes = b"", counting: bool = False
) -> MessageRequest:
    """Check a Messages body, or one for token counting, which needs no max_tokens. Raises: Refusal (400, 404).

    Args:
        betas: the `anthropic-beta` header, its values joined by commas.
    """
    model = _model(body)
    _thread(body)
    messages = _messages(body)
    _system(body)
    tools = _tools(body)
    choice, chosen, parallel = _choice(body, tools)
    max_tokens = 0 if counting else _max_tokens(body)
    interleaved = INTERLEAVED in betas
    thinking, shown = _thinking(body, None if counting or interleaved else max_tokens)
    if thinking and choice in ("any", "tool"):
        raise bad("Thinking may not be enabled when tool_choice forces tool use.")
    _sampling(body, version)
    said, results = _last_turn(messages)
    return MessageRequest(
        model=model,
        max_tokens=max_tokens,
        stream=_flag(body, "stream"),
        said=said,
        results=results,
        answered=any(message["role"] == "assistant" for message in messages),
        tools=tools,
        choice=choice,
        chosen=chosen,
        parallel=parallel,
        thinking=thinking,
        shown=shown,
        schema=_schema(body),
        stops=_stops(body),
        prompt=body,
    )


def _model(body: JsonObject) -> str:
    if "model" not in body:
        raise bad("model: Field required")
    model = body["model"]
    if not isinstance(model, str):
        raise bad("model: Input should be a valid string")
    if not 1 <= len(model) <= 256:
        raise bad("model: String should have 1 to 256 characters")
    if model.startswith("claude-unknown"):
        raise Refusal(status=404, message=f"model: {model}")
    return model


def _thread(body: JsonObject) -> None:
    """No conversation is kept here: the SDKs' tool runners then go on with the whole of it in each request."""
    if body.get("thread") is not None:
        raise Refusal(
            status=400,
            message="thread: not supported here. Send the full conversation without `thread`.",
            error_code="thread_unsupported_request",
        )


def _max_tokens(body: JsonObject) -> int:
    if "max_tokens" not in body:
        raise bad("max_tokens: Field required")
    value = body["max_tokens"]
    if not isinstance(value, int) or isinstance(value, bool):
        raise bad("max_tokens: Input should be a valid integer")
    if value < 0:
        raise bad("max_tokens: Input should be greater than or equal to 0")
    return value


def _flag(body: JsonObject, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad(f"{name}: Input should be a valid boolean")
    return bool(value)


def _messages(body: JsonObject) -> list[JsonObject]:
    if "messages" not in body:
        raise bad("messages: Field required")
    messages = body["messages"]
    if not isinstance(messages, list):
        raise bad("messages: Input should be a valid list")
    if not messages:
        raise bad("messages: at least one message is required")
    if len(messages) > MAX_MESSAGES:
        raise bad(f"messages: at most {MAX_MESSAGES} messages are allowed")
    for index, message in enumerate(messages):
        _message(message, f"messages.{index}", last=index == len(messages) - 1)
    check_pairs(messages)
    return messages


def _message(message: object, path: str, *, last: bool) -> None:
    if not isinstance(message, dict):
        raise bad(f"{path}: Input should be a valid dictionary")
    if "role" not in message:
        raise bad(f"{path}.role: Field required")
    role = message["role"]
    if role not in ROLES:
        raise bad(f"{path}.role: Input should be 'user', 'assistant' or 'system'")
    if "content" not in message:
        raise bad(f"{path}.content: Field required")
    content = message["content"]
    if not content and content in ("", []) and not (last and role == "assistant"):
        raise bad(f"{path}: all messages must have non-empty content except for the optional final assistant message")
    _content(content, f"{path}.content")
    if last and role == "assistant" and _final_text(content) != _final_text(content).rstrip():
        raise bad("messages: final assistant content cannot end with trailing whitespace")


def _final_text(content: Any) -> str:
    block = content[-1] if isinstance(content, list) and content else content
    text = block.get("text", "") if isinstance(block, dict) else block
    return text if isinstance(text, str) else ""


def _content(content: object, path: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise bad(f"{path}: Input should be a valid string or list")
    for index, block in enumerate(content):
        _block(block, f"{path}.{index}")


def _block(block: object, path: str) -> None:
    if not isinstance(block, dict):
        raise bad(f"{path}: Input should be a valid dictionary")
    kind = block.get("type")
    if not isinstance(kind, str):
        raise bad(f"{path}.type: Field required")
    if kind == "text":
        if not isinstance(block.get("text"), str):
            raise bad(f"{path}.text: Input should be a valid string")
        if not block["text"]:
            raise bad("messages: text content blocks must be non-empty")


def _system(body: JsonObject) -> None:
    system = body.get("system")
    if system is not None:
        _content(system, "system")


def _tools(body: JsonObject) -> tuple[JsonObject, ...]:
    tools = body.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise bad("tools: Input should be a valid list")
    names = set()
    for index, tool in enumerate(tools):
        name = _tool(tool, f"tools.{index}")
        if name and name in names:
            raise bad("tools: Tool names must be unique.")
        names.add(name)
    return tuple(tools)


def _tool(tool: object, path: str) -> str:
    """The name; "" for a tool of the API's own that has none."""
    if not isinstance(tool, dict):
        raise bad(f"{path}: Input should be a valid dictionary")
    name = tool.get("name", "")
    if not isinstance(name, str):
        raise bad(f"{path}.name: Input should be a valid string")
    if tool.get("type") in (None, "custom"):
        if not name:
            raise bad(f"{path}.name: Field required")
        schema = tool.get("input_schema")
        if not isinstance(schema, dict):
            raise bad(f"{path}.input_schema: Field required")
        if schema.get("type") != "object":
            raise bad(f"{path}.input_schema.type: Input should be 'object'")
    return name


def _choice(body: JsonObject, tools: tuple[JsonObject, ...]) -> tuple[str, str, bool]:
    choice = body.get("tool_choice")
    if choice is None:
        return "auto", "", True
    if not isinstance(choice, dict) or choice.get("type") not in CHOICES:
        raise bad("tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    kind, name = choice["type"], choice.get("name", "")
    if not tools and kind != "none":
        raise bad("tool_choice: may only be specified while providing tools")
    if kind == "tool" and name not in [tool.get("name") for tool in tools]:
        raise bad(f"tool_choice: tool {str(name)[:64]!r} not found in provided tools")
    return kind, name if kind == "tool" else "", not _flag(choice, "disable_parallel_tool_use")


def _thinking(body: JsonObject, max_tokens: int | None) -> tuple[bool, bool]:
    """Whether to think, and whether the thinking is shown."""
    thinking = body.get("thinking")
    if thinking is None:
        return False, False
    if not isinstance(thinking, dict) or not isinstance(thinking.get("type"), str):
        raise bad("thinking.type: Field required")
    if thinking["type"] == "enabled":
        _budget(thinking.get("budget_tokens"), max_tokens)
    return thinking["type"] in ("enabled", "adaptive"), thinking.get("display") != "omitted"


def _budget(budget: object, max_tokens: int | None) -> None:
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise bad("thinking.enabled.budget_tokens: Field required")
    if budget < MIN_THINKING:
        raise bad(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {MIN_THINKING}")
    if max_tokens is not None and budget >= max_tokens:
        raise bad("`max_tokens` must be greater than `thinking.budget_tokens`.")


def _sampling(body: JsonObject, version: bytes) -> None:
    if version == NO_SAMPLING_VERSION:
        for name in SAMPLING:
            if body.get(name) is not None:
                raise bad(f"{name}: not supported with anthropic-version {version.decode()}")


def _schema(body: JsonObject) -> JsonObject | bool | None:
    """The schema of a structured output; `output_format` is the name it had in its beta."""
    config = body.get("output_config")
    if config is not None and not isinstance(config, dict):
        raise bad("output_config: Input should be a valid dictionary")
    path = "output_config.format" if config and config.get("format") is not None else "output_format"
    wanted = (config or {}).get("format") or body.get("output_format")
    if wanted is None:
        return ANY_OBJECT if _asks_for_json(body.get("system")) else None
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        raise bad(f"{path}.type: Input should be 'json_schema'")
    schema = wanted.get("schema")
    if not isinstance(schema, dict | bool):
        raise bad(f"{path}.schema: Field required")
    return schema


def _asks_for_json(system: Any) -> bool:
    """Whether the system prompt has the line by which relayd asks for `json_object`."""
    return any(JSON_ONLY in block.get("text", "") for block in blocks_of(system or []))


def _stops(body: JsonObject) -> tuple[str, ...]:
    stops = body.get("stop_sequences")
    if stops is None:
        return ()
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise bad("stop_sequences: Input should be a valid list of strings")
    if not all(stop.strip() for stop in stops):
        raise bad("stop_sequences: each stop sequence must contain non-whitespace")
    return tuple(stops)


def _last_turn(messages: list[JsonObject]) -> tuple[str, tuple[str, ...]]:
    """The last text a user said, and the tool results that end the conversation."""
    said: str | None = None
    for number, message in enumerate(reversed(messages)):
        if message["role"] != "user":
            continue
        blocks = blocks_of(message["content"])
        texts = [block["text"] for block in blocks if block["type"] == "text"]
        results = tuple(_result_text(block) for block in blocks if block["type"] == "tool_result")
        said = texts[-1] if texts else said
        if results:
            return said or "", results if number == 0 or messages[-1]["role"] == "system" else ()
        if said is not None:
            return said, ()
    return said or "", ()


def blocks_of(content: Any) -> list[JsonObject]:
    """Content as blocks, also where it was written as a string."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _result_text(block: Mapping[str, Any]) -> str:
    content = block.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return " ".join(part for part in parts if isinstance(part, str))
    return ""
