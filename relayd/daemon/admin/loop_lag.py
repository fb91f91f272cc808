"""Loop lag: how late the event loop runs what is due, which every call has to wait besides.

Rule: measured by a task that sleeps, so it costs calls nothing.
"""

from __future__ import annotations

import attrs
import trio

from relayd.core.durations import Durations

PAUSE = 0.5  # s
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)  # s


@attrs.define(eq=False)
class LoopLag:
    """The delays of one event loop."""

    durations: Durations = attrs.field(factory=lambda: Durations(BOUNDS))

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = trio.current_time() + PAUSE
            await trio.sleep_until(due)
            self.durations.add(trio.current_time() - due)
