"""State of an account at run time: its health and its load, and the lease of one attempt on it.

Rule: small mutable objects without I/O or clock. Kept by account id, so that a reload which leaves an account's
credential and origin alone leaves its state alone.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

import attrs

from relayd.config.snapshot import Account
from relayd.core.balancing.breaker import Gate
from relayd.core.balancing.explain import Block
from relayd.core.balancing.headroom import LATEST, Gauge, pull

MINUTE = 60.0
DAY = 86400.0
MAX_MODELS = 64  # models with a health of their own on one account; the names come from clients, so there is a bound


@attrs.define(eq=False, kw_only=True)
class Health:
    """Of an account, or of one model on it.

    Args:
        gauges: by window, as last heard.
        seen: when that was, Unix time, s.
        dry_until, dry_window: the window that is spent down to the reserve, and when it resets; 0.0 = none is.
    """

    gate: Gate = attrs.field(factory=Gate)
    gauges: dict[str, Gauge] = attrs.field(factory=dict)
    seen: float = 0.0
    dry_until: float = 0.0
    dry_window: str = ""

    def learn(self, gauges: list[Gauge], now: float) -> None:
        """Take over what an answer said. Windows that it did not mention stay as they were."""
        if gauges:
            self.gauges.update({gauge.window: gauge for gauge in gauges})
            self.seen = now

    def measure(self, reserve: float, now: float) -> None:
        """Forget windows that have reset, or that a wrong clock dated, and see which of the others is spent."""
        if not all(now < gauge.resets <= now + 2 * LATEST for gauge in self.gauges.values()):
            self.gauges = {name: gauge for name, gauge in self.gauges.items() if now < gauge.resets <= now + 2 * LATEST}
        if self.seen > now + DAY:
            self.seen = 0.0
        spent = [(gauge.resets, gauge.window) for gauge in self.gauges.values() if gauge.left <= reserve]
        self.dry_until, self.dry_window = max(spent, default=(0.0, ""))

    @property
    def calm(self) -> bool:
        """Nothing here can hold a call up."""
        return self.gate.ramp == 0 and self.dry_until == 0.0


@attrs.define(eq=False, kw_only=True)
class AccountState:
    """One account at run time.

    Args:
        identity: a digest of what the health is about: credential and origin.
        origin: the gate that all accounts with the same way to the same origin share.
        pace: calls that may start in any minute; 0 = no limit.
        counting: how many of those in flight count tokens, and take no place of `max_concurrency`.
        starts: when the calls of the last minute started; kept only where there is a pace.
        defect: why this node cannot use the account; "" when it can. Never shared.
        elsewhere: what the calls of all processes together leave no room for, as the state store said.
        used: when the last attempt on it began, Unix time, s; 0.0 = never here.
        calm: no gate, window or defect of this account can hold a call up (its origin's gate, its limit and its pace
            may).
        read: when the headers of an answer of each model were last looked at, Unix time, s.
        pull: what its windows make of its weight.
        turn: its place in the round, for the strategy round-robin.
        next_turn: its place once it has begun the call that it was last chosen for.
    """

    id: str
    identity: str
    origin: Gate
    pace: int = 0
    in_flight: int = 0
    counting: int = 0
    starts: deque[float] = attrs.field(factory=deque)
    defect: str = ""
    elsewhere: Block | None = None
    used: float = 0.0
    whole: Health = attrs.field(factory=Health)
    models: dict[str, Health] = attrs.field(factory=dict)
    calm: bool = True
    read: dict[str, float] = attrs.field(factory=dict)
    pull: float = 1.0
    turn: float = 0.0
    next_turn: float = 0.0

    def model(self, name: str) -> Health:
        """The health of one model here, made if need be."""
        health = self.models.get(name)
        if health is None:
            if len(self.models) >= MAX_MODELS:
                self._forget_models()
            health = self.models[name] = Health()
        return health

    def _forget_models(self) -> None:
        idle = [name for name, health in self.models.items() if health.calm and not health.gate.strikes]
        for name in idle or list(self.models)[:1]:
            del self.models[name]

    def measure(self, reserve: float, now: float) -> None:
        """Bring `calm` and `pull` up to date."""
        healths = (self.whole, *self.models.values())
        for health in healths:
            health.measure(reserve, now)
        self.calm = not self.defect and all(health.calm for health in healths)
        gauges = [gauge for health in healths for gauge in health.gauges.values()]
        self.pull = pull(gauges, now) if gauges else 1.0

    def clear(self) -> None:
        """Forget the health; what is in flight stays in flight."""
        self.whole, self.models, self.defect = Health(), {}, ""
        self.calm, self.pull = True, 1.0
        self.read.clear()

    def note_reading(self, model: str, now: float) -> None:
        """The headers of an answer of a model are looked at now; those of each model say what holds for it."""
        if len(self.read) >= MAX_MODELS:
            self.read.clear()
        self.read[model] = now

    def paced_until(self, now: float) -> float:
        """When the pace lets the next call start: 0.0 = now."""
        starts = self.starts
        while starts and starts[0] <= now - MINUTE:
            starts.popleft()
        while starts and starts[-1] > now + MINUTE:  # by a wrong clock
            starts.pop()
        return starts[-self.pace] + MINUTE if len(starts) >= self.pace else 0.0


@attrs.define(eq=False, kw_only=True)
class Lease:
    """The right to one attempt on one account. Made by `Pool.begin`, ended by `Pool.end`.

    Args:
        model: as sent; "" for endpoints whose limits are not the model's.
        counting: it takes no place of `max_concurrency`.
        health: the account's when the attempt began; another one by now means another credential.
        trials: gates where this attempt is on trial, with their round.
    """

    account: str
    model: str
    began: float
    state: AccountState
    health: Health
    trials: tuple[tuple[Gate, int], ...] = ()
    counting: bool = False
    observed: bool = False
    ended: bool = False

    def on_trial(self, gate: Gate) -> bool:
        """Whether this attempt says anything about the gate as it now is."""
        return any(one is gate and number == gate.round for one, number in self.trials)

    def release_trials(self) -> None:
        """Make room for the next trial: this one has its verdict, or will never have one."""
        for gate, _ in () if self.observed else self.trials:
            gate.trials -= 1


def identity_of(account: Account, base_url: str) -> str:
    """A digest of credential and origin. Of the sealed text, which tells nothing about the secret."""
    parts = (account.kind, account.credential.sealed, account.credential.file, base_url, account.proxy)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def gate_state(gate: Gate, ahead: float) -> dict[str, Any]:
    """A gate as JSON, by the clock of `health_state`; {} for one that was never closed."""
    if not gate.changed:
        return {}
    return {
        "until": gate.until + ahead,
        "kind": gate.kind,
        "reason": gate.reason,
        "soft": gate.soft,
        "level": gate.level,
        "ramp": gate.ramp,
        "changed": gate.changed + ahead,
    }


def health_state(health: Health, ahead: float = 0.0) -> dict[str, Any]:
    """A health as JSON, by a clock that is `ahead` of ours, s. When windows reset is the upstream's word, and stays."""
    gauges = [attrs.astuple(gauge) for gauge in health.gauges.values()]
    seen = health.seen + ahead if health.seen else 0.0
    return {"gate": gate_state(health.gate, ahead), "gauges": gauges, "seen": seen}


def merge_health(health: Health, state: dict[str, Any], now: float, ahead: float = 0.0) -> bool:
    """Take over what `state` knows later than `health`, but not what a wrong clock dated. Returns whether anything was.

    Args:
        ahead: as in `health_state`.
    Raises: KeyError, TypeError, ValueError on a state of another form.
    """
    taken = False
    gate = state["gate"]
    if gate and float(gate["changed"]) - ahead > health.gate.changed:
        _merge_gate(health.gate, gate, ahead)
        taken = not health.gate.redate(now)
    seen = float(state["seen"]) - ahead if state["seen"] else 0.0
    if health.seen < seen <= now + DAY:
        health.gauges = {gauge.window: gauge for gauge in (_gauge(*parts) for parts in state["gauges"])}
        health.seen = seen
        taken = True
    return taken


def _merge_gate(gate: Gate, state: dict[str, Any], ahead: float) -> None:
    if state["kind"] not in ("rate", "overload", "outage", "auth"):
        raise ValueError(f"unknown kind {state['kind']!r}")
    gate.kind, gate.reason = state["kind"], str(state["reason"])
    gate.soft, gate.level, gate.ramp = bool(state["soft"]), int(state["level"]), int(state["ramp"])
    gate.until, gate.changed = float(state["until"]) - ahead, float(state["changed"]) - ahead
    gate.round += 1


def _gauge(window: str, left: float, resets: float, scope: str) -> Gauge:
    return Gauge(str(window), float(left), float(resets), "account" if scope == "account" else "model")
