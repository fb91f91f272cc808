"""Composition root: makes one of everything, once, and hands each part to those that need it.

Rule: the clock, the random generator and the environment are taken here and handed on; nobody else asks for them.
Everything comes through a constructor; nothing is patched in later. Nothing runs yet: run.py does that.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from relayd.core.alerts.limit_watch import LimitWatch
from relayd.core.live import Live
from relayd.core.quota.model_names import ModelNames
from relayd.daemon.access_log import AccessLog
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.admin.control_socket import ControlSocket
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.alerts.alerting import Alerting
from relayd.daemon.build_admin import make_admin_app, make_alerting, make_control_socket, make_sources
from relayd.daemon.build_base import lay_foundation
from relayd.daemon.build_calls import (
    make_app,
    make_call_metrics,
    make_crew,
    make_defects,
    make_health_checks,
    make_keeper,
    make_model_offers,
    make_note,
    make_recent_calls,
    make_service_watch,
    make_shared_traffic,
    make_state,
    make_traces,
    unpriced_teller,
)
from relayd.daemon.build_config import make_cluster, make_inspector, make_listeners, make_reloader, make_watcher
from relayd.daemon.capacity import ADMIN_CONNECTIONS, client_connections, descriptors
from relayd.daemon.events import Events
from relayd.daemon.hand_over import OldWorkers
from relayd.daemon.log_output import Output
from relayd.daemon.net.late import LateApplication
from relayd.daemon.net.server import HttpServer
from relayd.daemon.node import NodeSettings, OpenSockets
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.proxy.health_checks import HealthChecks
from relayd.daemon.proxy.model_offers import ModelOffers
from relayd.daemon.reload.boot import Start
from relayd.daemon.reload.candidate import Reader
from relayd.daemon.reload.history import History, HistoryKeeper
from relayd.daemon.reload.requests import RequestQueue
from relayd.daemon.reload.tasks import ReloadTasks
from relayd.daemon.store.recent_calls import RecentCalls
from relayd.daemon.store.shared_traffic import SharedTraffic
from relayd.daemon.store.state_client import StateClient
from relayd.daemon.systemd import ServiceManager
from relayd.daemon.workers.crew import Crew
from relayd.noun import noun

if TYPE_CHECKING:
    from relayd.daemon.source.keeper import SourceKeeper
    from relayd.daemon.telemetry.trace_queue import TraceQueue

log = logging.getLogger("relayd")

FEW_CONNECTIONS = 1000  # where descriptors or memory leave room for fewer, an operator should raise the limit


@noun(kw_only=True)
class Daemon:
    """Everything of one process that runs, or is asked from outside.

    Args:
        sockets: those that the two servers begin with.
        control: None where there is no control socket.
        traces: None where none are sent.
    """

    node: NodeSettings
    sockets: OpenSockets
    output: Output
    live: Live
    upstreams: Upstreams
    state: StateClient
    recent: RecentCalls
    traffic: SharedTraffic
    keeper: OAuthKeeper
    app: PublicApp
    server: HttpServer
    crew: Crew
    old_workers: OldWorkers
    admin_server: HttpServer
    health_checks: HealthChecks
    model_offers: ModelOffers
    alerting: Alerting
    queue: RequestQueue
    reload: ReloadTasks
    sources: StatusSources
    control: ControlSocket | None
    traces: TraceQueue | None
    manager: ServiceManager


def build(
    node: NodeSettings,
    start: Start,
    reader: Reader,
    sockets: OpenSockets,
    output: Output,
    access: AccessLog,
    source: SourceKeeper | None = None,
) -> Daemon:
    """Make one of everything. Raises: ValueError when an identity or password cannot be had; StoreMisfit."""
    events = source.events if source is not None else Events()
    base = lay_foundation(node, start.snapshot, reader, sockets, output, access, events)
    state = make_state(base)
    keeper = make_keeper(base, state)
    defects = make_defects(base, keeper, base.events)
    names = ModelNames()
    call_metrics = make_call_metrics(base, names)
    watch = make_service_watch(base, state)
    recent, traffic, limits = make_recent_calls(base, state), make_shared_traffic(base, state), LimitWatch()
    offers, traces = make_model_offers(base, keeper), make_traces(node.node)
    recorders = [call_metrics.record, recent.record, traffic.record, unpriced_teller(base.events)]
    recorders += [traces.record] if traces is not None else []
    note = make_note(recorders)
    app = make_app(base, state, keeper, note, watch, offers.book, names, limits, traced=traces is not None)
    room = client_connections(descriptors())
    wanted = start.snapshot.relay.server.max_connections
    if room < min(wanted, FEW_CONNECTIONS):
        log.warning("server.descriptors", extra={"max_connections": wanted, "room": room, "descriptors": descriptors()})
    if (fits := base.calls_together(start.snapshot.relay.server)) < min(wanted, FEW_CONNECTIONS):
        extra = {"max_connections": wanted, "room": fits, "memory": base.memory.least}
        log.warning("server.memory", extra=extra)
    server = HttpServer(
        app, base.server_settings, most=room, together=base.calls_together, held=bool(node.inherited.public)
    )
    crew = make_crew(base, server, state, note, app, limits, offers.book, traced=traces is not None)

    record = start.record(base.started)
    cluster = make_cluster(base, state, record, app)
    queue = RequestQueue(interval=node.pace.interval, stagger=cluster.stagger)
    inspector = make_inspector(base, start)
    watcher = make_watcher(base, queue, inspector) if node.watch and source is None else None

    alerting = make_alerting(base, state, keeper, watch, traffic, limits, cluster)
    sources = make_sources(
        base, record, watcher, server, cluster, watch, call_metrics, app, state, source, crew, traces, alerting
    )
    history = History(node.generations(base.state_url))
    admin_app = LateApplication(
        "relayd.daemon.admin.pages.build",
        partial(make_admin_app, base, sources, queue, history, recent, traffic, keeper, source),
    )
    admin_server = HttpServer(admin_app, base.server_settings, most=ADMIN_CONNECTIONS)
    listeners = make_listeners(base, crew, admin_server)
    reloader = make_reloader(base, record, queue, inspector, listeners, history, defects, source, crew.maker.orders)
    keep = HistoryKeeper(record=record, live=base.live, history=history, wall=time.time, proof=node.pace.proof)
    return Daemon(
        node=node,
        sockets=sockets,
        output=output,
        live=base.live,
        upstreams=base.upstreams,
        state=state,
        recent=recent,
        traffic=traffic,
        keeper=keeper,
        app=app,
        server=server,
        crew=crew,
        old_workers=OldWorkers(list(node.handed_over.workers), list(node.handed_over.leaving)),
        admin_server=admin_server,
        health_checks=make_health_checks(base, keeper),
        model_offers=offers,
        alerting=alerting,
        queue=queue,
        reload=ReloadTasks(
            reloader=reloader,
            record=record,
            keeper=keep,
            cluster=cluster,
            watcher=watcher,
            defects=defects,
            source=source,
            events=events,
        ),
        sources=sources,
        control=make_control_socket(base, queue, history, sources),
        traces=traces,
        manager=base.manager,
    )
