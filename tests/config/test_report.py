from __future__ import annotations

import json

import pytest

from relayd.config.problem import ConfigError, Problem, Related, in_order
from relayd.config.report import as_dict, as_github, as_sarif, as_text, totals


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
    problems = [problem(), problem(), problem(code="W-NO-KEYS"), problem(code="N-NO-EFFECT")]

    assert totals(problems) == "2 errors, 1 warning, 1 note"
    assert totals([]) == "no problems"


def test_github_commands_are_escaped() -> None:
    command = as_github([problem(file="keys.d/a,b:c.toml", message="100%\nof it", code="W-NO-KEYS", hint="x")])

    assert command == (
        "::warning file=keys.d/a%2Cb%3Ac.toml,line=4,col=10,endColumn=12,title=W-NO-KEYS::100%25%0Aof it (x)\n"
    )


def test_a_note_is_a_notice_for_github() -> None:
    assert as_github([problem(code="N-NO-EFFECT")]).startswith("::notice ")


def test_sarif_has_a_rule_for_each_code_and_a_region_for_each_place() -> None:
    problems = [
        problem(),
        problem(code="W-NO-KEYS", line=0),
        problem(related=(Related(file="b", line=1, column=1, message="m"),)),
    ]
    run = json.loads(as_sarif(problems))["runs"][0]

    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["E-TYPE", "W-NO-KEYS"]
    assert [result["level"] for result in run["results"]] == ["error", "warning", "error"]
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"] == {
        "startLine": 4,
        "startColumn": 10,
        "endColumn": 13,
    }
    assert "region" not in run["results"][1]["locations"][0]["physicalLocation"]
    assert run["results"][2]["relatedLocations"][0]["message"]["text"] == "m"
    assert all(
        run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] for result in run["results"]
    )


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
