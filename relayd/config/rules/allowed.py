"""Allowed warnings: what [check] allow names is set aside, with the reason that was given.

Rule: pure. Only warnings can be allowed, one by one: a code in a file. An entry that nothing matches any more is a
note, so that a list of exceptions does not outlive what it was for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from relayd.config.model.structure import dotted
from relayd.config.model.values import quote
from relayd.config.problems.problem import Problem
from relayd.config.rules.cross_file import Parsed
from relayd.config.snapshot import AllowedWarning, Relay
from relayd.noun import noun


@noun(kw_only=True)
class Acknowledged:
    """A warning that was looked at, and what was said of it."""

    problem: Problem
    why: str


def set_aside(problems: Iterable[Problem], files: Iterable[Parsed]) -> tuple[list[Problem], list[Acknowledged]]:
    """What is left to report, and what was acknowledged."""
    file = next((file for file in files if isinstance(file.noun, Relay)), None)
    allow = file.noun.check.allow if file is not None else ()
    if file is None or not allow:
        return list(problems), []
    why = {(entry.code, entry.file): entry.why for entry in reversed(allow)}  # of two alike the first one counts
    left: list[Problem] = []
    known: list[Acknowledged] = []
    for problem in problems:
        reason = why.get((problem.code, problem.file))
        if reason is None:
            left.append(problem)
        else:
            known.append(Acknowledged(problem=problem, why=reason))
    return [*left, *_unused(file, allow, {(one.problem.code, one.problem.file) for one in known})], known


def _unused(file: Parsed, allow: Sequence[AllowedWarning], there: set[tuple[str, str]]) -> Iterator[Problem]:
    """A note for each entry without a warning of its own."""
    used: set[tuple[str, str]] = set()
    for number, entry in enumerate(allow):
        what = entry.code, entry.file
        if what not in there or what in used:
            path = ("check", "allow", number)
            none = f"no {'other ' * (what in used)}{entry.code}"
            message = f"{dotted(path)}: there is {none} in {quote(entry.file) if entry.file else 'the tree'}"
            yield file.problem("N-UNUSED-ALLOW", path, message, hint="take it out")
        used.add(what)
