"""relayd key: API keys, one file each in keys.d; and create-api-key, which is `key new` for scripts of other relays.

A new key is printed once, alone on stdout; the tree holds its hash. docs/keys.md tells more.
"""

from __future__ import annotations

import argparse
import datetime
import os
import secrets
import sys
from collections.abc import Mapping
from typing import Any

from relayd.cli import add_config
from relayd.cli.asking import confirmed, read_secret
from relayd.cli.delete import add_delete, delete
from relayd.cli.limit import HELP, BadLimit, describe, read_limits
from relayd.cli.output import add_json, moment, print_json, print_table, say
from relayd.cli.revoke import disable, enable
from relayd.cli.store import NoUsage, add_state, consumption
from relayd.cli.tree import (
    Stop,
    add_action,
    add_force,
    compiled,
    guarded,
    now,
    object_id,
    pick,
    print_written,
    words,
    write,
)
from relayd.config.edit.edits import key_file, rotate
from relayd.config.edit.objects import edit_object, refuse_taken
from relayd.config.edit.toml_edit import Value
from relayd.config.edit.wanted import expiry
from relayd.config.edit.write import Files
from relayd.config.model.types import write as written
from relayd.config.model.values import seconds
from relayd.config.secrets.api_keys import PREFIX, checksum_ok, hint, key_hash, mint
from relayd.config.secrets.identity import identity_paths, load_identities
from relayd.config.secrets.recipients import SealError
from relayd.config.snapshot import ApiKey, KeyHash, Limits, MicroUsd, Snapshot
from relayd.core.access.auth import key_state, look_up
from relayd.daemon.accounts.old_keys import with_old_keys

LISTS = (
    ("groups", "account groups it may use, in order of preference (default: default)"),
    ("models", "model globs it may ask for (default: all)"),
    ("deny-models", "model globs it may not ask for"),
    ("clients", "client rules, one of which must match (default: any client)"),
    ("endpoints", "messages, openai, models, batches, files, skills (default: the first three)"),
    ("allowed-ips", "addresses or networks it may call from (default: any)"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add_new_arguments(add_action(actions, "new", "mint a key, write its file and print the key once", new, writes=True))
    add_state(add_action(actions, "list", "list the keys, with what they consumed this month", show_list))
    one = add_action(actions, "show", "show one key's settings and consumption", show)
    _named(one)
    add_state(one)
    turn = add_action(
        actions, "rotate", "give a key a new text; the old one works for a time of grace", turn_over, writes=True
    )
    _named(turn)
    turn.add_argument(
        "--grace", metavar="TIME", default="7d", help="how long the old key still works (default: 7d; 0s: not at all)"
    )
    _named(add_action(actions, "disable", "refuse a key from now on", disable("keys.d"), writes=True))
    _named(add_action(actions, "enable", "accept a disabled key again", enable("keys.d"), writes=True))
    gone = add_action(actions, "delete", "remove a key's file", remove, writes=True)
    _named(gone)
    add_delete(gone, "scenarios")
    add_action(actions, "which", "read a key from stdin and say whose it is", which)


def add_create_api_key_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(act=new)
    add_config(parser)
    add_json(parser)
    add_force(parser)
    add_new_arguments(parser, name_option=True)


def add_new_arguments(parser: argparse.ArgumentParser, *, name_option: bool = False) -> None:
    """The options of `key new`; `create-api-key` has the same, with the name as an option."""
    if name_option:
        parser.add_argument("--name", metavar="NAME", required=True, help="name for people; the id is made from it")
    else:
        parser.add_argument("name", metavar="NAME", help="name for people; the id is made from it")
    parser.add_argument("--id", metavar="ID", help="the file's stem, instead of one made from the name")
    parser.add_argument("--owner", metavar="NAME", help="who is responsible for it")
    for option, text in LISTS:
        parser.add_argument(f"--{option}", metavar="A,B", type=words, help=text)
    parser.add_argument("--max-tokens", metavar="N", type=int, help="upper bound of a call's max_tokens")
    parser.add_argument("--expires", metavar="WHEN", help="90d, 2027-11-22 or 2027-11-22T00:00:00Z")
    parser.add_argument("--limit", metavar="LIMIT", action="append", default=[], help=HELP)
    parser.add_argument("--concurrency", metavar="N", type=int, help="calls in flight at once")


def main(args: argparse.Namespace) -> int:
    verb = f"key {args.action}" if args.verb == "key" else args.verb
    return guarded(verb, args.act, args)


def new(args: argparse.Namespace) -> int:
    """Mint a key and write keys.d/ID.toml."""
    identity = args.id or object_id(args.name)
    if args.id and object_id(args.id) != args.id:
        raise Stop(f"{args.id!r} is not an id (a-z, 0-9, - and _, at most 63 characters)")
    try:
        limits = read_limits(args.limit, args.concurrency)
    except BadLimit as error:
        raise Stop(str(error)) from None
    fields = _fields(args, now())
    minted = mint(secrets.token_bytes)
    path = f"keys.d/{identity}.toml"

    def plan(files: Files) -> Mapping[str, bytes | None]:
        refuse_taken(files, "keys.d", identity)
        return {path: key_file(minted, fields, limits).encode()}

    write(args, plan)
    for limit in describe(limits):
        say(f"limit: {limit}")
    return _hand_over(args, identity, path, minted)


def turn_over(args: argparse.Namespace) -> int:
    """Rotate a key."""
    start = now()
    until = start + datetime.timedelta(seconds=seconds(args.grace))
    minted = mint(secrets.token_bytes)
    (path,) = write(args, edit_object("keys.d", args.id, lambda text: rotate(text, minted, now=start, until=until)))
    say(f"the old key works until {moment(until)}" if until > start else "the old key no longer works")
    return _hand_over(args, args.id, path, minted)


def remove(args: argparse.Namespace) -> int:
    """Delete a key's file. Its past consumption stays in the state store under its id."""
    if not confirmed(f"Delete key {args.id}? Clients that use it will be refused.", args):
        raise Stop("not deleted")
    return delete(args, keys=[args.id])


def _knowing_old_keys(snapshot: Snapshot, args: argparse.Namespace) -> Snapshot:
    """The snapshot with what it takes to know the keys of a relay before it, where this machine can open that."""
    paths = identity_paths(None, os.environ, snapshot.relay.realm)
    try:
        return with_old_keys(snapshot, load_identities(paths, args.config, os.environ))
    except SealError as error:
        say(f"note: keys of scheme crs-sha256 are not known here: {error}")
        return snapshot


def show_list(args: argparse.Namespace) -> int:
    """All keys, one a line, with what they have consumed since the first of the month."""
    snapshot = compiled(args)
    keys = [key for _, key in sorted(snapshot.keys.items())]
    used = _consumption(args, snapshot)
    if args.json:
        print_json({"keys": [as_json(key) | _consumed(used, key.id) for key in keys]})
        return 0
    head = ("ID", "NAME", "OWNER", "STATE", "EXPIRES", "KEY", "LIMITS")
    more = ("REQUESTS", "TOKENS", "COST") if used is not None else ()
    print_table((*head, *more), [(*_row(key), *_month(used, key.id)) for key in keys])
    return 0


def show(args: argparse.Namespace) -> int:
    """One key, every setting that is not the default."""
    snapshot = compiled(args)
    shown = as_json(pick(snapshot.keys, "key", args.id)) | _consumed(_consumption(args, snapshot), args.id)
    if args.json:
        print_json(shown)
        return 0
    rows = [(name, _words(value)) for name, value in shown.items() if value not in (None, "", [], {}, 0)]
    print_table(("FIELD", "VALUE"), rows)
    return 0


def which(args: argparse.Namespace) -> int:
    """Whose key is it? It is read from stdin, because arguments are seen by others and kept by shells."""
    snapshot = _knowing_old_keys(compiled(args), args)
    key = read_secret("API key").reveal().strip()
    found, _ = look_up(key.encode(), snapshot)
    if found is None:
        old = bool(snapshot.old_digests) and not key.startswith(PREFIX)
        wrong = "" if old or checksum_ok(key) else "; its checksum is wrong, so it was cut or mistyped"
        raise Stop(f"not a key of this tree{wrong}")
    owner, entry = found
    problem = why_refused(owner, entry, snapshot, now())
    if args.json:
        print_json({"id": owner.id, "name": owner.name, "hint": entry.hint, "accepted": not problem, "reason": problem})
        return 0
    print(owner.id)
    if problem:
        say(f"note: this key is refused: {problem}")
    return 0


def why_refused(key: ApiKey, entry: KeyHash, snapshot: Snapshot, at: datetime.datetime) -> str:
    """Why a key is not accepted now, as the daemon sees it; "" when it is."""
    match key_state(key, entry, snapshot, at.timestamp()):
        case "active":
            return ""
        case "disabled":
            return "it is disabled"
        case "denied":
            return "it is denied by deny.toml"
        case "expired":
            return f"it expired at {moment(key.expires)}"
        case "rotated":
            return f"it was rotated, and its time of grace ended at {moment(entry.expires)}"


def as_json(key: ApiKey) -> dict[str, Any]:
    """A key for machines. Hashes are public; the key itself is nowhere."""
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "enabled": key.enabled,
        "created": moment(key.created) or None,
        "expires": moment(key.expires) or None,
        "hashes": [
            {"sha256": entry.sha256, "hint": entry.hint, "expires": moment(entry.expires) or None}
            for entry in key.hashes
        ],
        "groups": list(key.groups),
        "models": list(key.models),
        "deny_models": list(key.deny_models),
        "clients": list(key.clients),
        "endpoints": list(key.endpoints),
        "allowed_ips": [str(network) for network in key.allowed_ips],
        "max_tokens": key.max_tokens,
        "limits": limits_json(key.limits),
    }


def limits_json(limits: Limits) -> dict[str, Any]:
    """The limits in force, those of relay.toml included; what is unlimited is left out. Costs are USD, as strings."""
    found: dict[str, Any] = {}
    if limits.rate.requests:
        found["rate"] = {"requests": limits.rate.requests, "window": f"{limits.rate.window:g}s"}
    for name in _PLAIN_LIMITS:
        if value := getattr(limits, name):
            found[name] = written(MicroUsd, value) if name.endswith("cost") else value
    windows = [
        {"window": window.window}
        | {name: value for name in ("requests", "tokens") if (value := getattr(window, name))}
        | ({"cost": written(MicroUsd, window.cost)} if window.cost else {})
        for window in limits.windows
    ]
    return found | ({"windows": windows} if windows else {})


_PLAIN_LIMITS = (
    "concurrency", "tokens_per_minute", "daily_requests", "monthly_requests", "daily_tokens", "monthly_tokens",
    "daily_cost", "monthly_cost", "total_cost",
)  # fmt: skip


Consumption = Mapping[str, dict[str, Any]] | None


def _consumption(args: argparse.Namespace, snapshot: Snapshot) -> Consumption:
    """What the state store has recorded; None when it cannot be read, which is said."""
    try:
        return consumption(args, snapshot)
    except NoUsage as error:
        if str(error):
            say(f"note: without consumption: {error}")
        return None


def _consumed(used: Consumption, key: str) -> dict[str, Any]:
    return {} if used is None else {"consumption": used[key]}


def _month(used: Consumption, key: str) -> tuple[str, ...]:
    if used is None:
        return ()
    month = used[key]["month"]
    return (str(month["requests"]), str(month["tokens"]), f"${month['cost']}")


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the key's id: the stem of its file")


def _fields(args: argparse.Namespace, start: datetime.datetime) -> dict[str, Value]:
    fields: dict[str, Value] = {"name": args.name}
    if args.owner:
        fields["owner"] = args.owner
    fields["created"] = start
    if args.expires:
        fields["expires"] = expiry(args.expires, start)
    for option, _ in LISTS:
        name = option.replace("-", "_")
        if (value := getattr(args, name)) is not None:
            fields[name] = value
    if args.max_tokens is not None:
        fields["max_tokens"] = args.max_tokens
    return fields


def _hand_over(args: argparse.Namespace, identity: str, path: str, minted: str) -> int:
    """Print a new key, this once."""
    if args.json:
        print_written(
            args, {"id": identity, "file": path, "key": minted, "hint": hint(minted), "sha256": key_hash(minted)}
        )
    else:
        say("the key, shown this once (the tree holds only its hash):")
        print(minted)
        sys.stdout.flush()
    return 0


def _row(key: ApiKey) -> tuple[str, ...]:
    limits = limits_json(key.limits)
    state = "on" if key.enabled else "off"
    hints = " ".join(entry.hint or entry.sha256[:8] for entry in key.hashes)
    return (key.id, key.name, key.owner, state, moment(key.expires), hints, "; ".join(describe(limits)))


def _words(value: Any) -> str:
    if isinstance(value, dict) and "month" in value:
        month = value["month"]
        return f"{month['requests']} requests, {month['tokens']} tokens, ${month['cost']} since the first of the month"
    if isinstance(value, dict):
        return "; ".join(describe(value))
    if isinstance(value, list):
        return ", ".join(_words_of_hash(item) if isinstance(item, dict) else str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words_of_hash(entry: dict[str, Any]) -> str:
    until = f" until {entry['expires']}" if entry.get("expires") else ""
    return f"{entry['hint'] or entry['sha256'][:8]}{until}"
