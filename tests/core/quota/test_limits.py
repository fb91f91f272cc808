import datetime
import zoneinfo

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.snapshot import ApiKey, Limits, LongContext, MicroUsd, ObjectId, Price, Rate, Seconds, Server, Window
from relayd.core.quota.call_estimate import NOTHING, Estimate, dearest_percent, estimate, prompt_bound
from relayd.core.quota.limit_answers import denial, limit_headers, unpriced, usage_document
from relayd.core.quota.limits import (
    Calendar,
    Rolling,
    Slots,
    Term,
    TermLevel,
    counting_terms,
    dollars,
    has_cost_limit,
    key_terms,
    pace_term,
    terms,
)
from relayd.core.quota.usage_record import orphan_of, record_of
from relayd.core.quota.windows import FOREVER, day_of, rfc3339, window_of
from relayd.core.receipt import Receipt
from relayd.wire.peek import wide_bytes
from relayd.wire.usage import Usage

NOW = 1_795_340_096_000  # 2026-11-22T09:34:56Z, a Sunday
RESERVE = Estimate(input=300, output=700, cost=50, input_cost=20)


def key(**limits: object) -> ApiKey:
    return ApiKey(id=ObjectId("dev"), hashes=(), limits=Limits(**limits))  # type: ignore[arg-type]


def of(**limits: object) -> tuple[Term, ...]:
    return key_terms(key(**limits), RESERVE, NOW, "UTC")


def ms(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp() * 1000)


def price(**changes: object) -> Price:
    values = {"input": 4_000_000, "output": 20_000_000, "cache_write_5m": 5_000_000, "cache_write_1h": 8_000_000}
    return Price(**{**values, "cache_read": 200_000, **changes})  # type: ignore[arg-type]


# -- terms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "name", "counter", "cost"),
    [
        ({"rate": Rate(requests=100)}, "100 requests per 1m", "key/dev/requests/1m", 1),
        ({"rate": Rate(requests=5, window=Seconds(90.0))}, "5 requests per 90s", "key/dev/requests/90s", 1),
        ({"tokens_per_minute": 200_000}, "200000 tokens per 1m", "key/dev/tokens/1m", 1000),
        ({"daily_requests": 9}, "daily requests 9", "key/dev/requests/day", 1),
        ({"monthly_requests": 9}, "monthly requests 9", "key/dev/requests/month", 1),
        ({"daily_tokens": 9000}, "daily tokens 9000", "key/dev/tokens/day", 1000),
        ({"monthly_tokens": 9000}, "monthly tokens 9000", "key/dev/tokens/month", 1000),
        ({"daily_cost": 5_000_000}, "daily cost $5.00", "key/dev/cost/day", 50),
        ({"monthly_cost": 12_345_678}, "monthly cost $12.345678", "key/dev/cost/month", 50),
        ({"total_cost": 5_500_000}, "total cost $5.50", "key/dev/cost/total", 50),
        ({"windows": (Window(window="5h", tokens=2000),)}, "2000 tokens per 5h", "key/dev/tokens/5h", 1000),
        ({"windows": (Window(window="week", cost=MicroUsd(70)),)}, "weekly cost $0.00007", "key/dev/cost/week", 50),
        ({"windows": (Window(window="1h", cost=MicroUsd(10**6)),)}, "$1.00 per 1h", "key/dev/cost/1h", 50),
    ],
)
def test_each_limit_is_one_term_with_a_name_for_people(
    limits: dict[str, object], name: str, counter: str, cost: int
) -> None:
    (term,) = of(**limits)
    assert not isinstance(term, Slots)
    assert (term.name, term.counter, term.cost) == (name, counter, cost)


def test_concurrency_is_slots() -> None:
    assert of(concurrency=10) == (Slots(counter="key/dev/slots", name="10 concurrent requests", limit=10),)


def test_a_key_without_limits_has_no_terms() -> None:
    assert of() == ()


def test_a_window_may_limit_several_things() -> None:
    found = of(windows=(Window(window="day", requests=5, tokens=6000, cost=MicroUsd(700)),))
    assert [term.name for term in found] == ["daily requests 5", "daily tokens 6000", "daily cost $0.0007"]


def test_of_two_limits_on_one_window_the_smaller_holds_and_is_charged_once() -> None:
    found = of(rate=Rate(requests=100), windows=(Window(window="60s", requests=40), Window(window="1m", requests=50)))
    assert [(term.counter, term.limit) for term in found] == [("key/dev/requests/1m", 40)]


def test_a_call_larger_than_a_window_takes_the_whole_window() -> None:
    (term,) = of(tokens_per_minute=600)
    assert isinstance(term, Rolling)
    assert (term.limit, term.cost) == (600, 600)


def test_token_counting_has_a_bound_of_its_own_and_no_other() -> None:
    who = key(concurrency=1, rate=Rate(requests=1), count_tokens=600)
    server = Server(max_concurrent_requests=1, rate=Rate(requests=1))
    (term,) = terms(who, server, "count_tokens", NOTHING, NOW, "UTC")
    assert (term.counter, term.name, term.limit) == ("key/dev/counts/1m", "600 token counts per 1m", 600)
    assert terms(key(count_tokens=0), server, "count_tokens", NOTHING, NOW, "UTC") == ()


def test_the_relays_own_limits_come_first() -> None:
    server = Server(max_concurrent_requests=7, rate=Rate(requests=9))
    found = terms(key(rate=Rate(requests=1)), server, "messages", RESERVE, NOW, "UTC")
    assert [term.counter for term in found] == ["relay/slots", "relay/requests/1m", "key/dev/requests/1m"]


def test_an_account_has_a_pace() -> None:
    term = pace_term("account/main", 50)
    assert (term.counter, term.name) == ("account/main/requests/1m", "50 requests per 1m for account/main")


def test_only_a_cost_limit_minds_an_unknown_price() -> None:
    assert has_cost_limit(Limits(total_cost=MicroUsd(1)))
    assert has_cost_limit(Limits(windows=(Window(window="day", cost=MicroUsd(1)),)))
    assert not has_cost_limit(Limits(daily_tokens=1))
    refusal = unpriced(key(), "claude-new", "claude-new")
    assert (refusal.status, refusal.should_retry) == (403, False)
    assert "'claude-new'" in refusal.message


# -- estimates -----------------------------------------------------------------------------------------------------


def test_a_prompt_is_at_most_two_tokens_for_seven_bytes_rounded_up() -> None:
    assert [prompt_bound(length, 0) for length in (0, 1, 7, 8)] == [0, 1, 2, 3]
    assert prompt_bound(32 << 20, 0) == prompt_bound(30 << 20, 20 << 20) == 1_000_000


@pytest.mark.parametrize(("text", "least"), [("é" * 70, 60), ("你" * 70, 105), ("😀" * 70, 140), ("x" * 70, 20)])
def test_text_beyond_ascii_holds_more_tokens_a_byte(text: str, least: int) -> None:
    body = text.encode()
    assert least <= prompt_bound(len(body), wide_bytes(body)) <= 1.1 * least + 2


def test_an_estimate_is_the_prompt_plus_max_tokens() -> None:
    found = estimate(3, 1000, price())
    assert (found.input, found.output, found.tokens) == (3, 1000, 1003)
    assert (found.input_cost, found.cost) == (24, 24 + 20_000)  # all of the prompt at the one-hour write price


def test_without_max_tokens_a_default_is_reserved() -> None:
    assert estimate(0, None, None).output == 4096


def test_a_long_prompt_is_reserved_at_its_own_price() -> None:
    long = LongContext(
        above=10,
        input=MicroUsd(1),
        output=MicroUsd(90_000_000),
        cache_write_5m=MicroUsd(1),
        cache_write_1h=MicroUsd(16_000_000),
        cache_read=MicroUsd(1),
    )
    assert estimate(10, 1, price(long_context=long)).cost == 10 * 8 + 20
    assert estimate(11, 1, price(long_context=long)).cost == 11 * 16 + 90


@pytest.mark.parametrize(
    ("fast", "shares", "percent"),
    [
        (False, {}, 100),
        (False, {"us_percent": 110, "fast_percent": 200}, 110),
        (True, {"us_percent": 110, "fast_percent": 200}, 220),
        (True, {}, 100),
    ],
)
def test_what_makes_a_call_dearer_is_reserved(fast: bool, shares: dict[str, int], percent: int) -> None:
    one = price(**shares)
    assert dearest_percent(one, fast=fast) == percent
    assert estimate(1000, 1000, one, percent).cost == (8000 + 20_000) * percent // 100


def test_a_model_without_a_price_has_no_estimated_cost() -> None:
    assert estimate(10, 10, None).cost is None
    (term,) = key_terms(key(daily_cost=5), estimate(10, 10, None), NOW, "UTC")
    assert isinstance(term, Calendar)
    assert term.cost == 0


# -- calendar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "tz", "start", "end"),
    [
        ("day", "UTC", "2026-11-22T00:00Z", "2026-11-23T00:00Z"),
        ("week", "UTC", "2026-11-16T00:00Z", "2026-11-23T00:00Z"),
        ("month", "UTC", "2026-11-01T00:00Z", "2026-12-01T00:00Z"),
        ("day", "America/New_York", "2026-11-22T00:00-05:00", "2026-11-23T00:00-05:00"),
        ("month", "America/New_York", "2026-11-01T00:00-04:00", "2026-12-01T00:00-05:00"),
        ("day", "Pacific/Kiritimati", "2026-11-22T00:00+14:00", "2026-11-23T00:00+14:00"),
    ],
)
def test_calendar_windows_follow_the_time_zone(kind: str, tz: str, start: str, end: str) -> None:
    assert window_of(kind, NOW, tz) == (ms(start), ms(end))


def test_a_day_in_spring_has_23_hours_and_one_in_autumn_25() -> None:
    hours = [
        (end - start) // 3_600_000
        for start, end in (
            window_of("day", ms(f"{day}T12:00Z"), "Europe/Berlin") for day in ("2026-03-29", "2026-10-25")
        )
    ]
    assert hours == [23, 25]


@pytest.mark.parametrize(
    ("tz", "around"),
    [
        ("America/Sao_Paulo", "2018-11-04T03:00Z"),  # clocks skipped midnight
        ("Pacific/Apia", "2011-12-30T10:00Z"),  # a whole day was skipped
        ("Asia/Beirut", "2022-03-27T00:00Z"),
        ("America/Havana", "2026-03-08T05:00Z"),
        ("Africa/Cairo", "2026-04-23T22:00Z"),
    ],
)
@pytest.mark.parametrize("kind", ["day", "week", "month"])
def test_windows_meet_without_gap_or_overlap_where_midnight_is_missing(tz: str, around: str, kind: str) -> None:
    now = ms(around)
    for at in range(now - 3 * 86_400_000, now + 3 * 86_400_000, 1_800_000):
        start, end = window_of(kind, at, tz)
        assert start <= at < end
        assert window_of(kind, end, tz)[0] == end
        assert window_of(kind, end - 1, tz) == (start, end)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(sorted(zoneinfo.available_timezones() - {"localtime"})),
    st.integers(ms("2001-01-01T00:00Z"), ms("2037-01-01T00:00Z")),
    st.sampled_from(["day", "week", "month"]),
)
def test_windows_tile_the_time_line_in_every_zone(tz: str, now: int, kind: str) -> None:
    start, end = window_of(kind, now, tz)
    assert start <= now < end
    assert window_of(kind, end - 1, tz) == (start, end)
    assert window_of(kind, end, tz)[0] == end


def test_the_day_in_the_books_is_the_local_one() -> None:
    assert day_of(ms("2026-11-22T23:30Z"), "Europe/Berlin") == "2026-11-23"
    assert day_of(ms("2026-11-22T23:30Z"), "UTC") == "2026-11-22"


# -- words ---------------------------------------------------------------------------------------------------------


def test_a_denial_names_the_limit_and_says_when() -> None:
    (term,) = of(rate=Rate(requests=100))
    refusal = denial(term, 11_001, NOW)
    assert refusal.message == "Rate limit exceeded: 100 requests per 1m. Try again in 12 s."
    assert (refusal.status, refusal.kind, refusal.retry_after) == (429, "rate_limit_error", 12)
    assert refusal.should_retry is None


@pytest.mark.parametrize(("wait", "seconds"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (60_000, 60)])
def test_retry_after_is_whole_seconds_rounded_up(wait: int, seconds: int) -> None:
    (term,) = of(rate=Rate(requests=100))
    refusal = denial(term, wait, NOW)
    assert (refusal.retry_after, refusal.should_retry) == (seconds, None)


def test_a_wait_of_more_than_a_minute_is_not_worth_retrying() -> None:
    (term,) = of(daily_cost=5_000_000)
    refusal = denial(term, 86_400_000, NOW)
    assert (
        refusal.message
        == "Rate limit exceeded: daily cost $5.00 (this call may need $0.00005). Try again at 2026-11-23T09:34:56Z."
    )
    assert (refusal.retry_after, refusal.should_retry) == (86_400, False)


def test_a_limit_for_life_says_that_it_does_not_reset() -> None:
    (term,) = of(total_cost=5_000_000)
    refusal = denial(term, FOREVER - NOW, NOW)
    assert (
        refusal.message
        == "Rate limit exceeded: total cost $5.00 (this call may need $0.00005). It does not reset by itself."
    )
    assert (refusal.status, refusal.retry_after, refusal.should_retry) == (429, None, False)


def test_the_keys_concurrency_is_429_and_the_relays_is_529() -> None:
    (ours,) = of(concurrency=2)
    assert denial(ours, 60_000, NOW).message == "Rate limit exceeded: 2 concurrent requests."
    assert (denial(ours, 60_000, NOW).status, denial(ours, 60_000, NOW).retry_after) == (429, 2)
    relays = terms(key(), Server(max_concurrent_requests=5), "messages", NOTHING, NOW, "UTC")[0]
    refusal = denial(relays, 60_000, NOW)
    assert (refusal.status, refusal.kind, refusal.retry_after) == (529, "overloaded_error", 2)


def test_the_headers_show_the_window_with_the_least_left() -> None:
    charged = of(rate=Rate(requests=100), daily_requests=50, tokens_per_minute=9000, concurrency=1)
    used = {"key/dev/requests/1m": 98, "key/dev/requests/day": 40, "key/dev/tokens/1m": 9500, "key/dev/slots": 1}
    standings = tuple(TermLevel(used[term.counter], NOW + 30_500) for term in charged)
    found = limit_headers(charged, standings, NOW)
    assert dict(found) == {
        b"anthropic-ratelimit-requests-limit": b"100",
        b"anthropic-ratelimit-requests-remaining": b"2",
        b"anthropic-ratelimit-requests-reset": b"2026-11-22T09:35:27Z",
        b"anthropic-ratelimit-tokens-limit": b"9000",
        b"anthropic-ratelimit-tokens-remaining": b"0",
        b"anthropic-ratelimit-tokens-reset": b"2026-11-22T09:35:27Z",
    }


def test_the_relays_own_limits_are_not_shown_to_a_client() -> None:
    charged = terms(key(), Server(rate=Rate(requests=9)), "messages", RESERVE, NOW, "UTC")
    assert limit_headers(charged, (TermLevel(1, NOW),), NOW) == []


def test_a_call_admitted_before_has_no_standings_and_no_headers() -> None:
    assert limit_headers(of(rate=Rate(requests=9)), (), NOW) == []


def test_the_usage_document_shows_every_limit_with_what_is_left() -> None:
    who = key(daily_cost=5_000_000, total_cost=9_000_000, concurrency=3)
    shown = key_terms(who, NOTHING, NOW, "UTC") + counting_terms(who, 0)
    standings = (TermLevel(1, NOW + 5), TermLevel(1_250_000, ms("2026-11-23T00:00Z")), TermLevel(9_000_001, FOREVER))
    document = usage_document(who, shown, (*standings, TermLevel(0, NOW)), NOW)
    assert document["key"] == "dev"
    rows = {row["limit_name"]: row for row in document["limits"]}
    assert rows["daily cost $5.00"] == {
        "limit_name": "daily cost $5.00",
        "unit": "cost",
        "limit": "5.00",
        "used": "1.25",
        "remaining": "3.75",
        "resets_at": "2026-11-23T00:00:00Z",
    }
    assert (rows["total cost $9.00"]["remaining"], rows["total cost $9.00"]["resets_at"]) == ("0.00", None)
    assert (rows["3 concurrent requests"]["used"], rows["3 concurrent requests"]["remaining"]) == (1, 2)
    assert (rows["600 token counts per 1m"]["used"], rows["600 token counts per 1m"]["resets_at"]) == (0, None)


@pytest.mark.parametrize(
    ("micro", "text"),
    [(0, "$0.00"), (1, "$0.000001"), (10_000, "$0.01"), (1_500_000, "$1.50"), (10**12, "$1000000.00")],
)
def test_money_is_shown_exactly(micro: int, text: str) -> None:
    assert dollars(micro) == text


def test_reset_times_are_rounded_up_to_a_second() -> None:
    assert rfc3339(NOW) == "2026-11-22T09:34:56Z"
    assert rfc3339(NOW + 1) == "2026-11-22T09:34:57Z"


# -- the ledger ----------------------------------------------------------------------------------------------------


def receipt(**changes: object) -> Receipt:
    values = {"call_id": "c", "started": NOW / 1000, "method": "POST", "path": "/v1/messages", "dialect": "messages"}
    more = {"client": "", "peer": "", "key": "dev", "account": "main", "model": "opus", "sent_model": "claude-opus-5-5"}
    return Receipt(**{**values, **more, "status": 200, "cost": 99, **changes})  # type: ignore[arg-type]


def test_a_receipt_becomes_a_line_in_the_books() -> None:
    usage = Usage(input=1, cache_write_5m=2, cache_write_1h=3, cache_read=4, output=5, thinking=5, web_searches=6)
    line = record_of(receipt(usage=usage), "2026-11-22", "claude-opus-5-5")
    assert attrs.astuple(line) == ("2026-11-22", "dev", "main", "claude-opus-5-5", 1, 0, 0, 1, 2, 3, 4, 5, 6, 99)
    assert line.tokens == usage.total == 15


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ({}, 0),
        ({"status": 429}, 1),
        ({"outcome": "cut"}, 1),
        ({"outcome": "left", "status": 200}, 0),
        ({"status": 499}, 1),
    ],
)
def test_what_counts_as_an_error(changes: dict[str, object], errors: int) -> None:
    assert record_of(receipt(**changes), "2026-11-22", "m").errors == errors


def test_a_model_without_a_price_is_flagged_when_it_was_used() -> None:
    assert record_of(receipt(cost=None, usage=Usage(output=1)), "2026-11-22", "m").unpriced == 1
    assert record_of(receipt(cost=None), "2026-11-22", "m").unpriced == 0


def test_an_orphan_is_its_prompt_by_estimate() -> None:
    line = orphan_of("dev", "claude-opus-5-5", RESERVE, NOW, "UTC")
    assert (line.tokens, line.cost, line.requests, line.errors, line.account) == (300, 20, 1, 1, "")
