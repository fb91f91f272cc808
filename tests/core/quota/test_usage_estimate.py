import pytest

from relayd.core.quota.call_estimate import Estimate
from relayd.core.quota.usage_estimate import MOST_KNOWN, WARN_EVERY, RareWarnings, completed
from relayd.wire.usage import Usage

RESERVED = Estimate(input=1000, output=500, cost=9, input_cost=4)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(input=7, output=3), (7, 3)),
        (Usage(input=7, output=3, doubts=frozenset({"output"})), (7, 500)),
        (Usage(input=7, output=900, doubts=frozenset({"output"})), (7, 900)),
        (Usage(output=3, doubts=frozenset({"input"})), (1000, 3)),
        (Usage(output=3, cache_read=800, doubts=frozenset({"input"})), (200, 3)),
        (Usage(input=10, cache_read=2000, doubts=frozenset({"cache_write_1h"})), (10, 0)),
        (Usage(input=10, output=3, doubts=frozenset({"iterations"})), (1000, 500)),
        (Usage(input=7, output=3, doubts=frozenset({"service_tier", "thinking"})), (7, 3)),
    ],
)
def test_the_estimate_stands_in_for_what_is_in_doubt(usage: Usage, expected: tuple[int, int]) -> None:
    found = completed(usage, RESERVED)

    assert (found.input, found.output) == expected
    assert completed(found, RESERVED) == found  # a heartbeat asks again and again


def test_one_warning_an_hour_for_each_account_and_set_of_fields() -> None:
    now = [1000.0]
    doubtful = RareWarnings(lambda: now[0])
    odd = frozenset({"output", "input"})

    assert doubtful.due("a", ()) == ()
    assert doubtful.due("a", odd) == ("input", "output")
    assert doubtful.due("a", odd) == ()
    assert doubtful.due("b", odd)
    now[0] += WARN_EVERY
    assert doubtful.due("a", odd)
    for n in range(MOST_KNOWN + 5):
        assert doubtful.due(f"n{n}", odd)
