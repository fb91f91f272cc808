"""relayd key: API keys, one file each in keys.d.

A new key is printed once, alone on stdout; the tree holds its hash. docs/keys.md tells more.
"""

from __future__ import annotations

import argparse
import datetime
import secrets
import sys
from collections.abc import Mapping
from typing import Any

from relayd.cli.consumption import NoUsage, consumption
from relayd.cli.limit import HELP, BadLimit, describe, read_limits
from relayd.cli.store import add_state
from relayd.cli.tree import (
    Stop,
    add_action,
    compiled,
    confirmed,
    edit_object,
    expiry,
    find_object,
    guarded,
    moment,
    now,
    object_id,
    print_json,
    print_table,
    read_secret,
    refuse_taken,
    say,
    words,
    write,
)
from relayd.config.edit.edits import key_file, rotate, set_enabled
from relayd.config.edit.toml_edit import Value
from relayd.config.edit.write import Files
from relayd.config.model.values import seconds
from relayd.config.secrets.api_keys import checksum_ok, hint, key_digest, key_hash, mint
from relayd.config.snapshot import ApiKey, KeyHash, Limits, Snapshot
from relayd.core.access.auth import key_state

LISTS = (
    ("groups", "account groups it may use, in order of preference (default: default)"),
    ("models", "model globs it may ask for (default: all)"),
    ("deny-models", "model globs it may not ask for"),
    ("clients", "client rules, one of which must match (default: any client)"),
    ("endpoints", "messages, openai, models, batches, files (default: the first three)"),
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
        actions, "rotate", "add a new hash to a key; the old one ends after a time of grace", turn_over, writes=True
    )
    _named(turn)
    turn.add_argument(
        "--grace", metavar="TIME", default="7d", help='how long the old key still works (default 7d; "0s" = not)'
    )
    _named(add_action(actions, "disable", "refuse a key from now on", disable, writes=True))
    _named(add_action(actions, "enable", "accept a disabled key again", enable, writes=True))
    delete = add_action(actions, "delete", "remove a key's file", remove, writes=True)
    _named(delete)
    delete.add_argument("--yes", action="store_true", help="do not ask")
    add_action(actions, "which", "read a key from stdin and say whose it is", which)


def add_new_arguments(parser: argparse.ArgumentParser, *, name_option: bool = False) -> None:
    """The options of `key new`; `create-api-key` has the same, with the name as an option."""
    if name_option:
        parser.add_argument("--name", metavar="NAME", required=True, help="name for people; the id is made from it")
    else:
        parser.add_argument("name", metavar="NAME", help="name for people; the id is made from it")
    parser.add_argument("--id", metavar="ID", help="the file's stem, when it is not to be made from the name")
    parser.add_argument("--owner", metavar="NAME", help="who answers for it")
    for option, text in LISTS:
        parser.add_argument(f"--{option}", metavar="A,B", type=words, help=text)
    parser.add_argument("--max-tokens", metavar="N", type=int, help="cap on a call's max_tokens")
    parser.add_argument("--expires", metavar="WHEN", help="90d, 2027-11-22 or 2027-11-22T00:00:00Z")
    parser.add_argument("--limit", metavar="LIMIT", action="append", default=[], help=HELP)
    parser.add_argument("--concurrency", metavar="N", type=int, help="calls in flight at once")


def main(args: argparse.Namespace) -> int:
    return guarded(f"key {args.action}", args.act, args)


def new(args: argparse.Namespace) -> int:
    """Mint a key and write keys.d/ID.toml."""
    identity = args.id or object_id(args.name)
    if args.id and object_id(args.id) != args.id:
        raise Stop(f"{args.id!r} is no id (a-z, 0-9, - and _, at most 63 characters)")
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


def disable(args: argparse.Namespace) -> int:
    return _switch(args, False)


def enable(args: argparse.Namespace) -> int:
    return _switch(args, True)


def remove(args: argparse.Namespace) -> int:
    """Delete a key's file. Its past consumption stays in the state store under its id."""
    if not confirmed(f"delete key {args.id}? clients that use it are refused", args):
        raise Stop("not deleted")
    changed = write(args, lambda files: {find_object(files, "keys.d", args.id): None})
    return _result(args, {"id": args.id, "deleted": list(changed)})


def show_list(args: argparse.Namespace) -> int:
    """All keys, one a line, with what they have consumed since the first of the month."""
    snapshot = compiled(args)
    keys = [key for _, key in sorted(snapshot.keys.items())]
    booked = _booked(args, snapshot)
    if args.json:
        print_json({"keys": [as_json(key) | _consumed(booked, key.id) for key in keys]})
        return 0
    head = ("ID", "NAME", "OWNER", "STATE", "EXPIRES", "KEY", "LIMITS")
    more = ("REQUESTS", "TOKENS", "COST") if booked is not None else ()
    print_table((*head, *more), [(*_row(key), *_month(booked, key.id)) for key in keys])
    return 0


def show(args: argparse.Namespace) -> int:
    """One key, every setting that is not the default."""
    snapshot = compiled(args)
    keys = snapshot.keys
    if args.id not in keys:
        raise LookupError(f"there is no key {args.id} (there is: {', '.join(sorted(keys)[:20]) or 'none'})")
    shown = as_json(keys[args.id]) | _consumed(_booked(args, snapshot), args.id)
    if args.json:
        print_json(shown)
        return 0
    rows = [(name, _words(value)) for name, value in shown.items() if value not in (None, "", [], {}, 0)]
    print_table(("FIELD", "VALUE"), rows)
    return 0


def which(args: argparse.Namespace) -> int:
    """Whose key is it? It is read from stdin, because arguments are seen by others and kept by shells."""
    key = read_secret("API key").reveal().strip()
    snapshot = compiled(args)
    found = snapshot.keys_by_hash.get(key_digest(key.encode()))
    if found is None:
        wrong = "" if checksum_ok(key) else "; its checksum is wrong, so it was cut or mistyped"
        raise Stop(f"no key of this tree{wrong}")
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
            found[name] = _usd(value) if name.endswith("cost") else value
    windows = [
        {"window": window.window}
        | {name: value for name in ("requests", "tokens") if (value := getattr(window, name))}
        | ({"cost": _usd(window.cost)} if window.cost else {})
        for window in limits.windows
    ]
    return found | ({"windows": windows} if windows else {})


_PLAIN_LIMITS = (
    "concurrency", "tokens_per_minute", "daily_requests", "monthly_requests", "daily_tokens", "monthly_tokens",
    "daily_cost", "monthly_cost", "total_cost",
)  # fmt: skip


Booked = Mapping[str, dict[str, Any]] | None


def _booked(args: argparse.Namespace, snapshot: Snapshot) -> Booked:
    """What the state store has booked; None when it cannot be read, which is said."""
    try:
        return consumption(args, snapshot)
    except NoUsage as error:
        if str(error):
            say(f"note: without consumption: {error}")
        return None


def _consumed(booked: Booked, key: str) -> dict[str, Any]:
    return {} if booked is None else {"consumption": booked[key]}


def _month(booked: Booked, key: str) -> tuple[str, ...]:
    if booked is None:
        return ()
    month = booked[key]["month"]
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
        print_json({"id": identity, "file": path, "key": minted, "hint": hint(minted), "sha256": key_hash(minted)})
    else:
        say("the key, shown this once (the tree holds only its hash):")
        print(minted)
        sys.stdout.flush()
    return 0


def _switch(args: argparse.Namespace, enabled: bool) -> int:
    changed = write(args, edit_object("keys.d", args.id, lambda text: set_enabled(text, enabled)))
    return _result(args, {"id": args.id, "enabled": enabled, "changed": list(changed)})


def _result(args: argparse.Namespace, result: dict[str, Any]) -> int:
    if args.json:
        print_json(result)
    return 0


def _row(key: ApiKey) -> tuple[str, ...]:
    limits = limits_json(key.limits)
    state = "on" if key.enabled else "off"
    hints = " ".join(entry.hint or entry.sha256[:8] for entry in key.hashes)
    told = "; ".join(describe(limits))
    return (key.id, key.name, key.owner, state, moment(key.expires), hints, told)


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


def _usd(micro: int) -> str:
    return f"{micro // 1_000_000}.{micro % 1_000_000:06d}".rstrip("0").rstrip(".")
