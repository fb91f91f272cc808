"""Choices: the names in the running config that a field of a form suggests.

Rule: a suggestion is help and no limit: whatever else is typed is taken as it is. Where a config has more names of a
kind than anybody reads in a list, there is none, so that no page grows with its keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from relayd.config.snapshot import KeyEndpoint, Snapshot
from relayd.wire.current_models import CURRENT

MOST = 200


def choices_of(snapshot: Snapshot) -> Mapping[str, list[str]]:
    """What there is of each kind: keys, owners, accounts, groups, models, client rules, endpoints."""
    keys = snapshot.keys.values() if len(snapshot.keys) <= MOST else ()
    return {
        "key": _some(str(key.id) for key in keys),
        "owner": _some(key.owner for key in keys if key.owner),
        "account": _some(str(name) for name in snapshot.accounts) if len(snapshot.accounts) <= MOST else [],
        "groups": _some(group for account in snapshot.accounts.values() for group in account.groups),
        "model": _some([*snapshot.relay.models, *CURRENT]),
        "clients": _some(snapshot.relay.clients),
        "endpoints": list(get_args(KeyEndpoint)),
    }


def _some(names: Iterable[str]) -> list[str]:
    return sorted(set(names))[:MOST]
