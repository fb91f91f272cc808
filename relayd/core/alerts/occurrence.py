"""Occurrences: an alert event as nodes tell each other of it, and as it is kept until it was told to people.

Rule: what is decided about an event needs nothing but this, so that nodes of different versions understand each other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import attrs

from relayd.config.snapshot import Alert, Snapshot
from relayd.core.alerts.events import SEVERITIES, AlertEvent, EventSeverity, EventTurn
from relayd.noun import noun

PLACES = 1024  # of what nodes say for themselves, for each condition


@noun(kw_only=True)
class Occurrence:
    """One event, at one time, on one node.

    Args:
        at: Unix time, s.
        key, owner, account, groups: what it is about, as far as it is about any.
        fields: of the event, as the log has them.
        slot, quiet, lasting, everywhere: as `AlertEvent` has them.
    """

    event: str
    turn: EventTurn
    condition: str
    severity: EventSeverity
    text: str
    at: float
    node: str
    key: str = ""
    owner: str = ""
    account: str = ""
    groups: tuple[str, ...] = ()
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    slot: str = ""
    quiet: float = 0.0
    lasting: bool = False
    everywhere: bool = False


def occurrence_of(
    event: AlertEvent, at: float, node: str, snapshot: Snapshot, clean: Callable[[Any], Any]
) -> Occurrence:
    """An event that happened now.

    Args:
        at: Unix time, s.
        clean: takes out of a text, also within lists and tables, whatever looks like a secret.
    """
    key, account = str(getattr(event, "key", "")), str(getattr(event, "account", ""))
    return Occurrence(
        event=event.name,
        turn=event.turn,
        condition=event.condition,
        severity=event.severity,
        text=clean(event.text),
        at=at,
        node=node,
        key=key,
        owner=snapshot.keys[key].owner if key in snapshot.keys else "",
        account=account,
        groups=_groups(event, key, account, snapshot),
        fields=clean(event.fields()),
        slot=_slot(event, node),
        quiet=event.quiet,
        lasting=event.lasting,
        everywhere=event.everywhere,
    )


def _slot(event: AlertEvent, node: str) -> str:
    """Where an event lies until it is heard. What each node says for itself must not hide what another says; the number
    of places has a bound though names of nodes have none."""
    for_all = event.turn == "once" or event.everywhere
    return event.slot if for_all else f"{event.slot}#{zlib.crc32(node.encode()) % PLACES}"


def _groups(event: AlertEvent, key: str, account: str, snapshot: Snapshot) -> tuple[str, ...]:
    if group := getattr(event, "group", ""):
        return (str(group),)
    if key in snapshot.keys:
        return tuple(snapshot.keys[key].groups)
    return tuple(snapshot.accounts[account].groups) if account in snapshot.accounts else ()


def is_wanted(target: Alert, occurrence: Occurrence) -> bool:
    """Whether a target is told of an event. A filter by key, owner, account or group is for what is about one."""
    if SEVERITIES.index(occurrence.severity) < SEVERITIES.index(target.severity):
        return False
    one = occurrence
    if target.events and not _matches(target.events, (one.event,)):
        return False
    return all(
        not globs or not found or _matches(globs, found)
        for globs, found in (
            (target.keys, (one.key,) if one.key else ()),
            (target.owners, (one.owner,) if one.key else ()),
            (target.accounts, (one.account,) if one.account else ()),
            (target.groups, one.groups),
        )
    )


def _matches(globs: tuple[str, ...], names: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs for name in names)


def is_gone(occurrence: Occurrence, snapshot: Snapshot) -> bool:
    """Whether the config no longer has what a condition is about, or no longer uses it."""
    if occurrence.account:
        account = snapshot.accounts.get(occurrence.account)
        return account is None or not account.enabled or occurrence.account in snapshot.deny.accounts
    if occurrence.key:
        return occurrence.key not in snapshot.keys
    return False
