"""Estimates of usage: what is booked where a report could not be read, or never came.

Rule: never less than what was read, and what is put in the place of the rest is never more than the call could use.
What an answer says of its usage wrongly, or a client that leaves before the answer says it, must neither make a call
free nor cost a key more than the call could.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from relayd.core.quota.call_estimate import Estimate
from relayd.wire.usage import Usage

WARN_EVERY = 3600.0  # s between two warnings about the same fields of one account
MOST_KNOWN = 1000  # pairs that are remembered

_OF_THE_PROMPT = ("input", "cache_write_5m", "cache_write_1h", "cache_read")


def completed(usage: Usage, reserved: Estimate) -> Usage:
    """`usage` with the estimate of the fields in doubt.

    Args:
        reserved: for the call; its prompt is that of all kinds together.
    """
    prompt = bool(usage.doubts & {*_OF_THE_PROMPT, "iterations"})
    output = bool(usage.doubts & {"output", "iterations"})
    if not prompt and not output:
        return usage
    return attrs.evolve(
        usage,
        input=usage.input + (max(0, reserved.input - usage.prompt) if prompt else 0),
        output=max(usage.output, reserved.output) if output else usage.output,
        free=False,
    )


def without_last_word(reported: Usage, passed: Usage, likely: int, most: int) -> Usage:
    """The usage of a stream that has not told its output: left, cut, or ended without a word.

    Thinking that is not shown passes no bytes, so the time that the model had is the other witness.

    Args:
        reported: as far as the stream has told.
        passed: the same, with its output estimated from the text that has passed.
        likely: tokens that the model writes in the time that it had.
        most: tokens that the call may write.
    """
    return attrs.evolve(reported, output=max(reported.output, min(max(passed.output, likely), most)))


@attrs.define(eq=False)
class RareWarnings:
    """Which warnings about what upstreams say are due: the first of each account and set of names, then one an hour.

    Args:
        wall: Unix time, s.
    """

    wall: Callable[[], float]
    _warned: dict[tuple[str, tuple[str, ...]], float] = attrs.field(factory=dict, init=False)

    def due(self, account: str, names: Iterable[str]) -> tuple[str, ...]:
        """The names to warn about now, sorted; () for none."""
        fields = tuple(sorted(names))
        last, now = self._warned.get((account, fields)), self.wall()
        if not fields or (last is not None and 0 <= now - last < WARN_EVERY):
            return ()
        if len(self._warned) >= MOST_KNOWN:
            self._warned.clear()
        self._warned[account, fields] = now
        return fields
