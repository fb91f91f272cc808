"""Batches of a test upstream: create, list, look up, cancel, delete, results.

Theory: a batch takes PROCESSING seconds; until then it can be cancelled. Its results are computed when they are read,
one line at a time. Source: API reference, "Message Batches".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import msgspec
from simulated_shelf import Batch, Shelf

from relayd.simulator.answer import events, folded
from relayd.simulator.catalog import page
from relayd.simulator.request import decode, parse_request
from relayd.simulator.script import Script, error_value, json_script, make_id, seed_of, timestamp
from relayd.simulator.tokens import prompt_usage
from relayd.wire.http import HeaderPairs, Headers
from relayd.wire.refusal import Refusal

PROCESSING = 1.0  # seconds: long enough to be cancelled by a test, short enough to be waited for
LIFE = 24 * 3600.0  # seconds until a batch would expire
KEPT = 29 * 86400.0  # seconds its results are kept
MOST_REQUESTS = 100_000  # Source: API reference, "Create a Message Batch"


def create(shelf: Shelf, headers: Headers, body: bytes, now: float, common: HeaderPairs) -> Script:
    """POST /v1/messages/batches. Raises: Refusal (400, 413)."""
    requests = decode(body).get("requests")
    if not isinstance(requests, list) or not 1 <= len(requests) <= MOST_REQUESTS:
        raise Refusal(status=400, message=f"requests: a list of 1 to {MOST_REQUESTS} requests is required")
    batch = Batch(
        id=make_id("msgbatch", seed_of(body), shelf.next_serial()),
        created=now,
        size=len(body),
        requests=tuple(_request(request, f"requests.{index}") for index, request in enumerate(requests)),
    )
    if len({name for name, _ in batch.requests}) < len(batch.requests):
        raise Refusal(status=400, message="requests: custom_id must be unique within a batch")
    shelf.batches.put(batch)
    return json_script(200, described(batch, headers, now), common)


def _request(request: object, place: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(request, dict):
        raise Refusal(status=400, message=f"{place}: Input should be a valid dictionary")
    name, params = request.get("custom_id"), request.get("params")
    if not isinstance(name, str) or not 1 <= len(name) <= 64:
        raise Refusal(status=400, message=f"{place}.custom_id: a string of 1 to 64 characters is required")
    if not isinstance(params, dict):
        raise Refusal(status=400, message=f"{place}.params: Field required")
    return name, params


def listed(shelf: Shelf, headers: Headers, query: str, now: float, common: HeaderPairs) -> Script:
    """GET /v1/messages/batches."""
    return json_script(
        200, page([described(batch, headers, now) for batch in shelf.batches.newest_first()], query), common
    )


def found(shelf: Shelf, batch_id: str) -> Batch:
    """Raises: Refusal (404)."""
    batch = shelf.batches.things.get(batch_id)
    if batch is None:
        raise Refusal(status=404, message=f"Message Batch not found: {batch_id[:64]}")
    return batch


def cancel(shelf: Shelf, batch: Batch, headers: Headers, now: float, common: HeaderPairs) -> Script:
    """POST /v1/messages/batches/{id}/cancel. Raises: Refusal (400) once it has ended."""
    if ended(batch, now):
        raise Refusal(status=400, message=f"Batch {batch.id} cannot be canceled because it has already ended")
    batch = attrs.evolve(batch, canceled_at=batch.canceled_at or now)
    shelf.batches.put(batch)
    return json_script(200, described(batch, headers, now), common)


def delete(shelf: Shelf, batch: Batch, now: float, common: HeaderPairs) -> Script:
    """DELETE /v1/messages/batches/{id}. Raises: Refusal (400) while it is in progress."""
    if not ended(batch, now):
        raise Refusal(status=400, message=f"Batch {batch.id} cannot be deleted while it is processing: cancel it first")
    del shelf.batches.things[batch.id]
    return json_script(200, {"id": batch.id, "type": "message_batch_deleted"}, common)


def results(batch: Batch, words: int, now: float, common: HeaderPairs) -> Script:
    """GET /v1/messages/batches/{id}/results: JSON lines. Raises: Refusal (400) while it is in progress."""
    if not ended(batch, now):
        raise Refusal(status=400, message=f"Batch {batch.id} has no results yet: it is still processing")
    lines = ((0.0, msgspec.json.encode(line) + b"\n") for line in _result_lines(batch, words))
    return Script(status=200, headers=[(b"content-type", b"application/x-jsonl"), *common], steps=lines)


def _result_lines(batch: Batch, words: int) -> Iterator[dict[str, Any]]:
    for name, params in batch.requests:
        yield {"custom_id": name, "result": {"type": "canceled"} if batch.canceled_at else _result(params, words)}


def _result(params: dict[str, Any], words: int) -> dict[str, Any]:
    seed = seed_of(msgspec.json.encode(params))
    try:
        request = parse_request(params)
    except Refusal as refusal:
        return {"type": "errored", "error": error_value(refusal.kind, refusal.message, make_id("req", seed))}
    message = folded(events(request, prompt_usage(request), seed, words))
    message["usage"]["service_tier"] = "batch"
    return {"type": "succeeded", "message": message}


def ended(batch: Batch, now: float) -> bool:
    """Whether the batch has been worked off, or its cancelling has."""
    return now >= (batch.canceled_at or batch.created) + PROCESSING


def described(batch: Batch, headers: Headers, now: float) -> dict[str, Any]:
    """A batch as the API shows it."""
    over, count = ended(batch, now), len(batch.requests)
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    if not over:
        counts["processing"] = count
    elif batch.canceled_at:
        counts["canceled"] = count
    else:
        counts["errored"] = sum(not _valid(params) for _, params in batch.requests)
        counts["succeeded"] = count - counts["errored"]
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if over else "canceling" if batch.canceled_at else "in_progress",
        "request_counts": counts,
        "created_at": timestamp(batch.created),
        "expires_at": timestamp(batch.created + LIFE),
        "ended_at": timestamp((batch.canceled_at or batch.created) + PROCESSING) if over else None,
        "cancel_initiated_at": timestamp(batch.canceled_at) if batch.canceled_at else None,
        "archived_at": None,
        "results_url": f"{_origin(headers)}/v1/messages/batches/{batch.id}/results" if over else None,
    }


def _valid(params: dict[str, Any]) -> bool:
    try:
        parse_request(params)
    except Refusal:
        return False
    return True


def _origin(headers: Headers) -> str:
    """Where the caller reached us. The API names its own origin there; the simulator itself speaks no TLS."""
    host = headers.text(b"host") or "api.anthropic.com"
    return f"https://{host}" if host == "api.anthropic.com" else f"http://{host}"
