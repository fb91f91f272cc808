"""Diff texts: how a diff writes values, paths and effects, in the operator's words.

Rule: pure, and never a secret. Only the words for effects know single keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import attrs

from relayd.config.model.structure import dotted, field_type
from relayd.config.model.types import write
from relayd.config.secrets.recipients import SealError, by_kid
from relayd.config.secrets.seal import parse_sealed
from relayd.config.snapshot import HOT, RESTART, REVOKE, KeyPath, Proxy, Recipient
from relayd.noun import noun

ObjectKind = Literal["relay", "account", "key", "deny", "price"]

HIDDEN = "***"  # stands for a secret that is set


@noun
class RecipientLists:
    """Who can open sealed values, before and after the change."""

    old: Sequence[Recipient]
    new: Sequence[Recipient]


ADDED: dict[ObjectKind, str] = {
    "account": "serves from the next call",
    "key": "is accepted from the next request",
    "price": "applies from the next call",
}
REMOVED: dict[ObjectKind, str] = {
    "account": "gets no new call; calls in flight finish",
    "key": "is refused from the next request, also on open connections",
    "price": "relayd's own price applies again",
}
_EFFECTS = {
    HOT: "acts on the next call",
    "drain": "opened anew; what is open finishes as it is",
    REVOKE: "acts on the next request, also on open connections",
    RESTART: "needs a restart; the running value stays until then",
}
_KEY_EFFECTS: dict[tuple[ObjectKind, str], str] = {
    ("account", "base_url"): "new connections; calls in flight finish on the old ones, and its health starts afresh",
    ("account", "proxy"): "new connections; calls in flight finish on the old ones",
    ("account", "credential"): "sent from the next call; its health starts afresh",
    ("account", "limits"): "acts on the next call; nothing in flight is stopped",
    ("key", "limits"): "acts on the next call; what was consumed still counts",
    ("relay", "limits"): "acts on the next call of keys without limits of their own; what was consumed still counts",
    ("relay", "check"): "acts on the next `check`; the daemon reports what is left",
    ("relay", "realm"): "needs a restart; counters start anew, and sealed values must be sealed again",
    ("relay", "server.listen"): "new addresses are opened before old ones are closed; open connections finish",
}


def effect_of(kind: ObjectKind, path: KeyPath, reload: str, new: Any = None) -> str:
    name = str(path[-1]) if len(path) == 1 else ""
    if name == "enabled":
        return (ADDED if new else REMOVED)[kind]
    words = [str(part).split("[")[0] for part in path]
    for length in (2, 1):
        if effect := _KEY_EFFECTS.get((kind, ".".join(words[:length]))):
            return effect
    return _EFFECTS[reload]


def secret_note(listed: RecipientLists, field: attrs.Attribute[Any], old: Any, new: Any) -> str:
    if field.metadata["form"] == "sealed":
        if old and new:
            return f"sealed value changed{_recipients(listed, old, new)}"
        return "sealed value added" if new else "sealed value removed"
    what = "value" if not attrs.has(type(new if new is not None else old)) else "entry"
    return f"{what} {'changed' if old and new else 'added' if new else 'removed'}"


def _recipients(listed: RecipientLists, old: str, new: str) -> str:
    """` (recipients: -k1 +k2)`, by name where relay.toml has one."""
    before, after = _kids(old, listed.old), _kids(new, listed.new)
    if before is None or after is None:
        return ""
    signs = [f"-{name}" for name in sorted(before - after)] + [f"+{name}" for name in sorted(after - before)]
    return f" (recipients: {' '.join(signs) or 'the same'})"


def _kids(value: str, recipients: Sequence[Recipient]) -> set[str] | None:
    names = {kid: one.name for kid, one in by_kid(recipients).items()}
    try:
        return {names.get(kid, kid) for kid in parse_sealed(value).kids}
    except SealError:
        return None


def path_text(path: KeyPath) -> str:
    """`hashes[8a8f]` is one word here; elsewhere names that are not bare TOML keys are quoted."""
    texts = []
    for part in path:
        name, bracket, rest = str(part).partition("[")
        texts.append(dotted((name,)) + bracket + rest if rest.endswith("]") else dotted((str(part),)))
    return ".".join(texts)


def value_text(field: attrs.Attribute[Any], value: Any) -> str:
    """A value as TOML has it; "" for none."""
    if value is None:
        return ""
    if field.type is Proxy:
        return _proxy(value)
    if attrs.has(type(value)):
        return _table(value)
    kind = field_type(field)
    inner = [arg for arg in get_args(kind) if arg is not type(None)]
    if isinstance(value, tuple):
        return list_text([write(inner[0], one) for one in value])
    if isinstance(field.default, Mapping) or len(inner) == 2:  # a mapping's value, or `int | Literal`
        return _scalar(write(inner[-1], value))
    return _scalar(write(inner[0] if inner and inner[0] is not value else kind, value))


def _scalar(value: Any) -> str:
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def list_text(values: Sequence[Any]) -> str:
    return f"[{', '.join(map(_scalar, values))}]"


def _table(noun: Any) -> str:
    """An inline table of what differs from the defaults, without secrets."""
    parts = []
    for field in attrs.fields(attrs.resolve_types(type(noun))):
        value = getattr(noun, field.name)
        if value == field.default:
            continue
        text = HIDDEN if field.metadata["secret"] else value_text(field, value)
        parts.append(f"{field.name} = {text}")
    return "{ " + ", ".join(parts) + " }" if parts else "{}"


def _proxy(value: str) -> str:
    """Scheme, host and port; the user part may hold a password."""
    parts = urlsplit(value)
    user = f"{HIDDEN}@" if "@" in parts.netloc else ""
    return json.dumps(f"{parts.scheme}://{user}{parts.netloc.rpartition('@')[2]}" if value else "")
