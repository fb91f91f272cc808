"""Retry budget: how many second tries a relay may cost its upstreams.

Theory: a token bucket fed by calls. Each call earns a tenth of a token, each further attempt costs one, so that an
upstream that fails every call sees at most 1.1 attempts a call, and the bucket's content once on top. Without it, three
attempts a call would triple the load on an upstream at the moment when it can least bear it.
Source: "Handling Overload" in Google's "Site Reliability Engineering" (retry budget of 10 %).
"""

from __future__ import annotations

import attrs

EARNED = 0.1  # tokens a call earns
CAP = 20.0  # tokens; a burst of 20 calls may fail over at once, and over 1,000 calls the whole is 1.12 attempts a call


@attrs.define(eq=False)
class RetryBudget:
    """One bucket for all calls of this process. Starts full."""

    tokens: float = CAP

    def earn(self) -> None:
        """A call has come."""
        self.tokens = min(CAP, self.tokens + EARNED)

    def spend(self) -> bool:
        """Take a token for one further attempt. False, and nothing taken, when there is none."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True
