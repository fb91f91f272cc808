"""Faults do exactly what they say, when they say."""

from __future__ import annotations

from typing import Any

import pytest
from simulated import ask, call, events_of, header, text_of, value_of

from relayd.config.snapshot import Simulator
from relayd.simulator.faults import FIELDS, read_setting

STREAM = ask(stream=True)


def test_a_status_answers_with_the_error_that_belongs_to_it() -> None:
    for status, kind in (
        (401, "authentication_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ):
        script = call(STREAM, settings=Simulator(status=status))
        assert (script.status, value_of(script)["error"]["type"]) == (status, kind)
        assert header(script, "retry-after") is None


def test_an_error_type_and_retry_after_can_be_chosen() -> None:
    script = call(ask(), x_simulate_status="500", x_simulate_error_type="overloaded_error", x_simulate_retry_after="7")
    assert (script.status, value_of(script)["error"]["type"]) == (500, "overloaded_error")
    assert header(script, "retry-after") == "7"


def test_a_redirect_points_elsewhere_and_has_no_body() -> None:
    script = call(ask(), x_simulate_status="307")
    assert (script.status, header(script, "location")) == (307, "https://elsewhere.invalid/v1/messages")
    assert text_of(script) == b""


def test_another_success_status_keeps_the_answer() -> None:
    assert call(ask(), x_simulate_status="203").status == 203
    assert value_of(call(ask(), x_simulate_status="203")) == value_of(call(ask()))


@pytest.mark.parametrize("count", [0, 1, 4, 10_000])
def test_a_cut_comes_after_so_many_events(count: int) -> None:
    whole = events_of(text_of(call(STREAM)))
    script = call(STREAM, settings=Simulator(cut_after=count))
    assert script.end == "cut"
    assert events_of(text_of(script)) == whole[:count]


@pytest.mark.parametrize("count", [0, 1, 4, 10_000])
def test_an_error_event_comes_after_so_many_events_and_is_the_last(count: int) -> None:
    whole = events_of(text_of(call(STREAM)))
    script = call(STREAM, settings=Simulator(error_after=count, error_type="api_error"))
    *before, last = events_of(text_of(script))
    assert script.end == "proper"
    assert before == whole[:count]
    assert last["error"]["type"] == "api_error"
    assert last["request_id"] == header(script, "request-id")


def test_of_a_cut_and_an_error_event_the_earlier_one_happens() -> None:
    assert call(STREAM, settings=Simulator(cut_after=2, error_after=5)).end == "cut"
    later = call(STREAM, settings=Simulator(cut_after=5, error_after=2))
    assert later.end == "proper"
    assert len(events_of(text_of(later))) == 3


def test_bad_framing_breaks_in_mid_stream() -> None:
    script = call(STREAM, settings=Simulator(bad_framing=True))
    assert script.end == "bad-framing"
    assert len(events_of(text_of(script))) == 3
    assert len(events_of(text_of(call(STREAM, settings=Simulator(bad_framing=True, cut_after=6))))) == 6


def test_a_plain_answer_is_cut_in_the_middle_of_what_it_promised() -> None:
    whole = text_of(call(ask()))
    script = call(ask(), x_simulate_cut_after="1")
    assert script.end == "cut"
    assert script.length == len(whole)
    assert text_of(script) == whole[: len(whole) // 2]


def test_an_error_event_is_no_matter_of_plain_answers() -> None:
    assert text_of(call(ask(), settings=Simulator(error_after=1))) == text_of(call(ask()))


def test_a_dropped_call_has_no_answer() -> None:
    script = call(ask(), x_simulate_drop="true")
    assert (script.end, text_of(script)) == ("drop", b"")


def test_a_fault_hits_every_nth_call_only() -> None:
    settings = Simulator(every=3, status=500)
    assert [call(ask(), settings=settings, number=n).status for n in range(1, 8)] == [200, 200, 500, 200, 200, 500, 200]


def test_a_fault_in_a_header_hits_its_call_whatever_the_settings_say() -> None:
    settings = Simulator(every=3, status=500, cut_after=1)
    assert call(ask(), settings=settings, number=1, x_simulate_status="503").status == 503
    assert call(ask(), settings=settings, number=3, x_simulate_status="200", x_simulate_cut_after="-1").end == "proper"


def test_pace_and_length_can_be_set_by_header() -> None:
    script = call(STREAM, x_simulate_first_byte="0.5", x_simulate_between="250ms", x_simulate_words="3")
    assert script.delay == 0.5
    steps = list(script.steps)
    assert steps[1][0] == 0.25
    assert sum(b"text_delta" in piece for _, piece in steps) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "99"),
        ("status", "600"),
        ("status", "abc"),
        ("words", "-1"),
        ("words", "1e3"),
        ("words", "9999999"),
        ("between", "-1"),
        ("between", "soon"),
        ("between", ""),
        ("first_byte", "2h"),
        ("cut_after", "1.5"),
        ("bad_framing", "maybe"),
        ("error_type", "Not A Type"),
        ("every", "2"),
        ("nonsense", "1"),
    ],
)
def test_a_bad_value_is_refused_by_the_header_that_has_it(name: str, value: str) -> None:
    script = call(ask(), **{f"x_simulate_{name}": value})
    assert script.status == 400
    assert value_of(script)["error"]["message"].startswith(f"x-simulate-{name.replace('_', '-')}: ")


def test_every_setting_can_be_read_from_its_own_default() -> None:
    for name, field in FIELDS.items():
        assert read_setting(name, str(field.default)) == field.default


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("1.5", 1.5), ("250ms", 0.25), ("2s", 2), ("1m", 60), ("1m30s", 90), ("1h", 3600)]
)
def test_durations_are_seconds_or_written_as_in_the_config(text: str, seconds: float) -> None:
    assert read_setting("between", text) == seconds


def test_an_error_answer_waits_as_long_as_a_good_one() -> None:
    settings: dict[str, Any] = {"first_byte": 3.0}
    assert call(ask(), settings=Simulator(**settings, status=529)).delay == 3.0
