"""Edits of accounts, keys and recipients: text of a file in, text out.

Rule: pure; the time is an argument. Each edit goes through toml_edit.py, so it changes what it says and nothing else.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping
from typing import Any

from relayd.config.edit.toml_edit import (
    EditError,
    Value,
    append_value,
    remove_value,
    render,
    render_document,
    set_value,
)
from relayd.config.secrets.api_keys import hint, key_hash

MAX_HASHES = 2  # of one key: the old one and the new one, while rotating


def set_enabled(text: str, enabled: bool) -> str:
    """Switch an account or a key. An absent `enabled` means true, and stays absent when it need not be written."""
    if _table(text).get("enabled", True) is enabled:
        return text
    return set_value(text, ("enabled",), enabled)


def set_sealed(text: str, sealed: str) -> str:
    """Give an account a sealed credential; one in a file is taken out, because an account has one credential."""
    credential = _table(text).get("credential", {})
    text = set_value(text, ("credential", "sealed"), sealed)  # first, so that the table is never empty
    if isinstance(credential, dict) and "file" in credential:
        text = remove_value(text, ("credential", "file"))
    return text


def key_file(key: str, fields: Mapping[str, Value], limits: Mapping[str, Value]) -> str:
    """The file of a new API key. It holds the key's hash and hint, never the key."""
    return render_document({**fields, "hashes": [hash_entry(key)]}, {"limits": limits})


def hash_entry(key: str) -> dict[str, Any]:
    """The element of `hashes` for a key."""
    return {"sha256": key_hash(key), "hint": hint(key)}


def rotate(text: str, new_key: str, *, now: datetime.datetime, until: datetime.datetime) -> str:
    """Add the hash of `new_key`; the hashes there were stop counting at `until` (or earlier, if they say so).

    A hash that has expired is taken out. With `until` not after `now` the old hashes go at once.

    Raises: EditError when two hashes are still in use: the rotation before this one has not ended.
    """
    hashes = _hashes(text)
    for at in reversed(range(len(hashes))):
        if until <= now or _expiry(hashes[at], until) <= now:
            text = remove_value(text, ("hashes", at))
    left = _hashes(text)
    if len(left) >= MAX_HASHES:
        ends = min(_expiry(entry, until) for entry in left)
        raise EditError(
            f"this key is being rotated: two hashes are in use until {render(ends)} (wait, or rotate with --grace 0s)"
        )
    for at, entry in enumerate(left):
        text = set_value(text, ("hashes", at, "expires"), min(until, _expiry(entry, until)))
    return append_value(text, ("hashes",), hash_entry(new_key))


def add_recipient(text: str, name: str, public: str) -> str:
    """List a recipient in relay.toml. Raises: EditError when the name or the key is there already."""
    for entry in _recipients(text):
        if entry.get("name") == name:
            raise EditError(f"a recipient {name} exists (choose another name; keys are not replaced under a name)")
        if entry.get("public") == public:
            raise EditError(f"this key is already listed, as recipient {entry.get('name')}")
    return append_value(text, ("secrets", "recipients"), {"name": name, "public": public, "state": "active"})


def set_recipient_state(text: str, name: str, state: str) -> str:
    """Mark a recipient "active", "retiring" or "removed"."""
    return set_value(text, ("secrets", "recipients", _recipient_at(text, name), "state"), state)


def remove_recipient(text: str, name: str) -> str:
    """Take a recipient off the list."""
    return remove_value(text, ("secrets", "recipients", _recipient_at(text, name)))


def set_admin_user(text: str, name: str, password_hash: str, role: str, email: str = "") -> str:
    """List a person who may sign in; one who is listed gets the new password, and what else is named."""
    names = [entry.get("name") for entry in _admins(text, "users")]
    more = {"email": email} if email else {}
    if name not in names:
        entry = {"name": name, "password_hash": password_hash, "role": role or "viewer", **more}
        return append_value(text, ("admin", "users"), entry)
    changed = {"password_hash": password_hash, **({"role": role} if role else {}), **more}
    for field, value in changed.items():
        text = set_value(text, ("admin", "users", names.index(name), field), value)
    return text


def set_admin_totp(text: str, name: str, sealed: str) -> str:
    """Give an admin a sealed seed of one-time codes. Raises: EditError when nobody has that name."""
    names = [entry.get("name") for entry in _admins(text, "users")]
    if name not in names:
        raise EditError(f"relay.toml: admin.users: nobody is called {name} (relayd secret password {name} --add)")
    return set_value(text, ("admin", "users", names.index(name), "totp"), sealed)


def add_admin_token(text: str, name: str, sha256: str, role: str) -> str:
    """List a machine's token. Raises: EditError when the name is taken."""
    if any(entry.get("name") == name for entry in _admins(text, "tokens")):
        raise EditError(f"relay.toml: admin.tokens: a token {name} exists (take it out, or choose another name)")
    return append_value(text, ("admin", "tokens"), {"name": name, "sha256": sha256, "role": role or "viewer"})


DENY_HEAD = "# What is refused at once, whatever the rest of the tree says: also while it has errors, or is held.\n"


def add_denied(text: str, field: str, value: str) -> str:
    """Name a key, hash, account or address in deny.toml; one that is there stays as it is.

    Args:
        field: "keys", "sha256", "accounts" or "ips".
    """
    text = text or DENY_HEAD
    return text if value in _denied(text, field) else append_value(text, (field,), value)


def remove_denied(text: str, field: str, value: str) -> str:
    """Take a name out of deny.toml, where it is there."""
    listed = _denied(text, field)
    return remove_value(text, (field, listed.index(value))) if value in listed else text


def _denied(text: str, field: str) -> list[Any]:
    found = _table(text).get(field, [])
    return found if isinstance(found, list) else []


def _table(text: str) -> dict[str, Any]:
    """Raises: EditError for what is not TOML."""
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise EditError(f"not TOML: {error} (repair it first)") from None


def _admins(text: str, what: str) -> list[dict[str, Any]]:
    admin = _table(text).get("admin", {})
    found = admin.get(what, []) if isinstance(admin, dict) else []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _hashes(text: str) -> list[dict[str, Any]]:
    found = _table(text).get("hashes", [])
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _expiry(entry: Mapping[str, Any], otherwise: datetime.datetime) -> datetime.datetime:
    found = entry.get("expires")
    return found if isinstance(found, datetime.datetime) and found.tzinfo else otherwise


def _recipients(text: str) -> list[dict[str, Any]]:
    found = _table(text).get("secrets", {}).get("recipients", [])
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _recipient_at(text: str, name: str) -> int:
    names = [entry.get("name") for entry in _recipients(text)]
    if name not in names:
        have = ", ".join(str(one) for one in names) or "none"
        raise EditError(f"relay.toml: [secrets] recipients: there is no {name} (known: {have})")
    return names.index(name)
