"""Cross-file rules: what the files of a tree say about each other.

Rule: every function takes what could be read and says nothing about what could not: a broken file has its own problems,
and does not make others look wrong.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from relayd.config.model.document import Document, FileKind
from relayd.config.model.structure import dotted
from relayd.config.model.values import quote
from relayd.config.problems.problem import Problem, Related
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import PREDEFINED_CLIENTS, Account, ApiKey, Deny, KeyPath, Relay
from relayd.noun import noun


@noun(kw_only=True)
class Parsed:
    """One file, read and judged by itself.

    Args:
        digest: SHA-256 of its bytes.
        id: the stem of the file.
        noun: Relay, Account, ApiKey, Deny or Prices; None when the file has errors, and for scenarios.
        problems: of the file by itself.
        given_limits: the keys of its `[limits]`.
    """

    digest: bytes
    kind: FileKind
    id: str
    document: Document
    noun: Any = None
    problems: tuple[Problem, ...] = ()
    given_limits: frozenset[str] = frozenset()

    def problem(
        self, code: str, path: KeyPath, message: str, *, hint: str = "", related: Sequence[Related] = ()
    ) -> Problem:
        """A problem with a key of this file."""
        return self.document.problem(code, path, message, hint=hint, related=tuple(related))


def cross_file_problems(files: Sequence[Parsed], now: datetime.datetime | None) -> Iterator[Problem]:
    """Everything that takes two files to see; expired keys when `now` is given."""
    relay = next((file for file in files if file.kind == "relay"), None)
    accounts = [file for file in files if file.kind == "account"]
    keys = [file for file in files if file.kind == "key"]
    yield from _same_id(accounts, "account")
    yield from _same_id(keys, "key")
    yield from _same_hash(keys)
    yield from _groups(accounts, keys)
    yield from _absent(relay, accounts, keys)
    for file in files:
        if isinstance(file.noun, Deny):
            yield from _denied(file, accounts, keys)
    if relay is not None and relay.document.table is not None:
        yield from _clients(relay, keys)
        yield from _oauth(relay, accounts)
        yield from _schemes(relay, keys)
    if now is not None:
        yield from _expired(keys, now)


def _same_id(files: Iterable[Parsed], kind: str) -> Iterator[Problem]:
    first: dict[str, Parsed] = {}
    for file in files:
        other = first.setdefault(file.id, file)
        if other is not file:
            message = f"the {kind} id {quote(file.id)} is also used by {other.document.file}"
            related = (Related(file=other.document.file, line=1, column=1, message=f"the other {kind}"),)
            yield file.document.whole("E-DUP-ID", message, hint="rename one of the files", related=related)


def _same_hash(keys: Iterable[Parsed]) -> Iterator[Problem]:
    first: dict[str, tuple[Parsed, int]] = {}
    for file in keys:
        for number, entry in enumerate(file.noun.hashes if file.noun else ()):
            other, index = first.setdefault(entry.sha256, (file, number))
            if other is not file:
                path: KeyPath = ("hashes", number, "sha256")
                message = f"{dotted(path)}: key {quote(other.id)} has the same hash"
                related = other.document.related(("hashes", index, "sha256"), f"in key {quote(other.id)}")
                yield file.problem("E-DUP-HASH", path, message, related=[related])


def _groups(accounts: Sequence[Parsed], keys: Iterable[Parsed]) -> Iterator[Problem]:
    """Keys whose group has no enabled account. Silent while an account's groups are unknown."""
    served: set[str] = set()
    for file in accounts:
        if file.noun is None:
            return
        served.update(file.noun.groups if file.noun.enabled else ())
    if not accounts:
        return
    for file in keys:
        key = file.noun
        if key is None or not key.enabled or served.issuperset(key.groups):
            continue
        for number, group in enumerate(key.groups):
            if group not in served:
                path: KeyPath = ("groups", number)
                message = f"groups: no enabled account is in group {quote(group)}"
                yield file.problem("W-EMPTY-GROUP", path, message, hint=f"groups that have one: {_listed(served)}")


def _absent(relay: Parsed | None, accounts: Sequence[Parsed], keys: Sequence[Parsed]) -> Iterator[Problem]:
    if relay is None:
        return
    if not accounts:
        yield relay.document.whole("W-NO-ACCOUNTS", "the tree has no account", hint="add one to accounts.d")
    if not keys:
        yield relay.document.whole("W-NO-KEYS", "the tree has no API key", hint="add one to keys.d")


def _denied(deny: Parsed, accounts: Iterable[Parsed], keys: Iterable[Parsed]) -> Iterator[Problem]:
    for field, known in (("keys", {file.id for file in keys}), ("accounts", {file.id for file in accounts})):
        for number, name in enumerate(getattr(deny.noun, field)):
            if name not in known:
                yield deny.problem(
                    "N-UNKNOWN-ID", (field, number), f"{field}: the tree has no {field[:-1]} {quote(name)}"
                )


def _clients(relay: Parsed, keys: Iterable[Parsed]) -> Iterator[Problem]:
    """Client rules that a key names but nobody defined. A relay.toml with errors elsewhere still has its rules."""
    written = (relay.document.table or {}).get("clients", {})
    known = set(PREDEFINED_CLIENTS) | set(written if isinstance(written, dict) else ())
    for file in keys:
        for number, client in enumerate(file.noun.clients if file.noun else ()):
            if client not in known:
                path: KeyPath = ("clients", number)
                message = f"{dotted(path)}: there is no client rule {quote(client)}"
                yield file.problem("E-REF", path, message, hint=f"known: {_listed(known)}")


def _oauth(relay: Parsed, accounts: Iterable[Parsed]) -> Iterator[Problem]:
    if not isinstance(relay.noun, Relay) or relay.noun.oauth.client_id:
        return
    for file in accounts:
        if isinstance(file.noun, Account) and ACCOUNT_KINDS[file.noun.kind].refreshes:
            message = "kind: without [oauth].client_id in relay.toml its tokens are not refreshed when they expire"
            hint = "it is the id of your own OAuth registration; an access token alone does not need one"
            yield file.problem("W-OAUTH-CLIENT", ("kind",), message, hint=hint)


def _schemes(relay: Parsed, keys: Iterable[Parsed]) -> Iterator[Problem]:
    """Hashes that nobody can check, for the secret that they need is not there."""
    if not isinstance(relay.noun, Relay) or relay.noun.secrets.crs_encryption_key:
        return
    for file in keys:
        for number, entry in enumerate(file.noun.hashes if file.noun else ()):
            if entry.scheme == "crs-sha256":
                path: KeyPath = ("hashes", number, "scheme")
                message = f"{dotted(path)}: crs-sha256 needs [secrets].crs_encryption_key in relay.toml"
                yield file.problem("E-HASH-SCHEME", path, message, hint="relayd import crs FILE --keep-keys")


def _expired(keys: Iterable[Parsed], now: datetime.datetime) -> Iterator[Problem]:
    for file in keys:
        key: ApiKey | None = file.noun
        if key is None:
            continue
        if key.expires and key.expires <= now:
            yield file.problem("W-EXPIRED", ("expires",), f"the key expired at {key.expires.isoformat()}")
        for number, entry in enumerate(key.hashes):
            if entry.expires and entry.expires <= now:
                path: KeyPath = ("hashes", number, "expires")
                yield file.problem("W-EXPIRED", path, f"the hash expired at {entry.expires.isoformat()}")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:12]) + (", ..." if len(ordered) > 12 else "") if ordered else "none"
