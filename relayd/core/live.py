"""Running config: the current snapshot. Whoever serves a call reads it once and keeps to it.

Rule: sync. A swap is one assignment: no call ever sees half of a config.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from relayd.config.snapshot import Snapshot

Derived = TypeVar("Derived")


@attrs.define(eq=False)
class Live:
    """The current Snapshot.

    Args:
        generation: counts the configs of this process, from 1.
    """

    snapshot: Snapshot
    generation: int = 1
    _past: list[weakref.ref[Snapshot]] = attrs.field(factory=list, init=False, repr=False)

    def swap(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the running config, as a new generation."""
        self.amend(snapshot)
        self.generation += 1

    def amend(self, snapshot: Snapshot) -> None:
        """Put `snapshot` in the place of the running one without a new generation: deny.toml alone has changed."""
        self._past = [past for past in self._past if past() is not None]
        self._past.append(weakref.ref(self.snapshot))
        self.snapshot = snapshot

    def alive(self) -> int:
        """Snapshots that something still holds: the running one, and those of calls that began under another."""
        return 1 + sum(past() is not None for past in self._past)


@attrs.define(eq=False)
class PerConfig(Generic[Derived]):
    """What is made of a config, once for each; kept is that of the one asked for last, and no config is held."""

    make: Callable[[Snapshot], Derived]
    # One value, for threads set it too.
    _known: tuple[weakref.ref[Snapshot], Derived] | None = attrs.field(default=None, init=False)

    def of(self, snapshot: Snapshot) -> Derived:
        """What `make` makes of it."""
        known = self._known
        if known is None or known[0]() is not snapshot:
            known = self._known = weakref.ref(snapshot), self.make(snapshot)
        return known[1]
