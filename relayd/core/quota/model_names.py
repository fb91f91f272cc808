"""Model names: under which name a model is booked, and as what it may be sent.

Rule: pure, but for the names that `ModelNames` has learnt in the last days.

Theory: a model's name comes from the client, and each name is a line of its own in the reports. One that a client made
up must not get a line, or a loop over random names would grow the state without end. A name has a line when it is
*listed* (it has a price of its own, or the tree names it in full) or *confirmed* (an upstream reported usage for it).
Some upstreams take any name, so a day has no more than MOST confirmed ones; all others share the line OTHER.

What a call may cost depends on the account that will serve it, where accounts have a `model_map`; all the names that it
may be sent with are known before.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping

import attrs

from relayd.config.snapshot import Price, Snapshot
from relayd.core.balancing.candidates import serves
from relayd.core.quota.prices import dated, price_of, shipped

OTHER = "other"
MOST = 50  # confirmed names of a day, in one process; a provider has some twenty models at a time
LONGEST = 128  # characters
_MOST_PRICED = 512  # kept per snapshot; model names come from clients, so there is a bound
_DAYS = 2  # that are remembered: a call belongs to the day on which it began


def listed_models(snapshot: Snapshot) -> frozenset[str]:
    """The models that have a price of their own, and those that the tree names in full."""
    accounts, keys = snapshot.accounts.values(), snapshot.keys.values()
    mapped = [name for account in accounts for pair in account.model_map.items() for name in pair]
    globs = [glob for account in accounts for glob in account.models] + [glob for key in keys for glob in key.models]
    named = [glob for glob in globs if "*" not in glob and "?" not in glob]
    return frozenset([*shipped(), *dated(), *snapshot.prices, *snapshot.relay.models.values(), *mapped, *named])


_Sendings = Mapping[str, tuple[tuple[tuple[str, ...], str], ...]]  # by model asked for: groups, model sent


def sendings(snapshot: Snapshot) -> _Sendings:
    """For each model that some account renames: what each account that serves it sends, with the account's groups."""
    accounts = [account for account in snapshot.accounts.values() if account.enabled]
    renamed = {model for account in accounts for model in account.model_map}
    return {
        model: tuple(
            (account.groups, account.model_map.get(model, model)) for account in accounts if serves(account, model)
        )
        for model in renamed
    }


Priced = tuple[tuple[str, Price | None], ...]  # names with their prices, None for one that has none


@attrs.define(eq=False)
class ModelNames:
    """What one process knows of models' names."""

    _listed: frozenset[str] = attrs.field(default=frozenset(), init=False)
    _sendings: _Sendings = attrs.field(factory=dict, init=False)
    _snapshot: weakref.ref[Snapshot] | None = attrs.field(default=None, init=False)
    _priced: dict[tuple[str, tuple[str, ...]], Priced] = attrs.field(factory=dict, init=False)
    _confirmed: dict[str, set[str]] = attrs.field(factory=dict, init=False)  # by day

    def listed(self, model: str, snapshot: Snapshot) -> str:
        """A model that is listed; OTHER for one that is not, confirmed or not."""
        return model if model in self._list(snapshot) else OTHER

    def of(self, model: str, snapshot: Snapshot) -> str:
        """The line of a model, "" of a call without one."""
        known = not model or model in self._list(snapshot) or any(model in names for names in self._confirmed.values())
        return model if known else OTHER

    def sent_as(self, model: str, groups: Collection[str], snapshot: Snapshot) -> tuple[str, ...]:
        """All names that a model may be sent with by accounts of some groups, sorted."""
        self._list(snapshot)
        ways = self._sendings.get(model)
        if ways is None:
            return (model,)
        return tuple(sorted({sent for has, sent in ways if not set(has).isdisjoint(groups)})) or (model,)

    def priced(self, model: str, groups: tuple[str, ...], snapshot: Snapshot) -> Priced:
        """`sent_as`, each name with its price."""
        self._list(snapshot)
        found = self._priced.get((model, groups))
        if found is None:
            if len(self._priced) >= _MOST_PRICED:
                self._priced.clear()
            found = tuple((name, price_of(name, snapshot.prices)) for name in self.sent_as(model, groups, snapshot))
            self._priced[model, groups] = found
        return found

    def confirmed(self, model: str, snapshot: Snapshot, day: str) -> str:
        """The same, of a call for which an upstream reported usage, and which began on `day` (YYYY-MM-DD)."""
        if not model or model in self._list(snapshot):
            return model
        names = self._confirmed.get(day)
        if names is None:
            names = self._confirmed[day] = set()
            for old in sorted(self._confirmed)[:-_DAYS]:
                del self._confirmed[old]
        if model not in names and (len(names) >= MOST or len(model) > LONGEST or not model.isprintable()):
            return OTHER
        names.add(model)
        return model

    def _list(self, snapshot: Snapshot) -> frozenset[str]:
        if self._snapshot is None or self._snapshot() is not snapshot:
            self._listed, self._sendings = listed_models(snapshot), sendings(snapshot)
            self._snapshot = weakref.ref(snapshot)
            self._priced.clear()
        return self._listed
