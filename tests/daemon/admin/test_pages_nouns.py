"""Tables in three forms, routes, messages in all languages, and what stands in templates."""

from __future__ import annotations

import re
import string
from importlib import resources

import pytest

from relayd.daemon.admin.pages.language import LANGUAGES, catalogue, preferred, translator
from relayd.daemon.admin.pages.render import engine
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import Page, PageRoute, Visit, own_path

PAGES = resources.files("relayd.daemon.admin.pages")
TEMPLATES = [one for one in (PAGES / "templates").iterdir() if one.name.endswith(".html")]

TABLE = PageTable(
    name="things",
    columns=(Column(name="id"), Column(name="at", kind="time"), Column(name="cost", kind="money"), Column(name="n")),
    rows=[{"id": "=cmd()", "at": 0.5, "cost": 1_500_000, "n": None, "more": 1}, {"id": 'a"b,c', "at": None, "n": 3}],
    after="/web/things?after=1",
)


def test_a_table_as_json() -> None:
    assert TABLE.as_json() == {
        "rows": [
            {"id": "=cmd()", "at": "1970-01-01T00:00:00Z", "cost": "1.50", "n": None},
            {"id": 'a"b,c', "at": None, "cost": None, "n": 3},
        ],
        "next": "/web/things?after=1",
    }


def test_a_table_as_csv_holds_no_formula() -> None:
    assert TABLE.as_csv() == 'id,at,cost,n\r\n\'=cmd(),1970-01-01T00:00:00Z,1.50,\r\n"a""b,c",,,3\r\n'


async def _nothing(visit: Visit) -> Page:
    raise AssertionError


def test_a_route_names_what_it_captured() -> None:
    route = PageRoute(method="GET", pattern="/web/keys/{key}/limits", need="viewer", handler=_nothing)
    assert route.match("/web/keys/a-b/limits") == {"key": "a-b"}
    assert [route.match(path) for path in ("/web/keys//limits", "/web/keys/a/b/limits", "/web/keys/a")] == [None] * 3


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example", "//evil.example", "/webevil", "/web/\\evil", "/web/\r\nx: y", "javascript:1", "", "/"],
)
def test_no_redirect_leads_elsewhere(elsewhere: str) -> None:
    assert own_path(elsewhere) == "/web"
    assert own_path("/web/calls?key=a") == "/web/calls?key=a"


@pytest.mark.parametrize(
    ("accepted", "chosen", "language"),
    [
        ("ko-KR,ko;q=0.9,en;q=0.8", "", "ko"),
        ("de,fr;q=0.9", "", "en"),
        ("en;q=0.5,ko", "", "ko"),
        ("ko;q=0", "", "en"),
        ("ko;q=nonsense,,;;", "", "en"),
        ("ko", "en", "en"),
        ("ko", "xx", "ko"),
    ],
)
def test_the_language_is_what_was_chosen_else_what_the_browser_prefers(
    accepted: str, chosen: str, language: str
) -> None:
    assert preferred(accepted, chosen) == language


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalogue_has_what_the_english_one_has(language: str) -> None:
    english, theirs = catalogue("en"), catalogue(language)
    assert theirs.keys() == english.keys()
    assert {key: _places(text) for key, text in theirs.items()} == {key: _places(text) for key, text in english.items()}
    assert all(text.strip() for text in theirs.values())


def test_templates_name_messages_that_exist() -> None:
    used = {key for one in TEMPLATES for key in re.findall(r"\bt\(['\"]([a-z_.]+)['\"][,)]", one.read_text("utf-8"))}
    assert len(used) > 20
    assert used <= catalogue("en").keys()


def test_every_column_and_table_has_a_name_for_people() -> None:
    code = "".join(one.read_text("utf-8") for one in PAGES.iterdir() if one.name.endswith(".py"))
    columns, tables = re.findall(r'Column\(name="(\w+)"', code), re.findall(r'PageTable\(\s*name="(\w+)"', code)
    assert columns
    assert tables
    assert {f"column.{name}" for name in columns} | {f"table.{name}" for name in tables} <= catalogue("en").keys()


def test_templates_have_no_text_script_or_style_of_their_own() -> None:
    for one in TEMPLATES:
        text = one.read_text("utf-8")
        assert not re.search(r"\|\s*safe|<style|\sstyle=|\son\w+=|<script(?! src=)|autoescape false", text), one.name
        shown = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}|<(pre|code)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
        words = [word for word in re.findall(r"[A-Za-z]{3,}", shown) if word not in ("relayd", "JSON", "CSV", "UTC")]
        assert words == [], one.name


def test_every_template_can_be_read() -> None:
    for one in TEMPLATES:
        engine().get_template(one.name)


def test_a_message_keeps_its_places() -> None:
    assert translator("en")("error.status", status=403) == "Status 403."
    with pytest.raises(KeyError):
        translator("en")("error.nothing")


def _places(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
