"""Eligibility: what keeps an account from one more call.

Rule: `block_of` is the one place that decides it; choosing, refusals and explanations all ask here, so that what is
said and what is done cannot differ. `free` is the same question with a short way to the usual answer.
"""

from __future__ import annotations

from collections.abc import Collection

from relayd.core.balancing.account_state import DAY, Health
from relayd.core.balancing.breaker import Gate
from relayd.core.balancing.candidates import Candidate, Candidates
from relayd.core.balancing.explain import Block
from relayd.core.balancing.failover import NOT_HERE
from relayd.core.quota.limits import Slots, Term
from relayd.noun import noun

SOON = 1.0  # s; when to ask again where no time is known (an account that is full or on trial)
MENDED = 15.0  # s; when to ask again where a person has to act on this node
LOOK = 0.25  # s; how long the store's word holds that an account is full: calls elsewhere end unseen


@noun
class Wanted:
    """What is asked of the accounts.

    Args:
        excluded: accounts that this call has tried.
        now: Unix time, s.
    """

    model: str
    excluded: Collection[str]
    now: float


def free(one: Candidate, model: str, now: float) -> bool:
    """Whether nothing blocks this account. The first lines are the answer for nearly every call."""
    state = one.state
    if state.calm and one.origin.ramp == 0:
        if one.plain:
            return True
    elif not state.whole.gate.admits(now):
        return False
    return block_of(one, model, now) is None


def block_of(one: Candidate, model: str, now: float, past_soft: bool = False) -> Block | None:
    """What keeps an account from one more call now; None when nothing does.

    Args:
        past_soft: whatever a breaker says, for who is asked as the last.
    """
    if not one.state.calm or one.origin.ramp:
        block = health_block(one, model, now, past_soft)
        if block is not None:
            return block
    in_flight = one.state.in_flight - one.state.counting
    if one.limit and in_flight >= one.limit:
        return Block(one.id, "rate", now + SOON, f"{in_flight} of {one.limit} calls in flight")
    if one.pace and (until := one.state.paced_until(now)):
        return Block(one.id, "rate", until, f"{one.pace} calls started in a minute, next at", "", True)
    elsewhere = one.state.elsewhere
    if elsewhere is None or elsewhere.until <= now or (elsewhere.full and not one.limit):
        return None
    return elsewhere


def full_elsewhere(account: str, term: Term, retry_ms: int | None, now: float) -> Block:
    """What the calls of all processes together leave no room for on an account.

    Args:
        term: of `account_terms`, which is full.
        retry_ms: as the store answered a lease, or None where none was asked for; of a slot it is when a dead holder's
            lease would end, which says little.
    """
    if isinstance(term, Slots):
        return Block(account, "rate", now + LOOK, f"{term.limit} calls in flight on all nodes", full=True)
    text = f"{term.limit} calls started in a minute on all nodes"
    if retry_ms is None:
        return Block(account, "rate", now + SOON, text)
    return Block(account, "rate", now + retry_ms / 1000, f"{text}, next at", "", True)


def health_block(one: Candidate, model: str, now: float, past_soft: bool = False) -> Block | None:
    """What an account's health keeps it from, whatever room it has; None when it is well."""
    if one.state.defect:
        return Block(one.id, "outage", now + MENDED, NOT_HERE, detail=one.state.defect)
    whole, of_model = one.state.whole, one.state.models.get(model)
    gates = [(whole.gate, ""), (one.origin, "upstream ")]
    if of_model is not None:
        gates.append((of_model.gate, f"{ascii(model[:100])[1:-1]} "))
    for gate, whose in gates:
        if not gate.admits(now) and not (past_soft and gate.soft):
            return _gate_block(one.id, gate, whose, now)
    for health in (whole, of_model):
        if health is not None and health.dry_until > now and not _to_be_asked(one, health, now):
            return _dry_block(one.id, health)
    return None


def _to_be_asked(one: Candidate, health: Health, now: float) -> bool:
    """Whether what was heard of windows is a day old, so that one call may ask anew."""
    return now - health.seen >= DAY and one.state.in_flight == 0


def _gate_block(account: str, gate: Gate, whose: str, now: float) -> Block:
    if now < gate.until:
        return Block(account, gate.kind, gate.until, f"{whose}cooling down until", f", {gate.reason}", True)
    return Block(account, gate.kind, now + SOON, f"{whose}recovering, {gate.trials} on trial", f", {gate.reason}")


def _dry_block(account: str, health: Health) -> Block:
    text = f"{health.dry_window} window is spent down to the reserve, resets"
    return Block(account, "rate", health.dry_until, text, "", True)


def blocks_of(candidates: Candidates, ask: Wanted) -> list[Block]:
    """Why each of the candidates cannot serve, when none can."""
    blocks = []
    for one in candidates.by_id.values():
        block = block_of(one, ask.model, ask.now)
        if block is None and one.id in ask.excluded:
            block = Block(one.id, "outage", ask.now + SOON, "already tried")
        if block is not None:
            blocks.append(block)
    return blocks


def well(one: Candidate, now: float) -> str:
    """How an account that is free stands."""
    state = one.state
    gauges = [gauge for health in (state.whole, *state.models.values()) for gauge in health.gauges.values()]
    lowest = min((gauge for gauge in gauges if gauge.resets > now), key=lambda gauge: gauge.left, default=None)
    text = f"free, priority {one.priority}, weight {one.weight}, {state.in_flight} in flight"
    return text if lowest is None else f"{text}, {lowest.left:.0%} of its {lowest.window} window left"
