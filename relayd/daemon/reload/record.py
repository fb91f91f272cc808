"""Reload record: what this node runs, what lies on its disk instead, and how its reloads went.

Rule: the reloader alone writes it (and the history, which notes what it has stored); status, metrics, heartbeats and
systemd's status line read it. Sync.
"""

from __future__ import annotations

from collections import Counter

import attrs
import trio

from relayd.config.changes import Changes
from relayd.config.source.provenance import Provenance
from relayd.config.source.tree import Tree
from relayd.core.cluster import MOST_PAST, Past
from relayd.daemon.reload.requests import ReloadOutcome, ReloadResult, Trigger
from relayd.noun import noun


@noun(kw_only=True)
class ConfigOrigin:
    """Where the running config comes from.

    Args:
        since: Unix time, s, of the swap.
        model: digest of what it means (`model_digest`).
        dirty: paths that differ from the commit; None where that is not known.
        stored: number of the stored generation that it was loaded from; 0 = from the tree.
        brought: what its swap changed; None where none was needed, and once its bytes have another commit.
    """

    digest: str
    revision: str
    commit: str
    dirty: tuple[str, ...] | None
    source: str
    since: float
    trigger: Trigger
    stored: int = 0
    model: str = ""
    brought: Changes | None = attrs.field(default=None, repr=False, eq=False)


def origin_of(
    tree: Tree, revision: str, now: float, trigger: Trigger, stored: int = 0, *, model: str = ""
) -> ConfigOrigin:
    """Where a config comes from that begins to run at `now`."""
    return ConfigOrigin(
        digest=tree.digest,
        revision=revision,
        commit=tree.provenance.commit,
        dirty=tree.provenance.dirty,
        source=tree.provenance.source,
        since=now,
        trigger=trigger,
        stored=stored,
        model=model,
    )


@noun(kw_only=True)
class PendingTree:
    """A tree on disk that is not what runs, and why not. `since`: Unix time, s, from which on it was so."""

    since: float
    outcome: ReloadResult


def kept_back(number: int) -> str:
    """Why a tree is not taken while a rollback holds a stored generation."""
    return f"rolled back to generation {number}; `relayd resume` follows the tree again"


@attrs.define(eq=False, kw_only=True)
class ReloadRecord:
    """What is known of this node's config.

    Args:
        origin: where the running config comes from.
        degraded: why a stored generation was taken at the start; "" once the tree is sound again.
        hold: number of the generation that a rollback holds; 0 = none.
        candidate: the tree on disk that does not run; None while disk and daemon agree, as far as the last round saw.
        deny_problem: why the deny.toml on disk is not obeyed; "" when it is.
        restart_required: settings on disk that only a restart brings into force.
        unstored: the tree that runs, while it is not in the history yet.
        succeeded: Unix time, s, of the last round that left disk and daemon in agreement.
        rounds: how many there were, by trigger and result.
        seconds: what each phase of the last round took.
        past: configs that ran before, the newest first.
        swapped: set, and replaced, by each swap.
        settled: the same, by each round, whatever came of it.
    """

    origin: ConfigOrigin
    degraded: str = ""
    hold: int = 0
    candidate: PendingTree | None = None
    deny_problem: str = ""
    restart_required: tuple[str, ...] = ()
    unstored: Tree | None = attrs.field(default=None, repr=False)
    succeeded: float = 0.0
    rounds: Counter[tuple[Trigger, ReloadOutcome]] = attrs.field(factory=Counter)
    seconds: dict[str, float] = attrs.field(factory=dict)
    past: tuple[Past, ...] = ()
    swapped: trio.Event = attrs.field(factory=trio.Event, repr=False)
    settled: trio.Event = attrs.field(factory=trio.Event, repr=False)

    @property
    def last_digest(self) -> str:
        """Digest of the tree that the last round saw."""
        return self.candidate.outcome.digest if self.candidate is not None else self.origin.digest

    @property
    def last_result(self) -> tuple[str, float]:
        """What became of the tree on disk, in one word ("applied": it runs), and since when (Unix time, s)."""
        since = self.candidate.since if self.candidate is not None else self.origin.since
        if self.degraded:
            return "degraded", since
        if self.hold:
            return "rolled-back", since
        return ("applied" if self.candidate is None else self.candidate.outcome.result), since

    def run_from(self, origin: ConfigOrigin, now: float) -> None:
        """What runs has another origin from now on. What it had before is remembered, for the other nodes."""
        old = self.origin
        if (old.digest, old.model) != (origin.digest, origin.model):
            left = Past(tree=old.digest, model=old.model, left=now)
            self.past = (left, *self.past)[:MOST_PAST]
        self.origin = origin

    def learn_provenance(self, about: Provenance) -> None:
        """The running bytes have another provenance: what was dirty was committed, say."""
        brought = self.origin.brought if about.commit == self.origin.commit else None
        self.origin = attrs.evolve(self.origin, commit=about.commit, dirty=about.dirty, brought=brought)

    def agree(self, result: ReloadResult, now: float) -> None:
        """Disk and daemon agree, but for what waits for a restart."""
        self.succeeded, self.candidate = now, None
        self.restart_required = result.restart_required

    def differ(self, result: ReloadResult, now: float) -> None:
        """The tree on disk does not run; since when it does not is kept."""
        since = self.candidate.since if self.candidate is not None else now
        self.candidate = PendingTree(since=since, outcome=result)

    def roll_back(self, number: int, result: ReloadResult, now: float) -> None:
        """A rollback holds a stored generation from now on, whatever lies on disk."""
        self.hold, self.unstored = number, None
        held = attrs.evolve(result, result="held", digest="", reasons=(kept_back(number),))
        self.candidate = PendingTree(since=now, outcome=held)

    def note_swap(self) -> None:
        """Wake whoever waits for a swap."""
        self.swapped.set()
        self.swapped = trio.Event()

    def note_round(self) -> None:
        """Wake whoever waits for the end of a round."""
        self.settled.set()
        self.settled = trio.Event()

    def headline(self, generation: int, revision: str) -> str:
        """One line for `systemctl status`, given the running generation and revision."""
        head = f"generation {generation} {revision}"
        if self.candidate is None:
            waiting = ", ".join(self.restart_required)
            return f"{head} ok" + (f", restart needed for {waiting}" if waiting else "")
        outcome = self.candidate.outcome
        why = str(outcome.problems[0]) if outcome.problems else outcome.reasons[0] if outcome.reasons else ""
        return f"{head}{' DEGRADED' * bool(self.degraded)} {outcome.result.upper()} {why}".rstrip()
