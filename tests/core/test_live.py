"""The running config, and the calls that a revocation has to reach."""

from __future__ import annotations

import gc
from contextlib import suppress

import attrs
import pytest
from builders import KEY, OTHER_KEY, account, api_key, snapshot

from relayd.config.secrets.api_keys import key_hash
from relayd.config.snapshot import Deny, KeyHash, Policy, Snapshot
from relayd.core.live import InFlight, Live


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


def two_keys(*, cut: bool = True, deny: Deny | None = None, **fields: object) -> Snapshot:
    """Keys `one` (with `fields`) and `two`."""
    policy = Policy(on_revoke="cut" if cut else "finish")
    one = api_key(KEY, **{"id": "one", **fields})
    return snapshot(keys=(one, api_key(OTHER_KEY, id="two")), relay={"policy": policy}, deny=deny)


def enabled(key: str, sha256: str = key_hash(KEY)) -> object:
    """The question that authentication answers, for a key with one hash."""

    def allowed(new: Snapshot) -> bool:
        found = new.keys.get(key)
        return bool(
            found
            and found.enabled
            and key not in new.deny.keys
            and sha256 not in new.deny.sha256
            and "192.0.2.1" not in new.deny.ips
            and any(entry.sha256 in (sha256, key_hash(OTHER_KEY)) for entry in found.hashes)
        )

    return allowed


CHANGES = {
    "disabled": two_keys(enabled=False),
    "denied by id": two_keys(deny=Deny(keys=("one",))),
    "denied by hash": two_keys(deny=Deny(sha256=(key_hash(KEY),))),
    "another hash": two_keys(hashes=(KeyHash(sha256="0" * 64),)),
    "removed": snapshot(keys=(api_key(OTHER_KEY, id="two"),), relay={"policy": Policy(on_revoke="cut")}),
}


@pytest.mark.parametrize("new", CHANGES.values(), ids=CHANGES)
def test_calls_of_a_revoked_key_are_cut_and_those_of_others_are_not(new: Snapshot) -> None:
    running, cut = InFlight(), []
    with (
        running.of("one", enabled("one"), lambda: cut.append("first")),
        running.of("one", enabled("one"), lambda: cut.append("second")),
        running.of("two", enabled("two", key_hash(OTHER_KEY)), lambda: cut.append("other")),
    ):
        assert running.revoked(two_keys(), new) == 2
        assert sorted(cut) == ["first", "second"]
        assert running.revoked(new, new) == 0, "a call is cut once"
    assert running.count() == 0


def test_without_the_policy_they_finish() -> None:
    running, cut = InFlight(), []
    with running.of("one", enabled("one"), lambda: cut.append("first")):
        assert running.revoked(two_keys(), two_keys(cut=False, enabled=False)) == 1

    assert cut == []


def test_a_denied_address_asks_every_call() -> None:
    running, cut = InFlight(), []
    with running.of("one", enabled("one"), lambda: cut.append("first")):
        assert running.revoked(two_keys(), two_keys(deny=Deny(ips=("192.0.2.1",)))) == 1

    assert cut == ["first"]


def test_calls_of_keys_that_are_as_they_were_are_not_even_asked() -> None:
    running = InFlight()

    def asked(new: Snapshot) -> bool:
        raise AssertionError("nothing about this key has changed")

    with running.of("two", asked, lambda: None):
        assert running.revoked(two_keys(), two_keys(enabled=False)) == 0


def test_calls_are_counted_by_key_and_leave_nothing_however_they_end() -> None:
    running = InFlight()
    with running.of("one", enabled("one"), lambda: None):
        with suppress(ValueError), running.of("two", enabled("two"), lambda: None):
            assert (running.count(), running.count("one"), running.count("two")) == (2, 1, 1)
            raise ValueError
        assert (running.count(), running.count("two")) == (1, 0)
    assert running.count() == 0
