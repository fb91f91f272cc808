"""The state pump: operations of all calls, batched into one worker thread.

Rule: the trio side never blocks and never touches the store; the thread never touches trio but to hand answers back.
Whatever queued while the last batch ran goes as the next one, so batches grow with the load and are of one when idle.

Theory: the store is up or down, as its last batch found it. While it is down, questions fail at once (nobody piles up
behind a dead Redis), settlements go to the journal, and the thread alone tries again, ever more slowly; once the store
answers, the journal is replayed first, then it is up. Who gives up waiting for an admission cannot know whether it took
place: a Void follows it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

import attrs
import trio

from relayd.core.limits import Slots
from relayd.daemon.journal import Entry, Journal
from relayd.state.contract import (
    Admit,
    Answer,
    Failed,
    Lease,
    Op,
    Ping,
    Release,
    Settle,
    Store,
    StoreUnavailable,
    Void,
)

LARGEST_BATCH = 128  # operations; two Redis scripts, or a SQLite transaction of about 8 ms
MOST_QUEUED = 4096  # beyond that the store is too slow for the load, and asking fails at once
FIRST_PROBE, LONGEST_PROBE = 0.1, 2.0  # s between two tries at a store that is down, doubling
FLUSH_TIMEOUT = 5.0  # s for what is queued when the daemon stops

log = logging.getLogger("relayd.state")


@attrs.define(eq=False)
class _Pending:
    """One operation under way. `task` is whoever waits for the answer, as long as somebody does."""

    op: Op
    deadline: float = 0.0
    task: trio.lowlevel.Task | None = None
    then: Callable[[Answer], None] | None = None
    answer: Answer | None = None
    abandoned: bool = False


@attrs.define
class PumpStats:
    """For metrics and `status`. Counts since the start."""

    operations: int = 0
    batches: int = 0
    largest: int = 0
    seconds: float = 0.0  # the thread was at work in the store
    unanswered: int = 0  # questions that failed, for whatever reason
    journaled: int = 0
    replayed: int = 0
    dropped: int = 0  # operations without lasting effect that were given up
    failed: int = 0  # operations that the store refused to carry out
    outages: int = 0


@attrs.define(eq=False)
class Pump:
    """Asks the store on behalf of calls.

    Args:
        store: used by the worker thread alone, once `run` runs.
        journal: for settlements that cannot be delivered; None drops them.
        threaded: False carries every operation out on the spot, on the caller's thread. For tests under a simulated
            clock, which does not wait for threads.
        on_change: called in trio's thread when the store goes down or comes back, with `up` and a reason.
    """

    store: Store
    journal: Journal | None = None
    threaded: bool = True
    on_change: Callable[[bool, str], None] | None = None
    stats: PumpStats = attrs.field(factory=PumpStats, init=False)
    up: bool = attrs.field(default=False, init=False)
    reason: str = attrs.field(default="not connected yet", init=False)
    warnings: tuple[str, ...] = attrs.field(default=(), init=False)
    _queue: queue.SimpleQueue[_Pending | None] = attrs.field(factory=queue.SimpleQueue, init=False)
    _waiting: dict[_Pending, None] = attrs.field(factory=dict, init=False)
    _idle: trio.Event | None = attrs.field(default=None, init=False)
    _token: trio.lowlevel.TrioToken | None = attrs.field(default=None, init=False)
    _stopping: bool = attrs.field(default=False, init=False)

    # -- the trio side ---------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then deliver or journal what is queued, within FLUSH_TIMEOUT.

        `task_status.started` comes after the first try to reach the store, whether it worked or not.
        Raises: StoreMisfit when the store can never work as configured.
        """
        self._token = trio.lowlevel.current_trio_token()
        if not self.threaded:
            self._connect()
            task_status.started()
            await trio.sleep_forever()
        connected, ended = trio.Event(), trio.Event()
        failures: list[Exception] = []

        def work() -> None:
            try:
                self._work(lambda: self._soon(connected.set))
            except Exception as error:
                failures.append(error)
            finally:
                self._soon(ended.set)

        threading.Thread(target=work, name="relayd-state", daemon=True).start()
        try:
            await _first_of(connected, ended)
            if connected.is_set():
                task_status.started()
                await self._watch(ended)
        finally:
            self._stopping = True
            self._queue.put(None)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_TIMEOUT):
                await ended.wait()
        if failures:
            raise failures[0]

    @property
    def queued(self) -> int:
        """Operations that wait for the thread."""
        return self._queue.qsize()

    async def ask(self, op: Op) -> Answer:
        """Carry out an operation and wait for its answer, at most `store.deadline` s.

        Cancelled or too late, an Admit is voided and a Lease released, for it may have taken place.
        Raises: StoreUnavailable.
        """
        if not self.up or self._queue.qsize() >= MOST_QUEUED:
            self.stats.unanswered += 1
            raise StoreUnavailable(self.reason or f"{self.store.name}: too slow, {MOST_QUEUED} operations are queued")
        pending = _Pending(op)
        if not self.threaded:
            self._serve([pending])
        else:
            await self._wait_for(pending)
        if pending.answer is None:
            self.stats.unanswered += 1
            raise StoreUnavailable(self.reason or f"{self.store.name}: no answer within {self.store.deadline:g} s")
        return pending.answer

    def submit_nowait(self, op: Op, then: Callable[[Answer], None] | None = None) -> None:
        """Carry out an operation some time soon. Sync, for it is called from `finally` blocks.

        A Settle or Void that cannot be delivered is journaled; anything else is given up.

        Args:
            then: called with the answer, in trio's thread.
        """
        pending = _Pending(op, then=then)
        if not self.threaded:
            self._serve([pending])
        elif isinstance(op, Settle | Void) or self._queue.qsize() < MOST_QUEUED:
            self._queue.put(pending)
        else:
            self.stats.dropped += 1

    async def _wait_for(self, pending: _Pending) -> None:
        pending.task = trio.lowlevel.current_task()
        pending.deadline = trio.current_time() + self.store.deadline
        self._waiting[pending] = None
        if self._idle is not None:
            self._idle.set()
            self._idle = None
        self._queue.put(pending)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._give_up(pending)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _give_up(self, pending: _Pending) -> None:
        """Nobody waits for it any longer. It may have been carried out, or may still be."""
        pending.task = None
        pending.abandoned = True
        self._waiting.pop(pending, None)
        match pending.op:
            case Admit(call=call):
                self.submit_nowait(Void(call=call))
            case Lease(holder=holder, terms=terms):
                counters = tuple(term.counter for term in terms if isinstance(term, Slots))
                self.submit_nowait(Release(holder=holder, counters=counters))
            case _:
                pass

    async def _watch(self, ended: trio.Event) -> None:
        """Wake whoever has waited too long. All wait equally long, so the first to ask is the first to give up."""
        while not ended.is_set():
            if not self._waiting:
                self._idle = trio.Event()
                await _first_of(self._idle, ended)
                continue
            await trio.sleep_until(next(iter(self._waiting)).deadline)
            self._expire(trio.current_time())

    def _expire(self, now: float) -> None:
        for pending in list(self._waiting):
            if pending.deadline > now:
                break
            task = pending.task
            self._give_up(pending)
            if task is not None:
                trio.lowlevel.reschedule(task)

    def _deliver(self, batch: Sequence[_Pending], answers: Sequence[Answer | None]) -> None:
        """Hand answers over, in trio's thread; None for those that the store did not answer."""
        for pending, answer in zip(batch, answers, strict=True):
            pending.answer = answer
            self._waiting.pop(pending, None)
            if pending.task is not None:
                task, pending.task = pending.task, None
                trio.lowlevel.reschedule(task)
            elif pending.then is not None and answer is not None:
                pending.then(answer)

    def _changed(self, up: bool, reason: str) -> None:
        if self.on_change is not None:
            self.on_change(up, reason)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _soon(self, function: Callable[..., object], *args: object) -> None:
        if not self.threaded:
            function(*args)
            return
        assert self._token is not None
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            pass  # nobody is left to tell

    def _work(self, connected: Callable[[], None]) -> None:
        try:
            self._connect()
            connected()
            wait = FIRST_PROBE
            while not self._stopping or self._queue.qsize():
                batch = self._next_batch(None if self.up else wait)
                if batch:
                    self._serve(batch)
                if self.up:
                    wait = FIRST_PROBE
                elif not batch and not self._stopping:
                    self._connect()
                    wait = min(wait * 2, LONGEST_PROBE)
        finally:
            if self.journal is not None:
                self.journal.close()
            self.store.close()

    def _next_batch(self, timeout: float | None) -> list[_Pending]:
        """What is queued, waiting for the first; [] when nothing came in time, or the end was called for."""
        try:
            batch = [self._queue.get(timeout=timeout)]
        except queue.Empty:
            return []
        more = min(self._queue.qsize(), LARGEST_BATCH - 1)
        batch += [self._queue.get_nowait() for _ in range(more)]  # the thread is the only one that takes
        return [pending for pending in batch if pending is not None and not pending.abandoned]

    def _serve(self, batch: list[_Pending]) -> None:
        """Carry out a batch, or journal what must not be lost of it."""
        ops = [pending.op for pending in batch]
        answers: list[Answer] = []
        if self.up:
            answers = self._applied(ops)
            if not answers:  # it may have carried them out, all the same
                self._keep([Void(call=op.call) if isinstance(op, Admit) else op for op in ops])
        else:
            self._keep(ops)
        self._soon(self._deliver, batch, answers or [None] * len(batch))

    def _applied(self, ops: list[Op]) -> list[Answer]:
        """The store's answers; [] when it is down, which is noted."""
        began = time.perf_counter()
        try:
            answers = self.store.apply(ops)
        except StoreUnavailable as error:
            self._went_down(str(error))
            return []
        except Exception as error:  # our bug; then better an outage, which is seen and survived, than a dead thread
            log.exception("state.fault")
            self._went_down(f"{self.store.name}: {type(error).__name__}")
            return []
        stats = self.stats
        stats.seconds += time.perf_counter() - began
        stats.batches += 1
        stats.operations += len(ops)
        stats.largest = max(stats.largest, len(ops))
        for op, answer in zip(ops, answers, strict=True):
            if isinstance(answer, Failed):
                stats.failed += 1
                log.error("state.operation_failed", extra={"operation": type(op).__name__, "reason": answer.reason})
        return answers

    def _keep(self, ops: Sequence[Op]) -> None:
        """Journal what must not be lost."""
        entries: list[Entry] = [op for op in ops if isinstance(op, Settle | Void)]
        self.stats.dropped += len(ops) - len(entries)
        if not entries:
            return
        if self.journal is None:
            self.stats.dropped += len(entries)
            return
        before = self.journal.problem
        kept = self.journal.append(entries)
        self.stats.journaled += len(entries)
        if not kept and self.journal.problem != before:
            log.warning("state.journal_problem", extra={"reason": self.journal.problem})

    def _went_down(self, reason: str) -> None:
        if self.up or self.stats.outages == 0:
            self.stats.outages += 1
            log.warning("state.unavailable", extra={"reason": reason})
            self._soon(self._changed, False, reason)
        self.reason = reason
        self.up = False

    def _connect(self) -> None:
        """Try to reach the store and to replay the journal; then it is up. Raises: StoreMisfit."""
        try:
            warnings = tuple(self.store.check())
            if warnings != self.warnings:
                self.warnings = warnings
                for text in warnings:
                    log.warning("state.warning", extra={"reason": text})
            self.store.apply([Ping()])
            self._replay()
        except StoreUnavailable as error:
            self._went_down(str(error))
            return
        except OSError as error:
            self._went_down(f"journal: {error}")
            return
        self.up, self.reason = True, ""
        if self.stats.outages:
            log.info("state.available", extra={"store": self.store.name})
        self._soon(self._changed, True, "")

    def _replay(self) -> None:
        """Deliver the journal. Broken off midway, all of it comes again later, which does no harm."""
        if self.journal is None:
            return
        for path, entries in self.journal.pending():
            for start in range(0, len(entries), LARGEST_BATCH):
                part = entries[start : start + LARGEST_BATCH]
                failed = sum(isinstance(answer, Failed) for answer in self.store.apply(part))
                self.stats.failed += failed
                self.stats.replayed += len(part) - failed
            self.journal.forget(path)


async def _first_of(*events: trio.Event) -> None:
    """Wait until one of the events is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
