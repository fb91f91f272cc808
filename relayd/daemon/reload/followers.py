"""Followers: other processes of this node that run what the reloader decides.

Rule: a config is prepared by all of them or taken by none; whoever asked for a reload is answered once all run it.
"""

from __future__ import annotations

from typing import Protocol

from relayd.config.snapshot import Snapshot


class Followers(Protocol):
    """Who is told of each config: the orders of the workers, which lie above this room."""

    async def prepare(self, snapshot: Snapshot) -> tuple[str, ...]:
        """Have everything done of a config that can fail. Returns why it cannot be run; () when it can."""
        ...

    def commit(self) -> None:
        """What was prepared runs. Sync; does not fail."""
        ...

    def amend(self, snapshot: Snapshot) -> None:
        """The running config is this one now, unprepared: deny.toml or the revision alone has changed. Sync."""
        ...

    async def in_step(self) -> None:
        """Wait until all of them run what the reloader runs."""
        ...
