"""Edits of API keys that a person wants: fields in, a TreeEdit out.

Rule: pure; the time and the new key are arguments. The key itself is in no file, no message and no command.
"""

from __future__ import annotations

import datetime
import shlex

from relayd.config.edit.edits import add_denied, key_file, remove_denied, rotate, set_enabled
from relayd.config.edit.objects import edit_file, edit_object, edited, find_object, refuse_taken
from relayd.config.edit.removal import removal
from relayd.config.edit.toml_edit import EditError, Value
from relayd.config.edit.tree_edit import TreeEdit
from relayd.config.edit.wanted import (
    Fields,
    count_of,
    expiry,
    given,
    id_of,
    limit_options,
    limits_of,
    set_wanted,
    text_of,
    value_at,
    words_of,
)
from relayd.config.edit.write import EditPlan, Files
from relayd.config.model.values import Bad, seconds
from relayd.config.secrets.sealed_fields import objects
from relayd.config.snapshot import KeyPath

LISTS = ("groups", "models", "deny_models", "clients", "endpoints", "allowed_ips")
GRACE = "7d"  # how long a key that was rotated goes on working, unless something else is said


def new_key(fields: Fields, minted: str, now: datetime.datetime) -> TreeEdit:
    """A key's file with the hash of `minted`. Raises: EditError."""
    name = id_of(fields)
    wanted = _settings(fields, now)
    limits = given(limits_of(fields))
    path = f"keys.d/{name}.toml"
    content = key_file(minted, {"name": wanted.pop("name", name), "created": now, **wanted}, limits).encode()

    def plan(files: Files) -> dict[str, bytes | None]:
        refuse_taken(files, "keys.d", name)
        return {path: content}

    options: list[str] = []
    for option in ("owner", *LISTS, "max_tokens"):
        value = wanted.get(option)
        if value is not None:
            shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            options += [f"--{option.replace('_', '-')}", shown]
    if "expires" in wanted:
        options += ["--expires", fields["expires"].strip()]
    title, rest = text_of(fields, "name") or name, ["--id", name, *options, *limit_options(limits)]
    words = [*rest, "--", title] if title.startswith("-") else [title, *rest]
    return TreeEdit(
        what="key.new",
        subject=name,
        message=f"key {name}: new",
        command=shlex.join(["relayd", "key", "new", *words]),
        plan=plan,
    )


def change_key(name: str, fields: Fields, now: datetime.datetime) -> TreeEdit:
    """A key's settings and limits as the fields say; an empty field takes the setting out. Raises: EditError."""
    wanted: dict[KeyPath, Value | None] = dict.fromkeys((one,) for one in ("name", "owner", *LISTS, "max_tokens"))
    wanted |= {(one,): value for one, value in _settings(fields, now, checked=False).items()}
    wanted |= {("limits", one): value for one, value in limits_of(fields).items()}
    expires = text_of(fields, "expires")

    def edit(text: str) -> str:
        present = value_at(text, ("expires",))
        ends: Value | None = None
        if expires is not None:
            same = isinstance(present, datetime.datetime) and expires in (present.isoformat(), shown_time(present))
            ends = present if same else expiry(expires, now)
        return set_wanted(text, {**wanted, ("expires",): ends})

    return TreeEdit(
        what="key.change",
        subject=name,
        message=f"key {name}: other settings",
        command="",
        plan=edit_object("keys.d", name, edit),
    )


def shown_time(value: object) -> str:
    """A time of a file for a field."""
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime.datetime) else ""


def switch_key(name: str, enabled: bool) -> TreeEdit:
    """Refuse a key, or accept it again."""
    word = "enable" if enabled else "disable"
    return _simple(word, name, edit_object("keys.d", name, lambda text: set_enabled(text, enabled)))


def rotate_key(name: str, grace: str, minted: str, now: datetime.datetime) -> TreeEdit:
    """Another text for a key; the old one works for `grace`, such as "7d". Raises: EditError."""
    try:
        until = now + datetime.timedelta(seconds=seconds(grace or GRACE))
    except (Bad, OverflowError):
        raise EditError(f"grace: {grace[:40]!r} is not a duration (7d, 12h, 0s)") from None
    plan = edit_object("keys.d", name, lambda text: rotate(text, minted, now=now, until=until))
    return _simple("rotate", name, plan, "--grace", grace or GRACE)


def delete_key(name: str) -> TreeEdit:
    """Remove a key's file, and the scenarios that name it."""

    def plan(files: Files) -> dict[str, bytes | None]:
        find_object(files, "keys.d", name)
        return dict(removal(files, keys=[name]).changes)

    return _simple("delete", name, plan, "--yes", "--with-dependents")


def deny(field: str, value: str, *, undo: bool = False) -> TreeEdit:
    """Refuse a key, an account, a hash or an address at once, by deny.toml; or no longer. Raises: EditError."""
    if field not in ("keys", "accounts", "ips", "sha256") or not value or len(value) > 100:
        raise EditError("deny: expected what is to be refused")
    change = remove_denied if undo else add_denied
    words = ["relayd", "revoke", value, *({"keys": ["--key"], "accounts": ["--account"]}.get(field, []))]
    verb = "no longer refuse" if undo else "refuse"
    return TreeEdit(
        what="deny.remove" if undo else "deny.add",
        subject=f"{field} {value}",
        message=f"deny: {verb} {field} {value}",
        command=shlex.join([*words, "--undo"] if undo else words),
        plan=edit_file("deny.toml", lambda text: change(text, field, value)),
    )


def limit_owner(owner: str, fields: Fields) -> TreeEdit:
    """The same limits for every key of an owner; an empty field leaves that limit of each key as it is.

    Raises: EditError.
    """
    limits = given(limits_of(fields))
    if not limits:
        raise EditError("no limit was given; nothing would change")
    wanted: dict[KeyPath, Value | None] = {("limits", one): value for one, value in limits.items()}

    def plan(files: Files) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for file, _, table in objects(files, "keys.d"):
            if owner and table.get("owner") == owner:
                found[file] = edited(files, file, lambda text: set_wanted(text, wanted))
        if not found:
            raise LookupError(f"no key has the owner {owner[:80]!r}")
        return found

    shown = owner if owner.isprintable() else repr(owner)
    return TreeEdit(
        what="owner.limits", subject=shown, message=f"keys of {shown[:80]}: other limits", command="", plan=plan
    )


def _settings(fields: Fields, now: datetime.datetime, *, checked: bool = True) -> dict[str, Value]:
    found: dict[str, Value | None] = {"name": text_of(fields, "name"), "owner": text_of(fields, "owner")}
    if checked and (expires := text_of(fields, "expires")):
        found["expires"] = expiry(expires, now)
    found |= {one: words_of(fields, one) for one in LISTS}
    return given({**found, "max_tokens": count_of(fields, "max_tokens")})


def _simple(word: str, name: str, plan: EditPlan, *options: str) -> TreeEdit:
    return TreeEdit(
        what=f"key.{word}",
        subject=name,
        message=f"key {name}: {word}",
        command=shlex.join(["relayd", "key", word, name, *options]),
        plan=plan,
    )
