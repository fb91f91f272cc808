"""Splices change what they say and leave every other byte alone."""

from __future__ import annotations

import datetime
import tomllib
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.edit.toml_edit import EditError, append_value, remove_value, render, render_document, set_value

FILE = """\
# The development key.
name = 'Development key'   # shown in lists
owner = "dev-team"

# what it may use
groups = [
  "default",   # everybody
  "fast",
]
hashes = [{ sha256 = "aa", hint = "sk-relay-Ab" }]

# never more than this
[limits]
  concurrency = 10
rate = { requests = 100, window = "1m" }   # a burst is fine

# for the night
[[limits.windows]]
window = "5h"
tokens = 5
"""


def lines_changed(old: str, new: str) -> tuple[list[str], list[str]]:
    """The lines gone and the lines come, in the middle of what both texts share."""
    one, two = old.splitlines(keepends=True), new.splitlines(keepends=True)
    while one and two and one[0] == two[0]:
        one, two = one[1:], two[1:]
    while one and two and one[-1] == two[-1]:
        one, two = one[:-1], two[:-1]
    return one, two


@pytest.mark.parametrize(
    ("path", "value", "gone", "come"),
    [
        (("owner",), "ops", 'owner = "dev-team"\n', 'owner = "ops"\n'),
        (("name",), "Ops", "name = 'Development key'   # shown in lists\n", "name = 'Ops'   # shown in lists\n"),
        (("name",), "it's", "name = 'Development key'   # shown in lists\n", 'name = "it\'s"   # shown in lists\n'),
        (("groups", 1), "slow", '  "fast",\n', '  "slow",\n'),
        (("limits", "concurrency"), 3, "  concurrency = 10\n", "  concurrency = 3\n"),
        (("limits", "windows", 0, "tokens"), 9, "tokens = 5\n", "tokens = 9\n"),
        (("enabled",), False, "", "enabled = false\n"),
        (("limits", "daily_cost"), "1.50", "", 'daily_cost = "1.50"\n'),
        (("limits", "windows", 0, "cost"), "2", "", 'cost = "2"\n'),
    ],
)
def test_setting_a_value_changes_its_line_or_adds_one(path: Any, value: Any, gone: str, come: str) -> None:
    new = set_value(FILE, path, value)
    assert ["".join(part) for part in lines_changed(FILE, new)] == [gone, come]


def test_a_new_key_of_the_root_stands_before_the_first_table_and_its_comments() -> None:
    new = set_value(FILE, ("enabled",), False)
    assert 'hint = "sk-relay-Ab" }]\nenabled = false\n\n# never more than this\n[limits]' in new
    assert set_value("# c\n[a]\nx = 1\n", ("b",), 1) == "b = 1\n\n# c\n[a]\nx = 1\n"
    assert set_value("# head\n\n# c\n[a]\nx = 1\n", ("b",), 1) == "# head\n\nb = 1\n\n# c\n[a]\nx = 1\n"
    assert set_value("# only a comment\n", ("b",), 1) == "# only a comment\nb = 1\n"
    assert set_value("", ("b",), 1) == "b = 1\n"
    assert set_value("a = 1", ("b",), 1) == "a = 1\nb = 1\n"


def test_a_new_key_of_an_inline_table_is_added_inside_it() -> None:
    assert '{ sha256 = "aa", hint = "sk-relay-Ab", expires = 2026-01-01T00:00:00Z }]' in set_value(
        FILE, ("hashes", 0, "expires"), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    )
    assert set_value("t = {}\n", ("t", "a"), 1) == "t = { a = 1 }\n"
    assert set_value("t = {b = 1}  # c\n", ("t", "a"), 1) == "t = {b = 1, a = 1}  # c\n"
    assert set_value("t = {b = 1}\n", ("t", "u", "a"), 1) == "t = {b = 1, u = { a = 1 }}\n"


def test_a_missing_table_is_added_at_the_end() -> None:
    assert set_value(FILE, ("credential", "sealed"), "v") == FILE + '\n[credential]\nsealed = "v"\n'
    assert set_value("a = 1", ("t", "b"), 1) == "a = 1\n\n[t]\nb = 1\n"
    assert set_value("[t.u]\na = 1\n", ("t", "b"), 1) == "[t.u]\na = 1\n\n[t]\nb = 1\n"
    assert set_value("a = 1\n", ("t", "b c"), 1) == 'a = 1\n\n[t]\n"b c" = 1\n'


def test_a_table_written_with_dotted_keys_grows_a_dotted_key() -> None:
    new = set_value("limits.rate.requests = 5\nname = 'x'\n", ("limits", "rate", "window"), "1m")
    assert tomllib.loads(new) == {"limits": {"rate": {"requests": 5, "window": "1m"}}, "name": "x"}
    assert "[" not in new


def test_an_element_is_appended_in_the_style_of_the_array() -> None:
    new = append_value(FILE, ("hashes",), {"sha256": "bb"})
    assert 'hashes = [{ sha256 = "aa", hint = "sk-relay-Ab" }, { sha256 = "bb" }]\n' in new
    long = "h = [\n  { a = 1 },  # one\n  { a = 2 },  # two\n]\n"
    assert append_value(long, ("h",), {"a": 3}) == "h = [\n  { a = 1 },  # one\n  { a = 2 },  # two\n  { a = 3 },\n]\n"
    assert append_value("h = []\n", ("h",), {"a": 3}) == "h = [{ a = 3 }]\n"
    assert append_value("h = []\n", ("h",), "x") == 'h = ["x"]\n'
    assert append_value('h = [ "a", ]  # one\n', ("h",), "x") == 'h = [ "a", "x", ]  # one\n'
    assert append_value('h = [\n  "a", # one\n  "b"\n]\n', ("h",), "x") == 'h = [\n  "a", # one\n  "b",\n  "x"\n]\n'
    with pytest.raises(EditError, match="h is not an array"):
        append_value("h = 1\n", ("h",), "x")
    assert (
        append_value(FILE, ("limits", "windows"), {"window": "day"}) == FILE + '\n[[limits.windows]]\nwindow = "day"\n'
    )
    assert tomllib.loads(append_value("x = 1\n", ("s", "r"), {"a": 1})) == {"x": 1, "s": {"r": [{"a": 1}]}}


def test_removing_takes_the_line_the_element_or_the_table_and_no_comment_of_another() -> None:
    assert lines_changed(FILE, remove_value(FILE, ("owner",))) == (['owner = "dev-team"\n'], [])
    assert remove_value("t = [1, 2, 3]\n", ("t", 1)) == "t = [1, 3]\n"
    assert remove_value("t = [1, 2, 3]\n", ("t", 2)) == "t = [1, 2]\n"
    assert remove_value("t = { a = 1, b = 2 }\n", ("t", "b")) == "t = { a = 1 }\n"
    two = "[[t]]\na = 1\n\n# of b\n[[t]]\nb = 1\n\n# of x\n[x]\n"
    assert remove_value(two, ("t", 0)) == "# of b\n[[t]]\nb = 1\n\n# of x\n[x]\n"
    assert remove_value(two, ("t", 1)) == "[[t]]\na = 1\n\n# of b\n# of x\n[x]\n"


def test_what_is_not_there_or_cannot_be_replaced_is_an_error() -> None:
    for edit in (
        lambda: remove_value(FILE, ("nothing",)),
        lambda: set_value(FILE, ("limits",), 1),
        lambda: set_value(FILE, ("owner", "name"), "x"),
        lambda: set_value("a = [", ("b",), 1),
    ):
        with pytest.raises(EditError):
            edit()


def test_crlf_and_mixed_line_ends_stay_as_they_are() -> None:
    text = 'a = 1 # x\r\n\r\nt = """\r\nlong\r\n"""\r\n[s]\r\nb = 2\r\n'
    assert set_value(text, ("s", "b"), 3) == text.replace("b = 2", "b = 3")
    assert set_value(text, ("e",), True) == text.replace("[s]", "e = true\r\n[s]")
    mixed = "a = 1\r\nb = 2\nc = 3\r\nd = 4\n"
    assert set_value(mixed, ("d",), 5) == "a = 1\r\nb = 2\nc = 3\r\nd = 5\n"
    assert set_value(mixed, ("c",), 5) == "a = 1\r\nb = 2\nc = 5\r\nd = 4\n"


toml_values = st.recursive(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
    | st.integers(-(2**53), 2**53)
    | st.booleans()
    | st.datetimes(timezones=st.just(datetime.UTC)).map(lambda moment: moment.replace(microsecond=0)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab "\\.é', max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(toml_values)
@settings(deadline=None, max_examples=200)
def test_a_rendered_value_is_read_back_as_itself(value: Any) -> None:
    assert tomllib.loads(f"x = {render(value)}\n") == {"x": value}


def test_a_new_document_has_pairs_before_tables_and_no_empty_table() -> None:
    text = render_document({"name": "x", "hashes": [{"sha256": "a"}]}, {"limits": {"concurrency": 1}, "pace": {}})
    assert text == 'name = "x"\nhashes = [{ sha256 = "a" }]\n\n[limits]\nconcurrency = 1\n'


# --- any document ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Leaf:
    """A pair whose value the test may change: the text around it is known independently of the code under test."""

    path: tuple[str | int, ...]
    before: str
    value: str
    after: str


BLANK = st.sampled_from(["", " ", "  ", "\t"])
COMMENT = st.sampled_from(["", " # c", '  # "quoted" = [x]', "#"])
VALUES = st.sampled_from(
    ["1", "true", '"s"', "'l'", '"a # b"', '"\\""', '"""\nm = 1\n[x]\n"""', "'''\n[y] # z\n'''", "[1, 2]",
     "[ # c\n  'a', # [no]\n  'b',\n]", "{ a = 1, b = [2] }", "{}", "1979-05-27T07:32:00Z", "[[1], ['[x]']]", "0.5"]
)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> list[Leaf | str]:
    pieces: list[Leaf | str] = []
    headers: list[tuple[str, tuple[str | int, ...]]] = [("", ())]
    names = draw(st.lists(st.sampled_from(["t", "u", '"q r"', "v.w"]), unique=True, max_size=3))
    for name in names:
        path = tuple(part.strip('"') for part in name.split("."))
        count = draw(st.integers(0, 2))
        headers += [(f"[{name}]", path)] if count == 0 else [(f"[[{name}]]", (*path, n)) for n in range(count)]
    for header, base in headers:
        if header:
            pieces.append(f"{draw(BLANK)}{header}{draw(COMMENT)}\n")
        for key in draw(
            st.lists(st.sampled_from(["a", "b-c", '"d e"', "'f'", "g.h", "i . j"]), unique=True, max_size=4)
        ):
            path = tuple(part.strip().strip("\"'") for part in key.split("."))
            pieces.append(draw(st.sampled_from(["", "\n", "# comment\n", "  # [not] = 'this'\n"])))
            leaf = Leaf(
                path=(*base, *path),
                before=f"{draw(BLANK)}{key}{draw(BLANK)}={draw(BLANK)}",
                value=draw(VALUES),
                after=f"{draw(BLANK)}{draw(COMMENT)}\n",
            )
            pieces.append(leaf)
    pieces.append(draw(st.sampled_from(["", "# the end", "\n\n"])))
    return pieces


def assembled(pieces: list[Leaf | str], ends: str, change: Leaf | None = None, value: str = "") -> str:
    parts = []
    for piece in pieces:
        if isinstance(piece, str):
            parts.append(piece)
        else:
            parts.append(piece.before + (value if piece is change else piece.value) + piece.after)
    return "".join(parts).replace("\n", ends)


@given(documents(), st.sampled_from(["\n", "\r\n"]), st.data())
@settings(deadline=None, max_examples=200)
def test_in_any_document_setting_a_value_leaves_every_other_byte(
    pieces: list[Leaf | str], ends: str, data: st.DataObject
) -> None:
    leaves = [piece for piece in pieces if isinstance(piece, Leaf)]
    if leaves:
        leaf = data.draw(st.sampled_from(leaves))
        value = data.draw(st.sampled_from([7, True, "it's", ["p"]]))
        assert set_value(assembled(pieces, ends), leaf.path, value) == assembled(pieces, ends, leaf, render(value))


@given(documents(), st.sampled_from(["\n", "\r\n"]), st.data())
@settings(deadline=None, max_examples=200)
def test_in_any_document_a_new_key_is_an_insertion_and_removing_it_restores_the_rest(
    pieces: list[Leaf | str], ends: str, data: st.DataObject
) -> None:
    text = assembled(pieces, ends)
    tables = {piece.path[:-1] for piece in pieces if isinstance(piece, Leaf)} | {(), ("new",), ("t",)}
    path = (*data.draw(st.sampled_from(sorted(tables, key=repr))), "fresh")
    try:
        new = set_value(text, path, 7)
    except EditError:
        # [[t]] is an array: a key of it needs an index.
        assert isinstance(tomllib.loads(text).get(str(path[0])), list)
        return
    start = next((at for at, (one, two) in enumerate(zip(text, new, strict=False)) if one != two), len(text))
    grown = len(new) - len(text)
    assert grown > 0
    assert any(new[:at] + new[at + grown :] == text for at in range(max(0, start - grown), start + 1))
    document = tomllib.loads(text)
    assert tomllib.loads(remove_value(new, path)) in (document, {**document, str(path[0]): {}})
