"""Report: problems as people, programs, GitHub and code-scanning tools want to read them.

Rule: pure text out, sorted and free of times, so that the same tree always gives the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from relayd import __version__
from relayd.config.codes import CODES
from relayd.config.problem import Problem

_WIDTH = 160  # columns of an excerpt; a longer line is shown around the place


def as_text(problems: Iterable[Problem]) -> str:
    """For people: `place: severity[code]: message`, the source line, a caret line with the hint."""
    return "".join(_entry(problem) for problem in problems)


def _entry(problem: Problem) -> str:
    head = f"{problem.place}: {problem.severity}[{problem.code}]: {problem.message}\n"
    if problem.excerpt:
        return head + _frame(problem) + _related(problem)
    return head + (f"   hint: {problem.hint}\n" if problem.hint else "") + _related(problem)


def _frame(problem: Problem) -> str:
    """The source line with carets below; a long line is cut around the place."""
    cut = max(0, problem.column - 1 - _WIDTH // 2) if len(problem.excerpt) > _WIDTH else 0
    line = problem.excerpt[cut : cut + _WIDTH].rstrip()
    start = problem.column - 1 - cut
    width = max(1, min(problem.end_column, cut + len(line) + 1) - problem.column)
    number = f"{problem.line:>5} | "
    hint = f" {problem.hint}" if problem.hint else ""
    return f"{number}{line}\n{' ' * 5} | {' ' * start}{'^' * width}{hint}\n"


def _related(problem: Problem) -> str:
    return "".join(f"   {other.file}:{other.line}:{other.column}: {other.message}\n" for other in problem.related)


def totals(problems: Iterable[Problem]) -> str:
    """`4 errors, 1 warning`, or `no problems`. Notes are counted only where there is nothing worse to say."""
    count = Counter(problem.severity for problem in problems)
    words = [f"{count[kind]} {kind}{'s' * (count[kind] != 1)}" for kind in ("error", "warning", "note") if count[kind]]
    return ", ".join(words) or "no problems"


def as_dict(problem: Problem) -> dict[str, Any]:
    """One problem for JSON. Fields are only ever added."""
    return {
        "code": problem.code,
        "severity": problem.severity,
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "end_column": problem.end_column,
        "message": problem.message,
        "hint": problem.hint,
        "related": [
            {"file": other.file, "line": other.line, "column": other.column, "message": other.message}
            for other in problem.related
        ],
    }


def as_github(problems: Iterable[Problem]) -> str:
    """Workflow commands, which GitHub shows beside the lines of a pull request.

    Source: GitHub Actions documentation, "Workflow commands".
    """
    return "".join(_command(problem) for problem in problems)


def _command(problem: Problem) -> str:
    verb = {"error": "error", "warning": "warning", "note": "notice"}[problem.severity]
    place = f"file={_property(problem.file or '.')}"
    if problem.line:
        end = max(problem.column, problem.end_column - 1)  # GitHub's end is inclusive
        place += f",line={problem.line},col={problem.column},endColumn={end}"
    text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    return f"::{verb} {place},title={problem.code}::{_escaped(text)}\n"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def as_sarif(problems: Sequence[Problem]) -> str:
    """SARIF 2.1.0, for code-scanning tools. Source: OASIS SARIF 2.1.0, sections 3.27 (result) and 3.30 (region)."""
    rules = sorted({problem.code for problem in problems})
    driver = {
        "name": "relayd",
        "version": __version__,
        "rules": [{"id": code, "fullDescription": {"text": CODES[code]}} for code in rules],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(problem, rules.index(problem.code)) for problem in problems],
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _result(problem: Problem, rule: int) -> dict[str, Any]:
    text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    result: dict[str, Any] = {
        "ruleId": problem.code,
        "ruleIndex": rule,
        "level": problem.severity,
        "message": {"text": text},
        "locations": [_location(problem.file or ".", problem.line, problem.column, problem.end_column)],
    }
    if problem.related:
        result["relatedLocations"] = [
            {**_location(other.file, other.line, other.column), "message": {"text": other.message}}
            for other in problem.related
        ]
    return result


def _location(file: str, line: int, column: int, end_column: int = 0) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(file)}}
    if line:
        region = {"startLine": line, "startColumn": column}
        physical["region"] = {**region, "endColumn": end_column} if end_column > column else region
    return {"physicalLocation": physical}
