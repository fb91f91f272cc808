"""Run: the composition root. Reads the tree, makes one of everything, serves until told to stop.

Rule: the clock, the random generator and the environment are taken here and handed on; nobody else asks for them.

Theory of stopping: SIGTERM closes the listeners and lets calls finish; when `drain_timeout` is over (or a second signal
comes), the serving nursery is cancelled, and each stream that still runs ends with an error event on its way out.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from relayd import __version__
from relayd.config.problems.report import as_text
from relayd.config.snapshot import Snapshot
from relayd.core.balancing.pool import Pool
from relayd.core.live import Live
from relayd.core.quota.prices import shipped
from relayd.core.receipt import Receipt
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.admin.app import AdminApp
from relayd.daemon.admin.call_metrics import CallMetrics
from relayd.daemon.admin.process_metrics import log_families, state_families
from relayd.daemon.bell import EarlySignals
from relayd.daemon.log import AccessLog, open_log, set_log
from relayd.daemon.log_output import Output
from relayd.daemon.net.server import HttpServer
from relayd.daemon.net.tls import shared_context
from relayd.daemon.node import NodeSettings, Openings, open_sockets
from relayd.daemon.paths import generation_store
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.proxy.call import CallServer
from relayd.daemon.proxy.health_checks import HealthChecks
from relayd.daemon.reload.boot import NoStart, Start
from relayd.daemon.reload.history import History
from relayd.daemon.reload.prepare import Listener, admin_addresses, public_addresses, sockets_of
from relayd.daemon.reload.watch import inotify
from relayd.daemon.reloading import ReloadTasks, TreeReader, find_start, make_reload
from relayd.daemon.store.state_client import StateClient, open_state
from relayd.daemon.systemd import notify, tell_watchdog
from relayd.state.contract import StoreMisfit

if TYPE_CHECKING:
    from relayd.config.secrets.seal import Identity

log = logging.getLogger("relayd")

EX_CONFIG = 78  # sysexits.h: something was wrong with the configuration


@attrs.define(eq=False)
class Daemon:
    """Everything of one process, made once."""

    node: NodeSettings
    live: Live
    output: Output
    access: AccessLog
    server: HttpServer
    admin: HttpServer
    front: PublicApp
    upstreams: Upstreams
    books: StateClient
    keeper: OAuthKeeper
    reloading: ReloadTasks
    bell: EarlySignals

    async def main(self, opened: Openings) -> None:
        """Serve until a signal says stop and the calls are done."""
        public, admin = sockets_of(opened.public), sockets_of(opened.admin)
        async with trio.open_nursery() as lasting:  # outlives the calls, whose ends it has to book
            await lasting.start(self.books.run)
            lasting.start_soon(self.upstreams.keep_tidy)
            lasting.start_soon(HealthChecks(self.front.relay).run)
            lasting.start_soon(tell_watchdog, os.environ, notify)
            async with trio.open_nursery() as nursery:
                await nursery.start(self._signals, nursery.cancel_scope)
                await nursery.start(self.keeper.run)  # a rotation under way holds up the end until it is stored
                await nursery.start(self.reloading.run)
                await nursery.start(self.admin.serve, admin)  # to the end: a drain is worth watching
                async with trio.open_nursery() as serving:
                    await serving.start(self.server.serve, public)
                    self._ready(public, admin)
                nursery.cancel_scope.cancel()
            lasting.cancel_scope.cancel()
        self.upstreams.close()
        log.info("daemon.stopped")

    async def _signals(
        self, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        listened = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP
        with trio.open_signal_receiver(*listened) as arrivals:
            if self.bell.rung:
                self.reloading.reloader.poke("sighup")
            if self.bell.stopping:
                self._drain(everything)
            task_status.started()
            async for number in arrivals:
                if number == signal.SIGHUP:
                    self.reloading.reloader.poke("sighup")
                elif number == signal.SIGUSR1:
                    self._reopen()
                elif self.front.draining:
                    everything.cancel()
                else:
                    self._drain(everything)

    def _drain(self, everything: trio.CancelScope) -> None:
        patience = self.live.snapshot.relay.server.drain_timeout
        log.info("daemon.draining", extra={"open": self.server.statistics.open, "patience_s": patience})
        self.front.draining = True
        notify("STOPPING=1")
        self.server.drain()
        everything.deadline = trio.current_time() + patience

    def _reopen(self) -> None:
        try:
            self.output.reopen()
        except OSError as error:
            log.warning("log.reopen_failed", extra={"error": str(error)})

    def _ready(self, sockets: Sequence[socket.socket], admin: Sequence[socket.socket]) -> None:
        snapshot = self.live.snapshot
        log.info(
            "daemon.listening",
            extra={
                "version": __version__,
                "listen": [address_text(sock) for sock in sockets],
                "admin": [address_text(sock) for sock in admin],
                "revision": snapshot.revision,
                "accounts": len(snapshot.accounts),
                "keys": len(snapshot.keys),
            },
        )
        notify(f"READY=1\nSTATUS={self.reloading.reloader.headline()}")


def run(node: NodeSettings) -> int:
    """The `run` verb. Returns the exit code: 0 after a proper stop, 78 for a config that cannot be served."""
    bell = EarlySignals()
    bell.install()
    keep_no_core()
    edition = TreeReader(tree=node.tree, wall=time.time, patience=node.pace.patience, quiet=node.pace.quiet)
    start = find_start(edition, node.state_url, strict=node.strict_boot, own=node.own)
    if tell(start):
        return EX_CONFIG
    assert isinstance(start, Start)
    settings = start.snapshot.relay
    try:
        output, access = open_log(settings.log)
        opened = open_sockets(node, start.snapshot)
    except (OSError, ValueError) as error:
        say(f"relayd: {error}")
        return 1
    try:
        daemon = build(node, start, edition, output, access, opened, bell)
    except (ValueError, StoreMisfit) as error:
        say(f"relayd: {error}")
        return EX_CONFIG
    del start, settings  # the first config goes when the second one runs
    tune_memory()
    bell.hear_stops()
    output.start()
    try:
        code = serve(daemon, opened)
    finally:
        output.stop()
    bell.ignore_stops()
    return code


def serve(daemon: Daemon, opened: Openings) -> int:
    """Serve to the end. A state store that turns out to be of no use, say a newer relayd's, is the config's fault."""
    try:
        trio.run(daemon.main, opened, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        misfit, others = group.split(StoreMisfit)
        if misfit is None or others is not None:
            raise
        say(f"relayd: {first_of(misfit)}")
        return EX_CONFIG
    return 0


def first_of(error: BaseException) -> BaseException:
    """An exception that is no group: the first in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def tell(start: Start | NoStart) -> bool:
    """Say on standard error what is wrong with the tree. Returns: whether that is the end."""
    telling = [problem for problem in start.problems if problem.severity != "note"]
    if telling:
        say(as_text(telling))
    for note in start.notes:
        say(f"relayd: {note}")
    if isinstance(start, Start) and start.degraded:
        stored = start.running.stored
        say(f"relayd: DEGRADED: {start.degraded}; generation {stored} is served")
    return isinstance(start, NoStart)


def say(text: str) -> None:
    """Talk to whoever started the daemon; the log is not open yet."""
    sys.stderr.write(f"{text}\n")


def build(
    node: NodeSettings,
    start: Start,
    edition: TreeReader,
    output: Output,
    access: AccessLog,
    opened: Openings,
    bell: EarlySignals,
) -> Daemon:
    """Make one of everything. Raises: ValueError when an identity or password cannot be had; StoreMisfit."""
    from relayd.config.environment import mounts_of
    from relayd.config.secrets.identity import identity_paths, load_identities

    def identities() -> Sequence[Identity]:
        paths = identity_paths(node.identity, os.environ, realm)
        found = load_identities(paths, node.tree, os.environ)
        if found:
            kids = [one.public.kid for one in found]
            log.info("identity.loaded", extra={"files": [str(path) for path in paths], "kids": kids})
        return found

    for problem in mounts_of(node.tree):
        log.warning("tree.frozen", extra={"reason": problem.message, "hint": problem.hint})
    snapshot, realm = start.snapshot, start.snapshot.relay.realm
    credentials = Credentials(identities())
    for account, why in credentials.problems(snapshot).items():
        log.warning("account.no_credential", extra={"account": account, "why": why})
    live = Live(snapshot)
    upstreams = Upstreams(shared_context, time.time)
    pool = Pool()
    pool.adopt(snapshot, time.time())
    books = open_state(
        url=node.state_url or snapshot.relay.state.url,
        password=state_password(snapshot),
        realm=snapshot.relay.realm,
        base=node.tree,
        own=node.own,
        policy=lambda: live.snapshot.relay.state.on_outage,
        pool=pool,
        wall=time.time,
        lease=snapshot.relay.state.lease,
    )
    rng = random.Random(secrets.randbits(64))
    keeper = OAuthKeeper(
        credentials=credentials,
        snapshot=lambda: live.snapshot,
        state=books.main,
        node=f"{node.node}-{os.urandom(4).hex()}",
        wall=time.time,
        rng=rng,
        tls=shared_context,
        renewed=lambda account: pool.restore(account, time.time()) if account in live.snapshot.accounts else None,
    )
    tally = CallMetrics()

    def told(receipt: Receipt) -> None:
        tally.record(receipt)
        access.record(receipt)

    relay = CallServer(
        live=live,
        upstreams=upstreams,
        pool=pool,
        books=books,
        credential=keeper.of,
        keeper=keeper,
        record=told,
        wall=time.time,
        new_id=new_id,
        rng=rng,
    )
    books.open_calls, books.admission_of = relay.open_calls, relay.admission_of
    front = PublicApp(relay=relay, known_models=shipped)
    server = HttpServer(front, lambda: live.snapshot.relay.server)
    admin_front = AdminApp(books=books, wall=time.time, new_id=new_id)
    admin_server = HttpServer(admin_front, lambda: live.snapshot.relay.server)
    state_url = node.state_url or snapshot.relay.state.url

    def adopted(new: Snapshot) -> None:
        set_log(new.relay.log, output, access)
        upstreams.keep_only(new)

    reloading = make_reload(
        start=start,
        edition=edition,
        live=live,
        server=server,
        credentials=credentials,
        identities=identities,
        pool=pool,
        doors=(
            Listener(
                setting="server.listen",
                server=server,
                wanted=public_addresses,
                pinned=bool(node.listen),
                listening=opened.public,
            ),
            Listener(
                setting="admin.listen",
                server=admin_server,
                wanted=admin_addresses,
                pinned=node.admin_listen is not None,
                listening=opened.admin,
                given_up=opened.given_up,
            ),
        ),
        vault=History(generation_store(state_url, node.tree, node.own)),
        control=opened.control,
        listen=inotify(),
        watch=node.watch,
        announce=notify,
        adopted=adopted,
        node=node.node,
        state=books.main,
        rng=rng,
        draining=lambda: front.draining,
        more_metrics=lambda: [*tally.families(), *state_families(books.main), *log_families(output.lost)],
        pace=node.pace,
    )
    admin_front.sources = reloading.sources
    return Daemon(node, live, output, access, server, admin_server, front, upstreams, books, keeper, reloading, bell)


def state_password(snapshot: Snapshot) -> str:
    """The state store's password: RELAYD_STATE_PASSWORD, else the first line of the file that the tree names.

    Raises: ValueError when the file cannot be read.
    """
    path = snapshot.relay.state.password_file
    if "RELAYD_STATE_PASSWORD" in os.environ or not path:
        return os.environ.get("RELAYD_STATE_PASSWORD", "")
    try:
        return Path(path).read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError as error:
        raise ValueError(f"relay.toml: state.password_file: {path}: {(error.strerror or '').lower()}") from None


def new_id() -> str:
    """A call id: 96 random bits, in the form that the API's own request ids have."""
    return "req_" + os.urandom(12).hex()


def address_text(sock: socket.socket) -> str:
    """Where a socket listens, as a URL or a unix path."""
    name = sock.getsockname()
    if sock.family == getattr(socket, "AF_UNIX", None):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def keep_no_core() -> None:
    """Opened credentials are in this process's memory; a crash must not leave them in a file."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def tune_memory() -> None:
    """What has been loaded lives for ever: keep the garbage collector from walking it at every full collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
