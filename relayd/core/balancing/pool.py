"""Account pool: which account serves, and what is learnt from how it went.

Rule: sync and free of I/O; `now` (Unix time, s) and `rng` are arguments. `begin`, `observe` and `end` must work in a
`finally`, under cancellation: they never wait, and doing them twice is doing them once.

Theory: what is known of an account (account_state.py) outlives configs and, shared as JSON, restarts. A conversation
stays on its account while that can serve; else the key's groups are asked in order, in each the lowest priority number,
and within one priority the strategy chooses (strategy.py) among those that nothing blocks (eligibility.py).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Literal

import attrs

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import Account, Routing, Snapshot
from relayd.core.balancing.account_state import (
    MINUTE,
    AccountState,
    Health,
    Lease,
    health_state,
    identity_of,
    merge_health,
)
from relayd.core.balancing.blame import FailureKind
from relayd.core.balancing.breaker import Gate
from relayd.core.balancing.candidates import Candidate, Candidates, build_candidates
from relayd.core.balancing.eligibility import Wanted, block_of, blocks_of, free, health_block, well
from relayd.core.balancing.explain import Block, Reason, Unavailable, refusal_of, unavailable
from relayd.core.balancing.failover import Deliver, Retry, Verdict
from relayd.core.balancing.headroom import Gauge, read_gauges
from relayd.core.balancing.strategy import choose, last_resort
from relayd.noun import noun
from relayd.wire.http import Headers

__all__ = ["HealthChange", "Lease", "Picked", "Pool", "Unavailable", "refusal_of"]

_LEARN_EVERY = 0.2  # s between two readings of the headers of good answers; a reading costs as much as a choice
_REVIEW = 5.0  # s between reviews of every account's windows, whose time runs on without an answer
_MOST_KEPT = 512  # candidates kept per snapshot; model names come from clients, so there is a bound


@noun
class Picked:
    """An account to try. `reason`: "affinity", a strategy, or "last resort" (only a breaker was against it)."""

    account: str
    reason: str


@noun
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
    _states: dict[str, AccountState] = attrs.field(factory=dict)
    _origins: dict[str, Gate] = attrs.field(factory=dict)
    _kept: dict[tuple[tuple[str, ...], str, bool], Candidates] = attrs.field(factory=dict)
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
        counting: bool = False,
    ) -> Picked | Unavailable:
        """Choose an account for one attempt. Asking changes nothing; `begin` does.

        Args:
            snapshot: the newest one.
            groups: the key's, in order of preference.
            model: after relayd's aliases, before an account's `model_map`; "" where the endpoint has none.
            affinity: the account of this conversation so far.
            excluded: accounts that this call has tried.
            counting: it counts tokens, and takes no place of an account's `max_concurrency`.
        """
        candidates = self._candidates_for(snapshot, groups, model, now, counting)
        self.review(now)
        if affinity is not None and affinity not in excluded:
            home = candidates.by_id.get(affinity)
            if home is not None and free(home, model, now):
                return Picked(affinity, "affinity")
        ask = Wanted(model, excluded, now)
        for tiers in candidates.groups:
            for tier in tiers:
                chosen = choose(self._routing.strategy, tier, ask, rng, self._reviews)
                if chosen is not None:
                    return Picked(chosen.id, self._routing.strategy)
        chosen = last_resort(candidates, ask, rng)
        if chosen is not None:
            return Picked(chosen.id, "last resort")
        return unavailable([*blocks_of(candidates, ask), *candidates.never], model)

    def _candidates_for(
        self, snapshot: Snapshot, groups: tuple[str, ...], model: str, now: float, counting: bool = False
    ) -> Candidates:
        self.adopt_if_new(snapshot, now)
        candidates = self._kept.get((groups, model, counting))
        if candidates is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            candidates = build_candidates(
                snapshot, groups, model, self._counting_candidate if counting else self._candidate
            )
            self._kept[groups, model, counting] = candidates
        return candidates

    def explain(self, snapshot: Snapshot, groups: tuple[str, ...], model: str, *, now: float) -> list[Reason]:
        """Each account of `groups`: would it serve such a call now, and why (not)? Those that would come first."""
        candidates = self._candidates_for(snapshot, groups, model, now)
        reasons = []
        for one in candidates.by_id.values():
            block = block_of(one, model, now)
            reasons.append(
                Reason(one.id, block is None, well(one, now) if block is None else block.text(now, whole=True))
            )
        reasons.sort(key=lambda reason: not reason.ok)
        return reasons + [Reason(block.account, False, block.text(now)) for block in candidates.never]

    def rests(self, snapshot: Snapshot, now: float) -> dict[str, Block]:
        """What their health keeps accounts from that the config lets serve. Those that are well are left out."""
        groups = tuple(sorted({group for account in snapshot.accounts.values() for group in account.groups}))
        candidates = self._candidates_for(snapshot, groups, "", now).by_id.values()
        found = {one.id: health_block(one, "", now) for one in candidates}
        return {name: block for name, block in found.items() if block is not None}

    # --- one attempt

    def begin(self, account: str, model: str, now: float, *, counting: bool = False) -> Lease:
        """Take the right to one attempt on an account that `pick` gave. The caller ends it.

        Args:
            model: as for `pick`; "" also for token counting, whose limits are not the model's.
            counting: as for `pick`.
        """
        state = self._states[account]
        state.in_flight += 1
        state.counting += counting
        state.used = now
        state.turn = state.next_turn
        if state.pace:
            state.starts.append(now)
        lease = Lease(account=account, model=model, began=now, state=state, health=state.whole, counting=counting)
        if not state.calm or state.origin.ramp:
            gates = [gate for gate in self._gates(lease) if gate.ramp]
            for gate in gates:
                gate.trials += 1
            lease.trials = tuple((gate, gate.round) for gate in gates)
        return lease

    def _gates(self, lease: Lease) -> list[Gate]:
        gates = [lease.health.gate, lease.state.origin]
        health = lease.state.models.get(lease.model)
        return gates if health is None else [*gates, health.gate]

    def end(self, lease: Lease, now: float) -> None:
        """Give the right back. A second time does nothing."""
        if not lease.ended:
            lease.release_trials()
            lease.ended = True
            lease.observed = True  # nothing is learnt from what came of it after its end
            lease.state.in_flight -= 1
            lease.state.counting -= lease.counting

    def observe(
        self, lease: Lease, verdict: Verdict, headers: Headers | None, now: float, rng: random.Random
    ) -> HealthChange | None:
        """Learn from an attempt's outcome, once per lease. What is in doubt is blamed by `accuse`, if ever.

        Args:
            headers: of the upstream's answer; None when there was none.

        Returns: what turned by it, for alerts.
        """
        if lease.observed:
            return None
        lease.release_trials()
        lease.observed = True
        state = lease.state
        if state.whole is not lease.health:
            return None  # that was another credential
        # An account that answers well is asked again soon; what fails is always read.
        fresh = isinstance(verdict, Deliver) and 0 <= now - state.read.get(lease.model, 0.0) < _LEARN_EVERY
        learnt = headers is not None and not fresh and self._learn(lease, headers, now)
        match verdict:
            case Deliver():
                change = self._praise(lease, now)
            case Retry():
                change = self._blame(lease, verdict, now, rng)
        if learnt or change is not None or not state.calm or isinstance(verdict, Retry):
            state.measure(self._routing.reserve, now)
            if not (isinstance(verdict, Retry) and verdict.scope == "node"):
                self._changed.add(state.id)
        return change

    def _learn(self, lease: Lease, headers: Headers, now: float) -> bool:
        lease.state.note_reading(lease.model, now)
        gauges = read_gauges(headers, now)
        lease.health.learn([gauge for gauge in gauges if gauge.scope == "account"], now)
        of_model = [gauge for gauge in gauges if gauge.scope == "model"]
        if of_model and lease.model:
            lease.state.model(lease.model).learn(of_model, now)
        return bool(gauges)

    def _praise(self, lease: Lease, now: float) -> HealthChange | None:
        reopened = [gate.succeed(now, lease.on_trial(gate)) for gate in self._gates(lease)]
        return HealthChange(lease.account, "recovered", "", 0.0) if any(reopened) else None

    def _blame(self, lease: Lease, verdict: Retry, now: float, rng: random.Random) -> HealthChange | None:
        """What is known at once: that the upstream was there, or was not, and what leaves no doubt."""
        origin = lease.state.origin
        if verdict.status and verdict.kind != "overload":
            origin.succeed(now, lease.on_trial(origin))  # whatever it said, it was there to say it
        match verdict.scope:
            case "upstream":
                self._strike(lease, origin, verdict, now, rng)
            case "node":
                lease.state.defect = verdict.reason
            case "account" | "model" if not verdict.doubt:
                return self._close(lease, verdict, now, rng)
        return None

    def accuse(self, lease: Lease, verdict: Retry, now: float, rng: random.Random) -> HealthChange | None:
        """Blame the account for a failure that was in doubt (suspects.py). Returns as `observe`."""
        state = lease.state
        if state.whole is not lease.health:
            return None  # that was another credential
        change = self._close(lease, verdict, now, rng)
        state.measure(self._routing.reserve, now)
        self._changed.add(state.id)
        return change

    def _close(self, lease: Lease, verdict: Retry, now: float, rng: random.Random) -> HealthChange | None:
        """Rest or strike the account, or the model on it."""
        if verdict.scope == "none" or (verdict.scope == "model" and not lease.model):
            return None
        gate = lease.state.model(lease.model).gate if verdict.scope == "model" else lease.health.gate
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

    def block(self, block: Block) -> None:
        """The state store says that an account has no room, whatever this process knows."""
        state = self._states.get(block.account)
        if state is not None:
            state.elsewhere = block

    def adopt_if_new(self, snapshot: Snapshot, now: float) -> None:
        """Go by a snapshot, unless it is the one that this pool goes by already."""
        if snapshot is not self._snapshot:
            self.adopt(snapshot, now)

    def adopt(self, snapshot: Snapshot, now: float) -> None:
        """Go by a new snapshot. An account with another credential or origin starts anew; others keep their health."""
        self._snapshot, self._routing = snapshot, snapshot.relay.routing
        self._kept.clear()
        for account in snapshot.accounts.values():
            self._adopt_account(account, account.base_url or snapshot.relay.upstream.base_url)
        gone = [name for name in self._states if name not in snapshot.accounts]
        for name in gone:
            if not self._states[name].in_flight:
                del self._states[name]
        used = {id(state.origin) for state in self._states.values()}
        self._origins = {name: gate for name, gate in self._origins.items() if id(gate) in used}
        self._review(now)

    def _adopt_account(self, account: Account, base_url: str) -> None:
        way = f"simulator {account.id}" if ACCOUNT_KINDS[account.kind].in_process else f"{base_url} {account.proxy}"
        origin = self._origins.setdefault(way, Gate())
        identity = identity_of(account, base_url)
        state = self._states.get(account.id)
        if state is None:
            state = self._states[account.id] = AccountState(id=account.id, identity=identity, origin=origin)
        if state.identity != identity:
            state.clear()
            state.identity, state.origin = identity, origin
            self._changed.add(account.id)
        state.pace = account.pace.requests_per_minute
        state.elsewhere = None  # its ceilings may have been raised

    def _counting_candidate(self, account: Account) -> Candidate:
        return self._candidate(attrs.evolve(account, max_concurrency=0))

    def _candidate(self, account: Account) -> Candidate:
        state = self._states[account.id]
        return Candidate(
            id=account.id,
            state=state,
            origin=state.origin,
            priority=account.priority,
            weight=account.weight,
            limit=account.max_concurrency,
            pace=account.pace.requests_per_minute,
            plain=not (account.max_concurrency or account.pace.requests_per_minute),
        )

    def review(self, now: float) -> None:
        """See what time has made of windows and rests, if that is due; also where nobody calls. `now`: this moment."""
        if not 0 < self._next_review - now <= _REVIEW:  # also after a clock was set back
            back = self._next_review - _REVIEW - now
            if back > 0.0:
                self._set_back(back)
            self._review(now)

    def _review(self, now: float) -> None:
        self._reviews += 1
        self._next_review = now + _REVIEW
        for gate in self._origins.values():
            gate.redate(now)
        for state in self._states.values():
            if state.elsewhere is not None and state.elsewhere.until > now + 2 * MINUTE:
                state.elsewhere = None  # by a wrong clock: it speaks of a minute at most
            if not state.calm or state.whole.gauges or state.models:
                healths = (state.whole, *state.models.values())
                if sum(health.gate.redate(now) for health in healths):  # of all of them
                    self._changed.add(state.id)
                state.measure(self._routing.reserve, now)

    def _set_back(self, seconds: float) -> None:
        """The clock was set back by so much, and a few s at most."""
        for gate in self._origins.values():
            gate.set_back(seconds)
        for state in self._states.values():
            state.starts = deque(at - seconds for at in state.starts)
            gates = [health.gate for health in (state.whole, *state.models.values())]
            for gate in gates:
                gate.set_back(seconds)
            if not all(gate.open for gate in gates):
                self._changed.add(state.id)  # others were told when it rests until by the clock of before

    def restore(self, account: str, now: float) -> None:
        """Let an account serve at once: a test of it succeeded, or its credential was renewed."""
        state = self._states[account]
        state.defect = ""
        for health in (state.whole, *state.models.values()):
            health.gate.reopen(now)
        state.measure(self._routing.reserve, now)
        self._changed.add(account)

    def wake(self, account: str, now: float) -> None:
        """Let an account serve at once, whatever is known of it: also of its windows, and of the way to its origin."""
        state = self._states[account]
        for health in (state.whole, *state.models.values()):
            health.gauges, health.seen = {}, now
        state.origin.reopen(now)
        self.restore(account, now)

    def rest(self, account: str, seconds: float, reason: str, now: float) -> None:
        """Keep an account from serving for so long, because a person says so. `wake` ends it."""
        state = self._states[account]
        state.whole.gate.hold(now + seconds, reason, now)
        state.measure(self._routing.reserve, now)
        self._changed.add(account)

    def set_defects(self, defects: Mapping[str, str], now: float) -> None:
        """Which accounts this node cannot use, and why. Never told to others: they may well use them."""
        for state in self._states.values():
            found = defects.get(state.id, "")
            if found != state.defect:
                state.defect = found
                state.measure(self._routing.reserve, now)

    def defects(self) -> dict[str, str]:
        """As `set_defects`, with what attempts have found since."""
        return {state.id: state.defect for state in self._states.values() if state.defect}

    def in_flight(self, account: str) -> int:
        """Attempts on an account that have not ended."""
        state = self._states.get(account)
        return 0 if state is None else state.in_flight

    def last_used(self, account: str) -> float:
        """When the last attempt on an account began, Unix time, s; 0.0 = never that this process knows of."""
        state = self._states.get(account)
        return 0.0 if state is None else state.used

    def hear_used(self, account: str, at: float) -> None:
        """Another process of this node has begun an attempt on an account. `at`: Unix time, s."""
        state = self._states.get(account)
        if state is not None:
            state.used = max(state.used, at)

    def resting(self, account: str, now: float) -> tuple[FailureKind, float, str] | None:
        """Why an account as a whole rests: kind, until (Unix time, s), reason. None when it does not."""
        gate = self._states[account].whole.gate
        return (gate.kind, gate.until, gate.reason) if gate.resting(now) else None

    def ailing(self, account: str, now: float) -> bool:
        """Whether an account, or a model on it, rests, or its credential was refused and nothing went well since."""
        state = self._states.get(account)
        gates = [] if state is None else [health.gate for health in (state.whole, *state.models.values())]
        return any(gate.resting(now) or (not gate.open and gate.kind == "auth") for gate in gates)

    def rested_since(self, account: str, now: float) -> float | None:
        """When an account's rest began, Unix time, s; None while it does not rest."""
        gate = self._states[account].whole.gate
        return gate.changed if gate.resting(now) else None

    def windows(self, account: str) -> list[tuple[str, Gauge]]:
        """What the upstream said is left to an account, each with its model, "" for the windows of all."""
        state = self._states[account]
        healths = [("", state.whole), *state.models.items()]
        return [(model, gauge) for model, health in healths for gauge in health.gauges.values()]

    def take_changed(self) -> set[str]:
        """Accounts whose health is to be shared since this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def snapshot_health(self, account: str, ahead: float = 0.0) -> dict[str, Any]:
        """An account's health as JSON, for other nodes and for after a restart.

        Args:
            ahead: s that the store's clock, by which it is told, is ahead of ours.
        """
        state = self._states[account]
        models = {name: health_state(health, ahead) for name, health in state.models.items()}
        return {"v": 1, "identity": state.identity, "account": health_state(state.whole, ahead), "models": models}

    def load_health(self, account: str, note: dict[str, Any], now: float, ahead: float = 0.0) -> bool:
        """Merge what another node, or this one before a restart, knew: for each part the later knowledge stands.

        Returns: whether anything was new. What is about another credential, or cannot be read, is not taken.
        """
        state = self._states.get(account)
        if state is None or note.get("v") != 1 or note.get("identity") != state.identity:
            return False
        try:
            pairs: list[tuple[Health, dict[str, Any]]] = [(state.whole, note["account"])]
            pairs += [(state.model(str(name)), part) for name, part in note["models"].items()]
            taken = [merge_health(health, part, now, ahead) for health, part in pairs]
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        finally:
            state.measure(self._routing.reserve, now)
        return any(taken)
