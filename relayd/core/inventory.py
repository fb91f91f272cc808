"""Inventory: what an operator plans by: for whom a config's values are sealed, and when its keys end.

Rule: pure. Made once per config, for status and metrics.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

import attrs

from relayd.config.secrets.recipients import SealError, by_kid
from relayd.config.secrets.seal import parse_sealed
from relayd.config.snapshot import Account, ApiKey, Snapshot
from relayd.core.access.auth import best_state
from relayd.core.access.permissions import model_allowed
from relayd.core.balancing.candidates import serves
from relayd.noun import noun


@noun(kw_only=True)
class SealedFor:
    """Who can open sealed values. `name`: as relay.toml has it; "" for a key that it does not list."""

    kid: str
    name: str
    state: str
    values: int


@noun(kw_only=True)
class Inventory:
    """Of one config.

    Args:
        recipients: those of relay.toml in its order, then strangers that values name. One with no value can go.
        ends: Unix time, s, at which each key ends that does, the first one first. Not of disabled and denied keys.
        groups: those that keys use which are not disabled or denied, and Unix time, s, at which the last of them ends;
            math.inf for never.
        useless: such keys that can do nothing by the config, and why.
        keys: how many keys there are: "disabled", "denied", and "active" for those that are neither, ended or not.
    """

    recipients: tuple[SealedFor, ...] = ()
    ends: Mapping[str, float] = attrs.field(factory=dict)
    groups: Mapping[str, float] = attrs.field(factory=dict)
    useless: Mapping[str, str] = attrs.field(factory=dict)
    keys: Mapping[str, int] = attrs.field(factory=dict)

    def key_counts(self, now: float) -> dict[str, int]:
        """How many keys are active, disabled, denied and expired now. Cheap, however many there are."""
        expired = sum(1 for _ in takewhile(lambda end: end <= now, self.ends.values()))
        found = {state: self.keys.get(state, 0) for state in ("active", "disabled", "denied")}
        return {**found, "active": found["active"] - expired, "expired": expired}

    def used_groups(self, now: float) -> frozenset[str]:
        """The groups of keys that are accepted now."""
        return frozenset(group for group, end in self.groups.items() if end > now)

    def useless_now(self, now: float) -> dict[str, str]:
        """Keys that are accepted now and can do nothing, and why."""
        return {name: why for name, why in self.useless.items() if self.ends.get(name, math.inf) > now}


def take_inventory(snapshot: Snapshot) -> Inventory:
    """Count what a config seals, and note when its keys end."""
    found = [(key.id, end) for key in snapshot.keys.values() if (end := _end(key, snapshot)) is not None]
    ends: dict[str, float] = dict(sorted(found, key=lambda one: (one[1], one[0])))
    groups: dict[str, float] = {}
    useless: dict[str, str] = {}
    by_groups: dict[tuple[str, ...], list[Account]] = {}
    for key in snapshot.keys.values():
        if not key.enabled or key.id in snapshot.deny.keys:
            continue
        for group in key.groups:
            groups[group] = max(groups.get(group, 0.0), ends.get(key.id, math.inf))
        if key.groups not in by_groups:
            by_groups[key.groups] = _usable(key.groups, snapshot)
        if why := why_useless(key, by_groups[key.groups], snapshot):
            useless[key.id] = why
    keys: Counter[str] = Counter(best_state(key, snapshot, 0.0) for key in snapshot.keys.values())
    return Inventory(recipients=tuple(_recipients(snapshot)), ends=ends, groups=groups, useless=useless, keys=keys)


def why_useless(key: ApiKey, accounts: Sequence[Account], snapshot: Snapshot) -> str:
    """Why a key can do nothing, whatever it asks for; "" when it can. `accounts`: that may serve it."""
    if not key.endpoints:
        return "its list of endpoints is empty"
    if not accounts:
        return f"no enabled account is in its groups ({', '.join(key.groups) or 'it has none'})"
    if not key.models or any("*" in glob or "?" in glob for glob in key.models):
        return ""
    named = [(model, snapshot.relay.models.get(model, model)) for model in key.models]
    asked = [real for model, real in named if model_allowed(key, model, real)]
    if not asked:
        return "each of its models is denied"
    served = any(serves(account, model) for model in asked for account in accounts)
    return "" if served else f"no account of its groups serves {', '.join(key.models[:3])}"


def _usable(groups: Sequence[str], snapshot: Snapshot) -> list[Account]:
    """The accounts of some groups that may serve by the config."""
    enabled = [one for one in snapshot.accounts.values() if one.enabled and one.id not in snapshot.deny.accounts]
    return [one for one in enabled if not set(one.groups).isdisjoint(groups)]


def next_to_end(inventory: Inventory, now: float, most: int) -> list[tuple[str, float]]:
    """At most so many keys: those that end next, and when these are fewer, those that ended last."""
    ends = list(inventory.ends.items())
    if len(ends) <= most:
        return ends
    at = bisect_right(ends, now, key=lambda one: one[1])
    following = ends[at : at + most]
    return ends[max(0, at - (most - len(following))) : at] + following


def ending_within(inventory: Inventory, seconds: float, now: float) -> list[tuple[str, float]]:
    """Keys that end between now and then, the next one first. Those that have ended already are left out."""
    return [(name, end) for name, end in inventory.ends.items() if now < end <= now + seconds]


def _recipients(snapshot: Snapshot) -> Iterator[SealedFor]:
    count = Counter(kid for value in sealed_values(snapshot) for kid in _kids(value))
    listed = by_kid(snapshot.relay.secrets.recipients)
    for kid, recipient in listed.items():
        yield SealedFor(kid=kid, name=recipient.name, state=recipient.state, values=count[kid])
    for kid in sorted(count.keys() - listed.keys()):
        yield SealedFor(kid=kid, name="", state="unknown", values=count[kid])


def sealed_values(snapshot: Snapshot) -> list[str]:
    """Every sealed value of a config: of accounts, enabled or not, of alerts and of people who sign in."""
    own = [account.credential.sealed for account in snapshot.accounts.values()]
    return [*_sealed_in(snapshot.relay), *filter(None, own)]


def _sealed_in(noun: Any) -> Iterator[str]:
    for field in attrs.fields(type(noun)):
        value = getattr(noun, field.name)
        if field.metadata.get("form") == "sealed":
            if value:
                yield value
        else:
            inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
            for one in inner:
                if attrs.has(type(one)):
                    yield from _sealed_in(one)


@lru_cache(maxsize=4096)  # values outlive configs; taking one apart costs 20 us
def _kids(value: str) -> frozenset[str]:
    try:
        return parse_sealed(value).kids
    except SealError:  # which the compiler does not let through
        return frozenset()


def _end(key: ApiKey, snapshot: Snapshot) -> float | None:
    """When the last hash of a key that is accepted stops counting; None for never, or for a key that is refused."""
    if not key.enabled or key.id in snapshot.deny.keys:
        return None
    hashes = [one.expires for one in key.hashes if one.sha256 not in snapshot.deny.sha256]
    own = key.expires.timestamp() if key.expires is not None else None
    if not hashes or None in hashes:
        return own if hashes else None
    last = max(when.timestamp() for when in hashes if when is not None)
    return last if own is None else min(own, last)
