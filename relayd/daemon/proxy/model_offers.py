"""Model offers: what the upstream of each account lists, asked at the start and now and then.

Rule: off the way of every call. An account is asked by one request without a body, never two at once and never while it
rests; what fails is tried again later, teaches the pool nothing, and leaves what was known before. Simulators are not
asked: they take any model.

Theory: which models exist differs by account (access, betas, other people's gateways), and changes a few times a
month. Each node asks for itself, one of its processes for all; the answer is small, and a wrong or missing one costs a
menu an entry, no call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs
import trio

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, ApiKey, ObjectId, Snapshot
from relayd.core.access.model_list import Offers
from relayd.core.access.ownership import available
from relayd.core.access.permissions import Plan
from relayd.core.balancing.pool import Pool
from relayd.core.live import Live
from relayd.core.outbound import prepare
from relayd.daemon.accounts.upstreams import Inbound, Upstreams
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.streaming import gather
from relayd.noun import noun
from relayd.wire.anthropic import ModelEntry, read_models
from relayd.wire.call import Call

LOOK = 5.0  # s between looks at who is to be asked
AGAIN = 300.0  # s until an account that did not answer is asked again
PATIENCE = 30.0  # s for an answer
LONGEST = 1 << 20  # bytes of an answer; a page of a thousand models is some 400 KB

log = logging.getLogger("relayd")


@noun(kw_only=True)
class Offer:
    """What an account's upstream listed.

    Args:
        base_url: where it was asked; another one makes it void.
        asked: Unix time, s, of the last question.
        answered: whether that question had an answer.
        models: of the last answer; None before the first.
    """

    base_url: str
    asked: float
    answered: bool
    models: Mapping[str, ModelEntry] | None = None


def to_be_asked(snapshot: Snapshot, pool: Pool, offers: Mapping[str, Offer], now: float) -> list[Account]:
    """The accounts whose models are to be asked for now. `now`: Unix time, s."""
    every = snapshot.relay.upstream.models_every
    if not every:
        return []
    found = []
    for account in snapshot.accounts.values():
        if ACCOUNT_KINDS[account.kind].in_process or not available(account, snapshot):
            continue
        offer = offers.get(account.id)
        if offer is not None and offer.base_url == _base_url(account, snapshot):
            pause = every if offer.answered else min(AGAIN, every)
            if 0 <= now - offer.asked < pause:
                continue
        if pool.resting(account.id, now) is None:
            found.append(account)
    return found


@attrs.define(eq=False)
class OfferBook:
    """What this process knows of the upstreams' models.

    Args:
        offers: by account; another table whenever something is learnt.
    """

    live: Live
    offers: Mapping[str, Offer] = attrs.field(default=MappingProxyType({}), init=False)

    def learn(self, found: Mapping[str, Offer]) -> None:
        """Note what accounts have answered, to this process or to another; forget accounts that are gone. Sync."""
        accounts = self.live.snapshot.accounts
        self.offers = {name: offer for name, offer in {**self.offers, **found}.items() if name in accounts}

    def known(self) -> Offers:
        """The models of the accounts that have answered; of one that is asked no longer, or elsewhere, none."""
        snapshot = self.live.snapshot
        if not snapshot.relay.upstream.models_every:
            return MappingProxyType({})
        return {
            name: offer.models
            for name, offer in self.offers.items()
            if offer.models is not None
            and name in snapshot.accounts
            and offer.base_url == _base_url(snapshot.accounts[name], snapshot)
        }


@attrs.define(eq=False, kw_only=True)
class ModelOffers:
    """Asks, for this process and for those that it tells.

    Args:
        book: where it is written down.
        credential: an account's opened secret (empty where it needs none), or why it cannot be had.
        wall: Unix time, s.
    """

    live: Live
    pool: Pool
    upstreams: Upstreams
    book: OfferBook
    credential: Callable[[Account], Secret | str]
    large: LargeBodies
    wall: Callable[[], float]

    async def run(self) -> None:
        """Ask for ever, one account after the other."""
        while True:
            snapshot = self.live.snapshot
            self.pool.adopt_if_new(snapshot, self.wall())
            for account in to_be_asked(snapshot, self.pool, self.book.offers, self.wall()):
                await self.ask(account, snapshot)
            await trio.sleep(LOOK)

    async def ask(self, account: Account, snapshot: Snapshot) -> None:
        """Ask for an account's models and note what came of it."""
        base_url, now = _base_url(account, snapshot), self.wall()
        models: list[ModelEntry] | None = None
        with trio.move_on_after(PATIENCE):
            models = await self._listed(account, base_url, snapshot)
        before = self.book.offers.get(account.id)
        kept = before.models if before is not None and before.base_url == base_url else None
        found = kept if models is None else {entry.id: entry for entry in models}
        offer = Offer(base_url=base_url, asked=now, answered=models is not None, models=found)
        self.book.learn({account.id: offer})
        log.info("account.models", extra={"account": account.id, "models": -1 if models is None else len(models)})

    async def _listed(self, account: Account, base_url: str, snapshot: Snapshot) -> list[ModelEntry] | None:
        secret = self.credential(account)
        if isinstance(secret, str):
            return None
        call = Call(endpoint="models", method="GET", path="/v1/models", query="limit=1000")
        plan = Plan(call=call, key=_NOBODY, model="", groups=(), attempts=1)
        own = [(b"anthropic-version", b"2023-06-01"), (b"user-agent", b"relayd")]
        limits = snapshot.relay.upstream
        outbound = prepare(plan, account, base_url, secret, own)
        inbound = await self.upstreams.open(account, outbound, limits, first_byte=PATIENCE, repeatable=True)
        if not isinstance(inbound, Inbound):
            return None
        try:
            body = await gather(inbound.source, limits.idle_timeout, LONGEST)
        finally:
            inbound.source.close()
        if inbound.status != 200 or not body.ended:
            return None
        return await self.large.read(len(body.data), read_models, body.data)


def _base_url(account: Account, snapshot: Snapshot) -> str:
    return account.base_url or snapshot.relay.upstream.base_url


_NOBODY = ApiKey(id=ObjectId("models"), hashes=())  # an upstream is asked for no client
