"""Reads of pages: through a connection of their own, and a report that took long is told again for a while."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import pytest
import trio

from relayd.daemon.beside import TURN, Beside
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_reader import StoreReader
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Answer, Op, Peek, Report, StoreMisfit, StoreUnavailable
from relayd.state.sqlite import SqliteStore

WEEK = Report(first="2027-01-01", last="2027-01-07")


@attrs.define
class Slow:
    """A store whose answers take long, by its own clock."""

    seconds: float
    now: float = 1_800_000_000.0
    inner: SqliteStore = attrs.field(factory=lambda: SqliteStore(":memory:", clock=lambda: 1))
    asked: list[Op] = attrs.field(factory=list)
    intervals: list[float] = attrs.field(factory=list)

    def apply(self, batch: list[Op]) -> list[Answer]:
        self.asked += batch
        self.intervals.append(sys.getswitchinterval())
        self.now += self.seconds
        return self.inner.apply(batch)

    def close(self) -> None:
        self.inner.close()


def reader(store: Slow, *, up: bool = True) -> StoreReader:
    main = Batcher(StoreSession(store.inner))
    main.session.up, main.session.reason = up, "" if up else "gone"
    return StoreReader(main, store, Beside(), lambda: store.now)  # type: ignore[arg-type]


async def test_a_report_that_took_long_is_told_again_and_a_level_never() -> None:
    store = Slow(0.05)
    one = reader(store)
    assert await one.ask(WEEK) == await one.ask(WEEK)
    assert len(store.asked) == 1
    for _ in range(2):
        await one.ask(Peek(terms=()))
    assert len(store.asked) == 3
    one.close()


async def test_turns_are_short_while_something_is_read_and_only_then() -> None:
    usual, store = sys.getswitchinterval(), Slow(0.01)
    one = reader(store)
    async with trio.open_nursery() as nursery:
        for day in ("2027-01-01", "2027-01-02", "2027-01-03"):
            nursery.start_soon(one.ask, Report(first=day, last=day))
    assert store.intervals == pytest.approx([TURN] * 3)
    assert sys.getswitchinterval() == usual
    one.close()


async def test_a_store_that_is_away_or_cannot_be_used_is_an_answer(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="gone"):
        await reader(Slow(0.0), up=False).ask(WEEK)

    class Misfit(Slow):
        def apply(self, batch: list[Op]) -> list[Answer]:
            raise StoreMisfit("of a newer relayd")

    with pytest.raises(StoreUnavailable, match="newer relayd"):
        await reader(Misfit(0.0)).ask(WEEK)
