"""Run: the composition root. Reads the tree, makes one of everything, serves until told to stop.

Rule: the clock, the random generator and the environment are taken here and handed on; nobody else asks for them.

Theory of stopping: SIGTERM closes the listeners and lets calls finish; when `drain_timeout` is over (or a second signal
comes), the serving nursery is cancelled, and each stream that still runs ends with an error event on its way out.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from relayd import __version__
from relayd.config.report import as_text
from relayd.config.snapshot import Snapshot
from relayd.core.live import Live
from relayd.core.pool import Pool
from relayd.core.prices import shipped
from relayd.daemon.books import Books, open_books
from relayd.daemon.boot import NoStart, Start
from relayd.daemon.control import open_control
from relayd.daemon.credentials import Credentials
from relayd.daemon.front import Front
from relayd.daemon.lastgood import LastGood
from relayd.daemon.log import AccessLog, Output, open_log, set_log
from relayd.daemon.oauth import OAuthKeeper
from relayd.daemon.places import control_socket, generation_store
from relayd.daemon.prepare import Sockets
from relayd.daemon.probe import Probes
from relayd.daemon.relay import Relay
from relayd.daemon.reloading import Edition, Pace, Reloading, find_start, make_reloading
from relayd.daemon.server import Server, open_listener
from relayd.daemon.tls import shared_context
from relayd.daemon.upstream import Upstreams
from relayd.daemon.watch import inotify
from relayd.state.contract import StoreMisfit

if TYPE_CHECKING:
    from relayd.config.seal import Identity

log = logging.getLogger("relayd")

EX_CONFIG = 78  # sysexits.h: something was wrong with the configuration


@attrs.frozen(kw_only=True)
class NodeSettings:
    """What is this node's own, from the command line and the environment.

    Args:
        listen: instead of [server].listen, when it is not empty.
        state_url: instead of [state].url, when it is not empty.
        identity: identity file(s); None looks at the environment.
        control: path of the control socket; "" = where places.control_socket says.
        watch: whether to look for changes of the tree; without it only signals and commands reload.
        strict_boot: start with the tree or not at all.
    """

    tree: Path
    listen: tuple[str, ...] = ()
    state_url: str = ""
    identity: str | None = None
    node: str = ""
    control: str = ""
    watch: bool = True
    strict_boot: bool = False
    pace: Pace = attrs.field(factory=Pace)


_STOPS = signal.SIGTERM, signal.SIGINT


@attrs.define
class EarlyBell:
    """Hears signals while the event loop does not. Their default would end the process.

    SIGHUP: a reload that is asked for during the start is not lost. SIGTERM and SIGINT: the same for a stop; and once
    the loop has stopped listening, no further one interrupts the closing of the books.
    """

    rung: bool = False
    stopping: bool = False

    def install(self) -> None:
        """Listen from now on; the event loop's own receiver takes over."""
        signal.signal(signal.SIGHUP, self._ring)

    def hear_stops(self) -> None:
        """Listen for SIGTERM and SIGINT too. Not earlier than need be: until then a start can be interrupted."""
        for number in _STOPS:
            signal.signal(number, self._ring)

    def ignore_stops(self) -> None:
        """All is done; what the interpreter still tidies up is not to be interrupted either."""
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)

    def _ring(self, number: int, frame: object) -> None:
        self.rung = self.rung or number == signal.SIGHUP
        self.stopping = self.stopping or number != signal.SIGHUP


@attrs.define(eq=False)
class Daemon:
    """Everything of one process, made once."""

    node: NodeSettings
    live: Live
    output: Output
    access: AccessLog
    server: Server
    front: Front
    upstreams: Upstreams
    books: Books
    keeper: OAuthKeeper
    reloading: Reloading
    bell: EarlyBell

    async def main(self, sockets: Sequence[socket.socket]) -> None:
        """Serve until a signal says stop and the calls are done."""
        async with trio.open_nursery() as lasting:  # outlives the calls, whose ends it has to book
            await lasting.start(self.books.run)
            lasting.start_soon(self.upstreams.keep_tidy)
            lasting.start_soon(Probes(self.front.relay).run)
            async with trio.open_nursery() as nursery:
                await nursery.start(self._signals, nursery.cancel_scope)
                await nursery.start(self.keeper.run)  # a rotation under way holds up the end until it is stored
                await nursery.start(self.reloading.run)
                async with trio.open_nursery() as serving:
                    await serving.start(self.server.serve, list(sockets))
                    self._ready(sockets)
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

    def _ready(self, sockets: Sequence[socket.socket]) -> None:
        snapshot = self.live.snapshot
        log.info(
            "daemon.listening",
            extra={
                "version": __version__,
                "listen": [address_text(sock) for sock in sockets],
                "revision": snapshot.revision,
                "accounts": len(snapshot.accounts),
                "keys": len(snapshot.keys),
            },
        )
        notify(f"READY=1\nSTATUS={self.reloading.reloader.headline()}")


def run(node: NodeSettings) -> int:
    """The `run` verb. Returns the exit code: 0 after a proper stop, 78 for a config that cannot be served."""
    bell = EarlyBell()
    bell.install()
    edition = Edition(tree=node.tree, wall=time.time, patience=node.pace.patience, quiet=node.pace.quiet)
    start = find_start(edition, node.state_url, strict=node.strict_boot)
    if tell(start):
        return EX_CONFIG
    assert isinstance(start, Start)
    settings = start.snapshot.relay
    try:
        output, access = open_log(settings.log)
        listening = {address: open_listener(address) for address in node.listen or settings.server.listen}
        control = open_control_socket(node, settings.state.url)
    except OSError as error:
        say(f"relayd: {error}")
        return 1
    try:
        daemon = build(node, start, edition, output, access, listening, control, bell)
    except (ValueError, StoreMisfit) as error:
        say(f"relayd: {error}")
        return EX_CONFIG
    del start, settings  # the first config goes when the second one runs
    tune_memory()
    bell.hear_stops()
    unfit: list[BaseException] = []
    try:
        sockets = [sock for one in listening.values() for sock in one]
        trio.run(daemon.main, sockets, strict_exception_groups=True)
    except* StoreMisfit as group:
        unfit += leaves(group)
    bell.ignore_stops()
    for misfit in unfit:
        say(f"relayd: {misfit}")
    return EX_CONFIG if unfit else 0


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


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


def open_control_socket(node: NodeSettings, state_url: str) -> tuple[socket.socket, Path] | None:
    """The control socket. Where nobody named a place and none can be had, the daemon goes without.

    Raises: OSError for a place that somebody named.
    """
    path = control_socket(node.control, node.state_url or state_url, node.tree, os.environ)
    try:
        return open_control(path), path
    except OSError as error:
        if node.control:
            raise
        log.warning("control.unavailable", extra={"error": str(error), "hint": "choose a place with --control"})
        return None


def build(
    node: NodeSettings,
    start: Start,
    edition: Edition,
    output: Output,
    access: AccessLog,
    listening: Sockets,
    control: tuple[socket.socket, Path] | None,
    bell: EarlyBell,
) -> Daemon:
    """Make one of everything. Raises: ValueError when an identity or password cannot be had; StoreMisfit."""
    from relayd.config.identity import identity_paths, load_identities

    def identities() -> Sequence[Identity]:
        return load_identities(identity_paths(node.identity, os.environ), node.tree, os.environ)

    snapshot = start.snapshot
    credentials = Credentials(identities())
    for account, why in credentials.problems(snapshot).items():
        log.warning("account.no_credential", extra={"account": account, "why": why})
    live = Live(snapshot)
    upstreams = Upstreams(shared_context, time.time)
    pool = Pool()
    pool.adopt(snapshot, time.time())
    books = open_books(
        url=node.state_url or snapshot.relay.state.url,
        password=state_password(snapshot),
        realm=snapshot.relay.realm,
        base=node.tree,
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
    relay = Relay(
        live=live,
        upstreams=upstreams,
        pool=pool,
        books=books,
        credential=keeper.of,
        keeper=keeper,
        record=access.record,
        wall=time.time,
        new_id=new_id,
        rng=rng,
    )
    books.open_calls, books.admission_of = relay.open_calls, relay.admission_of
    front = Front(relay=relay, known_models=shipped)
    server = Server(front, lambda: live.snapshot.relay.server)
    state_url = node.state_url or snapshot.relay.state.url

    def adopted(new: Snapshot) -> None:
        set_log(new.relay.log, output, access)
        upstreams.keep_only(new)

    reloading = make_reloading(
        start=start,
        edition=edition,
        live=live,
        server=server,
        credentials=credentials,
        identities=identities,
        pool=pool,
        listening=listening,
        pinned=bool(node.listen),
        vault=LastGood(generation_store(state_url, node.tree)),
        control=control,
        listen=inotify(),
        watch=node.watch,
        announce=notify,
        adopted=adopted,
        node=node.node,
        draining=lambda: front.draining,
        pace=node.pace,
    )
    return Daemon(node, live, output, access, server, front, upstreams, books, keeper, reloading, bell)


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


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens where it does not listen."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), address)
    except OSError as error:
        log.warning("systemd.notify_failed", extra={"error": str(error)})


def tune_memory() -> None:
    """What has been loaded lives for ever: keep the garbage collector from walking it at every full collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
