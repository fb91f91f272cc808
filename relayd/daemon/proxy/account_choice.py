"""Account choice: which account a call's next attempt goes to, waited for where it is held for a moment only.

Rule: the pool chooses; here its choice is waited for, leased, and remembered for the conversation. A call gets no
further attempt with what was taken from its key meanwhile.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import attrs
import trio

from relayd.config.snapshot import Account, Snapshot
from relayd.core.access.auth import authenticate
from relayd.core.access.clients import permit
from relayd.core.access.permissions import Plan, resolve
from relayd.core.balancing.affinity import Pins
from relayd.core.balancing.explain import Block, unavailable
from relayd.core.balancing.pool import Pool, Unavailable, refusal_of
from relayd.core.live import Live
from relayd.core.quota.limits import Slots
from relayd.core.quota.reservation import account_terms
from relayd.daemon.proxy.context import CallContext
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.store.state_client import StateClient
from relayd.wire.refusal import Refusal

# A call waits this long, s, for an account that a rate limit holds: less than what a client would sleep after a 429.
SHORT_WAIT = 2.0
_LOOK = 0.25  # s; nobody knows when one of the calls that fill an account ends
_SPREAD = 0.05  # s; waiters for one account do not wake at one instant


@attrs.define(eq=False, kw_only=True)
class AccountChoice:
    """Finds accounts for calls.

    Args:
        state: leases attempts, and remembers conversations; None: each process is alone.
        wall: Unix time, s.
    """

    live: Live
    pool: Pool
    state: StateClient | None
    large: LargeBodies
    wall: Callable[[], float]
    rng: random.Random
    pins: Pins = attrs.field(factory=Pins)

    async def find_home(self, context: CallContext) -> None:
        """Where the call's conversation is. The store is asked only about one that this process does not know."""
        keep = self.live.snapshot.relay.routing.affinity
        context.home = self.pins.look(context.affinity, self.wall(), keep)
        if context.home is None and self.state is not None:
            context.home = await self.state.remembered(context.affinity, keep)

    async def find(self, context: CallContext, snapshot: Snapshot) -> Account:
        """The account of the next attempt; `give_back` when it is over. Raises: Refusal."""
        if context.tried:
            context.plan = await self._plan_anew(context, snapshot)
        patience = trio.current_time() + SHORT_WAIT
        while True:
            found = self._choose(context, snapshot)
            if not isinstance(found, Unavailable):
                account = snapshot.accounts.get(found)
                if account is None:  # the only one that could serve has left the config a moment ago
                    raise Refusal(status=404, message=f"account {found} is no longer configured", should_retry=False)
                if await self._lease(context, account):
                    context.tried.append(found)
                    return account
            else:
                now = self.wall()
                if found.kind != "rate" or found.until - now > patience - trio.current_time():
                    raise refusal_of(found, now=now)
                await trio.sleep(min(max(0.0, found.until - now), _LOOK) + self.rng.random() * _SPREAD)
            snapshot = self.live.snapshot
            context.plan = await self._plan_anew(context, snapshot)

    def give_back(self, context: CallContext) -> None:
        """The attempt is over. Sync."""
        if self.state is not None:
            self.state.leases.give_back(context.holder)

    def another_is_free(self, context: CallContext) -> bool:
        """Whether a further attempt has anywhere to go; else the last answer is what the client should see."""
        return not context.only and not isinstance(self._choose(context, self.live.snapshot), Unavailable)

    def remember(self, context: CallContext, account: str, now: float) -> None:
        """An account has answered a call, and has its conversation in its cache now. Sync."""
        keep = self.live.snapshot.relay.routing.affinity
        if self.pins.pin(context.affinity, account, now, keep) and self.state is not None:
            self.state.remember(context.affinity, account, keep)

    async def _lease(self, context: CallContext, account: Account) -> bool:
        """Whether all processes together leave room for this attempt. Raises: Refusal 503."""
        if context.only or self.state is None:
            return True
        ceilings = account_terms(account, self.state.failsafe.lease_ms)
        if context.counting:
            ceilings = tuple(term for term in ceilings if not isinstance(term, Slots))
        if not ceilings:
            return True
        context.holder = f"{context.draft.call_id}.{len(context.tried)}"
        return await self.state.leases.take(context.holder, account.id, ceilings)

    def _choose(self, context: CallContext, snapshot: Snapshot) -> str | Unavailable:
        """The one account that can serve, or the pool's choice."""
        if context.only:
            self.pool.adopt_if_new(snapshot, self.wall())
            return context.only
        picked = self.pool.pick(
            snapshot,
            context.plan.groups,
            context.plan.model,
            now=self.wall(),
            rng=self.rng,
            affinity=context.home,
            excluded=[*context.tried, *context.barred],
            counting=context.counting,
        )
        if not isinstance(picked, Unavailable):
            return picked.account
        return _with_barred(picked, context.barred) if context.barred else picked

    async def _plan_anew(self, context: CallContext, snapshot: Snapshot) -> Plan:
        """What the newest config lets the call have. Raises: Refusal."""
        headers = context.exchange.head.headers
        key = authenticate(headers, snapshot, context.draft.peer, self.wall())
        permit(headers, key, snapshot.relay.clients)
        call = context.plan.call
        return await self.large.read(len(call.body), resolve, call, key, snapshot)


def _with_barred(found: Unavailable, barred: Mapping[str, str]) -> Unavailable:
    """What keeps the accounts from a call, where some are kept from it by what the pool does not know."""
    blocks = [
        Block(block.account, "never", math.inf, barred[block.account]) if block.account in barred else block
        for block in found.blocks
    ]
    return unavailable(blocks, found.model)
