"""Live: the running config and what outlives it. Whoever serves a call reads `snapshot` once and keeps to it.

Rule: sync. A swap is one assignment: no call ever sees half of a config. Config is pinned to a call; permission is not:
`InFlight` lets a swap end the calls of keys that were revoked meanwhile.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import attrs

from relayd.config.snapshot import ApiKey, Snapshot


@attrs.define(eq=False)
class _Open:
    allowed: Callable[[Snapshot], bool]
    cut: Callable[[], None]


@attrs.define(eq=False)
class InFlight:
    """Calls in flight by key, so that a revocation can reach them."""

    _calls: dict[str, set[_Open]] = attrs.field(factory=dict, init=False, repr=False)

    @contextmanager
    def of(self, key: str, allowed: Callable[[Snapshot], bool], cut: Callable[[], None]) -> Iterator[None]:
        """Hold a call for as long as the block runs.

        Args:
            key: id of the API key.
            allowed: whether a snapshot still lets the call be made: the question that `authenticate` answers.
            cut: ends the call; sync, called at most once.
        """
        call = _Open(allowed, cut)
        self._calls.setdefault(key, set()).add(call)
        try:
            yield
        finally:
            self._drop(key, call)

    def _drop(self, key: str, call: _Open) -> None:
        calls = self._calls.get(key, set())
        calls.discard(call)
        if not calls:
            self._calls.pop(key, None)

    def count(self, key: str = "") -> int:
        """Calls in flight, of one key or of all."""
        return len(self._calls.get(key, ())) if key else sum(map(len, self._calls.values()))

    def revoked(self, old: Snapshot, new: Snapshot) -> int:
        """After a swap: cut the calls that the new config no longer allows, where its policy says so.

        Returns: how many of them there are, cut or left to finish.
        """
        cut = new.relay.policy.on_revoke == "cut"
        ended = 0
        for key in affected_keys(old, new, self._calls):
            for call in [call for call in self._calls.get(key, ()) if not call.allowed(new)]:
                ended += 1
                if cut:
                    self._drop(key, call)
                    call.cut()
        return ended


@attrs.define(eq=False)
class Live:
    """The current Snapshot.

    Args:
        generation: counts the configs of this process, from 1.
        running: the calls in flight.
    """

    snapshot: Snapshot
    generation: int = 1
    running: InFlight = attrs.field(factory=InFlight, repr=False)
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


def affected_keys(old: Snapshot, new: Snapshot, keys: Iterable[str]) -> list[str]:
    """Those of `keys` whose permission may be another one under `new`."""
    everyone = old.deny.ips != new.deny.ips or old.deny.sha256 != new.deny.sha256
    return [key for key in keys if everyone or _standing(old, key) != _standing(new, key)]


def _standing(snapshot: Snapshot, key: str) -> tuple[ApiKey | None, bool]:
    return snapshot.keys.get(key), key in snapshot.deny.keys
