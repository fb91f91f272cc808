"""Store session: one state store as its worker knows it, up or down, with the journal of what it has not been told.

Rule: sync, and without an event loop. Only one thread talks to the store; `count` and `remember` are open to the loop's
thread too, for what it has carried out itself.

Theory: the store is up or down, as its last batch found it. While it is down, settlements go to the journal; once it
answers, the journal is replayed first, then it is up.

No operation stops the others: what a store refuses is set aside alone (dead_letters.py), and when a store breaks over a
batch its operations are carried out one by one, to find the one.

A store that was replaced (`Store.life`) may have lost the last moments or everything: a Redis without persistence that
was restarted, a replica that took over, a SQLite file that was deleted or put back from a copy. What was settled in the
last RECENT seconds is told again then; what it still has, it knows by its id.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence

import attrs

from relayd.core.alerts.node_events import StateAvailable, StateUnavailable
from relayd.core.durations import Durations
from relayd.daemon.events import Events
from relayd.daemon.store.dead_letters import DeadLetters, Losses
from relayd.daemon.store.journal import Journal, JournalEntry
from relayd.state.contract import (
    Admit,
    Answer,
    Failed,
    Op,
    Ping,
    Settle,
    Store,
    StoreMisfit,
    StoreRefused,
    StoreUnavailable,
    Void,
)

LARGEST_BATCH = 128  # operations; two Redis scripts, or a SQLite transaction of about 8 ms
RECENT = 600.0  # s of settlements that are kept to be told again; far less than the store remembers their ids
MOST_RECENT = 10_000  # of them, some 500 bytes each
AGAIN = 64  # told again along with each batch: one Redis script of 3 ms
# Upper bounds, s, of what batches are counted by: from SQLite on the spot to a Redis that is about to be given up.
BATCH_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)

log = logging.getLogger("relayd.state")


@attrs.define
class StoreStats:
    """For metrics and `status`. Counts since the start."""

    operations: int = 0
    batches: int = 0
    largest: int = 0
    took: Durations = attrs.field(factory=lambda: Durations(BATCH_SECONDS))  # of batches that the store answered
    unanswered: int = 0  # questions that failed, for whatever reason
    journaled: int = 0
    replayed: int = 0
    told_again: int = 0  # settlements, to a store that had been replaced
    dropped: int = 0  # operations without lasting effect that were given up
    failed: int = 0  # operations that the store refused to carry out
    outages: int = 0


@attrs.define(eq=False)
class StoreSession:
    """A store, and what is known of it.

    Args:
        journal: for settlements that cannot be delivered; None drops them.
        dead_letters: takes the settlements that the store refuses; None only logs them.
        side: it stands in during an outage; the log tells the two apart.
    """

    store: Store
    journal: Journal | None = None
    dead_letters: DeadLetters | None = None
    side: bool = False
    events: Events = attrs.field(factory=Events)
    stats: StoreStats = attrs.field(factory=StoreStats, init=False)
    up: bool = attrs.field(default=False, init=False)
    reached: bool = attrs.field(default=False, init=False)  # it was up at some time
    reason: str = attrs.field(default="not connected yet", init=False)
    warnings: tuple[str, ...] = attrs.field(default=(), init=False)
    damaged: tuple[str, ...] = attrs.field(default=(), init=False)  # what the store has set aside, with reasons
    _life: str = attrs.field(default="", init=False)  # of the store, as it was last seen
    _recent: deque[tuple[float, Settle]] = attrs.field(factory=lambda: deque(maxlen=MOST_RECENT), init=False)
    _again: deque[Settle] = attrs.field(factory=deque, init=False)  # to be told again

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
            waiting=journal.waiting if journal is not None else 0,
            problem=journal.problem if journal is not None else "",
        )

    def connect(self, *, first: bool = False) -> None:
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
            if self.side:
                log.info("state.side_available", extra={"store": self.store.name})
            else:
                self.events.tell(StateAvailable(store=self.store.name))

    def carry_out(self, ops: list[Op]) -> list[Answer]:
        """The store's answers; [] when it is down, which is noted, and then what must not be lost is journaled."""
        if not self.up or not ops:
            self._keep(ops)
            return []
        answers = self._applied(ops)
        if not answers:  # it may have carried them out, all the same
            self._keep([Void(call=op.call) if isinstance(op, Admit) else op for op in ops])
        return answers

    @property
    def owing(self) -> bool:
        """Whether there are settlements to be told again."""
        return bool(self._again)

    def tell_again(self) -> None:
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

    def remember(self, ops: Sequence[Op]) -> None:
        """Keep settlements, should they have to be told again. In either thread."""
        if self.store.life:
            now = time.monotonic()
            self._recent += [(now, op) for op in ops if isinstance(op, Settle)]

    def count(self, ops: Sequence[Op], answers: Sequence[Answer]) -> None:
        stats = self.stats
        stats.batches += 1
        stats.operations += len(ops)
        stats.largest = max(stats.largest, len(ops))
        for op, answer in zip(ops, answers, strict=True):
            if isinstance(answer, Failed):
                stats.failed += 1
                log.error("state.operation_failed", extra={"operation": type(op).__name__, "reason": answer.reason})

    def close(self) -> None:
        """The last word to store and journal."""
        if self.journal is not None:
            if self.journal.waiting:
                self._save_the_last(self.journal)
            self.journal.close()
        self.store.close()

    def _save_the_last(self, journal: Journal) -> None:
        """Deliver what this process alone knows of, or say that it is lost with it."""
        if not journal.append([]):
            with contextlib.suppress(StoreMisfit):
                self.connect()
        if journal.waiting:
            log.error("state.unsaved", extra={"settlements": journal.waiting, "reason": journal.problem})

    def _replay(self) -> None:
        """Deliver the journal. Broken off midway, all of it comes again later, which does no harm."""
        if self.journal is None:
            return
        for path, entries in self.journal.pending():
            for start in range(0, len(entries), LARGEST_BATCH):
                part = entries[start : start + LARGEST_BATCH]
                answers = self._apply(part)
                self.count(part, answers)
                self._set_aside(part, answers)
                self.remember(part)
                self.stats.replayed += len(part)
            for line in self.journal.forget(path):
                if self.dead_letters is not None:
                    self.dead_letters.add_line(line)

    def _applied(self, ops: list[Op]) -> list[Answer]:
        """The store's answers; [] when it is down, which is noted."""
        began = time.perf_counter()
        try:
            answers = self._apply(ops)
        except (StoreUnavailable, StoreMisfit) as error:
            self._went_down(str(error))
            return []
        self.stats.took.add(time.perf_counter() - began)
        self.count(ops, answers)
        self._set_aside(ops, answers)
        self.remember(ops)
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
            if must_be_kept(op, answer) and isinstance(answer, Failed):
                self.dead_letters.add(op, answer.reason)

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

    def _notice_life(self) -> None:
        life = self.store.life
        if life != self._life and self._life:
            since = time.monotonic() - RECENT
            self._again = deque(op for at, op in self._recent.copy() if at >= since)
            log.warning("state.replaced", extra={"store": self.store.name, "told_again": len(self._again)})
        self._life = life

    def _notice_damage(self) -> None:
        found = self.store.damaged
        if found != self.damaged:
            fresh = [one for one in found if one not in self.damaged]
            self.damaged = found
            log.error("state.damaged", extra={"store": self.store.name, "set_aside": fresh})

    def _went_down(self, reason: str) -> None:
        if self.up or self.stats.outages == 0:
            self.stats.outages += 1
            if self.side:
                log.warning("state.side_unavailable", extra={"reason": reason})
            else:
                self.events.tell(StateUnavailable(reason=reason))
        self.reason = reason
        self.up = False


def must_be_kept(op: Op, answer: Answer) -> bool:
    """Whether an operation that belongs into the books was refused."""
    return isinstance(answer, Failed) and isinstance(op, Settle | Void)
