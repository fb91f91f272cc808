"""Health checks: an idle account, or one that rests because its credential was refused, is tried now and then.

Rule: never two at once on an account, never more often than `[routing].probe`, never when that is 0. A probe counts
the tokens of one word, which costs nothing, and its outcome is judged by the same table as a call's.

Theory: a 401 takes an account out for half an hour, for most refused credentials stay refused; where an operator has
mended one at the provider's end, a probe notices within its interval. An account without calls is tried so that a dead
credential is known before it is needed. Other rests end by themselves, with a call on trial.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping

import attrs
import trio

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS, SESSION_KEY
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Snapshot
from relayd.core.access.ownership import available
from relayd.core.alerts.events import AccountRecovered
from relayd.core.balancing.failover import Deliver, judge
from relayd.core.balancing.outcomes import Answered, NodeDefect, Outcome, Unreachable
from relayd.core.balancing.pool import Pool
from relayd.core.balancing.suspects import Suspects
from relayd.core.live import Live
from relayd.daemon.accounts.account_test import AccountCheck, check_account
from relayd.daemon.events import Events
from relayd.daemon.proxy.attempts import tell
from relayd.wire.current_models import SMALL

LOOK = 5.0  # s between looks at what is due; short intervals are looked at more often

log = logging.getLogger("relayd")


def due(snapshot: Snapshot, pool: Pool, probed: Mapping[str, float], began: float, now: float) -> list[Account]:
    """The accounts to be probed now.

    Args:
        probed: when each was probed last, Unix time, s.
        began: when this process began; nobody is called idle for the time before.
    """
    every = snapshot.relay.routing.probe
    if not every:
        return []
    found = []
    for account in snapshot.accounts.values():
        rest = pool.resting(account.id, now)
        times = [probed.get(account.id, 0.0)]
        if rest is None:
            times += [pool.last_used(account.id), began]
        elif rest[0] != "auth":
            continue
        last = max((at for at in times if at <= now), default=0.0)  # a later one is a wrong clock's
        if available(account, snapshot) and now - last >= every:
            found.append(account)
    return found


@attrs.define(eq=False, kw_only=True)
class HealthChecks:
    """The probes of a process.

    Args:
        credential: an account's opened secret (empty where it needs none), or why it cannot be had.
        wall: Unix time, s.
    """

    live: Live
    pool: Pool
    credential: Callable[[Account], Secret | str]
    wall: Callable[[], float]
    rng: random.Random
    events: Events = attrs.field(factory=Events)
    _probed: dict[str, float] = attrs.field(factory=dict, init=False)
    _running: set[str] = attrs.field(factory=set, init=False)

    async def run(self) -> None:
        """Probe for ever."""
        began = self.wall()
        async with trio.open_nursery() as nursery:
            while True:
                snapshot, now = self.live.snapshot, self.wall()
                self.pool.adopt_if_new(snapshot, now)
                for account in due(snapshot, self.pool, self._probed, began, now):
                    if account.id not in self._running:
                        self._running.add(account.id)
                        self._probed[account.id] = now
                        nursery.start_soon(self._probe, account, snapshot)
                self._probed = {name: at for name, at in self._probed.items() if name in snapshot.accounts}
                await trio.sleep(min(LOOK, snapshot.relay.routing.probe or LOOK))

    async def _probe(self, account: Account, snapshot: Snapshot) -> None:
        lease = self.pool.begin(account.id, "", self.wall())
        try:
            secret = self.credential(account)
            outcome = await _outcome(account, secret, snapshot)
            now = self.wall()
            session_key = ACCOUNT_KINDS[account.kind] is SESSION_KEY
            verdict = judge(outcome, cooldown=snapshot.relay.routing.cooldown, now=now, session_key=session_key)
            rest = self.pool.resting(account.id, now)
            if isinstance(verdict, Deliver) and rest is not None and rest[0] == "auth":
                self.pool.restore(account.id, now)
                self.events.tell(AccountRecovered(account=account.id))
            else:
                tell(self.events, self.pool.observe(lease, verdict, None, now, self.rng), now)
                suspects = Suspects()  # no other account is asked: what is in doubt counts as it stands
                suspects.hear(lease, verdict)
                for _, alone in suspects.close():
                    tell(self.events, self.pool.accuse(lease, alone, now, self.rng), now)
            log.info("account.probed", extra={"account": account.id, "outcome": verdict.reason})
        finally:
            self.pool.end(lease, self.wall())
            self._running.discard(account.id)


async def _outcome(account: Account, secret: Secret | str, snapshot: Snapshot) -> Outcome:
    if isinstance(secret, str):
        return NodeDefect(reason=secret)
    return outcome_of(await check_account(account, secret, snapshot.relay, model_for(account)))


def outcome_of(check: AccountCheck) -> Outcome:
    """A check, as failover.py reads it."""
    if not check.status:
        return Unreachable(kind="connect", reason=check.detail or check.message)
    kind, _, message = check.detail.partition(": ")
    # 200 and not a Claude API's answer: somebody else stands at that address.
    status = 502 if check.status == 200 and not check.ok else check.status
    return Answered(status=status, error_type=kind, message=message)


def model_for(account: Account) -> str:
    """A model that the account says it serves by name, else the default."""
    return next((model for model in account.models if "*" not in model and "?" not in model), SMALL)
