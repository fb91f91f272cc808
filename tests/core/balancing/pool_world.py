"""A small world for the pool: calls are delivered as the relay does it, but upstreams are functions and time stands."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import builders

from relayd.config.snapshot import Routing, Snapshot
from relayd.core.balancing.failover import Deliver, Retry, Verdict, judge, may_retry
from relayd.core.balancing.outcomes import Answered, Outcome, Unreachable
from relayd.core.balancing.pool import Lease, Picked, Pool, Unavailable
from relayd.core.balancing.retry_budget import RetryBudget
from relayd.core.balancing.suspects import Accused, Suspects
from relayd.wire.http import Headers

NOW = 1_790_000_000.0
MODEL = "claude-sonnet-4-5"
GOOD = Answered(status=200, first_event="message_start")
Upstream = Callable[[str], Outcome]  # account id to outcome


def answered(status: int, error_type: str = "", message: str = "", **headers: str) -> Answered:
    return Answered(status=status, error_type=error_type, message=message, headers=builders.headers(**headers))


def first_error(error_type: str, **headers: str) -> Answered:
    said = builders.headers(**headers)
    return Answered(status=200, first_event="error", error_type=error_type, headers=said)


def accounts(*names: str, **fields: Any) -> tuple[Any, ...]:
    """API-key accounts at one origin."""
    return tuple(builders.account(name, kind="api-key", **fields) for name in names)


def snapshot(*members: Any, routing: Routing | None = None, **fields: Any) -> Snapshot:
    return builders.snapshot(accounts=members, relay={"routing": routing or Routing()}, **fields)


def headers_of(outcome: Outcome) -> Headers | None:
    return outcome.headers if isinstance(outcome, Answered) else None


def observe_alone(pool: Pool, lease: Lease, verdict: Verdict, outcome: Outcome, now: float, rng: random.Random) -> Any:
    """What the pool learns from a call that had this one attempt. Returns what turned."""
    if lease.observed:
        return None
    suspects = Suspects()
    change = pool.observe(lease, verdict, headers_of(outcome), now, rng)
    for accused, doubted in suspects.hear(lease, verdict) + suspects.close():
        change = pool.accuse(accused, doubted, now, rng) or change
    return change


@attrs.frozen
class Delivered:
    """How a call ended: the outcome passed on, and every attempt as (account, verdict)."""

    outcome: Outcome | Unavailable
    attempts: list[tuple[str, Verdict]]

    @property
    def served_by(self) -> str:
        return self.attempts[-1][0] if self.attempts and isinstance(self.attempts[-1][1], Deliver) else ""

    @property
    def tried(self) -> list[str]:
        return [account for account, _ in self.attempts]


@attrs.define
class World:
    snapshot: Snapshot
    now: float = NOW
    pool: Pool = attrs.field(factory=Pool)
    rng: random.Random = attrs.field(factory=lambda: random.Random(7))
    budget: RetryBudget = attrs.field(factory=RetryBudget)
    model: str = MODEL
    groups: tuple[str, ...] = ("default",)

    def __attrs_post_init__(self) -> None:
        self.pool.adopt(self.snapshot, self.now)

    def pick(self, **fields: Any) -> Picked | Unavailable:
        fields = {"model": self.model, "groups": self.groups, **fields}
        return self.pool.pick(self.snapshot, now=self.now, rng=self.rng, **fields)

    def judge(self, outcome: Outcome, **fields: Any) -> Verdict:
        cooldown = self.snapshot.relay.routing.cooldown
        return judge(outcome, cooldown=cooldown, now=self.now, **{"model": self.model, **fields})

    def attempt(self, account: str, outcome: Outcome) -> Verdict:
        """One whole attempt on an account, of no duration."""
        lease = self.pool.begin(account, self.model, self.now)
        verdict = self.judge(outcome)
        observe_alone(self.pool, lease, verdict, outcome, self.now, self.rng)
        self.pool.end(lease, self.now)
        return verdict

    def deliver(self, upstream: Upstream, attempts: int = 3, affinity: str | None = None) -> Delivered:
        """One call: pick, judge, observe, until something is delivered or nothing is left to try."""
        self.budget.earn()
        tried: list[tuple[str, Verdict]] = []
        excluded: set[str] = set()
        last: Outcome | None = None
        suspects = Suspects()
        while True:
            picked = self.pick(affinity=affinity, excluded=excluded)
            if isinstance(picked, Unavailable):
                self._accuse(suspects.close())
                return Delivered(picked if last is None else last, tried)
            account = picked.account
            excluded.add(account)
            lease = self.pool.begin(account, self.model, self.now)
            last = upstream(account)
            verdict = self.judge(last, attempt=len(tried), heard=suspects.heard)
            self.pool.observe(lease, verdict, headers_of(last), self.now, self.rng)
            self._accuse(suspects.hear(lease, verdict))
            self.pool.end(lease, self.now)
            tried.append((account, verdict))
            if isinstance(verdict, Deliver) or not self._more(verdict, attempts - len(excluded)):
                self._accuse(suspects.close())
                return Delivered(last, tried)

    def _accuse(self, accused: Accused) -> None:
        for lease, verdict in accused:
            self.pool.accuse(lease, verdict, self.now, self.rng)

    def _more(self, verdict: Retry, left: int) -> bool:
        return may_retry(verdict, attempts_left=left, budget=self.budget, deadline=self.now + 3600, now=self.now)


def unreachable(kind: Any, **fields: Any) -> Unreachable:
    return Unreachable(kind=kind, **fields)
