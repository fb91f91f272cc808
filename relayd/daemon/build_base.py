"""Foundation: what all parts of a process are built on, whether it serves alone, supervises or is a worker.

Rule: as in build.py.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.secret_files import SecretFiles, secret_files
from relayd.config.snapshot import Server, Snapshot
from relayd.core.access.body_budget import body_total
from relayd.core.balancing.pool import Pool
from relayd.core.in_flight import InFlight
from relayd.core.live import Live
from relayd.daemon.access_log import AccessLog
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.accounts.old_keys import with_old_keys
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.beside import Beside
from relayd.daemon.capacity import MemoryAllowance, calls_in_memory, memory_allowance, processors, wanted_workers
from relayd.daemon.events import Events
from relayd.daemon.log_output import Output
from relayd.daemon.net.tls import shared_context
from relayd.daemon.node import NodeSettings, OpenSockets
from relayd.daemon.reload.candidate import Reader, TreeReader
from relayd.daemon.store.call_ids import CallIds
from relayd.daemon.store.lives import owner_of
from relayd.daemon.systemd import ServiceManager
from relayd.noun import noun

if TYPE_CHECKING:
    from pathlib import Path

    from relayd.config.secrets.seal import Identity
    from relayd.daemon.source.keeper import SourceKeeper

log = logging.getLogger("relayd")


@noun(kw_only=True)
class Foundation:
    """What the other parts are built on. It holds no config, so that the first one is freed when it is replaced.

    Args:
        state_url: this node's own, or the tree's.
        life: names this process: 32 random bits.
        started: Unix time, s.
        memory: what this process and its node may have.
        fitting: how many processes `workers = "auto"` is.
        beside: where pages and reports do what takes long.
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
    events: Events
    call_ids: CallIds
    memory: MemoryAllowance
    fitting: int
    beside: Beside = attrs.field(factory=Beside)
    manager: ServiceManager = attrs.field(factory=ServiceManager)

    def server_settings(self) -> Server:
        """[server] as it is now."""
        return self.live.snapshot.relay.server

    def wanted_workers(self, server: Server) -> int:
        """How many processes a config wants to serve; 1 = the one that there is."""
        return wanted_workers(server, self.fitting)

    def memory_room(self, server: Server) -> int:
        """Bytes that calls and bodies of all processes may take under a config."""
        return self.memory.room(self.wanted_workers(server))

    def calls_together(self, server: Server) -> int:
        """How many clients may be connected to all processes under a config."""
        room = self.memory_room(server)
        return calls_in_memory(room, body_total(server, room))


def tree_reader(node: NodeSettings) -> TreeReader:
    """Reads the node's tree, for the start and for reloads."""
    return TreeReader(tree=node.tree, wall=time.time, patience=node.pace.patience, quiet=node.pace.quiet)


def make_source(node: NodeSettings) -> tuple[SourceKeeper | None, Reader]:
    """Who pulls the node's tree, None where it lies in a directory, and who reads it. Raises: OSError, ValueError."""
    if node.source is None:
        return None, tree_reader(node)
    from relayd.daemon.source.build import build_source

    rng = random.Random(secrets.randbits(64))
    return build_source(node.source, os.environ, node.tree, time.time, rng)


def lay_foundation(
    node: NodeSettings,
    snapshot: Snapshot,
    reader: Reader,
    sockets: OpenSockets,
    output: Output,
    access: AccessLog,
    events: Events,
) -> Foundation:
    """The running config, who we are upstream, and whose health is known."""
    from relayd.config.environment import mounts_of

    for problem in mounts_of(node.tree):
        log.warning("tree.frozen", extra={"reason": problem.message, "hint": problem.hint})
    started, life = time.time(), os.urandom(4).hex()
    credentials = Credentials(load_identities(node, snapshot.relay.realm), permitted_files(node, snapshot.relay.realm))
    pool = Pool()
    pool.adopt(snapshot, started)
    try:
        snapshot = with_old_keys(snapshot, credentials.identities)
    except SealError as error:
        log.warning("old_keys.closed", extra={"reason": str(error), "hint": "keys of scheme crs-sha256 are refused"})
    live, memory = Live(snapshot), memory_allowance()
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
        life=life,
        started=started,
        events=events,
        call_ids=CallIds(owner_of(life), time.time, os.urandom),
        memory=memory,
        fitting=memory.workers(processors()),
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
