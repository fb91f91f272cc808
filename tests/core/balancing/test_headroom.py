"""Reading what upstreams say is left."""

from __future__ import annotations

import datetime
import email.utils

import pytest
from builders import headers
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.core.balancing.headroom import Gauge, limited, pull, read_gauges, reset_time, retry_after
from relayd.wire.http import Headers

NOW = 1_790_000_000.0


def rfc3339(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unified(**values: str) -> Headers:
    return headers(**{f"anthropic_ratelimit_unified_{name}": value for name, value in values.items()})


def test_the_windows_of_an_api_key_are_gauges_of_the_model() -> None:
    found = read_gauges(
        headers(
            anthropic_ratelimit_requests_limit="50",
            anthropic_ratelimit_requests_remaining="10",
            anthropic_ratelimit_requests_reset=rfc3339(NOW + 30),
            anthropic_ratelimit_input_tokens_limit="40000",
            anthropic_ratelimit_input_tokens_remaining="40000",
            anthropic_ratelimit_input_tokens_reset=rfc3339(NOW + 1),
        ),
        NOW,
    )

    assert found == (
        Gauge("requests", 0.2, NOW + 30, "model"),
        Gauge("input-tokens", 1.0, NOW + 1, "model"),
    )


def test_the_long_windows_of_a_subscription_are_gauges_of_the_account_and_odd_ones_of_the_model() -> None:
    found = read_gauges(
        unified(
            **{
                "status": "allowed",
                "reset": str(NOW),
                "5h_utilization": "0.25",
                "5h_reset": str(int(NOW) + 3600),
                "7d_utilization": "1.5",
                "7d_reset": str(int(NOW) + 86400),
                "7d_oi_utilization": "0.5",
                "7d_oi_reset": str(int(NOW) + 86400),
                "overage_utilization": "1.0",
                "overage_reset": str(int(NOW) + 86400),
                "grace_5h_utilization": "1.0",
                "5h_surpassed_threshold": "0.2",
            }
        ),
        NOW,
    )

    assert [(gauge.window, gauge.left, gauge.scope) for gauge in found] == [
        ("5h", 0.75, "account"),
        ("7d", 0.0, "account"),
        ("7d-oi", 0.5, "model"),
    ]


def test_a_rejected_window_is_empty_whatever_its_utilization() -> None:
    (gauge,) = read_gauges(
        unified(**{"5h_utilization": "0.1", "5h_status": "rejected", "5h_reset": str(NOW + 60)}), NOW
    )

    assert gauge.left == 0.0


def test_spent_windows_hold_nothing_up_while_paid_overage_serves() -> None:
    spent = {"5h_utilization": "1.0", "5h_reset": str(NOW + 60), "overage_in_use": "true"}

    assert read_gauges(unified(status="allowed", **spent), NOW) == ()
    assert len(read_gauges(unified(status="rejected", **spent), NOW)) == 1


@pytest.mark.parametrize("reset", [str(NOW + 30 * 86400), "1e18", "2030-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_reset_beyond_the_longest_window_is_clamped(reset: str) -> None:
    (gauge,) = read_gauges(unified(**{"7d_utilization": "1.0", "7d_reset": reset}), NOW)

    assert gauge.resets == NOW + 7 * 86400


@pytest.mark.parametrize("fields", [{"retry_after": "118756561"}, {"retry_after_ms": "118756561000"}])
def test_no_answer_makes_an_account_rest_longer_than_the_longest_window(fields: dict[str, str]) -> None:
    found = limited(headers(**fields), NOW)
    assert found is not None
    assert found.until == NOW + 7 * 86400


def test_a_window_that_has_reset_or_cannot_be_read_is_no_gauge() -> None:
    for reset in (str(NOW - 1), "soon", "", "-1", "nan"):
        assert read_gauges(unified(**{"5h_utilization": "1.0", "5h_reset": reset}), NOW) == ()
    assert (
        read_gauges(
            headers(
                anthropic_ratelimit_requests_limit="0",
                anthropic_ratelimit_requests_remaining="0",
                anthropic_ratelimit_requests_reset=rfc3339(NOW + 30),
            ),
            NOW,
        )
        == ()
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 12 ", 12.0),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90.0),
        (email.utils.formatdate(NOW - 90, usegmt=True), 0.0),
        ("-5", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("99999999999", 7 * 86400.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after(headers(retry_after=value), NOW) == seconds


def test_retry_after_in_milliseconds_is_understood() -> None:
    assert retry_after(headers(retry_after_ms="250", retry_after="1"), NOW) == 0.25
    assert retry_after(headers(retry_after_ms="-1", retry_after="1"), NOW) == 1.0


@pytest.mark.parametrize(
    "text",
    [str(int(NOW) + 60), rfc3339(NOW + 60), rfc3339(NOW + 60).replace("Z", "+00:00"), rfc3339(NOW + 60)[:-1]],
)
def test_a_reset_is_epoch_seconds_or_rfc_3339(text: str) -> None:
    assert reset_time(text, NOW) == NOW + 60


def test_a_bare_429_says_nothing() -> None:
    assert limited(headers(), NOW) is None


def test_retry_after_goes_before_the_reset_headers() -> None:
    said = unified(status="rejected", reset=str(NOW + 9000), representative_claim="five_hour")
    said.pairs.append((b"retry-after", b"20"))

    found = limited(said, NOW)
    assert found is not None
    assert (found.until, found.scope) == (NOW + 20, "account")


def test_a_429_without_retry_after_rests_until_what_is_spent_resets() -> None:
    found = limited(
        headers(
            anthropic_ratelimit_requests_limit="50",
            anthropic_ratelimit_requests_remaining="9",
            anthropic_ratelimit_requests_reset=rfc3339(NOW + 300),
            anthropic_ratelimit_input_tokens_limit="40000",
            anthropic_ratelimit_input_tokens_remaining="0",
            anthropic_ratelimit_input_tokens_reset=rfc3339(NOW + 42),
        ),
        NOW,
    )

    assert found is not None
    assert (found.until, found.scope) == (NOW + 42, "model")


@pytest.mark.parametrize(
    ("claim", "scope"),
    [("five_hour", "account"), ("seven_day", "account"), ("seven_day_opus", "model"), ("seven_day_sonnet", "model")],
)
def test_the_representative_claim_says_who_is_limited(claim: str, scope: str) -> None:
    found = limited(unified(status="rejected", reset=str(NOW + 60), representative_claim=claim), NOW)

    assert found is not None
    assert found.scope == scope


def gauge(window: str, left: float, seconds: float) -> Gauge:
    return Gauge(window, left, NOW + seconds, "account")


def test_a_window_about_to_reset_with_much_left_pulls_and_one_spent_early_pushes() -> None:
    soon, late = pull([gauge("5h", 0.5, 600)], NOW), pull([gauge("5h", 0.5, 4 * 3600)], NOW)

    assert soon == 16.0
    assert late < 1.0
    assert pull([gauge("5h", 0.01, 17000)], NOW) == 1 / 16
    assert pull([], NOW) == 1.0
    assert pull([gauge("5h", 0.5, 9000)], NOW) == pytest.approx(1.0)


def test_the_tightest_long_window_decides_and_short_windows_count_with_what_is_left() -> None:
    both = [gauge("5h", 0.5, 600), gauge("7d", 0.5, 302400)]

    assert pull(both, NOW) == pytest.approx(1.0)
    assert pull([*both, gauge("requests", 0.5, 30)], NOW) == pytest.approx(0.5)
    assert pull([gauge("5h", 0.0, -5)], NOW) == 1.0


NAMES = st.sampled_from(
    [b"retry-after", b"retry-after-ms"]
    + [b"anthropic-ratelimit-unified-" + end for end in (b"5h-utilization", b"5h-reset", b"5h-status", b"status", b"-")]
    + [b"anthropic-ratelimit-requests-" + end for end in (b"limit", b"remaining", b"reset")]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=24) | st.from_regex(rb"\A[0-9.eE+-]{1,12}\Z"))))
def test_no_header_whatever_it_holds_is_an_error(pairs: list[tuple[bytes, bytes]]) -> None:
    said = Headers(pairs)

    found = limited(said, NOW)
    gauges = read_gauges(said, NOW)

    assert found is None or NOW <= found.until <= NOW + 9 * 86400
    assert all(0.0 <= one.left <= 1.0 and one.resets > NOW for one in gauges)
    assert 1 / 16 <= pull(gauges, NOW) <= 16
