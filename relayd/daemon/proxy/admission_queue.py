"""Admission queues: FIFO lines of calls that wait for room in a limit of their key.

Rule: bounded, per line and in all: whoever waits holds its request in memory. A place that was taken is left in a
`finally`; leaving is sync.

Theory: only the first of a line asks again: when a call of the key has ended in this process, and every POLL seconds,
because slots also come free on other nodes. Lines are this process's own: between nodes there is no order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio

MOST_IN_LINE, MOST_IN_ALL = 100, 1000
POLL = 0.25  # s


@attrs.define(eq=False)
class QueuePlace:
    """A call's place in a line."""

    _line: OrderedDict[QueuePlace, None] = attrs.field(repr=False)
    news: trio.Event = attrs.field(factory=trio.Event)

    async def turn(self, deadline: float) -> bool:
        """Wait until this call may ask again. False: its time is up. `deadline`: on trio's clock, s."""
        with trio.move_on_at(deadline) as scope:
            while next(iter(self._line)) is not self:
                await self._news()
            with trio.move_on_after(POLL):
                await self._news()
        return not scope.cancelled_caught

    async def _news(self) -> None:
        await self.news.wait()
        self.news = trio.Event()


@attrs.define(eq=False)
class AdmissionQueues:
    """The lines of this process, by name."""

    _lines: dict[str, OrderedDict[QueuePlace, None]] = attrs.field(factory=dict, init=False)
    _waiting: int = attrs.field(default=0, init=False)

    def busy(self, name: str) -> bool:
        """Whether anybody waits in a line."""
        return name in self._lines

    @contextmanager
    def place(self, name: str) -> Iterator[QueuePlace | None]:
        """The last place of a line, for the length of the block; None where there is none left."""
        line = self._lines.get(name) or OrderedDict()
        if len(line) >= MOST_IN_LINE or self._waiting >= MOST_IN_ALL:
            yield None
            return
        place = QueuePlace(line)
        line[place] = None
        self._lines[name] = line
        self._waiting += 1
        try:
            yield place
        finally:
            del line[place]
            self._waiting -= 1
            if line:
                self.released(name)
            else:
                del self._lines[name]

    def released(self, name: str) -> None:
        """There may be room: the first of a line may ask."""
        line = self._lines.get(name)
        if line:
            next(iter(line)).news.set()
