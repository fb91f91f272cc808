"""relayd secret: identities, recipients and sealed values. docs/sealed-secrets.md tells more.

No verb here prints a secret that it has opened, and none takes one as an argument: others see arguments, and shells
keep them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from relayd.cli.admins import add_admin_actions
from relayd.cli.asking import read_secret
from relayd.cli.output import counted, print_json, print_table, say
from relayd.cli.tree import (
    FAILED,
    Stop,
    add_action,
    add_identity,
    guarded,
    identities,
    print_written,
    sound_but_for_seals,
    tree_files,
    write,
)
from relayd.config.edit.edits import add_recipient, remove_recipient, set_recipient_state
from relayd.config.edit.objects import edit_file
from relayd.config.edit.toml_edit import set_value
from relayd.config.edit.write import Files
from relayd.config.secrets.binding import Binding, alert_binding, endpoint_of, origin_of, totp_binding
from relayd.config.secrets.credential import why_unusable
from relayd.config.secrets.identity import usual_identity, write_identity
from relayd.config.secrets.recipients import SealError, SealFinding, active_keys, by_kid, check_recipients, parse_public
from relayd.config.secrets.seal import Identity, inspect, new_identity, open_sealed, parse_sealed, seal
from relayd.config.secrets.sealed_fields import (
    SealedField,
    account_place,
    parsed,
    realm_of,
    recipients_of,
    sealed_fields,
)
from relayd.config.snapshot import NAME, Recipient
from relayd.noun import noun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = add_action(actions, "keygen", "make an identity file and print its public half", keygen)
    make.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="new file for the private half, outside the tree (default: REALM.identity in ~/.config/relayd, or in "
        "/etc/relayd for root, where that exists)",
    )
    make.add_argument("--post-quantum", action="store_true", help="make a hybrid of ML-KEM-768 and X25519")
    one = add_action(actions, "seal", "seal a secret from stdin and print the value; nothing is written", seal_one)
    place = one.add_mutually_exclusive_group(required=True)
    place.add_argument("--account", metavar="ID", help="seal it as this account's credential")
    place.add_argument("--alert", metavar="ID", help="seal it as this alert's url")
    place.add_argument("--alert-key", metavar="ID", help="seal it as the key that signs this alert's notices")
    place.add_argument("--admin", metavar="NAME", help="seal it as this admin's totp")
    look = add_action(actions, "inspect", "check every sealed value; needs no identity", inspect_all)
    add_identity(look)
    look.add_argument("--open", action="store_true", help="also try whether the identities open each value")
    again = add_action(actions, "reseal", "seal values again for the active recipients", reseal, writes=True)
    add_identity(again)
    again.add_argument("accounts", metavar="ACCOUNT", nargs="*", help="only these accounts (default: everything)")
    again.add_argument("--all", action="store_true", help="also values that do not need it")
    again.add_argument("--from-id", metavar="ID", help="the account's id that the value was sealed for")
    again.add_argument("--from-origin", metavar="URL", help="the base_url that the value was sealed for")
    again.add_argument(
        "--from-token-url", metavar="URL", help="the [oauth].token_url that the value was sealed for (kind oauth)"
    )
    again.add_argument("--from-realm", metavar="REALM", help="the realm that the value was sealed for")
    add_admin_actions(actions)
    who = add_action(
        actions, "recipients", "list, add, activate, retire or remove recipients in relay.toml", recipients, writes=True
    )
    who.add_argument("what", nargs="?", choices=("list", "add", "activate", "retire", "remove"), default="list")
    who.add_argument("name", metavar="NAME", nargs="?", help="the recipient's name")
    who.add_argument("public", metavar="PUBLIC", nargs="?", help="for add: the public key, rlpub1...")


def main(args: argparse.Namespace) -> int:
    return guarded(f"secret {args.action}", args.act, args)


def keygen(args: argparse.Namespace) -> int:
    """A new identity."""
    file = args.file or _new_file(args)
    identity = new_identity(os.urandom, 2 if args.post_quantum else 1)
    write_identity(file, args.config, identity)
    say(f"wrote {file}: keep a copy offline; without it, sealed values are lost")
    say("next: relayd secret recipients add NAME PUBLIC")
    if args.json:
        print_json({"file": str(file), "public": identity.public.text, "kid": identity.public.kid})
    else:
        print(identity.public.text)
    return 0


def _new_file(args: argparse.Namespace) -> Path:
    """Where the identity of this tree's realm is looked for; beside it when there is one. Raises: Stop."""
    realm = realm_of(tree_files(args))
    if not re.fullmatch(NAME, realm):
        raise Stop(f"{args.config / 'relay.toml'} names no realm; name the file: relayd secret keygen FILE")
    usual = usual_identity(realm, args.config, os.environ)
    further = (usual.with_name(f"{realm}.{number}.identity") for number in itertools.count(2))
    return next(path for path in itertools.chain([usual], further) if not path.exists())


def seal_one(args: argparse.Namespace) -> int:
    """A sealed value on stdout."""
    files = tree_files(args)
    binding, what = _binding(args, files)
    listed = recipients_of(files)
    keys = active_keys(listed)
    if not keys:
        raise Stop("relay.toml lists no active recipient (relayd secret recipients add NAME PUBLIC)")
    secret = read_secret(what)
    if problem := why_unusable(secret, _kind(args, files)):
        raise Stop(problem)
    value = seal(secret, binding, keys)
    say(f"sealed for {binding}; recipients: {', '.join(one.name for one in listed if one.state == 'active')}")
    if args.json:
        print_json({"sealed": value, "binding": attrs.asdict(binding)})
    else:
        print(value)
    return 0


def inspect_all(args: argparse.Namespace) -> int:
    """Every sealed value: for whom it is, and what is wrong with it."""
    files = tree_files(args)
    listed = recipients_of(files)
    own = identities(args) if args.open else []
    general = check_recipients(listed)
    entries = [_inspected(slot, listed, own if args.open else None) for slot in sealed_fields(files)]
    findings = [*general, *(finding for entry in entries for finding in entry.findings)]
    if args.json:
        print_json(
            {"values": [entry.as_json() for entry in entries], "recipients": [attrs.asdict(one) for one in general]}
        )
    else:
        print_table(("VALUE", "FILE", "VERSION", "SEALED FOR", "STATE"), [entry.row() for entry in entries])
        for finding in general:
            say(f"relay.toml: {finding.code}: {finding.message}")
        for entry in entries:
            for finding in entry.findings:
                say(f"{entry.slot.file}: {entry.slot.name}: {finding.code}: {finding.message}")
    return FAILED if any(finding.is_error for finding in findings) else 0


def reseal(args: argparse.Namespace) -> int:
    """Open and seal again. Values that are right already stay as they are, so that a diff shows only what changed."""
    own = identities(args)
    if not own:
        raise Stop("no identity is loaded (RELAYD_IDENTITY or --identity)")
    if args.from_id and len(args.accounts) != 1:
        raise Stop("--from-id needs the one account that now holds the value")
    count = 0

    def plan(files: Files) -> Mapping[str, bytes | None]:
        nonlocal count
        texts: dict[str, str] = {}
        slots = _chosen(args, files)
        values = [(slot, _resealed(args, slot, recipients_of(files), own)) for slot in slots]
        for slot, value in values:
            if value is not None:
                text = texts.get(slot.file) or files[slot.file].decode()
                texts[slot.file] = set_value(text, slot.path, value)
                count += 1
        return {file: text.encode() for file, text in texts.items()}

    changed = write(args, plan, check=sound_but_for_seals)
    say(f"{counted(count, 'value')} sealed again")
    if count:
        say("note: history still opens with the old identities; if one was stolen, replace the credentials as well")
    return print_written(args, {"resealed": count, "changed": list(changed)})


def recipients(args: argparse.Namespace) -> int:
    """The list of recipients in relay.toml."""
    if args.what == "list":
        return _list_recipients(args)
    if not args.name or (args.what == "add") != bool(args.public):
        raise Stop(f"{args.what} needs NAME{' and PUBLIC' if args.what == 'add' else ' alone'}")
    if args.what == "remove":
        _refuse_in_use(args)
    if args.what == "add":
        parse_public(args.public)
    changed = write(args, edit_file("relay.toml", lambda text: _edited(args, text)), check=sound_but_for_seals)
    if changed and args.what != "remove" and any(True for _ in sealed_fields(tree_files(args))):
        say("next: relayd secret reseal, and commit both changes together")
    return print_written(args, {"changed": list(changed)})


def _edited(args: argparse.Namespace, text: str) -> str:
    match args.what:
        case "add":
            return add_recipient(text, args.name, args.public)
        case "remove":
            return remove_recipient(text, args.name)
    return set_recipient_state(text, args.name, "retiring" if args.what == "retire" else "active")


def _refuse_in_use(args: argparse.Namespace) -> None:
    """A recipient is removed after the last value was sealed without it, else nobody could tell whose kid that is."""
    files = tree_files(args)
    kids = {parse_public(one.public).kid for one in recipients_of(files) if one.name == args.name}
    used = [slot.name for slot in sealed_fields(files) if kids & _kids(slot.value)]
    if used and not args.force:
        raise Stop(f"{len(used)} values are still sealed for {args.name}, such as {used[0]} (retire it, then reseal)")


def _list_recipients(args: argparse.Namespace) -> int:
    files = tree_files(args)
    listed = recipients_of(files)
    counts = dict.fromkeys(by_kid(listed), 0)
    for slot in sealed_fields(files):
        for kid in _kids(slot.value) & counts.keys():
            counts[kid] += 1
    entries = [(one, kid, counts[kid]) for kid, one in by_kid(listed).items()]
    if args.json:
        print_json(
            {
                "recipients": [
                    {"name": one.name, "public": one.public, "state": one.state, "kid": kid, "values": n}
                    for one, kid, n in entries
                ]
            }
        )
    else:
        rows = [(one.name, one.state, kid, str(n), one.public[:24] + "...") for one, kid, n in entries]
        print_table(("NAME", "STATE", "KID", "VALUES", "PUBLIC"), rows)
    return 0


def _binding(args: argparse.Namespace, files: Files) -> tuple[Binding, str]:
    if args.account:
        return account_place(files, args.account)[1], f"credential of account {args.account}"
    if args.alert:
        return alert_binding(realm_of(files), args.alert), f"URL of alert {args.alert}"
    if args.alert_key:
        return alert_binding(realm_of(files), args.alert_key, "signing_key"), f"signing key of alert {args.alert_key}"
    return totp_binding(realm_of(files), args.admin), f"TOTP seed of admin {args.admin}"


def _kind(args: argparse.Namespace, files: Files) -> str:
    """The kind of the account that a secret is for; "" when it is for something else."""
    return str(parsed(files[account_place(files, args.account)[0]]).get("kind", "")) if args.account else ""


def _chosen(args: argparse.Namespace, files: Files) -> list[SealedField]:
    slots = list(sealed_fields(files))
    if not args.accounts:
        return slots
    by_name = {slot.name: slot for slot in slots}
    missing = [name for name in args.accounts if f"account {name}" not in by_name]
    if missing:
        raise Stop(f"account {missing[0]} has no sealed value")
    return [by_name[f"account {name}"] for name in args.accounts]


def _resealed(
    args: argparse.Namespace, slot: SealedField, listed: Sequence[Recipient], own: Sequence[Identity]
) -> str | None:
    """The new value; None when the old one is right. Raises: Stop, with the name of the value."""
    if slot.binding is None:
        raise Stop(f"{slot.file}: {slot.name}: {slot.problem}")
    moved = _moved(args, slot.binding)
    if not args.all and moved == slot.binding and not inspect(slot.value, slot.binding, listed):
        return None
    try:
        return seal(open_sealed(slot.value, moved, own, listed), slot.binding, active_keys(listed))
    except SealError as error:
        if error.code == "E-SEAL-CONTEXT" and moved != slot.binding and not inspect(slot.value, slot.binding, listed):
            return None  # --from-realm over a whole tree: this value is at home already
        raise Stop(f"{slot.file}: {slot.name}: {error}; nothing was written") from None


def _moved(args: argparse.Namespace, binding: Binding) -> Binding:
    """The place that the value was sealed for, before the account was renamed or the tree changed."""
    return attrs.evolve(
        binding,
        realm=args.from_realm or binding.realm,
        id=args.from_id or binding.id,
        origin=origin_of(args.from_origin) if args.from_origin and binding.origin else binding.origin,
        token_url=endpoint_of(args.from_token_url) if args.from_token_url and binding.origin else binding.token_url,
    )


@noun(kw_only=True)
class _Inspected:
    """A value, looked at."""

    slot: SealedField
    version: str
    recipients: tuple[str, ...]
    findings: tuple[SealFinding, ...]
    opens: bool | None = None  # None: not tried

    def row(self) -> tuple[str, ...]:
        state = "wrong" if any(finding.is_error for finding in self.findings) else "stale" if self.findings else "good"
        opens = {None: "", True: ", opens", False: ", does not open"}[self.opens]
        return (self.slot.name, self.slot.file, self.version, ", ".join(self.recipients), state + opens)

    def as_json(self) -> dict[str, Any]:
        return {
            "value": self.slot.name,
            "file": self.slot.file,
            "version": self.version,
            "recipients": list(self.recipients),
            "findings": [attrs.asdict(finding) for finding in self.findings],
            "opens": self.opens,
        }


def _inspected(slot: SealedField, listed: Sequence[Recipient], own: Sequence[Identity] | None) -> _Inspected:
    findings = inspect(slot.value, slot.binding, listed)
    if slot.binding is None:
        findings = [SealFinding(code="E-SEAL-ORIGIN", message=slot.problem), *findings]
    opens, error = _tried(slot, listed, own)
    if error is not None and error.code not in {finding.code for finding in findings}:
        findings.append(SealFinding(code=error.code, message=str(error)))
    names = by_kid(listed)
    shown = sorted(names[kid].name if kid in names else kid for kid in _kids(slot.value))
    version = slot.value[:6] if slot.value.startswith("rlsec") else ""
    return _Inspected(slot=slot, version=version, recipients=tuple(shown), findings=tuple(findings), opens=opens)


def _tried(
    slot: SealedField, listed: Sequence[Recipient], own: Sequence[Identity] | None
) -> tuple[bool | None, SealError | None]:
    """Whether the value opens, and why not. What comes to light is dropped at once."""
    if own is None or slot.binding is None:
        return None, None
    try:
        open_sealed(slot.value, slot.binding, own, listed)
    except SealError as error:
        return False, error
    return True, None


def _kids(value: str) -> frozenset[str]:
    try:
        return parse_sealed(value).kids
    except SealError:
        return frozenset()
