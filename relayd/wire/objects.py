"""Batches, files and skills: what relayd must know of the JSON of the APIs that keep objects.

Rule: bytes pass as they came, but for the one value that names the upstream's own address, `results_url`. Bodies of
batches are long lists, so nothing is decoded that is not asked about.

Source: API reference, "Message Batches", "Files" and "Skills".
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import msgspec

from relayd.wire.json_escapes import NOT_JSON, may_be_escaped
from relayd.wire.peek import Peeked, doubled_key, peek, text_span
from relayd.wire.refusal import Refusal

MOST_REQUESTS = 100_000  # in a batch; API reference, "Create a Message Batch"

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FILE = re.compile(rb'"file_id"[ \t\r\n]*:[ \t\r\n]*"([A-Za-z0-9_-]{1,128})"')
_THE_APIS_OWN = ("anthropic", "anthropic_example")  # of a skill's `source`; API reference, "Skills"
_CURSOR = re.compile(r"[!-~]{1,2000}")  # opaque, but a text that is sent back in a query


class _Named(msgspec.Struct):
    id: str = ""


class _Entry(msgspec.Struct):
    params: msgspec.Raw = msgspec.Raw()


class _Batch(msgspec.Struct):
    requests: list[msgspec.Raw] | None = None


class _Page(msgspec.Struct):
    data: list[msgspec.Raw] = []
    has_more: bool | None = None
    next_page: str | None = None
    last_id: str | None = None


class _Listed(msgspec.Struct):
    id: str = ""
    created_at: str = ""


class _Sourced(msgspec.Struct):
    source: Any = None


_sourced = msgspec.json.Decoder(_Sourced)
_named = msgspec.json.Decoder(_Named)
_batch = msgspec.json.Decoder(_Batch)
_entry = msgspec.json.Decoder(_Entry)
_page = msgspec.json.Decoder(_Page)
_listed = msgspec.json.Decoder(_Listed)


def object_id(body: bytes) -> str:
    """The id of the object that an answer shows; "" when it shows none."""
    try:
        return _named.decode(body).id
    except NOT_JSON:
        return ""


def batch_requests(body: bytes) -> list[Peeked]:
    """What each request of a batch asks for, in order. Takes about 5 us a request: use a thread for large bodies.

    Raises: Refusal (400) for what cannot be read, and for doubled keys: what is checked is what the upstream reads.
    """
    requests = _requests(body)
    if len(requests) > MOST_REQUESTS:
        raise Refusal(status=400, message=f"requests: more than {MOST_REQUESTS} requests", param="requests")
    return [_request(bytes(raw), f"requests.{index}") for index, raw in enumerate(requests)]


def _requests(body: bytes) -> list[msgspec.Raw]:
    try:
        requests = _batch.decode(body).requests
    except NOT_JSON:
        raise Refusal(status=400, message="the request body is not a JSON object with a list of requests") from None
    _refuse_doubled(body, "requests", "")
    if not requests:
        raise Refusal(status=400, message="requests: a list of at least one request is required", param="requests")
    return requests


def _request(raw: bytes, path: str) -> Peeked:
    try:
        params = bytes(_entry.decode(raw).params)
    except NOT_JSON:
        raise Refusal(status=400, message=f"{path}: expected an object", param="requests") from None
    _refuse_doubled(raw, "params", f"{path}.")
    try:
        seen = peek(params or b"{}")
    except Refusal as refusal:
        raise Refusal(status=400, message=f"{path}.params.{refusal.message}", param="requests") from None
    if not seen.model:
        raise Refusal(status=400, message=f"{path}.params.model: field required", param="requests")
    return seen


def _refuse_doubled(raw: bytes, name: str, path: str) -> None:
    try:
        twice = doubled_key(raw, (name,))
    except NOT_JSON:
        raise Refusal(status=400, message=f"{path}{name}: not valid JSON", param="requests") from None
    if twice:
        raise Refusal(status=400, message=f"{path}{name}: the key appears twice", param="requests")


def with_results_url(body: bytes, url: str) -> bytes:
    """A batch with `url` as its `results_url`; null stays null, and every other byte as it was."""
    if b"results_url" not in body:
        return body
    try:
        span = text_span(body, "results_url")
    except NOT_JSON:
        span = None  # not an object, or not an address
    return body if span is None else body[: span[0]] + msgspec.json.encode(url) + body[span[1] :]


def may_name_files(body: bytes) -> bool:
    """Whether a body has to be looked through for files. Nearly every call is done with after these searches."""
    return b'"file_id"' in body or may_be_escaped(body)


def file_ids(body: bytes) -> set[str]:
    """The files that a body names, wherever in it: each text that is called `file_id` and could be an id; where a key
    stands twice, both. The whole of a valid body is read: use a thread for a large one.
    """
    if not may_be_escaped(body):
        return {name.decode() for name in _FILE.findall(body)}
    found: set[str] = set()

    def look(pairs: list[tuple[str, object]]) -> None:
        found.update(
            value for name, value in pairs if name == "file_id" and isinstance(value, str) and _ID.fullmatch(value)
        )

    try:
        json.loads(body, object_pairs_hook=look)
    except (ValueError, RecursionError):
        return set()
    return found


def is_shared_object(raw: bytes) -> bool:
    """Whether an object of a list says that it is the API's own, such as a skill that comes with it."""
    try:
        source = _sourced.decode(raw).source
    except NOT_JSON:
        return False
    kind = source.get("type") if isinstance(source, dict) else source
    return kind in _THE_APIS_OWN


class Unreadable(Exception):
    """The answer is not a page of a list."""


def shared_only(body: bytes) -> bytes | None:
    """A page of a list without what is not the API's own; None where it is no list."""
    try:
        page = _page.decode(body)
        others = sum(not is_shared_object(bytes(raw)) for raw in page.data)
        if not others:
            return body
        rows = [(_listed.decode(raw).id, bytes(raw)) for raw in page.data if is_shared_object(bytes(raw))]
    except NOT_JSON:
        return None
    return write_page(rows, has_more=False)


def read_page(body: bytes) -> tuple[list[tuple[str, str, bytes]], str]:
    """A page of a list: (id, created_at, the object's bytes) in its order, and the query that asks for the next page,
    "" on the last one. Raises: Unreadable, also for a cursor that is none.
    """
    try:
        page = _page.decode(body)
        found = [(one.id, one.created_at, bytes(raw)) for raw in page.data for one in [_listed.decode(raw)]]
    except NOT_JSON:
        raise Unreadable from None
    last = page.last_id or (found[-1][0] if found else "")
    if page.next_page:
        return found, f"page={_cursor(page.next_page)}"
    return found, f"after_id={_cursor(last)}" if page.has_more and last else ""


def _cursor(text: str) -> str:
    """A place in a list, for a query. Raises: Unreadable."""
    if not _CURSOR.fullmatch(text):
        raise Unreadable
    return quote(text, safe="")


def write_page(objects: list[tuple[str, bytes]], has_more: bool) -> bytes:
    """A page of (id, bytes) in the API's form, for clients that page by id and for those that page by cursor."""
    first, last = (objects[0][0], objects[-1][0]) if objects else (None, None)
    rest = msgspec.json.encode(
        {"has_more": has_more, "first_id": first, "last_id": last, "next_page": f"page_{last}" if has_more else None}
    )
    return b'{"data":[' + b",".join(raw for _, raw in objects) + b"]," + rest[1:]
