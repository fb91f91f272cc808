"""Reloading: the parts of reload, wired together, and the tasks that they need.

Rule: no decision here. A task that fails is started again: reload may be late, it must not take the daemon with it.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from relayd.config.snapshot import Snapshot
from relayd.config.source.tree import QUIET, FileCache, Tree, Unstable, read_coherent, signature
from relayd.core.balancing.pool import Pool
from relayd.core.live import Live
from relayd.daemon.accounts.credentials import FILES_EVERY, Credentials
from relayd.daemon.admin.control_socket import ControlSocket, serve_control
from relayd.daemon.admin.prometheus import Family, Histogram
from relayd.daemon.admin.status import StatusSources
from relayd.daemon.net.server import HttpServer
from relayd.daemon.paths import generation_store
from relayd.daemon.reload.boot import NoStart, Start, choose_start
from relayd.daemon.reload.candidate import Inspector
from relayd.daemon.reload.cluster import BEAT, Cluster
from relayd.daemon.reload.history import History, keep_last_good
from relayd.daemon.reload.prepare import Listener, Preparation
from relayd.daemon.reload.reloader import Reloader
from relayd.daemon.reload.requests import PendingTree, ReloadResult, kept_back
from relayd.daemon.reload.watch import HASH, POLL, Listen, Watcher
from relayd.daemon.store.batcher import Batcher

if TYPE_CHECKING:
    from relayd.config.secrets.seal import Identity

log = logging.getLogger("relayd.reload")

PATIENCE = 10.0  # s that one round waits for a tree to hold still
PROOF = 30.0  # s that a config runs before it counts as good
REMIND = 60.0  # s between reminders that the daemon is degraded
RESTART = 1.0  # s before a task that failed is started again


@attrs.frozen(kw_only=True)
class Intervals:
    """How often and how long, s. Tests have less time."""

    poll: float = POLL
    hash_every: float = HASH
    interval: float = 1.0
    proof: float = PROOF
    patience: float = PATIENCE
    quiet: float = QUIET
    beat: float = BEAT


@attrs.frozen(kw_only=True)
class TreeReader:
    """Reads one tree: what the daemon and its start have in common."""

    tree: Path
    wall: Callable[[], float]
    patience: float = PATIENCE
    quiet: float = QUIET
    cache: FileCache = attrs.field(factory=FileCache)

    def read(self, thorough: bool = False) -> Tree | Unstable:
        """A coherent reading; `thorough` trusts no file time."""
        if thorough:
            self.cache.files = {}
        deadline = self.wall() + self.patience
        return read_coherent(
            self.tree, quiet=self.quiet, wall=self.wall, sleep=time.sleep, deadline=deadline, cache=self.cache
        )

    def sign(self) -> object:
        """The stat signature."""
        return signature(self.tree)


def find_start(edition: TreeReader, state_url: str, *, strict: bool, own: str = "") -> Start | NoStart:
    """The config to start with. `state_url`: the node's own, "" for the tree's; `own`: see `state_directory`."""

    def store(url: str) -> History:
        return History(generation_store(state_url or url or "sqlite:var/relayd.db", edition.tree, own))

    return choose_start(edition.read, edition.sign, store, edition.wall(), strict=strict)


@attrs.define(eq=False, kw_only=True)
class ReloadTasks:
    """Everything that reload consists of, in one process."""

    reloader: Reloader
    watcher: Watcher | None
    vault: History
    sources: StatusSources
    fleet: Cluster
    wall: Callable[[], float]
    control_socket: socket.socket | None
    control_path: Path
    proof: float = PROOF

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reload for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reloader.run)
            nursery.start_soon(_again, "remind", self._remind)
            nursery.start_soon(_again, "store", self._keep)
            nursery.start_soon(_again, "credentials", self._read_credential_files)
            nursery.start_soon(_again, "fleet", self.fleet.run)
            if self.watcher is not None:
                nursery.start_soon(_again, "watch", self.watcher.run)
            if self.control_socket is not None:
                control = ControlSocket(reloader=self.reloader, sources=self.sources, vault=self.vault, wall=self.wall)
                await nursery.start(serve_control, control, self.control_socket, self.control_path)
            task_status.started()

    async def _keep(self) -> None:
        await keep_last_good(self.reloader, self.vault, self.wall, proof=self.proof)

    async def _read_credential_files(self) -> None:
        credentials = self.sources.credentials
        while True:
            await trio.sleep(FILES_EVERY)
            if credentials.has_files:
                await trio.to_thread.run_sync(credentials.read_files, abandon_on_cancel=True)

    async def _remind(self) -> None:
        while True:
            if self.reloader.degraded:
                stored = self.reloader.running.stored
                log.warning("reload.degraded", extra={"reason": self.reloader.degraded, "stored": stored})
            await trio.sleep(REMIND)


async def _again(name: str, task: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await task()
        except Exception:
            log.exception("reload.task_failed", extra={"task": name})
            await trio.sleep(RESTART)


def make_reload(
    *,
    start: Start,
    edition: TreeReader,
    live: Live,
    server: HttpServer,
    credentials: Credentials,
    identities: Callable[[], Sequence[Identity]],
    pool: Pool,
    doors: Sequence[Listener],
    vault: History,
    control: tuple[socket.socket, Path] | None,
    listen: Listen | None,
    watch: bool,
    announce: Callable[[str], None],
    adopted: Callable[[Snapshot], None],
    node: str,
    state: Batcher,
    rng: random.Random,
    draining: Callable[[], bool],
    more_metrics: Callable[[], list[Family | Histogram]],
    pace: Intervals,
) -> ReloadTasks:
    """Wire the parts.

    Args:
        server: the public listener's, whose connections `status` counts.
        doors: every listener.
        listen: file events; None = poll only. `watch`: whether to look for changes at all.
        adopted: what else follows a swap; sync.
        state: where the nodes tell each other what they run.
    """
    wall = edition.wall
    study = Inspector(
        read=edition.read,
        sign=edition.sign,
        clock=time.monotonic,
        remark=credentials.remark,
        memo=start.memo,
        examined=start.examined,
        denied=start.denied,
    )

    def after_swap(old: Snapshot, new: Snapshot) -> None:
        pool.adopt(new, wall())
        live.running.revoked(old, new)
        adopted(new)

    def reopened(accounts: list[str]) -> None:
        for account in accounts:
            pool.restore(account, wall())
            log.info("account.credential_found", extra={"account": account})

    preparation = Preparation(
        doors=doors,
        credentials=credentials,
        identities=identities,
        shut=frozenset(credentials.problems(live.snapshot)),
    )
    reloader = Reloader(
        live=live,
        study=study,
        prepare=preparation.prepare,
        adopted=after_swap,
        reopen=preparation.reopen,
        reopened=reopened,
        vault=vault,
        running=start.running,
        wall=wall,
        announce=announce,
        monotonic=lambda: time.monotonic_ns() // 1000,
        interval=pace.interval,
        degraded=start.degraded,
        hold=start.hold,
        fresh=start.fresh,
        candidate=_first_candidate(start, wall()),
        succeeded=0.0 if start.degraded or start.hold else wall(),
    )
    watcher = (
        Watcher(reloader=reloader, tree=edition.tree, listen=listen, poll=pace.poll, hash_every=pace.hash_every)
        if watch
        else None
    )
    started = wall()
    fleet = Cluster(
        store=state,
        reloader=reloader,
        name=node,
        life=os.urandom(4).hex(),
        started=started,
        draining=draining,
        wall=wall,
        rng=rng,
        beat=pace.beat,
    )
    reloader.stagger = fleet.stagger
    sources = StatusSources(
        live=live,
        reloader=reloader,
        watching=watcher,
        pool=pool,
        in_flight=live.running,
        connections=lambda: server.statistics,
        node=node,
        started=started,
        clock=trio.current_time,
        tasks=lambda: trio.lowlevel.current_statistics().tasks_living,
        draining=draining,
        more_metrics=more_metrics,
        damaged=lambda: state.damaged,
        fleet=fleet,
        credentials=credentials,
        tree=str(edition.tree.absolute()),
    )
    sock, path = control if control is not None else (None, Path())
    return ReloadTasks(
        reloader=reloader,
        watcher=watcher,
        vault=vault,
        sources=sources,
        fleet=fleet,
        wall=wall,
        control_socket=sock,
        control_path=path,
        proof=pace.proof,
    )


def _first_candidate(start: Start, now: float) -> PendingTree | None:
    """What lies on disk and does not run, from the first moment."""
    if not start.degraded and not start.hold:
        return None
    outcome = ReloadResult(
        result="rejected" if start.degraded else "held",
        generation=1,
        digest=start.digest if start.degraded else "",
        problems=start.problems if start.degraded else (),
        reasons=(start.degraded or kept_back(start.hold),),
    )
    return PendingTree(since=now, outcome=outcome)
