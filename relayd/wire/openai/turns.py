"""Conversation turns: messages of an OpenAI conversation, put together as the Claude API wants them.

Rule: roles alternate; the results of one assistant turn come together, first in the next user turn; no block is empty.
What was sent before is sent again unchanged when the conversation grows, since the prompt cache goes by the beginning.

Theory: neighbours of the same role are merged as they arrive, tool results before the rest. That gives the API what
it insists on (all results of parallel calls in one message) however a client has split them.
System messages that come before the conversation are the system prompt. A later one, hoisted, would change the
beginning; so it stays behind what the user said beside it, where the API allows one: never first, always after a user
turn, and before an assistant's. Where the model takes none, or no user turn is there, it is marked text of the user's.
Source: Claude API docs, "Handling tool calls", "Tool results first"; "Mid-conversation system messages".
"""

from __future__ import annotations

import hashlib
import re
import zlib
from typing import Any

import attrs
import msgspec

from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.openai.fields import Json
from relayd.wire.openai.pairing import pair
from relayd.wire.openai.parts import Blocks

CONTINUE = "Continue your last message from exactly where it ends. Repeat nothing of it."

_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NOT_TOOL_ID = re.compile(r"[^a-zA-Z0-9_-]")


def tool_id(given: str) -> str:
    """A call id that the API accepts. A changed one carries a checksum, so that two never become one. "" is none."""
    if not given or _TOOL_ID.fullmatch(given):
        return given
    return f"{_NOT_TOOL_ID.sub('_', given)}_{zlib.crc32(given.encode()):08x}"


def arguments(given: object, mended: list[str]) -> Json:
    """The arguments of a call, from the JSON text that they travel in; "", null and [] mean none.

    What is not an object (an answer cut short by max_tokens, most often) is kept as text under one key.

    Args:
        mended: is told of that.
    """
    value = _decoded(given)
    if isinstance(value, dict):
        return value
    if isinstance(value, str):  # encoded twice
        value = _decoded(value)
    if value is None or value == []:
        return {}
    if isinstance(value, dict):
        return value
    mended.append("tool_calls.arguments")
    return {"raw_arguments": given if isinstance(given, str) else msgspec.json.encode(given).decode()}


def _decoded(given: object) -> object:
    """What a JSON text holds; anything else as it is."""
    if not isinstance(given, str):
        return given
    try:
        return msgspec.json.decode(given)
    except NOT_JSON:
        return given if given.strip() else None


def tool_result(call_id: str, content: str | Blocks) -> Json:
    """A tool_result block. No content at all is left out."""
    result: Json = {"type": "tool_result", "tool_use_id": tool_id(call_id)}
    if content:
        result["content"] = content
    return result


def marked(block: Json) -> Json:
    """An instruction as text of the user's, told apart from what the user says."""
    return {**block, "text": f"<system-reminder>\n{block['text']}\n</system-reminder>"}


@attrs.define
class Turns:
    """The conversation so far: `system` blocks and finished `messages`.

    Args:
        system_turns: whether the model takes messages of role "system".
        prefill: whether the last turn may be the assistant's.
        mended: is told what had to be put in order.
    """

    system_turns: bool = False
    prefill: bool = True
    mended: list[str] = attrs.field(factory=list)
    system: Blocks = attrs.field(factory=list)
    messages: list[Json] = attrs.field(factory=list)
    _role: str = ""
    _results: Blocks = attrs.field(factory=list)
    _blocks: Blocks = attrs.field(factory=list)
    _asides: Blocks = attrs.field(factory=list)  # system messages amid the open turn
    _plain: bool = False  # the open turn is one string that came as a string

    def user(self, blocks: Blocks, *, plain: bool = False) -> None:
        """What the user says. `plain`: it was a string, and stays one where it is alone."""
        self._add("user", blocks, plain)

    def assistant(self, blocks: Blocks, *, plain: bool = False) -> None:
        """What the model said: thinking, text, calls, in that order."""
        self._add("assistant", blocks, plain)

    def result(self, block: Json) -> None:
        """A tool's result."""
        self._open("user")
        self._plain = False
        self._results.append(block)

    def instruct(self, blocks: Blocks) -> None:
        """What a system or developer message says, wherever it stands."""
        if not blocks:
            return
        if not self.messages and not self._role:
            self.system.extend(blocks)
        elif self.system_turns:
            self._open("user")
            self._asides.extend(blocks)
        else:
            self.user([marked(block) for block in blocks])

    def _add(self, role: str, blocks: Blocks, plain: bool) -> None:
        if not blocks:
            return
        self._open(role)
        self._plain = plain and not self._blocks and not self._results
        self._blocks.extend(blocks)

    def _open(self, role: str) -> None:
        if self._role != role:
            self._close()
            self._role = role

    def _close(self) -> None:
        blocks, asides = self._results + self._blocks, self._asides
        if asides and not blocks:
            blocks, asides = [marked(block) for block in asides], []
        if blocks:
            content: Any = blocks[0]["text"] if self._plain else blocks
            self.messages.append({"role": self._role, "content": content})
        if asides:
            self.messages.append({"role": "system", "content": asides})
        self._role, self._results, self._blocks, self._asides, self._plain = "", [], [], [], False

    def close(self) -> None:
        """The conversation is complete.

        A final assistant turn is a prefill, which must not end in white space; a model that takes none is told to
        continue.
        """
        self._close()
        self.messages = pair(self.messages, self.mended)
        if not self.prefilled:
            return
        if not self.prefill:
            self.messages.append({"role": "user", "content": [marked({"type": "text", "text": CONTINUE})]})
            self.mended.append("messages.prefill")
            return
        last = self.messages[-1]
        if isinstance(last["content"], str):
            last["content"] = last["content"].rstrip()
        elif last["content"][-1]["type"] == "text":
            last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()

    @property
    def prefilled(self) -> bool:
        """Whether the answer continues what the assistant began."""
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    def unthought_call(self) -> bool:
        """Whether the calls that await an answer were made without thinking blocks.

        With `thinking.type` enabled the API then refuses: the turn that it continues must begin with its thinking.
        Source: API docs, "Extended thinking with tool use".
        """
        for message in reversed(self.messages):
            if message["role"] == "system":
                continue
            if message["role"] == "assistant":
                content = message["content"]
                called = isinstance(content, list) and any(block["type"] == "tool_use" for block in content)
                return called and content[0]["type"] not in ("thinking", "redacted_thinking")
            if isinstance(message["content"], str) or message["content"][0]["type"] != "tool_result":
                return False
        return False


def made_id(body: bytes, now: float) -> str:
    """A name for an answer, should the upstream give it none. The end of the body is where conversations differ."""
    return hashlib.blake2b(b"%d %d " % (now, len(body)) + body[-4096:], digest_size=12).hexdigest()
