from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.model.toml_positions import MAX_DEPTH, index, lookup

CORPUS = Path(__file__).parent.parent.parent / "corpus" / "config"


def paths(value: object, path: tuple = ()) -> Iterator[tuple]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def key_text(text: str, path: tuple) -> str:
    place = index(text)[path]
    return text[place.key_start : place.key_end]


def value_text(text: str, path: tuple) -> str:
    place = index(text)[path]
    return text[place.start : place.end]


SCALARS = st.one_of(
    st.text(max_size=8), st.integers(-(2**40), 2**40), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
)
NAMES = st.one_of(st.sampled_from("abc"), st.text(min_size=1, max_size=4))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_path_of_a_document_has_a_place_and_nothing_else_has_one(document: dict) -> None:
    text = tomlkit.dumps(document)

    assert set(index(text)) == set(paths(tomllib.loads(text)))


GOOD_FILES = [file for file in sorted(CORPUS.glob("*.good/**/[a-z]*.toml")) if file.parent.name != "scripts"]


@pytest.mark.parametrize("file", GOOD_FILES, ids=lambda file: str(file.relative_to(CORPUS)))
def test_the_corpus_is_indexed_whole(file: Path) -> None:
    text = file.read_bytes().decode().replace("\r\n", "\n")

    assert set(index(text)) == set(paths(tomllib.loads(text)))


def test_a_value_is_found_in_every_way_of_writing_tables() -> None:
    text = "a.b.c = 1\n[d]\ne = { f = [10, { g = 'x' }] }\n[[h.i]]\nj = 1\n[[h.i]]\nj = 2 # two\n[h.i.k]\nl = 3\n"

    assert value_text(text, ("a", "b", "c")) == "1"
    assert key_text(text, ("a", "b")) == "b"
    assert value_text(text, ("d", "e", "f", 0)) == "10"
    assert value_text(text, ("d", "e", "f", 1, "g")) == "'x'"
    assert value_text(text, ("h", "i", 1, "j")) == "2"
    assert value_text(text, ("h", "i", 1, "k", "l")) == "3"
    assert key_text(text, ("h", "i", 1)) == "i"


def test_strings_of_every_kind_end_where_they_end() -> None:
    text = (
        'a = "x \\" # ]"\n'
        "b = 'C:\\'\n"
        'c = """\none " two "" three \\""" four"""""\n'
        "d = '''\nit's '' fine'''''\n"
        '"quoted \\u0041.key" = 2026-11-22 10:00:00Z # a comment\n'
        "'literal key' = [ # comment ]\n  1, # one\n\n  2,\n]\n"
    )

    assert set(index(text)) == set(paths(tomllib.loads(text)))
    assert value_text(text, ("quoted A.key",)) == "2026-11-22 10:00:00Z"
    assert value_text(text, ("c",)).endswith('four"""""')
    assert value_text(text, ("literal key", 1)) == "2"


def test_a_tables_own_header_is_a_better_place_than_its_childs() -> None:
    text = "[a.b]\nc = 1\n[a]\nd = 2\n"

    assert index(text)["a",].start == text.index("a]\nd")


def test_a_path_without_a_place_has_that_of_its_nearest_ancestor() -> None:
    places = index("[a]\nb = 1\n")

    assert lookup(places, ("a", "missing", 3)) == places["a",]
    assert lookup(places, ("missing",)) is None


def test_a_document_nested_beyond_reason_is_indexed_as_far_as_it_makes_sense() -> None:
    deep = ".".join("a" for _ in range(2000)) + " = 1\nb = 2\n"

    assert all(len(path) <= MAX_DEPTH for path in index("b = 1\n" + deep))
    assert ("b",) in index("b = 1\n" + deep)
    assert index("x = " + "[" * 200 + "]" * 200) is not None
