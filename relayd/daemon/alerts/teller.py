"""Teller: sends the notices that are due from a book, each target on its own, and writes down how it went.

Rule: one notice at a time to a target; a target that is slow holds up no other.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable

import attrs
import trio

from relayd.config.snapshot import Alert, Relay
from relayd.core.alerts.book import AlertBook, Notice
from relayd.daemon.alerts.delivery import Sender
from relayd.daemon.alerts.destination import Undelivered

log = logging.getLogger("relayd.alerts")


@attrs.define(eq=False, kw_only=True)
class Teller:
    """Sends.

    Args:
        wall: Unix time, s.
        delivered, failed: notices of this process, by target.
    """

    sender: Sender
    wall: Callable[[], float]
    rng: random.Random = attrs.field(repr=False)
    delivered: Counter[str] = attrs.field(factory=Counter, init=False)
    failed: Counter[str] = attrs.field(factory=Counter, init=False)
    _under_way: set[tuple[int, str]] = attrs.field(factory=set, init=False)
    _done: trio.Event = attrs.field(factory=trio.Event, init=False)  # set, and replaced, when one has ended

    def due(self, book: AlertBook, relay: Relay, now: float) -> list[Notice]:
        """The notices that go out now. Sync."""
        free = [name for name in book.targets if (id(book), name) not in self._under_way and name in relay.alerts]
        found = [book.due(name, relay.alerts[name], now) for name in free]
        return [notice for notice in found if notice is not None]

    def start(self, nursery: trio.Nursery, book: AlertBook, notices: list[Notice], relay: Relay) -> None:
        """Send notices of a book. Sync."""
        for notice in notices:
            self._under_way.add((id(book), notice.target))
            nursery.start_soon(self._send, book, notice, relay.alerts[notice.target], relay)

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way:
            await self._done.wait()

    async def _send(self, book: AlertBook, notice: Notice, target: Alert, relay: Relay) -> None:
        try:
            outcome = await self._sent(notice, target, relay)
            told = {"target": notice.target, "notice": notice.id, "events": len(notice.items)}
            if outcome is None:
                self.delivered[notice.target] += 1
                book.sent(notice, self.wall())
                log.info("alert.delivered", extra=told)
                return
            self.failed[notice.target] += 1
            known = book.targets.get(notice.target)
            again = known is not None and known.failures > 0 and known.reason == outcome.reason
            level = logging.INFO if again else logging.WARNING
            log.log(level, "alert.failed", extra={**told, "reason": outcome.reason})
            asked, unknown = outcome.asked, outcome.unknown
            book.failed(notice, outcome.reason, self.wall(), self.rng, asked=asked, unknown=unknown)
        finally:
            self._under_way.discard((id(book), notice.target))
            self._done.set()
            self._done = trio.Event()

    async def _sent(self, notice: Notice, target: Alert, relay: Relay) -> Undelivered | None:
        try:
            return await self.sender.send(notice, target, relay)
        except Exception as error:  # our bug; no reason to stop telling. Its text might quote a URL.
            log.error("alert.fault", extra={"target": notice.target, "error": type(error).__name__})
            return Undelivered(reason="an internal error", unknown=True)
