"""References to items: which ones a Responses request needs, and the request with the items in their places.

Rule: pure. What nobody kept stays a reference; to what the request holds itself nothing is added, nor twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.openai.fields import Json
from relayd.wire.openai.responses_input import is_reference

MOST = 1000  # items that a request may refer to


def may_refer(body: bytes) -> bool:
    """Whether a body can hold references. Bytes are searched much faster than they are read."""
    return b'"item_reference"' in body


def missing_items(body: bytes) -> tuple[str, ...]:
    """Ids of items that a request refers to and does not hold, each once; the first of them, where they are too many.
    Of a body that cannot be read there are none: its dialect will say why."""
    items = _items(body)
    here = {item.get("id") for item in items if not is_reference(item)}
    named = [item.get("id") for item in items if is_reference(item)]
    return tuple(dict.fromkeys(name for name in named if isinstance(name, str) and name and name not in here))[:MOST]


def with_items(body: bytes, kept: Mapping[str, bytes]) -> bytes:
    """The request with kept items in the places of the first references to them.

    Args:
        kept: JSON of items by id.
    """
    fields = msgspec.json.decode(body)
    left = dict(kept)
    fields["input"] = [_restored(item, left) for item in fields["input"]]
    return msgspec.json.encode(fields)


def _restored(item: object, left: dict[str, bytes]) -> object:
    if not isinstance(item, dict) or not is_reference(item):
        return item
    name = item.get("id")
    found = left.pop(name, None) if isinstance(name, str) else None
    return item if found is None else msgspec.Raw(found)


def _items(body: bytes) -> list[Json]:
    try:
        given = msgspec.json.decode(body)["input"]
    except (KeyError, TypeError, *NOT_JSON):
        return []
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
