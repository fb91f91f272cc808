"""Inventory: what an operator plans by: for whom a config's values are sealed, and when its keys end.

Rule: pure. Made once per config, for status and metrics.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import attrs

from relayd.config.secrets.recipients import SealError, by_kid
from relayd.config.secrets.seal import parse_sealed
from relayd.config.snapshot import ApiKey, Snapshot


@attrs.frozen(kw_only=True)
class SealedFor:
    """Who can open sealed values. `name`: as relay.toml has it; "" for a key that it does not list."""

    kid: str
    name: str
    state: str
    values: int


@attrs.frozen(kw_only=True)
class Inventory:
    """Of one config.

    Args:
        recipients: those of relay.toml in its order, then strangers that values name. One with no value can go.
        ends: Unix time, s, at which each key ends that does, the first one first. Not of disabled and denied keys.
    """

    recipients: tuple[SealedFor, ...] = ()
    ends: Mapping[str, float] = attrs.field(factory=dict)


def take_inventory(snapshot: Snapshot) -> Inventory:
    """Count."""
    ends: dict[str, float] = {key.id: end for key in snapshot.keys.values() if (end := _end(key, snapshot)) is not None}
    in_order = dict(sorted(ends.items(), key=lambda one: (one[1], one[0])))
    return Inventory(recipients=tuple(_recipients(snapshot)), ends=in_order)


def next_to_end(inventory: Inventory, now: float, most: int) -> list[tuple[str, float]]:
    """At most so many keys: those that end next, and when these are fewer, those that ended last."""
    ends = list(inventory.ends.items())
    if len(ends) <= most:
        return ends
    at = bisect_right(ends, now, key=lambda one: one[1])
    following = ends[at : at + most]
    return ends[max(0, at - (most - len(following))) : at] + following


def ending_within(inventory: Inventory, seconds: float, now: float) -> list[tuple[str, float]]:
    """Keys that end between now and then, the next one first. What has ended is no longer news."""
    soon = [(name, end) for name, end in inventory.ends.items() if now < end <= now + seconds]
    return sorted(soon, key=lambda one: (one[1], one[0]))


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
