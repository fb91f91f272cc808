"""Live: the running config, in one place. Whoever serves a call reads `snapshot` once and keeps to it."""

from __future__ import annotations

import attrs

from relayd.config.snapshot import Snapshot


@attrs.define(eq=False)
class Live:
    """The current Snapshot. A swap is one assignment: no call ever sees half of a config."""

    snapshot: Snapshot
    generation: int = 1

    def swap(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the running config."""
        self.snapshot = snapshot
        self.generation += 1
