"""Model list: which models a key may ask for, for the model lists of both dialects.

The upstream is the judge of what exists; this list is a service to people who pick a model from a menu. It holds the
models that have a price, the operator's aliases and the models named in full in the config.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.access.permissions import glob_matches, model_allowed
from relayd.wire.anthropic import ModelEntry

_DATE = re.compile(r"-(20\d\d)(\d\d)(\d\d)$")


def usable_models(key: ApiKey, snapshot: Snapshot, known: Iterable[str]) -> list[ModelEntry]:
    """The models that `key` may ask for and that some account in its groups serves; aliases first, then newest first.

    Args:
        known: ids of models that are known to exist (those with a price).
    """
    aliases = [alias for alias in snapshot.relay.models if _usable(alias, key, snapshot)]
    ids = {*known, *_named_in_full(key, snapshot)} - set(aliases)
    listed = sorted((name for name in ids if _usable(name, key, snapshot)), key=_order, reverse=True)
    return [_entry(name) for name in (*aliases, *listed)]


def find_model(name: str, key: ApiKey, snapshot: Snapshot) -> ModelEntry | None:
    """One model, whether it is in the list or not: an unknown id that the key may ask for is not an error."""
    return _entry(name) if _usable(name, key, snapshot) else None


def _usable(name: str, key: ApiKey, snapshot: Snapshot) -> bool:
    sent = snapshot.relay.models.get(name, name)
    if not model_allowed(key, name, sent):
        return False
    return any(
        account.enabled
        and not set(account.groups).isdisjoint(key.groups)
        and (not account.models or any(glob_matches(glob, sent) for glob in account.models))
        for account in snapshot.accounts.values()
    )


def _named_in_full(key: ApiKey, snapshot: Snapshot) -> set[str]:
    named: set[str] = set(key.models)
    for account in snapshot.accounts.values():
        if not set(account.groups).isdisjoint(key.groups):
            named |= {*account.models, *account.model_map}
    return {name for name in named if "*" not in name and "?" not in name}


def _order(name: str) -> tuple[list[int], str]:
    """Newest first: by version number, then by name."""
    return [int(number) for number in re.findall(r"\d+", _DATE.sub("", name))] or [0], name


def _entry(name: str) -> ModelEntry:
    dated = _DATE.search(name)
    created = "-".join(dated.groups()) + "T00:00:00Z" if dated else "1970-01-01T00:00:00Z"
    return ModelEntry(id=name, display_name=display_name(name), created=created)


def display_name(name: str) -> str:
    """`claude-sonnet-4-5-20250929` as people write it: "Claude Sonnet 4.5"."""
    words = _DATE.sub("", name).split("-")
    text = " ".join(word.capitalize() for word in words)
    return re.sub(r"(?<=\d) (?=\d)", ".", text)
