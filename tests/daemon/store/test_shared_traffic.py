"""What nodes tell each other of calls: added up, kept over a restart, and never in the way while the store is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from builders import api_key, snapshot
from waiting import PATIENCE

from relayd.core.live import Live
from relayd.core.receipt import Receipt
from relayd.daemon.beside import Beside
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.shared_traffic import OLD, TRAFFIC, SharedTraffic
from relayd.daemon.store.store_reader import StoreReader
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Gather, Gathered, Publish, Report, StoreUnavailable
from relayd.state.sqlite import SqliteStore

NOW = 1_800_000_000.0


def receipt(started: float = NOW, **fields: Any) -> Receipt:
    dull: dict[str, Any] = {
        "call_id": "req_1", "started": started, "method": "POST", "path": "/v1/messages", "dialect": "anthropic",
        "client": "cli", "peer": "192.0.2.1", "status": 200, "seconds": 1.0, "key": "dev",
    }  # fmt: skip
    return Receipt(**{**dull, **fields})


@attrs.define
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now

    def ms(self) -> int:
        return round(self.now * 1000)


@attrs.frozen
class Nodes:
    """Batcher and reader of one store, of which nodes are made."""

    main: Batcher
    reader: StoreReader
    clock: Clock

    def node(self, name: str) -> SharedTraffic:
        live = Live(snapshot(keys=(api_key(),)))
        return SharedTraffic(live=live, state=self.main, reader=self.reader, node=name, wall=self.clock)


@asynccontextmanager
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    clock = Clock()
    path = str(tmp_path / "relayd.db")
    main = Batcher(StoreSession(SqliteStore(path, clock=clock.ms, deadline=PATIENCE)))
    reader = StoreReader(main, SqliteStore(path, clock=clock.ms), Beside(), clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(main.run)
        yield Nodes(main, reader, clock)
        nursery.cancel_scope.cancel()
    reader.close()


async def calls_of(node: SharedTraffic) -> int:
    return sum(row.calls for part in await node.all() for row in part.known("day").values())


async def settled(world: Nodes) -> None:
    """Whatever was handed to the store is in it."""
    await world.main.ask(Gather(topic=TRAFFIC))


async def test_each_node_knows_what_all_have_seen(tmp_path: Path) -> None:
    async with nodes(tmp_path) as world:
        one, other = world.node("one"), world.node("other")
        one.record(receipt(cost=3))
        other.record(receipt())
        other.record(receipt(client="sdk", started=NOW + 5))
        for node in (one, other):
            await node.tell()
        await settled(world)
        world.clock.now += 3  # what was asked a moment ago is not asked again
        assert [await calls_of(node) for node in (one, other)] == [3, 3]
        assert one.complete
        assert one.uses.last("dev") == int(NOW + 5)
        world.clock.now += 10
        other.record(receipt(started=NOW + 8))
        await other.tell()
        await settled(world)
        assert await calls_of(one) == 4


async def test_a_restarted_node_goes_on_where_it_was(tmp_path: Path) -> None:
    async with nodes(tmp_path) as world:
        before = world.node("one")
        before.record(receipt())
        await before.tell()
        await settled(world)
        after = world.node("one")
        after.record(receipt())
        assert await calls_of(after) == 2
        assert after.uses.last("dev") == int(NOW)
        await after.tell()
        await settled(world)
        assert await calls_of(world.node("other")) == 2, "counted once"


async def test_while_the_store_is_away_what_is_known_is_told_as_such(tmp_path: Path) -> None:
    async with nodes(tmp_path) as world:
        one = world.node("one")
        one.record(receipt())
        world.main.session.up = False
        await one.tell()
        assert await calls_of(one) == 1
        assert not one.complete
        try:
            await world.reader.ask(Report(first="2027-01-01", last="2027-01-02"))
        except StoreUnavailable:
            pass
        else:
            raise AssertionError("nothing is asked of a store that is away")
        world.main.session.up = True


async def test_a_note_that_cannot_be_read_harms_nobody_and_an_old_one_is_emptied(tmp_path: Path) -> None:
    async with nodes(tmp_path) as world:
        gone = world.node("gone")
        gone.record(receipt(started=NOW - OLD - 10_000))
        await gone.tell()
        for body in ("{", "[]", '{"v": 1, "rings": 3}'):
            world.main.submit_nowait(Publish(topic=TRAFFIC, name=f"odd {body}", body=body))
        await settled(world)
        one = world.node("one")
        one.record(receipt())
        assert await calls_of(one) == 1
        answer = await world.main.ask(Gather(topic=TRAFFIC))
        assert isinstance(answer, Gathered)
        assert {note.name: note.body for note in answer.notes}["gone"] == ""
