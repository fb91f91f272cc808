"""What is sealed for whom, and when keys end."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

import attrs
from builders import account, api_key, snapshot

from relayd.config.secrets.api_keys import key_hash
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import Identity, new_identity, seal
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import (
    Account,
    Admin,
    AdminUser,
    Alert,
    Credential,
    Deny,
    KeyHash,
    Recipient,
    Secrets,
)
from relayd.core.access.auth import best_state
from relayd.core.inventory import Inventory, ending_within, next_to_end, sealed_values, take_inventory

OLD, NEW, STRANGER = (new_identity(lambda size, number=number: bytes([number]) * size) for number in (1, 2, 3))
BINDING = account_binding("test", "a", "https://api.anthropic.com")


def sealed_for(*identities: Identity) -> str:
    return seal(Secret("sk-ant-test"), BINDING, [one.public for one in identities])


def with_credential(name: str, *identities: Identity, **fields: Any) -> Account:
    return account(name, kind="api-key", credential=Credential(sealed=sealed_for(*identities)), **fields)


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def recipients(*listed: tuple[str, Identity, str]) -> dict[str, Any]:
    entries = tuple(Recipient(name=name, public=one.public.text, state=state) for name, one, state in listed)  # type: ignore[arg-type]
    return {"secrets": Secrets(recipients=entries)}


def counted(*accounts: Account, **relay: Any) -> dict[str, tuple[str, int]]:
    found = take_inventory(snapshot(accounts=accounts, relay=relay)).recipients
    return {one.name or one.kid: (one.state, one.values) for one in found}


def test_each_value_counts_for_everybody_who_can_open_it() -> None:
    listed = recipients(("old", OLD, "retiring"), ("new", NEW, "active"))

    assert counted(with_credential("a", OLD, NEW), with_credential("b", NEW), **listed) == {
        "old": ("retiring", 1),
        "new": ("active", 2),
    }


def test_a_recipient_whose_last_value_was_resealed_is_there_with_none() -> None:
    listed = recipients(("old", OLD, "retiring"), ("new", NEW, "active"))

    assert counted(with_credential("a", NEW), account("b"), **listed) == {"old": ("retiring", 0), "new": ("active", 1)}


def test_who_is_in_a_value_but_not_in_the_list_is_there_by_its_kid() -> None:
    assert counted(with_credential("a", STRANGER, enabled=False)) == {STRANGER.public.kid: ("unknown", 1)}


def test_alerts_and_people_count_too() -> None:
    value = sealed_for(NEW)
    relay = {
        "alerts": {"ops": Alert(url=value)},
        "admin": Admin(users=(AdminUser(name="ann", password_hash="x", totp=value),)),
    }

    assert len(sealed_values(snapshot(accounts=(with_credential("a", NEW),), relay=relay))) == 3


def test_no_other_field_of_an_account_holds_a_sealed_value() -> None:
    def sealed_fields(noun: type, path: str) -> list[str]:
        found = []
        for field in attrs.fields(attrs.resolve_types(noun)):
            if field.metadata.get("form") == "sealed":
                found.append(f"{path}{field.name}")
            elif isinstance(field.type, type) and attrs.has(field.type):
                found += sealed_fields(field.type, f"{path}{field.name}.")
        return found

    assert sealed_fields(Account, "") == ["credential.sealed"]


def ends(*hash_ends: float | None, key: float | None = None, deny: Deny | None = None, **fields: Any) -> float | None:
    entries = tuple(
        KeyHash(sha256=key_hash(f"k{number}"), expires=at(end) if end is not None else None)
        for number, end in enumerate(hash_ends)
    )
    one = api_key(hashes=entries, expires=at(key) if key is not None else None, **fields)
    return take_inventory(snapshot(keys=(one,), deny=deny)).ends.get("dev")


def test_a_key_ends_with_its_own_date_or_with_its_last_hash() -> None:
    assert ends(None) is None
    assert ends(None, key=500.0) == 500.0
    assert ends(300.0, None) is None
    assert ends(300.0, 400.0) == 400.0
    assert ends(300.0, 400.0, key=350.0) == 350.0
    assert ends(300.0, key=500.0) == 300.0


def test_a_key_that_is_refused_anyway_does_not_end() -> None:
    assert ends(300.0, enabled=False) is None
    assert ends(300.0, deny=Deny(keys=("dev",))) is None
    assert ends(300.0, 400.0, deny=Deny(sha256=(key_hash("k1"),))) == 300.0
    assert ends(300.0, deny=Deny(sha256=(key_hash("k0"),))) is None


def test_keys_that_end_soon_come_the_next_one_first_and_those_that_have_ended_not_at_all() -> None:
    keys = tuple(api_key(id=f"k{end}", expires=at(end)) for end in (900, 100, 500, 2000))

    assert ending_within(take_inventory(snapshot(keys=keys)), 1000.0, 400.0) == [("k500", 500.0), ("k900", 900.0)]


def test_keys_that_can_do_nothing_are_known_and_only_while_they_are_accepted() -> None:
    soon = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    keys = {
        "good": {},
        "any": {"models": ("claude-*", "x")},
        "mute": {"endpoints": ()},
        "lost": {"groups": ("nowhere", "denied")},
        "other": {"models": ("claude-opus-5-5",)},
        "barred": {"models": ("claude-haiku-4-5",), "deny_models": ("*haiku*",)},
        "alias": {"models": ("fast",)},
        "off": {"endpoints": (), "enabled": False},
        "ends": {"endpoints": (), "expires": soon},
    }
    tree = snapshot(
        keys=tuple(api_key(f"key {name}", id=name, **fields) for name, fields in keys.items()),
        accounts=(account(models=("claude-haiku-*",)), account("b", groups=("denied",))),
        relay={"models": {"fast": "claude-haiku-4-5"}},
        deny=Deny(accounts=("b",)),
    )
    found = take_inventory(tree)

    assert found.useless_now(soon.timestamp() - 1) == {
        "mute": "its list of endpoints is empty",
        "lost": "no enabled account is in its groups (nowhere, denied)",
        "other": "no account of its groups serves claude-opus-5-5",
        "barred": "each of its models is denied",
        "ends": "its list of endpoints is empty",
    }
    assert "ends" not in found.useless_now(soon.timestamp())
    assert found.used_groups(soon.timestamp()) == {"default", "nowhere", "denied"}


def test_of_very_many_keys_those_that_end_next_are_shown_and_the_latest_of_those_that_have_ended() -> None:
    inventory = Inventory(ends={f"k{n}": float(n) for n in range(100)})

    assert [name for name, _ in next_to_end(inventory, 49.5, 3)] == ["k50", "k51", "k52"]
    assert [name for name, _ in next_to_end(inventory, 98.5, 3)] == ["k97", "k98", "k99"]
    assert len(next_to_end(inventory, 0, 100)) == 100


def test_keys_are_counted_as_each_of_them_stands() -> None:
    hashes = (KeyHash(sha256=key_hash("k0"), expires=at(300.0)), KeyHash(sha256=key_hash("k1"), expires=at(400.0)))
    variants: tuple[dict[str, Any], ...] = (
        {},
        {"enabled": False},
        {"expires": at(350.0)},
        {"hashes": hashes},
        {"hashes": hashes[:1], "enabled": False},
        {"hashes": hashes[1:], "expires": at(100.0)},
    )
    keys = tuple(api_key(id=f"k{number}", **fields) for number, fields in enumerate(variants))
    tree = snapshot(keys=(*keys, api_key(id="gone")), deny=Deny(keys=("gone",), sha256=(key_hash("k0"),)))
    for now in (0.0, 100.0, 300.0, 350.0, 399.0, 400.0, 1e9):
        states = Counter(best_state(key, tree, now) for key in tree.keys.values())
        states["expired"] += states.pop("rotated", 0)
        assert Counter(take_inventory(tree).key_counts(now)) == states, now
