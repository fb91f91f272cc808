"""Alerting: the task that takes this node's events, shares them, and tells people when it is this node's turn.

Rule: never in the path of a call, and nothing waits for it. Only the running tree names targets; without any, the store
is asked of nothing but the limits that are near, for the log.

Theory: while the store is there, nodes agree by it (`shared_book.py`). While it is away nobody can agree, and that is
what has to be told: each node then keeps a book of its own in memory, for what begins meanwhile, and the nodes take
turns by the order in which they last saw each other, so that a short outage is told by one of them. What began in such
a book also ends in it.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import attrs
import trio

from relayd.config.snapshot import Alert, ApiKey, Snapshot
from relayd.core.ailments import ServiceFacts
from relayd.core.alerts.book import REFRESH, AlertBook
from relayd.core.alerts.events import AccountOut, AlertEvent
from relayd.core.alerts.limit_watch import LimitWatch
from relayd.core.alerts.node_events import DailyReport, StateAvailable, StateUnavailable
from relayd.core.alerts.occurrence import Occurrence, is_gone, occurrence_of
from relayd.core.alerts.outlook import Outlook
from relayd.core.alerts.schedule import ending_keys, ending_tokens, report_day, report_figures
from relayd.core.balancing.pool import Pool
from relayd.core.inventory import Inventory
from relayd.core.live import Live
from relayd.core.oauth import utc
from relayd.core.quota.call_estimate import NOTHING
from relayd.core.quota.limits import key_terms
from relayd.core.traffic import Traffic
from relayd.daemon.alerts.shared_book import SharedBook
from relayd.daemon.alerts.teller import Teller
from relayd.daemon.events import Events, log_event
from relayd.daemon.log import clean
from relayd.daemon.store.batcher import Batcher
from relayd.noun import noun
from relayd.state.contract import Peek, Report, Reported, StoreUnavailable, TermLevels
from relayd.state.report import report_document

TICK = 1.0  # s between looks at what has happened
LOOK = 5.0  # s between looks at what nobody announces
AWAY = 5.0  # s that the store has been away when a node begins to tell by itself
TURN = 60.0  # s between the turns of nodes that cannot agree
MOST_KEYS = 200  # whose limits are looked at in one go
MOST_UNSAID = 1_000  # occurrences that wait for the store
LAST = 3.0  # s for notices under way when the daemon ends
PATIENT = 60.0  # s that a target may fail before somebody should look
SURE = 10.0  # s that nodes may take to hear of each other's accounts

log = logging.getLogger("relayd.alerts")


@noun(kw_only=True)
class AlertFacts:
    """What is looked at.

    Args:
        service: how serving calls stands, at a Unix time, s.
        inventory: of a config.
        traffic: what this node has seen of calls.
        token_ends: access tokens that cannot be refreshed, and their ends.
        rank: of this node among those that were last seen, from 0.
    """

    live: Live
    pool: Pool
    traffic: Callable[[], Traffic]
    limits: LimitWatch
    service: Callable[[float], ServiceFacts]
    inventory: Callable[[Snapshot], Inventory]
    token_ends: Callable[[], Iterable[tuple[str, float]]]
    rank: Callable[[], int]


@attrs.define(eq=False, kw_only=True)
class Alerting:
    """The alerts of one node.

    Args:
        state: the shared store.
        wall: Unix time, s.
    """

    events: Events
    facts: AlertFacts
    state: Batcher
    shared: SharedBook
    teller: Teller
    node: str
    wall: Callable[[], float]
    outlook: Outlook = attrs.field(init=False)
    alone: AlertBook = attrs.field(init=False)  # of what began while the store was away
    _own: dict[str, Occurrence] = attrs.field(factory=dict, init=False)  # what lasts, as this node sees it
    _unsaid: deque[Occurrence] = attrs.field(factory=lambda: deque(maxlen=MOST_UNSAID), init=False)
    _looked: float = attrs.field(default=float("-inf"), init=False)  # trio's times
    _refreshed: float = attrs.field(default=float("-inf"), init=False)
    _away_since: float | None = attrs.field(default=None, init=False)
    _turn: float = attrs.field(default=float("-inf"), init=False)
    _targets: frozenset[str] = attrs.field(default=frozenset(), init=False)

    def __attrs_post_init__(self) -> None:
        self.outlook = Outlook(self.node)
        self.alone = AlertBook(born=f"{self.shared.life}-{round(self.wall() * 1000):x}")

    async def run(self) -> None:
        """Tell for ever. At the end let what is under way arrive, write it down, and let another node tell."""
        sending = trio.CancelScope(shield=True)

        async def run_nursery(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
            with sending:
                async with trio.open_nursery() as nursery:
                    task_status.started(nursery)
                    await trio.sleep_forever()

        async with trio.open_nursery() as outer:
            nursery = await outer.start(run_nursery)
            try:
                while True:
                    await self._round(nursery)
                    await trio.sleep(TICK)
            finally:
                with trio.move_on_after(LAST, shield=True):
                    await self._finish()
                self.shared.resign()
                sending.cancel()

    async def _finish(self) -> None:
        await self.teller.idle()
        try:
            await self.shared.save()
        except StoreUnavailable:
            pass  # whoever tells next sends the same notices, under the same ids

    async def _round(self, nursery: trio.Nursery) -> None:
        snapshot, now = self.facts.live.snapshot, self.wall()
        try:
            self._watch_store()
            await self._look(snapshot, now)
            self._follow(self.alone, snapshot.relay.alerts, now)
            self._collect(snapshot, now)
            self._tell_alone(nursery, snapshot, now)
            if not snapshot.relay.alerts:
                self._unsaid.clear()
                self.shared.resign()
            elif self.state.up:
                await self._tell(nursery, snapshot, now)
        except StoreUnavailable:
            pass  # what is not written down yet is, once the store is back and nobody else has told meanwhile
        except Exception:  # a bug must not end the daemon, nor the telling
            log.exception("alert.fault")
            self.shared.drop()

    # --- this node

    def _watch_store(self) -> None:
        if self.state.up:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = trio.current_time()
            self._turn = self._away_since + TURN * self.facts.rank()

    async def _look(self, snapshot: Snapshot, now: float) -> None:
        """See what nobody announces. Raises: StoreUnavailable."""
        if trio.current_time() - self._looked < LOOK:
            return
        self._looked = trio.current_time()
        for event in self.outlook.look(self.facts.service(now), self.facts.traffic().of("hour", now)):
            self.events.tell(event)
        if self.state.up:
            for key in self.facts.limits.next_keys(snapshot.keys, MOST_KEYS):
                await self._look_at_limits(key, snapshot, now)

    async def _look_at_limits(self, key: ApiKey, snapshot: Snapshot, now: float) -> None:
        asked = key_terms(key, NOTHING, round(now * 1000), snapshot.relay.state.timezone)
        answer = await self.state.ask(Peek(terms=asked))
        if isinstance(answer, TermLevels):
            for event in self.facts.limits.look(key, asked, answer.levels, answer.now):
                self.events.tell(event)

    def _collect(self, snapshot: Snapshot, now: float) -> None:
        """Take what was told, and say again what lasts."""
        for event in self.events.take():
            if isinstance(event, AccountOut) and event.brief:
                continue  # the pool at work
            said = self._said(event, snapshot, now)
            self._remember(said)
            self._route(said, snapshot.relay.alerts, now)
        targets = frozenset(snapshot.relay.alerts)
        new = targets - self._targets
        if new or trio.current_time() - self._refreshed >= REFRESH:
            for said in list(self._own.values()):
                if self._is_over(said, snapshot, now):
                    del self._own[said.condition]
                elif said.lasting or new:
                    self._route(attrs.evolve(said, at=now) if said.lasting else said, snapshot.relay.alerts, now)
            self._refreshed = trio.current_time()
        self._targets = targets

    def _said(self, event: AlertEvent, snapshot: Snapshot, now: float) -> Occurrence:
        return occurrence_of(event, now, self.node, snapshot, clean)

    def _remember(self, said: Occurrence) -> None:
        if said.turn == "begins":
            self._own[said.condition] = said
        elif said.turn == "ends":
            self._own.pop(said.condition, None)

    def _route(self, said: Occurrence, targets: Mapping[str, Alert], now: float) -> None:
        """To the book of this node, or to the others. What waits for the store and cannot, is told alone."""
        store = said.event in (StateUnavailable.name, StateAvailable.name)
        if store or said.condition in self.alone.open or self._is_alone():
            self.alone.hear(said, targets, now)
        else:
            self._unsaid.append(said)

    def _is_alone(self) -> bool:
        return self._away_since is not None and trio.current_time() - self._away_since >= AWAY

    def _is_over(self, said: Occurrence, snapshot: Snapshot, now: float) -> bool:
        """Whether something that somebody said is no longer so, as anybody can see."""
        if is_gone(said, snapshot):
            return True
        return said.everywhere and now - said.at > SURE and not self.facts.pool.ailing(said.account, now)

    # --- telling

    def _follow(self, book: AlertBook, targets: Mapping[str, Alert], now: float) -> None:
        book.follow(targets, {name: _fingerprint(target) for name, target in targets.items()}, now)

    def _tell_alone(self, nursery: trio.Nursery, snapshot: Snapshot, now: float) -> None:
        targets = snapshot.relay.alerts
        if self._is_alone():
            while self._unsaid:
                self.alone.hear(self._unsaid.popleft(), targets, now)
        self._review(self.alone, snapshot, now)
        self.alone.tick(targets, now)
        if trio.current_time() >= self._turn:
            due = self.teller.due(self.alone, snapshot.relay, now)
            self.teller.start(nursery, self.alone, due, snapshot.relay)

    async def _tell(self, nursery: trio.Nursery, snapshot: Snapshot, now: float) -> None:
        """Share what this node has to say; where it is its turn, tell people. Raises: StoreUnavailable."""
        while self._unsaid:
            await self.shared.publish(self._unsaid[0])
            self._unsaid.popleft()
        book, targets = await self.shared.lead(), snapshot.relay.alerts
        if book is None:
            return
        self._follow(book, targets, now)
        for said in await self.shared.hear(book):
            book.hear(said, targets, now)
        self._review(book, snapshot, now)
        self._foresee(book, snapshot, now)
        await self._report(book, snapshot, now)
        book.tick(targets, now)
        due = self.teller.due(book, snapshot.relay, now)
        if await self.shared.save():
            self.teller.start(nursery, book, due, snapshot.relay)

    def _review(self, book: AlertBook, snapshot: Snapshot, now: float) -> None:
        """End what is over though nobody said so."""
        for name, condition in list(book.open.items()):
            if not condition.over and self._is_over(condition.last, snapshot, now):
                book.end(name, now)

    def _foresee(self, book: AlertBook, snapshot: Snapshot, now: float) -> None:
        """Tell what will end soon."""
        keys = ending_keys(snapshot, self.facts.inventory(snapshot), now)
        for event in (*keys, *ending_tokens(self.facts.token_ends(), now)):
            if book.hear(self._said(event, snapshot, now), snapshot.relay.alerts, now):
                log_event(event)

    async def _report(self, book: AlertBook, snapshot: Snapshot, now: float) -> None:
        """Give targets the report of the day before, when it is time. Raises: StoreUnavailable."""
        zone, reports = snapshot.relay.state.timezone, dict[str, DailyReport]()
        for name, target in snapshot.relay.alerts.items():
            known = book.targets[name]
            day = report_day(target.daily_report, known.reported, known.added, now, zone) if target.daily_report else ""
            if not day:
                continue
            if day not in reports:
                answer = await self.state.ask(Report(first=day, last=day))
                if not isinstance(answer, Reported):
                    continue
                figures = await trio.to_thread.run_sync(report_document, answer.rows, day, day)
                reports[day] = DailyReport(told=report_figures(figures))
                log_event(reports[day])
            book.report(name, self._said(reports[day], snapshot, now), day, now)

    # --- looking

    async def books(self) -> list[AlertBook]:
        """What is known of all targets: by all nodes, and by this one alone."""
        shared = await self.shared.look() if self.state.up else self.shared.book
        known = [book for book in (shared, self.alone) if book is not None]
        seen = AlertBook(born="seen")  # what this node sees and nobody was told, for want of a target
        for said in self._own.values():
            if not any(said.condition in book.open for book in known):
                seen.hear(said, {}, self.wall())
        return [*known, seen]

    def own_books(self) -> list[AlertBook]:
        """Those from which this node tells."""
        return [self.alone] if self.shared.book is None else [self.alone, self.shared.book]

    def failing(self) -> Mapping[str, tuple[float, str]]:
        """Targets to which nothing goes through from this node, since when (Unix time, s), and why."""
        found = {}
        for book in self.own_books():
            for name, one in book.targets.items():
                if one.failing:
                    found[name] = one.failing, one.reason
        return found

    def works(self, name: str) -> None:
        """A target has taken something: it is tried at once again. Sync."""
        for book in self.own_books():
            if name in book.targets:
                book.targets[name].forgive()

    def ailments(self, now: float) -> tuple[str, ...]:
        """Targets that keep failing, in words. `now`: Unix time, s."""
        return tuple(
            f"alerts do not reach {name} since {utc(since)}: {reason} [relayd alert test {name}]"
            for name, (since, reason) in sorted(self.failing().items())
            if now - since >= PATIENT
        )

    def queued(self) -> Mapping[str, int]:
        """What waits to be told by this node, by target."""
        return {
            name: sum(len(book.targets[name].waiting) for book in self.own_books() if name in book.targets)
            for name in self.facts.live.snapshot.relay.alerts
        }


def _fingerprint(target: Alert) -> str:
    """Names the settings of a target, and nothing of their values."""
    return hashlib.sha256(repr(attrs.astuple(target)).encode()).hexdigest()[:16]
