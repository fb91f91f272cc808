"""Worker: a process that serves calls for its node and nothing else. Its supervisor has forked it (fork_server.py).

Rule: it is the same daemon as one that serves alone, but for what a node has once: no admin listener, no control
socket, no tree, no heartbeat among the nodes, no health checks. It lives by what its supervisor orders (link.py), and
a SIGTERM of anybody else's means that it drains and is replaced; a second one, that it cuts what is left.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

import trio

from relayd.core.access.body_budget import BodyBudget
from relayd.core.access.throttle import BadKeys
from relayd.core.alerts.events import AlertEvent
from relayd.core.alerts.limit_watch import LimitWatch
from relayd.core.quota.model_names import ModelNames
from relayd.core.receipt import Receipt
from relayd.daemon.accounts.node_defects import NodeDefects
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.admin import metric_list as m
from relayd.daemon.admin.exposition import Family, Histogram
from relayd.daemon.admin.loop_lag import LoopLag
from relayd.daemon.admin.process_metrics import (
    attempt_families,
    cpu_seconds,
    known_descriptors,
    loop_families,
    process_families,
    resident,
    state_families,
    traffic_families,
)
from relayd.daemon.admin.status import task_count
from relayd.daemon.build_base import Foundation, lay_foundation, load_identities, tree_reader
from relayd.daemon.build_calls import make_defects, make_keeper, make_proxy, make_service_watch, make_state
from relayd.daemon.build_config import make_adoption
from relayd.daemon.capacity import client_connections, descriptors
from relayd.daemon.events import Events
from relayd.daemon.log_output import screen_of
from relayd.daemon.log_setup import open_log
from relayd.daemon.net.board import Board, BoardRow
from relayd.daemon.net.server import HttpServer
from relayd.daemon.node import OpenSockets
from relayd.daemon.paths import log_file
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.proxy.model_offers import OfferBook
from relayd.daemon.reload.prepare import Preparation
from relayd.daemon.run import tune_memory
from relayd.daemon.secrecy import keep_memory_secret
from relayd.daemon.store.state_client import StateClient
from relayd.daemon.workers.channel import Channel
from relayd.daemon.workers.follower import Follower
from relayd.daemon.workers.link import SupervisorLink, WorkerTeller
from relayd.daemon.workers.messages import CountedFigures, WorkerReport
from relayd.daemon.workers.roster import WorkerStart
from relayd.daemon.workers.snapshot_copy import from_copy
from relayd.noun import noun

log = logging.getLogger("relayd")

LAST_WORDS = 2.0  # s for the last receipts to be told
LATELY = 10.0  # s in which an account was used, for reports that come every second


def run_worker(start: WorkerStart, channel: int, board: int, copy: int) -> int:
    """Serve until told to stop. Returns the exit code."""
    keep_memory_secret()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a terminal tells the supervisor too
    snapshot = from_copy(copy, None)
    path = log_file(snapshot.relay.log.file, os.environ)
    output, access = open_log(snapshot.relay.log, path, screen_of(sys.stderr.isatty(), os.environ))
    node = start.node
    base = lay_foundation(node, snapshot, tree_reader(node), OpenSockets(public={}), output, access, Events())
    output.start()
    try:
        row, ours = Board(board).row(start.row), Channel(socket.socket(fileno=channel))
        worker = make_worker(base, row, ours, held=start.held, traced=start.traced)
        tune_memory()
        trio.run(worker.run, strict_exception_groups=True)
    finally:
        output.stop()
    return 0


@noun(kw_only=True)
class WorkerProcess:
    """Everything of one worker."""

    base: Foundation
    state: StateClient
    keeper: OAuthKeeper
    defects: NodeDefects
    lag: LoopLag
    app: PublicApp
    server: HttpServer
    link: SupervisorLink
    everything: trio.CancelScope

    async def run(self) -> None:
        """Serve until the calls are done."""
        async with trio.open_nursery() as lasting:  # outlives the calls, whose ends it has to settle
            lasting.start_soon(self.link.channel.deliver)
            await lasting.start(self.state.run)
            lasting.start_soon(self.base.upstreams.keep_tidy)
            lasting.start_soon(self.app.signs.run)
            lasting.start_soon(self.lag.run)
            with self.everything:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._signals)
                    await nursery.start(self.keeper.run)
                    nursery.start_soon(self.defects.run)
                    async with trio.open_nursery() as serving:
                        await serving.start(self.server.serve, [])
                        nursery.start_soon(self.link.obey)
                        nursery.start_soon(self.link.teller.tell_always)
                        nursery.start_soon(self.link.report_always)
                        self.link.teller.tell_up(self.base.life)
                    nursery.cancel_scope.cancel()
            lasting.cancel_scope.cancel()
            with trio.move_on_after(LAST_WORDS) as last:
                last.shield = True
                await self._last_words()
        self.base.upstreams.close()

    async def _last_words(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.link.channel.deliver)
            self.link.teller.tell_ended()
            self.link.channel.post(self.link.report(0))
            await self.link.channel.flush()
            nursery.cancel_scope.cancel()

    async def _signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as arrivals:
            task_status.started()
            told = False
            async for _ in arrivals:
                if told:
                    self.everything.cancel()
                told = True
                if not self.server.draining:
                    self.link.teller.tell_leaving()
                    drain(self.app, self.server, self.everything, self.patience, True)

    @property
    def patience(self) -> float:
        """s that calls may go on when the end is near."""
        return self.base.server_settings().drain_timeout


class UnsaidEvents(Events):
    """For what the supervisor finds out by itself, and says once for all."""

    def tell(self, event: AlertEvent) -> None:
        """It has happened, and somebody else says so."""


def drain(app: PublicApp, server: HttpServer, everything: trio.CancelScope, patience: float, gently: bool) -> None:
    """Take nothing more, and end when the calls have ended or `patience` s are over. A second time may hurry it."""
    if not server.draining:
        log.info("worker.draining", extra={"open": server.statistics.open, "patience_s": patience})
    app.draining = app.draining or not gently  # a node that serves on is ready
    server.drain(gently=gently)
    everything.deadline = min(everything.deadline, trio.current_time() + patience)


def make_worker(base: Foundation, row: BoardRow, channel: Channel, *, held: bool, traced: bool) -> WorkerProcess:
    """Make one of everything that a worker needs."""
    state = make_state(base)
    keeper = make_keeper(base, state, follows=True)
    watch = make_service_watch(base, state)
    offers = OfferBook(base.live)
    everything, teller = trio.CancelScope(), WorkerTeller(channel)

    def record(receipt: Receipt) -> None:
        base.access.record(receipt)
        teller.record(receipt)

    lag, names = LoopLag(), ModelNames()

    def announce_stop() -> None:
        app.draining = True

    bodies = BodyBudget(base.memory_room, told=row.tell_bodies, others=lambda: row.bodies_elsewhere)
    bad_keys = BadKeys(told=teller.tell_bad_key)
    limits = LimitWatch()
    app = make_proxy(base, state, keeper, record, watch, offers, names, limits, bodies, bad_keys, traced=traced)
    server = HttpServer(
        app,
        base.server_settings,
        most=client_connections(descriptors()),
        together=base.calls_together,
        held=held,
        row=row,
    )
    preparation = Preparation(
        listeners=(),
        credentials=base.credentials,
        identities=partial(load_identities, base.node, base.live.snapshot.relay.realm),
    )
    link = SupervisorLink(
        channel=channel,
        teller=teller,
        events=base.events,
        server=server,
        follower=Follower(live=base.live, preparation=preparation, adoption=make_adoption(base)),
        bad_keys=bad_keys,
        learn=offers.learn,
        report=partial(report_of, base, state, server, lambda: app.replies.streams, lag, limits),
        drain=partial(drain, app, server, everything),
        announce_stop=announce_stop,
        cut=everything.cancel,
        reopen=base.output.reopen,
        wall=time.time,
    )
    return WorkerProcess(
        base=base,
        state=state,
        keeper=keeper,
        defects=make_defects(base, keeper, UnsaidEvents()),
        lag=lag,
        app=app,
        server=server,
        link=link,
        everything=everything,
    )


# What several processes do not add up to.
OF_THE_NODE = (m.BUILD, m.STARTED, m.DRAINING, m.STATE_UP, m.STATE_REACHED, m.STATE_INFO, m.STATE_LETTERS)


def figures_of(one: Family | Histogram) -> CountedFigures:
    """A metric on its way to the supervisor."""
    if isinstance(one, Histogram):
        return CountedFigures(name=one.metric.name, samples=(((), one.total),), counts=one.counts)
    return CountedFigures(name=one.metric.name, samples=one.samples)


def report_of(
    base: Foundation,
    state: StateClient,
    server: HttpServer,
    streams: Callable[[], int],
    lag: LoopLag,
    limits: LimitWatch,
    number: int,
) -> WorkerReport:
    """How this worker is. `number`: of the question."""
    calls, tasks, pool = base.in_flight.count(), task_count(), base.pool
    families = [
        *traffic_families(calls, streams(), server.statistics, tasks, server.draining),
        *attempt_families(base.live.snapshot.accounts, pool.in_flight, state.leases.count()),
        *state_families(state.main),
        *loop_families(lag.durations, base.output.lost),
        *process_families(base.started),
    ]
    return WorkerReport(
        number=number,
        calls=calls,
        connections=server.statistics,
        tasks=tasks,
        cpu=cpu_seconds(),
        memory=resident(),
        descriptors=known_descriptors(),
        accounts={name: n for name in base.live.snapshot.accounts if (n := pool.in_flight(name))},
        used={name: at for name in base.live.snapshot.accounts if (at := pool.last_used(name)) > time.time() - LATELY},
        revision=base.live.snapshot.revision,
        configs=base.live.alive(),
        store="" if state.main.up else state.main.session.reason,
        log=base.output.failing,
        figures=tuple(figures_of(one) for one in families if one.metric not in OF_THE_NODE),
        near=limits.take(),
    )
