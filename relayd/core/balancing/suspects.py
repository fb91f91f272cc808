"""Suspects: the failed attempts of one call whose blame waits for what another account says.

Rule: pure bookkeeping, no clock; the pool blames. One of these per call.

Theory: a page of HTML, a bare 403 or a 500 may be the account's fault, or the prompt's. One account alone cannot tell.
If a second one answers the same call alike, it is the call's own and nobody is blamed; if it answers otherwise, the
first one is. A call that ends without a second opinion blames by the row: most rows a strike, some nobody.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from relayd.core.balancing.account_state import Lease
from relayd.core.balancing.failover import Deliver, Retry, Verdict

Accused = list[tuple[Lease, Retry]]


@attrs.define(eq=False)
class Suspects:
    """Of one call. `heard`: the signatures of its failures so far."""

    heard: set[str] = attrs.field(factory=set)
    _held: Accused = attrs.field(factory=list)

    def hear(self, lease: Lease, verdict: Verdict) -> Accused:
        """Take note of an attempt's verdict. Returns whom the pool is to blame now."""
        match verdict:
            case Deliver(served=True):
                return self._clear(self._held)
            case Deliver():
                return self.close()
            case Retry(alike=True):
                self._held = [pair for pair in self._held if pair[1].signature != verdict.signature]
            case Retry() if verdict.doubt:
                self.heard.add(verdict.signature)
                self._held.append((lease, verdict))
        return []

    def close(self) -> Accused:
        """The call has ended, or no account served it. Returns whom the pool is to blame; a second time nobody."""
        return self._clear(pair for pair in self._held if pair[1].doubt == "alike")

    def _clear(self, accused: Iterable[tuple[Lease, Retry]]) -> Accused:
        found, self._held = list(accused), []
        return found
