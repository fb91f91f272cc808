"""Service watch: the facts from which status, metrics and /readyz tell whether calls are served here.

Rule: sync, reads only, and cheap enough for a probe every second.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping

import attrs

from relayd.config.snapshot import Snapshot
from relayd.core.ailments import AccountFacts, ServiceFacts, StoreFacts, unready
from relayd.core.balancing.pool import Pool
from relayd.core.inventory import Inventory, take_inventory
from relayd.core.live import Live
from relayd.daemon.store.batcher import Batcher


@attrs.define(eq=False)
class InventoryCache:
    """The inventory of the running config, made once for each."""

    _of: weakref.ref[Snapshot] | None = None
    _taken: Inventory = attrs.field(factory=Inventory)

    def of(self, snapshot: Snapshot) -> Inventory:
        """What `take_inventory` says."""
        if self._of is None or self._of() is not snapshot:
            self._of, self._taken = weakref.ref(snapshot), take_inventory(snapshot)
        return self._taken


@attrs.frozen(kw_only=True)
class ServiceWatch:
    """Looks at what calls depend on.

    Args:
        state: the shared store.
        defects: accounts that this node cannot use, and why.
        wall: Unix time, s.
    """

    live: Live
    pool: Pool
    state: Batcher
    defects: Callable[[], Mapping[str, str]]
    wall: Callable[[], float]
    inventory: InventoryCache = attrs.field(factory=InventoryCache)

    def facts(self, now: float) -> ServiceFacts:
        """How everything stands. `now`: Unix time, s."""
        snapshot, defects = self.live.snapshot, self.defects()
        rests = self.pool.rests(snapshot, now)
        usable = [one for one in snapshot.accounts.values() if one.enabled and one.id not in snapshot.deny.accounts]
        return ServiceFacts(
            now=now,
            accounts=tuple(
                AccountFacts(id=one.id, groups=one.groups, defect=defects.get(one.id, ""), rest=rests.get(one.id))
                for one in usable
            ),
            configured=len(snapshot.accounts),
            used_groups=self.inventory.of(snapshot).used_groups(now),
            store=StoreFacts(
                up=self.state.up,
                reached=self.state.reached,
                reason=self.state.reason,
                refuses=snapshot.relay.state.on_outage == "deny",
            ),
        )

    def unready(self) -> tuple[str, ...]:
        """What /readyz says keeps calls from being served here, as `[policy].readyz` counts it; () for ready."""
        return unready(self.facts(self.wall()), self.live.snapshot.relay.policy.readyz)
