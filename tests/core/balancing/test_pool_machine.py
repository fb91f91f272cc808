"""The pool under any history: a model beside it keeps what must hold."""

from __future__ import annotations

import random
from typing import Any

import attrs
from builders import account
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pool_world import GOOD, MODEL, NOW, answered, first_error, observe_alone, snapshot, unreachable

from relayd.config.snapshot import Account, Routing
from relayd.core.balancing.failover import Deliver, judge
from relayd.core.balancing.outcomes import Outcome
from relayd.core.balancing.pool import Lease, Picked, Pool, Unavailable

IDS = ("a", "b", "c")
LIMIT = {"a": 0, "b": 3, "c": 1}
# Outcomes, each with the seconds that the account must then be left alone, if any.
OUTCOMES: list[tuple[Outcome, float]] = [
    (GOOD, 0.0),
    (answered(400, "invalid_request_error"), 0.0),
    (answered(500), 0.0),
    (answered(529), 0.0),
    (unreachable("connect"), 0.0),
    (unreachable("timeout"), 0.0),
    (first_error("overloaded_error"), 0.0),
    (answered(429, retry_after="60"), 60.0),
    (answered(429, retry_after="7"), 7.0),
    (answered(503, retry_after="20"), 20.0),
    (answered(401, "authentication_error"), 1800.0),
]


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.rng = random.Random(11)
        self.pool = Pool()
        self.leases: list[Lease] = []
        self.left_alone: dict[str, float] = dict.fromkeys(IDS, 0.0)
        self.members: dict[str, Account] = {
            name: account(name, kind="api-key", max_concurrency=LIMIT[name]) for name in IDS
        }
        self.routing = Routing()
        self.compile()

    def compile(self) -> None:
        self.snapshot = snapshot(*self.members.values(), routing=self.routing)

    def pick(self, **fields: Any) -> Picked | Unavailable:
        return self.pool.pick(self.snapshot, ("default",), MODEL, now=self.now, rng=self.rng, **fields)

    def running(self, name: str) -> int:
        return sum(lease.account == name for lease in self.leases)

    def fits(self, name: str) -> bool:
        return LIMIT[name] == 0 or self.running(name) < LIMIT[name]

    @rule(affinity=st.sampled_from([None, *IDS]), excluded=st.sets(st.sampled_from(IDS), max_size=2))
    def begin(self, affinity: str | None, excluded: set[str]) -> None:
        free = {reason.account for reason in self.explain() if reason.ok}
        found = self.pick(affinity=affinity, excluded=excluded)
        match found:
            case Picked(account=name):
                assert name not in excluded
                assert self.members[name].enabled
                assert self.fits(name)
                assert self.now >= self.left_alone[name]
                assert (found.reason == "last resort") == (not free - excluded)
                if affinity in free - excluded:
                    assert name == affinity
                self.leases.append(self.pool.begin(name, MODEL, self.now))
            case Unavailable():
                assert not free - excluded
                assert (found.kind == "none") == (not any(member.enabled for member in self.members.values()))
                assert found.until > self.now
                for name in set(IDS) - excluded:  # whom only a breaker could hold is not refused
                    assert not self.members[name].enabled or not self.fits(name) or self.left_alone[name] > 0

    def explain(self) -> list[Any]:
        return self.pool.explain(self.snapshot, ("default",), MODEL, now=self.now)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 9), found=st.sampled_from(OUTCOMES), keep=st.booleans())
    def observe(self, which: int, found: tuple[Outcome, float], keep: bool) -> None:
        lease = self.leases[which % len(self.leases)]
        outcome, alone = found
        verdict = judge(outcome, cooldown=self.routing.cooldown, now=self.now, model=MODEL)
        if not lease.observed and lease.health is lease.state.whole and not isinstance(verdict, Deliver):
            self.left_alone[lease.account] = max(self.left_alone[lease.account], self.now + alone if alone else 0.0)
        observe_alone(self.pool, lease, verdict, outcome, self.now, self.rng)
        if not keep:
            self.end(which)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 9))
    def end(self, which: int) -> None:
        lease = self.leases.pop(which % len(self.leases))
        self.pool.end(lease, self.now)
        self.pool.end(lease, self.now)

    @rule(seconds=st.sampled_from([0.001, 1.0, 9.0, 30.0, 75.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=st.sampled_from(IDS))
    def wait_for(self, name: str) -> None:
        """To the moment when an account may be tried again, where the interesting things happen."""
        if name in self.pool._states:
            self.now = max(self.now, self.pool._states[name].whole.gate.until)

    @rule(name=st.sampled_from(IDS), enabled=st.booleans())
    def switch(self, name: str, enabled: bool) -> None:
        self.members[name] = attrs.evolve(self.members[name], enabled=enabled)
        self.compile()

    @rule(strategy=st.sampled_from(["balanced", "priority", "round-robin"]))
    def change_strategy(self, strategy: Any) -> None:
        self.routing = attrs.evolve(self.routing, strategy=strategy)
        self.compile()

    @rule(name=st.sampled_from(IDS), number=st.integers(0, 1000))
    def change_credential(self, name: str, number: int) -> None:
        before = self.members[name]
        credential = attrs.evolve(before.credential, sealed=f"rlsec1{number}")
        self.members[name] = attrs.evolve(before, credential=credential)
        if credential != before.credential:
            self.left_alone[name] = 0.0
        self.compile()
        self.pool.adopt(self.snapshot, self.now)

    @rule(name=st.sampled_from(IDS))
    def restart(self, name: str) -> None:
        state = self.pool.snapshot_health(name) if name in self.pool._states else {}
        other = Pool()
        other.adopt(self.snapshot, self.now)
        if other.load_health(name, state, self.now):
            reasons = [
                {one.account: one.ok for one in pool.explain(self.snapshot, ("default",), MODEL, now=self.now)}
                for pool in (other, self.pool)
            ]
            assert reasons[0][name] or not reasons[1][name]

    @invariant()
    def counts_agree(self) -> None:
        for name in IDS:
            assert self.pool.in_flight(name) == self.running(name)
        for state in self.pool._states.values():
            for gate in (state.whole.gate, state.origin, *(one.gate for one in state.models.values())):
                assert 0 <= gate.trials <= len(self.leases)

    def teardown(self) -> None:
        """Whatever happened, every account recovers, by its own calls alone."""
        while self.leases:
            self.end(0)
        self.now += 86400
        for name in IDS:
            self.members[name] = attrs.evolve(self.members[name], enabled=True)
            self.compile()
            others = set(IDS) - {name}
            for _ in range(6):
                found = self.pick(excluded=others)
                assert isinstance(found, Picked)
                assert found.account == name
                lease = self.pool.begin(name, MODEL, self.now)
                self.pool.observe(lease, Deliver(), None, self.now, self.rng)
                self.pool.end(lease, self.now)
        assert all(reason.ok for reason in self.explain())
        assert all(state.calm for state in self.pool._states.values())


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(deadline=None, max_examples=150, stateful_step_count=50)
