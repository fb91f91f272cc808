"""The pages of docs and the sample tree say what the code does. UPDATE_DOCS=1 writes the generated parts."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

import attrs
import pytest

from relayd.cli.run import ENVIRONMENT
from relayd.config import snapshot
from relayd.config.compile import compile_tree
from relayd.config.model import scenario
from relayd.config.model.json_schema import KINDS, json_schema, markdown, rows, taplo_config
from relayd.config.model.types import FORMS
from relayd.config.problems.codes import explanations

ROOT = Path(__file__).parent.parent.parent
UPDATE = bool(os.environ.get("UPDATE_DOCS"))
RELOAD_CLASSES = {snapshot.HOT, snapshot.DRAIN, snapshot.REVOKE, snapshot.RESTART}


def escaped(text: str) -> str:
    return re.sub(r"([|*])", r"\\\1", text)


def generated() -> dict[str, str]:
    environment = ["| variable | option of `relayd run` | meaning |", "|---|---|---|"]
    environment += [f"| `{name}` | {f'`{option}`' if option else ''} | {what} |" for name, option, what in ENVIRONMENT]
    explained = ["| code | meaning |", "|---|---|"]
    explained += [f"| `{code}` | {escaped(text)} |" for code, text in explanations().items()]
    parts = {"environment": "\n".join(environment) + "\n", "codes": "\n".join(explained) + "\n"}
    return parts | {kind: markdown(kind) for kind in KINDS}


def with_generated(text: str) -> str:
    for name, part in generated().items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, rest = text.split(begin)
        text = before + begin + part + end + rest.split(end, 1)[1]
    return text


def assert_current(path: Path, expected: str) -> None:
    if UPDATE:
        path.write_text(expected)

    assert path.read_text() == expected, f"{path.name} is out of date (UPDATE_DOCS=1 pytest {__file__})"


def nouns() -> list[type]:
    known = {**vars(scenario), **vars(snapshot)}.values()
    found = [value for value in known if isinstance(value, type) and attrs.has(value) and is_noun(value)]
    return [attrs.resolve_types(noun) for noun in found if noun is not snapshot.Snapshot]


def is_noun(value: type) -> bool:
    return value.__module__ in (snapshot.__name__, scenario.__name__)


def keys() -> list[tuple[type, attrs.Attribute]]:
    return [(noun, field) for noun in nouns() for field in attrs.fields(noun) if field.name != "id"]


def test_the_reference_is_that_of_the_code() -> None:
    path = ROOT / "docs" / "config-reference.md"
    assert_current(path, with_generated(path.read_text()))


def headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in found}


def links(page: Path) -> list[tuple[Path, str]]:
    """Where the links of a page lead within the repository: file and anchor."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text)
    found += [(target, "") for target in re.findall(r'(?:src|srcset)="(?!https?:)([^"]+)"', text)]
    return [((page.parent / target).resolve() if target else page, anchor) for target, anchor in found]


def test_every_link_between_the_pages_leads_to_a_heading() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    found = [(page, target, anchor) for page in pages for target, anchor in links(page)]
    assert len(found) > 25
    missing = [
        (page.name, str(target.relative_to(ROOT)), anchor)
        for page, target, anchor in found
        if not target.exists() or (anchor and anchor not in headings(target.read_text()))
    ]
    assert missing == []


def test_every_page_is_in_the_list_of_pages() -> None:
    listed = {target.name for target, _ in links(ROOT / "docs" / "README.md")}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= listed


def test_both_readmes_have_the_same_commands_pictures_and_links() -> None:
    texts = [(ROOT / name).read_text() for name in ("README.md", "README.ko.md")]
    commands = [re.findall(r"^    .+$", text, re.MULTILINE) for text in texts]
    assert commands[0] == commands[1]
    both = [re.sub(r"\.ko\.md", ".md", text) for text in texts]
    found = [re.findall(r'\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"', text) for text in both]
    assert found[0] == found[1]


def test_the_pictures_are_those_that_the_script_draws() -> None:
    folder = ROOT / "docs" / "pictures"
    draw = runpy.run_path(str(folder / "draw.py"))
    for name, text in draw["pictures"]().items():
        assert (folder / name).read_text() == text, f"{name} is out of date (python docs/pictures/draw.py)"
    said = draw["session"]()
    for theme in ("light", "dark"):
        drawn = draw["terminal"](draw["THEMES"][theme], said)
        assert settled((folder / f"terminal-{theme}.svg").read_text()) == settled(drawn)


def settled(text: str) -> str:
    """Without what differs from run to run: times and hashes."""
    return re.sub(r"\b[0-9a-f]{8,}\b|\d\d:\d\d:\d\d|\d{4}-\d\d-\d\d", "_", text)


def test_the_examples_of_the_guide_are_a_tree_without_errors() -> None:
    text = (ROOT / "docs" / "config.md").read_text()
    sections = re.findall(r"^### (\S+)\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
    examples = {
        name: found[1] for name, part in sections if (found := re.search(r"```toml\n(.*?)```", part, re.DOTALL))
    }
    places = {"relay.toml": "relay.toml", "accounts.d/ID.toml": "accounts.d/a.toml", "keys.d/ID.toml": "keys.d/k.toml"}
    assert examples.keys() == places.keys()
    found = compile_tree({places[name]: example.encode() for name, example in examples.items()})
    assert [str(problem) for problem in found.problems if problem.severity == "error"] == []


def test_the_editors_config_names_the_schemas_that_relayd_schema_writes() -> None:
    assert_current(ROOT / ".taplo.toml", taplo_config(".schema"))


@pytest.mark.parametrize(("noun", "field"), keys(), ids=lambda value: getattr(value, "__name__", None) or value.name)
def test_every_key_has_a_reload_class_a_sentence_and_a_known_form(noun: type, field: attrs.Attribute) -> None:
    metadata = field.metadata

    assert metadata["reload"] in RELOAD_CLASSES
    assert re.fullmatch(r"\S.*[.]", metadata["doc"])
    assert not metadata["form"] or (metadata["form"] in FORMS and field.type in (str, tuple[str, ...]))
    assert not metadata["secret"] or not field.repr


def test_every_key_is_in_a_json_schema_and_in_the_table() -> None:
    in_schema, in_table = set(), set()

    def walk(schema: dict) -> None:
        for name, value in schema.get("properties", {}).items():
            in_schema.add(name)
            assert value["description"]
            assert value["x-reload"] in RELOAD_CLASSES
            walk(value)
        for inner in (schema.get("items"), schema.get("additionalProperties")):
            if isinstance(inner, dict):
                walk(inner)

    for kind in KINDS:
        walk(json_schema(kind))
        in_table |= {part.removesuffix("[]") for row in rows(kind) for part in row.key.split(".")}

    assert {field.name for _, field in keys()} == in_schema
    assert in_schema <= in_table


def test_every_code_of_the_compiler_is_explained_and_every_explained_code_is_one_of_its() -> None:
    sources = [path.read_text() for path in RAISE_CODES]
    raised = {code for text in sources for code in re.findall(r'"([EWN]-[A-Z0-9-]+)"', text)}

    assert raised == set(explanations())


RAISE_CODES = [
    *(ROOT / "relayd" / "config").rglob("*.py"),
    ROOT / "relayd" / "cli" / "check.py",
    ROOT / "relayd" / "cli" / "test.py",
]
