"""Composition root: makes one of everything, once, and hands each part to those that need it.

Rule: the clock, the random generator and the environment are taken here and handed on; nobody else asks for them.
Everything comes through a constructor; nothing is patched in later. Nothing runs yet: run.py does that.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs

from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.secret_files import SecretFiles, secret_files
from relayd.config.snapshot import Server, Snapshot
from relayd.core.access.body_budget import BodyBudget
from relayd.core.balancing.pool import Pool
from relayd.core.in_flight import InFlight
from relayd.core.live import Live
from relayd.core.quota.prices import shipped
from relayd.core.quota.reservation import account_slots
from relayd.core.receipt import Receipt
from relayd.core.traffic import Traffic
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.accounts.node_defects import NodeDefects, find_defects
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.accounts.old_keys import with_old_keys
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.admin.app import AdminApp
from relayd.daemon.admin.call_metrics import CallMetrics
from relayd.daemon.admin.control_socket import ControlSocket
from relayd.daemon.admin.pages.build import build_site
from relayd.daemon.admin.pages.edit_tree import EditedTree
from relayd.daemon.admin.service_watch import ServiceWatch
from relayd.daemon.admin.status import StatusSources
from relayd.daemon.capacity import ADMIN_CONNECTIONS, client_connections, descriptors, memory
from relayd.daemon.log import AccessLog
from relayd.daemon.log_output import Output
from relayd.daemon.net.listen import address_text, sockets_of
from relayd.daemon.net.server import HttpServer
from relayd.daemon.net.tls import shared_context
from relayd.daemon.node import NodeSettings, OpenSockets, admin_addresses, public_addresses
from relayd.daemon.paths import state_login
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.proxy.build import build_proxy
from relayd.daemon.proxy.health_checks import HealthChecks
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.model_offers import ModelOffers
from relayd.daemon.reload.adoption import Adoption
from relayd.daemon.reload.boot import Start
from relayd.daemon.reload.candidate import Inspector, Reader, TreeReader
from relayd.daemon.reload.cluster import Cluster
from relayd.daemon.reload.history import History, HistoryKeeper
from relayd.daemon.reload.prepare import Listener, Preparation
from relayd.daemon.reload.record import ReloadRecord
from relayd.daemon.reload.reloader import Reloader
from relayd.daemon.reload.requests import RequestQueue
from relayd.daemon.reload.tasks import ReloadTasks
from relayd.daemon.reload.watch import Watcher, inotify
from relayd.daemon.source.build import build_source
from relayd.daemon.source.keeper import SourceKeeper
from relayd.daemon.store.lives import owner_of
from relayd.daemon.store.recent_calls import RecentCalls
from relayd.daemon.store.state_client import StateClient, open_state
from relayd.daemon.systemd import ReloadNotices, notify

if TYPE_CHECKING:
    from pathlib import Path

    from relayd.config.secrets.seal import Identity

log = logging.getLogger("relayd")

FEW_CONNECTIONS = 1000  # where descriptors leave room for fewer, an operator should raise the limit


@attrs.frozen(kw_only=True)
class Daemon:
    """Everything of one process that runs, or is asked from outside.

    Args:
        sockets: those that the two servers begin with.
        control: None where there is no control socket.
    """

    node: NodeSettings
    sockets: OpenSockets
    output: Output
    live: Live
    upstreams: Upstreams
    state: StateClient
    recent: RecentCalls
    keeper: OAuthKeeper
    app: PublicApp
    server: HttpServer
    admin_server: HttpServer
    health_checks: HealthChecks
    model_offers: ModelOffers
    queue: RequestQueue
    reload: ReloadTasks
    sources: StatusSources
    control: ControlSocket | None


@attrs.frozen(kw_only=True)
class Foundation:
    """What the other parts are built on. It holds no config, so that the first one is freed when it is replaced.

    Args:
        state_url: this node's own, or the tree's.
        life: names this process: 32 random bits.
        started: Unix time, s.
    """

    node: NodeSettings
    reader: Reader
    sockets: OpenSockets
    output: Output
    access: AccessLog
    live: Live
    in_flight: InFlight
    pool: Pool
    upstreams: Upstreams
    credentials: Credentials
    state_url: str
    rng: random.Random
    life: str
    started: float

    def new_id(self) -> str:
        """A call id, in the form that the API's own request ids have: whose it is, and 64 random bits."""
        return owner_of(self.life) + os.urandom(8).hex()

    def server_settings(self) -> Server:
        """[server] as it is now."""
        return self.live.snapshot.relay.server


def tree_reader(node: NodeSettings) -> TreeReader:
    """Reads the node's tree, for the start and for reloads."""
    return TreeReader(tree=node.tree, wall=time.time, patience=node.pace.patience, quiet=node.pace.quiet)


def make_source(node: NodeSettings) -> tuple[SourceKeeper | None, Reader]:
    """Who pulls the node's tree, None where it lies in a directory, and who reads it. Raises: OSError, ValueError."""
    if node.source is None:
        return None, tree_reader(node)
    rng = random.Random(secrets.randbits(64))
    return build_source(node.source, os.environ, node.tree, time.time, rng)


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
    base = lay_foundation(node, start.snapshot, reader, sockets, output, access)
    state = make_state(base)
    keeper = make_keeper(base, state)
    defects = make_defects(base, keeper)
    call_metrics = CallMetrics()
    watch = make_service_watch(base, state)
    recent, traffic = make_recent_calls(base, state), Traffic()
    offers = make_model_offers(base, keeper)
    app = make_app(base, state, keeper, call_metrics, recent, traffic, watch, offers)
    room = client_connections(descriptors())
    wanted = start.snapshot.relay.server.max_connections
    if room < min(wanted, FEW_CONNECTIONS):
        log.warning("server.descriptors", extra={"max_connections": wanted, "room": room, "descriptors": descriptors()})
    server = HttpServer(app, base.server_settings, most=room)

    record = start.record(base.started)
    cluster = make_cluster(base, state, record, app)
    queue = RequestQueue(interval=node.pace.interval, stagger=cluster.stagger)
    inspector = make_inspector(base, start)
    watcher = make_watcher(base, queue, inspector) if node.watch and source is None else None

    sources = make_sources(base, record, watcher, server, cluster, watch, call_metrics, app, source)
    history = History(node.generations(base.state_url))
    site = build_site(
        sources=sources,
        queue=queue,
        history=history,
        recent=recent,
        traffic=traffic,
        wall=time.time,
        rng=os.urandom,
        tree=make_edited_tree(reader, source),
        public=lambda: [address_text(sock) for sock in sockets_of(sockets.public)],
    )
    admin_app = AdminApp(queue=queue, sources=sources, site=site, wall=time.time, new_id=base.new_id)
    admin_server = HttpServer(admin_app, base.server_settings, most=ADMIN_CONNECTIONS)
    listeners = make_listeners(base, server, admin_server)
    reloader = make_reloader(base, record, queue, inspector, listeners, history, defects, source)
    keep = HistoryKeeper(record=record, live=base.live, history=history, wall=time.time, proof=node.pace.proof)
    return Daemon(
        node=node,
        sockets=sockets,
        output=output,
        live=base.live,
        upstreams=base.upstreams,
        state=state,
        recent=recent,
        keeper=keeper,
        app=app,
        server=server,
        admin_server=admin_server,
        health_checks=make_health_checks(base, keeper),
        model_offers=offers,
        queue=queue,
        reload=ReloadTasks(
            reloader=reloader,
            record=record,
            keeper=keep,
            cluster=cluster,
            watcher=watcher,
            defects=defects,
            source=source,
        ),
        sources=sources,
        control=make_control_socket(base, queue, history, sources),
    )


def lay_foundation(
    node: NodeSettings, snapshot: Snapshot, reader: Reader, sockets: OpenSockets, output: Output, access: AccessLog
) -> Foundation:
    """The running config, who we are upstream, and whose health is known."""
    from relayd.config.environment import mounts_of

    for problem in mounts_of(node.tree):
        log.warning("tree.frozen", extra={"reason": problem.message, "hint": problem.hint})
    started = time.time()
    credentials = Credentials(load_identities(node, snapshot.relay.realm), permitted_files(node, snapshot.relay.realm))
    pool = Pool()
    pool.adopt(snapshot, started)
    try:
        snapshot = with_old_keys(snapshot, credentials.identities)
    except SealError as error:
        log.warning("old_keys.closed", extra={"reason": str(error), "hint": "keys of scheme crs-sha256 are refused"})
    live = Live(snapshot)
    return Foundation(
        node=node,
        reader=reader,
        sockets=sockets,
        output=output,
        access=access,
        live=live,
        in_flight=InFlight(),
        pool=pool,
        upstreams=Upstreams(shared_context, time.time),
        credentials=credentials,
        state_url=node.state_url or snapshot.relay.state.url,
        rng=random.Random(secrets.randbits(64)),
        life=os.urandom(4).hex(),
        started=started,
    )


def load_identities(node: NodeSettings, realm: str) -> Sequence[Identity]:
    """This node's identities, read anew, and logged. Raises: SealError."""
    paths, found = read_identities(node, realm)
    if found:
        kids = [one.public.kid for one in found]
        log.info("identity.loaded", extra={"files": [str(path) for path in paths], "kids": kids})
    return found


def read_identities(node: NodeSettings, realm: str) -> tuple[Sequence[Path], Sequence[Identity]]:
    """This node's identities, read anew, and their files. Raises: SealError."""
    from relayd.config.secrets import identity  # it brings cryptography, which a tree without sealed values can spare

    paths = identity.identity_paths(node.identity, os.environ, realm)
    return paths, identity.load_identities(paths, node.tree, os.environ)


def permitted_files(node: NodeSettings, realm: str) -> SecretFiles:
    """Which files with secrets the tree may name on this node. Raises: SealError."""
    from relayd.config.secrets.identity import identity_paths

    return secret_files(os.environ, kept=identity_paths(node.identity, os.environ, realm))


# --- calls


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
        life=base.life,
        ceilings=lambda: tuple(account_slots(live.snapshot.accounts.values())),
        lease=relay.state.lease,
    )


def make_keeper(base: Foundation, state: StateClient) -> OAuthKeeper:
    """Keeps tokens fresh; an account whose tokens were renewed may serve at once."""
    live, pool = base.live, base.pool
    return OAuthKeeper(
        credentials=base.credentials,
        snapshot=lambda: live.snapshot,
        ask=state.main.ask,
        node=f"{base.node.node}-{os.urandom(4).hex()}",
        wall=time.time,
        rng=base.rng,
        tls=shared_context,
        renewed=lambda account: pool.restore(account, time.time()) if account in live.snapshot.accounts else None,
    )


def make_defects(base: Foundation, keeper: OAuthKeeper) -> NodeDefects:
    """What this node cannot use, known before the first call comes."""
    defects = NodeDefects(
        live=base.live,
        pool=base.pool,
        credentials=base.credentials,
        credential=keeper.of,
        identities=partial(read_identities, base.node, base.live.snapshot.relay.realm),
        wall=time.time,
    )
    defects.tell(find_defects(base.credentials, base.live.snapshot))
    return defects


def make_recent_calls(base: Foundation, state: StateClient) -> RecentCalls:
    """The last calls of all nodes, for the pages."""
    live = base.live
    return RecentCalls(state=state.main, most=lambda: live.snapshot.relay.admin.calls)


def make_service_watch(base: Foundation, state: StateClient) -> ServiceWatch:
    """Whether calls are served here, for status, metrics and /readyz."""
    return ServiceWatch(live=base.live, pool=base.pool, state=state.main, wall=time.time)


def make_app(
    base: Foundation,
    state: StateClient,
    keeper: OAuthKeeper,
    call_metrics: CallMetrics,
    recent: RecentCalls,
    traffic: Traffic,
    watch: ServiceWatch,
    offers: ModelOffers,
) -> PublicApp:
    """Serves calls; the receipt of each goes to the metrics, to the access log and to the pages."""

    def record(receipt: Receipt) -> None:
        call_metrics.record(receipt)
        base.access.record(receipt)
        recent.record(receipt)
        traffic.record(receipt)

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
        bodies=BodyBudget(memory()),
        wall=time.time,
        new_id=base.new_id,
        rng=base.rng,
        unready=watch.unready,
    )


def make_health_checks(base: Foundation, keeper: OAuthKeeper) -> HealthChecks:
    """Tries accounts that rest or are idle."""
    return HealthChecks(live=base.live, pool=base.pool, credential=keeper.of, wall=time.time, rng=base.rng)


def make_model_offers(base: Foundation, keeper: OAuthKeeper) -> ModelOffers:
    """Asks accounts which models they have."""
    return ModelOffers(
        live=base.live,
        pool=base.pool,
        upstreams=base.upstreams,
        credential=keeper.of,
        large=LargeBodies(),
        wall=time.time,
    )


# --- reloads


def make_cluster(base: Foundation, state: StateClient, record: ReloadRecord, app: PublicApp) -> Cluster:
    """This node among the others."""
    return Cluster(
        state=state.main,
        record=record,
        name=base.node.node,
        life=base.life,
        started=base.started,
        draining=lambda: app.draining,
        wall=time.time,
        rng=base.rng,
        every=base.node.pace.heartbeat,
    )


def make_inspector(base: Foundation, start: Start) -> Inspector:
    """Reads and compiles the tree; what the start knows of it is not found out again."""
    from relayd.config.environment import place_problems

    return Inspector(
        reader=base.reader,
        clock=time.monotonic,
        credentials=base.credentials,
        places=lambda files, snapshot: place_problems(files, snapshot, os.environ),
        memo=start.memo,
        examined=start.examined,
        denied=start.denied,
    )


def make_watcher(base: Foundation, queue: RequestQueue, inspector: Inspector) -> Watcher:
    """Notices changes of the tree."""
    pace = base.node.pace
    return Watcher(
        queue=queue,
        inspector=inspector,
        tree=base.node.tree,
        listen=inotify(),
        poll=pace.poll,
        hash_every=pace.hash_every,
    )


def make_listeners(base: Foundation, server: HttpServer, admin_server: HttpServer) -> tuple[Listener, Listener]:
    """The public and the admin listener, with the sockets that are open."""
    public = Listener(
        setting="server.listen",
        server=server,
        wanted=public_addresses,
        pinned=bool(base.node.listen),
        listening=base.sockets.public,
    )
    admin = Listener(
        setting="admin.listen",
        server=admin_server,
        wanted=admin_addresses,
        pinned=base.node.admin_listen is not None,
        listening=base.sockets.admin,
        given_up=base.sockets.given_up,
    )
    return public, admin


def make_reloader(
    base: Foundation,
    record: ReloadRecord,
    queue: RequestQueue,
    inspector: Inspector,
    listeners: Sequence[Listener],
    history: History,
    defects: NodeDefects,
    source: SourceKeeper | None,
) -> Reloader:
    """Changes the running config, and tells every part that keeps something of it."""
    preparation = Preparation(
        listeners=listeners,
        credentials=base.credentials,
        identities=partial(load_identities, base.node, base.live.snapshot.relay.realm),
    )
    adoption = Adoption(
        pool=base.pool,
        in_flight=base.in_flight,
        upstreams=base.upstreams,
        output=base.output,
        access=base.access,
        wall=time.time,
    )
    return Reloader(
        live=base.live,
        record=record,
        queue=queue,
        inspector=inspector,
        preparation=preparation,
        adoption=adoption,
        defects=defects,
        history=history,
        notices=ReloadNotices(send=notify, monotonic=lambda: time.monotonic_ns() // 1000),
        wall=time.time,
        source=source,
    )


# --- watching and steering


def make_edited_tree(reader: Reader, source: SourceKeeper | None) -> EditedTree:
    """What the pages edit."""
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
    source: SourceKeeper | None,
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
        output=base.output,
        node=base.node.node,
        tree=str(source.settings.at) if source is not None else str(base.node.tree.absolute()),
        started=base.started,
        draining=lambda: app.draining,
        listen=tuple(address_text(sock) for sock in sockets_of(base.sockets.public)),
        source=source,
    )


def make_control_socket(
    base: Foundation, queue: RequestQueue, history: History, sources: StatusSources
) -> ControlSocket | None:
    """None where no socket could be had."""
    if base.sockets.control is None:
        return None
    sock, path = base.sockets.control
    group = base.node.control_group
    return ControlSocket(
        sock=sock, path=path, queue=queue, history=history, sources=sources, wall=time.time, group=group
    )
