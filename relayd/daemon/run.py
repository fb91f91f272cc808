"""Run: the daemon from its start to its end. Reads the tree, has everything built, serves until told to stop.

Theory of stopping: SIGTERM closes the listeners, at once or after `drain_delay`, and lets calls finish; when
`drain_timeout` is over (or a second signal comes), the serving nursery is cancelled, and each stream that still runs
ends with an error event on its way out.
"""

from __future__ import annotations

import gc
import linecache
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from relayd import __version__
from relayd.daemon.banner import CLEARTEXT, banner, in_clear
from relayd.daemon.build import Daemon, build
from relayd.daemon.build_base import make_source
from relayd.daemon.capacity import keep_one_heap, raise_descriptor_limit, return_large_blocks
from relayd.daemon.hand_over import begin_anew, why_not
from relayd.daemon.log import flush_log, line_form
from relayd.daemon.log_output import screen_of
from relayd.daemon.log_setup import open_log
from relayd.daemon.net.listen import address_text, sockets_of
from relayd.daemon.node import NodeSettings, open_sockets
from relayd.daemon.paths import log_file
from relayd.daemon.reload.boot import NoStart, Start, find_start
from relayd.daemon.reload.candidate import Reader
from relayd.daemon.secrecy import keep_memory_secret
from relayd.daemon.signals import EarlySignals
from relayd.daemon.systemd import notify, tell_watchdog
from relayd.noun import noun
from relayd.state.contract import StoreMisfit

if TYPE_CHECKING:
    from relayd.daemon.source.keeper import SourceKeeper

log = logging.getLogger("relayd")

FIRST_FETCH = 45.0  # s for the first fetch of all; systemd waits 90 s for a start
RESTARTED = 5.0  # s for the first fetch of a node that can serve what it took before
LINGERING = 5.0  # s for connections that are this process's own, when its workers serve on
SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP

EX_CONFIG = 78  # sysexits.h: something was wrong with the configuration


def run(node: NodeSettings) -> int:
    """The `run` verb. Returns the exit code: 0 after a proper stop, 78 for a config that cannot be served."""
    early = EarlySignals()
    early.install()
    linecache.clearcache()  # attrs leaves the source of every method that it makes there: 2 MB
    keep_memory_secret()
    keep_one_heap()
    raise_descriptor_limit()
    daemon = make_daemon(node)
    if isinstance(daemon, int):
        return daemon
    early.hear_stops()
    daemon.output.start()
    if daemon.traces is not None:
        daemon.traces.start()
    try:
        code = serve(daemon, early)
    finally:
        if daemon.traces is not None:
            daemon.traces.stop()
        flush_log()
        daemon.output.stop()
    if early.anew:
        workers, old = [worker.pid for worker in daemon.crew.workers], daemon.old_workers
        begin_anew(daemon.sockets.public, workers, [*old.leaving, *old.serving], stop=early.stop)
    early.ignore_stops()
    return code


def make_daemon(node: NodeSettings) -> Daemon | int:
    """A daemon that is ready to serve, else the exit code; why has been said. What the start has read is let go of."""
    try:
        source, reader = open_source(node)
    except (OSError, ValueError) as error:
        say(f"relayd: {error}")
        return EX_CONFIG
    store = node.generations("") if source is not None else None
    start = find_start(reader, state_url=node.state_url, own=node.own, store=store, strict=node.strict_boot)
    tell(start, source.behind if source is not None else ())
    if isinstance(start, NoStart):
        return EX_CONFIG
    try:
        path = log_file(start.snapshot.relay.log.file, os.environ)
    except ValueError as error:
        say(f"relayd: {error}")
        return EX_CONFIG
    try:
        output, access = open_log(start.snapshot.relay.log, path, screen_of(sys.stderr.isatty(), os.environ))
        sockets = open_sockets(node, start.snapshot)
    except (OSError, ValueError) as error:
        say(f"relayd: {(isinstance(error, OSError) and error.strerror) or error}")
        return 1
    try:
        return build(node, start, reader, sockets, output, access, source)
    except (ValueError, StoreMisfit) as error:
        say(f"relayd: {error}")
        return EX_CONFIG


def open_source(node: NodeSettings) -> tuple[SourceKeeper | None, Reader]:
    """Who reads the tree, and who pulls it, after a first attempt to do so. Raises: OSError, ValueError."""
    source, reader = make_source(node)
    if source is not None:
        if (node.tree / "relay.toml").exists():
            say(f"relayd: {node.tree / 'relay.toml'}: not read, for the tree is pulled from {source.settings.at}")
        known = reader.sign() is not None
        trio.run(source.begin, RESTARTED if known else FIRST_FETCH)
    return source, reader


def tell(start: Start | NoStart, behind: Sequence[str] = ()) -> None:
    """Say on standard error what is wrong with the tree. `behind`: why it may not be what its source has."""
    problems = [problem for problem in start.problems if problem.severity != "note"]
    if problems:
        from relayd.config.problems.report import as_text

        say(as_text(problems))
    for note in start.notes:
        say(f"relayd: {note}")
    if isinstance(start, Start) and not start.degraded:
        for text in behind:
            say(f"relayd: {text}")
    if isinstance(start, Start) and start.degraded:
        say(f"relayd: DEGRADED: {start.degraded}; generation {start.origin.stored} is served")


def say(text: str) -> None:
    """Talk to whoever started the daemon; the log is not open yet."""
    sys.stderr.write(f"{text}\n")


def serve(daemon: Daemon, early: EarlySignals) -> int:
    """Serve to the end. A state store that turns out to be of no use, say a newer relayd's, is the config's fault."""
    try:
        trio.run(Serving(daemon, early).run, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        misfit, others = group.split(StoreMisfit)
        if misfit is None or others is not None:
            raise
        say(f"relayd: {first_of(misfit)}")
        return EX_CONFIG
    return 0


def first_of(error: BaseException) -> BaseException:
    """The first exception in a group of groups."""
    return first_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


@noun(eq=False)
class Serving:
    """A daemon in its event loop. `early`: the signals that came before it listened."""

    daemon: Daemon
    early: EarlySignals

    async def run(self) -> None:
        """Serve until a signal says stop and the calls are done."""
        daemon = self.daemon
        public, admin = sockets_of(daemon.sockets.public), sockets_of(daemon.sockets.admin)
        async with trio.open_nursery() as lasting:  # outlives the calls, whose ends it has to settle
            await lasting.start(daemon.state.run)
            lasting.start_soon(daemon.recent.run)
            lasting.start_soon(daemon.traffic.run)
            lasting.start_soon(daemon.upstreams.keep_tidy)
            lasting.start_soon(daemon.health_checks.run)
            lasting.start_soon(daemon.app.signs.run)
            lasting.start_soon(daemon.model_offers.run)
            lasting.start_soon(daemon.sources.lag.run)
            lasting.start_soon(daemon.manager.run)
            lasting.start_soon(tell_watchdog, os.environ, notify)
            async with trio.open_nursery() as nursery:
                await nursery.start(self._signals, nursery.cancel_scope)
                await nursery.start(daemon.keeper.run)  # a rotation under way holds up the end until it is stored
                nursery.start_soon(daemon.reload.run)
                nursery.start_soon(daemon.alerting.run)  # at the end it writes down what it told
                if daemon.control is not None:
                    await nursery.start(daemon.control.serve)
                await nursery.start(daemon.admin_server.serve, admin)  # to the end: a drain is worth watching
                async with trio.open_nursery() as serving:
                    await serving.start(daemon.server.serve, [])
                    await serving.start(daemon.crew.run, public)
                    if not daemon.app.draining:  # told to stop while it started, it has closed its sockets
                        self._ready(public, admin)
                    serving.start_soon(daemon.old_workers.see_off)
                nursery.cancel_scope.cancel()
            await daemon.recent.flush()
            await daemon.traffic.tell()
            lasting.cancel_scope.cancel()
        daemon.upstreams.close()
        log.info("daemon.stopped")

    async def _signals(
        self, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(*SIGNALS) as arrivals:
            if self.early.reload:
                self.daemon.queue.request("sighup")
            if self.early.stop:
                self._drain(everything)
                self._take_no_more()
            task_status.started()
            async with trio.open_nursery() as nursery:
                async for number in arrivals:
                    if number == signal.SIGHUP:
                        self.daemon.queue.request("sighup")
                    elif number == signal.SIGUSR1:
                        self._reopen()
                    elif number == signal.SIGUSR2:
                        nursery.start_soon(self._begin_anew, everything)
                    elif self.early.anew:
                        self.early.stop = True  # the new program hears of it, and waits for the workers
                    elif self.daemon.app.draining:
                        everything.cancel()
                    else:
                        nursery.start_soon(self._close, self._drain(everything))

    async def _close(self, delay: float) -> None:
        """Take no more calls, after a while in which balancers see that /readyz is 503."""
        await trio.sleep(delay)
        self._take_no_more()

    def _take_no_more(self) -> None:
        self.daemon.server.drain()
        self.daemon.crew.drain(self.daemon.live.snapshot.relay.server.drain_timeout)

    def _drain(self, everything: trio.CancelScope) -> float:
        """Say that the end is near. Returns: s until no more calls are taken."""
        server = self.daemon.live.snapshot.relay.server
        delay = 0.0 if self.daemon.node.inherited.public else server.drain_delay
        patience = server.drain_timeout
        left = self.daemon.server.statistics.open
        log.info("daemon.draining", extra={"open": left, "patience_s": patience})
        self.daemon.app.draining, self.early.anew = True, False
        self.daemon.manager.tell(f"STOPPING=1\nSTATUS=draining: {left} connections, for {patience:g} s at most")
        self.daemon.crew.announce_stop()
        everything.deadline = trio.current_time() + delay + patience
        return delay

    async def _begin_anew(self, everything: trio.CancelScope) -> None:
        """Have the program on disk take this process over, while the workers serve on; see hand_over.py."""
        crew, node = self.daemon.crew, self.daemon.node
        why = self._hindered() or await why_not(node.tree if node.source is None else None) or self._hindered()
        if self.early.anew:  # asked twice
            return
        if why:
            log.error("daemon.not_renewed", extra={"why": why})
            return
        log.warning("daemon.renewed", extra={"workers": len(crew.workers)})
        self.early.anew = True
        crew.let_go()
        self.daemon.old_workers.keep()
        self.daemon.server.drain()
        everything.deadline = trio.current_time() + LINGERING

    def _hindered(self) -> str:
        """Why this process cannot begin anew now; "" when it can."""
        if self.daemon.app.draining:
            return "it is about to stop"
        return "" if self.daemon.crew.workers else "[server].workers is 1: nobody would serve meanwhile"

    def _reopen(self) -> None:
        try:
            self.daemon.output.reopen()
        except OSError as error:
            log.warning("log.reopen_failed", extra={"error": str(error)})
        self.daemon.crew.reopen()

    def _ready(self, public: Sequence[socket.socket], admin: Sequence[socket.socket]) -> None:
        live = self.daemon.live
        listen, admins = [address_text(sock) for sock in public], [address_text(sock) for sock in admin]
        screen = self.daemon.output.screen
        if screen != "none" and line_form(live.snapshot.relay.log.format, screen) != "json":
            self.daemon.output.write(banner(live.snapshot, listen, admins, self.daemon.sources.tree).encode())
        log.info(
            "daemon.listening",
            extra={
                "version": __version__,
                "listen": listen,
                "admin": admins,
                "revision": live.snapshot.revision,
                "accounts": len(live.snapshot.accounts),
                "keys": len(live.snapshot.keys),
            },
        )
        if clear := in_clear(listen, live.snapshot.relay.server.trusted_proxies):
            log.warning("daemon.cleartext", extra={"listen": clear, "hint": CLEARTEXT})
        headline = self.daemon.reload.record.headline(live.generation, live.snapshot.revision)
        self.daemon.manager.tell(f"READY=1\nSTATUS={headline}")
        tune_memory()  # a full collection, 25 ms: whoever waited for the start need not wait for that


def tune_memory() -> None:
    """What has been loaded lives for ever: keep the garbage collector from walking it at every full collection."""
    return_large_blocks()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
