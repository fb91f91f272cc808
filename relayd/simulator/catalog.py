"""Model list: the models that the simulator lists, and how the API cuts a list into pages.

Source of ids, limits and fields: API reference, "List Models"; reference SDK, ModelInfo.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from relayd.wire.refusal import Refusal

JsonObject = dict[str, Any]

# (id, name, release, context in tokens, most output tokens, line)
MODELS = (
    ("claude-sonnet-5-5", "Claude Sonnet 5.5", "2026-10-06T00:00:00Z", 1_000_000, 128_000, "sonnet"),
    ("claude-haiku-5-5", "Claude Haiku 5.5", "2026-10-06T00:00:00Z", 1_000_000, 128_000, "haiku"),
    ("claude-opus-5-5", "Claude Opus 5.5", "2026-09-15T00:00:00Z", 1_000_000, 128_000, "opus"),
    ("claude-opus-4-8", "Claude Opus 4.8", "2026-05-19T00:00:00Z", 1_000_000, 128_000, "opus"),
    ("claude-sonnet-4-6", "Claude Sonnet 4.6", "2026-02-17T00:00:00Z", 1_000_000, 128_000, "sonnet"),
    ("claude-haiku-4-5-20251001", "Claude Haiku 4.5", "2025-10-15T00:00:00Z", 200_000, 64_000, "haiku"),
)
ALIASES = {"claude-haiku-4-5": "claude-haiku-4-5-20251001"}

DEFAULT_PAGE = 20  # Source: API reference, `limit`
LARGEST_PAGE = 1000


def model_list() -> list[JsonObject]:
    """All models, newest first."""
    return [_described(*row) for row in MODELS]


def one_model(model_id: str) -> JsonObject:
    """One model, by id or alias. Raises: Refusal (404)."""
    wanted = ALIASES.get(model_id, model_id)
    found = next((row for row in MODELS if row[0] == wanted), None)
    if found is None:
        raise Refusal(status=404, message=f"model: {model_id[:256]}")
    return _described(*found)


def _described(model_id: str, name: str, created: str, context: int, output: int, line: str) -> JsonObject:
    return {
        "type": "model",
        "id": model_id,
        "display_name": name,
        "created_at": created,
        "lifecycle": "active",
        "line": line,
        "max_input_tokens": context,
        "max_tokens": output,
        "deprecated_at": None,
        "retires_at": None,
    }


def page(things: list[JsonObject], query: str) -> JsonObject:
    """One page of `things` as `query` (limit, after_id, before_id, page) asks for it. Raises: Refusal (400)."""
    asked = {name: values[-1] for name, values in parse_qs(query).items()}
    limit = _limit(asked.get("limit"))
    ids = [thing["id"] for thing in things]
    start, end = 0, len(things)
    if after := asked.get("after_id") or asked.get("page", "").removeprefix("page_"):
        start = _index(ids, after) + 1
    elif before := asked.get("before_id"):
        end = _index(ids, before)
        start = max(0, end - limit)
    chosen = things[start : min(end, start + limit)]
    backwards = "before_id" in asked and "after_id" not in asked
    more = start > 0 if backwards else start + limit < end
    last = chosen[-1]["id"] if chosen else None
    return {
        "data": chosen,
        "has_more": more,
        "first_id": chosen[0]["id"] if chosen else None,
        "last_id": last,
        "next_page": f"page_{last}" if more else None,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= LARGEST_PAGE):
        raise Refusal(status=400, message=f"limit: Input should be a number from 1 to {LARGEST_PAGE}")
    return int(text)


def _index(ids: list[str], wanted: str) -> int:
    if wanted not in ids:
        raise Refusal(status=400, message=f"{wanted[:64]}: no such object to begin a page at")
    return ids.index(wanted)
