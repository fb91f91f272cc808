"""Transition from one config to the next: what is kept until a restart, what is newly denied.

Rule: pure.
"""

from __future__ import annotations

from typing import TypeVar

import attrs

from relayd.config.changes import Changes
from relayd.config.snapshot import RESTART, Deny, Snapshot

T = TypeVar("T")


def keep_running(old: Snapshot, new: Snapshot) -> Snapshot:
    """`new`, where every setting that needs a restart has the value it runs with."""
    relay = _kept(old.relay, new.relay)
    return new if relay is new.relay else attrs.evolve(new, relay=relay)


def _kept(old: T, new: T) -> T:
    changes: dict[str, object] = {}
    for field in attrs.fields(type(new)):  # type: ignore[arg-type]
        was, wanted = getattr(old, field.name), getattr(new, field.name)
        if was == wanted:
            continue
        if field.metadata.get("reload") == RESTART:
            changes[field.name] = was
        elif attrs.has(type(wanted)) and type(was) is type(wanted):
            changes[field.name] = _kept(was, wanted)
    return attrs.evolve(new, **changes) if changes else new  # type: ignore[misc]


def acts_now(changes: Changes) -> bool:
    """Whether a change is more than settings that wait for a restart."""
    return any(
        change.action != "change" or any(field.reload != RESTART for field in change.fields)
        for change in changes.changes
    )


def added(before: Deny, after: Deny) -> Deny:
    """What `after` refuses and `before` did not."""
    return Deny(
        keys=_only_new(before.keys, after.keys),
        sha256=_only_new(before.sha256, after.sha256),
        accounts=_only_new(before.accounts, after.accounts),
        ips=_only_new(before.ips, after.ips),
    )


def _only_new(before: tuple[T, ...], after: tuple[T, ...]) -> tuple[T, ...]:
    known = set(before)
    return tuple(entry for entry in after if entry not in known)
