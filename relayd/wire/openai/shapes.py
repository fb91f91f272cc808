"""What both OpenAI dialects share on the way to the client: errors, headers, finish words, model lists; and Hints.

Rule: pure words and shapes; nothing here reads a request body.

Source: the OpenAI API reference and the types of the `openai` SDK 3.54; the Claude API docs for what comes in.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import attrs
import msgspec

from relayd.noun import noun
from relayd.wire.answer import ApiError, Garbled, UsageCounts, read_error
from relayd.wire.anthropic import JSON, ModelEntry, refusal_headers
from relayd.wire.call import Reply
from relayd.wire.http import HeaderPairs, Headers, RequestHead
from relayd.wire.refusal import Refusal

encode = msgspec.json.encode

# The older API version: 2026-10-21 refuses temperature, top_p and top_k even at their defaults, while 2023-06-01 takes
# them on every model that has them. Source: API docs, "Migration to 2026-10-21".
API_VERSION = b"2023-06-01"

# A translated call is a new request, so headers are chosen, not filtered. The client's name travels on as it is, and so
# does what an operator's tracing needs, and what is asked of the simulator. openai-*, x-stainless-*, session-id and the
# like speak of another API.
_TRAVELS = frozenset({b"user-agent", b"traceparent", b"tracestate", b"baggage", b"idempotency-key"})
_SIMULATE = b"x-simulate-"


def upstream_headers(head: RequestHead) -> HeaderPairs:
    """The headers of the translated request, without credential and framing."""
    pairs: HeaderPairs = [JSON, (b"anthropic-version", API_VERSION)]
    beta = head.headers.joined(b"anthropic-beta")
    if beta:
        pairs.append((b"anthropic-beta", beta))
    return pairs + [pair for pair in head.headers if pair[0] in _TRAVELS or pair[0].startswith(_SIMULATE)]


# How a client writes calls of a tool: JSON arguments, free text, or the form of one of OpenAI's own tools.
CallForm = Literal["function", "custom", "shell", "local_shell", "apply_patch"]
# What a call is for: an answer; a summary, as one item of an answer or on its own path; the count of its tokens.
Purpose = Literal["answer", "checkpoint", "compact", "count"]


@noun(kw_only=True)
class ToolName:
    """What a client calls a tool whose name the upstream knows in another form."""

    name: str
    namespace: str = ""
    form: CallForm = "function"


NO_NAMES: Mapping[str, ToolName] = MappingProxyType({})


@noun(kw_only=True)
class Hints:
    """What the answer's translator must know of the request.

    Args:
        model: as the client named it; answers bear this name, whole and streamed.
        created: Unix time in seconds.
        ident: a name for the answer should the upstream give none.
        include_usage: whether a Chat stream ends with a usage chunk.
        reasoning: whether thinking is shown to the client.
        unwrap: the forced tool whose input is the structured answer; "" when there is none.
        legacy: answer with `function_call` (the form before tools).
        ignored: parameters that were accepted without effect.
        mended: what had to be put in order.
        names: the client's names of tools, by the upstream's, where they differ.
        purpose: what was asked for, in Responses.
        store: whether the client leaves its items here.
        echo: members of a Responses object that repeat the request, as JSON without braces; of a compaction, the items
            that stay, as JSON.
    """

    model: str
    created: int = 0
    ident: str = ""
    include_usage: bool = False
    reasoning: bool = True
    unwrap: str = ""
    legacy: bool = False
    ignored: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()
    names: Mapping[str, ToolName] = attrs.field(default=NO_NAMES, repr=False)
    purpose: Purpose = "answer"
    store: bool = False
    echo: bytes = attrs.field(default=b"", repr=False)

    @property
    def compacts(self) -> bool:
        """Whether the answer's text is a summary."""
        return self.purpose in ("checkpoint", "compact")

    def unwraps(self, tool: str | None) -> bool:
        """Whether a call of `tool` is the structured answer itself."""
        return tool == self.unwrap and self.unwrap != ""


# --- errors

# By status. The words of the OpenAI API where it has one, else those of the Claude API, which SDKs show as they are.
_KIND = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_CODE = {
    401: "invalid_api_key",
    402: "insufficient_quota",
    413: "request_too_large",
    429: "rate_limit_exceeded",
}


def error_kind(status: int) -> str:
    """OpenAI's `type` for a refusal of ours."""
    return _KIND.get(status, "server_error" if status >= 500 else "invalid_request_error")


def error_code(status: int, message: str = "", param: str | None = None) -> str | None:
    """OpenAI's `code` where the status alone tells it. A 404 of the Claude API that names a model says "model: ..."."""
    if status == 404 and (param == "model" or message.startswith("model:")):
        return "model_not_found"
    return _CODE.get(status)


def error_object(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error. Source: OpenAI API reference, "Errors"."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal_object(refusal: Refusal) -> dict[str, Any]:
    """Our "no". A 429 has one of the two codes that clients look for, whatever the receipt calls the limit: one that
    waiting a while will not lift is a quota, as with OpenAI.
    """
    code = refusal.code or error_code(refusal.status, refusal.message, refusal.param)
    if refusal.status == 429:
        code = "insufficient_quota" if refusal.should_retry is False else _CODE[429]
    return error_object(refusal.message, error_kind(refusal.status), param=refusal.param, code=code)


def refuse(refusal: Refusal, request_id: str) -> Reply:
    """Our "no" as a whole answer. `x-request-id` is where OpenAI's SDKs look for the id."""
    headers = [JSON, *refusal_headers(refusal)]
    if request_id:
        headers.append((b"x-request-id", request_id.encode("latin-1", "replace")))
    return Reply(status=refusal.status, headers=headers, body=encode(refusal_object(refusal)))


def fault_object(fault: ApiError, status: int = 0) -> dict[str, Any]:
    """An upstream's error: its own words, in the other shape. Its 401 is about our credential, not the client's key."""
    code = fault.code or (None if status == 401 else error_code(status, fault.message))
    return error_object(fault.message or f"the upstream answered {status or 'an error'}", fault.type, code=code)


def upstream_error(status: int, body: bytes) -> bytes:
    """An upstream's error body of any kind. Anything else, such as a proxy's page, is not quoted."""
    fault = read_error(body)
    if fault is None:
        fault = ApiError(type=error_kind(status), message=f"the upstream answered {status} without an explanation")
    return encode(fault_object(fault, status))


def unreadable(error: Garbled) -> Refusal:
    """A 200 that is not a message: for the client that is a bad gateway."""
    return Refusal(status=502, message=str(error), code="bad_upstream_answer")


CUT_SHORT = ApiError(type="api_error", message="the upstream ended the stream before the message was complete")


# --- answers

_FINISH = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "compaction": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def finish_reason(stop_reason: str | None) -> str:
    """Chat's finish_reason. end_turn, stop_sequence, pause_turn and what is unknown are "stop"."""
    return _FINISH.get(stop_reason or "", "stop")


def chat_usage(counts: UsageCounts) -> dict[str, Any]:
    """Chat's usage. OpenAI counts cached tokens within the prompt, the Claude API beside it."""
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.output,
        "total_tokens": counts.prompt + counts.output,
        "prompt_tokens_details": {"cached_tokens": counts.cache_read, "cache_write_tokens": counts.cache_write},
        "completion_tokens_details": {"reasoning_tokens": counts.thinking},
    }


def responses_usage(counts: UsageCounts) -> dict[str, Any]:
    """The usage of a Responses object."""
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cache_read, "cache_write_tokens": counts.cache_write},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.thinking},
        "total_tokens": counts.prompt + counts.output,
    }


EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
_RESTATED = frozenset({b"content-type", b"content-length", b"x-request-id", b"relayd-ignored"})


def answer_headers(headers: HeaderPairs, hints: Hints) -> HeaderPairs:
    """The client's headers of an answer, streamed or whole as the upstream's content type says.

    `relayd-ignored` names the parameters that had no effect. The length is no longer what it was.
    """
    seen = Headers(headers)
    streamed = seen.text(b"content-type").lower().startswith("text/event-stream")
    pairs = [pair for pair in headers if pair[0] not in _RESTATED]
    pairs.append(EVENT_STREAM if streamed else JSON)
    request_id = seen.get(b"request-id")
    if request_id:
        pairs.append((b"x-request-id", request_id))
    for name, words in ((b"relayd-ignored", hints.ignored), (b"relayd-mended", hints.mended)):
        if words:
            pairs.append((name, ", ".join(words).encode("ascii", "replace")))
    return pairs


def rate_headers(headers: HeaderPairs, now: float) -> HeaderPairs:
    """A key's own window (`anthropic-ratelimit-*`, as relayd sends it) under OpenAI's names.

    Args:
        now: Unix time, s. OpenAI's reset is a duration, the Claude API's a moment.
    """
    pairs: HeaderPairs = []
    for name, value in headers:
        parts = name.split(b"-")
        if len(parts) != 4 or not name.startswith(b"anthropic-ratelimit-") or parts[2] not in (b"requests", b"tokens"):
            continue
        restated = _until(value, now) if parts[3] == b"reset" else value
        pairs.append((b"x-ratelimit-" + parts[3] + b"-" + parts[2], restated))
    return pairs


def _until(moment: bytes, now: float) -> bytes:
    try:
        then = datetime.datetime.fromisoformat(moment.decode("ascii")).timestamp()
    except ValueError:
        return b"0s"
    return b"%ds" % max(0, round(then - now))


# --- models


def model_object(entry: ModelEntry, owned_by: str = "anthropic") -> dict[str, Any]:
    """One model as OpenAI's `GET /v1/models/{id}` gives it; `created` in Unix seconds. One that goes is marked."""
    own = {"id": entry.id, "object": "model", "created": _unix(entry.created), "owned_by": owned_by}
    marks = {name: entry.more[name] for name in ("lifecycle", "retires_at") if name in entry.more}
    return own | (marks if marks.get("lifecycle") != "active" else {})


def models_list(entries: Iterable[ModelEntry], owned_by: str = "anthropic") -> bytes:
    """OpenAI's `GET /v1/models`."""
    return encode({"object": "list", "data": [model_object(entry, owned_by) for entry in entries]})


def _unix(moment: str) -> int:
    try:
        return int(datetime.datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return 0
