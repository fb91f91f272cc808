"""Edits of relay.toml, and of the text of any file, that a person wants: fields in, a TreeEdit out. Pure."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable

from relayd.config.edit.hidden import Hider
from relayd.config.edit.objects import edit_file
from relayd.config.edit.toml_edit import EditError, Value
from relayd.config.edit.tree_edit import Moved, TreeEdit
from relayd.config.edit.wanted import Fields, id_of, set_wanted, text_of, value_at
from relayd.config.edit.write import Files
from relayd.config.snapshot import KeyPath


def set_aliases(fields: Fields) -> TreeEdit:
    """The aliases of models as they stand in the field, one "alias = model" a line. Raises: EditError."""
    wanted = _pairs(fields.get("aliases", ""), "=")

    def edit(text: str) -> str:
        present = value_at(text, ("models",)) or {}
        gone: dict[KeyPath, Value | None] = {("models", one): None for one in present if one not in wanted}
        return set_wanted(text, gone | {("models", one): value for one, value in wanted.items()})

    return _of_relay("models.aliases", ", ".join(wanted)[:100], "models: other aliases", edit)


def set_client(fields: Fields) -> TreeEdit:
    """A client rule: patterns of the User-Agent and of headers, one "name: pattern" a line. Raises: EditError."""
    name = id_of(fields)
    headers = _pairs(fields.get("headers", ""), ":")
    wanted: dict[KeyPath, Value | None] = {
        ("clients", name, "name"): text_of(fields, "name"),
        ("clients", name, "user_agent"): text_of(fields, "user_agent"),
    }

    def edit(text: str) -> str:
        present = value_at(text, ("clients", name, "headers")) or {}
        at = ("clients", name, "headers")
        gone: dict[KeyPath, Value | None] = {(*at, one): None for one in present if one not in headers}
        return set_wanted(text, wanted | gone | {(*at, one): value for one, value in headers.items()})

    return _of_relay("client.set", name, f"client {name}: another rule", edit)


def delete_client(name: str) -> TreeEdit:
    """Take a client rule out."""

    def edit(text: str) -> str:
        if value_at(text, ("clients", name)) is None:
            raise LookupError(f"relay.toml: there is no client rule {name[:63]}")
        return set_wanted(text, {("clients", name): None})

    return _of_relay("client.delete", name, f"client {name}: no rule any more", edit)


def set_file(path: str, shown: str, digest: str) -> TreeEdit:
    """A whole file, as it was shown with its secrets hidden and then edited.

    Args:
        digest: SHA-256 of the file that was shown, which must be there still.
    """
    shown = shown.replace("\r\n", "\n")

    def plan(files: Files) -> dict[str, bytes | None]:
        if path not in files:
            raise LookupError(f"{path}: there is no such file in the tree")
        old = files[path]
        if hashlib.sha256(old).hexdigest() != digest:
            raise Moved(f"{path}: changed by somebody else meanwhile; load the page again")
        hider, text = Hider(), old.decode("utf-8", "replace")
        hider.hide(path, text)
        new = hider.restore(shown if shown.endswith("\n") or not shown else f"{shown}\n")
        return {path: (new.replace("\n", "\r\n") if "\r\n" in text else new).encode()}

    return TreeEdit(what="file.edit", subject=path, message=f"{path}: edited", command="", plan=plan)


def _of_relay(what: str, subject: str, message: str, edit: Callable[[str], str]) -> TreeEdit:
    plan = edit_file("relay.toml", edit)
    return TreeEdit(what=what, subject=subject, message=message, command="", plan=plan)


def _pairs(text: str, joint: str) -> dict[str, str]:
    """Lines "name JOINT value"; quotes around either do not matter. Raises: EditError."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, sign, value = line.partition(joint)
        if not line.strip():
            continue
        name, value = _unquoted(name), _unquoted(value)
        if not sign or not name or not value:
            raise EditError(f"{line.strip()[:80]!r}: expected name {joint} value")
        found[name] = value
    return found


def _unquoted(text: str) -> str:
    text = text.strip()
    try:
        value = tomllib.loads(f"v = {text}")["v"] if text[:1] in ("'", '"') else text
    except ValueError:
        return text
    return value if isinstance(value, str) else text
