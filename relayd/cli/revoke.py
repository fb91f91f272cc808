"""relayd revoke: refuse a key, an account or an address at once, by deny.toml; and what else takes out by name.

Rule: a revocation does not fail silently. It is written though the tree has errors elsewhere, the guard does not hold
it, and the verb says that it holds only when the daemon says so.

Theory: a daemon applies no tree with an error in it, and none while a rollback keeps it back, but obeys deny.toml
always. So `key disable`, `key delete` and `account disable` name what they take out in deny.toml too, wherever their
own change would not be taken up.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import attrs

from relayd.cli import add_config
from relayd.cli.output import add_json, say
from relayd.cli.tree import (
    Stop,
    VerbAction,
    add_force,
    guarded,
    outcome,
    print_written,
    require_tree,
    tree_files,
    write,
)
from relayd.cli.verdict import DaemonVerdict
from relayd.config.edit.edits import add_denied, remove_denied, set_enabled
from relayd.config.edit.objects import edit_object, edited
from relayd.config.edit.toml_edit import EditError
from relayd.config.edit.write import EditPlan, Files, compiles
from relayd.config.secrets.api_keys import checksum_ok, key_hash
from relayd.config.secrets.sealed_fields import objects, parsed
from relayd.noun import noun

DENY = "deny.toml"
DenyField = Literal["keys", "accounts", "ips", "sha256"]
KIND_OF: dict[DenyField, str] = {"keys": "key", "accounts": "account", "ips": "address", "sha256": "hash"}
_API_KEY = re.compile(r"sk-relay-[0-9A-Za-z]+")
_HASH = re.compile(r"[0-9a-f]{64}")


@noun(kw_only=True)
class DenyEntry:
    """An entry of deny.toml."""

    field: DenyField
    value: str

    @property
    def name(self) -> str:
        """`key alice`, as the daemon understands it."""
        return f"{KIND_OF[self.field]} {self.value}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_json(parser)
    add_force(parser)
    parser.add_argument(
        "what",
        metavar="KEY, ACCOUNT or ADDRESS",
        help="id of a key or an account; an address or a range; a key itself, if it has leaked anyhow, or its SHA-256",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--key", action="store_const", const="keys", dest="field", help="it is the id of a key")
    which.add_argument("--account", action="store_const", const="accounts", dest="field", help="of an account")
    parser.add_argument("--undo", action="store_true", help="take it out of deny.toml again")
    parser.epilog = (
        "deny.toml acts at once, also while the rest of the tree has errors or is held. exit status: 0 it is refused "
        "(or no daemon runs here), else as of `relayd reload`"
    )


def main(args: argparse.Namespace) -> int:
    return guarded("revoke", revoke, args)


def revoke(args: argparse.Namespace) -> int:
    """Write deny.toml. What is in it already stays, and is asked of the daemon again."""
    require_tree(args.config)
    found: list[DenyEntry] = []

    def plan(files: Files) -> Mapping[str, bytes | None]:
        found[:] = [denied_by(files, args.what, args.field)]
        _note_unknown_hash(files, found[0])
        return _deny(files, found, remove_denied if args.undo else add_denied)

    changed = write(args, plan, tolerate=True)
    (entry,) = found
    if args.undo:
        say(f"{entry.name}: not in deny.toml" + (" any more" if changed else ""))
    else:
        _see_refused(args, [entry.name])
    return print_written(args, {"field": entry.field, "value": entry.value, "changed": list(changed)})


def denied_by(files: Files, text: str, field: DenyField | None) -> DenyEntry:
    """What a word on the command line means. Raises: Stop, LookupError."""
    if field is None:
        if _API_KEY.fullmatch(text):
            if not checksum_ok(text):
                raise Stop(
                    "this is not a whole key: its checksum is wrong, so it was cut or mistyped; nothing was written"
                )
            return DenyEntry(field="sha256", value=key_hash(text))
        if _HASH.fullmatch(text.lower()):
            return DenyEntry(field="sha256", value=text.lower())
        if network := _network(text):
            return DenyEntry(field="ips", value=network)
    folders: dict[DenyField, str] = {"keys": "keys.d", "accounts": "accounts.d"}
    able = [one for one in folders if field in (None, one)]
    there = [one for one in able if text in _ids(files, folders[one])]
    if len(there) > 1:
        raise Stop(f"there is a key {text} and an account {text}: say --key or --account")
    # What deny.toml names already may have lost its file.
    there = there or [one for one in able if text in _listed(files, one)]
    if not there:
        raise LookupError(_unknown(files, text, [folders[one] for one in able]))
    return DenyEntry(field=there[0], value=text)


def _note_unknown_hash(files: Files, entry: DenyEntry) -> None:
    """Whoever revokes a key that is not one of this tree's should know that it changes nothing here."""
    listed = [table.get("hashes") for _, _, table in objects(files, "keys.d")]
    hashes = {one.get("sha256") for many in listed if isinstance(many, list) for one in many if isinstance(one, dict)}
    if entry.field == "sha256" and entry.value not in hashes:
        say("note: no key of this tree has this hash, so it was refused already")


def disable(folder: str) -> VerbAction:
    """The sub-verb that disables an account or a key."""
    field: DenyField = "keys" if folder == "keys.d" else "accounts"

    def act(args: argparse.Namespace) -> int:
        entry = DenyEntry(field=field, value=args.id)
        off = edit_object(folder, args.id, lambda text: set_enabled(text, False))

        def plan(files: Files) -> Mapping[str, bytes | None]:
            try:
                return off(files)
            except EditError as error:  # its own file is in the way: deny.toml does without
                say(str(error))
                return {}

        changed = take_out(args, [entry], plan)
        return print_written(args, {"id": args.id, "enabled": False, "changed": list(changed)})

    return act


def enable(folder: str) -> VerbAction:
    """The sub-verb that lets an account or a key in again."""
    field: DenyField = "keys" if folder == "keys.d" else "accounts"

    def act(args: argparse.Namespace) -> int:
        changed = write(args, edit_object(folder, args.id, lambda text: set_enabled(text, True)))
        if args.id in _listed(tree_files(args), field):
            kind = KIND_OF[field]
            say(f"note: deny.toml still refuses {kind} {args.id} (relayd revoke --undo --{kind} {args.id})")
        return print_written(args, {"id": args.id, "enabled": True, "changed": list(changed)})

    return act


def take_out(args: argparse.Namespace, entries: Sequence[DenyEntry], plan: EditPlan) -> tuple[str, ...]:
    """Write a change that takes these out, and see to it that it holds. Returns the files that changed."""

    def whole(files: Files) -> Mapping[str, bytes | None]:
        changes = plan(files)
        if not compiles({path: new for path, new in {**files, **changes}.items() if new is not None}):
            return changes
        say(
            "the tree has errors elsewhere, and is applied nowhere until they are repaired: deny.toml refuses meanwhile"
        )
        return {**changes, **_deny(files, entries)}

    changed = write(args, whole, tolerate=True)
    found = _see_refused(args, [entry.name for entry in entries])
    if found is not None and found.asked and found.code:
        further = write(args, lambda files: _deny(files, entries), tolerate=True)
        _see_refused(args, [entry.name for entry in entries])
        return tuple(sorted({*changed, *further}))
    return changed


def _see_refused(args: argparse.Namespace, names: Sequence[str]) -> DaemonVerdict | None:
    """Ask the daemon whether it refuses them; what the rest of the tree comes to is beside the point, and said."""
    args.revoked = names
    args.__dict__.pop("verdict", None)
    found = outcome(args)
    if found is None or not found.asked:
        return found
    left = [name for name in names if name not in found.refused]
    if left:
        lines = (f"NOT REVOKED: {', '.join(left)}", *found.lines)
        args.verdict = attrs.evolve(found, code=found.code or 1, lines=lines)
    elif found.code:
        whole = f"revoked: the daemon refuses {', '.join(names)}"
        args.verdict = attrs.evolve(found, code=0, lines=("the tree as a whole is not applied:", *found.lines, whole))
    return outcome(args)


def _deny(files: Files, entries: Sequence[DenyEntry], edit: Callable[..., str] = add_denied) -> dict[str, bytes | None]:
    """deny.toml, changed by these entries."""

    def whole(text: str) -> str:
        for entry in entries:
            text = edit(text, entry.field, entry.value)
        return text

    text = edited(files, DENY, whole)
    return {DENY: text} if text or DENY in files else {}


def _network(text: str) -> str:
    """An address or range as deny.toml has it; "" when it is none."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return ""
    return str(network) if "/" in text else str(network.network_address)


def _ids(files: Files, folder: str) -> list[str]:
    return [name for _, name, _ in objects(files, folder)]


def _listed(files: Files, field: str) -> list[str]:
    found = parsed(files.get(DENY, b"")).get(field, [])
    return found if isinstance(found, list) else []


def _unknown(files: Files, text: str, folders: Sequence[str]) -> str:
    there = sorted(name for folder in folders for name in _ids(files, folder))
    what = " or ".join("key" if folder == "keys.d" else "account" for folder in folders)
    return f"there is no {what} {text} (known: {', '.join(there[:20]) or 'none'})"
