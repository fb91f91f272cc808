"""Guard: which changes wait for a person's confirmation, although the new tree is sound.

Rule: pure. Theory: the mistakes that hurt most are not errors of syntax but absences: a directory that was not mounted,
a merge that lost half the keys, a group whose last account went. Such a tree compiles. So what would take away much at
once is held until its digest is accepted, and so is an emptied list that shuts nobody out any more; what else adds or
changes passes. The [guard] of the new tree counts, so that a commit can say itself that it is meant.

Revocation is never held up: deny.toml acts on its own (see `with_deny`), and what somebody disables or deletes by name
is no absence (see `taken_out`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import attrs

from relayd.config.changes import Changes
from relayd.config.snapshot import Account, ApiKey, Deny, Snapshot

T = TypeVar("T")
Named = TypeVar("Named", Account, ApiKey)

LEAST_DIGITS = 12  # hex digits of a digest that say which tree is meant: 48 bits
_SHOWN = 8  # names in one reason


def held(old: Snapshot, new: Snapshot, changes: Changes, *, accepted: str = "", digest: str = "") -> tuple[str, ...]:
    """Why a change waits for confirmation; () when it passes.

    Args:
        old, new: the running config and the candidate.
        changes: `diff(old, new)`; a change of nothing is never held.
        accepted: a digest that a person has accepted, at least LEAST_DIGITS of it.
        digest: of the candidate's tree (`Tree.digest`); its revision, the first twelve digits, when left out.
    """
    if changes.empty or accepts(accepted, digest or new.revision):
        return ()
    guard = new.relay.guard
    reasons: list[str] = []
    if guard.realm and old.relay.realm != new.relay.realm:
        reasons.append(f"the realm changes from {old.relay.realm} to {new.relay.realm}: every counter starts anew")
    if new.relay.schema < old.relay.schema:
        reasons.append(f"the schema goes back from {old.relay.schema} to {new.relay.schema}")
    reasons += _mass("account", old.accounts, new.accounts, new)
    reasons += _mass("key", old.keys, new.keys, new)
    if guard.empty_group:
        reasons += _empty_groups(old, new)
    if guard.wider:
        reasons += _widened(old, new)
    return tuple(reasons)


def accepts(accepted: str, digest: str) -> bool:
    """Whether an accepted digest, or a beginning of it, means this one."""
    accepted = accepted.strip().lower()
    return len(accepted) >= LEAST_DIGITS and (digest.startswith(accepted) or accepted.startswith(digest or " "))


def taken_out(old: Snapshot, names: Iterable[str]) -> Snapshot:
    """The running config as the guard is to see it where somebody took these out by name: as if they were off already.

    Args:
        names: such as "account main" and "key alice"; what is not there is passed over.
    """
    named = set(names)
    if not named:
        return old
    return attrs.evolve(
        old,
        accounts={name: _off(one) if f"account {name}" in named else one for name, one in old.accounts.items()},
        keys={name: _off(one) if f"key {name}" in named else one for name, one in old.keys.items()},
    )


def _off(one: Named) -> Named:
    return attrs.evolve(one, enabled=False)


def refuses(snapshot: Snapshot, name: str) -> bool:
    """Whether a config lets nothing through by a name: "account main", "key alice", "hash SHA256", "address RANGE"."""
    kind, _, what = name.partition(" ")
    deny = snapshot.deny
    if kind in ("hash", "address"):
        return what in (deny.sha256 if kind == "hash" else deny.ips)
    objects: Mapping[str, Account | ApiKey] = snapshot.accounts if kind == "account" else snapshot.keys
    denied = deny.accounts if kind == "account" else deny.keys
    return what not in objects or not objects[what].enabled or what in denied


def restored(old: Snapshot, new: Snapshot) -> tuple[str, ...]:
    """Keys that `old` refuses and `new` would let in again: what a rollback must not do unasked. By id, sorted."""
    refused = {
        key.id
        for digest, (key, entry) in new.keys_by_hash.items()
        if _accepted(new, key, entry.sha256) and not _accepted_hash(old, digest)
    }
    return tuple(sorted(refused))


def with_deny(snapshot: Snapshot, deny: Deny) -> Snapshot:
    """The snapshot that refuses what `deny` names besides what it refuses already; itself when that changes nothing."""
    both = Deny(
        keys=_union(snapshot.deny.keys, deny.keys),
        sha256=_union(snapshot.deny.sha256, deny.sha256),
        accounts=_union(snapshot.deny.accounts, deny.accounts),
        ips=_union(snapshot.deny.ips, deny.ips),
    )
    return snapshot if both == snapshot.deny else attrs.evolve(snapshot, deny=both)


def _union(old: tuple[T, ...], new: tuple[T, ...]) -> tuple[T, ...]:
    return (*old, *(one for one in new if one not in old))


def _accepted_hash(snapshot: Snapshot, digest: bytes) -> bool:
    found = snapshot.keys_by_hash.get(digest)
    return found is not None and _accepted(snapshot, found[0], found[1].sha256)


def _accepted(snapshot: Snapshot, key: ApiKey, sha256: str) -> bool:
    return key.enabled and key.id not in snapshot.deny.keys and sha256 not in snapshot.deny.sha256


def _mass(
    kind: str, old: Mapping[str, Account | ApiKey], new: Mapping[str, Account | ApiKey], snapshot: Snapshot
) -> list[str]:
    """Too many objects that go at once. Disabling one is as good as removing it."""
    before, after = _enabled(old), _enabled(new)
    gone = sorted(before - after)
    if before and not after:
        return [f"no enabled {kind} would be left of {len(before)}"]
    guard = snapshot.relay.guard
    allowed = max(min(guard.max_removed, len(before) // 2), int(guard.max_removed_share * len(before)))
    if len(gone) <= allowed:
        return []
    return [f"{len(gone)} of {len(before)} {kind}s would go, more than {allowed} at once: {_names(gone)}"]


def _enabled(objects: Mapping[str, Account | ApiKey]) -> set[str]:
    return {name for name, one in objects.items() if one.enabled}


def _empty_groups(old: Snapshot, new: Snapshot) -> list[str]:
    """Groups that enabled keys use and that lose their last enabled account."""
    used = {group for key in new.keys.values() if key.enabled for group in key.groups}
    emptied = sorted(used & _served(old) - _served(new))
    return [f"group {group} would have no enabled account, and keys use it" for group in emptied]


# Lists of a key in which nothing means anything.
_WIDE_WHEN_EMPTY = ("models", "deny_models", "clients", "allowed_ips")


def _widened(old: Snapshot, new: Snapshot) -> list[str]:
    """Lists of a key that become empty, and so shut nobody out any more."""
    found = []
    for name in _WIDE_WHEN_EMPTY:
        keys = [one for one in new.keys.values() if one.enabled and one.id in old.keys and not getattr(one, name)]
        widened = sorted(one.id for one in keys if getattr(old.keys[one.id], name))
        if widened:
            found.append(f"{name} becomes empty, which shuts nothing out: key {_names(widened)}")
    return found


def _served(snapshot: Snapshot) -> set[str]:
    accounts: list[Account] = [one for one in snapshot.accounts.values() if one.enabled]
    return {group for account in accounts for group in account.groups}


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
