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
        ({"container": {"skills": [{"type": "anthropic", "skill_id": "pptx", "version": "latest"}]}}, Resumed()),
        ({"container": {"skills": [{"type": "custom", "skill_id": "skill_1"}]}}, Resumed(skills=("skill_1",))),
        ({"container": {"skills": [{"type": "anthropic", "skill_id": "skill_1"}]}}, Resumed(skills=("skill_1",))),
        ({"container": {"skills": [{"skill_id": "plain"}]}}, Resumed(skills=("plain",))),
        (
            {
                "container": {
                    "id": "container_1",
                    "skills": [{"type": "custom", "skill_id": f"skill_{n}"} for n in "ba"],
                }
            },
            Resumed(container="container_1", skills=("skill_a", "skill_b")),
        ),
        ({"container": {"skills": [{"type": "custom"}]}}, Resumed()),
        ({"container": {"skills": {"skill_id": "skill_1"}}}, None),
        ({"container": {"skills": [{"type": "custom", "skill_id": 5}]}}, None),
        ({"container": {"skills": [{"type": "custom", "skill_id": "a", "more": {"skill_id": "b"}}]}}, None),
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
        b'{"model":"m","container":{"skills":[{"skill_id":"mine","skill_id":"theirs"}]}}',
        b'{"model":"m","container":{"skills":[{"skill_id":"mine"}],"skills":[{"skill_id":"theirs"}]}}',
        b'{"model":"m","container":{"skills":[{"skill_id":"mine","skill\\u005fid":"theirs"}]}}',
    ],
)
def test_an_id_that_may_be_read_in_two_ways_is_refused(text: bytes) -> None:
    with pytest.raises(Refusal, match="400"):
        peek(text)


def test_a_type_that_stands_twice_makes_no_skill_the_apis_own() -> None:
    skill = b'{"type":"custom","skill_id":"plain","type":"anthropic"}'
    assert peek(b'{"model":"m","container":{"skills":[%b]}}' % skill).resumed.skills == ("plain",)


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
