"""What changes the running config, made from the foundation.

Rule: as in build.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from relayd.daemon.accounts.node_defects import NodeDefects
from relayd.daemon.build_base import Foundation, load_identities
from relayd.daemon.net.server import HttpServer
from relayd.daemon.node import admin_addresses, public_addresses
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.reload.adoption import Adoption
from relayd.daemon.reload.boot import Start
from relayd.daemon.reload.candidate import Inspector
from relayd.daemon.reload.cluster import Cluster
from relayd.daemon.reload.file_events import inotify
from relayd.daemon.reload.followers import Followers
from relayd.daemon.reload.history import History
from relayd.daemon.reload.prepare import Listener, Preparation
from relayd.daemon.reload.record import ReloadRecord
from relayd.daemon.reload.reloader import Reloader
from relayd.daemon.reload.requests import RequestQueue
from relayd.daemon.reload.watch import Watcher
from relayd.daemon.store.state_client import StateClient
from relayd.daemon.systemd import ReloadNotices
from relayd.daemon.workers.crew import Crew

if TYPE_CHECKING:
    from relayd.daemon.source.keeper import SourceKeeper


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
        events=base.events,
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
        listen=inotify,
        poll=pace.poll,
        hash_every=pace.hash_every,
    )


def make_listeners(base: Foundation, crew: Crew, admin_server: HttpServer) -> tuple[Listener, Listener]:
    """The public and the admin listener, with the sockets that are open."""
    public = Listener(
        setting="server.listen",
        server=crew.sockets,
        wanted=public_addresses,
        pinned=bool(base.node.listen or base.node.inherited.public),
        listening=base.sockets.public,
    )
    admin = Listener(
        setting="admin.listen",
        server=admin_server,
        wanted=admin_addresses,
        pinned=base.node.admin_listen is not None or bool(base.node.inherited.admin),
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
    followers: Followers,
) -> Reloader:
    """Changes the running config, and tells every part that keeps something of it."""
    preparation = Preparation(
        listeners=listeners,
        credentials=base.credentials,
        identities=partial(load_identities, base.node, base.live.snapshot.relay.realm),
    )
    return Reloader(
        live=base.live,
        record=record,
        queue=queue,
        inspector=inspector,
        preparation=preparation,
        adoption=make_adoption(base),
        defects=defects,
        history=history,
        notices=ReloadNotices(send=base.manager.tell, monotonic=lambda: time.monotonic_ns() // 1000),
        wall=time.time,
        source=source,
        events=base.events,
        followers=followers,
    )


def make_adoption(base: Foundation) -> Adoption:
    """Tells every part of a new config."""
    return Adoption(
        pool=base.pool,
        in_flight=base.in_flight,
        upstreams=base.upstreams,
        output=base.output,
        access=base.access,
        wall=time.time,
    )
