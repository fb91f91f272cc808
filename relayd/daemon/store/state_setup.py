"""State setup: the state client of a process, made of its settings.

Rule: what this process cannot do without (its own directory, a side store that it can read) is found wanting here,
before anything is served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from relayd.core.balancing.pool import Pool
from relayd.core.disk_advice import disk_advice
from relayd.core.in_flight import InFlight
from relayd.core.quota.limits import LEASE_MS
from relayd.daemon.beside import Beside
from relayd.daemon.events import Events
from relayd.daemon.net.poller import moves_alone
from relayd.daemon.paths import state_directory
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.dead_letters import DeadLetters
from relayd.daemon.store.failsafe import FailsafeStore
from relayd.daemon.store.journal import Journal
from relayd.daemon.store.leases import Leases
from relayd.daemon.store.lives import LifeLock
from relayd.daemon.store.state_client import StateClient
from relayd.daemon.store.store_reader import StoreReader
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Store, StoreMisfit
from relayd.state.opening import COMMAND, open_store
from relayd.state.sqlite import SqliteStore
from relayd.state.sqlite_file import MEMORY, set_aside_newer

READ = 2.0  # s that a page waits for one answer of Redis

log = logging.getLogger("relayd.state")


def open_state(
    *,
    url: str,
    password: str,
    realm: str,
    base: Path,
    policy: Callable[[], Literal["allow", "deny"]],
    in_flight: InFlight,
    pool: Pool,
    wall: Callable[[], float],
    life: str,
    ceilings: Callable[[], tuple[str, ...]],
    beside: Beside,
    own: str = "",
    lease: float = LEASE_MS / 1000,
    events: Events | None = None,
    steady: Callable[[], float] | None = None,
) -> StateClient:
    """The state client of a process; nothing is connected yet.

    Args:
        url: as `[state].url`.
        base, own: the directory from which its path counts, and the node's own: see `state_directory`, for the
            journal and the side store.
        policy: `[state].on_outage`, asked at each outage.
        life: names this process, as `owner_of` takes it.
        ceilings: counters of slots of accounts.
        beside: where pages do what takes long.
        lease: `[state].lease`, s.
        steady: see SqliteStore.
        events: where it is told that the store is away, or refuses something.
    Raises: StoreMisfit on a URL that means nothing, and where this node's own directory cannot be written to.
    """

    def clock() -> int:
        return round(wall() * 1000)

    def opened(patience: float) -> Store:
        return open_store(url, realm=realm, clock=clock, password=password, base=base, patience=patience, steady=steady)

    store = opened(COMMAND)
    local = state_directory(url, base, own)
    quick = SqliteStore(store.path, clock=clock, steady=steady, busy=0) if isinstance(store, SqliteStore) else None
    journal = local / "journal"
    lock = _claimed(local, journal, life)
    events = events or Events()
    letters = DeadLetters(local / "dead-letters.jsonl", wall, events)
    main = Batcher(
        StoreSession(store, Journal(journal), dead_letters=letters, events=events),
        quick=quick,
        alone=moves_alone,
    )
    side = Batcher(StoreSession(SqliteStore(_side_file(local), clock=clock, steady=steady), side=True))
    failsafe = FailsafeStore(main, side, policy, lease_ms=round(lease * 1000))
    leases = Leases(failsafe, pool, wall)
    return StateClient(
        main=main,
        failsafe=failsafe,
        leases=leases,
        side=side,
        in_flight=in_flight,
        pool=pool,
        wall=wall,
        reader=StoreReader(main, opened(READ) if shared(store) else None, beside, wall),
        life=lock,
        ceilings=ceilings,
    )


def _claimed(local: Path, journal: Path, life: str) -> LifeLock:
    """Say that this process lives; what is written comes first here. Raises: StoreMisfit."""
    lock = LifeLock(local / "lives", life)
    try:
        journal.mkdir(mode=0o700, parents=True, exist_ok=True)  # so that there is what to mount another disk over
        lock.claim()
    except OSError as error:
        why = error.strerror or str(error)
        advice = disk_advice(why, "it must be relayd's to write, for what has to survive this process")
        raise StoreMisfit(f"state directory {local}: {why} [{advice}]") from None
    return lock


def _side_file(local: Path) -> str:
    """The file of the side store. One of a newer relayd makes room: this node had better serve than remember what was
    open in an outage before it went back to an older version.

    Raises: StoreMisfit.
    """
    path = str(local / "side.db")
    try:
        aside = set_aside_newer(path)
    except OSError as error:
        raise StoreMisfit(f"{path}: {error.strerror or error} [it is of a newer relayd: move it away]") from None
    if aside:
        log.warning("state.side_set_aside", extra={"file": aside, "reason": "a newer relayd has written it"})
    return path


def shared(store: Store) -> bool:
    """Whether a second connection sees the same: one of SQLite in memory has a memory of its own."""
    return not isinstance(store, SqliteStore) or store.path != MEMORY
