"""Shared book: how nodes agree on who tells, and what was told: a lease, a topic of occurrences, and one note.

Rule: whoever writes the note says which version it was made from, so that a node which lost the lease unnoticed cannot
undo what the next one wrote.

Theory: each node publishes what happens to it; the node that holds the lease hears all of them, and keeps what it knows
in the note, from which the next holder goes on. What was heard is in the note before anything is told of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs
import msgspec
import trio

from relayd.core.alerts.book import AlertBook
from relayd.core.alerts.occurrence import Occurrence
from relayd.core.quota.limits import Slots
from relayd.daemon.store.batcher import Batcher
from relayd.state.contract import (
    Acquire,
    Answer,
    Gather,
    Gathered,
    Granted,
    Publish,
    Published,
    Release,
    StoreUnavailable,
)

LEASE_MS = 30_000
RENEW = 5.0  # s between looks at the lease
TOPIC, BOOK, LEASE = "alerts", "alert-book", "alerts/teller"
WRITTEN = Gather(topic=BOOK)
T = TypeVar("T")
STALE = 600.0  # s after which nobody cares for news; what lasts is said again by whoever sees it


@attrs.define(eq=False, kw_only=True)
class SharedBook:
    """One node's way to the book.

    Args:
        life: names this process.
        wall: Unix time, s.
    """

    state: Batcher
    life: str
    wall: Callable[[], float]
    book: AlertBook | None = attrs.field(default=None, init=False)  # while this node tells
    _version: int = attrs.field(default=0, init=False)
    _written: bytes = attrs.field(default=b"", init=False)
    _asked: float = attrs.field(default=float("-inf"), init=False)  # trio's time of the last look at the lease

    async def publish(self, said: Occurrence) -> None:
        """Tell the others. Raises: StoreUnavailable."""
        body = msgspec.json.encode(said).decode()
        await self.state.ask(Publish(topic=TOPIC, name=said.slot or said.condition, body=body))

    async def lead(self) -> AlertBook | None:
        """The book, where this node is the one that tells. Raises: StoreUnavailable."""
        now = trio.current_time()
        if now - self._asked >= RENEW:
            self._asked = now
            slot = Slots(counter=LEASE, name="telling alerts", limit=1, ttl=LEASE_MS)
            if not isinstance(await self.state.ask(Acquire(holder=self.life, terms=(slot,))), Granted):
                self.drop()
            elif self.book is None:
                self.book = await self._load()
        return self.book

    async def hear(self, book: AlertBook) -> list[Occurrence]:
        """What was published since. Raises: StoreUnavailable."""
        answer = await self.state.ask(Gather(topic=TOPIC, since=book.since))
        if not isinstance(answer, Gathered):
            return []
        heard, now = [], self.wall()
        for note in answer.notes:
            fresh = note.version > book.since
            book.since = max(book.since, note.version)
            said = _understood(note.body, Occurrence) if fresh else None
            if said is not None and not (now - said.at > STALE and (said.turn == "once" or said.lasting)):
                heard.append(said)
        return heard

    async def save(self) -> bool:
        """Write the book down, if it is another than was written. Returns whether this node still tells.

        Raises: StoreUnavailable.
        """
        if self.book is None:
            return False
        body = msgspec.json.encode(self.book)
        if body == self._written:
            return True
        answer = await self.state.ask(Publish(topic=BOOK, name="book", body=body.decode(), expect=self._version))
        if not isinstance(answer, Published) or not answer.ok or answer.note is None:
            self.drop()
            return False
        self._version, self._written = answer.note.version, body
        return True

    def drop(self) -> None:
        """Forget what this node thought it knew: another one may tell now. Sync."""
        self.book, self._written = None, b""

    def resign(self) -> None:
        """Let another node tell at once. Sync."""
        if self.book is not None:
            self.state.submit_nowait(Release(holder=self.life, counters=(LEASE,)))
        self.drop()

    async def look(self) -> AlertBook | None:
        """The book as it was written last, whoever tells; None where there is none, or the store is away."""
        if self.book is not None:
            return self.book
        try:
            return (await self._read())[0]
        except StoreUnavailable:
            return None

    async def _read(self) -> tuple[AlertBook | None, int]:
        return book_of(await self.state.ask(WRITTEN))

    async def _load(self) -> AlertBook:
        found, self._version = await self._read()
        if found is not None:
            return found
        return AlertBook(born=f"{round(self.wall() * 1000):x}")


def book_of(answer: Answer) -> tuple[AlertBook | None, int]:
    """The book that was WRITTEN, and its version; None where there is none, or another version wrote it otherwise."""
    notes = answer.notes if isinstance(answer, Gathered) else ()
    return (_understood(notes[-1].body, AlertBook), notes[-1].version) if notes else (None, 0)


def _understood(body: str, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError:
        return None
