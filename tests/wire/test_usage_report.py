"""Whatever shape the usage of an answer has, what can be read of it is read, and every inference is counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.meter import Meter
from relayd.wire.usage import Usage, UsagePart, usage_of_message
from relayd.wire.usage_report import ABSURD, MOST_ITERATIONS, read_count

FABLE, OPUS, HAIKU = "claude-fable-5-1", "claude-opus-5-5", "claude-haiku-5-5"


def entry(kind: str, *, model: str | None = None, read: int = 0, into: int = 0, out: int = 0) -> dict[str, Any]:
    found = {"type": kind, "input_tokens": into, "cache_read_input_tokens": read, "output_tokens": out}
    return {**found, "cache_creation_input_tokens": 0} | ({"model": model} if model else {})


def answer(usage: object, **more: object) -> bytes:
    return json.dumps({"type": "message", "model": OPUS, "content": [], "usage": usage, **more}).encode()


def event(name: str, document: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), json.dumps(document).encode())


def streamed(start: object, delta: object, *between: bytes, stop: bool = True, **said: object) -> Meter:
    meter = Meter()
    pieces = [
        event("message_start", {"type": "message_start", "message": {"id": "m", "model": OPUS, "usage": start}}),
        *between,
        event("message_delta", {"type": "message_delta", "delta": said, "usage": delta}),
        *([event("message_stop", {"type": "message_stop"})] if stop else []),
    ]
    for byte in b"".join(pieces):
        meter.feed(bytes([byte]))
    return meter


def read(body: bytes) -> Usage:
    usage = usage_of_message(body)
    assert usage is not None
    return usage


# -- iterations: the figures are those of the API's documentation --------------------------------------------------

COMPACTION = {
    "input_tokens": 23000,
    "output_tokens": 1000,
    "iterations": [entry("compaction", into=180000, out=3500), entry("message", into=23000, out=1000)],
}
ADVISOR = {
    "input_tokens": 412,
    "output_tokens": 531,
    "iterations": [
        entry("message", into=412, out=89),
        entry("advisor_message", model=FABLE, into=823, out=1612),
        entry("message", into=1348, read=412, out=442),
    ],
}
FALLBACK = {
    "input_tokens": 100,
    "output_tokens": 50,
    "iterations": [
        entry("message", model=FABLE, read=560186, out=299),
        entry("fallback_message", model=OPUS, into=100, out=50),
    ],
}


def test_a_compaction_comes_on_top() -> None:
    usage = read(answer(COMPACTION))

    assert (usage.input, usage.output) == (203000, 4500)
    assert usage.rest.total == 0  # each prompt is long or short by itself
    assert [part.usage.input for part in usage.parts] == [23000, 180000]


def test_an_advisor_is_a_part_of_its_own_model_and_every_prompt_of_the_tool_loop_counts() -> None:
    usage = read(answer(ADVISOR))

    assert (usage.input, usage.cache_read, usage.output) == (412 + 1348 + 823, 412, 531 + 1612)
    assert UsagePart(model=FABLE, usage=Usage(input=823, output=1612)) in usage.parts


def test_an_attempt_that_declined_in_mid_output_is_counted_beside_the_one_that_served() -> None:
    usage = read(answer(FALLBACK))

    assert (usage.input, usage.cache_read, usage.output) == (100, 560186, 349)
    assert [part.model for part in usage.parts] == ["", FABLE]
    assert usage.model == OPUS


@pytest.mark.parametrize(
    ("category", "waived"), [("cyber", True), (None, True), ("bio", False), ("frontier_llm", False)]
)
@pytest.mark.parametrize("how", ["whole", "stream"])
def test_an_attempt_that_declined_before_any_output_is_billed_by_its_category(
    category: str | None, waived: bool, how: str
) -> None:
    listed = [entry("message", model=FABLE, into=9000), entry("fallback_message", model=OPUS, into=100, out=50)]
    report = {"input_tokens": 100, "output_tokens": 50, "iterations": listed}
    block = {
        "type": "fallback",
        "from": {"model": FABLE},
        "to": {"model": OPUS},
        "trigger": {"type": "refusal", "category": category},
    }
    if how == "whole":
        usage = read(answer(report, content=[block]))
    else:
        start = event("content_block_start", {"type": "content_block_start", "index": 0, "content_block": block})
        usage = streamed({"input_tokens": 100, "output_tokens": 1}, report, start).usage

    assert [part.usage.free for part in usage.parts] == [False, waived]
    assert usage.input == 9100  # the tokens stay in the books


def test_an_attempt_that_declined_for_an_untold_reason_counts_as_billed() -> None:
    listed = [entry("message", model=FABLE, into=9000), entry("fallback_message", model=OPUS, into=100, out=50)]

    assert not any(part.usage.free for part in read(answer({"iterations": listed})).parts)


def test_a_refusal_before_any_output_is_free_except_in_the_categories_that_are_billed() -> None:
    for category, free in (("cyber", True), (None, True), ("bio", False), ("reasoning_extraction", False)):
        details = {"type": "refusal", "category": category}
        for output in (0, 3):
            report = {"input_tokens": 106, "output_tokens": output}
            whole = read(answer(report, stop_reason="refusal", stop_details=details))
            stream = streamed({"input_tokens": 106}, report, stop_reason="refusal", stop_details=details).usage
            assert whole.free == stream.free == (free and not output)
            assert whole.input == stream.input == 106


@pytest.mark.parametrize("report", [COMPACTION, ADVISOR, FALLBACK])
def test_a_stream_and_a_whole_answer_tell_the_same(report: dict[str, Any]) -> None:
    start = {name: value for name, value in report.items() if name != "iterations"} | {"output_tokens": 1}
    meter = streamed(start, report)

    assert meter.usage_so_far() == read(answer(report))
    assert meter.final


def test_a_stream_that_another_model_took_over_is_the_others_and_counts_nothing_twice() -> None:
    start = {"input_tokens": 0, "cache_read_input_tokens": 560186, "output_tokens": 3}
    meter = Meter()
    meter.feed(event("message_start", {"message": {"model": FABLE, "usage": start}}))
    meter.feed(event("message_delta", {"usage": FALLBACK}) + event("message_stop", {}))

    assert meter.usage == read(answer(FALLBACK))
    assert meter.usage.model == OPUS


def test_a_chain_in_which_every_model_declined_before_any_output_costs_what_its_categories_cost() -> None:
    listed = [entry("message", model=FABLE, into=50), entry("message", model=OPUS, into=70)]
    block = {"type": "fallback", "from": {"model": FABLE}, "trigger": {"type": "refusal", "category": "cyber"}}
    usage = read(
        answer({"input_tokens": 70, "output_tokens": 0, "iterations": listed}, content=[block], stop_reason="refusal")
    )

    assert usage.input == 120
    assert all(part.usage.free for part in usage.parts)
    assert usage.free


def test_a_list_that_is_cumulative_replaces_the_one_before() -> None:
    meter = streamed(ADVISOR | {"iterations": ADVISOR["iterations"][:2]}, ADVISOR)  # type: ignore[index]

    assert meter.usage == read(answer(ADVISOR))


def test_an_ordinary_answer_has_no_parts() -> None:
    for listed in ([], [entry("message", into=5, out=7)], [entry("message", model=OPUS, into=5, out=7)]):
        assert read(answer({"input_tokens": 5, "output_tokens": 7, "iterations": listed})) == Usage(
            input=5, output=7, model=OPUS
        )


# -- odd values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (100, 100), (100.0, 100), ("100", 100), (" 100 ", 100), ("100.0", 100), (0, 0), (ABSURD, ABSURD),
        (ABSURD + 1, None), (-1, None), ("-1", None), (100.5, None), ("x", None), ("", None), (True, None),
        ([], None), ({}, None), (1e300, None), ("9" * 5000, None), ("١٠٠", None), (2**64, None), (float("nan"), None),
    ],
)  # fmt: skip
def test_a_count_is_read_however_it_is_written(value: object, count: int | None) -> None:
    assert read_count(value) == count


def test_one_field_of_a_wrong_type_does_not_hide_the_others() -> None:
    usage = read(
        answer(
            {
                "input_tokens": 100.0,
                "output_tokens": "87",
                "cache_read_input_tokens": [],
                "cache_creation": [],
                "service_tier": 5,
                "server_tool_use": "none",
                "iterations": 3,
            }
        )
    )

    assert (usage.input, usage.output, usage.cache_read) == (100, 87, 0)
    assert {"cache_read", "service_tier", "iterations"} <= usage.doubts
    assert not {"input", "output"} & usage.doubts


def test_an_absurd_number_is_a_doubt_and_a_later_report_ends_it() -> None:
    assert read(answer({"input_tokens": 5, "output_tokens": 10**30})).doubts == {"output"}
    assert streamed({"input_tokens": -1, "output_tokens": 2**70}, {"output_tokens": 9}).usage.doubts == {"input"}


def test_an_endless_list_of_iterations_is_read_up_to_a_bound() -> None:
    usage = read(answer({"iterations": [entry("message", out=1)] * (MOST_ITERATIONS + 5)}))

    assert usage.output == MOST_ITERATIONS
    assert "iterations" in usage.doubts


def test_a_message_without_usage_is_all_doubt_and_anything_else_carries_none() -> None:
    assert read(b'{"type":"message","content":[]}').doubts == {"input", "output"}
    assert usage_of_message(b'{"type":"error","error":{}}') is None
    assert usage_of_message(b"<html>") is None


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)  # JSON has neither
    | st.text(max_size=5)
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "output_tokens",
    "output_tokens_details", "server_tool_use", "service_tier", "inference_geo", "speed", "iterations", "type", "model",
)  # fmt: skip
WILD = st.dictionaries(
    st.sampled_from(NAMES), ANY | st.lists(st.dictionaries(st.sampled_from(NAMES), ANY, max_size=6) | ANY, max_size=4)
)


@settings(deadline=None, max_examples=300)
@given(usage=WILD | ANY, more=st.dictionaries(st.sampled_from(["type", "model", "content", "stop_reason"]), ANY))
def test_any_json_in_any_place_raises_nothing_and_hides_nothing(usage: Any, more: dict[str, Any]) -> None:
    body = json.dumps({"usage": usage, "stop_details": more, **more}).encode()
    told = usage_of_message(body)
    meter = Meter()
    meter.feed(event("message_start", {"message": {"usage": usage, **more}}))
    meter.feed(event("content_block_start", {"content_block": {"type": "fallback", "from": usage, **more}}))
    meter.feed(event("message_delta", {"usage": usage, "delta": more}))
    meter.feed(event("message_start", {"message": usage}))

    for found in (told, meter.usage_so_far()):
        if found is None or not isinstance(usage, dict):
            continue
        for name, field in (
            ("input_tokens", "input"),
            ("output_tokens", "output"),
            ("cache_read_input_tokens", "cache_read"),
        ):
            count = usage.get(name)
            if type(count) is int and 0 <= count <= ABSURD:
                assert getattr(found, field) >= count
            elif count is not None and count not in ("", False):
                assert field in found.doubts or getattr(found, field) >= 0
        for one in (found, found.rest, *(part.usage for part in found.parts)):
            assert min(one.input, one.output, one.cache_read, one.cache_write_5m, one.cache_write_1h, one.total) >= 0
            assert one.total <= 10 * ABSURD * MOST_ITERATIONS
        assert found.rest.total + sum(part.usage.total for part in found.parts) >= found.total or not found.parts


# -- without a last word -------------------------------------------------------------------------------------------

TEXT = event("content_block_delta", {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 300}})


def test_a_neat_end_without_usage_is_no_last_word() -> None:
    meter = Meter()
    meter.feed(event("message_start", {"message": {"usage": {"input_tokens": 5, "output_tokens": 1}}}))
    meter.feed(TEXT * 10)
    meter.feed(event("message_delta", {"delta": {"stop_reason": "end_turn"}}) + event("message_stop", {}))

    assert meter.finished
    assert not meter.final
    assert meter.usage_so_far().output > 500


def test_a_stream_that_says_nothing_of_usage_is_known_to_by_its_bytes() -> None:
    meter = Meter()
    meter.feed(b"\x28\xb5\x2f\xfd something that no one can read" * 20)

    assert not meter.seen
    assert not meter.final
    assert meter.passed > 500


def test_an_event_beyond_the_bound_leaves_its_counts_in_doubt() -> None:
    meter = Meter()
    meter.feed(event("message_start", {"message": {"usage": {"input_tokens": 5, "output_tokens": 1}}}))
    large = event("message_delta", {"delta": "x" * 300_000, "usage": {"output_tokens": 87}})
    for piece in (large[:290_000], large[290_000:], event("message_stop", {})):
        meter.feed(piece)

    assert meter.lost
    assert not meter.final
    assert meter.usage.doubts == {"output"}
