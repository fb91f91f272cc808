"""The corpus of trees: each NAME.bad with the exact report, each NAME.good without a complaint.

UPDATE_CORPUS=1 rewrites the reports of the bad ones: read the diff before you commit it.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from relayd.config.compile import compile_tree
from relayd.config.model.document import classify
from relayd.config.model.json_schema import KINDS, json_schema
from relayd.config.problems.report import as_text
from relayd.config.source.tree import read_files

CORPUS = Path(__file__).parent.parent / "corpus" / "config"
BAD = sorted(CORPUS.glob("*.bad"))
GOOD = sorted(CORPUS.glob("*.good"))
UPDATE = bool(os.environ.get("UPDATE_CORPUS"))


def report(tree: Path) -> str:
    """What `relayd check` says of a tree, without notes."""
    compiled = compile_tree(read_files(tree))
    return as_text(problem for problem in compiled.problems if problem.severity != "note")


def as_json(value: object) -> object:
    """A TOML document as JSON has it: times are strings."""
    return json.loads(json.dumps(value, default=lambda moment: moment.isoformat()))


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(BAD) >= 60
    assert len(GOOD) >= 15


@pytest.mark.parametrize("tree", BAD, ids=lambda tree: tree.name)
def test_a_bad_tree_gets_exactly_its_report(tree: Path) -> None:
    expected = tree / "expected.txt"
    if UPDATE:
        expected.write_text(report(tree))

    assert report(tree) == expected.read_text()
    assert report(tree) != ""


@pytest.mark.parametrize("tree", BAD, ids=lambda tree: tree.name)
def test_no_report_shows_a_secret(tree: Path) -> None:
    assert not re.search(r"hunter[0-9]?|not-a-real-key|notarealwebhook|sk-relay-9accd|rlkey1\.A", report(tree))


@pytest.mark.parametrize("tree", GOOD, ids=lambda tree: tree.name)
def test_a_good_tree_compiles_without_a_complaint(tree: Path) -> None:
    compiled = compile_tree(read_files(tree))

    assert [str(problem) for problem in compiled.problems if problem.severity != "note"] == []
    assert compiled.snapshot is not None


@pytest.mark.parametrize("tree", GOOD, ids=lambda tree: tree.name)
def test_what_the_compiler_accepts_the_editors_schema_accepts_too(tree: Path) -> None:
    for path, content in read_files(tree).items():
        kind = classify(path)
        if kind in KINDS:
            document = as_json(tomllib.loads(content.decode()))
            errors = [error.message for error in Draft202012Validator(json_schema(kind)).iter_errors(document)]

            assert errors == [], path


@pytest.mark.parametrize("kind", KINDS)
def test_the_json_schema_itself_is_valid(kind: str) -> None:
    Draft202012Validator.check_schema(json_schema(kind))


def test_a_key_that_has_expired_is_a_warning_once_the_time_is_known() -> None:
    files = read_files(CORPUS / "sample.good")

    after = compile_tree(files, now=datetime.datetime(2028, 1, 1, tzinfo=datetime.UTC))
    before = compile_tree(files, now=datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC))

    assert "W-EXPIRED" in {problem.code for problem in after.problems}
    assert "W-EXPIRED" not in {problem.code for problem in before.problems}
    assert after.snapshot is not None
