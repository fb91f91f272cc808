"""What serves calls, counts them and tells of them, made from the foundation.

Rule: as in build.py.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs

from relayd.core.access.body_budget import BodyBudget
from relayd.core.access.throttle import BadKeys
from relayd.core.alerts.events import AccountRecovered, PriceUnknown
from relayd.core.alerts.limit_watch import LimitWatch
from relayd.core.quota.model_names import ModelNames
from relayd.core.quota.prices import served_model, shipped
from relayd.core.quota.reservation import account_slots
from relayd.core.receipt import Receipt
from relayd.daemon.accounts.node_defects import NodeDefects, find_defects
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.admin.call_metrics import CallMetrics
from relayd.daemon.admin.service_watch import ServiceWatch
from relayd.daemon.build_base import Foundation, read_identities
from relayd.daemon.events import Events
from relayd.daemon.hand_over import HandedOver
from relayd.daemon.inherited import Inherited
from relayd.daemon.net.server import HttpServer
from relayd.daemon.net.tls import shared_context
from relayd.daemon.paths import state_login
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.proxy.build import build_proxy
from relayd.daemon.proxy.health_checks import HealthChecks
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.model_offers import ModelOffers, OfferBook
from relayd.daemon.store.recent_calls import RecentCalls
from relayd.daemon.store.shared_traffic import SharedTraffic
from relayd.daemon.store.state_client import StateClient
from relayd.daemon.store.state_setup import open_state
from relayd.daemon.telemetry.settings import TelemetryError, trace_settings
from relayd.daemon.workers.crew import Crew
from relayd.daemon.workers.hearing import Hearing
from relayd.daemon.workers.making import WorkerMaker
from relayd.daemon.workers.orders import ConfigOrders
from relayd.daemon.workers.pace import Restarts, Silence
from relayd.daemon.workers.roster import Roster, WorkerStart
from relayd.daemon.workers.shared_sockets import SharedSockets

if TYPE_CHECKING:
    from relayd.daemon.telemetry.trace_queue import TraceQueue

log = logging.getLogger("relayd")

UNPRICED = 100  # models without a price that are told of, in the life of a process


def make_state(base: Foundation) -> StateClient:
    """Where calls are counted, and nodes tell each other what they know."""
    live, relay = base.live, base.live.snapshot.relay
    url, password = state_login(base.node.state_url, relay.state, os.environ)
    return open_state(
        url=url,
        password=password,
        realm=relay.realm,
        base=base.node.tree,
        own=base.node.own,
        policy=lambda: live.snapshot.relay.state.on_outage,
        in_flight=base.in_flight,
        pool=base.pool,
        wall=time.time,
        steady=time.monotonic,
        life=base.life,
        ceilings=lambda: tuple(account_slots(live.snapshot.accounts.values())),
        lease=relay.state.lease,
        events=base.events,
        beside=base.beside,
    )


def make_keeper(base: Foundation, state: StateClient, *, follows: bool = False) -> OAuthKeeper:
    """Keeps tokens fresh; an account whose tokens were renewed may serve at once. `follows`: as OAuthKeeper has it."""
    live, pool = base.live, base.pool

    def renewed(account: str) -> None:
        if account in live.snapshot.accounts:
            if pool.ailing(account, time.time()):
                base.events.tell(AccountRecovered(account=account))
            pool.restore(account, time.time())

    return OAuthKeeper(
        credentials=base.credentials,
        snapshot=lambda: live.snapshot,
        ask=state.main.ask,
        node=f"{base.node.node}-{os.urandom(4).hex()}",
        wall=time.time,
        rng=base.rng,
        tls=shared_context,
        renewed=renewed,
        follows=follows,
        events=base.events,
    )


def make_defects(base: Foundation, keeper: OAuthKeeper, events: Events) -> NodeDefects:
    """What this node cannot use, known before the first call comes. `events`: where it is told."""
    defects = NodeDefects(
        live=base.live,
        pool=base.pool,
        credentials=base.credentials,
        credential=keeper.of,
        identities=partial(read_identities, base.node, base.live.snapshot.relay.realm),
        wall=time.time,
        events=events,
    )
    defects.tell(find_defects(base.credentials, base.live.snapshot))
    return defects


def make_service_watch(base: Foundation, state: StateClient) -> ServiceWatch:
    """Whether calls are served here, for status, metrics and /readyz."""
    return ServiceWatch(live=base.live, pool=base.pool, state=state.main, side=state.side, wall=time.time)


def make_model_offers(base: Foundation, keeper: OAuthKeeper) -> ModelOffers:
    """Asks accounts which models they have."""
    return ModelOffers(
        live=base.live,
        pool=base.pool,
        upstreams=base.upstreams,
        book=OfferBook(base.live),
        credential=keeper.of,
        large=LargeBodies(),
        wall=time.time,
    )


def make_health_checks(base: Foundation, keeper: OAuthKeeper) -> HealthChecks:
    """Tries accounts that rest or are idle."""
    return HealthChecks(
        live=base.live, pool=base.pool, credential=keeper.of, wall=time.time, rng=base.rng, events=base.events
    )


def make_app(
    base: Foundation,
    state: StateClient,
    keeper: OAuthKeeper,
    note: Callable[[Receipt], None],
    watch: ServiceWatch,
    offers: OfferBook,
    names: ModelNames,
    limits: LimitWatch,
    *,
    traced: bool,
) -> PublicApp:
    """Serves calls in this process."""

    def record(receipt: Receipt) -> None:
        base.access.record(receipt)
        note(receipt)

    bodies = BodyBudget(base.memory_room)
    return make_proxy(base, state, keeper, record, watch, offers, names, limits, bodies, BadKeys(), traced=traced)


def make_proxy(
    base: Foundation,
    state: StateClient,
    keeper: OAuthKeeper,
    record: Callable[[Receipt], None],
    watch: ServiceWatch,
    offers: OfferBook,
    names: ModelNames,
    limits: LimitWatch,
    bodies: BodyBudget,
    bad_keys: BadKeys,
    *,
    traced: bool,
) -> PublicApp:
    """Serves calls, and gives the receipt of each to `record`."""
    return build_proxy(
        live=base.live,
        in_flight=base.in_flight,
        state=state,
        pool=base.pool,
        upstreams=base.upstreams,
        credential=keeper.of,
        keeper=keeper,
        record=record,
        known_models=shipped,
        offers=offers.known,
        bodies=bodies,
        wall=time.time,
        new_id=base.call_ids.new,
        rng=base.rng,
        unready=watch.unready,
        names=names,
        traced=traced,
        events=base.events,
        limits=limits,
        bad_keys=bad_keys,
    )


def make_crew(
    base: Foundation,
    server: HttpServer,
    state: StateClient,
    note: Callable[[Receipt], None],
    app: PublicApp,
    limits: LimitWatch,
    offers: OfferBook,
    *,
    traced: bool,
) -> Crew:
    """The workers, where there are to be any."""
    told = attrs.evolve(base.node, inherited=Inherited(), handed_over=HandedOver())  # which they get from the crew
    roster, restarts = Roster(), Restarts()
    sockets = SharedSockets(server, roster)
    hearing = Hearing(
        roster=roster,
        restarts=restarts,
        record=note,
        events=base.events,
        bad_keys=app.calls.bad_keys,
        limits=limits,
        pool=base.pool,
        bury=state.bury_life,
        patience=lambda: base.server_settings().drain_timeout,
        wall=time.time,
    )
    maker = WorkerMaker(
        orders=ConfigOrders(roster, base.live.snapshot),
        sockets=sockets,
        hearing=hearing,
        restarts=restarts,
        start_of=lambda row: WorkerStart(node=told, held=bool(base.node.inherited.public), row=row, traced=traced),
        wall=time.time,
    )
    return Crew(
        live=base.live,
        roster=roster,
        sockets=sockets,
        hearing=hearing,
        maker=maker,
        restarts=restarts,
        offers=lambda: offers.offers,
        silence=Silence(base.node.pace.silence),
        asked=base.wanted_workers,
    )


def make_note(recorders: Sequence[Callable[[Receipt], None]]) -> Callable[[Receipt], None]:
    """Takes the receipt of each call of this node, whichever process has served it: for metrics, pages and traces."""

    def note(receipt: Receipt) -> None:
        for take in recorders:
            take(receipt)

    return note


def make_recent_calls(base: Foundation, state: StateClient) -> RecentCalls:
    """The last calls of all nodes, for the pages."""
    live = base.live
    return RecentCalls(
        beside=base.beside,
        state=state.main,
        reader=state.reader,
        most=lambda: live.snapshot.relay.admin.calls,
        line_of=base.access.line_of,
    )


def make_shared_traffic(base: Foundation, state: StateClient) -> SharedTraffic:
    """What all nodes have seen of calls, for the pages."""
    return SharedTraffic(live=base.live, state=state.main, reader=state.reader, node=base.node.node, wall=time.time)


def make_call_metrics(base: Foundation, names: ModelNames) -> CallMetrics:
    """What calls add up to; models under the names that the running config or a price gives them."""

    def model_of(receipt: Receipt) -> str:
        snapshot, sent = base.live.snapshot, receipt.sent_model or receipt.model
        return names.listed(served_model(sent, receipt.usage.model, snapshot.prices), snapshot)

    return CallMetrics(model_of)


def unpriced_teller(events: Events) -> Callable[[Receipt], None]:
    """A recorder that tells each model without a price, once."""
    told: set[str] = set()

    def record(receipt: Receipt) -> None:
        model = receipt.sent_model or receipt.model
        if receipt.unpriced and model not in told and len(told) < UNPRICED:
            told.add(model)
            events.tell(PriceUnknown(model=model, account=receipt.account))

    return record


def make_traces(node: str) -> TraceQueue | None:
    """Where traces of calls go; None where none are wanted. What cannot be had is logged: calls matter more."""
    try:
        settings = trace_settings(os.environ)
        if settings is None:
            return None
        from relayd.daemon.telemetry.spans import OtlpSender
        from relayd.daemon.telemetry.trace_queue import TraceQueue

        sender = OtlpSender(settings, node, breathe=partial(time.sleep, 0))
        return TraceQueue(settings=settings, send=sender.send, give_up=sender.give_up)
    except ImportError as error:
        hint = "install relayd[otel], or unset OTEL_EXPORTER_OTLP_ENDPOINT"
        log.warning("telemetry.missing", extra={"reason": str(error), "hint": hint})
    except (TelemetryError, ValueError) as error:
        log.warning("telemetry.off", extra={"reason": str(error)})
    return None
