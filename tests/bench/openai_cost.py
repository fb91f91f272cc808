"""What translating costs, in CPU time: requests, whole answers and streams of both OpenAI dialects.

    python tests/bench/openai_cost.py [ROUNDS]

Prints the median of ROUNDS repetitions. Figures to stay under, on the 2-core machine where they were set: a JSON
request and its answer 150 us, a stream of 20 events 350 us, a request body of 200 KB 2 ms.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from relayd.wire.call import Call
from relayd.wire.http import Headers, RequestHead
from relayd.wire.openai.chat import OPENAI_CHAT
from relayd.wire.openai.responses import OPENAI_RESPONSES

HEAD = RequestHead(method="POST", target="/v1/x", path="/v1/x", query="", headers=Headers([]))
MODEL = "claude-sonnet-4-6"


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def stream(deltas: int) -> list[bytes]:
    """A Claude API stream with `deltas` text deltas, one event a piece; 20 events for 14 deltas."""
    usage = {"input_tokens": 21, "cache_read_input_tokens": 8000, "output_tokens": 3}
    return [
        event("message_start", message={"id": "msg_01", "type": "message", "role": "assistant", "usage": usage}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *(
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": f"word {n}"})
            for n in range(deltas)
        ),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 87}),
        event("message_stop"),
    ]


ANSWER = json.dumps(
    {
        "id": "msg_01", "type": "message", "role": "assistant", "stop_reason": "tool_use",
        "content": [
            {"type": "text", "text": "Some words of an answer. " * 20},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}},
        ],
        "usage": {"input_tokens": 21, "output_tokens": 87},
    }
).encode()  # fmt: skip

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says what the weather is like.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def small(**fields: Any) -> bytes:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather in Oslo?"}]
    return json.dumps({"model": MODEL, "messages": messages, "tools": [TOOL], "temperature": 0.5, **fields}).encode()


def large(size: int) -> bytes:
    """An agent's conversation of about `size` bytes: turns with calls and results of 1 KB, and 30 tools."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "rules " * 1000}]
    turn = 0
    while len(json.dumps(messages)) < size - 10_000:
        for _ in range(10):
            turn += 1
            call = {"id": f"call_{turn}", "type": "function"}
            function = {
                "name": "read_file",
                "arguments": json.dumps({"path": f"src/file_{turn}.py", "lines": [1, 200]}),
            }
            messages += [
                {"role": "user", "content": "Please look at the next file, and say what you think. " * 3},
                {"role": "assistant", "content": "I look.", "tool_calls": [{**call, "function": function}]},
                {"role": "tool", "tool_call_id": f"call_{turn}", "content": "def main():\n    return 0\n" * 40},
            ]
    tools = [{**TOOL, "function": {**TOOL["function"], "name": f"tool_{n}"}} for n in range(30)]
    return json.dumps(
        {"model": MODEL, "messages": [*messages, {"role": "user", "content": "go"}], "tools": tools}
    ).encode()


def responses(body: bytes) -> bytes:
    """A chat body's conversation, as Responses has it."""
    chat = json.loads(body)
    items = []
    for message in chat["messages"]:
        if message["role"] == "tool":
            items.append(
                {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}
            )
            continue
        items.append({"role": message["role"], "content": message["content"]})
        items += [
            {"type": "function_call", "call_id": call["id"], **call["function"]}
            for call in message.get("tool_calls", [])
        ]
    tools = [{"type": "function", **tool["function"]} for tool in chat["tools"]]
    return json.dumps({"model": MODEL, "input": items, "tools": tools, "stream": bool(chat.get("stream"))}).encode()


def cost(act: Callable[[], object], rounds: int) -> float:
    """Median CPU time of `act`, microseconds."""
    samples = []
    for _ in range(rounds):
        start = time.process_time_ns()
        act()
        samples.append(time.process_time_ns() - start)
    return statistics.median(samples) / 1000


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for dialect, form in ((OPENAI_CHAT, bytes), (OPENAI_RESPONSES, responses)):
        asked, streaming, big = form(small()), form(small(stream=True)), form(large(200_000))
        plain = dialect.parse(HEAD, asked)
        streamed = dialect.parse(HEAD, streaming)
        pieces = {n: stream(n) for n in (14, 1000)}

        def exchange(dialect: Any = dialect, asked: bytes = asked) -> None:
            dialect.translator(dialect.parse(HEAD, asked)).whole(200, ANSWER)

        def answer(dialect: Any = dialect, call: Call = plain) -> None:
            dialect.translator(call).whole(200, ANSWER)

        def relayed(dialect: Any = dialect, call: Call = streamed, deltas: int = 14, pieces: Any = pieces) -> None:
            way = dialect.translator(call)
            for piece in pieces[deltas]:
                way.feed(piece)
            way.finish()

        def burst(dialect: Any = dialect, call: Call = streamed, whole: bytes = b"".join(pieces[14])) -> None:
            dialect.translator(call).feed(whole)

        def parsed(dialect: Any = dialect, big: bytes = big) -> None:
            dialect.parse(HEAD, big)

        print(dialect.name)
        for what, act, times in (
            ("request and whole answer", exchange, rounds),
            ("the answer alone", answer, rounds),
            ("20 events, each by itself", relayed, rounds),
            ("20 events in one piece", burst, rounds),
            ("1006 events, each by itself", functools.partial(relayed, deltas=1000), max(rounds // 20, 5)),
            (f"request of {len(big)} bytes", parsed, max(rounds // 10, 5)),
        ):
            print(f"  {what:30} {cost(act, times):8.0f} us")


if __name__ == "__main__":
    main()
