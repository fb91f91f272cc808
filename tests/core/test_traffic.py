"""Traffic: calls in their intervals, quiet ones too, and a bound on both."""

from __future__ import annotations

from typing import Any

from relayd.core.receipt import Receipt
from relayd.core.traffic import INTERVALS, Traffic
from relayd.wire.usage import Usage


def receipt(started: float, **fields: Any) -> Receipt:
    dull: dict[str, Any] = {
        "call_id": "req_1", "started": started, "method": "POST", "path": "/v1/messages", "dialect": "anthropic",
        "client": "", "peer": "192.0.2.1", "status": 200, "seconds": 2.0,
    }  # fmt: skip
    return Receipt(**{**dull, **fields})


def test_calls_lie_in_the_interval_in_which_they_ended() -> None:
    traffic = Traffic()
    traffic.record(receipt(600.0, usage=Usage(input=3), cost=5, first_byte=0.5))
    traffic.record(receipt(659.0, outcome="upstream"))
    traffic.record(receipt(661.0, outcome="refused", seconds=0.0))
    hour = traffic.of("hour", 700.0)
    assert len(hour) == 60
    assert [(one.start, one.calls, one.errors, one.refused) for one in hour[-2:]] == [(600, 1, 0, 0), (660, 2, 1, 1)]
    assert (hour[-2].tokens, hour[-2].cost, hour[-2].latency, hour[-2].first_byte_latency) == (3, 5, 2.0, 0.5)
    assert hour[0].latency is None
    assert sum(one.calls for one in traffic.of("month", 700.0)) == 3


def test_rings_are_bounded_and_a_clock_that_was_set_back_is_believed() -> None:
    traffic = Traffic()
    for minute in range(500):
        traffic.record(receipt(minute * 60.0))
    assert all(len(traffic._rings[span]) <= count for span, (_, count) in INTERVALS.items())
    traffic.record(receipt(6000.0))
    assert traffic.of("hour", 6000.0)[-1].calls == 1
    assert all(one.start <= 6000 for one in traffic._rings["hour"])
