"""Token counts of our own, for upstreams that have no `count_tokens`.

Rule: an estimate, said to be one, and rather too high than too low: clients go by it when they shorten a conversation.

Theory: text is measured by its bytes, as for reservations (call_estimate.py). What stands in base64 is not: an image
costs what its pixels do, at most about 1,600 tokens, and a page of a PDF up to 3,000. Source: API docs, "Vision",
"PDF support".
"""

from __future__ import annotations

from typing import Any

import msgspec

from relayd.core.quota.call_estimate import prompt_bound
from relayd.wire.answer import read_error
from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.peek import wide_bytes

IMAGE = 1600
_PAGE, _PAGE_BASE64 = 3000, 100_000  # tokens of a page; bytes of base64 that one has, where it is scanned

# How upstreams without the endpoint answer. The API itself gives a 404 for a model.
_ABSENT = (404, 405)


def has_no_counting(status: int, body: bytes, models: tuple[str, ...]) -> bool:
    """Whether an answer says that the upstream does not count tokens, rather than that it has not one of `models`."""
    if status not in _ABSENT:
        return False
    fault = read_error(body)
    return fault is None or not any(model and model in fault.message for model in models)


def estimated_count(body: bytes) -> bytes:
    """The answer to a `count_tokens` request, by estimate."""
    try:
        value = msgspec.json.decode(body)
    except NOT_JSON:
        value = None  # there, too, the text counts
    encoded = _encoded(value)
    tokens = prompt_bound(len(body) - sum(size for _, size in encoded), wide_bytes(body))
    for kind, size in encoded:
        tokens += IMAGE if kind == "image" else _PAGE * -(-size // _PAGE_BASE64)
    return msgspec.json.encode({"input_tokens": max(tokens, 1)})


def _encoded(value: Any) -> list[tuple[str, int]]:
    """The images and documents that a body holds: their type, and how long their base64 is."""
    found: list[tuple[str, int]] = []
    rest = [value]
    while rest:
        match rest.pop():
            case {"type": str(kind), "source": {"type": "base64", "data": str(data)}}:
                found.append((kind, len(data)))
            case dict() as members:
                rest += members.values()
            case list() as items:
                rest += items
    return found
