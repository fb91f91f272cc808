"""Run: the daemon from its start to its end. Reads the tree, has everything built, serves until told to stop.

Theory of stopping: SIGTERM closes the listeners and lets calls finish; when `drain_timeout` is over (or a second signal
comes), the serving nursery is cancelled, and each stream that still runs ends with an error event on its way out.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence

import attrs
import trio

from relayd import __version__
from relayd.config.problems.report import as_text
from relayd.daemon.banner import CLEARTEXT, banner, in_clear
from relayd.daemon.build import Daemon, build, make_source
from relayd.daemon.capacity import raise_descriptor_limit
from relayd.daemon.log import line_form, open_log
from relayd.daemon.log_output import screen_of
from relayd.daemon.net.listen import address_text, sockets_of
from relayd.daemon.node import NodeSettings, open_sockets
from relayd.daemon.paths import log_file
from relayd.daemon.reload.boot import NoStart, Start, find_start
from relayd.daemon.reload.candidate import Reader
from relayd.daemon.signals import EarlySignals
from relayd.daemon.source.keeper import SourceKeeper
from relayd.daemon.systemd import notify, tell_watchdog
from relayd.state.contract import StoreMisfit

log = logging.getLogger("relayd")

FIRST_FETCH = 45.0  # s for the first fetch of all; systemd waits 90 s for a start
RESTARTED = 5.0  # s for the first fetch of a node that can serve what it took before

EX_CONFIG = 78  # sysexits.h: something was wrong with the configuration


def run(node: NodeSettings) -> int:
    """The `run` verb. Returns the exit code: 0 after a proper stop, 78 for a config that cannot be served."""
    early = EarlySignals()
    early.install()
    keep_no_core()
    raise_descriptor_limit()
    daemon = make_daemon(node)
    if isinstance(daemon, int):
        return daemon
    tune_memory()
    early.hear_stops()
    daemon.output.start()
    try:
        code = serve(daemon, early)
    finally:
        daemon.output.stop()
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


@attrs.frozen(eq=False)
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
            lasting.start_soon(daemon.upstreams.keep_tidy)
            lasting.start_soon(daemon.health_checks.run)
            lasting.start_soon(daemon.app.signs.run)
            lasting.start_soon(daemon.model_offers.run)
            lasting.start_soon(tell_watchdog, os.environ, notify)
            async with trio.open_nursery() as nursery:
                await nursery.start(self._signals, nursery.cancel_scope)
                await nursery.start(daemon.keeper.run)  # a rotation under way holds up the end until it is stored
                nursery.start_soon(daemon.reload.run)
                if daemon.control is not None:
                    await nursery.start(daemon.control.serve)
                await nursery.start(daemon.admin_server.serve, admin)  # to the end: a drain is worth watching
                async with trio.open_nursery() as serving:
                    await serving.start(daemon.server.serve, public)
                    self._ready(public, admin)
                nursery.cancel_scope.cancel()
            await daemon.recent.flush()
            lasting.cancel_scope.cancel()
        daemon.upstreams.close()
        log.info("daemon.stopped")

    async def _signals(
        self, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP) as arrivals:
            if self.early.reload:
                self.daemon.queue.request("sighup")
            if self.early.stop:
                self._drain(everything)
            task_status.started()
            async for number in arrivals:
                if number == signal.SIGHUP:
                    self.daemon.queue.request("sighup")
                elif number == signal.SIGUSR1:
                    self._reopen()
                elif self.daemon.app.draining:
                    everything.cancel()
                else:
                    self._drain(everything)

    def _drain(self, everything: trio.CancelScope) -> None:
        patience = self.daemon.live.snapshot.relay.server.drain_timeout
        log.info("daemon.draining", extra={"open": self.daemon.server.statistics.open, "patience_s": patience})
        self.daemon.app.draining = True
        notify("STOPPING=1")
        self.daemon.server.drain()
        everything.deadline = trio.current_time() + patience

    def _reopen(self) -> None:
        try:
            self.daemon.output.reopen()
        except OSError as error:
            log.warning("log.reopen_failed", extra={"error": str(error)})

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
        notify(f"READY=1\nSTATUS={headline}")


def keep_no_core() -> None:
    """Opened credentials are in this process's memory; a crash must not leave them in a file."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def tune_memory() -> None:
    """What has been loaded lives for ever: keep the garbage collector from walking it at every full collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
