"""Tokens of a prompt, by kind: counted from its length alone, so that they are the same every time.

Theory: a prompt is tools, then system, then messages. A cache_control marks the end of a prefix. In a first turn all
of the marked prefix is written; once an assistant has answered, everything up to the last mark but one is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from relayd.simulator.request import MessageRequest, blocks_of
from relayd.wire.usage import Usage

CHARACTERS = 3.5  # UTF-8 bytes of JSON per token: a usual figure for English
IMAGE = 1600 * CHARACTERS  # an image of about one megapixel. Source: API docs, "Vision", width x height / 750


def prompt_usage(request: MessageRequest) -> Usage:
    """The prompt side of an answer's usage."""
    position, marks = 0.0, []
    for size, ttl in _elements(request.prompt):
        position += size
        if ttl:
            marks.append((_tokens(position), ttl))
    total = _tokens(position)
    if _ttl(request.prompt):
        marks.append((total, _ttl(request.prompt)))
    read, writes = _split(marks, warm=request.answered)
    return Usage(
        input=total - (marks[-1][0] if marks else 0),
        cache_read=read,
        cache_write_5m=writes["5m"],
        cache_write_1h=writes["1h"],
        inference_geo=_word(request.prompt, "inference_geo") or "global",
        speed=_word(request.prompt, "speed"),
    )


def _word(prompt: dict[str, Any], name: str) -> str:
    value = prompt.get(name)
    return value if isinstance(value, str) else ""


def _tokens(size: float) -> int:
    return max(1, round(size / CHARACTERS))


def _split(marks: list[tuple[int, str]], *, warm: bool) -> tuple[int, dict[str, int]]:
    """Tokens read, and tokens written by time to live, of the prefixes that `marks` end."""
    read = 0
    if warm and marks:
        read = marks[-2][0] if len(marks) > 1 else marks[-1][0]
    writes = {"5m": 0, "1h": 0}
    start = read
    for end, ttl in marks:
        if end > start:
            writes[ttl] += end - start
            start = end
    return read, writes


def _elements(prompt: dict[str, Any]) -> Iterator[tuple[float, str]]:
    """(size, ttl or "") of each tool and block, in the order of the prompt."""
    for tool in prompt.get("tools") or ():
        yield _size(tool), _ttl(tool)
    for block in blocks_of(prompt.get("system") or []):
        yield _size(block), _ttl(block)
    for message in prompt["messages"]:
        for block in blocks_of(message["content"]):
            yield _size(block), _ttl(block)


def _size(block: dict[str, Any]) -> float:
    if block.get("type") in ("image", "document") and isinstance(block.get("source"), dict):
        return IMAGE
    if block.get("type") == "text":
        return len(block["text"].encode())
    return len(msgspec.json.encode(block))


def _ttl(block: dict[str, Any]) -> str:
    """ "5m" or "1h" where the block ends a cached prefix, else ""."""
    mark = block.get("cache_control")
    if not isinstance(mark, dict):
        return ""
    return "1h" if mark.get("ttl") == "1h" else "5m"
