"""Config diff: what a new config changes, in the operator's words, each with its reload class and effect.

Rule: pure; two snapshots in, `Changes` out, never a secret. Walks the nouns of snapshot.py field by field; how values
and effects are written is in diff_text.py. Arrays of tables are matched by what names their elements (name, hash), else
by place.

Theory: two digests. A tree's digest is over its bytes; the model digest is over what they mean, defaults applied, so
that comments, order of keys and moved files do not count. `diff` finds something exactly when the meaning differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import msgspec

from relayd.config.changes import Change, Changes, FieldChange
from relayd.config.diff_text import (
    ADDED,
    HIDDEN,
    REMOVED,
    ObjectKind,
    RecipientLists,
    effect_of,
    list_text,
    path_text,
    secret_note,
    value_text,
)
from relayd.config.pattern import Pattern
from relayd.config.snapshot import HOT, RESTART, REVOKE, KeyPath, Proxy, Snapshot

_PART = 256  # objects encoded at once, in about 1 ms


def diff(old: Snapshot, new: Snapshot) -> Changes:
    """What `new` changes. Empty exactly when the model digests are equal."""
    return Changes(changes=tuple(_changes(old, new)))


def model_digest(snapshot: Snapshot) -> str:
    """The digest of what a tree means, 64 hex digits: the same for trees between which `diff` finds nothing."""
    digest = hashlib.sha256()
    for part in _model(snapshot):  # in parts, so that a thread that encodes a large tree lets others run in between
        digest.update(msgspec.json.encode(part, enc_hook=_plain, order="deterministic") + b"\n")
    return digest.hexdigest()


def _model(snapshot: Snapshot) -> Iterator[Any]:
    yield snapshot.relay
    yield list(snapshot.relay.clients)  # the first rule that matches names the client, so their order counts
    for objects in (snapshot.accounts, snapshot.keys, snapshot.prices):
        found = sorted(objects.items())
        yield len(found)
        yield from (found[start : start + _PART] for start in range(0, len(found), _PART))
    yield snapshot.deny


def _plain(value: Any) -> Any:
    """What msgspec does not know: read-only mappings and patterns."""
    if isinstance(value, MappingProxyType):
        return dict(value)
    if isinstance(value, Pattern):
        return value.pattern
    raise TypeError(f"no canonical form of {type(value).__name__}")  # a test compiles one of every noun


# --- walking ---------------------------------------------------------------------------------------------------------


def _changes(old: Snapshot, new: Snapshot) -> Iterator[Change]:
    listed = RecipientLists(old.relay.secrets.recipients, new.relay.secrets.recipients)
    yield from _single(listed, "relay", old.relay, new.relay)
    yield from _objects(listed, "account", old.accounts, new.accounts)
    yield from _objects(listed, "key", old.keys, new.keys)
    yield from _single(listed, "deny", old.deny, new.deny)
    yield from _objects(listed, "price", old.prices, new.prices)


def _single(listed: RecipientLists, kind: ObjectKind, old: Any, new: Any) -> Iterator[Change]:
    if old is not new and (fields := tuple(_noun(listed, kind, old, new, ()))):
        yield _changed(kind, "", fields)


def _objects(
    listed: RecipientLists, kind: ObjectKind, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Change]:
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before is after or before == after:
            continue
        if before is None:
            reload, effect = HOT, ADDED[kind]
            yield Change(
                kind=kind, id=name, action="add", reload=reload, effect=effect, fields=_written(listed, kind, after)
            )
        elif after is None:
            yield Change(kind=kind, id=name, action="remove", reload=REVOKE, effect=REMOVED[kind])
        elif fields := tuple(_noun(listed, kind, before, after, ())):
            yield _changed(kind, name, fields)


def _changed(kind: ObjectKind, name: str, fields: tuple[FieldChange, ...]) -> Change:
    """The gravest class of its fields is that of the object."""
    gravest = max(fields, key=lambda field: _GRAVITY.index(field.reload))
    return Change(kind=kind, id=name, action="change", reload=gravest.reload, effect=gravest.effect, fields=fields)


_GRAVITY = (HOT, "drain", REVOKE, RESTART)


def _written(listed: RecipientLists, kind: ObjectKind, noun: Any) -> tuple[FieldChange, ...]:
    """What a new object says beyond the defaults."""
    dull = {field.name: field.default for field in attrs.fields(type(noun)) if field.default is not attrs.NOTHING}
    found: list[FieldChange] = []
    for field in attrs.fields(type(noun)):
        value = getattr(noun, field.name)
        if field.name == "id" or (field.name in dull and dull[field.name] == value):
            continue
        if field.name in dull and attrs.has(type(value)):
            found += _noun(listed, kind, dull[field.name], value, (field.name,))
        else:
            found += _value(listed, kind, field, None, value, (field.name,))
    return tuple(attrs.evolve(one, old="", reload=HOT, effect=ADDED[kind]) for one in found)


def _noun(listed: RecipientLists, kind: ObjectKind, old: Any, new: Any, path: KeyPath) -> Iterator[FieldChange]:
    """Two nouns of one class."""
    for field in attrs.fields(attrs.resolve_types(type(new))):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after or isinstance(after, Mapping):  # of mappings the order may count
            yield from _value(listed, kind, field, before, after, (*path, field.name))


def _value(
    listed: RecipientLists,
    kind: ObjectKind,
    field: attrs.Attribute[Any],
    old: Any,
    new: Any,
    path: KeyPath,
) -> Iterator[FieldChange]:
    """Two values of one field; None for an absent one."""
    if attrs.has(type(new)) and old is not None:
        yield from _noun(listed, kind, old, new, path)
    elif isinstance(new, Mapping):
        yield from _mapping(listed, kind, field, old or {}, new, path)
    elif isinstance(new, tuple) and any(attrs.has(type(one)) for one in (*(old or ()), *new)):
        yield from _elements(listed, kind, field, old or (), new, path)
    else:
        yield _field(listed, kind, field, old, new, path)


def _mapping(
    listed: RecipientLists,
    kind: ObjectKind,
    field: attrs.Attribute[Any],
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    path: KeyPath,
) -> Iterator[FieldChange]:
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before is not None and after is not None and attrs.has(type(after)):
            yield from _noun(listed, kind, before, after, (*path, name))
        else:
            yield _field(listed, kind, field, before, after, (*path, name))
    if field.name == "clients":
        yield from _order(kind, field, [one for one in old if one in new], [one for one in new if one in old], path)


def _elements(
    listed: RecipientLists,
    kind: ObjectKind,
    field: attrs.Attribute[Any],
    old: Sequence[Any],
    new: Sequence[Any],
    path: KeyPath,
) -> Iterator[FieldChange]:
    """An array of tables."""
    before, after = _by_name(old), _by_name(new)
    for name in [*after, *(name for name in before if name not in after)]:
        one, other, place = before.get(name), after.get(name), (*path[:-1], f"{path[-1]}[{name}]")
        if one == other:
            continue
        if one is not None and other is not None:
            yield from _noun(listed, kind, one, other, place)
        else:
            yield _field(listed, kind, field, one, other, place)
    yield from _order(
        kind, field, [one for one in before if one in after], [one for one in after if one in before], path
    )


def _by_name(elements: Sequence[Any]) -> dict[str, Any]:
    """Elements by what tells them apart, as people would say it."""
    for name in ("name", "sha256"):
        named = {getattr(one, name, "")[:64]: one for one in elements}
        if len(named) == len(elements) and "" not in named:
            cut = 12 if name == "sha256" and len({one[:12] for one in named}) == len(named) else 64
            return {one[:cut]: element for one, element in named.items()}
    return {str(place): element for place, element in enumerate(elements)}


def _order(
    kind: ObjectKind, field: attrs.Attribute[Any], old: Sequence[str], new: Sequence[str], path: KeyPath
) -> Iterator[FieldChange]:
    """The same elements in another order."""
    if list(old) != list(new):
        reload = field.metadata["reload"]
        before, after = list_text(old), list_text(new)
        yield FieldChange(
            path=f"{path_text(path)} (order)",
            old=before,
            new=after,
            reload=reload,
            effect=effect_of(kind, path, reload),
        )


def _field(
    listed: RecipientLists,
    kind: ObjectKind,
    field: attrs.Attribute[Any],
    old: Any,
    new: Any,
    path: KeyPath,
) -> FieldChange:
    reload = field.metadata["reload"]
    note = ""
    if field.metadata["secret"] and field.type is not Proxy:
        note = secret_note(listed, field, old, new)
        before, after = HIDDEN if old else "", HIDDEN if new else ""
    else:
        before, after = value_text(field, old), value_text(field, new)
        if before == after:  # two proxies that differ in the password alone
            note = "password changed"
    return FieldChange(
        path=path_text(path), old=before, new=after, reload=reload, effect=effect_of(kind, path, reload, new), note=note
    )
