"""relayd import: accounts and keys of another relay, as files of the tree.

Everything is written at once or not at all. New keys are printed once: they have to be given to their users, because
the old ones cannot be checked without the other installation's secret (crs.py says why).
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Mapping
from pathlib import Path

import attrs

from relayd.cli.account import warn_of_kind
from relayd.cli.crs import BadExport, Export, ImportedAccount, ImportedKey, read_export
from relayd.cli.output import print_json, print_table, say
from relayd.cli.tree import (
    Stop,
    add_action,
    guarded,
    now,
    object_id,
    tree_files,
    write,
)
from relayd.config.edit.edits import key_file
from relayd.config.edit.toml_edit import Value, render_document
from relayd.config.edit.write import Files
from relayd.config.secrets.account_kinds import OAUTH
from relayd.config.secrets.api_keys import hint, mint
from relayd.config.secrets.recipients import active_keys
from relayd.config.secrets.seal import seal
from relayd.config.secrets.sealed_fields import objects, recipients_of, relay_table, table_binding


@attrs.frozen(kw_only=True)
class Issued:
    """A key under its new id, with the text that its user needs."""

    id: str
    key: str = attrs.field(repr=False)
    imported: ImportedKey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    crs = add_action(sources, "crs", "import an export of claude-relay-service", take_over, writes=True)
    crs.add_argument("file", metavar="FILE", type=Path, help="JSON of `data-transfer-enhanced.js export`")
    crs.add_argument("--only", choices=("keys", "accounts"), help="import only these")
    crs.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")


def main(args: argparse.Namespace) -> int:
    return guarded(f"import {args.source}", args.act, args)


def take_over(args: argparse.Namespace) -> int:
    """Read the export, write the files, print the new keys."""
    try:
        export = read_export(args.file.read_text(encoding="utf-8"))
    except (BadExport, UnicodeDecodeError) as error:
        raise Stop(f"{args.file}: {error if isinstance(error, BadExport) else 'not UTF-8'}") from None
    files = tree_files(args)
    accounts = _named_accounts(export, files, args)
    issued = [] if args.only == "accounts" else _issued(export, files)
    for note in export.notes:
        say(f"note: {note}")
    if accounts:
        warn_of_kind(OAUTH.name)
    if args.dry_run:
        say(f"would write {len(accounts)} accounts and {len(issued)} keys")
        return _print(args, [], accounts, issued)
    changed = write(args, lambda now_files: _plan(now_files, accounts, issued))
    if accounts:
        say("the accounts are switched off: two relays must not refresh one token (stop the old relay first)")
    if issued:
        say("the new keys, shown this once; the old ones do not work here:")
    return _print(args, list(changed), accounts, issued)


def _named_accounts(export: Export, files: Files, args: argparse.Namespace) -> dict[str, ImportedAccount]:
    """The accounts under their new ids. Raises: Stop when they could not be sealed, or the tree would not compile."""
    if args.only == "keys" or not export.accounts:
        return {}
    if not active_keys(recipients_of(files)):
        raise Stop("relay.toml lists no recipient to seal the tokens for (relayd secret keygen, or --only keys)")
    oauth = relay_table(files).get("oauth")
    if not (isinstance(oauth, dict) and oauth.get("client_id")):
        raise Stop("relay.toml: [oauth].client_id is empty, and oauth accounts need a registration (or --only keys)")
    taken = {identity for _, identity, _ in objects(files, "accounts.d")}
    return {_free(account.name, "account", taken): account for account in export.accounts}


def _issued(export: Export, files: Files) -> list[Issued]:
    taken = {identity for _, identity, _ in objects(files, "keys.d")}
    return [
        Issued(id=_free(key.name, "key", taken), key=mint(secrets.token_bytes), imported=key) for key in export.keys
    ]


def _free(name: str, kind: str, taken: set[str]) -> str:
    """An id made from a name, with a number when it is taken. Adds it to `taken`."""
    try:
        base = object_id(name)[:58]
    except Stop:  # a name without any letter a-z or digit
        base = kind
    found, number = base, 1
    while found in taken:
        number += 1
        found = f"{base}-{number}"
    taken.add(found)
    return found


def _plan(files: Files, accounts: Mapping[str, ImportedAccount], issued: list[Issued]) -> Mapping[str, bytes | None]:
    groups = {account.origin: identity for identity, account in accounts.items()}
    bound = {one.imported.account for one in issued}
    new: dict[str, bytes | None] = {}
    for identity, account in accounts.items():
        # A key that was bound to one account reaches it through a group of that account's name.
        own = [identity] if account.dedicated else ["default", *([identity] if account.origin in bound else [])]
        new[f"accounts.d/{identity}.toml"] = _account_file(files, identity, account, own).encode()
    for one in issued:
        fields: dict[str, Value] = {**one.imported.fields, "created": now()}
        if one.imported.account in groups:
            fields["groups"] = [groups[one.imported.account]]
        new[f"keys.d/{one.id}.toml"] = key_file(one.key, fields, one.imported.limits).encode()
    if taken := sorted(path for path in new if path in files):
        raise Stop(f"{taken[0]} exists already")
    return new


def _account_file(files: Files, identity: str, account: ImportedAccount, groups: list[str]) -> str:
    binding = table_binding(relay_table(files), identity, dict(account.fields))
    value = seal(account.credential, binding, active_keys(recipients_of(files)))
    fields: dict[str, Value] = {**account.fields, "groups": list(groups)}
    return render_document(fields, {"credential": {"sealed": value}})


def _print(
    args: argparse.Namespace, changed: list[str], accounts: Mapping[str, ImportedAccount], issued: list[Issued]
) -> int:
    if args.json:
        keys = [
            {
                "id": one.id,
                "name": one.imported.name,
                **({} if args.dry_run else {"key": one.key, "hint": hint(one.key)}),
            }
            for one in issued
        ]
        print_json({"changed": changed, "accounts": list(accounts), "keys": keys})
    elif issued:
        print_table(("ID", "NAME", "KEY"), [
            (one.id, one.imported.name, "-" if args.dry_run else one.key) for one in issued
        ])  # fmt: skip
    return 0
