"""Swap: what one config means for the next: what is kept until a restart, what is denied meanwhile, what comes back.

Rule: sync, free of I/O; `now` (Unix time, s) is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from relayd.config.snapshot import RESTART, Deny, Snapshot

T = TypeVar("T")
Entries = tuple[Any, ...]


# --- settings that need a restart


def keep_running(old: Snapshot, new: Snapshot) -> Snapshot:
    """`new`, where every setting that needs a restart has the value it runs with."""
    relay = _kept(old.relay, new.relay)
    return new if relay is new.relay else attrs.evolve(new, relay=relay)


def _kept(old: T, new: T) -> T:
    changes: dict[str, object] = {}
    for name, was, wanted, restart in _pairs(old, new):
        kept = was if restart else _kept(was, wanted)
        if kept is not wanted:
            changes[name] = kept
    return attrs.evolve(new, **changes) if changes else new  # type: ignore[misc]


def waiting_for_restart(running: object, wanted: object, table: str = "") -> tuple[str, ...]:
    """Settings that only a restart brings into force, as `table.key`. Args are two `Relay`s."""
    found: list[str] = []
    for name, was, new, restart in _pairs(running, wanted):
        found += [table + name] if restart else waiting_for_restart(was, new, f"{table}{name}.")
    return tuple(found)


def _pairs(old: object, new: object) -> list[tuple[str, object, object, bool]]:
    """Fields of two tables of one kind: those that differ and need a restart (True), and the tables below (False)."""
    found: list[tuple[str, object, object, bool]] = []
    for field in attrs.fields(type(new)):  # type: ignore[arg-type]
        was, wanted = getattr(old, field.name), getattr(new, field.name)
        restart = field.metadata.get("reload") == RESTART
        if restart and was != wanted:
            found.append((field.name, was, wanted, True))
        elif not restart and attrs.has(type(wanted)) and type(was) is type(wanted):
            found.append((field.name, was, wanted, False))
    return found


# --- deny.toml, which acts on its own


def union(one: Deny, other: Deny) -> Deny:
    """What either of two deny.toml refuses, in a stable order."""
    return _combined(one, other, lambda a, b: tuple(dict.fromkeys((*a, *b))))


def added(before: Deny, after: Deny) -> Deny:
    """What `after` refuses and `before` did not."""
    return _combined(before, after, lambda a, b: tuple(entry for entry in b if entry not in set(a)))


def _combined(one: Deny, other: Deny, combine: Callable[[Entries, Entries], Entries]) -> Deny:
    names = [field.name for field in attrs.fields(Deny)]
    return Deny(**{name: combine(getattr(one, name), getattr(other, name)) for name in names})


# --- what was revoked


def revived(old: Snapshot, new: Snapshot, now: float) -> list[str]:
    """Ids of keys that `new` lets in with a hash that `old` refuses or does not know."""
    again = {
        key.id
        for digest, (key, _) in new.keys_by_hash.items()
        if not _opens(old, digest, now) and _opens(new, digest, now)
    }
    return sorted(again)


def _opens(snapshot: Snapshot, digest: bytes, now: float) -> bool:
    found = snapshot.keys_by_hash.get(digest)
    if found is None:
        return False
    key, entry = found
    if not key.enabled or key.id in snapshot.deny.keys or entry.sha256 in snapshot.deny.sha256:
        return False
    return all(expires is None or now < expires.timestamp() for expires in (key.expires, entry.expires))
