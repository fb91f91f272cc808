"""Traffic: calls in their intervals, quiet ones too, and a bound on both."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.core.receipt import Receipt
from relayd.core.traffic import INTERVALS, KeyUses, Traffic, added_up, read_traffic
from relayd.wire.usage import Usage

DAY = "1970-01-01"


def receipt(started: float, **fields: Any) -> Receipt:
    dull: dict[str, Any] = {
        "call_id": "req_1", "started": started, "method": "POST", "path": "/v1/messages", "dialect": "anthropic",
        "client": "", "peer": "192.0.2.1", "status": 200, "seconds": 2.0,
    }  # fmt: skip
    return Receipt(**{**dull, **fields})


def test_calls_lie_in_the_interval_in_which_they_ended() -> None:
    traffic = Traffic()
    traffic.record(receipt(600.0, usage=Usage(input=3), cost=5, first_byte=0.5), DAY)
    traffic.record(receipt(659.0, outcome="upstream"), DAY)
    traffic.record(receipt(661.0, outcome="refused", seconds=0.0), DAY)
    hour = traffic.of("hour", 700.0)
    assert len(hour) == 60
    assert [(one.start, one.calls, one.errors, one.refused) for one in hour[-2:]] == [(600, 1, 0, 0), (660, 2, 1, 1)]
    assert (hour[-2].tokens, hour[-2].cost, hour[-2].latency, hour[-2].first_byte_latency) == (3, 5, 2.0, 0.5)
    assert hour[0].latency is None
    assert hour[-1].latency == 2.0  # of the one call that was not refused
    assert sum(one.calls for one in traffic.of("month", 700.0)) == 3


def test_rings_are_bounded_and_a_clock_that_was_set_back_is_believed() -> None:
    traffic = Traffic()
    for minute in range(500):
        traffic.record(receipt(minute * 60.0), DAY)
    assert all(len(traffic._rings[span]) <= count for span, (_, count) in INTERVALS.items())
    traffic.record(receipt(6000.0), DAY)
    assert traffic.of("hour", 6000.0)[-1].calls == 1
    assert all(one.start <= 6000 for one in traffic._rings["hour"])


def test_what_nodes_tell_each_other_is_added_up_and_a_restart_forgets_nothing() -> None:
    one, other = Traffic(), Traffic()
    one.record(receipt(600.0, key="dev", client="cli", cost=5), DAY)
    other.record(receipt(610.0, key="dev", client="cli", cost=7, outcome="upstream"), DAY)
    told = read_traffic(other.document())
    assert told.document() == other.document()
    hour = added_up([one, told], "hour", 700.0)
    assert [(row.start, row.calls, row.errors, row.cost) for row in hour if row.calls] == [(600, 2, 1, 12)]
    assert one.known("hour")[600].calls == 1, "adding up changes neither"
    again = one.continued(told)
    assert [row.calls for row in again.of("hour", 700.0) if row.calls] == [2]
    assert again.clients == {DAY: {"cli": [2, 1, 0, 12]}}


def test_a_note_that_is_no_traffic_is_refused() -> None:
    sound = Traffic()
    sound.record(receipt(600.0, key="dev"), DAY)
    document = sound.document()
    wrong: list[Any] = [None, [], {}, {"v": 2}, {**document, "rings": {}}, {**document, "clients": {DAY: {"a": ["1"]}}}]
    for one in wrong:
        with pytest.raises(ValueError):
            read_traffic(one)


def test_the_latest_use_of_a_key_is_known_by_client_and_other_nodes_add_to_it() -> None:
    uses, others = KeyUses(), KeyUses()
    uses.record(receipt(600.0, key="dev", client="cli"))
    uses.record(receipt(500.0, key="dev", client="cli"))
    others.record(receipt(700.0, key="dev", client="sdk"))
    others.record(receipt(10.0, key="gone"))
    uses.changed = False
    uses.merge(others.document())
    assert uses.changed
    assert (uses.last("dev"), dict(uses.of("dev"))) == (700, {"sdk": 700, "cli": 600})
    assert list(uses.of("dev")) == ["sdk", "cli"], "the latest first"
    uses.changed = False
    uses.merge(others.document())
    assert not uses.changed, "nothing new: nodes do not tell each other the same for ever"
    uses.keep_only({"dev": 1})
    assert uses.last("gone") is None
    for number in range(50):
        uses.record(receipt(800.0 + number, key="dev", client=f"c{number}"))
    assert len(uses.of("dev")) == 20
    with pytest.raises(ValueError):
        uses.merge({"uses": {"dev": {"cli": "now"}}})
