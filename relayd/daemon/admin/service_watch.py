"""Service watch: the facts from which status, metrics and /readyz tell whether calls are served here.

Rule: sync, reads only, and cheap enough for a probe every second.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.core.ailments import AccountFacts, ServiceFacts, StoreFacts, unready
from relayd.core.balancing.pool import Pool
from relayd.core.inventory import Inventory, take_inventory
from relayd.core.live import Live, PerConfig
from relayd.daemon.store.batcher import Batcher
from relayd.noun import noun


@noun(kw_only=True)
class ServiceWatch:
    """Looks at what calls depend on.

    Args:
        state: the shared store.
        side: this host's own, which stands in for it.
        wall: Unix time, s.
    """

    live: Live
    pool: Pool
    state: Batcher
    side: Batcher
    wall: Callable[[], float]
    inventory: PerConfig[Inventory] = attrs.field(factory=lambda: PerConfig(take_inventory))

    def facts(self, now: float) -> ServiceFacts:
        """How everything stands. `now`: Unix time, s."""
        main, side = self.state.session, self.side.session
        snapshot, defects = self.live.snapshot, self.pool.defects()
        rests = self.pool.rests(snapshot, now)
        usable = [one for one in snapshot.accounts.values() if one.enabled and one.id not in snapshot.deny.accounts]
        return ServiceFacts(
            now=now,
            accounts=tuple(
                AccountFacts(
                    id=one.id,
                    groups=one.groups,
                    signs_in=ACCOUNT_KINDS[one.kind].refreshes,
                    defect=defects.get(one.id, ""),
                    rest=rests.get(one.id),
                )
                for one in usable
            ),
            configured=len(snapshot.accounts),
            used_groups=self.inventory.of(snapshot).used_groups(now),
            store=StoreFacts(
                up=main.up,
                reached=main.reached,
                reason=main.reason,
                side="" if side.up else side.reason,
                refuses=snapshot.relay.state.on_outage == "deny",
                damaged=main.damaged,
            ),
        )

    def unready(self) -> tuple[str, ...]:
        """What /readyz says keeps calls from being served here, as `[policy].readyz` counts it; () for ready."""
        return unready(self.facts(self.wall()), self.live.snapshot.relay.policy.readyz)
