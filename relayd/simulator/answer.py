"""Simulated answers: what the simulated model says, as a stream of events.

Rule: one generator makes every answer; the plain form is the stream, folded. So text, tool calls and usage are equal
in both forms, and a stream needs no more memory than one event.

Theory: output is pieces, and a piece is a token: a word of text, a slice of JSON. max_tokens is a budget of pieces.
Source of the order of events: API docs, "Streaming Messages".
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import msgspec

from relayd.simulator.catalog import JsonObject
from relayd.simulator.instance import instance
from relayd.simulator.request import MessageRequest
from relayd.simulator.script import make_id
from relayd.wire.usage import Usage

QUOTED_WORDS = 24  # of the user's text, in the echo
QUOTED_LETTERS = 400
WORD_LETTERS = 60  # a language without spaces would make one word of a whole text
SLICE = 12  # characters of JSON in one piece

FILLER = (
    "This answer comes from the relayd simulator. It is made of fixed sentences, costs nothing and needs no account. "
    "Every word of it arrives as an event of its own, so that a client has something to show while it waits."
)
THOUGHT = "The user wrote to a simulator. There is nothing to find out, so a plain answer will do."

EventBody = dict[str, Any]
PING: EventBody = {"type": "ping"}


@attrs.define(eq=False)
class Budget:
    """What may still be said, what was, and why it ended early. The one mutable thing of an answer."""

    left: int
    spent: int = 0
    thought: int = 0
    ended: str = ""  # a stop_reason, once there is nothing more to say
    stop: str | None = None

    def take(self, count: int = 1) -> bool:
        """Spend `count` tokens, or none of them if they are more than is left; that ends the answer."""
        if count > self.left:
            self.ended = "max_tokens"
            return False
        self.left -= count
        self.spent += count
        return True


def events(request: MessageRequest, prompt: Usage, seed: bytes, words: int) -> Iterator[EventBody]:
    """The answer to `request`, event by event, as the API streams it.

    Args:
        prompt: the prompt side of its usage.
        seed: digest of the request's body, of which identifiers are derived.
        words: length of a text answer, in words.
    """
    budget = Budget(request.max_tokens)
    yield {"type": "message_start", "message": _opening(request, prompt, seed)}
    calls = wanted_calls(request)
    index = 0
    for block in _blocks(request, calls, seed, words, budget):
        started = False
        for event in block:
            yield {"type": event["type"], "index": index, **event}
            if not started and not index:
                yield PING  # the API sends its first ping here
            started = True
        index += started
        if budget.ended:
            break
    yield from _closing(prompt, budget, "tool_use" if calls else "end_turn", thinking=request.thinking)


def folded(stream: Iterable[EventBody]) -> dict[str, Any]:
    """The message that a stream of events amounts to."""
    message: dict[str, Any] = {}
    content: list[dict[str, Any]] = []
    pieces: list[str] = []
    for event in stream:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                content.append(dict(event["content_block"]))
                pieces = []
            case "content_block_delta":
                _fold_delta(content[-1], event["delta"], pieces)
            case "content_block_stop":
                _finish_block(content[-1], pieces)
            case "message_delta":
                message = {**message, **event["delta"], "usage": {**message["usage"], **event["usage"]}}
    return {**message, "content": content}


def _fold_delta(block: dict[str, Any], delta: dict[str, str], pieces: list[str]) -> None:
    if delta["type"] == "signature_delta":
        block["signature"] = delta["signature"]
    else:
        pieces.append(delta[DELTA_FIELD[delta["type"]]])


def _finish_block(block: dict[str, Any], pieces: list[str]) -> None:
    said = "".join(pieces)
    if block["type"] == "tool_use":
        block["input"] = msgspec.json.decode(said or "{}")
    else:
        block[block["type"]] = said


DELTA_FIELD = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def _opening(request: MessageRequest, prompt: Usage, seed: bytes) -> dict[str, Any]:
    usage: dict[str, Any] = {
        **_prompt_counts(prompt),
        "cache_creation": {
            "ephemeral_5m_input_tokens": prompt.cache_write_5m,
            "ephemeral_1h_input_tokens": prompt.cache_write_1h,
        },
        "output_tokens": min(1, request.max_tokens),
        "service_tier": "standard",
        "inference_geo": prompt.inference_geo,
    }
    if prompt.speed:
        usage["speed"] = prompt.speed
    return {
        "id": make_id("msg", seed),
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _prompt_counts(prompt: Usage) -> dict[str, int]:
    return {
        "input_tokens": prompt.input,
        "cache_creation_input_tokens": prompt.cache_write_5m + prompt.cache_write_1h,
        "cache_read_input_tokens": prompt.cache_read,
    }


def _closing(prompt: Usage, budget: Budget, reason: str, *, thinking: bool) -> Iterator[EventBody]:
    usage: dict[str, Any] = {**_prompt_counts(prompt), "output_tokens": budget.spent}
    if thinking:
        usage["output_tokens_details"] = {"thinking_tokens": budget.thought}
    delta = {"stop_reason": budget.ended or reason, "stop_sequence": budget.stop}
    yield {"type": "message_delta", "delta": delta, "usage": usage}
    yield {"type": "message_stop"}


def wanted_calls(request: MessageRequest) -> tuple[JsonObject, ...]:
    """The tools to call: those that tool_choice demands, else those that the user names, in the order they are named.

    A turn that brings results gets an answer in words, unless a call is demanded; so a client's loop comes to an end.
    """
    if request.choice == "none" or (request.results and not request.forced):
        return ()
    if request.choice == "tool":
        return tuple(tool for tool in request.tools if tool.get("name") == request.chosen)[:1]
    named = [(_position(tool.get("name", ""), request.said), number) for number, tool in enumerate(request.tools)]
    found = [request.tools[number] for position, number in sorted(named) if position >= 0]
    if not found and request.choice == "any":
        found = [tool for tool in request.tools if tool.get("name")][:1]
    return tuple(found if request.parallel else found[:1])


def _position(name: str, text: str) -> int:
    """Where `name` stands in `text` as a word of its own; -1 nowhere."""
    if not name or name not in text:
        return -1
    found = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
    return found.start() if found else -1


def _blocks(
    request: MessageRequest, calls: tuple[JsonObject, ...], seed: bytes, words: int, budget: Budget
) -> Iterator[Iterator[EventBody]]:
    """The content blocks, each a stream of its events; one that has nothing to say is empty."""
    if request.thinking:
        yield _thinking(request, seed, budget)
    if calls:
        names = ", ".join(tool["name"] for tool in calls)
        yield _text(_spaced(f"Calling {names}.".split()[:words]), request.stops, budget)
    elif request.schema is not None:
        yield _text(_slices(_sample(request.schema)), request.stops, budget)
    else:
        yield _text(_spaced(itertools.islice(_speech(request), words)), request.stops, budget)
    for number, tool in enumerate(calls):
        yield _call(tool, make_id("toolu", seed, number), budget)


def _thinking(request: MessageRequest, seed: bytes, budget: Budget) -> Iterator[EventBody]:
    pieces = _within(_spaced(THOUGHT.split()), budget)
    first = next(pieces, None)
    if first is None:
        return
    yield _start({"type": "thinking", "thinking": "", "signature": ""})
    for piece in itertools.chain((first,), pieces):
        if request.shown:
            yield _delta("thinking_delta", piece)
    budget.thought = budget.spent
    signature = base64.b64encode(hashlib.blake2b(seed, person=b"thinking").digest()).decode()
    yield {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": signature}}
    yield {"type": "content_block_stop"}


def _text(pieces: Iterator[str], stops: tuple[str, ...], budget: Budget) -> Iterator[EventBody]:
    said = _until(_within(pieces, budget), stops, budget) if stops else _within(pieces, budget)
    first = next(said, None)
    if first is None:
        return
    yield _start({"type": "text", "text": ""})
    for piece in itertools.chain((first,), said):
        yield _delta("text_delta", piece)
    yield {"type": "content_block_stop"}


def _call(tool: JsonObject, call_id: str, budget: Budget) -> Iterator[EventBody]:
    """A tool call, whole: one that the budget cuts is not begun."""
    text = _sample(tool.get("input_schema", {}))
    pieces = list(_slices(text)) if text != "{}" else []
    if not budget.take(len(pieces) + 1):
        return
    yield _start({"type": "tool_use", "id": call_id, "name": tool["name"], "input": {}})
    for piece in ("", *pieces):
        yield _delta("input_json_delta", piece)
    yield {"type": "content_block_stop"}


def _sample(schema: object) -> str:
    """JSON for `schema`. One that quotes a constant too deep to be written out again gets an empty object."""
    try:
        return msgspec.json.encode(instance(schema)).decode()
    except RecursionError:
        return "{}"


def _start(block: dict[str, Any]) -> EventBody:
    return {"type": "content_block_start", "content_block": block}


def _delta(kind: str, piece: str) -> EventBody:
    return {"type": "content_block_delta", "delta": {"type": kind, DELTA_FIELD[kind]: piece}}


def _within(pieces: Iterable[str], budget: Budget) -> Iterator[str]:
    """As many pieces as the budget pays for."""
    for piece in pieces:
        if not budget.take():
            return
        yield piece


def _until(pieces: Iterable[str], stops: tuple[str, ...], budget: Budget) -> Iterator[str]:
    """The pieces up to the first stop sequence, which is left out. Held back: only what may be the start of one."""
    longest = max(map(len, stops), default=1)
    held = ""
    for piece in pieces:
        held += piece
        found = min(((held.find(stop), stop) for stop in stops if stop in held), default=None)
        if found is not None:
            budget.ended, budget.stop = "stop_sequence", found[1]
            if found[0]:
                yield held[: found[0]]
            return
        ready = len(held) - longest + 1
        if ready > 0:
            yield held[:ready]
            held = held[ready:]
    if held:
        yield held


def _speech(request: MessageRequest) -> Iterator[str]:
    """The words of a text answer, without end: an echo of what came, then filler."""
    if request.results:
        heard, said = "The tool answered:", " ".join(result[:QUOTED_LETTERS] for result in request.results[:8])
    else:
        heard, said = "You said:", request.said
    yield from heard.split()
    yield from [word[:WORD_LETTERS] for word in said[:QUOTED_LETTERS].split()[:QUOTED_WORDS]] or ["nothing."]
    yield from itertools.cycle(FILLER.split())


def _spaced(words: Iterable[str]) -> Iterator[str]:
    """Words as the pieces of a text."""
    for number, word in enumerate(words):
        yield f" {word}" if number else word


def _slices(text: str) -> Iterator[str]:
    return (text[start : start + SLICE] for start in range(0, len(text), SLICE))
