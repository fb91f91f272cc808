"""The Messages dialect: the Claude API's own. Bytes pass unchanged, so there is little to say.

Rule: a body is read for `model`, `stream`, `max_tokens` and `metadata` only. Whatever else is in it, of this year or
of the next, is the upstream's to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs
import msgspec

from relayd.noun import noun
from relayd.wire.call import NO_ALIASES, Call, Endpoint, Language, Reply, Translator
from relayd.wire.http import HeaderPairs, RequestHead, client_headers
from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.peek import peek
from relayd.wire.refusal import Refusal

JSON = (b"content-type", b"application/json")
EVENT_STREAM = b"text/event-stream"


def error_body(kind: str, message: str, request_id: str, error_code: str = "") -> bytes:
    """An error as the Claude API words it. Source: API docs, "Errors"; official SDK 2.12.0 for `details`."""
    error: dict[str, object] = {"type": kind, "message": message}
    if error_code:
        error["details"] = {"error_code": error_code}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def refusal_headers(refusal: Refusal) -> HeaderPairs:
    """The headers that tell a client what to do about a refusal, in any dialect."""
    pairs: HeaderPairs = list(refusal.headers)
    if refusal.retry_after is not None:
        pairs.append((b"retry-after", b"%d" % refusal.retry_after))
    if refusal.should_retry is not None:
        pairs.append((b"x-should-retry", b"true" if refusal.should_retry else b"false"))
    return pairs


def error_event(refusal: Refusal, request_id: str) -> bytes:
    """An `error` event, to end a stream that has been cut. Source: API docs, "Streaming", error events."""
    return b"event: error\ndata: " + error_body(refusal.kind, refusal.message, request_id) + b"\n\n"


@noun(kw_only=True)
class Native:
    """The Messages dialect on one endpoint.

    Args:
        endpoint: what is asked of the upstream.
        path: the upstream's path.
    """

    endpoint: Endpoint = "messages"
    path: str = "/v1/messages"

    @property
    def name(self) -> str:
        return "anthropic"

    @property
    def language(self) -> Language:
        return "anthropic"

    def parse(
        self, head: RequestHead, body: bytes, *, now: float = 0.0, aliases: Mapping[str, str] = NO_ALIASES
    ) -> Call:
        """Read a call. Raises: Refusal (400)."""
        seen = peek(body)
        if not seen.model:
            raise Refusal(status=400, message="model: field required", param="model")
        return Call(
            endpoint=self.endpoint,
            method=head.method,
            path=self.path,
            query=head.query,
            model=seen.model,
            stream=seen.stream and self.endpoint == "messages",
            max_tokens=seen.max_tokens,
            fast=seen.fast,
            wide=seen.wide,
            named=seen.named,
            resumed=seen.resumed,
            user_id=seen.user_id,
            body=body,
        )

    def refuse(self, refusal: Refusal, request_id: str) -> Reply:
        """A refusal in the form of the API's errors."""
        return Reply(
            status=refusal.status,
            headers=[JSON, *refusal_headers(refusal)],
            body=error_body(refusal.kind, refusal.message, request_id, refusal.error_code),
        )

    def upstream_headers(self, head: RequestHead) -> HeaderPairs:
        """All that the client said, but for its key and this hop."""
        return client_headers(head.headers)

    def translator(self, call: Call) -> Translator | None:
        """None: bytes pass unchanged."""
        return None


@noun(kw_only=True)
class ModelEntry:
    """A model that a key may use, for the lists of both dialects.

    Args:
        created: RFC 3339.
        more: what else is known of it, by the API's names.
    """

    id: str
    display_name: str
    created: str = "1970-01-01T00:00:00Z"
    more: Mapping[str, object] = attrs.field(factory=dict)


def model_object(entry: ModelEntry) -> dict[str, object]:
    """One model as `GET /v1/models/{id}` gives it."""
    own = {"type": "model", "id": entry.id, "display_name": entry.display_name, "created_at": entry.created}
    return {**own, **entry.more}


# What a list says of a model beyond its names. Source: API reference, "List Models".
_MORE = ("lifecycle", "deprecated_at", "retires_at", "max_input_tokens", "max_tokens")
MOST_MODELS = 1000  # the API's largest page


class _ListedModel(msgspec.Struct):
    id: str
    display_name: str = ""
    created_at: str = ""
    lifecycle: str | None = None
    deprecated_at: str | None = None
    retires_at: str | None = None
    max_input_tokens: int | None = None
    max_tokens: int | None = None


class _ModelList(msgspec.Struct):
    data: list[_ListedModel]


_models = msgspec.json.Decoder(_ModelList)


def read_models(body: bytes) -> list[ModelEntry] | None:
    """The models of an upstream's list; None for what is not one."""
    try:
        listed = _models.decode(body).data[:MOST_MODELS]
    except NOT_JSON:
        return None
    return [
        ModelEntry(
            id=one.id,
            display_name=one.display_name or one.id,
            created=one.created_at or "1970-01-01T00:00:00Z",
            more={name: getattr(one, name) for name in _MORE if getattr(one, name) is not None},
        )
        for one in listed
        if one.id
    ]


def models_page(entries: Iterable[ModelEntry], query: str) -> bytes:
    """`GET /v1/models`, with `limit`, `after_id` and `before_id` honoured.

    Raises: Refusal (400) on a limit that is not a number between 1 and 1000.
    """
    asked = dict(part.partition("=")[::2] for part in query.split("&") if part)
    listed = list(entries)
    ids = [entry.id for entry in listed]
    limit = _limit(asked.get("limit", "20"))
    first, last = 0, len(listed)
    if asked.get("after_id") in ids:
        first = ids.index(asked["after_id"]) + 1
    if asked.get("before_id") in ids:
        last = ids.index(asked["before_id"])
        first = max(first, last - limit)
    page = listed[first : min(last, first + limit)]
    return msgspec.json.encode(
        {
            "data": [model_object(entry) for entry in page],
            "has_more": first + len(page) < last,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= 1000):
        raise Refusal(status=400, message="limit: must be between 1 and 1000", param="limit")
    return int(text)
