"""Reloader: the one task that changes the running config. It reads, compiles, guards, prepares and swaps.

Rule: the reloader is the one writer of `live`. What can fail happens before the swap; the swap and all that follows it
is sync. It never raises: whatever goes wrong, a bug included, is a result, and the running config stays.

Theory: a round serves all requests that there are by one reading of the tree (see RequestQueue). Rounds that nobody
asked for by hand are silent when the bytes are those of the last round. deny.toml has a way of its own: what it refuses
is refused at once, whatever becomes of the rest: a rollback, the guard, an error, a tree in motion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import attrs
import trio

from relayd.config.guard import LEAST_DIGITS, accepts, restored, with_deny
from relayd.config.snapshot import Deny, Snapshot
from relayd.config.source.tree import Unstable
from relayd.core.alerts.node_events import ReloadApplied, ReloadHeld, ReloadRejected, ReloadUnchanged
from relayd.core.live import Live
from relayd.core.transition import added, keep_running
from relayd.daemon.accounts.node_defects import NodeDefects
from relayd.daemon.events import Events
from relayd.daemon.reload.adoption import Adoption
from relayd.daemon.reload.candidate import Inspection, Inspector
from relayd.daemon.reload.examination import examine, judged
from relayd.daemon.reload.followers import Followers
from relayd.daemon.reload.history import History
from relayd.daemon.reload.prepare import Preparation, Unprepared
from relayd.daemon.reload.record import ConfigOrigin, ReloadRecord, kept_back, origin_of
from relayd.daemon.reload.requests import (
    BY_ITSELF,
    Examine,
    Operation,
    Reload,
    ReloadOutcome,
    ReloadRequest,
    ReloadResult,
    RequestQueue,
    Resume,
    Rollback,
    Trigger,
    fields_of,
    is_expected,
)
from relayd.daemon.systemd import ReloadNotices

if TYPE_CHECKING:
    from relayd.daemon.source.keeper import SourceKeeper

log = logging.getLogger("relayd.reload")

INTERNAL_ERROR = "an internal error; the log has its traceback (the running config is unharmed: please report it)"


@attrs.define(eq=False, kw_only=True)
class Reloader:
    """Does rounds.

    Args:
        record: what is known of the running config and of the last rounds.
        inspector: reads and compiles (in a worker thread).
        preparation: opens what a new config needs (in a worker thread).
        adoption: what follows a swap.
        defects: what this node cannot use, looked at anew after a round.
        history: the stored generations.
        notices: tells systemd.
        wall: Unix time, s.
        source: where the tree is pulled from; None where it lies in a directory.
        followers: this node's workers.
    """

    live: Live
    record: ReloadRecord
    queue: RequestQueue
    inspector: Inspector
    preparation: Preparation
    adoption: Adoption
    defects: NodeDefects
    history: History
    notices: ReloadNotices
    wall: Callable[[], float]
    followers: Followers
    source: SourceKeeper | None = None
    events: Events = attrs.field(factory=Events)

    # --- rounds

    async def run(self) -> None:
        """Do rounds for ever."""
        while True:
            await self._round(await self.queue.take())

    async def _round(self, requests: list[ReloadRequest]) -> None:
        by_signal = any(request.trigger == "sighup" for request in requests)
        if by_signal:
            self.notices.begin()
        try:
            await self._serve(requests)
        except Exception:
            log.exception("reload.failed")
            _answer(requests, self._note(requests, self._result("rejected", reasons=(INTERNAL_ERROR,))))
        finally:
            headline = self.record.headline(self.live.generation, self.live.snapshot.revision)
            self.notices.end(headline, by_signal=by_signal)
            self.record.note_round()

    async def _serve(self, requests: list[ReloadRequest]) -> None:
        for request in requests:
            match request.operation:
                case Rollback():
                    request.answer(await self._roll_back(request.operation))
                case Resume():
                    await trio.to_thread.run_sync(self.history.hold, 0)
                    self.record.hold = 0
                case Examine():
                    request.answer(await self._examine(request.operation))
                case Reload():
                    pass
                case _:
                    assert_never(request.operation)
        following = [request for request in requests if not isinstance(request.operation, Rollback | Examine)]
        if following:
            await self._fetch(following)
            await self._follow(following)

    async def _fetch(self, requests: list[ReloadRequest]) -> None:
        """Whoever asks by hand means the tree as it is where it comes from. On the node itself a person may name a
        commit that is held."""
        by_hand = [request for request in requests if request.trigger not in BY_ITSELF]
        if self.source is not None and by_hand:
            operations = [request.operation for request in by_hand if request.trigger == "command"]
            meant = [one.accept for one in operations if isinstance(one, Reload) and one.accept and not one.dry_run]
            await self.source.refresh(tuple(meant))

    async def _examine(self, operation: Examine) -> ReloadResult:
        """What another tree would come to."""
        look = partial(examine, self.inspector, self.live.snapshot, Path(operation.tree))
        examined = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        if isinstance(examined, Unstable):
            return attrs.evolve(self._result("busy", reasons=(examined.reason,)), dry_run=True)
        return judged(examined, self._result("applied", examined.inspection), operation.accept)

    async def _follow(self, requests: list[ReloadRequest]) -> None:
        """Read the tree and do what the requests want with it."""
        by_hand = any(request.trigger not in BY_ITSELF for request in requests)
        thorough = any(request.trigger == "hash" for request in requests)
        known = "" if by_hand else self.record.last_digest
        operations = [request.operation for request in requests]
        revoked = [name for one in operations if isinstance(one, Reload) for name in one.revoked]
        inspect = partial(self.inspector.inspect, self.live.snapshot, known, thorough=thorough, revoked=revoked)
        if any(_acts_on_any_tree(operation) for operation in operations):
            inspect = partial(inspect, deny_first=lambda deny: trio.from_thread.run_sync(self._deny_at_once, deny))
        inspection = await trio.to_thread.run_sync(inspect, abandon_on_cancel=True)
        if isinstance(inspection, Unstable):
            await self._obey_deny()
            await self.followers.in_step()
            self._tell_busy(requests, inspection)
        elif inspection.compiled is None:  # the bytes are those of the last round, and nobody waits
            _answer(requests, self._same_again(inspection))
        else:
            await self._decide(requests, inspection)

    async def _decide(self, requests: list[ReloadRequest], inspection: Inspection) -> None:
        """Answer who wants no effect, or expected another tree; act for the rest."""
        self.record.seconds, self.record.deny_problem = dict(inspection.seconds), inspection.deny_problem
        acting = [request for request in requests if _is_to_act(request.operation, inspection)]
        for request in requests:
            if request not in acting:
                request.answer(self._with_source(self._without_effect(request.operation, inspection)))
        if not acting:
            self.inspector.look_again()  # whoever follows the tree by itself has still to see it
            return
        accepted = [request.operation.accept for request in acting if isinstance(request.operation, Reload)]
        result = await self._act(inspection, self._judge(inspection, accepted), acting[0].trigger)
        _answer(acting, self._with_source(self._note(acting, result)))

    def _with_source(self, result: ReloadResult) -> ReloadResult:
        """A result as it is told: that the tree here runs is not the whole answer where a newer one is held at its
        source, or could not be had."""
        if self.source is None or result.result not in ("applied", "unchanged") or not self.source.behind:
            return result
        told = attrs.evolve(result, reasons=self.source.behind, accept=self.source.accept)
        if result.result == "applied":
            return told
        return attrs.evolve(told, result="held" if self.source.accept else "rejected")

    def _tell_busy(self, requests: list[ReloadRequest], tree: Unstable) -> None:
        result = self._result("busy", reasons=(tree.reason,))
        operations = [request.operation for request in requests]
        without_effect = all(isinstance(one, Reload) and one.dry_run for one in operations)
        _answer(requests, result if without_effect else self._note(requests, result))

    def _same_again(self, inspection: Inspection) -> ReloadResult:
        if self.record.candidate is not None:
            return self.record.candidate.outcome
        self.record.learn_provenance(inspection.tree.provenance)
        return self._result("unchanged", inspection)

    def _without_effect(self, operation: Operation, inspection: Inspection) -> ReloadResult:
        """What a dry run is told, or who expected another tree."""
        assert isinstance(operation, Reload)
        if not is_expected(operation.expect, inspection.tree):
            tree = f"{inspection.tree.digest[:LEAST_DIGITS]} ({inspection.tree.provenance})"
            reasons = (f"the tree is {tree}, not {operation.expect}",)
            return attrs.evolve(self._result("rejected", inspection, reasons=reasons), unexpected=True)
        return attrs.evolve(self._judge(inspection, [operation.accept]), dry_run=True)

    # --- deciding

    def _judge(self, inspection: Inspection, accepted: Sequence[str]) -> ReloadResult:
        """What is to become of a tree; "applied" when nothing speaks against it yet. Without effect."""
        if inspection.snapshot is None:
            return self._result("rejected", inspection)
        if self.record.hold:
            return self._result("held", inspection, reasons=(kept_back(self.record.hold),))
        if inspection.held and not any(accepts(word, inspection.tree.digest) for word in accepted):
            held = self._result("held", inspection, reasons=inspection.held)
            return attrs.evolve(held, accept=inspection.tree.digest)
        return self._result("applied" if inspection.acts else "unchanged", inspection)

    def _result(
        self, result: ReloadOutcome, inspection: Inspection | None = None, *, reasons: tuple[str, ...] = ()
    ) -> ReloadResult:
        if inspection is None:
            return ReloadResult(result=result, generation=self.live.generation, reasons=reasons)
        compiled, about = inspection.compiled, inspection.tree.provenance
        return ReloadResult(
            result=result,
            generation=self.live.generation,
            digest=inspection.tree.digest,
            revision=compiled.revision if compiled is not None else "",
            commit=about.commit,
            dirty=about.dirty,
            model=inspection.model,
            problems=compiled.problems if compiled is not None else (),
            reasons=reasons,
            changes=inspection.changes,
            restart_required=inspection.restart,
        )

    # --- doing

    async def _act(self, inspection: Inspection, result: ReloadResult, trigger: Trigger) -> ReloadResult:
        match result.result:
            case "applied":
                assert inspection.snapshot is not None
                result = await self._apply(inspection.snapshot, result, self._origin(inspection, trigger))
            case "unchanged":
                self._take_over(inspection, trigger)
                result = attrs.evolve(result, brought=self.record.origin.brought)
        if result.result in ("applied", "unchanged"):
            if result.result == "applied":
                self.record.unstored = inspection.tree
            self.record.degraded = ""
            self.inspector.accept(inspection, denied=self.live.snapshot.deny)
            if trigger not in BY_ITSELF:  # last, for it waits: whoever heard of the swap finds all else done
                await self.defects.look()
        else:
            self._deny_at_once(inspection.deny)
        await self.followers.in_step()
        return result

    async def _apply(self, wanted: Snapshot, result: ReloadResult, origin: ConfigOrigin) -> ReloadResult:
        """Prepare, then swap. From the call of `commit` on nothing waits and nothing fails."""
        old = self.live.snapshot
        new = keep_running(old, wanted)
        began = trio.current_time()
        try:
            prepared = await trio.to_thread.run_sync(self.preparation.prepare, old, new)
        except Unprepared as error:
            return attrs.evolve(result, result="rejected", reasons=error.reasons)
        new, origin = prepared.snapshot, attrs.evolve(origin, brought=result.changes)
        if reasons := await self.followers.prepare(new):
            prepared.discard()
            return attrs.evolve(result, result="rejected", reasons=reasons)
        self.record.seconds["prepare"] = trio.current_time() - began
        try:
            prepared.commit()
        except BaseException:
            prepared.discard()
            raise
        self.live.swap(new)
        self.followers.commit()
        self.record.run_from(origin, self.wall())
        self._adopt(old, new)
        prepared.retire()
        self.record.note_swap()
        return attrs.evolve(result, generation=self.live.generation)

    def _adopt(self, old: Snapshot, new: Snapshot) -> None:
        try:
            self.adoption.adopt(old, new)
        except Exception:  # the new config runs; what only follows it must not undo that
            log.exception("reload.adopt_failed")

    def _take_over(self, inspection: Inspection, trigger: Trigger) -> None:
        """The same config in other words (comments, a moved file): calls are booked under the new revision."""
        assert inspection.compiled is not None
        if self.live.snapshot.revision != inspection.compiled.revision:
            self.live.amend(attrs.evolve(self.live.snapshot, revision=inspection.compiled.revision))
            self.followers.amend(self.live.snapshot)
        running = self.record.origin
        if running.digest != inspection.tree.digest or running.stored:
            origin = attrs.evolve(self._origin(inspection, trigger), since=running.since)
            self.record.run_from(origin, self.wall())
        else:
            self.record.learn_provenance(inspection.tree.provenance)

    def _origin(self, inspection: Inspection, trigger: Trigger) -> ConfigOrigin:
        assert inspection.compiled is not None
        revision = inspection.compiled.revision
        return origin_of(inspection.tree, revision, self.wall(), trigger, model=inspection.model)

    async def _obey_deny(self) -> None:
        """Refuse what deny.toml refuses, by whatever can be made of it alone."""
        deny, self.record.deny_problem = await trio.to_thread.run_sync(self.inspector.deny_alone)
        self._deny_at_once(deny)

    def _deny_at_once(self, deny: Deny | None) -> None:
        """Refuse what deny.toml refuses, though the rest of its tree does not run. Never the other way round: a tree
        that is not trusted whole brings nobody back."""
        if deny is None:
            return
        self.inspector.denied, old = deny, self.live.snapshot
        new = with_deny(old, deny)
        if new is old:
            return
        self.live.amend(new)
        self.followers.amend(new)
        self._adopt(old, new)
        extra = attrs.asdict(added(old.deny, new.deny))
        log.warning("reload.denied", extra={name: list(part) for name, part in extra.items() if part})

    # --- going back

    async def _roll_back(self, operation: Rollback) -> ReloadResult:
        load = partial(self.history.load, operation.generation, self.record.origin.digest)
        try:
            number, tree = await trio.to_thread.run_sync(load)
        except LookupError as error:
            return self._result("rejected", reasons=(str(error.args[0]),))
        inspection = await trio.to_thread.run_sync(self.inspector.compile, tree, self.live.snapshot)
        if inspection.snapshot is None:
            return self._result("rejected", inspection, reasons=(f"generation {number} does not compile",))
        await self._obey_deny()
        snapshot = with_deny(inspection.snapshot, self.inspector.denied)
        back = restored(self.live.snapshot, snapshot)
        if back and not operation.allow_unrevoke:
            reason = f"it would let revoked keys in again: {', '.join(back)} (--allow-unrevoke does it all the same)"
            return self._result("rejected", inspection, reasons=(reason,))
        origin = attrs.evolve(self._origin(inspection, "rollback"), stored=number)
        result = await self._apply(snapshot, self._result("applied", inspection), origin)
        if result.result == "applied":
            await trio.to_thread.run_sync(self.history.hold, number)
            self.record.roll_back(number, result, self.wall())
            await self.followers.in_step()
            log.warning("reload.rolled_back", extra={"generation": self.live.generation, "stored": number})
        self.record.rounds["rollback", result.result] += 1
        return result

    # --- telling

    def _note(self, requests: Sequence[ReloadRequest], result: ReloadResult) -> ReloadResult:
        """Remember and log what a round came to."""
        trigger, before = requests[0].trigger, self.record.restart_required
        self.record.rounds[trigger, result.result] += 1
        if result.result in ("applied", "unchanged"):
            self.record.agree(result, self.wall())
            if result.restart_required and result.restart_required != before:
                log.warning("reload.restart_required", extra={"settings": list(result.restart_required)})
        else:
            self.record.differ(result, self.wall())
        fields = fields_of(result, trigger)
        if result.result == "busy":  # it is asked for again
            log.warning("reload.busy", extra=fields)
        else:
            self.events.tell(_EVENTS[result.result](told=fields))
        return result


def _acts_on_any_tree(operation: Operation) -> bool:
    """Whether whatever lies on the disk is to have an effect."""
    return not isinstance(operation, Reload) or not (operation.dry_run or operation.expect)


def _is_to_act(operation: Operation, inspection: Inspection) -> bool:
    if not isinstance(operation, Reload):
        return True
    return not operation.dry_run and is_expected(operation.expect, inspection.tree)


def _answer(requests: Sequence[ReloadRequest], result: ReloadResult) -> None:
    for request in requests:
        request.answer(result)


_EVENTS: dict[ReloadOutcome, type[ReloadRejected | ReloadHeld | ReloadApplied]] = {
    "applied": ReloadApplied,
    "unchanged": ReloadUnchanged,
    "rejected": ReloadRejected,
    "held": ReloadHeld,
}
