"""Builders for the tests of the OpenAI dialects: requests with dull defaults, Claude API answers and streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relayd.wire.call import Call, Translator
from relayd.wire.conversation import conversation
from relayd.wire.http import Headers, RequestHead
from relayd.wire.openai.chat import OPENAI_CHAT
from relayd.wire.openai.responses import OPENAI_RESPONSES

CORPUS = Path(__file__).parents[2] / "corpus" / "openai"
DIALECTS = {"chat": OPENAI_CHAT, "responses": OPENAI_RESPONSES}
NOW = 1795384000.5

SONNET = "claude-sonnet-4-6"  # samples, adaptive thinking, forced tools
HAIKU_45 = "claude-haiku-4-5"  # thinking by budget
OPUS_55 = "claude-opus-5-5"  # no sampling, no forced tools, always thinks
OPUS_47 = "claude-opus-4-7"  # no sampling, adaptive thinking
OPUS_41 = "claude-opus-4-1"  # no structured output
HAIKU_3 = "claude-3-haiku-20240307"  # no thinking at all


def head(*pairs: tuple[bytes, bytes], path: str = "/v1/chat/completions") -> RequestHead:
    return RequestHead(method="POST", target=path, path=path, query="", headers=Headers(list(pairs)))


def parse(dialect: str, request: dict[str, Any], **options: Any) -> Call:
    return DIALECTS[dialect].parse(head(), json.dumps(request).encode(), **{"now": NOW, **options})


def chat(**fields: Any) -> Call:
    return parse("chat", {"model": SONNET, "messages": [{"role": "user", "content": "Hello"}], **fields})


def respond(**fields: Any) -> Call:
    return parse("responses", {"model": SONNET, "input": "Hello", **fields})


def sent(call: Call) -> dict[str, Any]:
    """The body for the upstream."""
    return json.loads(call.body)


def ignored(call: Call) -> list[str]:
    """What the answer will name in `relayd-ignored`."""
    return list(call.reply_hints.ignored)


def mended(call: Call) -> list[str]:
    """What the answer will name in `relayd-mended`."""
    return list(call.reply_hints.mended)


def conversation_of(call: Call, *pairs: tuple[bytes, bytes]) -> str:
    """What the relay knows the call's conversation by; `pairs` are the client's headers."""
    return conversation(Headers(list(pairs)), call.body, call.user_id, call.session)


def function(name: str = "get_weather", **fields: Any) -> dict[str, Any]:
    """A function tool as Chat writes it."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters, **fields}}


def flat_function(name: str = "get_weather", **fields: Any) -> dict[str, Any]:
    """A function tool as Responses writes it."""
    return {"type": "function", **function(name, **fields)["function"]}


def event(kind: str, **fields: Any) -> bytes:
    """One event of a Claude API stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, ensure_ascii=False)}\n\n".encode()


USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 30, "output_tokens": 1}


def begin(**fields: Any) -> bytes:
    message = {
        "id": "msg_01Test", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": USAGE,
    }  # fmt: skip
    return event("message_start", message={**message, **fields})


def block(index: int, content_block: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    return (
        event("content_block_start", index=index, content_block=content_block)
        + b"".join(event("content_block_delta", index=index, delta=delta) for delta in deltas)
        + event("content_block_stop", index=index)
    )


def text(index: int, *pieces: str) -> bytes:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def thinking(index: int, *pieces: str, signature: str = "c2ln") -> bytes:
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    start = {"type": "thinking", "thinking": "", "signature": ""}
    return block(index, start, *deltas, {"type": "signature_delta", "signature": signature})


def tool(index: int, name: str, *pieces: str, given: Any = None, call_id: str = "") -> bytes:
    start = {"type": "tool_use", "id": call_id or f"toolu_{index}", "name": name, "input": given or {}}
    return block(index, start, *({"type": "input_json_delta", "partial_json": piece} for piece in pieces))


def end(stop_reason: str = "end_turn", output: int = 50, **usage: Any) -> bytes:
    return event(
        "message_delta",
        delta={"stop_reason": stop_reason, "stop_sequence": None},
        usage={"output_tokens": output, **usage},
    ) + event("message_stop")


def message(*content: dict[str, Any], stop_reason: str = "end_turn", **fields: Any) -> bytes:
    """A whole answer of the Claude API."""
    whole = {
        "id": "msg_01Test", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6",
        "content": list(content), "stop_reason": stop_reason, "stop_sequence": None,
        "usage": {**USAGE, "output_tokens": 50},
    }  # fmt: skip
    return json.dumps({**whole, **fields}).encode()


def translator(call: Call) -> Translator:
    dialect = OPENAI_RESPONSES if call.reply_hints.echo else OPENAI_CHAT
    return dialect.translator(call)


def streamed(call: Call, *pieces: bytes) -> bytes:
    """The client's stream for an upstream's stream that came in `pieces` and then ended."""
    way = translator(call)
    return b"".join(way.feed(piece) for piece in pieces) + way.finish()


def whole(call: Call, body: bytes, status: int = 200) -> dict[str, Any]:
    return json.loads(translator(call).whole(status, body))


def payloads(stream: bytes) -> list[Any]:
    """The JSON of each `data:` line; "[DONE]" as it is."""
    lines = [line[6:] for line in stream.decode().split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def deltas(stream: bytes) -> list[dict[str, Any]]:
    """The deltas of a Chat stream."""
    return [
        chunk["choices"][0]["delta"] for chunk in payloads(stream) if isinstance(chunk, dict) and chunk.get("choices")
    ]


def content(stream: bytes) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(stream))


def finish_reasons(stream: bytes) -> list[str]:
    return [
        chunk["choices"][0]["finish_reason"]
        for chunk in payloads(stream)
        if isinstance(chunk, dict) and chunk.get("choices") and chunk["choices"][0]["finish_reason"]
    ]


def tool_calls(stream: bytes) -> list[dict[str, Any]]:
    """The tool calls of a Chat stream, put together as a client does it: by index."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas(stream):
        for part in delta.get("tool_calls", []):
            call = calls.setdefault(part["index"], {"index": part["index"], "arguments": ""})
            call.update({key: part[key] for key in ("id", "type") if key in part})
            call["name"] = part["function"].get("name", call.get("name"))
            call["arguments"] += part["function"].get("arguments", "")
    return list(calls.values())
