"""Reasons: what the relay says of itself, in the language of the page.

Rule: a reason is an English sentence everywhere else: in the API, the log, status and on the command line, which people
search for and scripts compare. Only a page for people says it in another language, and what is not known stays English
and is marked as such (lang="en"), so that a screen reader reads it as what it is.

Theory: reasons reach the pages as text. They lie in the books and in Redis, and come from other nodes, from workers and
from earlier versions, with upstreams' words inside; so the sentence itself is the code. A row of the catalogue is that
sentence with its places, as in gettext, and is used backwards: it finds the values in the text, which may be reasons
again. tests/daemon/admin/test_reasons.py holds the rows to the sentences in the code, and those of the core to rows.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import resources

from relayd.daemon.admin.pages.language import DEFAULT
from relayd.noun import noun

LONGEST = 2000  # characters; longer than any sentence of ours, so it is left as it is
_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?|\d\d:\d\d:\d\d"
# What a place may hold. "" is a reason of its own, "list" several with "; " between them, "text" is passed on, and
# "foreign" is what somebody else said (an upstream, the operating system): never told in another language.
KINDS = {
    "": r".+?",
    "list": r".+?",
    "text": r".+?",
    "foreign": r".+?",
    "word": r"\S*[^\s:]",
    "number": r"[\d.,]+",
    "time": _TIME,
}
_BETWEEN = re.compile(r"; (?![^(]*\))")  # not within brackets
_TIMES = re.compile(rf"(?<![\w:.])({_TIME})(?![\w:]|\.\w)")
_PLACE = re.compile(r"\{(\w+)(?::(\w+))?\}")


@noun
class Piece:
    """A part of a sentence.

    Args:
        foreign: it is English on a page that is not.
        at: the point in time that it tells, RFC 3339, for the browser to tell in the viewer's zone; "" for others.
    """

    text: str
    foreign: bool = False
    at: str = ""


@noun
class KnownSentence:
    """A row of a catalogue.

    Args:
        english: its sentence, with places.
        theirs: the same in the other language: texts, and names of places by turns.
        kinds: of the places, by name.
        sure: the longest text that every such sentence has.
    """

    english: re.Pattern[str]
    theirs: tuple[str, ...]
    kinds: dict[str, str]
    sure: str


@cache
def known_sentences(language: str) -> tuple[KnownSentence, ...]:
    """The catalogue of a language, in the order in which its rows are tried."""
    text = (resources.files(__package__) / "messages" / f"reasons.{language}.toml").read_text("utf-8")
    return tuple(_sentence(*pair) for area in tomllib.loads(text).values() for pair in area.items())


def _sentence(english: str, theirs: str) -> KnownSentence:
    """Raises: KeyError for a place of an unknown kind, or one that the English has not."""
    parts = _PLACE.split(english)
    kinds = dict(zip(parts[1::3], (kind or "" for kind in parts[2::3]), strict=True))
    places = [f"(?P<{name}>{KINDS[kind]})" for name, kind in kinds.items()]
    pattern = "".join(re.escape(text) + place for text, place in zip(parts[0::3], [*places, ""], strict=True))
    pieces = re.split(r"\{(\w+)\}", theirs)
    for name in pieces[1::2]:
        kinds[name]
    return KnownSentence(re.compile(pattern, re.DOTALL), tuple(pieces), kinds, max(parts[0::3], key=len))


def teller(language: str, now: float) -> Callable[[str], tuple[Piece, ...]]:
    """A function from a reason to its pieces in that language.

    Args:
        now: Unix time, s: on whose day, UTC, those times are that have none.
    """
    day = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d")
    return lambda reason: told(language, reason, day)


@lru_cache(maxsize=4096)
def told(language: str, reason: str, day: str) -> tuple[Piece, ...]:
    """A reason in a language, as far as its sentence is known."""
    pieces = _in_english(reason, day) if language == DEFAULT else _told(language, reason, day)
    return tuple(_joined(pieces))


def _in_english(reason: str, day: str) -> Iterator[Piece]:
    for number, part in enumerate(_TIMES.split(reason)):
        yield _moment(part, day) if number % 2 else Piece(part)


def _told(language: str, reason: str, day: str) -> Iterator[Piece]:
    for one in known_sentences(language) if len(reason) <= LONGEST else ():
        if one.sure in reason and (found := one.english.fullmatch(reason)) is not None:
            for number, part in enumerate(one.theirs):
                if number % 2:
                    yield from _place(language, one.kinds[part], found[part], day)
                else:
                    yield Piece(part)
            return
    yield _foreign(reason)


def _place(language: str, kind: str, value: str, day: str) -> Iterator[Piece]:
    if kind == "":
        yield from told(language, value, day)
    elif kind == "list":
        for number, one in enumerate(_BETWEEN.split(value)):
            yield Piece("; " if number else "")
            yield from told(language, one, day)
    elif kind == "foreign":
        yield _foreign(value)
    elif kind == "time":
        yield _moment(value, day)
    else:
        yield Piece(value)


def _moment(text: str, day: str) -> Piece:
    """A time, as people are shown it who have no scripts, and exactly."""
    date, _, clock = text.rpartition("T" if "T" in text else " ")
    clock = clock.removesuffix("Z").removesuffix("+00:00")
    return Piece(f"{date} {clock} UTC".strip(), at=f"{date or day}T{clock}Z")


def _foreign(text: str) -> Piece:
    return Piece(text, any(char.isalpha() for char in text))


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """As few as possible."""
    last = Piece("")
    for one in pieces:
        if not one.text or (one.foreign == last.foreign and not one.at and not last.at):
            last = Piece(last.text + one.text, last.foreign, last.at)
        else:
            if last.text:
                yield last
            last = one
    if last.text:
        yield last
