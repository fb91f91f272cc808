"""Bad keys are held off by address, and nothing else is."""

from __future__ import annotations

import pytest

from relayd.core.access.throttle import BAD_PER_MINUTE, BadKeys
from relayd.wire.refusal import Refusal

BAD = Refusal(status=401, message="Invalid API key: unknown key")


def spent(address: str = "a", now: float = 100.0) -> BadKeys:
    bad_keys = BadKeys()
    for _ in range(BAD_PER_MINUTE):
        assert bad_keys.answer(BAD, address, now) is BAD
    return bad_keys


def test_an_address_is_held_off_after_its_minute_is_used_up_and_not_before() -> None:
    bad_keys = spent()

    no = bad_keys.answer(BAD, "a", 130.0)

    assert (no.status, no.retry_after, no.should_retry) == (429, 31, False)
    assert bad_keys.answer(BAD, "b", 130.0) is BAD


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_is_no_bad_key_is_neither_counted_nor_held_off(status: int) -> None:
    bad_keys, other = spent(), Refusal(status=status, message="not allowed")

    assert bad_keys.answer(other, "a", 130.0) is other
    for _ in range(2 * BAD_PER_MINUTE):
        assert bad_keys.answer(other, "b", 130.0) is other
    assert bad_keys.answer(BAD, "b", 130.0) is BAD


def test_the_time_named_is_the_time_it_works_again() -> None:
    bad_keys = spent()

    assert bad_keys.answer(BAD, "a", 159.9).retry_after == 1
    assert bad_keys.answer(BAD, "a", 160.0) is BAD


def test_a_minute_that_a_wrong_clock_put_into_the_future_is_over() -> None:
    assert spent(now=2_000_000_000.0).answer(BAD, "a", 1_800_000_000.0) is BAD


def test_memory_stays_bounded_whatever_addresses_come() -> None:
    bad_keys = BadKeys()
    for number in range(10_050):
        bad_keys.answer(BAD, f"address-{number}", 0.0)

    assert len(bad_keys._counts) == 10_000
