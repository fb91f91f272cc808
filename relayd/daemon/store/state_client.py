"""State client: the state store in the life of the daemon: batchers, heartbeats, what nodes tell each other.

Rule: nothing here is asked on the hot path but `failsafe` (one round trip a call), `leases` (one more where the account
has a ceiling) and `remembered` (one look-up for the first call of a conversation). Everything else runs in the
background, and may fail without a call noticing.

Theory: a store holds what must survive this process. Calls in flight tell it that they live, so that what a killed
process left open is settled by whoever looks next; a call that the store has lost (it was emptied) is admitted anew.
Health of accounts is published when it turns, and gathered from the others, so that a 429 on one node rests the account
on all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import msgspec
import trio

from relayd.core.balancing.pool import Pool
from relayd.core.cluster import steadied
from relayd.core.in_flight import InFlight
from relayd.daemon.beside import Beside
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.failsafe import FailsafeStore
from relayd.daemon.store.leases import Leases
from relayd.daemon.store.lives import LifeLock, owner_of
from relayd.daemon.store.store_reader import StoreReader
from relayd.state.contract import (
    Admit,
    Gather,
    Gathered,
    GetPin,
    Pin,
    Pinned,
    Publish,
    StoreUnavailable,
)

RENEW = 5.0  # s between heartbeats of calls: what a killed process had streamed since is not booked
BEATS = 4  # at least so many of them in the life of a lease
REAPS = 2  # looks for what dead processes left, in the life of a lease
TOGETHER = 50  # calls in one heartbeat: about 2 ms
PAUSE = 0.02  # s between them; ten thousand streams take 4 s
DYING = 1.0  # s between the end of a process's sockets and that of its locks
SHARE = 1.0  # s between exchanges of health


@attrs.define(eq=False, kw_only=True)
class StateClient:
    """One process's way to the state.

    Args:
        main: the batcher of the store.
        failsafe: the same for calls, which go on while the store is away.
        leases: attempts on accounts with a ceiling.
        side: the batcher of the store of this host, for outages.
        in_flight: the calls that the heartbeat tells of.
        pool: whose health is shared.
        wall: Unix time, s.
        reader: reads of the same store beside calls.
        life: this process among those of its host; None looks for no dead ones.
        ceilings: counters of slots of accounts, that a dead process may have held.
    """

    main: Batcher
    failsafe: FailsafeStore
    leases: Leases
    side: Batcher
    in_flight: InFlight
    pool: Pool
    wall: Callable[[], float]
    reader: StoreReader = attrs.Factory(lambda self: StoreReader(self.main, None, Beside(), self.wall), takes_self=True)
    life: LifeLock | None = None
    ceilings: Callable[[], tuple[str, ...]] = tuple
    _heard: int = 0  # version of the last health note
    _ahead: float = 0.0  # s that the store's clock is ahead of ours, as far as it matters

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Started once the store was tried. Raises: StoreMisfit."""
        lease = self.failsafe.lease_ms / 1000
        last = trio.CancelScope(shield=True)  # the side store is told when the main one has everything

        async def run_side(*, task_status: trio.TaskStatus[None]) -> None:
            with last:
                await self.side.run(task_status=task_status)

        async with trio.open_nursery() as outer:
            await outer.start(run_side)
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.main.run)
                    await self._bury()
                    await self._gather_health()
                    task_status.started()
                    nursery.start_soon(_every, min(RENEW, lease / BEATS), self._renew)
                    nursery.start_soon(_every, lease / REAPS, self._reap)
                    nursery.start_soon(_every, SHARE, self._share_health)
            finally:
                last.cancel()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self.reader.close)

    async def _renew(self) -> None:
        """The heartbeat, a few calls at a time: for thousands of streams at once the loop and the store would stand
        still for some 40 us each."""
        calls, held = self.in_flight.admitted(), self.leases.held()
        for start in range(0, max(len(calls), len(held)), TOGETHER):
            some = {name: call.consumed() for name, call in calls[start : start + TOGETHER]}
            self.failsafe.renew(some, held[start : start + TOGETHER], self._restore)
            await trio.sleep(PAUSE)

    def _restore(self, lost: tuple[str, ...]) -> None:
        """Hold again what the store has lost. `lost`: call ids and holders of leases."""
        for name in lost:
            quota = self.in_flight.quota_of(name)
            if quota is not None:
                ttl = self.failsafe.lease_ms
                self.failsafe.restore(Admit(call=name, terms=quota.terms, orphan=quota.orphan, ttl=ttl))
            else:
                self.leases.restore(name)

    async def _reap(self) -> None:
        self.failsafe.reap()

    async def _bury(self) -> None:
        """Settle what processes of this host left that were killed: nobody has to wait for their leases."""
        for life in self.life.dead if self.life is not None else ():
            if await self.failsafe.bury(owner_of(life), self.ceilings()) and self.life is not None:
                self.life.bury(life)

    async def bury_life(self, life: str) -> None:
        """Settle what a process of this host left that has just ended, unless it has done so itself."""
        with trio.move_on_after(DYING):
            while self.life is not None and not self.life.look_for(life):  # noqa: ASYNC110 - a lock tells nobody
                await trio.sleep(PAUSE)
        await self._bury()

    async def _share_health(self) -> None:
        self.pool.review(self.wall())
        await self._bury()
        await self._gather_health()  # first: it tells how far the store's clock is ahead of ours by now
        for account in self.pool.take_changed():
            try:
                body = msgspec.json.encode(self.pool.snapshot_health(account, self._ahead)).decode()
            except KeyError:
                continue  # it left the config meanwhile
            self.main.submit_nowait(Publish(topic="health", name=account, body=body))

    async def _gather_health(self) -> None:
        try:
            answer = await self.main.ask(Gather(topic="health", since=self._heard))
        except StoreUnavailable:
            return
        if not isinstance(answer, Gathered):
            return
        self._ahead = steadied(self._ahead, answer.now / 1000 - self.wall())
        for note in answer.notes:
            self._heard = note.version  # not always more than before: a store that lost its data begins anew
            try:
                state = msgspec.json.decode(note.body, type=dict)
            except msgspec.DecodeError:
                continue
            self.pool.load_health(note.name, state, self.wall(), self._ahead)

    async def remembered(self, affinity: str, keep: float) -> str | None:
        """The account of a conversation that this process does not know, from the store; None when it is new.

        Args:
            keep: s that the pin holds from now on, if there is one.
        """
        try:
            answer = await self.main.ask(GetPin(name=f"affinity/{affinity}", ttl=round(keep * 1000)))
        except StoreUnavailable:
            return None
        return answer.value if isinstance(answer, Pinned) else None

    def remember(self, affinity: str, account: str, keep: float) -> None:
        """Write down where a conversation is. Sync."""
        self.main.submit_nowait(Pin(name=f"affinity/{affinity}", value=account, ttl=round(keep * 1000)))


async def _every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await trio.sleep(seconds)
        await act()
