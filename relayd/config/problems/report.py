"""Report: problems as people, programs, GitHub and code-scanning tools want to read them.

Rule: pure text out, sorted and free of times, so that the same tree always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from relayd import __version__
from relayd.config.problems.codes import explanations
from relayd.config.problems.problem import Problem, printable, severity_of

RELAY = "relay.toml"  # stands for the tree as a whole, where a file must be named
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
    return "".join(
        f"   {printable(other.file)}:{other.line}:{other.column}: {other.message}\n" for other in problem.related
    )


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


def as_markdown(problems: Sequence[Problem]) -> str:
    """For a comment on a pull request: a line each, in a block in which nothing is markup."""
    lines = [f"{one.place}: {one.severity}[{one.code}]: {_text(one)}\n" for one in problems]
    return fenced("".join(lines)) if lines else ""


def fenced(text: str, language: str = "") -> str:
    """A text as a code block of Markdown, whatever backticks are in it."""
    runs = [len(run) for run in re.findall("`{3,}", text)]
    fence = "`" * (max(runs, default=2) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def as_github(problems: Iterable[Problem], folder: str = "") -> str:
    """Workflow commands, which GitHub shows beside the lines of a pull request. `folder`: see `as_sarif`.

    Source: GitHub Actions documentation, "Workflow commands".
    """
    return "".join(_command(problem, folder) for problem in problems)


def _command(problem: Problem, folder: str) -> str:
    verb = {"error": "error", "warning": "warning", "note": "notice"}[problem.severity]
    place = f"file={_property(folder + (problem.file or RELAY))}"
    if problem.line:
        end = max(problem.column, problem.end_column - 1)  # GitHub's end is inclusive
        place += f",line={problem.line},col={problem.column},endColumn={end}"
    return f"::{verb} {place},title={problem.code}::{_escaped(_text(problem))}\n"


def _text(problem: Problem) -> str:
    return f"{problem.message} ({problem.hint})" if problem.hint else problem.message


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


# --- SARIF -----------------------------------------------------------------------------------------------------------


def as_sarif(problems: Sequence[Problem], folder: str = "") -> str:
    """SARIF 2.1.0, for code-scanning tools.

    Every result has a file and a whole region, every rule its texts, because GitHub refuses files where any is missing.

    Args:
        folder: of the tree in its repository, "config/" or "": code scanning counts paths from the repository's root.
    Source: OASIS SARIF 2.1.0, sections 3.27 (result) and 3.30 (region); GitHub, "SARIF support for code scanning".
    """
    rules = sorted({problem.code for problem in problems})
    seen: Counter[str] = Counter()
    run = {
        "tool": {"driver": {"name": "relayd", "version": __version__, "rules": [_rule(code) for code in rules]}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(problem, rules.index(problem.code), folder, seen) for problem in problems],
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _rule(code: str) -> dict[str, Any]:
    text = explanations()[code]
    return {
        "id": code,
        "shortDescription": {"text": text.partition(". ")[0].rstrip(".") + "."},
        "fullDescription": {"text": text},
        "help": {"text": text},
        "defaultConfiguration": {"level": severity_of(code)},
    }


def _result(problem: Problem, rule: int, folder: str, seen: Counter[str]) -> dict[str, Any]:
    file = problem.file or RELAY  # what is said of the tree as a whole has no file
    result: dict[str, Any] = {
        "ruleId": problem.code,
        "ruleIndex": rule,
        "level": problem.severity,
        "message": {"text": _text(problem)},
        "locations": [_location(folder + file, problem.line, problem.column, problem.end_column)],
        "partialFingerprints": {"primaryLocationLineHash": _fingerprint(problem, seen)},
    }
    if problem.related:
        result["relatedLocations"] = [
            {
                "id": number,
                **_location(folder + other.file, other.line, other.column),
                "message": {"text": other.message},
            }
            for number, other in enumerate(problem.related, 1)
        ]
    return result


def _fingerprint(problem: Problem, seen: Counter[str]) -> str:
    """The same for the same finding in the next version of a file, wherever it has moved to; unique in one report."""
    identity = f"{problem.code}\0{problem.file}\0{problem.message}".encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(identity).hexdigest()[:16]
    seen[digest] += 1
    return f"{digest}:{seen[digest]}"


def _location(file: str, line: int, column: int, end_column: int = 0) -> dict[str, Any]:
    """A place; the beginning of a file that cannot be read."""
    line, column = line or 1, column or 1
    region = {"startLine": line, "startColumn": column, "endLine": line, "endColumn": max(end_column, column + 1)}
    return {"physicalLocation": {"artifactLocation": {"uri": quote(os.fsencode(file))}, "region": region}}
