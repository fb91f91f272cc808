"""Pool: which account serves, and what is learnt from how it went.

Rule: sync and free of I/O; `now` (Unix time, s) and `rng` are arguments. `begin`, `observe` and `end` must work in a
`finally`, under cancellation: they never wait, and doing them twice is doing them once.

Theory: what is known of an account (standing.py) outlives configs and, shared as JSON, restarts. A conversation stays
on its account while that can serve; else the key's groups are asked in order, in each the lowest priority number, and
within one priority the strategy chooses (strategy.py) among those whom nothing holds (holds.py).
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any, Literal

import attrs

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import Account, Routing, Snapshot
from relayd.core.balancing.account_state import AccountState, Health, Lease, health_state, identity_of, merge_health
from relayd.core.balancing.breaker import Gate
from relayd.core.balancing.candidates import Candidate, Candidates, build_roster
from relayd.core.balancing.eligibility import Wanted, free, hold_of, holds_of, well
from relayd.core.balancing.explain import Block, Reason, Unavailable, refusal_of, unavailable
from relayd.core.balancing.failover import Deliver, FailureKind, Retry, Verdict
from relayd.core.balancing.headroom import read_gauges
from relayd.core.balancing.strategy import choose, last_resort
from relayd.wire.http import Headers

__all__ = ["HealthChange", "Lease", "Picked", "Pool", "Unavailable", "refusal_of"]

_LEARN_EVERY = 0.2  # s between two readings of the headers of good answers; a reading costs as much as a choice
_REVIEW = 5.0  # s between reviews of every account's windows, whose time runs on without an answer
_ROSTERS = 512  # kept per snapshot; model names come from clients, so there is a bound


@attrs.frozen
class Picked:
    """An account to try. `reason`: "affinity", a strategy, or "last resort" (only a breaker was against it)."""

    account: str
    reason: str


@attrs.frozen
class HealthChange:
    """A turn in an account's health, for alerts and the log.

    Args:
        what: "out" it rests; "credential" it rests until its credential is seen to; "recovered" it serves
            in full again.
        until: Unix time, s; 0.0 with "recovered".
    """

    account: str
    what: Literal["out", "credential", "recovered"]
    reason: str
    until: float


@attrs.define(eq=False)
class Pool:
    """The accounts of this process at run time."""

    _snapshot: Snapshot | None = None
    _routing: Routing = attrs.field(factory=Routing)
    _standings: dict[str, AccountState] = attrs.field(factory=dict)
    _origins: dict[str, Gate] = attrs.field(factory=dict)
    _rosters: dict[tuple[tuple[str, ...], str], Candidates] = attrs.field(factory=dict)
    _changed: set[str] = attrs.field(factory=set)
    _reviews: int = 0
    _next_review: float = 0.0

    # --- choosing

    def pick(
        self,
        snapshot: Snapshot,
        groups: tuple[str, ...],
        model: str,
        *,
        now: float,
        rng: random.Random,
        affinity: str | None = None,
        excluded: Collection[str] = (),
    ) -> Picked | Unavailable:
        """Choose an account for one attempt. Asking changes nothing; `begin` does.

        Args:
            snapshot: the newest one.
            groups: the key's, in order of preference.
            model: after relayd's aliases, before an account's `model_map`; "" where the endpoint has none.
            affinity: the account of this conversation so far.
            excluded: accounts that this call has tried.
        """
        roster = self._roster(snapshot, groups, model, now)
        if affinity is not None and affinity not in excluded:
            home = roster.by_id.get(affinity)
            if home is not None and free(home, model, now):
                return Picked(affinity, "affinity")
        ask = Wanted(model, excluded, now)
        for tiers in roster.groups:
            for tier in tiers:
                chosen = choose(self._routing.strategy, tier, ask, rng, self._reviews)
                if chosen is not None:
                    return Picked(chosen.id, self._routing.strategy)
        chosen = last_resort(roster, ask, rng)
        if chosen is not None:
            return Picked(chosen.id, "last resort")
        return unavailable([*holds_of(roster, ask), *roster.never], model)

    def _roster(self, snapshot: Snapshot, groups: tuple[str, ...], model: str, now: float) -> Candidates:
        self.adopt_if_new(snapshot, now)
        if now >= self._next_review:
            self._review(now)
        roster = self._rosters.get((groups, model))
        if roster is None:
            if len(self._rosters) >= _ROSTERS:
                self._rosters.clear()
            roster = self._rosters[groups, model] = build_roster(snapshot, groups, model, self._candidate)
        return roster

    def explain(self, snapshot: Snapshot, groups: tuple[str, ...], model: str, *, now: float) -> list[Reason]:
        """Each account of `groups`: would it serve such a call now, and why (not)? Those that would come first."""
        roster = self._roster(snapshot, groups, model, now)
        reasons = []
        for one in roster.by_id.values():
            hold = hold_of(one, model, now)
            reasons.append(Reason(one.id, hold is None, well(one, now) if hold is None else hold.text(now)))
        reasons.sort(key=lambda reason: not reason.ok)
        return reasons + [Reason(hold.account, False, hold.text(now)) for hold in roster.never]

    # --- one attempt

    def begin(self, account: str, model: str, now: float) -> Lease:
        """Take the right to one attempt on an account that `pick` gave. The caller ends it.

        Args:
            model: as for `pick`; "" also for token counting, whose limits are not the model's.
        """
        standing = self._standings[account]
        standing.in_flight += 1
        standing.used = now
        standing.turn = standing.next_turn
        if standing.pace:
            standing.starts.append(now)
        lease = Lease(account=account, model=model, began=now, standing=standing, health=standing.whole)
        if not standing.calm or standing.origin.ramp:
            gates = [gate for gate in self._gates(lease) if gate.ramp]
            for gate in gates:
                gate.trials += 1
            lease.trials = tuple((gate, gate.round) for gate in gates)
        return lease

    def _gates(self, lease: Lease) -> list[Gate]:
        gates = [lease.health.gate, lease.standing.origin]
        health = lease.standing.models.get(lease.model)
        return gates if health is None else [*gates, health.gate]

    def end(self, lease: Lease, now: float) -> None:
        """Give the right back. A second time does nothing."""
        if not lease.ended:
            lease.release_trials()
            lease.ended = True
            lease.observed = True  # nothing is learnt from what came of it after its end
            lease.standing.in_flight -= 1

    def observe(
        self, lease: Lease, verdict: Verdict, headers: Headers | None, now: float, rng: random.Random
    ) -> HealthChange | None:
        """Learn from an attempt's outcome, once per lease.

        Args:
            headers: of the upstream's answer; None when there was none.

        Returns: what turned by it, for alerts.
        """
        if lease.observed:
            return None
        lease.release_trials()
        lease.observed = True
        standing = lease.standing
        if standing.whole is not lease.health:
            return None  # that was another credential
        # An account that answers well is asked again soon; what fails is always read.
        fresh = isinstance(verdict, Deliver) and 0 <= now - lease.health.seen < _LEARN_EVERY
        learnt = headers is not None and not fresh and self._learn(lease, headers, now)
        match verdict:
            case Deliver():
                change = self._praise(lease, now)
            case Retry():
                change = self._blame(lease, verdict, now, rng)
        if learnt or change is not None or not standing.calm or isinstance(verdict, Retry):
            standing.measure(self._routing.reserve, now)
            self._changed.add(standing.id)
        return change

    def _learn(self, lease: Lease, headers: Headers, now: float) -> bool:
        gauges = read_gauges(headers, now)
        lease.health.learn([gauge for gauge in gauges if gauge.scope == "account"], now)
        of_model = [gauge for gauge in gauges if gauge.scope == "model"]
        if of_model and lease.model:
            lease.standing.model(lease.model).learn(of_model, now)
        return bool(gauges)

    def _praise(self, lease: Lease, now: float) -> HealthChange | None:
        reopened = [gate.succeed(now, lease.on_trial(gate)) for gate in self._gates(lease)]
        return HealthChange(lease.account, "recovered", "", 0.0) if any(reopened) else None

    def _blame(self, lease: Lease, verdict: Retry, now: float, rng: random.Random) -> HealthChange | None:
        origin = lease.standing.origin
        if verdict.status and verdict.kind != "overload":
            origin.succeed(now, lease.on_trial(origin))  # whatever it said, it was there to say it
        match verdict.scope:
            case "none":
                return None
            case "model":
                if not lease.model:
                    return None
                gate = lease.standing.model(lease.model).gate
            case "upstream":
                self._strike(lease, origin, verdict, now, rng)
                if verdict.kind != "overload":
                    return None
                gate = lease.health.gate
            case "account":
                gate = lease.health.gate
        if verdict.strike:
            turned = self._strike(lease, gate, verdict, now, rng)
        else:
            turned = gate.rest(verdict.cooldown, verdict.kind, verdict.reason, now, rng)
        what: Literal["out", "credential"] = "credential" if verdict.kind == "auth" else "out"
        return HealthChange(lease.account, what, verdict.reason, gate.until) if turned else None

    def _strike(self, lease: Lease, gate: Gate, verdict: Retry, now: float, rng: random.Random) -> bool:
        trial = lease.on_trial(gate)
        return gate.strike(self._routing.breaker, verdict.cooldown, verdict.kind, verdict.reason, now, rng, trial)

    # --- config, and what others know

    def hold(self, hold: Block) -> None:
        """The state store says that an account has no room, whatever this process knows."""
        standing = self._standings.get(hold.account)
        if standing is not None:
            standing.elsewhere = hold

    def adopt_if_new(self, snapshot: Snapshot, now: float) -> None:
        """Go by a snapshot, unless it is the one that this pool goes by already."""
        if snapshot is not self._snapshot:
            self.adopt(snapshot, now)

    def adopt(self, snapshot: Snapshot, now: float) -> None:
        """Go by a new snapshot. An account with another credential or origin starts anew; others keep their health."""
        self._snapshot, self._routing = snapshot, snapshot.relay.routing
        self._rosters.clear()
        for account in snapshot.accounts.values():
            self._adopt_account(account, account.base_url or snapshot.relay.upstream.base_url)
        gone = [name for name in self._standings if name not in snapshot.accounts]
        for name in gone:
            if not self._standings[name].in_flight:
                del self._standings[name]
        used = {id(standing.origin) for standing in self._standings.values()}
        self._origins = {name: gate for name, gate in self._origins.items() if id(gate) in used}
        self._review(now)

    def _adopt_account(self, account: Account, base_url: str) -> None:
        way = f"simulator {account.id}" if ACCOUNT_KINDS[account.kind].in_process else f"{base_url} {account.proxy}"
        origin = self._origins.setdefault(way, Gate())
        identity = identity_of(account, base_url)
        standing = self._standings.get(account.id)
        if standing is None:
            standing = self._standings[account.id] = AccountState(id=account.id, identity=identity, origin=origin)
        if standing.identity != identity:
            standing.clear()
            standing.identity, standing.origin = identity, origin
            self._changed.add(account.id)
        standing.pace = account.pace.requests_per_minute
        standing.elsewhere = None  # its ceilings may have been raised

    def _candidate(self, account: Account) -> Candidate:
        standing = self._standings[account.id]
        return Candidate(
            id=account.id,
            standing=standing,
            origin=standing.origin,
            priority=account.priority,
            weight=account.weight,
            limit=account.max_concurrency,
            pace=account.pace.requests_per_minute,
            plain=not (account.max_concurrency or account.pace.requests_per_minute),
        )

    def _review(self, now: float) -> None:
        self._reviews += 1
        self._next_review = now + _REVIEW
        for standing in self._standings.values():
            if not standing.calm or standing.whole.gauges or standing.models:
                standing.measure(self._routing.reserve, now)

    def restore(self, account: str, now: float) -> None:
        """Let an account serve at once: a test of it succeeded, or its credential was renewed."""
        standing = self._standings[account]
        for health in (standing.whole, *standing.models.values()):
            health.gate.reopen(now)
        standing.measure(self._routing.reserve, now)
        self._changed.add(account)

    def in_flight(self, account: str) -> int:
        """Attempts on an account that have not ended."""
        standing = self._standings.get(account)
        return 0 if standing is None else standing.in_flight

    def last_used(self, account: str) -> float:
        """When the last attempt on an account began, Unix time, s; 0.0 = never in this process."""
        standing = self._standings.get(account)
        return 0.0 if standing is None else standing.used

    def resting(self, account: str, now: float) -> tuple[FailureKind, float, str] | None:
        """Why an account as a whole rests: kind, until (Unix time, s), reason. None when it does not."""
        gate = self._standings[account].whole.gate
        return (gate.kind, gate.until, gate.reason) if gate.resting(now) else None

    def take_changed(self) -> set[str]:
        """Accounts whose health is to be shared since this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def snapshot_health(self, account: str) -> dict[str, Any]:
        """An account's health as JSON, for other nodes and for after a restart."""
        standing = self._standings[account]
        models = {name: health_state(health) for name, health in standing.models.items()}
        return {"v": 1, "identity": standing.identity, "account": health_state(standing.whole), "models": models}

    def load_health(self, account: str, state: dict[str, Any], now: float) -> bool:
        """Merge what another node, or this one before a restart, knew: for each part the later knowledge stands.

        Returns: whether anything was new. What is about another credential, or cannot be read, is not taken.
        """
        standing = self._standings.get(account)
        if standing is None or state.get("v") != 1 or state.get("identity") != standing.identity:
            return False
        try:
            pairs: list[tuple[Health, dict[str, Any]]] = [(standing.whole, state["account"])]
            pairs += [(standing.model(str(name)), part) for name, part in state["models"].items()]
            taken = [merge_health(health, part) for health, part in pairs]
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        finally:
            standing.measure(self._routing.reserve, now)
        return any(taken)
