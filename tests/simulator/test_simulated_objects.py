"""The test upstream with batches and files: the SDK reads them, any bytes are answered, what is kept is bounded."""

from __future__ import annotations

import json

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import NOON, Wireless, ask, call, client, text_of, value_of
from simulated_objects import routes_of
from simulated_shelf import MOST_OBJECTS, Shelf


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=80))
def test_any_bytes_are_answered_or_refused_in_form(body: bytes) -> None:
    for target in ("/v1/messages/batches", "/v1/files"):
        script = call(body, target=target, routes=routes_of(Shelf()))
        assert script.status in (400, 200)
        json.loads(text_of(script))


def test_a_batch_is_made_waited_for_read_and_deleted() -> None:
    transport = Wireless(routes=routes_of(Shelf()))
    sdk = client(transport)
    made = sdk.messages.batches.create(
        requests=[{"custom_id": "good", "params": ask()}, {"custom_id": "bad", "params": {**ask(), "messages": []}}]
    )
    assert made.processing_status == "in_progress"
    with pytest.raises(anthropic.BadRequestError, match="while it is processing"):
        sdk.messages.batches.delete(made.id)
    transport.now = NOON + 2
    ended = sdk.messages.batches.retrieve(made.id)
    assert ended.processing_status == "ended"
    assert (ended.request_counts.succeeded, ended.request_counts.errored) == (1, 1)
    results = {line.custom_id: line.result for line in sdk.messages.batches.results(made.id)}
    assert results["good"].type == "succeeded"
    assert results["good"].message.usage.service_tier == "batch"
    assert results["bad"].type == "errored"
    assert [batch.id for batch in sdk.messages.batches.list()] == [made.id]
    assert sdk.messages.batches.delete(made.id).id == made.id
    assert list(sdk.messages.batches.list()) == []


def test_a_batch_that_is_cancelled_in_time_has_no_answers() -> None:
    transport = Wireless(routes=routes_of(Shelf()))
    sdk = client(transport)
    made = sdk.messages.batches.create(requests=[{"custom_id": "one", "params": ask()}])
    assert sdk.messages.batches.cancel(made.id).processing_status == "canceling"
    transport.now = NOON + 2
    assert [line.result.type for line in sdk.messages.batches.results(made.id)] == ["canceled"]
    with pytest.raises(anthropic.BadRequestError, match="already ended"):
        sdk.messages.batches.cancel(made.id)


def test_a_file_comes_back_as_it_was_sent() -> None:
    sdk = client(Wireless(routes=routes_of(Shelf())))
    content = b"\r\n--\x00\xff\r\n" * 99
    made = sdk.files.upload(file=("räksmörgås.bin", content, "application/x-thing"))
    assert (made.filename, made.mime_type, made.size_bytes) == (
        "räksmörgås.bin", "application/x-thing", len(content),
    )  # fmt: skip
    assert sdk.files.retrieve_metadata(made.id) == made
    assert [file.id for file in sdk.files.list()] == [made.id]
    assert sdk.files.download(made.id).read() == content
    assert sdk.files.delete(made.id).id == made.id
    with pytest.raises(anthropic.NotFoundError):
        sdk.files.retrieve_metadata(made.id)


def test_many_files_are_listed_page_by_page() -> None:
    sdk = client(Wireless(routes=routes_of(Shelf())))
    made = [sdk.files.upload(file=(f"{number}.txt", b"same")).id for number in range(7)]
    assert [file.id for file in sdk.files.list(limit=3)] == made[::-1]


def test_a_shelf_keeps_a_bounded_number_of_files() -> None:
    shelf = Shelf()
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    for _ in range(MOST_OBJECTS + 3):
        made = call(body, target="/v1/files", routes=routes_of(shelf), content_type="multipart/form-data; boundary=b")
        assert made.status == 200
    assert len(shelf.files.things) == MOST_OBJECTS
    assert value_of(made)["id"] in shelf.files.things


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("application/json", b"{}", "multipart/form-data"),
        ("multipart/form-data; boundary=b", b"--b\r\n", "closing boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\nnothing\r\n--b--\r\n", "no header section"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: x; name="y"\r\n\r\n\r\n--b--\r\n',
            "file: Field",
        ),
    ],
)
def test_an_upload_that_is_none_is_refused(content_type: str, body: bytes, message: str) -> None:
    script = call(body, target="/v1/files", routes=routes_of(Shelf()), content_type=content_type)
    assert script.status == 400
    assert message in value_of(script)["error"]["message"]
