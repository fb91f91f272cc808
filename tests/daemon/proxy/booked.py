"""A relay of real parts that counts in a state store, and the official SDK as its client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import attrs
import trio
from builders import KEY, OTHER_KEY
from fakes import NO_TLS, NOON, House, clock_from_noon, relaying
from simulated_objects import ObjectUpstreams

from relayd.config.snapshot import Snapshot
from relayd.core.balancing.pool import Pool
from relayd.core.in_flight import InFlight
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.failsafe import FailsafeStore
from relayd.daemon.store.journal import Journal
from relayd.daemon.store.leases import Leases
from relayd.daemon.store.state_client import StateClient
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Answer, Op, StoreUnavailable
from relayd.state.sqlite import SqliteStore


@attrs.define(eq=False)
class Clock:
    """Unix time, s, that a test sets."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now

    def ms(self) -> int:
        """Unix ms."""
        return round(self.now * 1000)


@attrs.define(eq=False)
class FickleStore:
    """A store in memory that can be away."""

    inner: SqliteStore
    away: bool = False
    away_for: tuple[type[Op], ...] = ()  # fails batches that hold one of these
    asked: list[Op] = attrs.field(factory=list)
    life: str = ""
    damaged: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "fickle"

    @property
    def deadline(self) -> float:
        return self.inner.deadline

    def apply(self, batch: Any) -> list[Answer]:
        if self.away or any(isinstance(op, self.away_for) for op in batch):
            raise StoreUnavailable("fickle: away")
        self.asked += batch
        return self.inner.apply(batch)

    def check(self) -> list[str]:
        if self.away:
            raise StoreUnavailable("fickle: away")
        return self.inner.check()

    def close(self) -> None:
        self.inner.close()


@attrs.define(eq=False)
class Booked:
    """The relay, its store, and the clock of the store and of simulated upstreams."""

    house: House
    store: FickleStore
    main: Batcher
    clock: Clock
    state: StateClient
    _clients: dict[tuple[str, str], anthropic.AsyncAnthropic] = attrs.field(factory=dict)

    @property
    def url(self) -> str:
        host, port = self.house.sockets[0].getsockname()
        return f"http://{host}:{port}"

    def sdk(self, key: str = KEY, path: str = "") -> anthropic.AsyncAnthropic:
        """The official client, without retries."""
        if (key, path) not in self._clients:
            client = anthropic.AsyncAnthropic(api_key=key, base_url=self.url + path, max_retries=0)
            self._clients[key, path] = client
        return self._clients[key, path]

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            await client.close()

    def ask(self, op: Op) -> Answer:
        """Ask the store itself."""
        return self.store.inner.apply([op])[0]

    def come_back(self) -> None:
        """End the store's absence, as the batcher's next look at it would."""
        self.store.away, self.store.away_for = False, ()
        self.main.session.up = True


@asynccontextmanager
async def booked(
    snapshot: Snapshot, tmp_path: Path, *, beside: Booked | None = None, main: Batcher | None = None, ids: str = ""
) -> AsyncIterator[Booked]:
    """A relay with a state store for the length of the block. The store answers on the spot.

    Args:
        beside: another process's, with whose store and clock this one counts.
        main: the way to another store.
        ids: how its call ids begin.
    """
    clock = beside.clock if beside else Clock()
    store = FickleStore(beside.store.inner if beside else SqliteStore(":memory:", clock=clock.ms))
    main = main or Batcher(StoreSession(store, Journal(tmp_path / "journal")), threaded=False)
    side = Batcher(StoreSession(SqliteStore(":memory:", clock=clock.ms)), threaded=False)
    pool, wall, in_flight = Pool(), clock_from_noon(), InFlight()
    failsafe = FailsafeStore(main, side, lambda: house.live.snapshot.relay.state.on_outage)
    state = StateClient(
        main=main,
        failsafe=failsafe,
        leases=Leases(failsafe, pool, wall),
        side=side,
        in_flight=in_flight,
        pool=pool,
        wall=wall,
    )
    parts = {"pool": pool, "wall": wall, "in_flight": in_flight, "state": state}
    ids = ids or ("req_beside" if beside is not None else "req_test")
    upstreams = ObjectUpstreams(lambda: NO_TLS, clock)
    async with relaying(snapshot, upstreams=upstreams, ids=ids, **parts) as house, trio.open_nursery() as nursery:
        await nursery.start(state.run)
        world = Booked(house, store, main, clock, state)
        try:
            yield world
        finally:
            with trio.CancelScope(shield=True):
                await world.close()
            nursery.cancel_scope.cancel()
    side.session.store.close()
    if beside is None:
        store.close()


__all__ = ["KEY", "OTHER_KEY", "Booked", "Clock", "FickleStore", "booked"]
