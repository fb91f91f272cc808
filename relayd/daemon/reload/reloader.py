"""Reload: many bells, one door. One task reads, compiles, guards, prepares and swaps; everybody else only rings.

Rule: the reloader is the one writer of `live`. What can fail happens before the swap; the swap and all that follows it
is sync. It never raises: whatever goes wrong, a bug included, is a result, and the running config stays.

Theory: level-triggered. A ring (`poke`) leaves a ticket; the next round takes every ticket there is *before* it starts
to read, so a ticket is always answered by a reading that began after it, and the last edit is never lost. Rounds that
nobody asked for by hand are silent when the bytes are those of the last round. deny.toml has a way of its own: what it
newly refuses is refused at once, whatever becomes of the rest.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, assert_never

import attrs
import trio

from relayd.config.guard import LEAST_DIGITS, accepts, restored, with_deny
from relayd.config.snapshot import Deny, Snapshot
from relayd.config.source.tree import Tree, Unstable
from relayd.core.cluster import MOST_PAST, Past
from relayd.core.live import Live
from relayd.core.transition import added, keep_running
from relayd.daemon.reload.candidate import Inspection, Inspector
from relayd.daemon.reload.requests import (
    BY_ITSELF,
    ConfigOrigin,
    Operation,
    PendingTree,
    Reload,
    ReloadOutcome,
    ReloadRequest,
    ReloadResult,
    Resume,
    Rollback,
    Trigger,
    fields_of,
    is_expected,
    kept_back,
    origin_of,
)

log = logging.getLogger("relayd.reload")


class Unprepared(Exception):
    """Something that a config needs cannot be had on this node. `reasons` are for people."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(reasons))


class Prepared(Protocol):
    """What was opened for a config that is about to run. All sync."""

    def commit(self) -> None:
        """Put it to use; just before the swap."""

    def retire(self) -> None:
        """Close what the new config does not need; after the swap."""

    def discard(self) -> None:
        """Close what was opened: the config will not run."""


class Vault(Protocol):
    """Stored generations. Sync, may block."""

    def load(self, number: int | None, unlike: str) -> tuple[int, Tree]:
        """Generation `number`, or the newest whose digest is not `unlike`. Raises: LookupError that says why not."""

    def hold(self, number: int) -> None:
        """Note that `number` is to be served, also after a restart; 0 = the tree again."""


@attrs.define(eq=False, kw_only=True)
class Reloader:
    """The one task that changes the running config.

    Args:
        study: reads and compiles (in a worker thread).
        prepare: opens what a new config needs (in a worker thread). Raises: Unprepared.
        adopted: called after each swap with the old and the new snapshot; sync.
        reopen: tries again what this node could not open; in a worker thread, after rounds that somebody asked for.
        reopened: told which accounts' secrets can be had now; sync.
        vault: stored generations.
        announce: tells systemd (sd_notify(3)).
        monotonic: CLOCK_MONOTONIC, microseconds.
        wall: Unix time, s.
        interval: s between rounds that nobody waits for.
        stagger: s that such a round waits besides, so that not all nodes reload at one instant.
    """

    live: Live
    study: Inspector
    prepare: Callable[[Snapshot, Snapshot], Prepared]
    adopted: Callable[[Snapshot, Snapshot], None]
    vault: Vault
    running: ConfigOrigin
    wall: Callable[[], float]
    reopen: Callable[[Snapshot], list[str]] = lambda snapshot: []
    reopened: Callable[[list[str]], None] = lambda accounts: None
    announce: Callable[[str], None] = lambda state: None
    monotonic: Callable[[], int] = lambda: 0
    interval: float = 1.0
    stagger: Callable[[], float] = lambda: 0.0
    degraded: str = ""  # why a stored generation was taken at the start; "" once the tree is sound again
    hold: int = 0  # number of the generation that a rollback holds; 0 = none
    restart_required: tuple[str, ...] = ()
    candidate: PendingTree | None = None
    fresh: Tree | None = attrs.field(default=None, repr=False)  # running, and not stored yet
    rounds: Counter[tuple[Trigger, ReloadOutcome]] = attrs.field(factory=Counter)
    seconds: dict[str, float] = attrs.field(factory=dict)  # of the last round, by phase
    succeeded: float = 0.0  # Unix time of the last round that left disk and daemon in agreement
    committed: trio.Event = attrs.field(factory=trio.Event, repr=False)  # set, and replaced, by each swap
    settled: trio.Event = attrs.field(factory=trio.Event, repr=False)  # the same, by each round, whatever came of it
    past: tuple[Past, ...] = ()  # configs that ran before, the newest first
    _pending: list[ReloadRequest] = attrs.field(factory=list, init=False, repr=False)
    _bell: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _urgent: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _next: float = attrs.field(default=-1.0, init=False)
    _told: str = attrs.field(default="", init=False)

    # --- ringing

    def poke(self, trigger: Trigger, request: Operation | None = None, *, hurry: bool = False) -> ReloadRequest:
        """Ask for a round. Sync; the ticket may be waited for or dropped. `hurry`: it is not to be brought together
        with others, or put off."""
        ticket = ReloadRequest(trigger, request or Reload())
        self._pending.append(ticket)
        self._bell.set()
        if hurry or trigger not in BY_ITSELF:
            self._urgent.set()
        return ticket

    @property
    def in_step(self) -> bool:
        """Whether the daemon runs what is on disk, as far as the last round saw."""
        return self.candidate is None

    # --- rounds

    async def run(self) -> None:
        """Do rounds for ever."""
        while True:
            await self._bell.wait()
            with trio.CancelScope(deadline=max(self._next, trio.current_time() + self.stagger())):
                await self._urgent.wait()
            self._next = trio.current_time() + self.interval
            await self._round()

    async def _round(self) -> None:
        tickets = sorted(self._pending, key=lambda ticket: ticket.trigger in BY_ITSELF)  # who asked names the round
        self._pending = []
        self._bell, self._urgent = trio.Event(), trio.Event()
        by_signal = any(ticket.trigger == "sighup" for ticket in tickets)
        if by_signal:
            self.announce(f"RELOADING=1\nMONOTONIC_USEC={self.monotonic()}")
        try:
            await self._serve(tickets)
        except Exception:
            log.exception("reload.failed")
            reason = "an internal error; the log has its traceback (the running config is unharmed: please report it)"
            self._answer(tickets, self._note(tickets, self._result("rejected", reasons=(reason,))))
        finally:
            self._tell_systemd(by_signal)
            self.settled.set()
            self.settled = trio.Event()

    async def _serve(self, tickets: list[ReloadRequest]) -> None:
        for ticket in tickets:
            match ticket.request:
                case Rollback():
                    ticket.answer(await self._roll_back(ticket.request))
                case Resume():
                    await trio.to_thread.run_sync(self.vault.hold, 0)
                    self.hold = 0
                case Reload():
                    pass
                case _:
                    assert_never(ticket.request)
        following = [ticket for ticket in tickets if not isinstance(ticket.request, Rollback)]
        if following:
            await self._follow(following)

    async def _follow(self, tickets: list[ReloadRequest]) -> None:
        """Look at the tree and do what the tickets want with it."""
        asked = any(ticket.trigger not in BY_ITSELF for ticket in tickets)
        thorough = any(ticket.trigger == "hash" for ticket in tickets)
        look = partial(self.study.look, self.live.snapshot, "" if asked else self._known(), thorough=thorough)
        if any(
            not (isinstance(one.request, Reload) and (one.request.dry_run or one.request.expect)) for one in tickets
        ):
            look = partial(look, deny_first=lambda deny: trio.from_thread.run_sync(self._deny_at_once, deny))
        seen = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        if isinstance(seen, Unstable):
            result = self._result("busy", reasons=(seen.reason,))
            only_asked = all(isinstance(ticket.request, Reload) and ticket.request.dry_run for ticket in tickets)
            self._answer(tickets, result if only_asked else self._note(tickets, result))
            return
        if seen.compiled is None:  # the bytes are those of the last round, and nobody waits
            self._answer(tickets, self._same_again(seen))
            return
        self.seconds = dict(seen.seconds)
        doing = [ticket for ticket in tickets if self._is_to_act(ticket, seen)]
        for ticket in tickets:
            if ticket not in doing:
                ticket.answer(self._without_effect(ticket.request, seen))
        if not doing:
            self.study.examined = None  # whoever follows the tree by itself has still to see it
        else:
            accepted = [ticket.request.accept for ticket in doing if isinstance(ticket.request, Reload)]
            result = await self._act(seen, self._judge(seen, accepted), doing[0].trigger)
            self._answer(doing, self._note(doing, result))

    def _known(self) -> str:
        """Digest of the tree that the last round saw."""
        return self.candidate.outcome.digest if self.candidate is not None else self.running.digest

    def _same_again(self, seen: Inspection) -> ReloadResult:
        if self.candidate is not None:
            return self.candidate.outcome
        about = seen.tree.provenance  # what was dirty may have been committed
        self.running = attrs.evolve(self.running, commit=about.commit, dirty=about.dirty)
        return self._result("unchanged", seen)

    @staticmethod
    def _is_to_act(ticket: ReloadRequest, seen: Inspection) -> bool:
        request = ticket.request
        if not isinstance(request, Reload):
            return True
        return not request.dry_run and is_expected(request.expect, seen.tree)

    def _without_effect(self, request: Operation, seen: Inspection) -> ReloadResult:
        """What a dry run is told, or who expected another tree."""
        assert isinstance(request, Reload)
        if not is_expected(request.expect, seen.tree):
            tree = f"{seen.tree.digest[:LEAST_DIGITS]} ({seen.tree.provenance})"
            reasons = (f"the tree is {tree}, not {request.expect}",)
            return attrs.evolve(self._result("rejected", seen, reasons=reasons), unexpected=True)
        return attrs.evolve(self._judge(seen, [request.accept]), dry_run=True)

    # --- deciding

    def _judge(self, seen: Inspection, accepted: Sequence[str]) -> ReloadResult:
        """What is to become of a tree; "applied" when nothing speaks against it yet. Without effect."""
        if seen.snapshot is None:
            return self._result("rejected", seen)
        if self.hold:
            return self._result("held", seen, reasons=(kept_back(self.hold),))
        if seen.held and not any(accepts(word, seen.tree.digest) for word in accepted):
            return attrs.evolve(self._result("held", seen, reasons=seen.held), accept=seen.tree.digest)
        return self._result("applied" if seen.acts else "unchanged", seen)

    def _result(
        self, result: ReloadOutcome, seen: Inspection | None = None, *, reasons: tuple[str, ...] = ()
    ) -> ReloadResult:
        if seen is None:
            return ReloadResult(result=result, generation=self.live.generation, reasons=reasons)
        return ReloadResult(
            result=result,
            generation=self.live.generation,
            digest=seen.tree.digest,
            revision=seen.compiled.revision if seen.compiled is not None else "",
            commit=seen.tree.provenance.commit,
            dirty=seen.tree.provenance.dirty,
            model=seen.model,
            problems=seen.compiled.problems if seen.compiled is not None else (),
            reasons=reasons,
            changes=seen.changes,
            restart_required=seen.restart,
        )

    # --- doing

    async def _act(self, seen: Inspection, result: ReloadResult, trigger: Trigger) -> ReloadResult:
        match result.result:
            case "applied":
                assert seen.snapshot is not None
                result = await self._apply(seen.snapshot, result, self._origin(seen, trigger))
            case "unchanged":
                self._take_over(seen, trigger)
        if result.result in ("applied", "unchanged"):
            self.fresh = seen.tree if result.result == "applied" else self.fresh
            self.degraded = ""
            self.study.denied = self.live.snapshot.deny
            self.study.realm = seen.snapshot.relay.realm if seen.snapshot is not None else ""
            if trigger not in BY_ITSELF:  # last, for it waits: whoever heard of the swap finds all else done
                self.reopened(await trio.to_thread.run_sync(self.reopen, self.live.snapshot))
        else:
            self._deny_at_once(seen.deny)
        return result

    async def _apply(self, wanted: Snapshot, result: ReloadResult, origin: ConfigOrigin) -> ReloadResult:
        """Prepare, then swap. From the call of `commit` on nothing waits and nothing fails."""
        old = self.live.snapshot
        new = keep_running(old, wanted)
        began = trio.current_time()
        try:
            prepared = await trio.to_thread.run_sync(self.prepare, old, new)
        except Unprepared as error:
            return attrs.evolve(result, result="rejected", reasons=error.reasons)
        self.seconds["prepare"] = trio.current_time() - began
        try:
            prepared.commit()
        except BaseException:
            prepared.discard()
            raise
        self.live.swap(new)
        self._run_from(origin)
        self._after_swap(old, new)
        prepared.retire()
        self.committed.set()
        self.committed = trio.Event()
        return attrs.evolve(result, generation=self.live.generation)

    def _after_swap(self, old: Snapshot, new: Snapshot) -> None:
        try:
            self.adopted(old, new)
        except Exception:  # the new config runs; what only follows it must not undo that
            log.exception("reload.adopt_failed")

    def _take_over(self, seen: Inspection, trigger: Trigger) -> None:
        """The same config in other words (comments, a moved file): calls are booked under the new revision."""
        assert seen.compiled is not None
        if self.live.snapshot.revision != seen.compiled.revision:
            self.live.amend(attrs.evolve(self.live.snapshot, revision=seen.compiled.revision))
        if self.running.digest != seen.tree.digest or self.running.stored:
            self._run_from(attrs.evolve(self._origin(seen, trigger), since=self.running.since))
        else:
            about = seen.tree.provenance
            self.running = attrs.evolve(self.running, commit=about.commit, dirty=about.dirty)

    def _run_from(self, origin: ConfigOrigin) -> None:
        """What runs has another origin from now on. What it had before is remembered, for the other nodes."""
        old = self.running
        if (old.digest, old.model) != (origin.digest, origin.model):
            left = Past(tree=old.digest, model=old.model, left=self.wall())
            self.past = (left, *self.past)[:MOST_PAST]
        self.running = origin

    def _origin(self, seen: Inspection, trigger: Trigger) -> ConfigOrigin:
        assert seen.compiled is not None
        return origin_of(seen.tree, seen.compiled.revision, self.wall(), trigger, model=seen.model)

    def _deny_at_once(self, deny: Deny | None) -> None:
        """Refuse what deny.toml newly refuses, though the rest of its tree does not run. Never the other way round:
        a tree that is not trusted whole brings nobody back."""
        if deny is None or deny == self.study.denied:
            return
        extra, old = added(self.study.denied, deny), self.live.snapshot
        self.study.denied = deny
        new = with_deny(old, extra)
        if new is old:
            return
        self.live.amend(new)
        self._after_swap(old, new)
        log.warning("reload.denied", extra={name: list(part) for name, part in attrs.asdict(extra).items() if part})

    # --- going back

    async def _roll_back(self, request: Rollback) -> ReloadResult:
        try:
            number, tree = await trio.to_thread.run_sync(self.vault.load, request.generation, self.running.digest)
        except LookupError as error:
            return self._result("rejected", reasons=(str(error.args[0]),))
        seen = await trio.to_thread.run_sync(self.study.compile, tree, self.live.snapshot)
        if seen.snapshot is None:
            return self._result("rejected", seen, reasons=(f"generation {number} does not compile",))
        back = restored(self.live.snapshot, seen.snapshot)
        if back and not request.allow_unrevoke:
            reason = f"it would let revoked keys in again: {', '.join(back)} (--allow-unrevoke does it all the same)"
            return self._result("rejected", seen, reasons=(reason,))
        origin = attrs.evolve(self._origin(seen, "rollback"), stored=number)
        result = await self._apply(seen.snapshot, self._result("applied", seen), origin)
        if result.result == "applied":
            await trio.to_thread.run_sync(self.vault.hold, number)
            self.hold, self.fresh = number, None
            held = attrs.evolve(result, result="held", digest="", reasons=(kept_back(number),))
            self.candidate = PendingTree(since=self.wall(), outcome=held)
            log.warning("reload.rolled_back", extra={"generation": self.live.generation, "stored": number})
        self.rounds["rollback", result.result] += 1
        return result

    # --- telling

    def _note(self, tickets: Sequence[ReloadRequest], result: ReloadResult) -> ReloadResult:
        """Remember and log what a round came to. A tree that was rejected before is not complained of again."""
        trigger = tickets[0].trigger
        self.rounds[trigger, result.result] += 1
        if result.result in ("applied", "unchanged"):
            self.succeeded, self.candidate = self.wall(), None
            if result.restart_required and result.restart_required != self.restart_required:
                log.warning("reload.restart_required", extra={"settings": list(result.restart_required)})
            self.restart_required = result.restart_required
        else:
            since = self.candidate.since if self.candidate is not None else self.wall()
            self.candidate = PendingTree(since=since, outcome=result)
        log.log(_LEVELS[result.result], "reload.%s", result.result, extra=fields_of(result, trigger))
        return result

    @staticmethod
    def _answer(tickets: Sequence[ReloadRequest], result: ReloadResult) -> None:
        for ticket in tickets:
            ticket.answer(result)

    def _tell_systemd(self, by_signal: bool) -> None:
        """READY=1 ends what RELOADING=1 began, whatever came of it; the status line is told when it is another one."""
        headline = self.headline()
        if by_signal or headline != self._told:
            self.announce(("READY=1\n" if by_signal else "") + f"STATUS={headline}")
        self._told = headline

    def headline(self) -> str:
        """One line for `systemctl status`."""
        head = f"generation {self.live.generation} {self.live.snapshot.revision}"
        if self.candidate is None:
            return f"{head} ok" + (
                f", restart needed for {', '.join(self.restart_required)}" * bool(self.restart_required)
            )
        outcome = self.candidate.outcome
        why = str(outcome.problems[0]) if outcome.problems else outcome.reasons[0] if outcome.reasons else ""
        return f"{head}{' DEGRADED' * bool(self.degraded)} {outcome.result.upper()} {why}".rstrip()


_LEVELS: dict[ReloadOutcome, int] = {
    "applied": logging.INFO,
    "unchanged": logging.INFO,
    "rejected": logging.WARNING,
    "held": logging.WARNING,
    "busy": logging.WARNING,
}
