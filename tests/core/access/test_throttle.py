"""Addresses that keep sending bad keys are held off, and nobody else is."""

from __future__ import annotations

import pytest

from relayd.core.access.throttle import BAD_PER_MINUTE, BadKeys
from relayd.wire.refusal import Refusal


def spent(address: str = "a", now: float = 100.0) -> BadKeys:
    bad_keys = BadKeys()
    for _ in range(BAD_PER_MINUTE):
        bad_keys.check(address, now)
        bad_keys.note(address, now)
    return bad_keys


def test_an_address_is_held_off_after_its_minute_is_used_up_and_not_before() -> None:
    bad_keys = spent()

    with pytest.raises(Refusal) as caught:
        bad_keys.check("a", 130.0)
    assert caught.value.status == 429
    assert caught.value.retry_after == 31
    bad_keys.check("b", 130.0)


def test_the_time_named_is_the_time_it_works_again() -> None:
    bad_keys = spent()

    with pytest.raises(Refusal):
        bad_keys.check("a", 159.9)
    bad_keys.check("a", 160.0)


def test_memory_stays_bounded_whatever_addresses_come() -> None:
    bad_keys = BadKeys()
    for number in range(10_050):
        bad_keys.note(f"address-{number}", 0.0)

    assert len(bad_keys._counts) == 10_000
