"""Circuit breaker: the gate before an account, before a model on it, or before an upstream.

Rule: `now` and `rng` are arguments; nothing here knows what stands behind the gate.

Theory: a gate is open, resting (until a time) or recovering. Two things make it rest. A *rest* was asked for (a 429
with its retry-after, a refused credential) and holds. A *strike* is one failure; a success takes one away, and the
breaker trips when failures outnumber successes by the configured number within its window, so that a few errors among
many answers never do. Such a rest is *soft*: it is our guess, and the pool overrides it rather than serve nobody.
After either rest the gate recovers: one call may be on trial, and each success doubles that, until the gate is open.
A failed trial of a soft gate rests it again, for twice as long. Waiters therefore never stampede. A rest of more than a
day lets one call a day ask whether it is still true.
Source: outlier ejection in Envoy (ejection times grow with a cap of 300 s); "Exponential Backoff And Jitter" (AWS).
"""

from __future__ import annotations

import random

import attrs

from relayd.config.snapshot import Breaker
from relayd.core.balancing.blame import FailureKind

JITTER = 0.2  # share of a rest that is added at random, so that nodes and accounts do not come back at one instant
_MOST_JITTER = 30.0  # s; a fifth of a five-hour rest would be an hour of nothing
_LONGEST_SOFT = 300.0  # s
_DAY = 86400.0  # s; who rests longer is asked once a day whether it still has to
_SKEW = 60.0  # s by which the clocks of nodes may differ
_FULL = 32  # calls on trial at once, from which on the gate is simply open: five successes


@attrs.define(eq=False, kw_only=True)
class Gate:
    """One gate.

    Args:
        until: end of the rest, Unix time, s.
        kind, reason: of the fault that made it rest.
        soft: whether the rest is the breaker's guess.
        level: rests in a row of the breaker, without a full recovery.
        ramp: calls that may be on trial at once; 0 = open.
        trials: calls on trial now.
        round: counts the rests; a trial of an earlier round proves nothing about this one.
        strikes: times of failures that no success has made up for.
        changed: when anything of the above but trials and strikes changed last.
    """

    until: float = 0.0
    kind: FailureKind = "outage"
    reason: str = ""
    soft: bool = False
    level: int = 0
    ramp: int = 0
    trials: int = 0
    round: int = 0
    strikes: list[float] = attrs.field(factory=list)
    changed: float = 0.0

    @property
    def open(self) -> bool:
        """Neither resting nor recovering."""
        return self.ramp == 0

    def admits(self, now: float) -> bool:
        """Whether one more call may go through now."""
        if self.ramp == 0:
            return True
        return self.trials < self.ramp if now >= self.until else self.trials == 0 and self.to_be_asked(now)

    def to_be_asked(self, now: float) -> bool:
        """Whether a rest that has lasted a day, and would go on, is to be questioned by one call."""
        return self.ramp > 0 and self.until > now >= self.changed + _DAY

    def set_back(self, seconds: float) -> None:
        """The clock was set back by so much: a rest lasts no longer for it."""
        self.until, self.changed = max(0.0, self.until - seconds), max(0.0, self.changed - seconds)
        self.strikes = [at - seconds for at in self.strikes]

    def redate(self, now: float) -> bool:
        """Forget a rest that began further in the future than it lasts: the clock was wrong then. Returns whether."""
        self.strikes = [at for at in self.strikes if at <= now + _SKEW]
        if self.changed - now <= max(self.until - self.changed, _SKEW):
            return False
        self.reopen(0.0)
        return True

    def resting(self, now: float) -> bool:
        """Whether the rest is not over. Recovery comes after it."""
        return self.ramp > 0 and now < self.until

    def rest(self, seconds: float, kind: FailureKind, reason: str, now: float, rng: random.Random) -> bool:
        """Rest as was asked for. A rest that already lasts longer stands. Returns whether it had not been resting."""
        fresh = not self.resting(now) or self.soft
        until = now + jittered(seconds, rng)
        if not fresh and until <= self.until:
            self._answered(now)
            return False
        self._close(until, kind, reason, False, now)
        return fresh

    def hold(self, until: float, reason: str, now: float) -> None:
        """Rest until then, whatever was before: a person has decided it."""
        self._close(until, "rate", reason, False, now)

    def strike(
        self,
        breaker: Breaker,
        seconds: float,
        kind: FailureKind,
        reason: str,
        now: float,
        rng: random.Random,
        trial: bool,
    ) -> bool:
        """Note a failure. Returns whether the breaker tripped by it.

        Args:
            seconds: length of the first rest; doubles with each rest in a row.
            trial: whether the call that failed was on trial here.
        """
        if self.resting(now):
            self._answered(now)
            return False
        self.strikes = [at for at in self.strikes if at > now - breaker.window]
        self.strikes.append(now)
        if not (trial and self.soft and self.ramp) and len(self.strikes) < breaker.failures:
            return False
        length = min(_LONGEST_SOFT, seconds * 2**self.level)
        level = min(self.level + 1, 16)
        self._close(now + jittered(length, rng), kind, reason, True, now)
        self.level = level
        self.strikes.clear()
        return True

    def succeed(self, now: float, trial: bool) -> bool:
        """Note a success. Returns whether the gate is open again by it.

        Args:
            trial: whether the call was on trial here. One that began before the rest proves nothing about it.
        """
        if self.strikes:
            del self.strikes[0]
        if not trial or self.ramp == 0:
            return False
        self.until = min(self.until, now)  # a soft rest that was overridden, and wrongly guessed
        self.ramp *= 2
        self.changed = now
        if self.ramp < _FULL:
            return False
        self.reopen(now)
        return True

    def reopen(self, now: float) -> None:
        """Be open, as if nothing had been."""
        self.until, self.ramp, self.level, self.soft, self.reason = 0.0, 0, 0, False, ""
        self.strikes.clear()
        self.changed = now

    def _answered(self, now: float) -> None:
        """It was asked whether it still has to rest, and has to: for a day nobody asks again."""
        if self.to_be_asked(now):
            self.changed = now

    def _close(self, until: float, kind: FailureKind, reason: str, soft: bool, now: float) -> None:
        self.until, self.kind, self.reason, self.soft = until, kind, reason, soft
        self.ramp, self.changed = 1, now
        self.round += 1


def jittered(seconds: float, rng: random.Random) -> float:
    """A rest of `seconds`, longer by up to a fifth and half a minute."""
    return seconds + rng.random() * min(seconds * JITTER, _MOST_JITTER)
