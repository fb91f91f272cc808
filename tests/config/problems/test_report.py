from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from relayd.config.problems.codes import explanations
from relayd.config.problems.problem import ConfigError, Problem, Related, in_order
from relayd.config.problems.report import as_dict, as_github, as_sarif, as_text, totals


def problem(**fields: object) -> Problem:
    return Problem(
        **{
            "code": "E-TYPE",
            "file": "accounts.d/a.toml",
            "line": 4,
            "column": 10,
            "end_column": 13,
            "message": 'weight: expected an integer, not "3"',
            "excerpt": 'weight = "3"',
            **fields,
        }
    )


def test_a_problem_is_shown_with_its_line_and_a_caret_below_the_place() -> None:
    assert as_text([problem(hint="write 3")]) == (
        'accounts.d/a.toml:4:10: error[E-TYPE]: weight: expected an integer, not "3"\n'
        '    4 | weight = "3"\n'
        "      |          ^^^ write 3\n"
    )


def test_a_problem_of_a_whole_file_has_its_hint_and_related_places_below() -> None:
    other = Related(file="keys.d/b.toml", line=1, column=2, message="the other one")
    text = as_text([problem(line=0, column=0, end_column=0, excerpt="", hint="look there", related=(other,))])

    assert text == (
        'accounts.d/a.toml: error[E-TYPE]: weight: expected an integer, not "3"\n'
        "   hint: look there\n"
        "   keys.d/b.toml:1:2: the other one\n"
    )


@pytest.mark.parametrize("column", [1, 80, 300, 500])
def test_a_long_line_is_cut_around_the_place(column: int) -> None:
    line = "".join(chr(97 + number % 26) for number in range(500))
    shown = as_text([problem(excerpt=line, column=column, end_column=column + 3)]).split("\n")

    at = shown[2].index("^")
    assert shown[1][at : at + 1] == line[column - 1]
    assert len(shown[1]) < 180


def test_totals_count_each_severity() -> None:
    problems = [problem(), problem(), problem(code="W-NO-KEYS"), problem(code="N-UNKNOWN-ID")]

    assert totals(problems) == "2 errors, 1 warning, 1 note"
    assert totals([]) == "no problems"


def test_github_commands_are_escaped() -> None:
    command = as_github([problem(file="keys.d/a,b:c.toml", message="100%\nof it", code="W-NO-KEYS", hint="x")])

    assert command == (
        "::warning file=keys.d/a%2Cb%3Ac.toml,line=4,col=10,endColumn=12,title=W-NO-KEYS::100%25%0Aof it (x)\n"
    )


def test_a_note_is_a_notice_for_github() -> None:
    assert as_github([problem(code="N-UNKNOWN-ID")]).startswith("::notice ")


TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}}
NATURAL = {"type": "integer", "minimum": 1}
LOCATION = {
    "type": "object",
    "required": ["physicalLocation"],
    "properties": {
        "physicalLocation": {
            "type": "object",
            "additionalProperties": False,
            "required": ["artifactLocation", "region"],
            "properties": {
                "artifactLocation": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["uri"],
                    "properties": {"uri": {"type": "string", "pattern": "^[A-Za-z0-9_.~%-][A-Za-z0-9_.~%/-]*$"}},
                },
                "region": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["startLine", "startColumn", "endLine", "endColumn"],
                    "properties": dict.fromkeys(("startLine", "startColumn", "endLine", "endColumn"), NATURAL),
                },
            },
        },
        "id": {"type": "integer", "minimum": 0},
        "message": TEXT,
    },
    "additionalProperties": False,
}
LEVEL = {"enum": ["error", "warning", "note"]}
RULE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "shortDescription", "fullDescription", "help", "defaultConfiguration"],
    "properties": {
        "id": {"type": "string"},
        "shortDescription": TEXT,
        "fullDescription": TEXT,
        "help": TEXT,
        "defaultConfiguration": {"type": "object", "required": ["level"], "properties": {"level": LEVEL}},
    },
}
RESULT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"],
    "properties": {
        "ruleId": {"type": "string"},
        "ruleIndex": {"type": "integer", "minimum": 0},
        "level": LEVEL,
        "message": TEXT,
        "locations": {"type": "array", "minItems": 1, "maxItems": 1, "items": LOCATION},
        "relatedLocations": {"type": "array", "uniqueItems": True, "items": LOCATION},
        "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
    },
}
# What SARIF 2.1.0 allows and GitHub's code scanning demands of the parts that relayd writes.
SARIF = {
    "type": "object",
    "additionalProperties": False,
    "required": ["$schema", "version", "runs"],
    "properties": {
        "$schema": {"type": "string"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["tool", "columnKind", "results"],
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name", "version", "rules"],
                                "properties": {"rules": {"type": "array", "uniqueItems": True, "items": RULE}},
                            }
                        },
                    },
                    "columnKind": {"const": "unicodeCodePoints"},
                    "results": {"type": "array", "items": RESULT},
                },
            },
        },
    },
}


def sarif(problems: list[Problem], folder: str = "") -> dict[str, Any]:
    """The run of a SARIF report that code scanning would accept."""
    log = json.loads(as_sarif(problems, folder))
    jsonschema.validate(log, SARIF)
    run: dict[str, Any] = log["runs"][0]
    ids = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert all(ids[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    return run


def place_of(result: dict[str, Any]) -> dict[str, Any]:
    place: dict[str, Any] = result["locations"][0]["physicalLocation"]
    return place


def test_sarif_has_a_rule_for_each_code_and_a_whole_region_for_each_place() -> None:
    related = (Related(file="b", line=1, column=1, message="m"),)
    run = sarif([problem(), problem(code="W-NO-KEYS", line=0, column=0, end_column=0), problem(related=related)])

    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["E-TYPE", "W-NO-KEYS"]
    assert [result["level"] for result in run["results"]] == ["error", "warning", "error"]
    assert [place_of(result)["region"] for result in run["results"][:2]] == [
        {"startLine": 4, "startColumn": 10, "endLine": 4, "endColumn": 13},
        {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2},
    ]
    assert run["results"][2]["relatedLocations"][0]["message"]["text"] == "m"


def test_sarif_can_be_written_for_every_code_and_none() -> None:
    run = sarif([problem(code=code) for code in explanations()])

    assert len(run["tool"]["driver"]["rules"]) == len(explanations())
    assert all(len(rule["shortDescription"]["text"]) < 300 for rule in run["tool"]["driver"]["rules"])
    assert sarif([])["results"] == []


def test_what_is_said_of_the_tree_as_a_whole_points_at_relay_toml() -> None:
    whole = problem(code="W-HELD", file="", line=0, column=0, end_column=0, excerpt="")

    assert place_of(sarif([whole])["results"][0])["artifactLocation"] == {"uri": "relay.toml"}
    assert as_github([whole]).startswith("::warning file=relay.toml,title=W-HELD::")


def test_paths_for_code_scanning_begin_at_the_root_of_the_repository() -> None:
    run = sarif([problem(related=(Related(file="keys.d/b.toml", line=1, column=1, message="m"),))], "my config/")
    (result,) = run["results"]

    assert place_of(result)["artifactLocation"]["uri"] == "my%20config/accounts.d/a.toml"
    other = result["relatedLocations"][0]["physicalLocation"]["artifactLocation"]
    assert other["uri"] == "my%20config/keys.d/b.toml"
    assert as_github([problem()], "my config/").startswith("::error file=my config/accounts.d/a.toml,line=4,")


def test_the_fingerprint_of_a_finding_survives_its_moving_to_another_line() -> None:
    def prints(*problems: Problem) -> list[str]:
        return [result["partialFingerprints"]["primaryLocationLineHash"] for result in sarif([*problems])["results"]]

    assert prints(problem(line=9)) == prints(problem()) != prints(problem(file="accounts.d/b.toml"))
    assert len(set(prints(problem(), problem(line=9), problem(message="x")))) == 3, "unique in one report"


def test_a_file_with_any_name_at_all_has_a_place_in_every_form() -> None:
    odd = problem(file="accounts.d/\udcff\nforged.toml", related=(Related(file="a\nb", line=1, column=1, message="m"),))

    assert place_of(sarif([odd])["results"][0])["artifactLocation"]["uri"] == "accounts.d/%FF%0Aforged.toml"
    assert as_text([odd]).startswith("accounts.d/\\udcff\\nforged.toml:4:10: error")
    assert "   a\\nb:1:1: m\n" in as_text([odd])
    assert as_github([odd]).count("\n") == 1
    assert as_dict(odd)["file"] == odd.file


def test_json_has_every_field_of_a_problem_but_the_excerpt() -> None:
    assert as_dict(problem()) == {
        "code": "E-TYPE",
        "severity": "error",
        "file": "accounts.d/a.toml",
        "line": 4,
        "column": 10,
        "end_column": 13,
        "message": 'weight: expected an integer, not "3"',
        "hint": "",
        "related": [],
    }


def test_a_code_that_nobody_explains_cannot_be_raised() -> None:
    with pytest.raises(ValueError):
        problem(code="E-NOT-EXPLAINED")


def test_problems_are_sorted_by_place_and_one_exception_carries_them_all() -> None:
    late, early = problem(line=9), problem(line=2)
    error = ConfigError([late, early])

    assert error.problems == in_order([late, early]) == (early, late)
    assert str(error).count("\n") == 1
    assert str(problem(hint="write 3")).endswith('not "3" (write 3)')
