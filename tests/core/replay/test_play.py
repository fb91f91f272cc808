"""What would become of past calls under a config, and how that differs from how they went."""

from __future__ import annotations

import datetime
from typing import Any

import attrs
import pytest
from builders import account, api_key, snapshot

from relayd.config.snapshot import Deny, KeyHash, Limits, Price, Rate, Snapshot, Window
from relayd.core.replay.comparison import Replay, replay
from relayd.core.replay.past_call import PastCall
from relayd.core.replay.play import Player

START = datetime.datetime(2026, 11, 2, 9, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)


def past(after: datetime.timedelta = datetime.timedelta(), **fields: Any) -> PastCall:
    """A call of 1000 tokens for 3 mUSD: 0.003 USD of claude-sonnet-4-5."""
    dull = {"key": "dev", "model": "claude-sonnet-4-5", "account": "a", "tokens_in": 1000, "cost_usd": "0.003000"}
    return PastCall(time=START + after, **{**dull, **fields})


def refused(config: Snapshot, *calls: PastCall) -> list[str]:
    player = Player(config)
    return [player.play(call).refused for call in calls]


SPENT = Limits(daily_cost=6000)


@pytest.mark.parametrize(
    ("config", "call", "why"),
    [
        (snapshot(keys=(api_key(id="else"),)), past(), "key: it is not in the tree"),
        (snapshot(keys=(api_key(enabled=False),)), past(), "key: it is disabled"),
        (snapshot(deny=Deny(keys=("dev",))), past(), "key: it is denied by deny.toml"),
        (snapshot(keys=(api_key(expires=START),)), past(), "key: it has expired"),
        (
            snapshot(keys=(api_key(hashes=(KeyHash(sha256="0" * 64, expires=START),)),)),
            past(),
            "key: its hash has expired",
        ),
        (snapshot(keys=(api_key(allowed_ips=("10.0.0.0/8",)),)), past(peer="192.0.2.1"), "address 192.0.2.1"),
        (snapshot(keys=(api_key(clients=("claude_code",)),)), past(client="codex_cli"), "client codex_cli"),
        (snapshot(keys=(api_key(endpoints=("openai",)),)), past(), "endpoint messages"),
        (snapshot(keys=(api_key(deny_models=("claude-sonnet-*",)),)), past(), "model claude-sonnet-4-5"),
        (snapshot(keys=(api_key(max_tokens=100),)), past(max_tokens=101), "max_tokens: 101"),
        (snapshot(keys=(api_key(groups=("other",)),)), past(), "no account of this key's groups"),
        (snapshot(accounts=(account("a", models=("claude-opus-*",)),)), past(), "a: does not serve claude-sonnet-4-5"),
    ],
)
def test_a_call_is_refused_as_the_daemon_would(config: Snapshot, call: PastCall, why: str) -> None:
    (said,) = refused(config, call)
    assert why in said


def test_a_call_before_a_key_expires_is_served() -> None:
    config = snapshot(keys=(api_key(expires=START + HOUR),))
    assert [bool(why) for why in refused(config, past(), past(HOUR))] == [False, True]


def test_limits_count_what_calls_really_used_and_begin_anew() -> None:
    config = snapshot(keys=(api_key(limits=Limits(daily_cost=6000)),))
    said = refused(config, past(), past(HOUR), past(HOUR * 2), past(DAY))

    assert said == ["", "", "limit: daily cost $0.006", ""]


def test_a_refused_call_takes_nothing() -> None:
    limits = Limits(windows=(Window(window="5h", tokens=2500),), daily_requests=3)
    config = snapshot(keys=(api_key(limits=limits),))
    said = refused(config, *(past(HOUR * at) for at in (0, 1, 2, 3, 6)))

    assert said == ["", "", "limit: 2500 tokens per 5h", "limit: 2500 tokens per 5h", ""]


def test_rates_and_slots_are_tried_and_token_counts_have_a_limit_of_their_own() -> None:
    rate = Limits(rate=Rate(requests=1, window=60.0), count_tokens=1)
    second = datetime.timedelta(seconds=1)
    config = snapshot(keys=(api_key(limits=rate),))
    counting = {"path": "/v1/messages/count_tokens"}
    assert refused(config, past(), past(second), past(second, **counting), past(second, **counting)) == [
        "", "limit: 1 requests per 1m", "", "limit: 1 token counts per 1m",
    ]  # fmt: skip
    slots = snapshot(keys=(api_key(limits=Limits(concurrency=1)),))
    assert refused(slots, past(ms=5000.0), past(second), past(second * 5)) == ["", "limit: 1 concurrent requests", ""]


def test_a_key_that_reserves_the_worst_case_needs_that_much_room() -> None:
    limits = {"daily_tokens": 50_000}
    call = past(max_tokens=64_000, tokens_out=10)
    assert refused(snapshot(keys=(api_key(limits=Limits(**limits)),)), call, call) == ["", ""]
    worst = snapshot(keys=(api_key(limits=Limits(**limits, reserve="worst-case")),))
    assert refused(worst, call, call) == ["", "limit: daily tokens 50000"]


def test_of_the_books_only_limits_of_days_are_tried() -> None:
    limits = Limits(rate=Rate(requests=1, window=60.0), concurrency=1, daily_requests=2)
    config = snapshot(keys=(api_key(limits=limits, allowed_ips=("10.0.0.0/8",), clients=("claude_code",)),))
    assert refused(config, *[past(even=True)] * 3) == ["", "", "limit: daily requests 2"]


def test_what_is_about_an_object_and_lists_pass_no_limit() -> None:
    everything = ("messages", "models", "files", "batches")
    config = snapshot(keys=(api_key(limits=Limits(daily_requests=1), endpoints=everything),))
    lists = [past(path="/v1/models", method="GET", model=""), past(path="/v1/files/f_1", method="GET", model="")]
    assert refused(config, *lists, past(path="/v1/files", model=""), past()) == ["", "", "", "limit: daily requests 1"]


# --- compared


def compared(config: Snapshot, *calls: PastCall, base: Snapshot | None = None) -> Replay:
    return replay(calls, config, base)


def test_calls_that_end_as_they_did_differ_in_nothing() -> None:
    (row,) = compared(snapshot(), past(), past(HOUR)).rows
    assert (row.calls, row.differs) == (2, False)


def test_newly_refused_and_newly_served_calls_are_told_by_key_and_model() -> None:
    config = snapshot(keys=(api_key(models=("claude-haiku-*",)),))
    no = {"outcome": "refused", "status": 403, "tokens_in": 0, "cost_usd": "", "account": ""}
    found = compared(config, past(), past(HOUR, model="claude-haiku-4-5", **no), past(HOUR, key=""))

    assert (found.calls, found.judged, found.keyless) == (3, 2, 1)
    first, second = found.rows
    assert (first.model, first.refused, first.served) == ("claude-sonnet-4-5", 1, 0)
    assert first.reasons == {"model claude-sonnet-4-5 is not allowed for this key": 1}
    assert (second.model, second.refused, second.served, second.repriced) == ("claude-haiku-4-5", 0, 1, 0)


def test_a_call_whose_account_may_not_serve_it_any_more_is_moved() -> None:
    config = snapshot(accounts=(account("a", enabled=False), account("b"), account("c", priority=99)))
    (row,) = compared(config, past(), past(account="c")).rows

    assert (row.moved, dict(row.ways)) == (1, {"a -> b": 1})


def test_against_another_config_a_new_first_choice_moves_calls_too() -> None:
    before = snapshot(accounts=(account("a"), account("b")))
    after = snapshot(accounts=(account("a"), account("b", priority=1)))

    assert compared(after, past()).total("moved") == 0
    assert compared(after, past(), base=before).rows[0].ways == {"a -> b": 1}
    assert compared(after, past(account="b"), base=before).total("moved") == 0


def test_a_price_an_alias_and_a_model_map_change_what_calls_cost() -> None:
    dear = Price(
        input=9_000_000, output=9_000_000, cache_write_5m=9_000_000, cache_write_1h=9_000_000, cache_read=9_000_000
    )
    priced = attrs.evolve(snapshot(), prices={"claude-sonnet-4-5": dear})
    (row,) = compared(priced, past()).rows
    assert (row.repriced, row.cost_before, row.cost_after) == (1, 3000, 9000)
    for config in (
        snapshot(relay={"models": {"claude-sonnet-4-5": "claude-haiku-4-5"}}),
        snapshot(accounts=(account(model_map={"claude-sonnet-4-5": "claude-haiku-4-5"}),)),
    ):
        (row,) = compared(config, past()).rows
        assert (row.repriced, row.cost_before, row.cost_after) == (1, 3000, 1000)


def test_what_cannot_be_added_up_again_costs_what_it_did() -> None:
    (row,) = compared(snapshot(), past(parts=2, cost_usd="1.000000")).rows
    assert row.repriced == 0


def test_with_a_base_only_what_differs_between_the_two_counts() -> None:
    limited = snapshot(keys=(api_key(limits=SPENT),))
    calls = [past(HOUR * at) for at in range(4)]

    assert compared(limited, *calls).total("refused") == 2
    assert compared(limited, *calls, base=limited).total("refused") == 0
    assert compared(limited, *calls, base=snapshot()).total("refused") == 2
    assert compared(snapshot(), *calls, base=limited).total("served") == 2
