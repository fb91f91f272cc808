"""Model list: which models a key may ask for, for the model lists of both dialects.

Rule: what the accounts' upstreams list, as far as they were asked (`Offers`), and the operator's aliases. Where an
account has not answered yet, the models that have a price and those named in full in the config stand for its list.

Theory: an upstream lists a model under its dated id and takes the bare one too; a bare id counts as listed where a
dated one is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import attrs

from relayd.config.snapshot import Account, ApiKey, Snapshot
from relayd.core.access.permissions import glob_matches, model_allowed
from relayd.core.quota.prices import retired
from relayd.wire.anthropic import ModelEntry

_DATE = re.compile(r"-(20\d\d)(\d\d)(\d\d)$")

# What the upstreams of accounts list: models by id, by account id. An account that has not answered is not in it.
Offers = Mapping[str, Mapping[str, ModelEntry]]
NOTHING_ASKED: Offers = MappingProxyType({})


def usable_models(
    key: ApiKey, snapshot: Snapshot, known: Iterable[str], offers: Offers = NOTHING_ASKED
) -> list[ModelEntry]:
    """The models that `key` may ask for and that some account in its groups serves; aliases first, then newest first.

    Args:
        known: ids of models that are known to exist (those with a price).
    """
    accounts = list(_accounts(key, snapshot))
    aliases = [alias for alias in snapshot.relay.models if _served(alias, key, snapshot, accounts)]
    ids = {name for account in accounts for name in offers.get(account.id, ())}
    if any(account.id not in offers for account in accounts):
        ids |= {*known, *_named_in_full(key, accounts)}
    listed = [name for name in ids - set(aliases) if _listed(name, key, snapshot, accounts, offers)]
    return [_entry(name, snapshot, accounts, offers) for name in (*aliases, *sorted(listed, key=_order, reverse=True))]


def find_model(
    name: str, key: ApiKey, snapshot: Snapshot, known: Iterable[str], offers: Offers = NOTHING_ASKED
) -> ModelEntry | None:
    """One model that `key` may ask for: of the list, or one of it by its bare or its dated id."""
    entries = {entry.id: entry for entry in usable_models(key, snapshot, known, offers)}
    if name in entries:
        return entries[name]
    accounts = list(_accounts(key, snapshot))
    bare = _DATE.sub("", name)
    related = any(bare in (one, _DATE.sub("", one)) and (name == bare or one == bare) for one in entries)
    if not related or not _served(name, key, snapshot, accounts):
        return None
    return _entry(name, snapshot, accounts, offers)


def _accounts(key: ApiKey, snapshot: Snapshot) -> Iterator[Account]:
    for account in snapshot.accounts.values():
        if account.enabled and not set(account.groups).isdisjoint(key.groups):
            yield account


def _served(name: str, key: ApiKey, snapshot: Snapshot, accounts: list[Account]) -> bool:
    """Whether the key may ask for a model and the config lets an account serve it."""
    sent = snapshot.relay.models.get(name, name)
    return model_allowed(key, name, sent) and any(_serves(account, sent) for account in accounts)


def _listed(name: str, key: ApiKey, snapshot: Snapshot, accounts: list[Account], offers: Offers) -> bool:
    return model_allowed(key, name, name) and any(
        _serves(account, name) and (account.id not in offers or _offer(account, name, offers) is not None)
        for account in accounts
    )


def _serves(account: Account, sent: str) -> bool:
    return not account.models or any(glob_matches(glob, sent) for glob in account.models)


def _offer(account: Account, sent: str, offers: Offers) -> ModelEntry | None:
    """What an account's upstream lists for a model, under that name or with a date behind it."""
    listed = offers.get(account.id, {})
    upstream = account.model_map.get(sent, sent)
    if upstream in listed:
        return listed[upstream]
    return next((entry for name, entry in listed.items() if _DATE.sub("", name) == upstream), None)


def _named_in_full(key: ApiKey, accounts: list[Account]) -> set[str]:
    named: set[str] = set(key.models)
    for account in accounts:
        named |= {*account.models, *account.model_map}
    return {name for name in named if "*" not in name and "?" not in name}


def _order(name: str) -> tuple[list[int], str]:
    """Newest first: by version number, then by name."""
    return [int(number) for number in re.findall(r"\d+", _DATE.sub("", name))] or [0], name


def _entry(name: str, snapshot: Snapshot, accounts: list[Account], offers: Offers) -> ModelEntry:
    """A model under the name that clients ask for it by. An alias is as old as what it stands for."""
    sent = snapshot.relay.models.get(name, name)
    for account in accounts:
        offered = _offer(account, sent, offers) if _serves(account, sent) else None
        if offered is not None:
            shown = offered.display_name if name == sent else display_name(name)
            return attrs.evolve(offered, id=name, display_name=shown)
    dated = _DATE.search(sent)
    created = "-".join(dated.groups()) + "T00:00:00Z" if dated else "1970-01-01T00:00:00Z"
    gone = {"lifecycle": "retired"} if sent in retired() or _DATE.sub("", sent) in retired() else {}
    return ModelEntry(id=name, display_name=display_name(name), created=created, more=gone)


def display_name(name: str) -> str:
    """`claude-sonnet-4-5-20250929` as people write it: "Claude Sonnet 4.5"."""
    words = _DATE.sub("", name).split("-")
    text = " ".join(word.capitalize() for word in words)
    return re.sub(r"(?<=\d) (?=\d)", ".", text)
