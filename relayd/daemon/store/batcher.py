"""Batcher for the state store: operations of all calls in batches, carried out by one worker thread.

Rule: the trio side never waits for the store; the thread never touches trio but to hand answers back. What the calls
of one pass of the event loop ask goes as one batch, with whatever nobody waits for (settlements, pins), which may lie a
few milliseconds. What comes while a batch is under way goes as the next one, so batches grow with the load.

A thread costs two switches a batch, several times the work of a SQLite transaction. So a store that has a connection
which never waits (`quick`) is asked on the spot, as long as the thread has nothing to do; what it cannot take at once
goes to the thread.

Theory: the store is up or down, as its last batch found it. While it is down, questions fail at once (nobody piles up
behind a dead Redis), settlements go to the journal, and the thread alone tries again, ever more slowly; once the store
answers, the journal is replayed first, then it is up. Who gives up waiting for an admission cannot know whether it took
place: a Void follows it.

No operation stops the others: what a store refuses is set aside alone (dead_letters.py), and when a store breaks over a
batch its operations are carried out one by one, to find the one.

A store that was replaced (`Store.life`) may have lost the last moments or everything: a Redis without persistence that
was restarted, a replica that took over, a SQLite file that was deleted or put back from a copy. What was settled in the
last RECENT seconds is told again then; what it still has, it knows by its id.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio

from relayd.core.quota.limits import Slots
from relayd.daemon.store.dead_letters import DeadLetters, Losses
from relayd.daemon.store.journal import Journal, JournalEntry
from relayd.state.contract import (
    Acquire,
    Admit,
    Answer,
    Failed,
    Op,
    Ping,
    Release,
    Settle,
    Store,
    StoreMisfit,
    StoreRefused,
    StoreUnavailable,
    Void,
)
from relayd.state.sqlite import SqliteStore

LARGEST_BATCH = 128  # operations; two Redis scripts, or a SQLite transaction of about 8 ms
MOST_QUEUED = 4096  # beyond that the store is too slow for the load, and asking fails at once
FIRST_PROBE, LONGEST_PROBE = 0.1, 2.0  # s between two tries at a store that is down, doubling
LAZY = 0.02  # s that an operation nobody waits for may lie, so that it goes along with others
LARGEST_QUICK = 32  # operations carried out on the spot, in less than 1 ms
FLUSH_TIMEOUT = 5.0  # s for what is queued when the daemon stops
RECENT = 600.0  # s of settlements that are kept to be told again; far less than the store remembers their ids
MOST_RECENT = 10_000  # of them, some 500 bytes each
AGAIN = 64  # told again along with each batch: one Redis script of 3 ms

log = logging.getLogger("relayd.state")


@attrs.define(eq=False)
class _Pending:
    """One operation under way. `task` is whoever waits for the answer, as long as somebody does."""

    op: Op
    deadline: float = 0.0
    task: trio.lowlevel.Task | None = None
    then: Callable[[Answer], None] | None = None
    kept: Callable[[], None] | None = None
    answer: Answer | None = None
    abandoned: bool = False


@attrs.define
class BatcherStats:
    """For metrics and `status`. Counts since the start."""

    operations: int = 0
    batches: int = 0
    largest: int = 0
    seconds: float = 0.0  # the thread was at work in the store
    unanswered: int = 0  # questions that failed, for whatever reason
    journaled: int = 0
    replayed: int = 0
    told_again: int = 0  # settlements, to a store that had been replaced
    dropped: int = 0  # operations without lasting effect that were given up
    failed: int = 0  # operations that the store refused to carry out
    outages: int = 0


@attrs.define(eq=False)
class Batcher:
    """Asks the store on behalf of calls.

    Args:
        store: used by the worker thread alone, once `run` runs.
        journal: for settlements that cannot be delivered; None drops them.
        threaded: False carries every operation out on the spot, on the caller's thread. For tests under a simulated
            clock, which does not wait for threads.
        quick: the same store through a connection that never waits, for trio's thread; None asks the thread alone.
        dead_letters: takes the settlements that the store refuses; None only logs them.
    """

    store: Store
    journal: Journal | None = None
    threaded: bool = True
    quick: SqliteStore | None = None
    dead_letters: DeadLetters | None = None
    stats: BatcherStats = attrs.field(factory=BatcherStats, init=False)
    up: bool = attrs.field(default=False, init=False)
    reached: bool = attrs.field(default=False, init=False)  # it was up at some time
    reason: str = attrs.field(default="not connected yet", init=False)
    warnings: tuple[str, ...] = attrs.field(default=(), init=False)
    damaged: tuple[str, ...] = attrs.field(default=(), init=False)  # what the store has set aside, with reasons
    _queue: queue.SimpleQueue[_Pending | None] = attrs.field(factory=queue.SimpleQueue, init=False)
    _waiting: dict[_Pending, None] = attrs.field(factory=dict, init=False)
    _idle: trio.Event | None = attrs.field(default=None, init=False)
    _token: trio.lowlevel.TrioToken | None = attrs.field(default=None, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _fresh: list[_Pending] = attrs.field(factory=list, init=False)  # not handed over yet
    _urgent: trio.Event = attrs.field(factory=trio.Event, init=False)  # somebody waits for one of them
    _lull: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)  # in which the flusher waits
    _in_thread: int = attrs.field(default=0, init=False)  # operations that the thread has not answered
    _life: str = attrs.field(default="", init=False)  # of the store, as it was last seen
    _recent: deque[tuple[float, Settle]] = attrs.field(factory=lambda: deque(maxlen=MOST_RECENT), init=False)
    _again: deque[Settle] = attrs.field(factory=deque, init=False)  # to be told again

    # -- the trio side ---------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then deliver or journal what is queued, within FLUSH_TIMEOUT.

        `task_status.started` comes after the first try to reach the store, whether it worked or not.
        Raises: StoreMisfit when the store can never work as configured.
        """
        self._token = trio.lowlevel.current_trio_token()
        if not self.threaded:
            self._connect(first=True)
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
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._flush_always)
                    await self._watch(ended)
                    nursery.cancel_scope.cancel()
        finally:
            self._hand_over(self._take_fresh())
            self._stopping = True
            self._queue.put(None)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_TIMEOUT):
                await ended.wait()
                if self.quick is not None:
                    await trio.to_thread.run_sync(self.quick.close, abandon_on_cancel=True)
        if failures:
            raise failures[0]

    def losses(self) -> Losses:
        """What did not reach the books by itself."""
        letters, journal = self.dead_letters, self.journal
        count, newest = letters.look() if letters is not None else (0, 0.0)
        return Losses(
            count=count,
            newest=newest,
            path=str(letters.path) if letters is not None else "",
            set_aside=letters.set_aside if letters is not None else 0,
            unwritten=letters.unwritten if letters is not None else 0,
            damaged=journal.damaged if journal is not None else 0,
            dropped=journal.dropped if journal is not None else 0,
        )

    @property
    def queued(self) -> int:
        """Operations that wait to be carried out."""
        return len(self._fresh) + self._queue.qsize()

    async def ask(self, op: Op) -> Answer:
        """Carry out an operation and wait for its answer, at most `store.deadline` s.

        Cancelled or too late, an Admit is voided and a Lease released, for it may have taken place.
        Raises: StoreUnavailable.
        """
        if not self.up or self.queued >= MOST_QUEUED:
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

    def submit_nowait(
        self,
        op: Op,
        then: Callable[[Answer], None] | None = None,
        kept: Callable[[], None] | None = None,
        *,
        urgent: bool = False,
        aside: bool = False,
    ) -> None:
        """Carry out an operation some time soon. Sync, for it is called from `finally` blocks.

        A Settle or Void that cannot be delivered is journaled; anything else is given up.

        Args:
            then: called with the answer, in trio's thread.
            kept: called there when a Settle or Void cannot be lost any more: it was carried out or journaled.
            urgent: it does not lie, for somebody waits to be told.
            aside: it takes long: only the thread carries it out, never the loop.
        """
        pending = _Pending(op, then=then, kept=kept)
        if not self.threaded:
            self._serve([pending])
        elif aside and self.queued < MOST_QUEUED:
            self._hand_over([pending])
        elif isinstance(op, Settle | Void) or self.queued < MOST_QUEUED:
            self._fresh.append(pending)
            if urgent:
                self._urgent.set()
            elif len(self._fresh) == 1:
                self._lull.deadline = trio.current_time() + LAZY
        else:
            self.stats.dropped += 1

    async def _wait_for(self, pending: _Pending) -> None:
        pending.task = trio.lowlevel.current_task()
        pending.deadline = trio.current_time() + self.store.deadline
        self._waiting[pending] = None
        if self._idle is not None:
            self._idle.set()
            self._idle = None
        self._fresh.append(pending)
        self._urgent.set()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._give_up(pending)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _flush_always(self) -> None:
        """Hand operations over: at the end of the loop's pass when somebody waits, else when they have lain a while."""
        while True:
            self._urgent = trio.Event()
            if not self._fresh:
                with trio.CancelScope() as self._lull:
                    await self._urgent.wait()
            self._flush(self._take_fresh())

    def _take_fresh(self) -> list[_Pending]:
        fresh, self._fresh = self._fresh, []
        return [pending for pending in fresh if not pending.abandoned]

    def _flush(self, batch: list[_Pending]) -> None:
        """On the spot if that can be, else by the thread."""
        if self.quick is None or not self.up or self._in_thread or len(batch) > LARGEST_QUICK:
            self._hand_over(batch)
        elif batch:
            try:
                answers = self.quick.apply_at_once([pending.op for pending in batch])
            except Exception:
                answers = None  # the thread will find out, and say so
            if answers is None:
                self._hand_over(batch)
                return
            refused = [p for p, answer in zip(batch, answers, strict=True) if _must_be_kept(p.op, answer)]
            if refused:  # only the thread may wait for the disk
                self._hand_over(refused)
                pairs = [(p, answer) for p, answer in zip(batch, answers, strict=True) if p not in refused]
                batch, answers = [p for p, _ in pairs], [answer for _, answer in pairs]
            ops = [pending.op for pending in batch]
            self._count(ops, answers)
            self._remember(ops)
            self._give_answers(batch, answers)

    def _hand_over(self, batch: list[_Pending]) -> None:
        self._in_thread += len(batch)
        for pending in batch:
            self._queue.put(pending)

    def _give_up(self, pending: _Pending) -> None:
        """Nobody waits for it any longer. It may have been carried out, or may still be."""
        pending.task = None
        pending.abandoned = True
        self._waiting.pop(pending, None)
        match pending.op:
            case Admit(call=call):
                self.submit_nowait(Void(call=call))
            case Acquire(holder=holder, terms=terms):
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

    def _deliver(self, taken: int, batch: Sequence[_Pending], answers: Sequence[Answer | None]) -> None:
        """What the thread made of `taken` operations, in trio's thread; None for what the store did not answer."""
        self._in_thread = max(0, self._in_thread - taken)
        self._give_answers(batch, answers)

    def _give_answers(self, batch: Sequence[_Pending], answers: Sequence[Answer | None]) -> None:
        for pending, answer in zip(batch, answers, strict=True):
            if pending.abandoned:  # its Void is on the way: whoever waited must not take the answer after all
                continue
            pending.answer = answer
            self._waiting.pop(pending, None)
            if pending.task is not None:
                task, pending.task = pending.task, None
                trio.lowlevel.reschedule(task)
            elif pending.then is not None and answer is not None:
                pending.then(answer)
            if pending.kept is not None:
                pending.kept()

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
            self._connect(first=True)
            connected()
            wait = FIRST_PROBE
            probe = time.monotonic() + wait
            while not self._stopping or self._queue.qsize() or (self.up and self._again):
                was_up = self.up
                batch = self._next_batch(self._patience(probe))
                if batch:
                    self._serve(batch)
                if self.up:
                    self._tell_again()
                elif was_up:
                    wait = FIRST_PROBE
                    probe = time.monotonic() + wait
                elif not self._stopping and time.monotonic() >= probe:  # however much comes to be journaled meanwhile
                    self._connect()
                    wait = min(wait * 2, LONGEST_PROBE)
                    probe = time.monotonic() + wait
        finally:
            if self.journal is not None:
                self.journal.close()
            self.store.close()

    def _patience(self, probe: float) -> float | None:
        """How long the thread may wait for something to do, s."""
        if self.up:
            return 0.0 if self._again else None
        return max(0.0, probe - time.monotonic())

    def _next_batch(self, timeout: float | None) -> list[_Pending]:
        """What is queued, waiting for the first; [] when nothing came in time, or the end was called for."""
        try:
            batch = [self._queue.get(timeout=timeout)]
        except queue.Empty:
            return []
        more = min(self._queue.qsize(), LARGEST_BATCH - 1)
        batch += [self._queue.get_nowait() for _ in range(more)]  # the thread is the only one that takes
        return [pending for pending in batch if pending is not None]

    def _serve(self, batch: list[_Pending]) -> None:
        """Carry out a batch, or journal what must not be lost of it."""
        wanted = [pending for pending in batch if not pending.abandoned]
        ops = [pending.op for pending in wanted]
        answers: list[Answer] = []
        if self.up and ops:
            answers = self._applied(ops)
            if not answers:  # it may have carried them out, all the same
                self._keep([Void(call=op.call) if isinstance(op, Admit) else op for op in ops])
        else:
            self._keep(ops)
        self._soon(self._deliver, len(batch), wanted, answers or [None] * len(wanted))

    def _applied(self, ops: list[Op]) -> list[Answer]:
        """The store's answers; [] when it is down, which is noted."""
        began = time.perf_counter()
        try:
            answers = self._apply(ops)
        except (StoreUnavailable, StoreMisfit) as error:
            self._went_down(str(error))
            return []
        self.stats.seconds += time.perf_counter() - began
        self._count(ops, answers)
        self._set_aside(ops, answers)
        self._remember(ops)
        self._notice_life()
        self._notice_damage()
        return answers

    def _apply(self, ops: Sequence[Op]) -> list[Answer]:
        """The store's answers. When it breaks, one by one: the operation that breaks it fails alone.

        Raises: StoreUnavailable, StoreMisfit.
        """
        try:
            return self.store.apply(ops)
        except (StoreUnavailable, StoreMisfit):
            raise
        except Exception as error:  # our bug; its text may quote what is counted, but no secret reaches a store
            log.exception("state.fault")
            self._ping()
            if len(ops) == 1:
                return [Failed(reason=f"{type(error).__name__}: {error}")]
        return [answer for op in ops for answer in self._apply([op])]

    def _ping(self) -> None:
        """Raises: StoreUnavailable when the store breaks over everything; then no operation is at fault."""
        try:
            self.store.apply([Ping()])
        except (StoreUnavailable, StoreMisfit):
            raise
        except Exception as error:
            raise StoreUnavailable(f"{self.store.name}: {type(error).__name__}") from None

    def _set_aside(self, ops: Sequence[Op], answers: Sequence[Answer]) -> None:
        """Keep for a person what must not be lost, and which the store would refuse for ever."""
        if self.dead_letters is None:
            return
        for op, answer in zip(ops, answers, strict=True):
            if _must_be_kept(op, answer) and isinstance(answer, Failed):
                self.dead_letters.add(op, answer.reason)

    def _notice_damage(self) -> None:
        found = self.store.damaged
        if found != self.damaged:
            fresh = [one for one in found if one not in self.damaged]
            self.damaged = found
            log.error("state.damaged", extra={"store": self.store.name, "set_aside": fresh})

    def _remember(self, ops: Sequence[Op]) -> None:
        """Keep settlements, should they have to be told again. In either thread."""
        if self.store.life:
            now = time.monotonic()
            self._recent += [(now, op) for op in ops if isinstance(op, Settle)]

    def _notice_life(self) -> None:
        life = self.store.life
        if life != self._life and self._life:
            since = time.monotonic() - RECENT
            self._again = deque(op for at, op in self._recent.copy() if at >= since)
            log.warning("state.replaced", extra={"store": self.store.name, "told_again": len(self._again)})
        self._life = life

    def _tell_again(self) -> None:
        """Some settlements, to a store that may have lost them; those that it has, it knows by their ids."""
        again = self._again
        if not again:
            return
        part = [again.popleft() for _ in range(min(len(again), AGAIN))]
        try:
            self._apply(part)
        except (StoreUnavailable, StoreMisfit) as error:
            again.extendleft(reversed(part))
            self._went_down(str(error))
            return
        self.stats.told_again += len(part)
        self._notice_life()

    def _count(self, ops: Sequence[Op], answers: Sequence[Answer]) -> None:
        stats = self.stats
        stats.batches += 1
        stats.operations += len(ops)
        stats.largest = max(stats.largest, len(ops))
        for op, answer in zip(ops, answers, strict=True):
            if isinstance(answer, Failed):
                stats.failed += 1
                log.error("state.operation_failed", extra={"operation": type(op).__name__, "reason": answer.reason})

    def _keep(self, ops: Sequence[Op]) -> None:
        """Journal what must not be lost."""
        entries: list[JournalEntry] = [op for op in ops if isinstance(op, Settle | Void)]
        self.stats.dropped += len(ops) - len(entries)
        if not entries:
            return
        if self.journal is None:
            self.stats.dropped += len(entries)
            return
        before = self.journal.problem
        kept = self.journal.append(entries)
        refused, self.journal.refused = self.journal.refused, []
        for entry, reason in refused:
            self.stats.failed += 1
            self._set_aside([entry], [Failed(reason=f"journal: {reason}")])
        self.stats.journaled += len(entries) - len(refused)
        if not kept and self.journal.problem != before:
            log.warning("state.journal_problem", extra={"reason": self.journal.problem})

    def _went_down(self, reason: str) -> None:
        if self.up or self.stats.outages == 0:
            self.stats.outages += 1
            log.warning("state.unavailable", extra={"reason": reason})
        self.reason = reason
        self.up = False

    def _connect(self, *, first: bool = False) -> None:
        """Try to reach the store and to replay the journal; then it is up.

        Args:
            first: at the start a store that refuses us is a misfit; later it is away, and calls go on.
        Raises: StoreMisfit.
        """
        try:
            warnings = tuple(self.store.check())
            if warnings != self.warnings:
                self.warnings = warnings
                for text in warnings:
                    log.warning("state.warning", extra={"reason": text})
            self.store.apply([Ping()])
            self._notice_life()
            self._replay()
        except StoreUnavailable as error:
            if first and isinstance(error, StoreRefused):
                raise StoreMisfit(str(error)) from None
            self._went_down(str(error))
            return
        except OSError as error:
            self._went_down(f"journal: {error}")
            return
        except StoreMisfit:
            raise
        except Exception as error:  # our bug; better an outage, which is seen and survived, than a dead thread
            log.exception("state.fault")
            self._went_down(f"{self.store.name}: {type(error).__name__}")
            return
        self.up, self.reached, self.reason = True, True, ""
        if self.stats.outages:
            log.info("state.available", extra={"store": self.store.name})

    def _replay(self) -> None:
        """Deliver the journal. Broken off midway, all of it comes again later, which does no harm."""
        if self.journal is None:
            return
        for path, entries in self.journal.pending():
            for start in range(0, len(entries), LARGEST_BATCH):
                part = entries[start : start + LARGEST_BATCH]
                answers = self._apply(part)
                self._count(part, answers)
                self._set_aside(part, answers)
                self._remember(part)
                self.stats.replayed += len(part)
            for line in self.journal.forget(path):
                if self.dead_letters is not None:
                    self.dead_letters.add_line(line)


def _must_be_kept(op: Op, answer: Answer) -> bool:
    """Whether an operation that belongs into the books was refused."""
    return isinstance(answer, Failed) and isinstance(op, Settle | Void)


async def _first_of(*events: trio.Event) -> None:
    """Wait until one of the events is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
