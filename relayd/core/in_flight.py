"""In-flight registry: the calls under way, by key for revocation and by id for the heartbeat.

Rule: sync. Whoever registers a call takes it out again in a `finally`, so no end of a call is missed.

Theory: config is pinned to a call; permission is not. After a swap the calls of keys that were revoked meanwhile are
found by their key, and cut. A call that the state store has admitted is also known by its id: with each heartbeat the
store is told what the call has consumed so far, and a store that has lost the call is told how it was admitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.quota.reservation import Quota
from relayd.core.quota.usage_record import UsageRecord
from relayd.noun import noun


@attrs.define(eq=False)
class RevocableCall:
    """A call that a revocation can reach.

    Args:
        allowed: whether a snapshot still lets the call be made.
        cut: ends the call; sync, called at most once.
    """

    allowed: Callable[[Snapshot], bool]
    cut: Callable[[], None]


@noun(kw_only=True)
class AdmittedCall:
    """A call that the state store has admitted.

    Args:
        quota: what it was admitted with.
        consumed: what it is to be booked with if this process dies now.
    """

    quota: Quota
    consumed: Callable[[], UsageRecord]


@attrs.define(eq=False)
class InFlight:
    """The calls of this process that have not ended."""

    _by_key: dict[str, set[RevocableCall]] = attrs.field(factory=dict, init=False, repr=False)
    _admitted: dict[str, AdmittedCall] = attrs.field(factory=dict, init=False, repr=False)

    # --- by key

    def revocable(self, key: str, allowed: Callable[[Snapshot], bool], cut: Callable[[], None]) -> _Registered:
        """Register a call for as long as the block runs.

        Args:
            key: id of the API key.
            allowed, cut: as RevocableCall.
        """
        return _Registered(self, key, RevocableCall(allowed, cut))

    def _add(self, key: str, call: RevocableCall) -> None:
        self._by_key.setdefault(key, set()).add(call)

    def _drop(self, key: str, call: RevocableCall) -> None:
        calls = self._by_key.get(key, set())
        calls.discard(call)
        if not calls:
            self._by_key.pop(key, None)

    def count(self, key: str = "") -> int:
        """Calls in flight, of one key or of all."""
        return len(self._by_key.get(key, ())) if key else sum(map(len, self._by_key.values()))

    def revoked(self, old: Snapshot, new: Snapshot) -> int:
        """After a swap: cut the calls that the new config no longer allows, where its policy says so.

        Returns: how many of them there are, cut or left to finish.
        """
        cut = new.relay.policy.on_revoke == "cut"
        ended = 0
        for key in affected_keys(old, new, self._by_key):
            for call in [call for call in self._by_key.get(key, ()) if not call.allowed(new)]:
                ended += 1
                if cut:
                    self._drop(key, call)
                    call.cut()
        return ended

    # --- by id

    def admit(self, call_id: str, call: AdmittedCall) -> None:
        """Register a call that the state store has admitted; `settle` takes it out."""
        self._admitted[call_id] = call

    def settle(self, call_id: str) -> None:
        """The call has ended, and the store is told."""
        del self._admitted[call_id]

    def admitted(self) -> list[tuple[str, AdmittedCall]]:
        """The calls that the state store holds open, with their ids."""
        return list(self._admitted.items())

    def quota_of(self, call_id: str) -> Quota | None:
        """What a call was admitted with; None when it has ended."""
        call = self._admitted.get(call_id)
        return None if call is None else call.quota


@attrs.define(eq=False)
class _Registered:
    """The context manager of `revocable`; a class, because a generator would cost several times as much."""

    _calls: InFlight
    _key: str
    _call: RevocableCall

    def __enter__(self) -> None:
        self._calls._add(self._key, self._call)

    def __exit__(self, *_: object) -> None:
        self._calls._drop(self._key, self._call)


def affected_keys(old: Snapshot, new: Snapshot, keys: Iterable[str]) -> list[str]:
    """Those of `keys` whose permission may be another one under `new`."""
    everyone = old.deny.ips != new.deny.ips or old.deny.sha256 != new.deny.sha256
    return [key for key in keys if everyone or _as_configured(old, key) != _as_configured(new, key)]


def _as_configured(snapshot: Snapshot, key: str) -> tuple[ApiKey | None, bool]:
    return snapshot.keys.get(key), key in snapshot.deny.keys
