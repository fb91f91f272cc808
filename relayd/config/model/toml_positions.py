"""TOML positions: where each key and value of a document is.

Rule: the document was accepted by tomllib, so this walks over it lexically and checks nothing. It is only called when a
problem is reported: a healthy tree never pays for it.

Theory: a path is the keys from the root, with the index for an element of an array: ("admin", "users", 0, "name").
TOML mentions a table in many ways ([a.b], [[a.b]], a.b.c = 1, a = { b = ... }); the place of a table is where it is
first named, or its own header when it has one.
"""

from __future__ import annotations

import re
import tomllib
from typing import NamedTuple

from relayd.config.snapshot import KeyPath

# Nothing in the schema is nested deeper than 6. What lies deeper has the place of its 64th ancestor, which bounds the
# cost of hostile documents.
MAX_DEPTH = 64


class Position(NamedTuple):
    """Offsets into the text, ends exclusive. For an array's element and a table's header, key and value coincide."""

    key_start: int
    key_end: int
    start: int
    end: int


class _TooDeep(Exception):
    """The rest of the document is not indexed."""


def index(text: str) -> dict[KeyPath, Position]:
    """The place of each path of the document; `text` has LF line ends."""
    walk = _Parser(text)
    try:
        walk.document()
    except _TooDeep:
        pass
    return walk.places


def lookup(places: dict[KeyPath, Position], path: KeyPath) -> Position | None:
    """The place of `path`, or of its nearest ancestor that has one; None for the document as a whole."""
    while path:
        if path in places:
            return places[path]
        path = path[:-1]
    return None


_TRIVIA = re.compile(r"(?:[ \t\n]+|#[^\n]*)*+")
_BLANK = re.compile(r"[ \t]*+")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_LITERAL = re.compile(r"'[^']*+'")
# A multi-line string may end in up to two quotes of its own, directly before the three that close it.
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'{1,2}(?!'))*+'{3,5}")
_PLAIN = re.compile(r"[^,\]}#\n]+")


class _Parser:
    """One pass over a document."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.places: dict[KeyPath, Position] = {}
        self.elements: dict[KeyPath, int] = {}  # arrays of tables: the index of the last element

    def document(self) -> None:
        base: KeyPath = ()
        while True:
            self._skip(_TRIVIA)
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                base = self._header()
            else:
                self._pair(base)

    def _header(self) -> KeyPath:
        """`[a.b]` or `[[a.b]]`: the path under which the following pairs stand."""
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        segments = self._key()
        self.at += brackets
        path: KeyPath = ()
        for number, (name, start, end) in enumerate(segments, 1):
            path = (*path, name)
            place = Position(start, end, start, end)
            if number == len(segments) and brackets == 1:
                self._put(path, place)  # a table's own header is a better place than that of a child
            self.places.setdefault(path, place)
            if number == len(segments) and brackets == 2:
                self.elements[path] = self.elements.get(path, -1) + 1
            if path in self.elements:
                path = (*path, self.elements[path])
                self.places.setdefault(path, place)
        return path

    def _key(self) -> list[tuple[str, int, int]]:
        """A dotted key: each segment with its offsets. Ends behind the white space that follows."""
        segments = []
        while True:
            self._skip(_BLANK)
            start = self.at
            segments.append((self._segment(), start, self.at))
            self._skip(_BLANK)
            if self.at >= len(self.text) or self.text[self.at] != ".":
                return segments
            self.at += 1

    def _segment(self) -> str:
        token = self._take({'"': _BASIC, "'": _LITERAL}.get(self.text[self.at], _BARE))
        if token[0] == '"' and "\\" in token:
            return str(tomllib.loads(f"{token} = 0").popitem()[0])
        return token[1:-1] if token[0] in "\"'" else token

    def _pair(self, base: KeyPath) -> None:
        segments = self._key()
        self.at += 1  # the equals sign
        self._skip(_BLANK)
        path, start = base, self.at
        inner = []
        for name, key_start, key_end in segments:
            path = (*path, name)
            inner.append((path, key_start, key_end))
            if len(path) > MAX_DEPTH:
                raise _TooDeep
        self._value(path)
        for table, key_start, key_end in inner:
            self.places.setdefault(table, Position(key_start, key_end, start, self.at))

    def _value(self, path: KeyPath) -> None:
        """Skip a value; ends behind it."""
        if len(path) > MAX_DEPTH:
            raise _TooDeep
        match self.text[self.at]:
            case '"':
                self._take(_LONG_BASIC if self.text.startswith('"""', self.at) else _BASIC)
            case "'":
                self._take(_LONG_LITERAL if self.text.startswith("'''", self.at) else _LITERAL)
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                token = self._take(_PLAIN)
                self.at -= len(token) - len(token.rstrip())

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        number = 0
        while self._next("]"):
            start = self.at
            element = (*path, number)
            self._value(element)
            self._put(element, Position(start, self.at, start, self.at))
            number += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while self._next("}"):
            self._pair(path)

    def _next(self, closing: str) -> bool:
        """Whether an element follows in an array or inline table; if not, it ends behind it."""
        self._skip(_TRIVIA)
        if self.text[self.at] == ",":
            self.at += 1
            self._skip(_TRIVIA)
        if self.text[self.at] != closing:
            return True
        self.at += 1
        return False

    def _put(self, path: KeyPath, place: Position) -> None:
        if len(path) > MAX_DEPTH:
            raise _TooDeep
        self.places[path] = place

    def _skip(self, token: re.Pattern[str]) -> None:
        match = token.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _take(self, token: re.Pattern[str]) -> str:
        match = token.match(self.text, self.at)
        if match is None:  # cannot happen to a document that tomllib accepted; ends the index rather than the caller
            raise _TooDeep
        self.at = match.end()
        return match[0]
