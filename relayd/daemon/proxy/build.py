"""Composition of the proxy wing: one of everything that serves calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account
from relayd.core.access.body_budget import BodyBudget
from relayd.core.access.model_list import NOTHING_ASKED, Offers
from relayd.core.access.throttle import BadKeys
from relayd.core.alerts.limit_watch import LimitWatch
from relayd.core.balancing.pool import Pool
from relayd.core.in_flight import InFlight
from relayd.core.live import Live
from relayd.core.quota.learned import LearnedUsage
from relayd.core.quota.model_names import ModelNames
from relayd.core.receipt import Receipt
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.events import Events
from relayd.daemon.proxy.account_choice import AccountChoice
from relayd.daemon.proxy.account_requests import AccountRequests
from relayd.daemon.proxy.accounting import CallAccounting
from relayd.daemon.proxy.admission import Admission
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.proxy.attempts import Attempts
from relayd.daemon.proxy.batches_files import BatchesAndFiles
from relayd.daemon.proxy.call import CallServer
from relayd.daemon.proxy.kept_items import KeptItems
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.object_lists import ObjectLists
from relayd.daemon.proxy.ownership_index import OwnershipIndex
from relayd.daemon.proxy.reply import ReplyWriter
from relayd.daemon.proxy.signs_of_life import SignsOfLife
from relayd.daemon.store.state_client import StateClient


def build_proxy(
    *,
    live: Live,
    in_flight: InFlight,
    state: StateClient | None,
    pool: Pool,
    upstreams: Upstreams,
    credential: Callable[[Account], Secret | str],
    keeper: OAuthKeeper | None,
    record: Callable[[Receipt], None],
    known_models: Callable[[], Iterable[str]],
    offers: Callable[[], Offers] = lambda: NOTHING_ASKED,
    bodies: BodyBudget,
    wall: Callable[[], float],
    new_id: Callable[[], str],
    rng: random.Random,
    unready: Callable[[], tuple[str, ...]] = tuple,
    bad_keys: BadKeys | None = None,
    names: ModelNames | None = None,
    traced: bool = False,
    events: Events | None = None,
    limits: LimitWatch | None = None,
) -> PublicApp:
    """Make the application of the public listener.

    Args:
        state: where calls are counted and objects written down; None: nothing is limited, booked or kept.
        credential: an account's opened secret (empty where it needs none), or why it cannot be had.
        keeper: renews tokens that an upstream no longer takes; None: nobody does.
        record: takes every receipt; sync, must not raise.
        known_models: ids of models that exist (those with a price).
        offers: what the upstreams of accounts list.
        bodies: the memory that request bodies may take.
        wall: Unix time, s.
        new_id: a fresh call id.
        unready: what keeps calls from being served here, for /readyz.
        bad_keys: who has sent them lately; None: nobody yet.
        names: of models, where somebody else needs them too.
        traced: whether receipts are to say which trace a call is part of.
        events: where turns in the health of accounts are told.
        limits: told how the limits of keys stand.
    """
    events, limits = events or Events(), limits or LimitWatch()
    large = LargeBodies()
    replies = ReplyWriter(live=live, large=large, wall=wall)
    requests = AccountRequests(upstreams=upstreams, credential=credential, keeper=keeper, large=large, wall=wall)
    choice = AccountChoice(live=live, pool=pool, state=state, large=large, wall=wall, rng=rng)
    signs = SignsOfLife(replies=replies)
    attempts = Attempts(
        live=live,
        pool=pool,
        choice=choice,
        requests=requests,
        replies=replies,
        signs=signs,
        wall=wall,
        rng=rng,
        events=events,
    )
    ownership = OwnershipIndex(state=state, large=large)
    names, learned = names or ModelNames(), LearnedUsage()
    admission = None
    if state is not None:
        admission = Admission(store=state.failsafe, model_names=names, learned=learned, wall=wall, limits=limits)
    calls = CallServer(
        live=live,
        in_flight=in_flight,
        accounting=CallAccounting(
            live=live,
            in_flight=in_flight,
            attempts=attempts,
            admission=admission,
            model_names=names,
            learned=learned,
            wall=wall,
        ),
        ownership=ownership,
        items=KeptItems(state=state, large=large),
        replies=replies,
        record=record,
        bodies=bodies,
        large=large,
        wall=wall,
        new_id=new_id,
        bad_keys=bad_keys or BadKeys(),
        traced=traced,
    )
    lists = ObjectLists(requests=requests, ownership=ownership, replies=replies)
    objects = BatchesAndFiles(calls=calls, ownership=ownership, lists=lists)
    return PublicApp(
        calls=calls,
        objects=objects,
        replies=replies,
        signs=signs,
        state=state,
        known_models=known_models,
        offers=offers,
        unready=unready,
    )
