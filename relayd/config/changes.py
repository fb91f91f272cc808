"""Changes: what a diff found, for people and for programs.

Rule: pure, and never a secret. JSON has everything; the text folds what many objects have in common, so that a change
of three hundred keys can be read.

Theory: a key's limits in a snapshot are whole, those of relay.toml filled in. So one new default changes every key
that says nothing of its own: that is one change, with a number of heirs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

import attrs

from relayd.config.diff_text import ObjectKind
from relayd.config.snapshot import RESTART
from relayd.noun import noun

Action = Literal["add", "remove", "change"]

_DONE: Mapping[Action, str] = {"add": "added", "remove": "removed", "change": "changed"}
_BRIEF = 8  # objects in one line
_SHOWN = 72  # characters of a value in the text form; JSON has all of it


@noun(kw_only=True)
class FieldChange:
    """One key with another value.

    Args:
        path: dotted, within the object, such as "limits.rate.requests" or "hashes[8a8f34453a26]".
        old, new: as written in TOML; "" where there is none; "***" for a secret.
        reload: "hot", "drain", "revoke" or "restart".
        effect: what the change does to the running daemon, in words.
        note: what may be said of a secret that changed.
    """

    path: str
    old: str
    new: str
    reload: str
    effect: str
    note: str = ""

    @property
    def text(self) -> str:
        """`10 -> 4`, or the note."""
        return self.note or f"{_short(self.old)} -> {_short(self.new)}"


@noun(kw_only=True)
class Change:
    """One object that was added, removed or changed. `id` is "" for relay.toml and deny.toml, of which there is one."""

    kind: ObjectKind
    id: str
    action: Action
    reload: str
    effect: str
    fields: tuple[FieldChange, ...] = ()

    @property
    def name(self) -> str:
        """`account main`, `relay.toml`."""
        return f"{self.kind} {self.id}" if self.id else f"{self.kind}.toml"

    @property
    def brief(self) -> str:
        """`key alice added`."""
        return f"{self.name} {_DONE[self.action]}"


@noun(kw_only=True)
class Changes:
    """Everything that differs, in a stable order."""

    changes: tuple[Change, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the two mean the same."""
        return not self.changes

    @property
    def restart(self) -> tuple[str, ...]:
        """What the daemon keeps as it is until it is restarted: `server.workers: 1 -> 4`."""
        return tuple(
            f"{field.path}: {field.text}"
            for change in self.changes
            for field in change.fields
            if change.action == "change" and field.reload == RESTART
        )

    def ids(self, kind: ObjectKind, action: Action) -> tuple[str, ...]:
        """The objects of a kind to which that happened."""
        return tuple(change.id for change in self.changes if (change.kind, change.action) == (kind, action))

    def summary(self) -> str:
        """`1 added, 2 changed, 0 removed; 1 needs a restart`."""
        count = {action: sum(one.action == action for one in self.changes) for action in get_args(Action)}
        text = f"{count['add']} added, {count['change']} changed, {count['remove']} removed"
        needs = "needs" if len(self.restart) == 1 else "need"
        return text + (f"; {len(self.restart)} {needs} a restart" if self.restart else "")

    def brief(self) -> str:
        """`key alice added, account main changed`, in one line; "" where the two mean the same."""
        more = [f"and {len(self.changes) - _BRIEF} more"] * (len(self.changes) > _BRIEF)
        return ", ".join([*(one.brief for one in self.changes[:_BRIEF]), *more])

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Changes:
        """From `as_json`, of this relayd or a newer one."""
        return cls(
            changes=tuple(
                _made(Change, {**one, "fields": tuple(_made(FieldChange, field) for field in one["fields"])})
                for one in document["changes"]
            )
        )

    def as_text(self, *, full: bool = False) -> str:
        """For people: an object a line, its keys below, the sum at the end.

        Args:
            full: what many objects have in common is not folded.
        """
        entries, folded = (self.changes, False) if full else fold(self.changes)
        more = "; folded, `relayd diff --full` shows each" if folded else ""
        return "".join(map(_entry, entries)) + self.summary() + more + "\n"

    def as_json(self) -> dict[str, Any]:
        """For programs. Fields are only ever added."""
        return {
            "empty": self.empty,
            "changes": [{**attrs.asdict(one), "fields": list(map(attrs.asdict, one.fields))} for one in self.changes],
            "restart": list(self.restart),
        }


Noun = TypeVar("Noun", Change, FieldChange)


def _made(noun: type[Noun], fields: Mapping[str, Any]) -> Noun:
    known = {field.name for field in attrs.fields(noun)}
    return noun(**{name: value for name, value in fields.items() if name in known})


# --- folding ---------------------------------------------------------------------------------------------------------


@noun(kw_only=True)
class Folded:
    """Several objects with the same change. `fields`: what they have in common to show."""

    kind: ObjectKind
    ids: tuple[str, ...]
    action: Action
    effect: str
    fields: tuple[FieldChange, ...]


Entry = Change | Folded

SAME = 3  # objects with one and the same change that are still shown one by one
ALIKE = 8  # objects with changes of the same keys
NAMED = 12  # ids in one line
EACH = "each its own"


def fold(changes: Sequence[Change]) -> tuple[list[Entry], bool]:
    """The changes for people, in order, and whether anything was folded: what keys inherit, and what many share."""
    left, inherited = _without_inherited(changes)
    groups: dict[object, list[Change]] = {}
    for one in left:
        groups.setdefault(_likeness(one), []).append(one)
    folded = {likeness: entry for likeness, group in groups.items() if (entry := _folded(group)) is not None}
    entries: list[Entry] = []
    for one in left:
        likeness = _likeness(one)
        if likeness not in folded:
            entries.append(one)
        elif one is groups[likeness][0]:
            entries.append(folded[likeness])
    return entries, inherited or bool(folded)


def _without_inherited(changes: Sequence[Change]) -> tuple[list[Change], bool]:
    """Without the limits that keys only take over from relay.toml, where each says how many do."""
    relay = next((one for one in changes if one.kind == "relay"), None)
    if relay is None:
        return list(changes), False
    given = {_what(field) for field in relay.fields if field.path.startswith("limits.")}
    own = (field for one in changes if one.kind == "key" and one.action == "change" for field in one.fields)
    heirs = Counter(what for field in own if (what := _what(field)) in given)
    left = [_own(one, given, heirs) for one in changes]
    return [one for one in left if one.fields or one.action != "change"], bool(heirs)


def _own(one: Change, given: Collection[object], heirs: Mapping[object, int]) -> Change:
    """A change without what it inherits; that of relay.toml with the number of its heirs."""
    if one.kind == "relay":
        return attrs.evolve(one, fields=tuple(_counted(field, heirs.get(_what(field), 0)) for field in one.fields))
    if one.kind == "key" and one.action == "change":
        return attrs.evolve(one, fields=tuple(field for field in one.fields if _what(field) not in given))
    return one


def _what(field: FieldChange) -> object:
    return field.path, field.old, field.new


def _counted(field: FieldChange, heirs: int) -> FieldChange:
    if not heirs:
        return field
    return attrs.evolve(field, effect=f"{field.effect} ({heirs} {'keys inherit' if heirs > 1 else 'key inherits'} it)")


def _likeness(one: Change) -> object:
    """Equal for changes that may be folded: all additions of a kind, all removals, changes of the same keys."""
    if one.kind not in PLURALS:
        return one.name
    fields = () if one.action != "change" else tuple((_path(f), f.reload, f.effect, f.note) for f in one.fields)
    return one.kind, one.action, one.effect, fields


def _path(field: FieldChange) -> str:
    """The path, whichever element of an array it is in."""
    return re.sub(r"\[[^\]]*\]", "[]", field.path)


def _folded(group: Sequence[Change]) -> Folded | None:
    """A group as one entry; None for one that is small enough to be shown one by one."""
    first = group[0]
    same = first.action == "change" and all(one.fields == first.fields for one in group)
    if len(group) <= (SAME if same else ALIKE):
        return None
    fields = _shared(group) if first.action == "add" else _merged(group)
    ids = tuple(one.id for one in group)
    return Folded(kind=first.kind, ids=ids, action=first.action, effect=first.effect, fields=fields)


def _shared(group: Sequence[Change]) -> tuple[FieldChange, ...]:
    """What every new object says alike."""
    return tuple(field for field in group[0].fields if all(field in one.fields for one in group[1:]))


def _merged(group: Sequence[Change]) -> tuple[FieldChange, ...]:
    """The keys that changed in each; their values, where they are the same."""
    columns = zip(*(one.fields for one in group), strict=True)
    return tuple(
        column[0]
        if len({_what(field) for field in column}) == 1
        else attrs.evolve(column[0], path=_path(column[0]), note=column[0].note or EACH)
        for column in columns
    )


# --- for people ------------------------------------------------------------------------------------------------------


def _short(text: str) -> str:
    text = text or "none"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


PLURALS: Mapping[str, str] = {"account": "accounts", "key": "keys", "price": "prices"}
_SIGNS = {"add": "+", "remove": "-", "change": "~"}


def _entry(change: Entry) -> str:
    if isinstance(change, Folded):
        lines = [f"{_SIGNS[change.action]} {len(change.ids)} {PLURALS[change.kind]}", f"    {_names(change.ids)}"]
    else:
        lines = [f"{_SIGNS[change.action]} {change.name}"]
    if change.action != "change":
        lines[0] += f": {'each ' if isinstance(change, Folded) else ''}{change.effect}"
    width = max((len(field.path) for field in change.fields), default=0)
    lines += [_line(change.action, field, min(width, 40)) for field in change.fields]
    return "\n".join(lines) + "\n"


def _names(ids: Sequence[str]) -> str:
    more = len(ids) - NAMED
    return ", ".join(ids[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _line(action: Action, field: FieldChange, width: int) -> str:
    value = field.note or _short(field.new) if action == "add" else field.text
    line = f"    {field.path:<{width}}  {value}"
    if action == "add":
        return line
    mark = "RESTART" if field.reload == RESTART else field.reload
    return f"{line}  [{mark}: {field.effect}]"
