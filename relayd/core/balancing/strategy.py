"""Balancing strategies: which of several accounts that could serve is asked.

Theory: "balanced" is a race. Each account runs for (calls in flight + an exponential variate) / (weight * pull). Among
idle accounts number i is home first with a probability of exactly its share of the weights, so that many nodes do not
herd; among busy ones it is nearly always the least loaded. `pull` bends the weight towards windows that would go to
waste (headroom.py). In large tiers a few runners are drawn by that same share and the least loaded of them wins, so
that the cost of a choice does not grow with the pool. "priority" fills the heaviest account first; "round-robin" is
stride scheduling.
Source: "The Power of Two Choices in Randomized Load Balancing" (Mitzenmacher, 2001); "Stride Scheduling" (Waldspurger
and Weihl, 1995).
"""

from __future__ import annotations

import math
import random
from typing import Literal

from relayd.core.balancing.candidates import Candidate, Candidates, Tier
from relayd.core.balancing.eligibility import Wanted, block_of, free

RACE = 16  # accounts up to which all run; beyond it some are drawn
_RUNNERS = 8  # drawn
_DRAWS = 24  # before the whole tier is looked through, because most of it is not free


def choose(
    strategy: Literal["balanced", "priority", "round-robin"], tier: Tier, ask: Wanted, rng: random.Random, review: int
) -> Candidate | None:
    """One of a tier's accounts; None when none is free.

    Args:
        review: the pool's count of reviews, which tells whether the tier's running sums are fresh.
    """
    match strategy:
        case "priority":
            return next((one for one in tier.candidates if _takes(one, ask)), None)
        case "round-robin":
            return _next_turn(tier, ready(tier, ask))
        case "balanced":
            drawn = _draw(tier, ask, rng, review) if len(tier.candidates) > RACE else None
            return drawn or race(ready(tier, ask), rng)


def _takes(one: Candidate, ask: Wanted) -> bool:
    return one.id not in ask.excluded and free(one, ask.model, ask.now)


def ready(tier: Tier, ask: Wanted) -> list[Candidate]:
    """Those of a tier who are free."""
    model, now, excluded = ask.model, ask.now, ask.excluded
    found = [
        one
        for one in tier.candidates
        if (one.plain and one.state.calm and one.origin.ramp == 0) or free(one, model, now)
    ]
    return [one for one in found if one.id not in excluded] if excluded else found


def race(runners: list[Candidate], rng: random.Random) -> Candidate | None:
    """The balanced choice of all `runners`."""
    chance, log = rng.random, math.log
    winner, best = None, math.inf
    for one in runners:
        state = one.state
        run = (state.in_flight - log(1.0 - chance())) / (one.weight * state.pull)
        if run < best:
            winner, best = one, run
    return winner


def _draw(tier: Tier, ask: Wanted, rng: random.Random, review: int) -> Candidate | None:
    """The least loaded of a few free accounts, each drawn by its share; None when hardly any is free."""
    best, least, found = None, math.inf, 0
    for _ in range(_DRAWS):
        one = tier.draw(rng.random(), review)
        if _takes(one, ask):
            load = one.state.in_flight / (one.weight * one.state.pull)
            if load < least:
                best, least = one, load
            found += 1
            if found == _RUNNERS or least == 0.0:
                break
    return best


def _next_turn(tier: Tier, runners: list[Candidate]) -> Candidate | None:
    """Weighted round-robin: each turn moves an account 1/weight further; who is furthest behind is next.

    One that was away starts where the round is now, and does not catch up in a burst.
    """
    if not runners:
        return None
    clock, first, chosen = tier.clock, math.inf, runners[0]
    for one in runners:
        turn = one.state.turn
        if turn < first:
            first, chosen = turn, one
            if turn <= clock:
                break
    tier.clock = max(first, clock)
    chosen.state.next_turn = tier.clock + 1 / chosen.weight
    return chosen


def last_resort(candidates: Candidates, ask: Wanted, rng: random.Random) -> Candidate | None:
    """Someone whom only a breaker keeps back: better to find out than to refuse. Those first whose own gate is open."""
    for tiers in candidates.groups:
        willing = [
            one for tier in tiers for one in tier.candidates if one.id not in ask.excluded and _only_soft(one, ask)
        ]
        well = [one for one in willing if one.state.whole.gate.admits(ask.now)]
        if willing:
            return race(well or willing, rng)
    return None


def _only_soft(one: Candidate, ask: Wanted) -> bool:
    gate = one.state.whole.gate
    if gate.resting(ask.now) and not gate.soft:
        return False
    return block_of(one, ask.model, ask.now, past_soft=True) is None
