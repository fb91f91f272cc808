"""The calls in flight: those that a revocation has to reach, and those that the state store holds open."""

from __future__ import annotations

from contextlib import suppress

import pytest
from builders import KEY, OTHER_KEY, api_key, snapshot

from relayd.config.secrets.api_keys import key_hash
from relayd.config.snapshot import Deny, KeyHash, Policy, Snapshot
from relayd.core.in_flight import AdmittedCall, InFlight
from relayd.core.quota.call_estimate import NOTHING
from relayd.core.quota.reservation import Quota
from relayd.core.quota.usage_record import UsageRecord


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
    calls, cut = InFlight(), []
    with (
        calls.revocable("one", enabled("one"), lambda: cut.append("first")),
        calls.revocable("one", enabled("one"), lambda: cut.append("second")),
        calls.revocable("two", enabled("two", key_hash(OTHER_KEY)), lambda: cut.append("other")),
    ):
        assert calls.revoked(two_keys(), new) == 2
        assert sorted(cut) == ["first", "second"]
        assert calls.revoked(new, new) == 0, "a call is cut once"
    assert calls.count() == 0


def test_without_the_policy_they_finish() -> None:
    calls, cut = InFlight(), []
    with calls.revocable("one", enabled("one"), lambda: cut.append("first")):
        assert calls.revoked(two_keys(), two_keys(cut=False, enabled=False)) == 1

    assert cut == []


def test_a_denied_address_asks_every_call() -> None:
    calls, cut = InFlight(), []
    with calls.revocable("one", enabled("one"), lambda: cut.append("first")):
        assert calls.revoked(two_keys(), two_keys(deny=Deny(ips=("192.0.2.1",)))) == 1

    assert cut == ["first"]


def test_calls_of_keys_that_are_as_they_were_are_not_even_asked() -> None:
    calls = InFlight()

    def asked(new: Snapshot) -> bool:
        raise AssertionError("nothing about this key has changed")

    with calls.revocable("two", asked, lambda: None):
        assert calls.revoked(two_keys(), two_keys(enabled=False)) == 0


def test_calls_are_counted_by_key_and_leave_nothing_however_they_end() -> None:
    calls = InFlight()
    with calls.revocable("one", enabled("one"), lambda: None):
        with suppress(ValueError), calls.revocable("two", enabled("two"), lambda: None):
            assert (calls.count(), calls.count("one"), calls.count("two")) == (2, 1, 1)
            raise ValueError
        assert (calls.count(), calls.count("two")) == (1, 0)
    assert calls.count() == 0


def test_an_admitted_call_is_known_by_its_id_until_it_is_settled() -> None:
    calls, consumed = InFlight(), UsageRecord(day="2027-01-15", key="dev", account="a", model="m")
    quota = Quota(terms=(), orphan=consumed, most=NOTHING, reserved=NOTHING)
    calls.admit("req_1", AdmittedCall(quota=quota, consumed=lambda: consumed))

    assert [(name, call.consumed()) for name, call in calls.admitted()] == [("req_1", consumed)]
    assert calls.quota_of("req_1") is quota
    calls.settle("req_1")
    assert (calls.admitted(), calls.quota_of("req_1")) == ([], None)
