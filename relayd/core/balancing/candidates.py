"""Candidates: the accounts that the config lets serve one kind of call, in the order in which they are asked.

Rule: what depends on the config alone is worked out once per (groups, model) and snapshot; nothing here changes with
time but the running sums that a Tier keeps for drawing.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Mapping
from itertools import accumulate, groupby

import attrs

from relayd.config.snapshot import Account, Snapshot
from relayd.core.access.permissions import glob_matches
from relayd.core.balancing.account_state import AccountState
from relayd.core.balancing.breaker import Gate
from relayd.core.balancing.explain import Block


@attrs.define(eq=False)
class Candidate:
    """An account that may serve. Attributes are flat because choosing reads them for every account of every call."""

    id: str
    state: AccountState
    origin: Gate
    priority: int
    weight: int
    limit: int  # max_concurrency; 0 also for counting tokens, which takes no place
    pace: int  # calls a minute
    plain: bool  # neither limit nor pace


@attrs.define(eq=False)
class Tier:
    """Candidates of one priority.

    Args:
        sums: running sums of weight and pull, for drawing in O(log n); made anew for each `review`.
        clock: how far the round-robin has come.
    """

    candidates: tuple[Candidate, ...]
    sums: list[float] = attrs.field(factory=list)
    review: int = -1
    clock: float = 0.0

    def draw(self, chance: float, review: int) -> Candidate:
        """A candidate with a probability in proportion to weight and pull. `chance` is uniform in [0, 1)."""
        if self.review != review:
            self.sums = list(accumulate(one.weight * one.state.pull for one in self.candidates))
            self.review = review
        place = bisect(self.sums, chance * self.sums[-1])
        return self.candidates[min(place, len(self.candidates) - 1)]


@attrs.define(eq=False)
class Candidates:
    """Who may serve.

    Args:
        groups: the key's groups in order of preference, each with its tiers, lowest priority number first.
        by_id: every candidate.
        never: why the other accounts of these groups may not.
    """

    groups: tuple[tuple[Tier, ...], ...]
    by_id: Mapping[str, Candidate]
    never: tuple[Block, ...]


def serves(account: Account, model: str) -> bool:
    """Whether an account's globs or its model map name the model. "" is an endpoint without a model."""
    if not model or not account.models or model in account.model_map:
        return True
    return any(glob_matches(glob, model) for glob in account.models)


def why_never(account: Account, model: str, snapshot: Snapshot) -> str:
    """Why the config keeps an account of the right group from serving; "" when it does not."""
    if account.id in snapshot.deny.accounts:
        return "denied by deny.toml"
    if not account.enabled:
        return "disabled"
    return "" if serves(account, model) else f"does not serve {ascii(model[:100])[1:-1]}"


def build_candidates(
    snapshot: Snapshot, groups: tuple[str, ...], model: str, candidate: Callable[[Account], Candidate]
) -> Candidates:
    """Sort the accounts. One that is in several of the groups counts in the first."""
    left = list(snapshot.accounts.values())
    tiers: list[tuple[Tier, ...]] = []
    by_id: dict[str, Candidate] = {}
    never: list[Block] = []
    for group in groups:
        members = [account for account in left if group in account.groups]
        left = [account for account in left if group not in account.groups]
        reasons = {account.id: why_never(account, model, snapshot) for account in members}
        never += [Block(name, "never", math.inf, reason) for name, reason in reasons.items() if reason]
        able = [candidate(account) for account in members if not reasons[account.id]]
        by_id |= {one.id: one for one in able}
        tiers.append(_tiers(able))
    return Candidates(groups=tuple(tier for tier in tiers if tier), by_id=by_id, never=tuple(never))


def _tiers(candidates: list[Candidate]) -> tuple[Tier, ...]:
    """By priority; within one the heaviest first, then by name."""
    ordered = sorted(candidates, key=lambda one: (one.priority, -one.weight, one.id))
    return tuple(Tier(tuple(tier)) for _, tier in groupby(ordered, key=lambda one: one.priority))
