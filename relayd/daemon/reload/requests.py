"""Ticket: what the reloader can be asked for, and what it answers.

Rule: nouns and words about them; nothing here acts.
"""

from __future__ import annotations

from typing import Literal

import attrs
import trio

from relayd.config.diff import Changes
from relayd.config.guard import LEAST_DIGITS, accepts
from relayd.config.problems.problem import Problem
from relayd.config.source.tree import Tree

ReloadOutcome = Literal["applied", "unchanged", "rejected", "held", "busy"]
Trigger = Literal["boot", "event", "poll", "hash", "sighup", "command", "http", "rollback", "resume"]

# Nobody waits for these, so they may be brought together and say nothing when there is no news.
BY_ITSELF: frozenset[Trigger] = frozenset({"event", "poll", "hash"})
SHORTEST_COMMIT = 7  # what git abbreviates to


@attrs.frozen(kw_only=True)
class Reload:
    """Take the tree as it is now.

    Args:
        accept: digest of a tree that the guard holds and that is to be applied all the same.
        expect: digest or commit that the tree must have; with another one nothing is applied.
        dry_run: say what would happen.
    """

    accept: str = ""
    expect: str = ""
    dry_run: bool = False


@attrs.frozen(kw_only=True)
class Rollback:
    """Go back to a stored generation (None: the newest that is not what runs) and stay there."""

    generation: int | None = None
    allow_unrevoke: bool = False


@attrs.frozen(kw_only=True)
class Resume:
    """End a rollback: follow the tree again."""


Operation = Reload | Rollback | Resume


@attrs.frozen(kw_only=True)
class ReloadResult:
    """What a round came to.

    Args:
        generation: the running one, after the round.
        digest: of the tree that was looked at; "" when none could be read.
        commit, dirty: its provenance.
        model: digest of what it means; "" when it does not compile.
        reasons: why it is held, or was rejected for something else than its text.
        restart_required: settings of that tree which only a restart brings into force.
        unexpected: it was rejected because it is not the tree that was expected.
        accept: the digest that lets it pass, where the guard holds it; "" where accepting would not help.
    """

    result: ReloadOutcome
    generation: int
    digest: str = ""
    revision: str = ""
    commit: str = ""
    dirty: tuple[str, ...] | None = None
    model: str = ""
    problems: tuple[Problem, ...] = ()
    reasons: tuple[str, ...] = ()
    changes: Changes | None = None
    restart_required: tuple[str, ...] = ()
    dry_run: bool = False
    unexpected: bool = False
    accept: str = ""


@attrs.define(eq=False)
class ReloadRequest:
    """Somebody's claim to the result of a round that begins after now."""

    trigger: Trigger
    request: Operation
    result: ReloadResult | None = None
    _done: trio.Event = attrs.field(factory=trio.Event, init=False)

    def answer(self, result: ReloadResult) -> None:
        """Give the result, once."""
        if self.result is None:
            self.result = result
            self._done.set()

    async def wait(self) -> ReloadResult:
        """The result of the round that answers this ticket."""
        await self._done.wait()
        assert self.result is not None
        return self.result


@attrs.frozen(kw_only=True)
class ConfigOrigin:
    """Where the running config comes from.

    Args:
        since: Unix time, s, of the swap.
        model: digest of what it means (`model_digest`).
        dirty: paths that differ from the commit; None where that is not known.
        stored: number of the stored generation that it was loaded from; 0 = from the tree.
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


@attrs.frozen(kw_only=True)
class PendingTree:
    """A tree on disk that is not what runs, and why not. `since`: Unix time, s, from which on it was so."""

    since: float
    outcome: ReloadResult


def kept_back(number: int) -> str:
    """Why a tree is not taken while a rollback holds a stored generation."""
    return f"rolled back to generation {number}; `relayd resume` follows the tree again"


def fields_of(result: ReloadResult, trigger: Trigger) -> dict[str, object]:
    """A result as fields of a log line: at most three problems, the count of the rest."""
    errors = [str(problem) for problem in result.problems if problem.severity == "error"]
    fields: dict[str, object] = {
        "trigger": trigger,
        "generation": result.generation,
        "digest": result.digest[:LEAST_DIGITS],
        "commit": result.commit,
        "reasons": list(result.reasons),
        "problems": errors[:3],
        "more_problems": max(0, len(errors) - 3),
        "restart_required": list(result.restart_required),
    }
    return {name: value for name, value in fields.items() if value}


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


def is_expected(prefix: str, tree: Tree) -> bool:
    """Whether a tree is the one that was expected, by digest or by commit. "" expects nothing."""
    commit = tree.provenance.commit
    by_commit = len(prefix) >= SHORTEST_COMMIT and commit.startswith(prefix.lower()) and not tree.provenance.dirty
    return not prefix or accepts(prefix, tree.digest) or by_commit
