"""Source keeper: fetches now and then, and at once when somebody asks, and knows how it went.

Rule: it never raises for what git, the network or a person's push did: that is a fact for status, metrics and whoever
asked. One pull at a time. What is read and compiled is not its business: it says that another commit was taken.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable

import attrs
import trio

from relayd.core.alerts.node_events import SourceFailed, SourceRecovered
from relayd.core.pull import LEAST_COMMIT, HeldHead, is_late, next_pause
from relayd.daemon.events import Events
from relayd.daemon.source.git_child import PullError
from relayd.daemon.source.mirror import Mirror
from relayd.daemon.source.settings import SourceSettings

log = logging.getLogger("relayd.source")

PATIENCE = 20.0  # s that a reload waits for the fetch that it asked for; the fetch itself goes on


@attrs.define(eq=False, kw_only=True)
class SourceRecord:
    """What is known of the source.

    Args:
        since: Unix time, s, from which on fetches were tried.
        fetched: of the last fetch that succeeded; 0.0 = none has.
        head, taken: of the branch, as it was fetched; what this node takes its tree from. "" while unknown.
        held: why the two differ; None when they do not.
        error: why the last fetch failed; "" when it did not.
        failures: how many have failed in a row.
        fetches: how many there were, by "ok" and "failed".
    """

    since: float
    fetched: float = 0.0
    head: str = ""
    taken: str = ""
    held: HeldHead | None = None
    error: str = ""
    failures: int = 0
    fetches: Counter[str] = attrs.field(factory=Counter)

    @property
    def why_absent(self) -> str:
        """Why there is no tree, where none was taken yet."""
        if self.held is not None:
            return "; ".join(self.held.reasons)
        return f"it could not be fetched: {self.error or 'nobody has tried'}"

    def age(self, now: float) -> float:
        """s since the last success, or since the first attempt where there was none."""
        return max(0.0, now - (self.fetched or self.since))


@attrs.define(eq=False)
class _Ask:
    """Somebody waits for a pull that begins after now. `meant`: commits that a person has named."""

    meant: tuple[str, ...]
    done: trio.Event = attrs.field(factory=trio.Event, init=False)


@attrs.define(eq=False, kw_only=True)
class SourceKeeper:
    """Pulls for one node.

    Args:
        wall: Unix time, s.
        moved: set, and replaced, when another commit was taken.
    """

    settings: SourceSettings
    mirror: Mirror
    record: SourceRecord
    wall: Callable[[], float]
    rng: random.Random
    events: Events = attrs.field(factory=Events, repr=False)
    moved: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _asks: list[_Ask] = attrs.field(factory=list, init=False, repr=False)
    _asked: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    async def run(self) -> None:
        """Pull for ever."""
        at = {"source": str(self.settings.at), "commit": self.record.taken, "every_s": self.settings.interval}
        log.info("source.following", extra=at)
        while True:
            with trio.move_on_after(self._pause()):
                await self._asked.wait()
            asks, self._asks, self._asked = self._asks, [], trio.Event()
            before = attrs.evolve(self.record)
            await self._pull(tuple(word for ask in asks for word in ask.meant))
            self._tell(before)
            for ask in asks:
                ask.done.set()

    async def begin(self, patience: float) -> None:
        """The first pull, before there is anything to serve. Given up after `patience` s: the daemon goes on trying."""
        with trio.move_on_after(patience) as waiting:
            await self._pull(())
        if waiting.cancelled_caught:
            self.record.error = f"it did not answer within {patience:g} s"

    async def refresh(self, meant: tuple[str, ...] = ()) -> None:
        """Have a pull made that begins after now, and wait for it, within bounds."""
        ask = _Ask(meant)
        self._asks.append(ask)
        self._asked.set()
        with trio.move_on_after(PATIENCE) as waiting:
            await ask.done.wait()
        if waiting.cancelled_caught:
            self.record.error = f"it has not answered within {PATIENCE:g} s; the attempt goes on"

    async def _pull(self, meant: tuple[str, ...]) -> None:
        """One pull, and what is to be remembered of it."""
        record = self.record
        try:
            pulled = await self.mirror.pull(meant)
        except PullError as error:
            record.failures += 1
            record.fetches["failed"] += 1
            record.error = str(error)
            return
        record.fetched, record.error, record.failures = self.wall(), "", 0
        record.fetches["ok"] += 1
        record.head, record.taken, record.held = pulled.head, pulled.taken, pulled.held
        if pulled.moved:
            self.moved.set()
            self.moved = trio.Event()

    def _tell(self, before: SourceRecord) -> None:
        """Log what is new."""
        record, at = self.record, {"source": str(self.settings.at)}
        if record.error != before.error:
            if record.error:
                self.events.tell(SourceFailed(source=at["source"], reason=record.error))
            else:
                self.events.tell(SourceRecovered(source=at["source"]))
        if record.held is not None and record.held != before.held:
            reasons = list(record.held.reasons)
            log.warning("source.held", extra={**at, "commit": record.head, "taken": record.taken, "reasons": reasons})
        if record.taken != before.taken:
            log.info("source.taken", extra={**at, "commit": record.taken, "before": before.taken})

    def _pause(self) -> float:
        interval = self.settings.interval
        return math.inf if interval is None else next_pause(interval, self.record.failures, self.rng)

    # --- telling

    def ailments(self, now: float) -> tuple[str, ...]:
        """What somebody should look at. `now`: Unix time, s."""
        record, found = self.record, []
        if record.held is not None:
            found.append(f"the source is held at {record.taken[:12] or 'nothing'}: {'; '.join(record.held.reasons)}")
        if record.error and is_late(record.age(now), self.settings.interval or 0.0):
            what = "the source was never fetched" if not record.fetched else "the source cannot be fetched"
            found.append(f"{what}: {record.error}")
        return tuple(found)

    @property
    def behind(self) -> tuple[str, ...]:
        """Why what was taken may not be what the remote has; () when it is, as far as the last fetch saw."""
        record = self.record
        held = record.held.reasons if record.held is not None else ()
        return (*held, *([f"{self.settings.at}: it could not be fetched: {record.error}"] if record.error else []))

    @property
    def accept(self) -> str:
        """How a person names the head that is held; "" when none is."""
        return self.record.held.commit[:LEAST_COMMIT] if self.record.held is not None else ""
