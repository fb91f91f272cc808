"""What a store refuses is set aside alone: everything else goes through, and nothing stops."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest
import trio
from waiting import PATIENCE, until

from relayd.core.quota.limits import LARGEST
from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.store import dead_letters
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.dead_letters import DeadLetters, Losses, loss_ailments
from relayd.daemon.store.journal import Journal, encode_entry
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Answer, Op, Report, Reported, Settle, StoreUnavailable, Void
from relayd.state.sqlite import SqliteStore

NOW = 1_800_000_000_000
BAD = "lone surrogate \ud800"  # no store can encode it


def record(**changes: object) -> UsageRecord:
    values = {"day": "2027-01-15", "key": "dev", "account": "main", "model": "claude-opus-5-5", "input": 7, "cost": 3}
    return UsageRecord(**{**values, **changes})  # type: ignore[arg-type]


STORES: list[SqliteStore] = []


def kept_open(store: SqliteStore) -> SqliteStore:
    """It is closed when the test ends."""
    STORES.append(store)
    return store


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while STORES:
        STORES.pop().close()


@attrs.define(eq=False)
class BreakingStore:
    """A store that breaks, with an error that no contract knows, over a batch with a call named "poison"."""

    inner: SqliteStore = attrs.field(factory=lambda: kept_open(SqliteStore(":memory:", clock=lambda: NOW)))
    deadline: float = PATIENCE
    name: str = "breaking"
    life: str = ""
    damaged: tuple[str, ...] = ()
    away: bool = False
    one_at_a_time: threading.Lock = attrs.field(factory=threading.Lock)

    def apply(self, batch: Sequence[Op]) -> list[Answer]:
        if self.away:
            raise StoreUnavailable("away")
        if any(getattr(op, "call", "") == "poison" for op in batch):
            raise OverflowError("can't serialize ints >= 2**64")
        with self.one_at_a_time:
            return self.inner.apply(batch)

    def check(self) -> list[str]:
        if self.away:
            raise StoreUnavailable("away")
        return []

    def close(self) -> None:
        """Not yet: what is in it is looked at afterwards."""

    def booked(self) -> int:
        with self.one_at_a_time:
            (answer,) = self.inner.apply([Report(first="2000-01-01", last="2100-01-01")])
        assert isinstance(answer, Reported)
        return sum(row.requests for row in answer.rows)


def letters_in(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def made(tmp_path: Path, store: BreakingStore | SqliteStore, **more: object) -> Batcher:
    letters = DeadLetters(tmp_path / "dead-letters.jsonl", lambda: NOW / 1000)
    return Batcher(StoreSession(store, Journal(tmp_path / "journal"), dead_letters=letters), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("threaded", [True, False])
async def test_one_operation_that_breaks_the_store_is_set_aside_and_the_others_are_booked(
    tmp_path: Path, threaded: bool
) -> None:
    store = BreakingStore()
    batcher = made(tmp_path, store, threaded=threaded)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        for n in range(40):
            batcher.submit_nowait(Settle(call="poison" if n == 17 else f"c{n}", record=record()))
        await until(lambda: batcher.session.stats.operations >= 40)
        assert batcher.up
        nursery.cancel_scope.cancel()

    assert store.booked() == 39
    (letter,) = letters_in(tmp_path / "dead-letters.jsonl")
    assert (letter["operation"], letter["call"]) == ("settle", "poison")
    assert letter["record"]["input"] == 7  # type: ignore[index]
    assert letter["time"] == "2027-01-15T08:00:00+00:00"
    losses = batcher.session.losses()
    assert (losses.count, losses.set_aside, losses.unwritten) == (1, 1, 0)
    assert str(tmp_path / "dead-letters.jsonl") in loss_ailments(losses)[0]


async def test_what_a_quick_store_refuses_is_set_aside_by_the_thread(tmp_path: Path) -> None:
    path = str(tmp_path / "relayd.db")
    store, quick = (SqliteStore(path, clock=lambda: NOW, busy=busy) for busy in (60_000, 0))
    batcher = made(tmp_path, store, quick=quick)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        told: list[str] = []
        batcher.submit_nowait(Settle(call=BAD, record=record()), kept=lambda: told.append("bad"))
        batcher.submit_nowait(Settle(call="good", record=record()), kept=lambda: told.append("good"))
        await until(lambda: len(told) == 2)
        nursery.cancel_scope.cancel()

    assert len(letters_in(tmp_path / "dead-letters.jsonl")) == 1


async def test_a_journal_that_no_store_can_take_is_replayed_once_and_does_not_stop_the_daemon(tmp_path: Path) -> None:
    before = Journal(tmp_path / "journal")
    before.append([Settle(call="a", record=record()), Settle(call="poison", record=record()), Void(call="b")])
    before.close()
    (file,) = (tmp_path / "journal").iterdir()
    file.write_bytes(file.read_bytes() + b"00000001 damaged\n")
    store = BreakingStore()
    batcher = made(tmp_path, store)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        assert batcher.up
        assert isinstance(await batcher.ask(Report(first="2027-01-15", last="2027-01-15")), Reported)
        nursery.cancel_scope.cancel()

    assert store.booked() == 1
    assert [letter["operation"] for letter in letters_in(tmp_path / "dead-letters.jsonl")] == ["settle", "journal-line"]
    assert (batcher.session.losses().damaged, batcher.session.losses().count) == (1, 2)
    assert Journal(tmp_path / "journal").empty
    assert any("damaged" in line for line in loss_ailments(batcher.session.losses()))


async def test_what_the_journal_cannot_write_down_is_set_aside_during_an_outage(tmp_path: Path) -> None:
    store = BreakingStore(away=True)
    batcher = made(tmp_path, store)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        batcher.submit_nowait(Settle(call=BAD, record=record()))
        batcher.submit_nowait(Settle(call="good", record=record()))
        await until(lambda: batcher.session.stats.journaled == 1 and batcher.session.losses().count == 1)
        store.away = False
        await until(lambda: store.booked() == 1)
        nursery.cancel_scope.cancel()


async def test_a_store_whose_check_breaks_is_away_and_the_thread_lives(tmp_path: Path) -> None:
    @attrs.define(eq=False)
    class Odd(BreakingStore):
        odd: bool = True

        def check(self) -> list[str]:
            if self.odd:
                raise ValueError("7.x is not a version")
            return []

    store = Odd()
    batcher = made(tmp_path, store)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        assert not batcher.up
        store.odd = False
        await until(lambda: batcher.up)
        nursery.cancel_scope.cancel()


async def test_a_store_that_breaks_over_everything_is_away_and_nothing_is_set_aside(tmp_path: Path) -> None:
    @attrs.define(eq=False)
    class Broken(BreakingStore):
        broken: bool = False

        def apply(self, batch: Sequence[Op]) -> list[Answer]:
            if self.broken:
                raise KeyError("our bug")
            return super().apply(batch)

    store = Broken()
    batcher = made(tmp_path, store)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        store.broken = True
        batcher.submit_nowait(Settle(call="c1", record=record()))
        await until(lambda: batcher.session.stats.journaled == 1)
        assert not batcher.up
        store.broken = False
        await until(lambda: store.booked() == 1)
        nursery.cancel_scope.cancel()
    assert batcher.session.losses().count == 0


def test_letters_of_an_earlier_process_count_until_the_file_is_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "state" / "dead-letters.jsonl"
    DeadLetters(path, lambda: 5.0).add(Void(call="x"), "no")
    later = DeadLetters(path, lambda: 6.0)

    assert later.look()[0] == 1
    assert later.look()[1] == path.stat().st_mtime_ns / 1e9
    assert path.stat().st_mode & 0o777 == 0o600
    path.rename(tmp_path / "moved")
    assert later.look() == (0, 0.0)
    assert loss_ailments(Losses()) == []
    assert loss_ailments(Losses(waiting=2, problem="/j: no space left on device")) == [
        "2 settlements wait in memory alone, and end with this process: /j: no space left on device"
        " [make room for the journal, or let the daemon write there]"
    ]


def test_a_full_file_and_a_path_that_cannot_be_written_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_BYTES", 300)
    letters = DeadLetters(tmp_path / "full.jsonl", lambda: 5.0)
    for n in range(5):
        letters.add(Void(call=f"c{n}"), "no")
    assert letters.set_aside + letters.unwritten == 5
    assert letters.unwritten
    assert letters.path.stat().st_size <= 300
    (tmp_path / "file").touch()
    blocked = DeadLetters(tmp_path / "file" / "x.jsonl", lambda: 5.0)
    blocked.add(Void(call="x"), "no")
    assert blocked.unwritten == 1


def test_a_damaged_line_is_counted_once_however_often_the_replay_breaks_off(tmp_path: Path) -> None:
    (tmp_path / "settlements-0.journal").write_bytes(b"not a line\n" + encode_entry(Void(call="x")))
    journal = Journal(tmp_path)
    for _ in range(3):
        assert [entry for _, entries in journal.pending() for entry in entries] == [Void(call="x")]
    assert journal.damaged == 1
    (path, _), *_ = journal.pending()
    assert journal.forget(path) == [b"not a line"]
    assert journal.damaged == 1


def test_a_record_holds_only_numbers_that_every_store_can_hold() -> None:
    wild = record(input=2**70, output=-5, cost=10**400, cache_read=True)

    assert (wild.input, wild.output, wild.cost, wild.cache_read) == (LARGEST, 0, LARGEST, 1)
    assert wild.tokens == LARGEST
    for bad in ("x", None, float("nan"), float("inf")):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            record(input=bad)
