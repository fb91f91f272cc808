"""Reasons in the language of a page: the catalogue and the code say the same sentences, and each row does its work."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import relayd
from relayd.daemon.admin.pages.language import DEFAULT, LANGUAGES
from relayd.daemon.admin.pages.reasons import LONGEST, Piece, known_sentences, teller, told

NOW, DAY = 1796040000.0, "2026-11-30"
ROOT = Path(relayd.__file__).parent
MESSAGES = ROOT / "daemon" / "admin" / "pages" / "messages"
OTHERS = sorted(set(LANGUAGES) - {DEFAULT})
HOLE = "\0"
PLACE = re.compile(r"\{(\w+)(?::(\w+))?\}")
SAMPLES = {
    "": "the tree has errors",
    "list": "the tree has errors; already tried",
    "text": "one, two",
    "foreign": "someone else's words",
    "word": "w-1",
    "number": "401",
    "time": "2026-11-30T12:00:00Z",
}
# Modules that have no sentence which pages do not show: what is added there is wanted in the catalogue.
WHOLLY = (
    "core/ailments.py",
    "core/balancing/eligibility.py",
    "core/balancing/candidates.py",
    "config/guard.py",
    "daemon/store/dead_letters.py",
    "daemon/workers/pace.py",
)


def sentences(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every text of a module, with HOLE for what stands in braces; no docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    passed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed.update(id(part) for part in node.values)
            yield (
                node,
                "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            yield node, node.value


def catalogue(language: str) -> dict[str, str]:
    text = (MESSAGES / f"reasons.{language}.toml").read_text("utf-8")
    return {english: theirs for area in tomllib.loads(text).values() for english, theirs in area.items()}


def text_of(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.fixture(scope="module")
def spoken() -> set[str]:
    """What the code says between its values: whole texts, and what stands around braces."""
    rooms = [ROOT / "core", ROOT / "config", ROOT / "daemon"]  # the others say nothing that pages show
    texts = (text for room in rooms for path in room.rglob("*.py") for _, text in sentences(path))
    return {part for text in texts for part in re.split(rf"{HOLE}|\{{\}}", text)}


def is_said(part: str, spoken: set[str]) -> bool:
    """Whether a part of a sentence is made of such parts, one after the other. Bits of words do not count."""
    if part in spoken:
        return True
    ends = {0}
    for end in range(1, len(part) + 1):
        if any(part[start:end] in spoken and counts(part[start:end]) for start in ends):
            ends.add(end)
    return len(part) in ends


def counts(part: str) -> bool:
    return sum(char.isalpha() for char in part) != 1


@pytest.mark.parametrize("language", OTHERS)
def test_the_code_says_every_sentence_of_the_catalogue(language: str, spoken: set[str]) -> None:
    for english in catalogue(language):
        for part in PLACE.split(english)[0::3]:
            assert is_said(part, spoken), (english, part)


def test_a_sentence_that_the_code_no_longer_says_is_found(spoken: set[str]) -> None:
    assert is_said("the state store is down: ", spoken)
    assert not is_said("the state store is quite gone: ", spoken)
    assert not is_said("the state store is downed: ", spoken)


def wanted_sentences() -> Iterator[tuple[str, str]]:
    for name in WHOLLY:
        for _, text in sentences(ROOT / name):
            yield name, text
    for path in sorted((ROOT / "daemon" / "admin" / "pages").glob("*.py")):
        yield from ((path.name, text) for text in refusals(path))


def refusals(path: Path) -> Iterator[str]:
    """The messages of the refusals of a module of pages."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        message: ast.AST | None = None
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal":
            message = next((one.value for one in node.keywords if one.arg == "message"), None)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "message":
            message = node.value
        if isinstance(message, ast.Constant):
            yield str(message.value)
        elif isinstance(message, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in message.values)


@pytest.mark.parametrize("language", OTHERS)
def test_every_sentence_that_pages_show_is_in_the_catalogue(language: str) -> None:
    known = "\n".join(PLACE.sub(HOLE, english) for english in catalogue(language))
    for place, text in wanted_sentences():
        for part in text.split(HOLE):
            if " " in part.strip() and len(re.findall(r"[A-Za-z]{2,}", part)) > 1:
                assert part in known, (place, text)


@pytest.mark.parametrize("language", OTHERS)
def test_each_row_is_reached_and_puts_the_values_where_they_belong(language: str) -> None:
    for english, theirs in catalogue(language).items():
        kinds = {name: kind or "" for name, kind in PLACE.findall(english)}
        said = PLACE.sub(lambda place: SAMPLES[place[2] or ""], english)
        values = {name: text_of(teller(language, NOW)(SAMPLES[kind])) for name, kind in kinds.items() if not kind}
        values |= {name: SAMPLES[kind] for name, kind in kinds.items() if kind not in ("", "list", "time")}
        values |= {name: "2026-11-30 12:00:00 UTC" for name, kind in kinds.items() if kind == "time"}
        parts = [text_of(told(language, one, DAY)) for one in SAMPLES["list"].split("; ")]
        values |= {name: "; ".join(parts) for name, kind in kinds.items() if kind == "list"}
        assert text_of(told(language, said, DAY)) == theirs.format(**values), english
        foreign = [piece.text for piece in told(language, said, DAY) if piece.foreign]
        assert foreign == [SAMPLES["foreign"]] * list(kinds.values()).count("foreign"), english


def test_english_stays_as_it_is_and_its_times_are_points_in_time() -> None:
    said = "cooling down until 12:03:10, 429 from upstream"
    assert teller("en", NOW)(said) == (
        Piece("cooling down until "),
        Piece("12:03:10 UTC", at="2026-11-30T12:03:10Z"),
        Piece(", 429 from upstream"),
    )
    assert teller("en", NOW)("not ::12:03:10 and no 12:03:10.5b") == (Piece("not ::12:03:10 and no 12:03:10.5b"),)


@pytest.mark.parametrize("time", ["2026-12-01 06:00:00", "2026-12-01T06:00:00Z", "2026-12-01T06:00:00+00:00"])
def test_a_time_is_one_that_a_browser_can_tell(time: str) -> None:
    assert [one.at for one in told("ko", f"Rate limit exceeded: daily tokens 5. Try again at {time}.", DAY)] == [
        "",
        "2026-12-01T06:00:00Z",
        "",
    ]


def test_what_others_said_stays_english_and_is_marked() -> None:
    pieces = told(
        "ko", "account a cannot serve: cooling down until 12:03:10, Your credit balance is too low (400)", DAY
    )
    assert [piece.text for piece in pieces if piece.foreign] == ["Your credit balance is too low"]
    assert pieces[0].text.startswith("계정 a: ")
    assert told("ko", "a text that nobody knows", DAY) == (Piece("a text that nobody knows", foreign=True),)
    assert told("ko", "", DAY) == ()


def test_reasons_are_told_inside_reasons() -> None:
    said = (
        "group team: none of its accounts can serve, the first is back at 12:03:10"
        " (a: cooling down until 12:03:10, 529 from upstream; b: cannot be used on this node; and 7 more)"
    )
    text = text_of(told("ko", said, DAY))
    assert not re.search(r"cooling|cannot|more|upstream", text), text
    assert text.count("12:03:10 UTC") == 2


def test_what_stands_in_brackets_is_one_reason() -> None:
    why = "nothing-here: no such file or directory (/etc/relayd; see RELAYD_CREDENTIALS)"
    pieces = told("ko", f"group team: none of its accounts can serve (a: {why}; b: already tried)", DAY)
    assert not any(one.foreign for one in pieces), pieces


def test_a_long_text_is_left_alone() -> None:
    assert told("ko", "x" * (LONGEST + 1), DAY) == (Piece("x" * (LONGEST + 1), foreign=True),)


def test_every_other_language_has_reasons() -> None:
    assert all(len(known_sentences(language)) > 100 for language in OTHERS)
