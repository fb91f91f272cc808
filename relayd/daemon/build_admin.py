"""What watches, steers and tells people, made from the foundation and what serves calls.

Rule: as in build.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from relayd.core.alerts.limit_watch import LimitWatch
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.admin.call_metrics import CallMetrics
from relayd.daemon.admin.control_socket import ControlSocket
from relayd.daemon.admin.loop_lag import LoopLag
from relayd.daemon.admin.service_watch import ServiceWatch
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.alerts.alerting import AlertFacts, Alerting
from relayd.daemon.alerts.delivery import Sender
from relayd.daemon.alerts.shared_book import SharedBook
from relayd.daemon.alerts.teller import Teller
from relayd.daemon.build_base import Foundation
from relayd.daemon.net.late import load
from relayd.daemon.net.listen import address_text, sockets_of
from relayd.daemon.net.server import HttpServer
from relayd.daemon.net.tls import shared_context
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.reload.candidate import Reader
from relayd.daemon.reload.cluster import Cluster
from relayd.daemon.reload.history import History
from relayd.daemon.reload.record import ReloadRecord
from relayd.daemon.reload.requests import RequestQueue
from relayd.daemon.reload.watch import Watcher
from relayd.daemon.store.recent_calls import RecentCalls
from relayd.daemon.store.shared_traffic import SharedTraffic
from relayd.daemon.store.state_client import StateClient
from relayd.daemon.workers.crew import Crew

if TYPE_CHECKING:
    from relayd.daemon.admin.app import AdminApp
    from relayd.daemon.admin.pages.edit_tree import EditedTree
    from relayd.daemon.source.keeper import SourceKeeper
    from relayd.daemon.telemetry.trace_queue import TraceQueue


def make_alerting(
    base: Foundation,
    state: StateClient,
    keeper: OAuthKeeper,
    watch: ServiceWatch,
    traffic: SharedTraffic,
    limits: LimitWatch,
    cluster: Cluster,
) -> Alerting:
    """Tells people what happens."""
    facts = AlertFacts(
        live=base.live,
        pool=base.pool,
        traffic=lambda: traffic.own,
        limits=limits,
        service=watch.facts,
        inventory=watch.inventory.of,
        token_ends=keeper.ends,
        rank=cluster.rank,
    )
    sender = Sender(credentials=base.credentials, tls=shared_context, wall=time.time)
    return Alerting(
        events=base.events,
        facts=facts,
        state=state.main,
        shared=SharedBook(state=state.main, life=base.life, wall=time.time),
        teller=Teller(sender=sender, wall=time.time, rng=base.rng),
        node=base.node.node,
        wall=time.time,
    )


def make_admin_app(
    base: Foundation,
    sources: StatusSources,
    queue: RequestQueue,
    history: History,
    recent: RecentCalls,
    traffic: SharedTraffic,
    keeper: OAuthKeeper,
    source: SourceKeeper | None,
) -> AdminApp:
    """Serves the admin listener; made when it is first asked."""
    from relayd.daemon.admin.app import AdminApp
    from relayd.daemon.admin.pages.build import build_site

    site = build_site(
        sources=sources,
        queue=queue,
        history=history,
        recent=recent,
        traffic=traffic,
        keeper=keeper,
        wall=time.time,
        rng=os.urandom,
        tree=make_edited_tree(base.reader, source),
        public=lambda: [address_text(sock) for sock in sockets_of(base.sockets.public)],
    )
    return AdminApp(queue=queue, sources=sources, site=site, wall=time.time, new_id=base.call_ids.new)


def make_edited_tree(reader: Reader, source: SourceKeeper | None) -> EditedTree:
    """What the pages edit."""
    from relayd.daemon.admin.pages.edit_tree import EditedTree

    if source is None:
        return EditedTree(reader=reader)
    folder = source.settings.at.folder
    return EditedTree(reader=reader, pulled=str(source.settings.at), folder=f"{folder}/" if folder else "")


def make_sources(
    base: Foundation,
    record: ReloadRecord,
    watcher: Watcher | None,
    server: HttpServer,
    cluster: Cluster,
    watch: ServiceWatch,
    call_metrics: CallMetrics,
    app: PublicApp,
    state: StateClient,
    source: SourceKeeper | None,
    crew: Crew,
    traces: TraceQueue | None,
    alerting: Alerting,
) -> StatusSources:
    """What status and metrics are made from."""
    return StatusSources(
        live=base.live,
        record=record,
        watcher=watcher,
        pool=base.pool,
        in_flight=base.in_flight,
        server=server,
        credentials=base.credentials,
        cluster=cluster,
        service=watch,
        call_metrics=call_metrics,
        lag=LoopLag(),
        reader=state.reader,
        output=base.output,
        node=base.node.node,
        tree=str(source.settings.at) if source is not None else str(base.node.tree.absolute()),
        started=base.started,
        draining=lambda: app.draining,
        streams=lambda: app.replies.streams,
        leases=state.leases.count,
        traces=traces,
        listen=tuple(address_text(sock) for sock in sockets_of(base.sockets.public)),
        source=source,
        crew=crew,
        alerting=alerting,
    )


def make_control_socket(
    base: Foundation, queue: RequestQueue, history: History, sources: StatusSources
) -> ControlSocket | None:
    """None where no socket could be had."""
    if base.sockets.control is None:
        return None
    sock, path = base.sockets.control

    async def answer(line: bytes, verbs: Collection[str]) -> dict[str, Any]:
        await load("relayd.daemon.admin.control_answers")
        from relayd.daemon.admin.control_answers import ControlAnswers

        return await ControlAnswers(queue=queue, history=history, sources=sources, wall=time.time).answer(line, verbs)

    return ControlSocket(sock=sock, path=path, answer=answer, group=base.node.control_group)
