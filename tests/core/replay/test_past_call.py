"""A line of the log, and a row of the books, tell enough of a call to play it again."""

from __future__ import annotations

import msgspec
import pytest
from builders import api_key, call, snapshot

from relayd.core.access.permissions import resolve
from relayd.core.quota.prices import cost
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.receipt import Receipt
from relayd.core.replay.past_call import PastCall, past_call, past_calls
from relayd.daemon.access_log import call_line
from relayd.wire.refusal import Refusal
from relayd.wire.usage import Usage, UsagePart


def read(receipt: Receipt) -> PastCall:
    """The receipt as its line in the log tells it."""
    found = past_call(msgspec.json.encode(call_line(receipt)) + b"\n")
    assert found is not None
    return found


def receipt(**fields: object) -> Receipt:
    dull = {
        "call_id": "r", "started": 1_800_000_000.25, "method": "POST", "path": "/v1/messages", "dialect": "anthropic",
        "client": "claude_code", "peer": "10.0.0.7", "key": "dev", "account": "a", "model": "claude-sonnet-4-5",
        "status": 200, "seconds": 1.5,
    }  # fmt: skip
    return Receipt(**{**dull, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input=5, output=7),
        Usage(input=5, output=7, cache_write_5m=100, cache_write_1h=40, cache_read=3000),
        Usage(input=9, output=1, web_searches=3),
        Usage(input=9, output=1, service_tier="batch"),
        Usage(input=9, output=1, inference_geo="us"),
        Usage(input=9, output=1, speed="fast"),
        Usage(input=9, free=True),
        Usage(input=9, output=5, service_tier="standard", inference_geo="global"),
    ],
)
def test_a_line_of_the_log_has_all_that_its_cost_is_made_of(usage: Usage) -> None:
    now = cost(usage, "claude-sonnet-4-5", {})
    line = read(receipt(usage=usage, cost=now))

    assert cost(line.usage, "claude-sonnet-4-5", {}) == line.cost == now
    assert line.tokens == usage.total


def test_a_line_says_who_asked_what_when_and_for_how_long() -> None:
    line = read(receipt(max_tokens=32000, bytes_in=900, sent_model="claude-x", usage=Usage(input=1, model="other")))

    assert (line.time.timestamp(), line.ms, line.key, line.client, line.peer) == (
        1_800_000_000.25, 1500.0, "dev", "claude_code", "10.0.0.7",
    )  # fmt: skip
    assert (line.max_tokens, line.bytes_in, line.sent_model, line.answered) == (32000, 900, "claude-x", "other")
    assert read(receipt(usage=Usage(input=1, parts=(UsagePart(model="m", usage=Usage()),) * 2))).parts == 2


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "made"),
    [
        ("POST", "/v1/messages", "messages", True),
        ("POST", "/api/v1/messages/count_tokens", "count_tokens", True),
        ("POST", "/api/v1/messages/batches", "batches", True),
        ("POST", "/v1/messages/batches/msgbatch_1/cancel", "batches", False),
        ("POST", "/v1/files", "files", True),
        ("GET", "/v1/files/file_1/content", "files", False),
        ("POST", "/claude/v1/skills/", "skills", True),
        ("POST", "/v1/skills/skill_1/versions", "skills", True),
        ("GET", "/v1/skills/skill_1/versions", "skills", False),
        ("GET", "/v1/models", "models", False),
    ],
)
def test_a_path_says_what_was_called_and_whether_it_counted(method: str, path: str, endpoint: str, made: bool) -> None:
    line = read(receipt(method=method, path=path))
    assert (line.endpoint, line.is_made) == (endpoint, made)


def test_other_events_are_no_calls_and_other_text_is_an_error() -> None:
    assert past_call(b'{"time":"2027-01-01T00:00:00Z","level":"info","event":"reload.applied"}') is None
    with pytest.raises(ValueError, match="not a line of JSON"):
        past_call(b"2027-01-01T00:00:00Z INFO something")


def refusal_of_the_cap() -> str:
    """The words of the daemon itself."""
    key = api_key(max_tokens=5)
    with pytest.raises(Refusal) as caught:
        resolve(call(max_tokens=9), key, snapshot(keys=(key,)))
    return caught.value.message


@pytest.mark.parametrize(
    ("fields", "judged"),
    [
        ({"key": ""}, False),
        ({"outcome": "refused", "status": 403}, True),
        ({"outcome": "refused", "status": 429, "reason": "Rate limit exceeded: daily cost $5.00."}, True),
        ({"outcome": "refused", "status": 429, "reason": "Rate limit exceeded: no account has room now (a)"}, False),
        ({"outcome": "refused", "status": 529}, False),
        ({"outcome": "refused", "status": 400, "reason": "the body is not a JSON object"}, False),
        ({"outcome": "refused", "status": 400, "reason": refusal_of_the_cap()}, True),
        ({"outcome": "upstream", "status": 500}, True),
    ],
)
def test_only_what_a_config_decides_is_judged(fields: dict[str, object], judged: bool) -> None:
    assert read(receipt(**fields)).is_judged is judged


def test_a_row_of_the_books_is_as_many_calls_spread_over_its_day() -> None:
    row = UsageRecord(
        day="2026-10-25", key="dev", account="a", model="m", requests=7, input=100, output=10, cost=1001, cache_read=3
    )
    calls = list(past_calls(row, "Europe/Berlin"))  # a day of 25 hours

    assert len(calls) == 7
    assert (sum(one.tokens_in for one in calls), sum(one.tokens_out for one in calls)) == (100, 10)
    assert sum(one.cost or 0 for one in calls) == 1001
    assert sum(one.cache_read for one in calls) == 3
    assert calls[0].time.isoformat() == "2026-10-24T23:47:08.571429+00:00"
    assert all(one.even for one in calls)
    assert {(one.key, one.account, one.model) for one in calls} == {("dev", "a", "m")}
