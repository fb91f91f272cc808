"""The running config."""

from __future__ import annotations

import gc
import weakref

import attrs
from builders import account, snapshot

from relayd.config.snapshot import Deny
from relayd.core.live import Live, PerConfig


def test_a_swap_is_a_new_generation_and_an_amendment_is_not() -> None:
    live = Live(snapshot())
    live.swap(snapshot(accounts=(account("b"),)))
    live.amend(attrs.evolve(live.snapshot, deny=Deny(keys=("dev",))))

    assert live.generation == 2
    assert live.snapshot.deny.keys == ("dev",)


def test_a_snapshot_lives_as_long_as_a_call_holds_it() -> None:
    live = Live(snapshot())
    held = live.snapshot
    for number in range(5):
        live.swap(snapshot(accounts=(account(f"n{number}"),)))
    gc.collect()

    assert live.alive() == 2
    assert "a" in held.accounts
    del held
    gc.collect()
    assert live.alive() == 1


def test_what_is_made_of_a_config_is_made_once_and_holds_no_config() -> None:
    one, other = snapshot(), snapshot(accounts=(account("b"),))
    accounts = PerConfig(lambda found: sorted(found.accounts))

    assert accounts.of(one) is accounts.of(one)
    assert accounts.of(other) == ["b"]
    seen = weakref.ref(other)
    del other
    gc.collect()
    assert seen() is None
