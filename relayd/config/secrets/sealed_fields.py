"""Sealed fields: the keys of a tree that hold sealed values, found in the files as they are.

Rule: pure; it works on a tree that does not compile, because a value that is not right is a reason for that, and
resealing it is the repair. What is not TOML, or not of the expected type, has no sealed fields.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import attrs

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.binding import (
    ALERT_FIELDS,
    Binding,
    account_binding,
    alert_binding,
    crs_binding,
    totp_binding,
)
from relayd.config.secrets.recipients import SealError
from relayd.config.snapshot import KeyPath, OAuth, Recipient, Upstream
from relayd.noun import noun

Table = dict[str, Any]


@noun(kw_only=True)
class SealedField:
    """A sealed value and its place.

    Args:
        name: for people, such as "account main".
        file, path: POSIX path in the tree, and the key's path in the file.
        binding: what the value should be bound to; None when `problem` says why there can be none.
    """

    name: str
    file: str
    path: KeyPath
    value: str = attrs.field(repr=False)
    binding: Binding | None
    problem: str = ""


def sealed_fields(files: Mapping[str, bytes]) -> Iterator[SealedField]:
    """Every value in the tree that is to be sealed: of accounts, alerts and admins."""
    relay = relay_table(files)
    for file, account, table in accounts(files):
        value = _table(table, "credential").get("sealed")
        if isinstance(value, str) and value:
            yield _account_field(relay, file, account, table, value)
    yield from _relay_fields(relay)


def account_place(files: Mapping[str, bytes], account: str) -> tuple[str, Binding]:
    """The file of an account, and what its credential is bound to. Raises: LookupError; SealError."""
    for file, name, table in accounts(files):
        if name == account:
            return file, table_binding(relay_table(files), account, table)
    have = ", ".join(name for _, name, _ in accounts(files)) or "none"
    raise LookupError(f"there is no account {account} (known: {have})")


def accounts(files: Mapping[str, bytes]) -> Iterator[tuple[str, str, Table]]:
    """File, id and table of each account."""
    return objects(files, "accounts.d")


def objects(files: Mapping[str, bytes], folder: str) -> Iterator[tuple[str, str, Table]]:
    """File, id and table of each object of a folder, in order of the files."""
    for file, content in sorted(files.items()):
        if file.startswith(f"{folder}/") and file.endswith(".toml"):
            yield file, PurePosixPath(file).stem, parsed(content)


def relay_table(files: Mapping[str, bytes]) -> Table:
    """relay.toml as it is, without defaults."""
    return parsed(files.get("relay.toml", b""))


def realm_of(files: Mapping[str, bytes]) -> str:
    return str(relay_table(files).get("realm", ""))


def base_url_of(relay: Table, account: Table) -> str:
    """Where an account's credential goes."""
    own = account.get("base_url") or _table(relay, "upstream").get("base_url")
    return str(own or attrs.fields_dict(Upstream)["base_url"].default)


def table_binding(relay: Table, account: str, table: Table) -> Binding:
    """What an account's credential is to be bound to: `credential_binding` of files. Raises: SealError."""
    kind = ACCOUNT_KINDS.get(str(table.get("kind")))
    token_url = _table(relay, "oauth").get("token_url") or attrs.fields_dict(OAuth)["token_url"].default
    refreshed_at = str(token_url) if kind is not None and kind.refreshes else ""
    return account_binding(str(relay.get("realm", "")), account, base_url_of(relay, table), refreshed_at)


def recipients_of(files: Mapping[str, bytes]) -> list[Recipient]:
    """`[secrets] recipients`, as far as they have a name and a key."""
    found = _table(relay_table(files), "secrets").get("recipients", [])
    listed = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return [
        Recipient(name=str(entry.get("name", "")), public=str(entry["public"]), state=entry.get("state", "active"))
        for entry in listed
        if isinstance(entry.get("public"), str)
    ]


def parsed(content: bytes) -> Table:
    """The table of a file; empty for what is not TOML."""
    try:
        return tomllib.loads(content.decode())
    except ValueError:
        return {}


def _account_field(relay: Table, file: str, account: str, table: Table, value: str) -> SealedField:
    binding, problem = None, ""
    try:
        binding = table_binding(relay, account, table)
    except SealError as error:
        problem = str(error)
    path = ("credential", "sealed")
    return SealedField(name=f"account {account}", file=file, path=path, value=value, binding=binding, problem=problem)


def _relay_fields(relay: Table) -> Iterator[SealedField]:
    realm = str(relay.get("realm", ""))
    path: KeyPath
    old = _table(relay, "secrets").get("crs_encryption_key")
    if isinstance(old, str) and old:
        place: KeyPath = ("secrets", "crs_encryption_key")
        yield SealedField(name="crs key", file="relay.toml", path=place, value=old, binding=crs_binding(realm))
    for alert, table in _table(relay, "alerts").items():
        for field in ALERT_FIELDS if isinstance(table, dict) else ():
            value, path = table.get(field), ("alerts", alert, field)
            if isinstance(value, str) and value:
                name, binding = f"alert {alert}" + f" {field}" * (field != "url"), alert_binding(realm, alert, field)
                yield SealedField(name=name, file="relay.toml", path=path, value=value, binding=binding)
    users = _table(relay, "admin").get("users", [])
    for at, user in enumerate(users if isinstance(users, list) else []):
        value = user.get("totp") if isinstance(user, dict) else None
        if isinstance(value, str) and value:
            name = str(user.get("name", ""))
            path = ("admin", "users", at, "totp")
            binding = totp_binding(realm, name)
            yield SealedField(name=f"admin {name}", file="relay.toml", path=path, value=value, binding=binding)


def _table(table: Table, name: str) -> Table:
    found = table.get(name)
    return found if isinstance(found, dict) else {}
