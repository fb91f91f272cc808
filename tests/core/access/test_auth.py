"""Who may call: keys, their standing, and where calls come from."""

from __future__ import annotations

import datetime

import pytest
from builders import KEY, OTHER_KEY, api_key, headers, snapshot

from relayd.config.secrets.api_keys import key_hash
from relayd.config.snapshot import Deny, KeyHash
from relayd.core.access.addresses import UNKNOWN
from relayd.core.access.auth import authenticate, best_state, key_state, presented_key
from relayd.wire.refusal import Refusal

NOW = 1_800_000_000.0
PAST = datetime.datetime.fromtimestamp(NOW - 1, datetime.UTC)
FUTURE = datetime.datetime.fromtimestamp(NOW + 1, datetime.UTC)


def refusal(tree, given=None, address="192.0.2.1") -> Refusal:
    with pytest.raises(Refusal) as caught:
        authenticate(given or headers(x_api_key=KEY), tree, address, NOW)
    return caught.value


@pytest.mark.parametrize(
    "given",
    [
        headers(x_api_key=KEY),
        headers(authorization=f"Bearer {KEY}"),
        headers(authorization=f"bearer   {KEY}"),
        headers(x_api_key="something-else", authorization=f"Bearer {KEY}"),
        headers(x_api_key=KEY, authorization="Bearer something-else"),
    ],
)
def test_a_key_is_taken_from_either_header(given) -> None:
    assert authenticate(given, snapshot(), "192.0.2.1", NOW).id == "dev"


def test_both_hashes_count_while_a_key_is_rotated() -> None:
    tree = snapshot(keys=(api_key(hashes=(KeyHash(sha256=key_hash(OTHER_KEY)), KeyHash(sha256=key_hash(KEY)))),))

    assert authenticate(headers(x_api_key=KEY), tree, "", NOW).id == "dev"
    assert authenticate(headers(x_api_key=OTHER_KEY), tree, "", NOW).id == "dev"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (headers(), "none was sent"),
        (headers(authorization="Basic dXNlcjpwYXNz"), "none was sent"),
        (headers(x_api_key="sk-ant-api03-abc"), "not a key of this relay"),
        (headers(x_api_key=KEY[:-1]), "malformed"),
        (headers(x_api_key=KEY[:-1] + ("0" if KEY[-1] != "0" else "1")), "malformed"),
        (headers(x_api_key=OTHER_KEY), "unknown key"),
        (headers(x_api_key="\xff\xfe"), "not a key of this relay"),
    ],
)
def test_a_bad_key_is_refused_with_the_reason_and_without_its_text(given, why) -> None:
    refused = refusal(snapshot(), given if given.pairs else headers(accept="*/*"))

    assert refused.status == 401
    assert refused.should_retry is False
    assert refused.message.startswith("Invalid API key: ")
    assert why in refused.message
    assert KEY[10:] not in refused.message


@pytest.mark.parametrize(
    "tree",
    [
        snapshot(keys=(api_key(enabled=False),)),
        snapshot(deny=Deny(keys=("dev",))),
        snapshot(deny=Deny(sha256=(key_hash(KEY),))),
        snapshot(keys=(api_key(expires=PAST),)),
        snapshot(keys=(api_key(hashes=(KeyHash(sha256=key_hash(KEY), expires=PAST),)),)),
    ],
)
def test_a_revoked_denied_or_expired_key_is_refused(tree) -> None:
    assert refusal(tree).status == 401


def test_a_key_works_until_the_second_it_expires() -> None:
    assert authenticate(headers(x_api_key=KEY), snapshot(keys=(api_key(expires=FUTURE),)), "", NOW).id == "dev"


def test_addresses_are_checked_after_the_key() -> None:
    tree = snapshot(keys=(api_key(allowed_ips=("10.0.0.0/8", "2001:db8::/32")),), deny=Deny(ips=("10.6.6.6",)))

    assert authenticate(headers(x_api_key=KEY), tree, "10.1.2.3", NOW).id == "dev"
    assert authenticate(headers(x_api_key=KEY), tree, "::ffff:10.1.2.3", NOW).id == "dev"
    assert refusal(tree, address="192.0.2.1").status == 403
    assert refusal(tree, address="10.6.6.6").status == 403
    assert refusal(tree, address="").status == 403


@pytest.mark.parametrize("fields", [{"deny": Deny(ips=("192.0.2.0/24",))}, {"keys": (api_key(allowed_ips=("::/0",)),)}])
def test_an_address_that_cannot_be_read_is_refused_where_one_is_needed_and_only_there(fields) -> None:
    no = refusal(snapshot(**fields), address=UNKNOWN)

    assert (no.status, no.code) == (403, "address_unknown")
    assert authenticate(headers(x_api_key=KEY), snapshot(), UNKNOWN, NOW).id == "dev"


def test_no_header_gives_no_key() -> None:
    assert presented_key(headers(accept="*/*")) == b""


@pytest.mark.parametrize(
    ("fields", "deny", "state"),
    [
        ({}, Deny(), "active"),
        ({"expires": FUTURE}, Deny(), "active"),
        ({"enabled": False}, Deny(keys=("dev",)), "disabled"),
        ({"expires": PAST}, Deny(keys=("dev",)), "denied"),
        ({}, Deny(sha256=(key_hash(KEY),)), "denied"),
        ({"expires": PAST}, Deny(), "expired"),
        ({"hashes": (KeyHash(sha256=key_hash(KEY), expires=PAST),)}, Deny(), "rotated"),
    ],
)
def test_a_key_is_accepted_or_there_is_one_reason(fields, deny, state) -> None:
    key = api_key(**fields)

    assert key_state(key, key.hashes[0], snapshot(keys=(key,), deny=deny), NOW) == state


def test_a_key_is_active_while_one_of_its_hashes_is() -> None:
    old, new = KeyHash(sha256=key_hash(KEY), expires=PAST), KeyHash(sha256=key_hash(OTHER_KEY))
    rotated = api_key(hashes=(old, new))

    assert best_state(rotated, snapshot(keys=(rotated,)), NOW) == "active"
    denied = Deny(sha256=(new.sha256,))
    assert best_state(rotated, snapshot(keys=(rotated,), deny=denied), NOW) == "rotated"
    assert best_state(rotated, snapshot(keys=(rotated,), deny=Deny(keys=("dev",))), NOW) == "denied"
