"""Regular expressions that are searched in what clients send.

Rule: one that the operator writes is matched by RE2, in time that grows with the text alone, whatever the pattern. What
that engine cannot do (a look at what stands around, a reference to a group) is an error when the tree is compiled.

Theory: with Python's `re` a pattern such as `^(a|a)*$` takes twice as long for each further character of the text, and
the text comes from clients. RE2 is loaded (4 ms, 3 MB) only where a tree has such a pattern; those that relayd comes
with have no choice to go back to, so `re` matches them as fast.

Source of the syntax: https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
from collections.abc import Callable


class BadPattern(Exception):
    """What is wrong with a regular expression."""


class Pattern:
    """A compiled regular expression. Two that are written alike are equal.

    Args:
        pattern: as it is written.
        search: of an engine that has compiled it; what is found is true.
    """

    __slots__ = ("pattern", "search")

    def __init__(self, pattern: str, search: Callable[[str], object]) -> None:
        self.pattern = pattern
        self.search = search

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.pattern == other.pattern

    def __hash__(self) -> int:
        return hash(self.pattern)

    def __repr__(self) -> str:
        return f"Pattern({self.pattern!r})"


def operators(pattern: str) -> Pattern:
    """A pattern from the tree. Raises: BadPattern."""
    import re2  # type: ignore[import-not-found,import-untyped,unused-ignore]

    options = re2.Options()
    options.log_errors = False
    try:
        return Pattern(pattern, re2.compile(pattern, options).search)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        raise BadPattern(said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)) from None


def ours(pattern: str) -> Pattern:
    """A pattern from this source, in which each text has but one way to match."""
    return Pattern(pattern, re.compile(pattern).search)
