"""What a call takes up that an upstream keeps, and what its answer says is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.wire.meter import Meter
from relayd.wire.peek import peek
from relayd.wire.refusal import Refusal
from relayd.wire.resumed import Resumed, made_by_message


def seen(**fields: Any) -> Resumed:
    return peek(json.dumps({"model": "m", **fields}).encode()).resumed


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, Resumed()),
        ({"thread": None, "container": None}, Resumed()),
        ({"thread": {"type": "create"}}, Resumed(in_thread=True)),
        ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, Resumed(thread="msg_1", in_thread=True)),
        ({"container": "container_1"}, Resumed(container="container_1")),
        ({"container": {"id": "container_1", "skills": [{"id": "x"}]}}, None),
        ({"container": {"id": None, "skills": []}}, Resumed()),
        ({"container": {"skills": []}}, Resumed()),
        ({"thread": [1]}, None),
        ({"container": 5}, None),
        ({"container": {"id": 5}}, None),
    ],
)
def test_the_ids_are_read_or_refused(fields: dict[str, Any], found: Resumed | None) -> None:
    if found is not None:
        assert seen(**fields) == found
        return
    with pytest.raises(Refusal, match="400"):
        seen(**fields)


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"m","container":{"id":"mine","id":"theirs"}}',
        b'{"model":"m","container":{"id":"mine","i\\u0064":"theirs"}}',
        b'{"model":"m","thread":{"previous_message_id":"mine","previous_message_id":"theirs"}}',
        b'{"model":"m","thread":{"type":"create"},"thread":{"type":"continue","previous_message_id":"theirs"}}',
        b'{"model":"m","container":"mine","container":"theirs"}',
    ],
)
def test_an_id_that_may_be_read_in_two_ways_is_refused(text: bytes) -> None:
    with pytest.raises(Refusal, match="400"):
        peek(text)


@pytest.mark.parametrize(
    ("answer", "made"),
    [
        ({"id": "msg_1", "container": {"id": "container_1"}}, ("msg_1", "container_1")),
        ({"id": "msg_1", "container": None}, ("msg_1", "")),
        ({"id": 5, "container": "x"}, ("", "")),
        ([], ("", "")),
    ],
)
def test_what_an_answer_keeps_is_read(answer: Any, made: tuple[str, str]) -> None:
    assert made_by_message(json.dumps(answer).encode()) == made


def event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps({"type": name, **fields}).encode())


@pytest.mark.parametrize("place", ["start", "delta"])
def test_a_stream_names_its_container_at_its_beginning_or_its_end(place: str) -> None:
    named = {"container": {"id": "container_1"}}
    stream = event("message_start", message={"id": "msg_1", **(named if place == "start" else {})})
    stream += event("message_delta", delta=named if place == "delta" else {}) + event("message_stop")
    meter = Meter()
    for at in range(len(stream)):
        meter.feed(stream[at : at + 1])

    assert (meter.message, meter.container) == ("msg_1", "container_1")
