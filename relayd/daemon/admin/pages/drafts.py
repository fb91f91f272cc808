"""Drafts: edits that somebody was shown and has not confirmed yet.

Rule: this node's memory, bounded, for half an hour; a draft belongs to the session that made it, and is given out once.
A new key waits here for its only showing, and is nowhere else until then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from relayd.config.edit.tree_edit import EditDraft
from relayd.config.secrets.secret import Secret
from relayd.noun import noun

AGE = 1800.0  # s
MOST = 200
MOST_OF_ONE = 20

Awaited = TypeVar("Awaited")


@noun(kw_only=True)
class HeldDraft:
    """A draft, and what is to be shown once it has been written.

    Args:
        minted: a new key; None for an edit that makes none.
    """

    draft: EditDraft
    minted: Secret | None = None


@attrs.define(eq=False)
class Waiting(Generic[Awaited]):
    """What waits for a visitor's next step.

    Args:
        rng: makes that many random bytes.
    """

    rng: Callable[[int], bytes] = attrs.field(repr=False)
    _kept: dict[str, tuple[str, float, Awaited]] = attrs.field(factory=dict, init=False, repr=False)

    def keep(self, session: str, what: Awaited, now: float) -> str:
        """A token for it. `session`: what tells sessions apart, which is not shown to others."""
        self._kept = {token: one for token, one in self._kept.items() if now - one[1] < AGE}
        theirs = [token for token, one in self._kept.items() if one[0] == session]
        for token in theirs[: max(0, len(theirs) - MOST_OF_ONE + 1)]:
            del self._kept[token]
        if len(self._kept) >= MOST:
            del self._kept[next(iter(self._kept))]
        token = self.rng(16).hex()
        self._kept[token] = (session, now, what)
        return token

    def take(self, session: str, token: str, now: float) -> Awaited | None:
        """What was kept under a token, for the session that it belongs to; None for anything else."""
        found = self._kept.get(token)
        if found is None or found[0] != session or now - found[1] >= AGE:
            return None
        del self._kept[token]
        return found[2]
