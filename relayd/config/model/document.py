"""TOML document: one file of the tree: which kind it is, its text, its table, and the place of each of its keys.

Rule: bytes in, no file system. Whatever is wrong with a file as such (encoding, markers, syntax, a secret in clear) is
found here; what its keys mean is not known here. Positions are computed when the first problem asks for one.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
import tomllib
from typing import Any, Literal

import attrs

from relayd.config.model import toml_positions as positions
from relayd.config.problems.leaks import find_leaks, hide, redact, redact_line
from relayd.config.problems.problem import Problem, Related
from relayd.config.snapshot import KeyPath

FileKind = Literal["relay", "account", "key", "deny", "prices", "test", "stray", "ignored"]

# A hand-written file has a few kB; a tree of 10,000 keys in one file would have 2 MB and is better split.
MAX_FILE = 1 << 20

_SINGLE: dict[str, FileKind] = {"relay.toml": "relay", "deny.toml": "deny", "prices.toml": "prices"}
_MANY: dict[str, FileKind] = {"accounts.d": "account", "keys.d": "key", "tests.d": "test"}
_LFS_POINTER = "version https://git-lfs.github.com/spec/"  # how one begins; source: git-lfs, docs/spec.md
# What editors, patch, merge tools and interrupted copies leave behind: vim (swp, swo, swx, 4913), emacs (#x#, x~),
# patch and git (orig, rej), rsync and others (tmp, part).
_DROPPING = re.compile(r".*(?:~|\.(?:swp|swo|swx|tmp|part|orig|rej))|#.*#|4913")


@functools.lru_cache(maxsize=1 << 15)  # asked several times of each file of a tree
def classify(path: str) -> FileKind:
    """What a file is, by its POSIX path in the tree."""
    parts = path.split("/")
    if any(part.startswith(".") for part in parts) or _DROPPING.fullmatch(parts[-1]):
        return "ignored"
    if len(parts) == 1:
        return _SINGLE.get(path, "ignored")
    kind = _MANY.get(parts[0], "stray" if parts[0].endswith(".d") else "ignored")
    return kind if kind in ("stray", "ignored") or path.endswith(".toml") else "stray"


def object_id(path: str) -> str:
    """The id of an account or key: the stem of its file."""
    return path.rpartition("/")[2].removesuffix(".toml")


@attrs.define(eq=False)
class Document:
    """One file.

    Args:
        file: POSIX path in the tree.
        text: with LF line ends, without a byte order mark; "" when it could not be decoded.
        table: None when it is not TOML; empty once it was forgotten.
        omitted: problems that are beyond what is shown of any tree, and were only counted.
    """

    file: str
    text: str = attrs.field(repr=False)
    table: dict[str, Any] | None = attrs.field(default=None, repr=False)
    omitted: int = attrs.field(default=0, init=False)
    _starts: list[int] = attrs.field(factory=list, repr=False, init=False)  # of the lines
    _excerpt: tuple[int, str, str] = attrs.field(default=(0, "", ""), repr=False, init=False)
    _places: dict[KeyPath, positions.Position] | None = attrs.field(default=None, repr=False, init=False)

    def problem(
        self,
        code: str,
        path: KeyPath,
        message: str,
        *,
        hint: str = "",
        at: Literal["key", "value"] = "value",
        secret: bool = False,
        related: tuple[Related, ...] = (),
    ) -> Problem:
        """A problem with the key at `path`. `secret` keeps what is assigned there out of the excerpt."""
        place = positions.lookup(self._index(), path)
        if place is None:
            return self.whole(code, redact(message), hint=redact(hint), related=related)
        start, end = (place.key_start, place.key_end) if at == "key" else (place.start, place.end)
        problem = self.problem_at(code, start, end, message, hint=hint, related=related)
        if not secret:
            return problem
        keep = problem.end_column if at == "key" else problem.column
        return attrs.evolve(problem, excerpt=without_value(problem.excerpt, keep - 1))

    def problem_at(
        self,
        code: str,
        start: int,
        end: int,
        message: str,
        *,
        hint: str = "",
        related: tuple[Related, ...] = (),
    ) -> Problem:
        """A problem with the text from offset `start` to `end`."""
        line, column, source, excerpt = self._line(start)
        return Problem(
            code=code,
            file=self.file,
            line=line,
            column=column,
            end_column=max(column + 1, min(column + end - start, len(source) + 1)),
            message=redact(message),
            hint=redact(hint),
            related=related,
            excerpt=excerpt,
        )

    def whole(self, code: str, message: str, *, hint: str = "", related: tuple[Related, ...] = ()) -> Problem:
        """A problem with the file as a whole: it points at the first line, without an excerpt."""
        return Problem(
            code=code, file=self.file, line=1, column=1, end_column=2, message=message, hint=hint, related=related
        )

    def related(self, path: KeyPath, message: str) -> Related:
        """The place of `path`, for a problem elsewhere."""
        place = positions.lookup(self._index(), path)
        line, column, _, _ = self._line(place.start if place else 0)
        return Related(file=self.file, line=line, column=column, message=message)

    def forget_table(self) -> None:
        """Let go of the table, of which the noun says all: a tree of 10,000 files holds 50 MB of them."""
        self.table = None if self.table is None else {}

    def _index(self) -> dict[KeyPath, positions.Position]:
        if self._places is None:
            self._places = positions.index(self.text) if self.table is not None else {}
        return self._places

    def _line(self, offset: int) -> tuple[int, int, str, str]:
        """Line and column (from 1) of an offset, the line's text, and the same fit to be shown.

        What was found out about the text is remembered: a thousand problems on one long line cost what one does.
        """
        if not self._starts:
            self._starts = [0, *(match.end() for match in re.finditer("\n", self.text))]
        line = bisect.bisect_right(self._starts, offset)
        start = self._starts[line - 1]
        if self._excerpt[0] != line:
            source = self.text[start : self._starts[line] - 1 if line < len(self._starts) else len(self.text)]
            self._excerpt = line, source, _shown(source)
        return line, offset - start + 1, self._excerpt[1], self._excerpt[2]


def _shown(source: str) -> str:
    """A source line, fit to be shown, with each character in its column."""
    return "".join(char if char.isprintable() else " " for char in redact_line(source)).rstrip()


_HARMLESS = re.compile(r"\s*\]{1,2}\s*$|\s*=\s*")  # the end of a table's header, or the sign behind a key


def without_value(excerpt: str, keep: int) -> str:
    """The first `keep` characters of an excerpt with what harmless follows, and the rest hidden."""
    harmless = _HARMLESS.match(excerpt, keep)
    end = harmless.end() if harmless else keep
    return excerpt[:end] + hide(excerpt[end:])


def open_document(file: str, data: bytes) -> tuple[Document, list[Problem]]:
    """Decode and parse one file. It may have problems and a table at once (a byte order mark, a leak)."""
    empty = Document(file=file, text="")
    if len(data) > MAX_FILE:
        return empty, [empty.whole("E-TOO-LARGE", "the file is larger than 1 MiB")]
    if not data:
        return empty, [empty.whole("E-EMPTY-FILE", "the file is empty", hint="was it cut off while being saved?")]
    problems = []
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        problems.append(empty.whole("E-BOM", "the file begins with a byte order mark", hint="save the file without it"))
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        return empty, [*problems, _not_utf8(file, data, error)]
    document = Document(file=file, text=text)
    if text.startswith(_LFS_POINTER):
        hint = "take *.toml out of .gitattributes (git lfs untrack), or fetch the file (git lfs pull)"
        return document, [*problems, document.whole("E-LFS-POINTER", "this is a Git LFS pointer", hint=hint)]
    problems += _leaks(document)
    problems += _parse(document)
    return document, problems


def stray_problems(file: str, data: bytes) -> list[Problem]:
    """What to say of a file that is not part of the config. A secret in it is in git all the same."""
    document = Document(file=file, text=data[:MAX_FILE].decode("utf-8", "replace").replace("\r\n", "\n"))
    folder = file.split("/")[0]
    if folder not in _MANY:
        hint = f"relayd reads {', '.join(_MANY)}"
    elif file.lower().endswith(".toml"):
        hint = "the name must end in .toml, in lower case"
    else:
        hint = "only files that end in .toml are read"
    return [document.whole("W-STRAY-FILE", "the file is not part of the config", hint=hint), *_leaks(document)]


def _not_utf8(file: str, data: bytes, error: UnicodeDecodeError) -> Problem:
    """Points at the first byte that is not UTF-8."""
    before = data[: error.start].decode("utf-8")
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    column = len(before) - before.rfind("\n")
    return Problem(
        code="E-ENCODING",
        file=file,
        line=before.count("\n") + 1,
        column=column,
        end_column=column + 1,
        message=f"the byte 0x{data[error.start]:02x} is not UTF-8",
        hint="the file looks like UTF-16: save it as UTF-8" if wide else "save the file as UTF-8",
    )


MOST_LEAKS = 100  # of a file that get a problem each


def _leaks(document: Document) -> list[Problem]:
    leaks = find_leaks(document.text)
    found = [
        document.problem_at(
            leak.code,
            leak.start,
            leak.end,
            f"{leak.what} is written here in clear text",
            hint="treat it as leaked: replace it at its issuer, then seal the new one"
            if leak.code == "E-PLAINTEXT-SECRET"
            else "treat it as leaked: mint a new key; only its hash belongs here",
        )
        for leak in itertools.islice(leaks, MOST_LEAKS)
    ]
    document.omitted += sum(1 for _ in leaks)
    return found


_MERGE_MARKER = re.compile(r"^(?:<{7}|>{7}|\|{7})(?: .*)?$", re.MULTILINE)
_WHERE = re.compile(r"\(at (?:line (\d+), column (\d+)|end of document)\)$")
_PARTS = re.compile(r"\((?:'[^']*',? ?)+\)")  # of a key, as tomllib prints the tuple of them
# A dotted key of so many parts has no meaning in the schema, and costs tomllib its length squared.
_LONG_KEY = re.compile(r"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]+[ \t]*\.[ \t]*){64}")
_LONG_KEY_MATTERS = 8192  # characters; below, the square is small


def _parse(document: Document) -> list[Problem]:
    """Fill in the table, or say why there is none."""
    text = document.text
    if marker := _MERGE_MARKER.search(text):
        return [document.problem_at("E-MERGE-MARKER", *marker.span(), "an unresolved merge conflict", hint="")]
    if len(text) > _LONG_KEY_MATTERS and (chain := _LONG_KEY.search(text)):
        return [document.problem_at("E-SYNTAX", *chain.span(), "a dotted key with more than 64 parts")]
    try:
        document.table = tomllib.loads(text)
    except RecursionError:
        return [document.whole("E-SYNTAX", "arrays or inline tables are nested too deeply")]
    except ValueError as error:  # TOMLDecodeError; a bare ValueError for a number of thousands of digits
        return [_syntax_problem(document, str(error))]
    return []


def _syntax_problem(document: Document, said: str) -> Problem:
    """Turn tomllib's words into a problem with a place."""
    text = document.text
    where = _WHERE.search(said)
    message = _WHERE.sub("", said).strip()
    message = _PARTS.sub(lambda found: "`" + ".".join(re.findall("'([^']*)'", found[0])) + "`", message)
    message = message[:1].lower() + message[1:]
    if where is None:
        return document.whole("E-SYNTAX", redact(message[:200]))
    offset = _offset(text, int(where[1]), int(where[2])) if where[1] else len(text.rstrip())
    message += "" if where[1] else ", at the end of the file"
    newer = _toml_1_1(text, offset)
    if newer:
        return document.problem_at("E-TOML-1-1", offset, offset + 1, newer, hint="relayd reads TOML 1.0")
    hint = next((hint for word, hint in _SAID if word in message), "") or _syntax_hint(text, offset)
    problem = document.problem_at("E-SYNTAX", offset, offset + 1, message, hint=hint)
    # In the middle of a multi-line string a line may be part of a secret, whatever it looks like.
    if any(text.count(quotes, 0, offset) % 2 for quotes in ('"""', "'''")):
        return attrs.evolve(problem, excerpt="")
    return problem


# What some of tomllib's words mean to a person.
_SAID = (
    ("illegal character '\\n'", "the string is not closed"),
    ("cannot overwrite a value", "the key is already defined"),
    ("cannot declare", "the table is already defined"),
    ("duplicate inline table key", "the key is already defined"),
)


def _offset(text: str, line: int, column: int) -> int:
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
    return min(start + column - 1, len(text))


def _toml_1_1(text: str, offset: int) -> str:
    """Which syntax of TOML 1.1 is at `offset`; "" for none."""
    before, rest = text[:offset].rstrip(" \t"), text[offset : offset + 1]
    line = text[text.rfind("\n", 0, offset) + 1 : offset]
    in_table = line.count("{") > line.count("}")
    if in_table and before.endswith((",", "{")) and rest in ("\n", "}", "#"):
        return "a line break or trailing comma in an inline table"
    if in_table and rest in ("\n", "#"):
        return "a line break in an inline table"
    if re.search(r"\\[ex]", text[max(0, offset - 2) : offset + 2]):
        return "the escape \\e or \\x in a string"
    if re.search(r"[0-9]{2}:[0-9]{2}(?!:)", text[max(0, offset - 6) : offset + 6]):
        return "a time without seconds"
    return ""


def _syntax_hint(text: str, offset: int) -> str:
    start = text.rfind("\n", 0, offset) + 1
    line = text[start : text.find("\n", start) if "\n" in text[start:] else len(text)]
    if re.match(r"\s*[A-Za-z0-9_-]+\s*:", line):
        return "in TOML this is written key = value"
    if re.match(r"\s*[A-Za-z0-9_-]+\s*=\s*[A-Za-z/]", line) and not re.search(r"=\s*(?:true|false|inf|nan)", line):
        return "strings are written in quotes"
    return ""


@functools.cache
def folders() -> tuple[str, ...]:
    """The directories that are read."""
    return tuple(_MANY)


def top_files() -> tuple[str, ...]:
    """The files that are read at the top of the tree."""
    return tuple(_SINGLE)
