"""relayd import: accounts and keys of another relay, as files of the tree.

Rule: everything is written at once or not at all. What was taken over before is updated, found by the id that it had
there (`imported`): its limits and restrictions become those of the export, nothing is opened wider, and what the export
does not name stays as it is. New keys are printed once.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from relayd.cli import crs, litellm, sub2api
from relayd.cli.account import warn_of_kind
from relayd.cli.asking import read_secret
from relayd.cli.export import BadExport, Export, ImportedAccount, ImportedKey
from relayd.cli.output import print_json, print_table, say
from relayd.cli.tree import Stop, add_action, guarded, now, object_id, tree_files, write
from relayd.config.edit.edits import hash_entry
from relayd.config.edit.toml_edit import Value, render_document, set_value
from relayd.config.edit.wanted import set_wanted
from relayd.config.edit.write import Files
from relayd.config.secrets.account_kinds import OAUTH
from relayd.config.secrets.api_keys import hint, mint
from relayd.config.secrets.binding import crs_binding
from relayd.config.secrets.recipients import active_keys
from relayd.config.secrets.seal import seal
from relayd.config.secrets.sealed_fields import objects, realm_of, recipients_of, relay_table, table_binding
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import KeyPath
from relayd.noun import noun


@noun(kw_only=True)
class TakenKey:
    """A key under its id here. `key`: the text that its user needs; "" for one that was here, or keeps its old text."""

    id: str
    file: str
    key: str = attrs.field(repr=False)
    known: bool
    imported: ImportedKey


@noun(kw_only=True)
class TakenAccount:
    """An account under its id here. `known`: it was here."""

    id: str
    file: str
    known: bool
    imported: ImportedAccount


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for name, what, file in (
        ("crs", "claude-relay-service", "JSON of `data-transfer-enhanced.js export`"),
        ("litellm", "LiteLLM's proxy", "its config.yaml"),
        ("sub2api", "sub2api", "JSON of its admin page's export"),
    ):
        one = add_action(sources, name, f"import an export of {what}", take_over, writes=True)
        one.add_argument("file", metavar="FILE", type=Path, nargs="?" if name == "litellm" else None, help=file)
        one.add_argument("--only", choices=("keys", "accounts"), help="import only these")
        one.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
        one.add_argument(
            "--id", metavar="OLD=NEW", action="append", default=[], help="the id of what has this id or name there"
        )
        if name != "sub2api":
            one.add_argument(
                "--keep-keys",
                action="store_true",
                help="let the old keys go on working"
                + ("; the old ENCRYPTION_KEY is read from stdin and sealed into relay.toml" if name == "crs" else ""),
            )
        if name == "litellm":
            one.add_argument("--keys", metavar="FILE", type=Path, help="what /key/list?return_full_object=true answers")


def main(args: argparse.Namespace) -> int:
    return guarded(f"import {args.source}", args.act, args)


def take_over(args: argparse.Namespace) -> int:
    """Read the export, write the files, print the new keys."""
    export = _read(args)
    files = tree_files(args)
    keep = getattr(args, "keep_keys", False)
    ids = _wanted_ids(args.id)
    accounts = [] if args.only == "keys" else _accounts(export, files, ids)
    keys = [] if args.only == "accounts" else _keys(export, files, ids, keep)
    for note in export.notes:
        say(f"note: {note}")
    if any(one.imported.fields.get("kind") == OAUTH.name for one in accounts):
        warn_of_kind(OAUTH.name)
    if args.dry_run:
        new = sum(not one.known for one in accounts) + sum(not one.known for one in keys)
        say(f"would write {len(accounts)} accounts and {len(keys)} keys, {new} of them new")
        return _print(args, [], accounts, keys)
    pepper = _pepper(args, files, keys) if keep and args.source == "crs" else None
    changed = write(args, lambda now_files: _plan(now_files, export, accounts, keys, pepper))
    if any(not one.known and one.imported.fields.get("enabled") is False for one in accounts):
        say("the accounts are switched off: two relays must not refresh one token (stop the old relay first)")
    if any(one.key for one in keys):
        say("the new keys, shown this once; the old ones do not work here:")
    return _print(args, list(changed), accounts, keys)


def _read(args: argparse.Namespace) -> Export:
    """Raises: Stop; OSError."""
    try:
        text = args.file.read_text(encoding="utf-8") if args.file else ""
        match args.source:
            case "crs":
                return crs.read_export(text)
            case "sub2api":
                return sub2api.read_export(text)
        keys = args.keys.read_text(encoding="utf-8") if args.keys else ""
        if not text and not keys:
            raise Stop("nothing to read: give its config.yaml, --keys FILE, or both")
        return litellm.read_export(text, keys, os.environ)
    except ImportError:
        raise Stop('reading YAML needs a package more: pip install "relayd[import]"') from None
    except (BadExport, UnicodeDecodeError) as error:
        raise Stop(f"{args.file}: {error if isinstance(error, BadExport) else 'not UTF-8'}") from None


def _wanted_ids(options: list[str]) -> dict[str, str]:
    """Raises: Stop for what is not OLD=NEW with a right id."""
    ids = {}
    for option in options:
        old, _, new = option.rpartition("=")
        if not old or object_id(new) != new:
            raise Stop(f"--id {option}: expected OLD=NEW, and NEW an id (a-z, 0-9, - and _)")
        ids[old] = new
    return ids


# --- ids ------------------------------------------------------------------------------------------------------------


def _known(files: Files, folder: str, relay: str) -> dict[str, tuple[str, str]]:
    """Id and file of what was taken over before, by what it says of its origin."""
    return {
        table["imported"]: (identity, file)
        for file, identity, table in objects(files, folder)
        if str(table.get("imported", "")).startswith(f"{relay}:")
    }


def _accounts(export: Export, files: Files, ids: dict[str, str]) -> list[TakenAccount]:
    """The accounts under their ids. Raises: Stop when they could not be sealed."""
    if any(one.credential for one in export.accounts) and not active_keys(recipients_of(files)):
        raise Stop("relay.toml lists no recipient to seal the secrets for (relayd secret keygen, or --only keys)")
    known = _known(files, "accounts.d", export.relay)
    taken = {identity for _, identity, _ in objects(files, "accounts.d")}
    found = []
    for one in export.accounts:
        identity, file = known.get(f"{export.relay}:{one.origin}") or _new(one, "account", taken, ids)
        found.append(TakenAccount(id=identity, file=file, known=file in files, imported=one))
    return found


def _keys(export: Export, files: Files, ids: dict[str, str], keep: bool) -> list[TakenKey]:
    known = _known(files, "keys.d", export.relay)
    taken = {identity for _, identity, _ in objects(files, "keys.d")}
    found = []
    for one in export.keys:
        identity, file = known.get(f"{export.relay}:{one.origin}") or _new(one, "key", taken, ids)
        text = "" if file in files or (keep and one.old_hash) else mint(secrets.token_bytes)
        found.append(TakenKey(id=identity, file=file, key=text, known=file in files, imported=one))
    return found


def _new(one: ImportedKey | ImportedAccount, kind: str, taken: set[str], ids: dict[str, str]) -> tuple[str, str]:
    """Id and file of what is new here: the wanted id, or one made from its name, with a number when it is taken."""
    wanted = ids.get(one.origin) or ids.get(one.name)
    if wanted and wanted in taken:
        raise Stop(f"--id {one.name}={wanted}: {kind} {wanted} exists already")
    try:
        base = wanted or object_id(one.name)[:58]
    except Stop:  # a name without any letter or digit
        base = kind
    found, number = base, 1
    while found in taken:
        number += 1
        found = f"{base}-{number}"
    taken.add(found)
    return found, f"{kind}s.d/{found}.toml"


# --- files ----------------------------------------------------------------------------------------------------------


def _pepper(args: argparse.Namespace, files: Files, keys: list[TakenKey]) -> Secret | None:
    """The old installation's secret; None where it is in the tree already. Raises: Stop."""
    table = relay_table(files).get("secrets")
    if not any(one.imported.old_hash for one in keys) or (isinstance(table, dict) and table.get("crs_encryption_key")):
        return None
    if not active_keys(recipients_of(files)):
        raise Stop("relay.toml lists no recipient to seal ENCRYPTION_KEY for (relayd secret keygen)")
    return read_secret("--keep-keys: ENCRYPTION_KEY of the old installation")


def _plan(
    files: Files, export: Export, accounts: list[TakenAccount], keys: list[TakenKey], pepper: Secret | None
) -> Mapping[str, bytes | None]:
    groups = {one.imported.origin: one.id for one in accounts}
    bound = {one.imported.account for one in keys}
    changed: dict[str, bytes | None] = {}
    for account in accounts:
        # A key that was bound to one account reaches it through a group of that account's name.
        origin = account.imported.origin
        own = [account.id] if account.imported.dedicated else ["default", *([account.id] if origin in bound else [])]
        changed[account.file] = _account_file(files, export, account, own).encode()
    for key in keys:
        fields: dict[str, Value] = {**key.imported.fields}
        if key.imported.account in groups:
            fields["groups"] = [groups[key.imported.account]]
        changed[key.file] = _key_file(files, export, key, fields).encode()
    if pepper is not None:
        sealed = seal(pepper, crs_binding(realm_of(files)), active_keys(recipients_of(files)))
        relay = set_value(files["relay.toml"].decode(), ("secrets", "crs_encryption_key"), sealed)
        changed["relay.toml"] = relay.encode()
    new = {one.file for one in accounts if not one.known} | {one.file for one in keys if not one.known}
    if wrong := sorted(new & files.keys()):
        raise Stop(f"{wrong[0]} exists already")
    return {path: content for path, content in changed.items() if files.get(path) != content}


def _key_file(files: Files, export: Export, one: TakenKey, fields: dict[str, Value]) -> str:
    if one.known:
        return _updated(files[one.file].decode(), fields, {"limits": one.imported.limits})
    entry: dict[str, Any] = hash_entry(one.key)
    if not one.key:
        entry = {"scheme": one.imported.scheme, "sha256": one.imported.old_hash}
    origin: dict[str, Value] = {"imported": f"{export.relay}:{one.imported.origin}"} if one.imported.origin else {}
    whole: dict[str, Value] = {**fields, "created": now(), **origin, "hashes": [entry]}
    return render_document(whole, {"limits": one.imported.limits})


def _account_file(files: Files, export: Export, one: TakenAccount, groups: list[str]) -> str:
    imported = one.imported
    if one.known:
        text = files[one.file].decode()
        running = tomllib.loads(text).get("enabled", True) is True
        text = _updated(text, {name: value for name, value in imported.fields.items() if name != "enabled"}, {})
        if running or imported.credential is None:  # it lives here now: the old relay's token is the older one
            return text
        return set_value(
            text, ("credential", "sealed"), _sealed(files, one.id, tomllib.loads(text), imported.credential)
        )
    fields: dict[str, Value] = {
        **imported.fields, "groups": list(groups), "imported": f"{export.relay}:{imported.origin}"
    }  # fmt: skip
    credential: dict[str, Value] = {"file": one.id}
    if imported.credential is not None:
        credential = {"sealed": _sealed(files, one.id, dict(imported.fields), imported.credential)}
    return render_document(fields, {**imported.tables, "credential": credential})


def _sealed(files: Files, identity: str, table: dict[str, Any], secret: Secret) -> str:
    binding = table_binding(relay_table(files), identity, table)
    return seal(secret, binding, active_keys(recipients_of(files)))


def _updated(text: str, fields: Mapping[str, Value], tables: Mapping[str, Mapping[str, Value]]) -> str:
    """A file with what an export says now. What it does not say stays, and nothing is switched on again."""
    wanted: dict[KeyPath, Value | None] = {
        (name,): value for name, value in fields.items() if not (name == "enabled" and value is True)
    }
    wanted |= {(table, name): value for table, pairs in tables.items() for name, value in pairs.items()}
    return set_wanted(text, wanted)


def _print(args: argparse.Namespace, changed: list[str], accounts: list[TakenAccount], keys: list[TakenKey]) -> int:
    if args.json:
        rows = [
            {
                "id": one.id,
                "name": one.imported.name,
                **({"key": one.key, "hint": hint(one.key)} if one.key and not args.dry_run else {}),
            }
            for one in keys
        ]
        print_json({"changed": changed, "accounts": [one.id for one in accounts], "keys": rows})
    elif keys:
        shown = [(one.id, one.imported.name, "-" if args.dry_run or not one.key else one.key) for one in keys]
        print_table(("ID", "NAME", "KEY"), shown)
    return 0
