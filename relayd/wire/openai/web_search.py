"""Web search: OpenAI's tool as the Claude API's own, and what it finds as annotations and records.

Rule: an annotation is made of a citation that has a URL, over the text that it vouches for; the text itself is not
touched. A search that the client wants without the live web is none that the Claude API has, and is named as ignored.

Theory: a search travels out only. What the API needs of an earlier one (encrypted results) has no place in OpenAI's
items, so the records that come back are dropped: what was found is in the answer's text.
Source: OpenAI API reference, "Web search", annotations; Claude API docs, "Web search tool".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from relayd.wire.answer import Citation, ContentBlock
from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.openai.fields import Json, a_list, an_object
from relayd.wire.openai.request import RequestDraft

SEARCHES = "web_search"  # with a version or "_preview" behind it
# The version that every model has which can search.
_TYPE = "web_search_20250305"


def search_tool(draft: RequestDraft, tool: Json, where: str) -> Json | None:
    """The Claude API's tool for OpenAI's, or for itself. None where none does what is asked: it is named as ignored."""
    if tool.get("external_web_access") is False:
        draft.ignored.append("tools.web_search")
        return None
    if tool.get("name") == SEARCHES:  # the Claude API's own
        return tool
    made: Json = {"type": _TYPE, "name": SEARCHES}
    filters = an_object(tool.get("filters") or {}, f"{where}.filters")
    for name in ("allowed_domains", "blocked_domains"):
        domains = a_list(filters.get(name) or [], f"{where}.filters.{name}")
        if domains:
            made[name] = domains
    place = an_object(tool.get("user_location") or {}, f"{where}.user_location")
    place = an_object(place.get("approximate") or place, f"{where}.user_location")  # nested in Chat
    known = {name: place[name] for name in ("city", "region", "country", "timezone") if place.get(name)}
    if known:
        made["user_location"] = {"type": "approximate", **known}
    if tool.get("search_context_size") not in (None, "medium"):
        draft.ignored.append("tools.search_context_size")
    return made


def url_annotations(citations: Iterable[Citation], start: int, end: int) -> list[Json]:
    """Responses' annotations for what a stretch of the message's text rests on. `start`, `end`: characters."""
    found = {one.url: one.title or "" for one in citations if one.url}
    return [
        {"type": "url_citation", "url": url, "title": title, "start_index": start, "end_index": end}
        for url, title in found.items()
    ]


def chat_annotations(citations: Iterable[Citation], start: int, end: int) -> list[Json]:
    """The same as Chat nests them."""
    return [
        {"type": "url_citation", "url_citation": {name: value for name, value in one.items() if name != "type"}}
        for one in url_annotations(citations, start, end)
    ]


class _WebPage(msgspec.Struct):
    url: str | None = None


def search_item(item_id: str, query_text: str, result: ContentBlock | None, status: str = "completed") -> Json:
    """The record of a search. `query_text`: its input as JSON."""
    item: Json = {"id": item_id, "type": "web_search_call", "status": status}
    if status == "in_progress":
        return item
    try:
        query = msgspec.json.decode(query_text, type=dict[str, Any]).get("query")
    except NOT_JSON:
        query = None
    try:
        found = msgspec.json.decode(result.content, type=list[_WebPage]) if result else []
    except NOT_JSON:  # an error in the place of the results
        found = []
        item["status"] = "failed"
    sources = [{"type": "url", "url": one.url} for one in found if one.url]
    return item | {"action": {"type": "search", "query": query or "", "sources": sources}}
