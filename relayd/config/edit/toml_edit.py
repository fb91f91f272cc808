"""TOML edits: text of a file in, text out, and nothing changed but what was asked for; and the text of new files.

Rule: pure. Every edit ends in `_checked`: the result must parse to exactly the old document with the one change
applied, or the edit fails and nothing is written.

Theory: toml_positions.py tells where a value stands; the new value replaces those characters, or a new line goes behind
the last pair of its table. Comments, order, quotes, white space and line ends survive because they are never touched.
tomlkit builds values and new files. It does not edit old ones: 0.15, which writes the document anew from a tree, puts a
new key between a header and the comment above it, and a line feed into a file of CRLF lines.
"""

from __future__ import annotations

import bisect
import copy
import datetime
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import tomlkit
from tomlkit.items import Array, Item

from relayd.config.model.toml_positions import Position, index
from relayd.config.snapshot import KeyPath
from relayd.noun import noun

Value = str | int | bool | datetime.datetime | list[Any] | dict[str, Any]


class EditError(ValueError):
    """The file cannot be edited this way. The text says why, and quotes no value."""


@noun
class _Section:
    """A table header and what follows it; `start` is that of its line, `body` that of the next."""

    path: KeyPath
    start: int
    body: int
    end: int
    is_array: bool


@noun
class _Edit:
    start: int
    end: int
    text: str


def set_value(text: str, path: KeyPath, value: Value) -> str:
    """Put `value` at `path`, adding the key and its table where they are missing.

    Raises: EditError when `path` names a table with a header of its own.
    """
    return _edit(text, lambda document: _set(document, path, value), lambda plain, where: _place(plain, path, value))


def remove_value(text: str, path: KeyPath) -> str:
    """Take away a key, or an element of an array. Raises: EditError when there is none."""
    return _edit(text, lambda document: _delete(document, path), lambda plain, where: _cut(plain, where, path))


def append_value(text: str, path: KeyPath, value: Value) -> str:
    """Add an element to the array at `path`, in the style of the array, or begin one."""
    present = _get(_parse(text), path)
    if present is None:
        return set_value(text, path, [value])
    if not isinstance(present, list):
        raise EditError(f"{_shown(path)} is not an array (repair it first)")
    return _edit(
        text, lambda document: _get(document, path).append(value), lambda plain, where: _add(plain, where, path, value)
    )


def render(value: Value) -> str:
    """A value in TOML 1.0, on one line."""
    return toml_item(value).as_string()


def render_document(pairs: Mapping[str, Value], tables: Mapping[str, Mapping[str, Value]]) -> str:
    """A new file: pairs first, then each table that is not empty."""
    document = tomlkit.document()
    for name, value in pairs.items():
        document.add(name, toml_item(value))
    for name, content in tables.items():
        if content:
            table = tomlkit.table()
            for key, value in content.items():
                table.add(key, toml_item(value))
            document.add(name, table)
    return tomlkit.dumps(document)


def fill_template(text: str, values: Mapping[tuple[str, ...], Value]) -> str:
    """A new file from a template, itself TOML, with other values at these paths. Tables in arrays stand one a line."""
    document = tomlkit.parse(text)
    for path, value in values.items():
        table: Any = document
        for step in path[:-1]:
            table = table[step]
        item = toml_item(value)
        if isinstance(item, Array) and item and isinstance(value, list) and isinstance(value[0], dict):
            item.multiline(True)
        table[path[-1]] = item
    return tomlkit.dumps(document)


def toml_item(value: Value) -> Item:
    """A value for a new document; tables in it stand on one line, with a space inside their braces."""
    match value:
        case datetime.datetime():
            return tomlkit.datetime(value.isoformat().replace("+00:00", "Z"))
        case list():
            array = tomlkit.array()
            for item in value:
                array.append(toml_item(item))
            return array
        case dict():
            table = tomlkit.inline_table()
            items = {name: toml_item(item) for name, item in value.items()}
            for name, item in items.items():
                table.append(name, item)
            if items:
                first, *_ = items.values()
                *_, last = items.values()
                first.trivia.indent, last.trivia.trail = " ", " "
            return table
    return tomlkit.item(value)


# --- from splices to text -------------------------------------------------------------------------------------------


def _edit(text: str, change: Any, splice: Any) -> str:
    document = _parse(text)
    plain = text.replace("\r\n", "\n")
    spliced = _apply(text, splice(plain, index(plain)))
    expected = copy.deepcopy(document)
    change(expected)
    return _checked(spliced, expected)


def _apply(text: str, splice: _Edit) -> str:
    """Offsets count without the CR of CRLF, as toml_positions.py wants; here they are found in the text as it is."""
    ends = [match.start() for match in re.finditer("\r\n", text)]
    plain_ends = [at - number for number, at in enumerate(ends)]  # the offset of each such LF in the plain text

    def original(offset: int) -> int:
        return offset + bisect.bisect_left(plain_ends, offset)

    new = splice.text.replace("\n", "\r\n") if ends else splice.text
    return text[: original(splice.start)] + new + text[original(splice.end) :]


def _checked(text: str, expected: dict[str, Any]) -> str:
    try:
        if _parse(text) == expected:
            return text
    except EditError:
        pass
    raise EditError("the file is written in a way that cannot be edited here without changing more (edit it by hand)")


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise EditError(f"not TOML: {error}") from None


# --- the same change on the parsed document -------------------------------------------------------------------------


def _get(document: Any, path: KeyPath) -> Any:
    """What is at `path`, or None."""
    for step in path:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _set(document: Any, path: KeyPath, value: Value) -> None:
    try:
        for step in path[:-1]:
            document = document.setdefault(step, {}) if isinstance(document, dict) else document[step]
        document[path[-1]] = value
    except (TypeError, IndexError):
        raise EditError(f"{_shown(path)} does not fit the file: a value stands where a table belongs") from None


def _delete(document: Any, path: KeyPath) -> None:
    del _get(document, path[:-1])[path[-1]]


# --- where to cut ---------------------------------------------------------------------------------------------------


def _place(plain: str, path: KeyPath, value: Value) -> _Edit:
    places, sections = index(plain), _sections(plain)
    if path in places:
        if any(section.path[: len(path)] == path for section in sections if section.path):
            raise EditError(f"{_shown(path)} is a table with a header (edit it by hand)")
        place = places[path]
        return _Edit(place.start, place.end, _like(plain[place.start : place.end], value))
    name, parent = str(path[-1]), path[:-1]
    for section in sections:
        if section.path == parent:
            return _behind_last_pair(plain, places, section, f"{_key(name)} = {render(value)}\n")
    if parent in places:
        return _into_table(plain, places, sections, path, value)
    if not any(isinstance(step, int) for step in parent) and not _is_inside_value(places, sections, parent):
        gap = "" if not plain.strip() else "\n" if plain.endswith("\n") else "\n\n"
        header = ".".join(_key(str(step)) for step in parent)
        return _Edit(len(plain), len(plain), f"{gap}[{header}]\n{_key(name)} = {render(value)}\n")
    return _place(plain, parent, {name: value})


def _into_table(
    plain: str, places: dict[KeyPath, Position], sections: list[_Section], path: KeyPath, value: Value
) -> _Edit:
    """A key into a table without a header of its own: an inline one, or one that dotted keys made."""
    place, name = places[path[:-1]], _key(str(path[-1]))
    if plain[place.start] == "{" and not _is_dotted(places, path[:-1]):
        inner = plain[place.start + 1 : place.end - 1]
        if not inner.strip():
            return _Edit(place.start, place.end, f"{{ {name} = {render(value)} }}")
        at = place.start + 1 + len(inner.rstrip())
        return _Edit(at, at, f", {name} = {render(value)}")
    if any(section.path[: len(path) - 1] == path[:-1] for section in sections):  # [a.b] alone has made "a"
        header = ".".join(_key(str(step)) for step in path[:-1])
        gap = "\n" if plain.endswith("\n") else "\n\n"
        return _Edit(len(plain), len(plain), f"{gap}[{header}]\n{name} = {render(value)}\n")
    line = plain.rfind("\n", 0, place.key_start) + 1
    prefix = plain[line : place.key_end]
    return _Edit(line, line, f"{prefix}.{name} = {render(value)}\n")


def _is_dotted(places: dict[KeyPath, Position], path: KeyPath) -> bool:
    """Whether the table at `path` is the left part of `a.b = ...`: its value starts where that of a key of it does."""
    start, depth = places[path].start, len(path)
    return any(other[:depth] == path and len(other) > depth and at.start == start for other, at in places.items())


def _is_inside_value(places: dict[KeyPath, Position], sections: list[_Section], path: KeyPath) -> bool:
    """Whether an ancestor of `path` is written as a value, so that a header for `path` would define it twice."""
    headed = {section.path[:size] for section in sections for size in range(1, len(section.path) + 1)}
    return any(path[:size] in places and path[:size] not in headed for size in range(1, len(path)))


def _behind_last_pair(plain: str, places: dict[KeyPath, Position], section: _Section, line: str) -> _Edit:
    ends = [place.end for place in places.values() if section.body <= place.key_start and place.end <= section.end]
    if ends:
        at = _line_end(plain, max(ends))
    elif section.path:
        at = section.body
    else:  # the document begins with a header or has nothing but comments
        at = _above_comments(plain, section.end)
        line = line if at == len(plain) else line + "\n"
    return _Edit(at, at, line if at == 0 or plain[at - 1] == "\n" else f"\n{line}")


def _cut(plain: str, places: dict[KeyPath, Position], path: KeyPath) -> _Edit:
    sections = _sections(plain)
    headed = [section for section in sections if section.path and section.path[: len(path)] == path]
    if headed:
        end = _above_comments(plain, headed[-1].end)
        start = headed[0].start
        return _Edit(start, max(end, _section_content_end(plain, places, headed[-1])), "")
    if path not in places:
        raise EditError(f"there is no {_shown(path)}")
    place = places[path]
    around = [other for other in places.values() if other.start < place.key_start and place.end < other.end]
    if around:
        return _cut_item(plain, place)
    return _Edit(plain.rfind("\n", 0, place.key_start) + 1, _line_end(plain, place.end), "")


def _cut_item(plain: str, place: Position) -> _Edit:
    """An item of an inline array or table, with one comma."""
    behind = re.compile(r"\s*,[ \t]*").match(plain, place.end)
    if behind:
        return _Edit(place.key_start, behind.end(), "")
    before = re.compile(r"(,?)(\s*)\Z").search(plain, 0, place.key_start)
    start = before.start() if before and before[1] else place.key_start
    return _Edit(start, place.end, "")


def _add(plain: str, places: dict[KeyPath, Position], path: KeyPath, value: Value) -> _Edit:
    own = [section for section in _sections(plain) if section.path[: len(path)] == path and section.path]
    if own and isinstance(value, dict):
        pairs = "".join(f"{_key(name)} = {render(item)}\n" for name, item in value.items())
        header = ".".join(_key(str(step)) for step in path)
        at = _section_content_end(plain, places, own[-1])
        gap = "\n" if at and plain[at - 1] == "\n" else "\n\n"
        return _Edit(at, at, f"{gap}[[{header}]]\n{pairs}")
    place = places[path]
    items = [other for other_path, other in places.items() if other_path[:-1] == path and len(other_path) > len(path)]
    if not items:
        return _Edit(place.start, place.end, f"[{render(value)}]")
    last = max(items, key=lambda item: item.end)
    line = plain.rfind("\n", 0, last.start) + 1
    indent = plain[line : last.start]
    gap = f"\n{indent}" if "\n" in plain[place.start : last.start] and not indent.strip() else " "
    comma = re.compile(r"[ \t]*,").match(plain, last.end)
    if comma is None:
        return _Edit(last.end, last.end, f",{gap}{render(value)}")
    # A comma stands behind the last item: so it does behind the new one, and a comment there stays with its item.
    at = _line_end(plain, comma.end()) - 1 if gap != " " else comma.end()
    return _Edit(at, at, f"{gap}{render(value)},")


def _sections(plain: str) -> list[_Section]:
    """The root and every header, in order."""
    spans = sorted((place.start, place.end) for place in index(plain).values() if place.key_start != place.start)
    found: list[tuple[KeyPath, int, int, bool]] = [((), 0, 0, False)]
    counts: dict[KeyPath, int] = {}
    inside = 0
    number = 0
    for line in re.finditer(r"[^\n]*\n?", plain):
        while number < len(spans) and spans[number][0] < line.start():
            inside = max(inside, spans[number][1])
            number += 1
        if line[0].lstrip(" \t").startswith("[") and inside <= line.start():
            is_array = line[0].lstrip(" \t").startswith("[[")
            found.append((_header_path(line[0], is_array, counts), line.start(), line.end(), is_array))
    ends = [start for _, start, _, _ in found[1:]] + [len(plain)]
    return [
        _Section(path, start, body, end, is_array)
        for (path, start, body, is_array), end in zip(found, ends, strict=True)
    ]


def _header_path(line: str, is_array: bool, counts: dict[KeyPath, int]) -> KeyPath:
    node: Any = tomllib.loads(line)
    names: list[str] = []
    while isinstance(node, dict) and node:
        ((name, node),) = node.items()
        names.append(name)
    path: KeyPath = ()
    for position, name in enumerate(names, 1):
        path = (*path, name)
        if position == len(names) and is_array:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _section_content_end(plain: str, places: dict[KeyPath, Position], section: _Section) -> int:
    """Behind the line of the section's last pair (or its header)."""
    ends = [place.end for place in places.values() if section.body <= place.key_start and place.end <= section.end]
    return _line_end(plain, max(ends)) if ends else section.body


def _above_comments(plain: str, at: int) -> int:
    """The start of the block of comment lines directly above the line that starts at `at`."""
    while at > 0:
        line = plain.rfind("\n", 0, at - 1) + 1
        if not plain[line:at].lstrip(" \t").startswith("#"):
            break
        at = line
    return at if at < len(plain) and plain[at:].strip() and not _only_comments(plain) else len(plain)


def _only_comments(plain: str) -> bool:
    return all(not line.strip() or line.lstrip().startswith("#") for line in plain.split("\n"))


def _line_end(plain: str, at: int) -> int:
    """Behind the line break of the line that `at` is in."""
    end = plain.find("\n", at)
    return len(plain) if end < 0 else end + 1


def _like(old: str, value: Value) -> str:
    """The value, in the quotes of the old one when they can hold it."""
    if isinstance(value, str) and re.fullmatch(r"'[^'\n]*'", old) and re.fullmatch(r"[^'\x00-\x1f\x7f]*", value):
        return f"'{value}'"
    return render(value)


def _key(name: str) -> str:
    return tomlkit.key(name).as_string()


def _shown(path: Iterable[str | int]) -> str:
    return ".".join(str(step) for step in path)
