"""Reload requests: what the reloader can be asked for, what it answers, and the queue in between.

Rule: a request is answered by a round that begins after it. The queue decides when a round is due, never what it does.

Theory: level-triggered. A round takes every request there is *before* it starts to read the tree, so the last edit is
never lost. Requests that nobody waits for are brought together; one that somebody made by hand is served at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import attrs
import trio

from relayd.config.changes import Changes
from relayd.config.guard import LEAST_DIGITS, accepts
from relayd.config.problems.problem import Problem
from relayd.config.source.tree import Tree
from relayd.noun import noun

ReloadOutcome = Literal["applied", "unchanged", "rejected", "held", "busy"]
Trigger = Literal["boot", "event", "poll", "hash", "sighup", "command", "http", "rollback", "resume", "source"]

# Nobody waits for these, so they may be brought together, and they say nothing when there is no news.
BY_ITSELF: frozenset[Trigger] = frozenset({"event", "poll", "hash", "source"})
SHORTEST_COMMIT = 7  # what git abbreviates to


@noun(kw_only=True)
class Reload:
    """Take the tree as it is now.

    Args:
        accept: digest of a tree that the guard holds and that is to be applied all the same.
        expect: digest or commit that the tree must have; with another one nothing is applied.
        dry_run: say what would happen.
        revoked: what somebody took out by name, such as "key alice": that is not what the guard is for.
    """

    accept: str = ""
    expect: str = ""
    dry_run: bool = False
    revoked: tuple[str, ...] = ()


@noun(kw_only=True)
class Rollback:
    """Go back to a stored generation (None: the newest that is not what runs) and stay there."""

    generation: int | None = None
    allow_unrevoke: bool = False


@noun(kw_only=True)
class Resume:
    """End a rollback: follow the tree again."""


@noun(kw_only=True)
class Examine:
    """Say what would become of a tree that is not in place yet; nothing follows from it.

    Args:
        tree: its directory, which lies beside the one that the daemon's tree is a link to.
        accept: digest of a tree that the guard holds and that is meant.
    """

    tree: str = ""
    accept: str = ""


Operation = Reload | Rollback | Resume | Examine


@noun(kw_only=True)
class ReloadResult:
    """What a round came to.

    Args:
        generation: the running one, after the round.
        digest: of the tree that was read; "" when none could be.
        commit, dirty: its provenance.
        model: digest of what it means; "" when it does not compile.
        reasons: why it is held, or was rejected for something else than its text.
        restart_required: settings of that tree which only a restart brings into force.
        unexpected: it was rejected because it is not the tree that was expected.
        accept: the digest that lets it pass, where the guard holds it; "" where accepting would not help.
        brought: of a tree that runs already ("unchanged"), what changed when it came; None where nothing did.
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
    brought: Changes | None = None


@attrs.define(eq=False)
class ReloadRequest:
    """Somebody's claim to the result of a round that begins after now."""

    trigger: Trigger
    operation: Operation
    result: ReloadResult | None = None
    _done: trio.Event = attrs.field(factory=trio.Event, init=False)

    def answer(self, result: ReloadResult) -> None:
        """Give the result, once."""
        if self.result is None:
            self.result = result
            self._done.set()

    async def wait(self) -> ReloadResult:
        """The result of the round that answers this request."""
        await self._done.wait()
        assert self.result is not None
        return self.result


@attrs.define(eq=False, kw_only=True)
class RequestQueue:
    """Where everybody asks for a reload, and the reloader takes what there is.

    Args:
        interval: s between rounds that nobody waits for.
        stagger: s that such a round waits besides, so that not all nodes reload at one instant.
    """

    interval: float
    stagger: Callable[[], float]
    pending: list[ReloadRequest] = attrs.field(factory=list, init=False, repr=False)
    _arrived: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _urgent: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _next: float = attrs.field(default=-math.inf, init=False)  # on trio's clock

    def request(self, trigger: Trigger, operation: Operation | None = None, *, hurry: bool = False) -> ReloadRequest:
        """Ask for a round; a Reload, unless another operation is given. Sync; the request may be waited for or dropped.

        Args:
            hurry: it is not to be brought together with others, or put off.
        """
        request = ReloadRequest(trigger, operation or Reload())
        self.pending.append(request)
        self._arrived.set()
        if hurry or trigger not in BY_ITSELF:
            self._urgent.set()
        return request

    async def take(self) -> list[ReloadRequest]:
        """Wait until a round is due. Returns every request there is; the first one names the round."""
        await self._arrived.wait()
        with trio.CancelScope(deadline=max(self._next, trio.current_time() + self.stagger())):
            await self._urgent.wait()
        self._next = trio.current_time() + self.interval
        taken = sorted(self.pending, key=lambda request: request.trigger in BY_ITSELF)
        self.pending = []
        self._arrived, self._urgent = trio.Event(), trio.Event()
        return taken


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


def is_expected(prefix: str, tree: Tree) -> bool:
    """Whether a tree is the one that was expected, by digest or by commit. "" expects nothing."""
    commit = tree.provenance.commit
    by_commit = len(prefix) >= SHORTEST_COMMIT and commit.startswith(prefix.lower()) and not tree.provenance.dirty
    return not prefix or accepts(prefix, tree.digest) or by_commit
