"""Audit: who did what on the pages, when, from where, and what came of it.

Rule: each act is a line `admin.audit` in the log; the newest are kept here, for the page. Nothing secret is an act's
subject.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

import attrs

from relayd.daemon.log import scrub
from relayd.noun import noun

MOST_KEPT = 1000

log = logging.getLogger("relayd.admin")


@noun(kw_only=True)
class AuditEntry:
    """One act.

    Args:
        who: the visitor's name; of a failed sign-in the name that was given.
        what: a word such as "sign-in", "key.disable", "reload".
        subject: what it was done to.
        result: "ok", or why not.
        at: Unix time, s.
    """

    at: float
    who: str
    what: str
    address: str
    subject: str = ""
    result: str = "ok"


@attrs.define(eq=False)
class AuditTrail:
    """The newest acts on this node."""

    _acts: deque[AuditEntry] = attrs.field(factory=lambda: deque(maxlen=MOST_KEPT), init=False)

    def note(self, act: AuditEntry) -> None:
        """Write an act down."""
        act = attrs.evolve(act, who=_tame(act.who), subject=_tame(act.subject), result=_tame(act.result))
        self._acts.appendleft(act)
        fields = {"who": act.who, "what": act.what, "from": act.address, "subject": act.subject, "result": act.result}
        log.info("admin.audit", extra=fields)

    def newest(self) -> Iterable[AuditEntry]:
        """The acts that are kept, the newest first."""
        return iter(self._acts)


def _tame(text: str) -> str:
    """What a visitor gave, as far as it may be read in a log."""
    return scrub("".join(char if char.isprintable() else " " for char in text)[:200])
