"""What calls add up to, as Prometheus reads it."""

from __future__ import annotations

from typing import Any

from relayd.core.inventory import Inventory
from relayd.core.receipt import Attempt, Receipt
from relayd.daemon.admin.call_metrics import MOST_NAMES, CallMetrics
from relayd.daemon.admin.config_metrics import MOST_KEYS, inventory_metrics
from relayd.daemon.admin.exposition import exposition
from relayd.wire.usage import Usage


def receipt(**fields: Any) -> Receipt:
    dull: dict[str, Any] = {
        "call_id": "req_1", "started": 1000.0, "method": "POST", "path": "/v1/messages", "dialect": "anthropic",
        "client": "", "peer": "192.0.2.1", "key": "dev", "account": "main", "status": 200, "seconds": 2.0,
    }  # fmt: skip
    return Receipt(**{**dull, **fields})


def told(*receipts: Receipt) -> list[str]:
    metrics = CallMetrics(lambda one: one.model)
    for one in receipts:
        metrics.record(one)
    return exposition(metrics.families()).splitlines()


def test_calls_are_counted_by_how_they_ended() -> None:
    lines = told(receipt(), receipt(), receipt(status=429, outcome="refused", key="", account=""))

    assert 'relayd_calls_total{dialect="anthropic",outcome="ok",status="200"} 2' in lines
    assert 'relayd_calls_total{dialect="anthropic",outcome="refused",status="429"} 1' in lines
    assert 'relayd_key_calls_total{key="dev"} 2' in lines


def test_tokens_and_cost_are_exact_and_by_account_and_key() -> None:
    usage = Usage(input=7, cache_write_5m=5, cache_read=3, output=2)
    lines = told(receipt(usage=usage, cost=1_250_001), receipt(usage=usage, cost=0))

    assert 'relayd_tokens_total{account="main",kind="input"} 14' in lines
    assert 'relayd_tokens_total{account="main",kind="cache_read"} 6' in lines
    assert not any('kind="cache_write_1h"' in line for line in lines)
    assert 'relayd_key_tokens_total{key="dev"} 34' in lines
    assert 'relayd_cost_usd_total{account="main"} 1.250001' in lines
    assert 'relayd_key_cost_usd_total{key="dev"} 1.250001' in lines
    assert not any(line.startswith("relayd_unpriced_calls_total{") for line in lines)


def test_a_call_without_a_price_can_be_alerted_on() -> None:
    lines = told(receipt(usage=Usage(input=1), cost=None), receipt(cost=None))

    assert 'relayd_unpriced_calls_total{account="main"} 1' in lines


def test_each_attempt_counts_for_its_account() -> None:
    attempts = (Attempt(account="spare", status=529, reason="overloaded", seconds=0.1),) * 2
    lines = told(receipt(attempts=(*attempts, Attempt(account="main", status=200, reason="ok", seconds=1.0))))

    assert 'relayd_attempts_total{account="spare",status="529"} 2' in lines
    assert 'relayd_attempts_total{account="main",status="200"} 1' in lines


def test_durations_are_cumulative_buckets() -> None:
    lines = told(receipt(seconds=0.1, first_byte=0.05), receipt(seconds=0.2), receipt(seconds=9000.0))

    assert 'relayd_call_duration_seconds_bucket{le="0.1"} 1' in lines  # a bound belongs to its bucket
    assert 'relayd_call_duration_seconds_bucket{le="0.25"} 2' in lines
    assert 'relayd_call_duration_seconds_bucket{le="3600"} 2' in lines
    assert 'relayd_call_duration_seconds_bucket{le="+Inf"} 3' in lines
    assert "relayd_call_duration_seconds_count 3" in lines
    assert "relayd_call_duration_seconds_sum 9000.3" in lines
    assert "relayd_call_first_byte_seconds_count 1" in lines


def test_a_large_tree_makes_no_endless_series() -> None:
    lines = told(*(receipt(key=f"k{n}", usage=Usage(input=1), cost=1) for n in range(MOST_NAMES + 7)))

    series = [line for line in lines if line.startswith("relayd_key_calls_total{")]
    assert len(series) == MOST_NAMES + 1
    assert 'relayd_key_calls_total{key="_others"} 7' in series


def test_ten_thousand_keys_make_a_bounded_exposition() -> None:
    ends = {f"k{n}": 2e9 + n for n in range(10_000)}
    told = exposition(inventory_metrics(Inventory(ends=ends), 1e9)).splitlines()

    series = [line for line in told if line.startswith("relayd_key_expires_timestamp_seconds{")]
    assert len(series) == MOST_KEYS
    assert 'relayd_key_expires_timestamp_seconds{key="k0"} 2000000000' in series
