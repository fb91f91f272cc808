"""Batcher for the state store: operations of all calls in batches, carried out by one worker thread.

Rule: the trio side never waits for the store; the thread never touches trio but to hand answers back. What the calls
of one pass of the event loop ask goes as one batch, with whatever nobody waits for (settlements, pins), which may lie a
few milliseconds. What comes while a batch is under way goes as the next one, so batches grow with the load.

A thread costs two switches a batch, several times the work of a SQLite transaction. So a store that has a connection
which never waits (`quick`) is asked on the spot, as long as the thread has nothing to do; what it cannot take at once
goes to the thread. Where one call is moving alone it does not even wait for the end of the pass, for nobody would come
along: that is two passes of the loop less for an admission, and two for a settlement that is waited for.

Theory: whether the store is up, and what becomes of operations when it is not, the session knows (store_session.py).
While it is down, questions fail at once (nobody piles up behind a dead Redis), and the thread alone tries again, ever
more slowly. Who gives up waiting for an admission cannot know whether it took place: a Void follows it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence

import attrs
import trio

from relayd.core.quota.limits import Slots
from relayd.daemon.net.patience import Patience
from relayd.daemon.store.store_session import LARGEST_BATCH, StoreSession, must_be_kept
from relayd.state.contract import Acquire, Admit, Answer, Op, Release, Settle, StoreUnavailable, Void
from relayd.state.sqlite import SqliteStore

MOST_QUEUED = 4096  # beyond that the store is too slow for the load, and asking fails at once
FIRST_PROBE, LONGEST_PROBE = 0.1, 2.0  # s between two tries at a store that is down, doubling
LAZY = 0.02  # s that an operation nobody waits for may lie, so that it goes along with others
LARGEST_QUICK = 32  # operations carried out on the spot, in less than 1 ms
FLUSH_TIMEOUT = 5.0  # s for what is queued when the daemon stops


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
    aside: bool = False


@attrs.define(eq=False)
class Batcher:
    """Asks the store on behalf of calls.

    Args:
        session: used by the worker thread alone, once `run` runs.
        threaded: False carries every operation out on the spot, on the caller's thread. For tests under a simulated
            clock, which does not wait for threads.
        quick: the same store through a connection that never waits, for trio's thread; None asks the thread alone.
        alone: whether nobody else is likely to ask in this pass of the loop.
    """

    session: StoreSession
    threaded: bool = True
    quick: SqliteStore | None = None
    alone: Callable[[], bool] = lambda: False
    _queue: queue.SimpleQueue[_Pending | None] = attrs.field(factory=queue.SimpleQueue, init=False)
    _waiting: dict[_Pending, None] = attrs.field(factory=dict, init=False)
    _idle: trio.Event | None = attrs.field(default=None, init=False)
    _token: trio.lowlevel.TrioToken | None = attrs.field(default=None, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _fresh: list[_Pending] = attrs.field(factory=list, init=False)  # not handed over yet
    _due: bool = attrs.field(default=False, init=False)  # they are to be handed over at the end of this pass
    _flusher: trio.lowlevel.Task | None = attrs.field(default=None, init=False)  # that waits for them to be
    _lying: Patience = attrs.field(factory=Patience, init=False)  # with what lies
    _in_thread: int = attrs.field(default=0, init=False)  # operations of calls that the thread has not answered

    # -- the trio side ---------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then deliver or journal what is queued, within FLUSH_TIMEOUT.

        `task_status.started` comes after the first try to reach the store, whether it worked or not.
        Raises: StoreMisfit when the store can never work as configured.
        """
        self._token = trio.lowlevel.current_trio_token()
        if not self.threaded:
            with contextlib.closing(self.session):
                self.session.connect(first=True)
                task_status.started()
                await trio.sleep_forever()
        connected, ended = trio.Event(), trio.Event()
        failures: list[Exception] = []
        self._start_thread(connected, ended, failures)
        try:
            await _first_of(connected, ended)
            if connected.is_set():
                task_status.started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._lying.run)
                    nursery.start_soon(self._flush_always)
                    await self._watch(ended)
                    nursery.cancel_scope.cancel()
        finally:
            await self._finish(ended)
        if failures:
            raise failures[0]

    def _start_thread(self, connected: trio.Event, ended: trio.Event, failures: list[Exception]) -> None:
        def work() -> None:
            try:
                self._work(lambda: self._soon(connected.set))
            except Exception as error:
                failures.append(error)
            finally:
                self._soon(ended.set)

        threading.Thread(target=work, name="relayd-state", daemon=True).start()

    async def _finish(self, ended: trio.Event) -> None:
        """Let the thread deliver or journal what is queued, and end."""
        self._hand_over(self._take_fresh())
        self._stopping = True
        self._queue.put(None)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_TIMEOUT):
            await ended.wait()
            if self.quick is not None:
                await trio.to_thread.run_sync(self.quick.close, abandon_on_cancel=True)

    @property
    def up(self) -> bool:
        """Whether the store answered when it was last asked."""
        return self.session.up

    @property
    def queued(self) -> int:
        """Operations that wait to be carried out."""
        return len(self._fresh) + self._queue.qsize()

    async def ask(self, op: Op) -> Answer:
        """Carry out an operation and wait for its answer, at most `store.deadline` s.

        Cancelled or too late, an Admit is voided and a Lease released, for it may have taken place.
        Raises: StoreUnavailable.
        """
        session = self.session
        if not session.up or self.queued >= MOST_QUEUED:
            session.stats.unanswered += 1
            raise self._no_answer(f"too slow, {MOST_QUEUED} operations are queued")
        pending = _Pending(op)
        if not self.threaded:
            self._serve([pending])
        else:
            self._fresh.append(pending)
            if not self._went_at_once() or pending.answer is None:
                await self._wait_for(pending)
        if pending.answer is None:
            session.stats.unanswered += 1
            raise self._no_answer(f"no answer within {session.store.deadline:g} s")
        return pending.answer

    def _no_answer(self, otherwise: str) -> StoreUnavailable:
        return StoreUnavailable(self.session.reason or f"{self.session.store.name}: {otherwise}")

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
            urgent: it does not lie, for somebody waits to be told; `then` and `kept` may be called before this returns.
            aside: it takes long: only the thread carries it out, never the loop.
        """
        pending = _Pending(op, then=then, kept=kept, aside=aside)
        if not self.threaded:
            self._serve([pending])
        elif aside and self.queued < MOST_QUEUED:
            self._queue.put(pending)  # calls need not come behind it: `_in_thread` does not count it
        elif isinstance(op, Settle | Void) or self.queued < MOST_QUEUED:
            self._fresh.append(pending)
            if urgent:
                if not self._went_at_once():
                    self._call_flusher()
            elif len(self._fresh) == 1:
                self._lying.begin(LAZY, self._call_flusher)
        else:
            self.session.stats.dropped += 1

    async def _wait_for(self, pending: _Pending) -> None:
        pending.task = trio.lowlevel.current_task()
        pending.deadline = trio.current_time() + self.session.store.deadline
        self._waiting[pending] = None
        if self._idle is not None:
            self._idle.set()
            self._idle = None
        if self._fresh:
            self._call_flusher()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._give_up(pending)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _went_at_once(self) -> bool:
        """Hand over what is fresh now, if nobody is likely to come along."""
        if self.quick is None or self._in_thread or self._due or not self.alone():
            return False
        self._lying.end(LAZY, self._call_flusher)
        self._flush(self._take_fresh())
        return True

    async def _flush_always(self) -> None:
        """Hand operations over: at the end of the loop's pass when somebody waits, else when they have lain a while."""
        while True:
            if not self._due:
                self._flusher = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._forget_flusher)
            self._due = False
            self._lying.end(LAZY, self._call_flusher)
            self._flush(self._take_fresh())

    def _call_flusher(self) -> None:
        self._due = True
        if self._flusher is not None:
            trio.lowlevel.reschedule(self._flusher)
            self._flusher = None

    def _forget_flusher(self, _: object) -> trio.lowlevel.Abort:
        self._flusher = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _take_fresh(self) -> list[_Pending]:
        fresh, self._fresh = self._fresh, []
        return [pending for pending in fresh if not pending.abandoned]

    def _flush(self, batch: list[_Pending]) -> None:
        """On the spot if that can be, else by the thread."""
        session = self.session
        if self.quick is None or not session.up or self._in_thread or len(batch) > LARGEST_QUICK:
            self._hand_over(batch)
        elif batch:
            began = time.perf_counter()
            try:
                answers = self.quick.apply_at_once([pending.op for pending in batch])
            except Exception:
                answers = None  # the thread will find out, and say so
            if answers is None:
                self._hand_over(batch)
                return
            session.stats.took.add(time.perf_counter() - began)
            refused = [p for p, answer in zip(batch, answers, strict=True) if must_be_kept(p.op, answer)]
            if refused:  # only the thread may wait for the disk
                self._hand_over(refused)
                pairs = [(p, answer) for p, answer in zip(batch, answers, strict=True) if p not in refused]
                batch, answers = [p for p, _ in pairs], [answer for _, answer in pairs]
            ops = [pending.op for pending in batch]
            session.count(ops, answers)
            session.remember(ops)
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
        """What the thread made of operations, `taken` of them of calls, in trio's thread; None for what the store did
        not answer."""
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
        session = self.session
        with contextlib.closing(session):
            session.connect(first=True)
            connected()
            wait = FIRST_PROBE
            probe = time.monotonic() + wait
            while not self._stopping or self._queue.qsize() or (session.up and session.owing):
                was_up = session.up
                batch = self._next_batch(self._patience(probe))
                if batch:
                    self._serve(batch)
                if session.up:
                    session.tell_again()
                elif was_up:
                    wait = FIRST_PROBE
                    probe = time.monotonic() + wait
                elif not self._stopping and time.monotonic() >= probe:  # however much comes to be journaled meanwhile
                    session.connect()
                    wait = min(wait * 2, LONGEST_PROBE)
                    probe = time.monotonic() + wait

    def _patience(self, probe: float) -> float | None:
        """How long the thread may wait for something to do, s."""
        if self.session.up:
            return 0.0 if self.session.owing else None
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
        """Have a batch carried out, or what must not be lost of it journaled."""
        wanted = [pending for pending in batch if not pending.abandoned]
        answers = self.session.carry_out([pending.op for pending in wanted])
        taken = sum(not pending.aside for pending in batch)
        self._soon(self._deliver, taken, wanted, answers or [None] * len(wanted))


async def _first_of(*events: trio.Event) -> None:
    """Wait until one of the events is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
