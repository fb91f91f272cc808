"""The Messages dialect: calls in, refusals and model lists out."""

from __future__ import annotations

import json

import pytest
from builders import head

from relayd.wire.anthropic import ModelEntry, Native, error_event, models_page
from relayd.wire.refusal import Refusal

MESSAGES = Native()
ENTRIES = [ModelEntry(id=f"m{number}", display_name=f"M {number}") for number in range(5)]


def test_a_call_is_read_and_its_bytes_are_kept() -> None:
    body = b'{ "model":"claude-x","stream":true, "messages":[{"role":"system","content":"new"}],"future":{} }'
    call = MESSAGES.parse(head("/v1/messages?beta=true"), body)

    assert call.body is body
    assert (call.model, call.stream, call.path, call.query) == ("claude-x", True, "/v1/messages", "beta=true")


def test_a_call_without_a_model_is_refused() -> None:
    with pytest.raises(Refusal) as caught:
        MESSAGES.parse(head(), b'{"messages":[]}')

    assert (caught.value.status, caught.value.param) == (400, "model")


def test_token_counting_never_streams() -> None:
    native = Native(endpoint="count_tokens", path="/v1/messages/count_tokens")

    assert native.parse(head(), b'{"model":"m","stream":true}').stream is False


def test_a_refusal_has_the_apis_own_form() -> None:
    refusal = Refusal(status=429, message="Rate limit exceeded: x", retry_after=7, should_retry=False)
    reply = MESSAGES.refuse(refusal, "req_1")

    assert reply.status == 429
    assert (b"retry-after", b"7") in reply.headers
    assert (b"x-should-retry", b"false") in reply.headers
    assert json.loads(reply.body) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Rate limit exceeded: x"},
        "request_id": "req_1",
    }


def test_an_error_event_is_one_complete_event() -> None:
    event = error_event(Refusal(status=502, message='said "no"\nbye'), "req_1")

    assert event.startswith(b"event: error\ndata: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 3


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ("", ["m0", "m1", "m2", "m3", "m4"], False),
        ("limit=2", ["m0", "m1"], True),
        ("limit=2&after_id=m1", ["m2", "m3"], True),
        ("limit=2&after_id=m3", ["m4"], False),
        ("limit=2&before_id=m4", ["m2", "m3"], False),
        ("after_id=unknown", ["m0", "m1", "m2", "m3", "m4"], False),
    ],
)
def test_model_lists_are_paged(query: str, ids: list[str], more: bool) -> None:
    page = json.loads(models_page(ENTRIES, query))

    assert [entry["id"] for entry in page["data"]] == ids
    assert page["has_more"] is more
    assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])


@pytest.mark.parametrize("limit", ["0", "1001", "x", "-1", "", "9" * 5000])
def test_a_bad_page_limit_is_refused(limit: str) -> None:
    with pytest.raises(Refusal) as caught:
        models_page(ENTRIES, f"limit={limit}")

    assert caught.value.status == 400
