"""The alert book: which conditions last, what each target was told of them, and what it is still to be told.

Rule: sync and clock-free; `now` (Unix time, s) is an argument. It is plain data, kept in the state store: one node at a
time writes it, so each thing is told once, and the next node goes on where that one stopped.

Theory: a condition is open while some node says so. A target is told when it begins, now and then while it lasts, and
when it has been over for a while (`calm`), so that what comes and goes is told once. What ends before a target was told
is not told at all. What a target is to be told gathers for a moment and goes out as one notice; one that failed goes
out again later, together with what came meanwhile. A notice of which nobody knows whether it arrived goes out again as
it was, under its old id, by which the receiver knows it, until it surely has arrived. What is to be told then follows
from what a target will believe once all of that is said, not from what it knows now.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Literal

import attrs

from relayd.config.snapshot import Alert
from relayd.core.alerts.events import SEVERITIES
from relayd.core.alerts.occurrence import Occurrence, is_wanted
from relayd.core.oauth import LONGEST_ASKED, retry_in
from relayd.noun import noun

SILENT = 900.0  # s after which a node that said nothing no longer speaks for a condition that it told of
REFRESH = 300.0  # s between a node's tellings of what lasts
MOST_PENDING = 200  # for one target; of what comes then, the oldest that is mere news goes
MOST_OPEN = 2_000  # conditions
MOST_QUIET = 5_000  # remembered tellings of what is not to be told again
TOGETHER = 50  # in one notice
KEPT = 86_400.0  # s that something waits for a target that cannot be reached
LONGEST_RETRY = 900.0  # s

Saying = Literal["begins", "still", "ends", "once"]


@noun(kw_only=True)
class NoticeItem:
    """One thing to tell.

    Args:
        since: Unix time, s, at which its condition began.
        queued: Unix time, s.
        more: how often the same happened and was not told, since it was told last.
    """

    occurrence: Occurrence
    saying: Saying
    since: float
    queued: float
    more: int = 0


@noun(kw_only=True)
class Notice:
    """What goes to a target at once. `id`: of this notice, the same however often it is tried."""

    id: str
    target: str
    items: tuple[NoticeItem, ...]


@attrs.define(kw_only=True)
class Condition:
    """Something that lasts.

    Args:
        last: what was said of it last.
        speakers: nodes that say so, and when they did last, Unix time, s.
        words: the event that each of them named.
        over: Unix time, s, from which on nobody does; 0.0 while somebody does.
        end: what was said of its end, if anything was.
    """

    last: Occurrence
    since: float
    speakers: dict[str, float] = attrs.field(factory=dict)
    words: dict[str, str] = attrs.field(factory=dict)
    over: float = 0.0
    end: Occurrence | None = None


@attrs.define(kw_only=True)
class TargetBook:
    """What is known of one target.

    Args:
        fingerprint: of its settings; others may work where these failed.
        told: conditions that it knows of, and when it was told last, Unix time, s.
        batch: a notice that is under way, or of which nobody knows whether it arrived.
        in_doubt: an earlier try of it may have arrived, so that no failure of a later one says that it did not.
        failing: Unix time, s, since which nothing went through; 0.0 = all went well.
        retry_at: Unix time, s.
        added: Unix time, s.
        reported: the last day, YYYY-MM-DD, whose report it had.
    """

    fingerprint: str = ""
    told: dict[str, float] = attrs.field(factory=dict)
    pending: list[NoticeItem] = attrs.field(factory=list)
    batch: Notice | None = None
    in_doubt: bool = False
    failures: int = 0
    failing: float = 0.0
    reason: str = ""
    retry_at: float = 0.0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    added: float = 0.0
    reported: str = ""

    def forgive(self) -> None:
        """Forget that it has failed."""
        self.failures, self.failing, self.reason, self.retry_at = 0, 0.0, "", 0.0

    @property
    def waiting(self) -> list[NoticeItem]:
        """What it is to be told by now, also what may have arrived."""
        return [*(self.batch.items if self.batch else ()), *self.pending]

    def will_know(self, condition: str) -> bool:
        """Whether the target believes that it lasts, or may, once it has all that it is to be told by now."""
        for one in reversed(self.waiting):
            if one.occurrence.condition == condition and one.saying != "once":
                return one.saying != "ends"
        return condition in self.told


@attrs.define(kw_only=True)
class AlertBook:
    """All of it.

    Args:
        born: names this book among those that came before it, which were lost.
        since: version of the last occurrence that was heard.
        quiet: what is not to be told again before then (Unix time, s), and how often it would have been.
    """

    born: str
    since: int = 0
    number: int = 0
    open: dict[str, Condition] = attrs.field(factory=dict)
    quiet: dict[str, tuple[float, int]] = attrs.field(factory=dict)
    targets: dict[str, TargetBook] = attrs.field(factory=dict)

    # --- what is there

    def follow(self, targets: Mapping[str, Alert], fingerprints: Mapping[str, str], now: float) -> None:
        """Go by these targets. A new one is told what lasts; one with other settings is tried at once."""
        self.targets = {name: book for name, book in self.targets.items() if name in targets}
        for name, target in targets.items():
            if name not in self.targets:
                self.targets[name] = TargetBook(added=now)
                for condition in self.open.values():
                    self._begin(name, target, condition, now)
            book = self.targets[name]
            if book.fingerprint != fingerprints[name]:
                book.fingerprint = fingerprints[name]
                book.forgive()

    # --- hearing

    def hear(self, said: Occurrence, targets: Mapping[str, Alert], now: float) -> bool:
        """Take in what a node says. Returns False for news that was told already."""
        match said.turn:
            case "once":
                return self._hear_news(said, targets, now)
            case "begins":
                self._hear_begin(said, targets, now)
            case "ends":
                self._hear_end(said, now)
        return True

    def _hear_news(self, said: Occurrence, targets: Mapping[str, Alert], now: float) -> bool:
        until, more = self.quiet.get(said.condition, (0.0, 0))
        if now < until:
            self.quiet[said.condition] = until, more + 1
            return False
        if said.quiet:
            self.quiet[said.condition] = now + said.quiet, 0
        for name, target in targets.items():
            if is_wanted(target, said):
                self._queue(name, NoticeItem(occurrence=said, saying="once", since=said.at, queued=now, more=more))
        return True

    def report(self, name: str, said: Occurrence, day: str, now: float) -> None:
        """A target is to have the report of a day, whatever else it is told."""
        self.targets[name].reported = day
        self._queue(name, NoticeItem(occurrence=said, saying="once", since=said.at, queued=now))

    def _hear_begin(self, said: Occurrence, targets: Mapping[str, Alert], now: float) -> None:
        condition = self.open.get(said.condition)
        if condition is None:
            if len(self.open) >= MOST_OPEN:
                return
            condition = self.open[said.condition] = Condition(last=said, since=said.at)
        rank = SEVERITIES.index
        other = condition.words.get(said.node, said.event) != said.event
        worse = other or rank(said.severity) > rank(condition.last.severity)
        if other or condition.over or rank(said.severity) >= rank(condition.last.severity):
            condition.last = said
        condition.over, condition.end = 0.0, None
        condition.speakers[said.node], condition.words[said.node] = now, said.event
        for name, target in targets.items():
            book = self.targets[name]
            if worse:  # it is another thing to know
                book.pending = [one for one in book.pending if not _begins(one, said.condition)]
            self._begin(name, target, condition, now, anew=worse)

    def _begin(self, name: str, target: Alert, condition: Condition, now: float, *, anew: bool = False) -> None:
        """Tell a target that it lasts, unless it knows (`anew`: even then)."""
        said = condition.last
        if condition.over or not is_wanted(target, said):
            return
        if anew or not self.targets[name].will_know(said.condition):
            self._queue(name, NoticeItem(occurrence=said, saying="begins", since=condition.since, queued=now))

    def _hear_end(self, said: Occurrence, now: float) -> None:
        condition = self.open.get(said.condition)
        if condition is None:
            return
        if said.everywhere or condition.last.everywhere:
            condition.speakers.clear()
        condition.speakers.pop(said.node, None)
        if not condition.speakers and not condition.over:
            self._over(said.condition, now, said)

    def end(self, condition: str, now: float) -> None:
        """It is over, though nobody said so."""
        if condition in self.open and not self.open[condition].over:
            self._over(condition, now, None)

    def _over(self, name: str, now: float, said: Occurrence | None) -> None:
        condition = self.open[name]
        condition.over, condition.end = now, said
        for book in self.targets.values():
            book.pending = [one for one in book.pending if not _begins(one, name)]

    # --- as time goes by

    def tick(self, targets: Mapping[str, Alert], now: float) -> None:
        """Let time pass."""
        for name, condition in list(self.open.items()):
            self._fall_silent(name, condition, now)
            if condition.over:
                self._close(name, condition, targets, now)
            else:
                self._remind(name, condition, targets, now)
        if len(self.quiet) > MOST_QUIET or any(until <= now for until, more in self.quiet.values() if not more):
            kept = [one for one in self.quiet.items() if one[1][0] > now or one[1][1]][-MOST_QUIET:]
            self.quiet = {name: one for name, one in kept if one[0] > now - KEPT}

    def _fall_silent(self, name: str, condition: Condition, now: float) -> None:
        if not condition.last.lasting or condition.over:
            return
        for node, at in list(condition.speakers.items()):
            if now - at > SILENT:
                del condition.speakers[node]
        if not condition.speakers:
            self._over(name, now, None)

    def _close(self, name: str, condition: Condition, targets: Mapping[str, Alert], now: float) -> None:
        """It is over: tell those who knew of it, each when it has been calm for long enough, and then forget it."""
        said, age = condition.end or _unsaid(condition.last, condition.over), now - condition.over
        for target, book in self.targets.items():
            if 0 <= age < targets[target].calm:
                continue
            believed = book.will_know(name)
            book.told.pop(name, None)
            if believed and targets[target].recoveries:
                self._queue(target, NoticeItem(occurrence=said, saying="ends", since=condition.since, queued=now))
        if not 0 <= age < max((targets[target].calm for target in self.targets), default=0.0):
            del self.open[name]

    def _remind(self, name: str, condition: Condition, targets: Mapping[str, Alert], now: float) -> None:
        for target, book in self.targets.items():
            every, told = targets[target].repeat, book.told.get(name)
            if every and told is not None and now - told >= every:
                book.told[name] = now
                self._queue(
                    target, NoticeItem(occurrence=condition.last, saying="still", since=condition.since, queued=now)
                )

    # --- telling

    def _queue(self, target: str, item: NoticeItem) -> None:
        book = self.targets[target]
        book.pending.append(item)
        if len(book.pending) > MOST_PENDING:
            news = next((one for one in book.pending if one.saying in ("once", "still")), book.pending[0])
            book.pending.remove(news)
            book.dropped += 1

    def due(self, name: str, target: Alert, now: float) -> Notice | None:
        """What goes to a target now. Said once, it is under way until `sent` or `failed` is."""
        book = self.targets[name]
        if now < book.retry_at <= now + LONGEST_ASKED + LONGEST_RETRY:
            return None
        if book.batch is not None:
            book.in_doubt = True  # how its last try went, nobody has said
            return book.batch
        self._drop_old(book, now)
        if not book.pending or (not book.failures and now - target.gather < book.pending[0].queued <= now):
            return None
        self.number += 1
        book.batch = Notice(id=f"{self.born}-{self.number}", target=name, items=tuple(book.pending[:TOGETHER]))
        del book.pending[:TOGETHER]
        book.in_doubt = False
        return book.batch

    def _drop_old(self, book: TargetBook, now: float) -> None:
        kept = [one for one in book.pending if now - one.queued < KEPT]
        book.dropped += len(book.pending) - len(kept)
        book.pending = kept

    def sent(self, notice: Notice, now: float) -> None:
        """A notice has arrived."""
        book = self.targets.get(notice.target)
        if book is None or book.batch is None or book.batch.id != notice.id:
            return
        book.batch = None
        book.forgive()
        book.delivered += 1
        for item in notice.items:
            name = item.occurrence.condition
            if item.saying == "ends":
                book.told.pop(name, None)
            elif item.saying != "once" and name in self.open:
                book.told[name] = now

    def failed(
        self, notice: Notice, reason: str, now: float, rng: random.Random, *, asked: float = 0.0, unknown: bool = False
    ) -> None:
        """A notice has not arrived.

        Args:
            asked: s that the receiver wants to be left alone.
            unknown: it may have arrived all the same.
        """
        book = self.targets.get(notice.target)
        if book is None or book.batch is None or book.batch.id != notice.id:
            return
        book.failures, book.failed, book.reason = book.failures + 1, book.failed + 1, reason
        book.failing = book.failing or now
        book.retry_at = now + retry_in(book.failures, asked, rng, longest=LONGEST_RETRY)
        book.in_doubt |= unknown
        if not book.in_doubt:
            book.batch = None
            back = [one for one in notice.items if one.saying != "begins" or self._lasts(one.occurrence.condition)]
            book.pending[:0] = back
            self._drop_old(book, now)
        elif now - notice.items[0].queued >= KEPT:
            book.batch, book.dropped = None, book.dropped + len(notice.items)

    def _lasts(self, name: str) -> bool:
        return name in self.open and not self.open[name].over

    # --- looking

    def firing(self) -> Iterator[tuple[Condition, tuple[str, ...]]]:
        """What lasts, and who was told."""
        for name, condition in self.open.items():
            if not condition.over:
                yield condition, tuple(target for target, book in self.targets.items() if name in book.told)


def _begins(item: NoticeItem, condition: str) -> bool:
    return item.saying == "begins" and item.occurrence.condition == condition


def _unsaid(last: Occurrence, at: float) -> Occurrence:
    """The end of a condition of which nobody said that it is over."""
    return attrs.evolve(last, turn="ends", at=at, text=f"no longer so: {last.text}")
