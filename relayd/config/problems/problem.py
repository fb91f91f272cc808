"""Problem: one thing that is wrong with a tree, and where; ConfigError: all of them at once.

Rule: whoever makes a Problem has already taken every secret out of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import attrs

from relayd.config.problems.codes import explanations
from relayd.noun import noun

Severity = Literal["error", "warning", "note"]

_SEVERITIES: dict[str, Severity] = {"E": "error", "W": "warning", "N": "note"}


@noun(kw_only=True)
class Related:
    """Another place that has to do with a problem."""

    file: str
    line: int
    column: int
    message: str


@noun(kw_only=True)
class Problem:
    """One finding.

    Args:
        code: stable; a key of `codes.explanations()`.
        file: POSIX path in the tree; "" for the tree itself.
        line, column: from 1, in characters; 0 when the file as a whole is meant and cannot be read.
        end_column: the column behind the last character, on the same line.
        message: lower case, with the key and the offending value.
        hint: what to do; may be "".
        related: other places.
        excerpt: the source line, fit to be shown; "" for none.
    """

    code: str = attrs.field()
    file: str
    message: str
    line: int = 0
    column: int = 0
    end_column: int = 0
    hint: str = ""
    related: tuple[Related, ...] = ()
    excerpt: str = ""

    @code.validator
    def _is_explained(self, _: object, value: str) -> None:
        if value not in explanations():
            raise ValueError(f"{value}: not a code of codes.toml")

    @property
    def severity(self) -> Severity:
        """As the first letter of the code says."""
        return severity_of(self.code)

    @property
    def place(self) -> str:
        """`file:line:column`, as editors and terminals recognise it."""
        name = printable(self.file) or "tree"
        return f"{name}:{self.line}:{self.column}" if self.line else name

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.place}: {self.severity}[{self.code}]: {self.message}{hint}"


def severity_of(code: str) -> Severity:
    """As the first letter of the code says."""
    return _SEVERITIES[code[0]]


def printable(name: str) -> str:
    """A file's name on one line, whatever is in it: a name with a line break must not look like another report."""
    return name if name.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Sorted by place; the same problems always in the same order."""
    return tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.code, p.message)))


def is_error(problem: Problem) -> bool:
    """Whether the tree cannot be used because of it."""
    return problem.severity == "error"


class ConfigError(Exception):
    """A tree that cannot be used, with every problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        super().__init__(*self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
