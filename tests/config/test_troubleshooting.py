"""docs/troubleshooting.md quotes what relayd says: each text on its left side is found in the product.

A quote is an example: its names and numbers are made up, the words between them are those of texts in the source. What
`check` says is produced.
"""

from __future__ import annotations

import ast
import errno
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.config.compile import compile_tree
from relayd.wire.openai import shapes
from relayd.wire.refusal import KIND_BY_STATUS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
KOREAN = (ROOT / "docs" / "troubleshooting.ko.md").read_text()
ROW = re.compile(r"^\| (``(?P<ticks>.+?) ?``|`(?P<tick>[^`]+)`) \|", re.MULTILINE)
LONGEST_AT_LEAST = 6  # characters: the longest run of fixed words in a text that is looked for
LONG = 12  # characters of a text that count also where the rest of it is not quoted
WORDS = 0.55  # of a quote that have to be the product's; the rest is made up


def quotes(page: str) -> list[str]:
    """What the tables under "text" quote, in order."""
    tables = re.findall(r"^\| (?:text|메시지) \|.*?\n\n", page + "\n\n", re.MULTILINE | re.DOTALL)
    return [found["ticks"] or found["tick"] for table in tables for found in ROW.finditer(table)]


def pieces_of(node: ast.expr) -> Iterator[str]:
    """The fixed words of a string or f-string, in order."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            for part in parts:
                yield from pieces_of(part)
        case _:
            return


@functools.cache
def texts() -> tuple[tuple[str, ...], ...]:
    """All texts of relayd as the fixed words between their holes; and the system's own, which relayd quotes."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "relayd").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr)]
    system = {(os.strerror(number).lower(),) for number in errno.errorcode}
    found = {tuple(piece for piece in pieces_of(node) if piece) for node in nodes} | system
    return tuple(one for one in found if max(map(len, one), default=0) >= LONGEST_AT_LEAST)


def spans(quote: str, pieces: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Where the words of a text stand in a quote: all of them, in their order, or else those that are long."""
    at, found = 0, []
    for piece in pieces:
        place = quote.find(piece, at)
        if place < 0:
            found = []
            break
        at = place + len(piece)
        found.append((place, at))
    yield from found
    yield from (
        (quote.index(piece), quote.index(piece) + len(piece))
        for piece in pieces
        if len(piece) >= LONG and piece in quote
    )


def share(quote: str) -> float:
    """How much of a quote is made of the product's words."""
    covered = {place for pieces in texts() for begin, end in spans(quote, pieces) for place in range(begin, end)}
    return len(covered) / len(quote)


@pytest.mark.parametrize("quote", quotes(PAGE))
def test_a_quoted_text_is_made_of_words_of_the_product(quote: str) -> None:
    assert share(quote) >= WORDS, f"{share(quote):.0%}"


def test_words_of_nobody_are_told_apart() -> None:
    assert share("the flux capacitor of account main is worn out, so nothing will be relayed today") < WORDS


MINIMAL = 'schema = 1\nrealm = "example"\n'
KEY = f'hashes = [{{ sha256 = "{"5f" * 32}" }}]\n'
WRONG = {
    "E-NO-RELAY-TOML": {"keys.d/x.toml": KEY},
    "E-UNKNOWN-KEY": {"relay.toml": MINIMAL, "keys.d/x.toml": f"limit = 3\n{KEY}"},
    "E-MISSING-KEY": {"relay.toml": MINIMAL, "keys.d/x.toml": 'owner = "dev"\n'},
    "E-TIME": {"relay.toml": MINIMAL, "keys.d/x.toml": f'{KEY}expires = "2027-01-01"\n'},
    "E-MONEY": {"relay.toml": MINIMAL, "keys.d/x.toml": f"{KEY}[limits]\ndaily_cost = 5\n"},
    "E-MERGE-MARKER": {"relay.toml": f"{MINIMAL}<<<<<<< HEAD\n"},
    "E-PLAINTEXT-SECRET": {
        "relay.toml": MINIMAL,
        "accounts.d/main.toml": 'kind = "api-key"\n[credential]\nsealed = "sk-ant-api03-abcdefghijklmnop"\n',
    },
}


def test_every_code_that_is_quoted_is_produced_here() -> None:
    assert set(WRONG) == {code for quote in quotes(PAGE) for code in re.findall(r"error\[([A-Z-]+)\]", quote)}


@pytest.mark.parametrize("code", WRONG)
def test_check_says_what_the_page_quotes(code: str) -> None:
    (quote,) = [quote for quote in quotes(PAGE) if f"[{code}]" in quote]
    said = [
        str(problem) for problem in compile_tree({path: text.encode() for path, text in WRONG[code].items()}).problems
    ]
    assert any(quote in line for line in said), said


def test_the_statuses_are_those_of_both_dialects() -> None:
    table = PAGE.split("<!-- begin statuses -->\n")[1].split("<!-- end")[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| `(\w+)` \| `?(\w*)`? \|$", table, re.MULTILINE)
    expected = [
        (str(status), KIND_BY_STATUS[status], shapes.error_kind(status), shapes.error_code(status) or "")
        for status in (400, 401, 403, 404, 405, 408, 413, 429, 500, 502, 503, 504, 529)
    ]
    assert rows == expected


def test_both_languages_quote_the_same() -> None:
    assert quotes(KOREAN) == quotes(PAGE)
    assert re.findall(r"begin statuses.*end statuses", KOREAN, re.DOTALL)
