"""What mypy must find: an assignment to a field of a noun. It is planted here, and no test runs it.

Theory: under `strict` an ignore that nothing needs is an error, so mypy fails on this file as soon as it no longer sees
nouns as frozen. CI runs it on this file as on relayd.
"""

from __future__ import annotations

import attrs

from relayd.noun import noun


@noun
class Bare:
    number: int


@noun(kw_only=True, eq=False)
class Named:
    number: int = 1
    words: tuple[str, ...] = attrs.field(factory=tuple)


class Heir(Bare):
    pass


def assign(bare: Bare, named: Named, heir: Heir) -> None:
    bare.number = 2  # type: ignore[misc]
    bare.number += 2  # type: ignore[misc]
    named.words = ()  # type: ignore[misc]
    heir.number = 2  # type: ignore[misc]
