"""Patience: waits that end by themselves after a time, for less than a deadline each.

Rule: what is called when a wait has taken too long is sync and must not raise.

Theory: waits of one length end in the order in which they began, so for each length there is a queue, and only its head
has to be watched. To begin and to end a wait is to put an entry into a dict and to take it out again. One alarm serves
all of them; it is not put off when its wait ends early, which is the rule, but looks again when it has rung.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

Expire = Callable[[], None]


@attrs.define(eq=False)
class Patience:
    """The waits of one trio run that may take too long."""

    _queues: dict[float, dict[Expire, float]] = attrs.field(factory=dict, init=False)  # by length: when each is due
    _alarm: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def begin(self, seconds: float, expire: Expire) -> None:
        """Call `expire` after `seconds`, unless `end` is called with the same two before."""
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = {}
        due = queue[expire] = trio.current_time() + seconds
        if due < self._alarm.deadline:
            self._alarm.deadline = due

    def end(self, seconds: float, expire: Expire) -> None:
        """The wait is over; maybe because it has expired."""
        queue = self._queues.get(seconds)
        if queue is not None:
            queue.pop(expire, None)
            if not queue:
                del self._queues[seconds]

    async def run(self) -> None:
        """Ring until cancelled."""
        while True:
            with self._alarm:
                await trio.sleep_forever()
            self._alarm = trio.CancelScope()
            self._alarm.deadline = min(map(self._expire, list(self._queues)), default=math.inf)

    def _expire(self, seconds: float) -> float:
        """Expire what is due in one queue; when the next one is."""
        queue, now = self._queues[seconds], trio.current_time()
        while queue:
            expire, due = next(iter(queue.items()))
            if due > now:
                return due
            del queue[expire]
            expire()
        del self._queues[seconds]
        return math.inf
