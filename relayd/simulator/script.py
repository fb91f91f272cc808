"""Scripted answers: one answer as it will be given, before anything has been sent.

Rule: pure. A script says what to send and how long to wait before each piece; the daemon does the waiting. Theory: a
script's pieces are made as they are asked for, so that an answer of any length costs the same memory.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from relayd.noun import noun
from relayd.wire.http import HeaderPairs
from relayd.wire.refusal import KIND_BY_STATUS, Refusal

JSON_TYPE = (b"content-type", b"application/json")
STREAM_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")

# proper: the body ends as HTTP wants it; cut: the connection closes in mid-body; bad-framing: a broken chunk;
# drop: the connection closes before the head.
Ending = Literal["proper", "cut", "bad-framing", "drop"]
Step = tuple[float, bytes]  # seconds to wait, then what to send

DIGITS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@noun(kw_only=True)
class Script:
    """An answer to be played.

    Args:
        status: HTTP status.
        headers: without framing; the player adds `content-length` or chunking.
        steps: (seconds to wait, bytes), in order; may be iterated once.
        length: bytes of the whole body; None for a stream.
        delay: seconds before the head.
        end: what happens when the steps are used up.
    """

    status: int
    headers: HeaderPairs
    steps: Iterable[Step]
    length: int | None = None
    delay: float = 0.0
    end: Ending = "proper"


def whole(status: int, headers: HeaderPairs, body: bytes) -> Script:
    """A script that sends `body` in one piece."""
    return Script(status=status, headers=headers, steps=((0.0, body),) if body else (), length=len(body))


def json_script(status: int, value: object, headers: HeaderPairs) -> Script:
    """A script that sends `value` as JSON."""
    return whole(status, [JSON_TYPE, *headers], msgspec.json.encode(value))


def error_value(kind: str, message: str, request_id: str, code: str = "") -> dict[str, object]:
    """The Claude API's error object; `code` stands in its details. Source: API docs, "Errors"; reference SDK."""
    error: dict[str, object] = {"type": kind, "message": message}
    if code:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error, "request_id": request_id}


def error_script(refusal: Refusal, headers: HeaderPairs, request_id: str, *, kind: str = "") -> Script:
    """An error answer; `kind` overrides the type that belongs to the status."""
    more = list(refusal.headers)
    if refusal.retry_after is not None:
        more.append((b"retry-after", str(refusal.retry_after).encode()))
    if refusal.should_retry is not None:
        more.append((b"x-should-retry", b"true" if refusal.should_retry else b"false"))
    value = error_value(kind or refusal.kind, refusal.message, request_id, refusal.error_code)
    return json_script(refusal.status, value, [*headers, *more])


def kind_of(status: int) -> str:
    """The error type of a status: "api_error" for those without one of their own."""
    return KIND_BY_STATUS.get(status, "api_error" if status >= 500 else "invalid_request_error")


def timestamp(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the second, as the API writes times."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seed_of(body: bytes) -> bytes:
    """What identifiers of an answer to `body` are derived from."""
    return hashlib.blake2b(body, digest_size=16).digest()


def make_id(prefix: str, *parts: bytes | int) -> str:
    """An identifier in the API's form (`msg_01...`, 24 characters after `msg_`), derived from `parts` alone."""
    digest = hashlib.blake2b(digest_size=17)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else b"#%d" % part)
    number = int.from_bytes(digest.digest(), "big")
    letters = []
    for _ in range(22):
        number, index = divmod(number, len(DIGITS))
        letters.append(DIGITS[index])
    return f"{prefix}_01{''.join(letters)}"
