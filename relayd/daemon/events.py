"""Events: the one place where what an operator should know is told, to the log at once and to alerts later.

Rule: sync, from any thread, and bounded: whoever tells never waits, and when nobody takes, the oldest is forgotten.
"""

from __future__ import annotations

import logging
from collections import deque

import attrs

from relayd.core.alerts.events import AlertEvent

MOST = 1_000  # events that wait for the alerts of this node


def log_event(event: AlertEvent) -> None:
    """Write the line of an event."""
    logging.getLogger(event.logger).log(event.level, event.name, extra=event.fields())


@attrs.define(eq=False)
class Events:
    """The events of a process.

    Args:
        lost: events that went to the log alone, because too many waited.
    """

    lost: int = 0
    _waiting: deque[AlertEvent] = attrs.field(factory=lambda: deque(maxlen=MOST))

    def tell(self, event: AlertEvent) -> None:
        """It has happened."""
        log_event(event)
        self.pass_on(event)

    def pass_on(self, event: AlertEvent) -> None:
        """It has happened in another process of this node, which has logged it."""
        self.lost += len(self._waiting) == MOST
        self._waiting.append(event)

    def take(self) -> list[AlertEvent]:
        """What was told since the last time, the oldest first."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]
