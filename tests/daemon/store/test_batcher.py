from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from operations import admit, record
from waiting import PATIENCE, until

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term
from relayd.core.quota.windows import FOREVER
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.failsafe import FailsafeStore
from relayd.daemon.store.journal import Journal
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import (
    Admit,
    Answer,
    Denied,
    Failed,
    Granted,
    Op,
    Peek,
    Ping,
    Pong,
    Reap,
    Release,
    Renew,
    Renewed,
    Report,
    Reported,
    Settle,
    StoreMisfit,
    StoreUnavailable,
    TermLevels,
    Void,
)
from relayd.state.sqlite import SqliteStore
from relayd.wire.refusal import Refusal

NOW = 1_800_000_000_000


MADE: list[FlakyStore] = []


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    """The stores inside stay open beyond their batcher, so that tests can look into them."""
    yield
    while MADE:
        MADE.pop().inner.close()


@attrs.define(eq=False)
class FlakyStore:
    """A real store in memory that can be away, slow, or lose answers. `log` is what it carried out."""

    inner: SqliteStore = attrs.field(factory=lambda: SqliteStore(":memory:", clock=lambda: NOW))
    deadline: float = PATIENCE
    name: str = "flaky"
    life: str = ""
    damaged: tuple[str, ...] = ()
    away: bool = False
    loses_answers: bool = False
    hold: threading.Event | None = None
    misfit: str = ""
    batches: list[int] = attrs.field(factory=list)
    log: list[Op] = attrs.field(factory=list)
    closed: bool = False
    entered: int = 0
    one_at_a_time: threading.Lock = attrs.field(factory=threading.Lock)  # the test asks it too

    def __attrs_post_init__(self) -> None:
        MADE.append(self)

    def apply(self, batch: Sequence[Op]) -> list[Answer]:
        self.entered += 1
        if self.hold is not None:
            self.hold.wait(60)
        if self.away:
            raise StoreUnavailable("flaky: away")
        self.log += [op for op in batch if not isinstance(op, Ping)]
        self.batches.append(len(batch))
        with self.one_at_a_time:
            answers = self.inner.apply(batch)
        if self.loses_answers:
            raise StoreUnavailable("flaky: answer lost")
        return answers

    def check(self) -> list[str]:
        if self.misfit:
            raise StoreMisfit(self.misfit)
        if self.away:
            raise StoreUnavailable("flaky: away")
        return ["flaky: a warning"]

    def close(self) -> None:
        self.closed = True

    def booked(self) -> int:
        with self.one_at_a_time:
            (answer,) = self.inner.apply([Report(first="2000-01-01", last="2100-01-01")])
        assert isinstance(answer, Reported)
        return sum(row.requests for row in answer.rows)


def one_slot(limit: int = 1) -> tuple[Term, ...]:
    return (Slots(counter="key/dev/slots", name="", limit=limit),)


def files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_a_question_is_answered_and_the_store_is_closed_at_the_end() -> None:
    store = FlakyStore()
    async with trio.open_nursery() as nursery:
        batcher = Batcher(StoreSession(store))
        await nursery.start(batcher.run)
        assert batcher.up
        assert batcher.session.warnings == ("flaky: a warning",)
        assert await batcher.ask(Ping()) == Pong(now=NOW)
        nursery.cancel_scope.cancel()
    assert store.closed


async def test_what_queues_while_the_store_is_busy_goes_as_one_batch(nursery: trio.Nursery) -> None:
    store = FlakyStore()
    batcher = Batcher(StoreSession(store))
    await nursery.start(batcher.run)
    store.hold = threading.Event()
    answers: list[Answer] = []

    async def ask(number: int) -> None:
        answers.append(await batcher.ask(admit(f"c{number}")))

    before = store.entered
    async with trio.open_nursery() as many:
        many.start_soon(ask, 0)
        await until(lambda: store.entered > before)  # the thread has taken the first, and is held up
        for number in range(1, 50):
            many.start_soon(ask, number)
        await until(lambda: batcher.queued == 49)
        store.hold.set()
    assert len(answers) == 50
    assert store.batches[-2:] == [1, 49]
    assert batcher.session.stats.largest == 49


async def test_who_waits_too_long_gives_up_and_the_admission_is_voided(nursery: trio.Nursery) -> None:
    store = FlakyStore(deadline=0.1)
    batcher = Batcher(StoreSession(store))
    await nursery.start(batcher.run)
    store.hold = threading.Event()
    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.1 s"):
        await batcher.ask(admit("late", one_slot()))
    store.hold.set()
    store.deadline = PATIENCE
    await until(lambda: Void(call="late") in store.log)
    # The slot is free again.
    assert isinstance(await batcher.ask(admit("next", one_slot())), Granted)


async def test_a_cancelled_admission_is_voided(nursery: trio.Nursery) -> None:
    store = FlakyStore()
    batcher = Batcher(StoreSession(store))
    await nursery.start(batcher.run)
    store.hold = threading.Event()
    before = store.entered
    async with trio.open_nursery() as asking:
        asking.start_soon(batcher.ask, admit("gone", one_slot()))
        await until(lambda: store.entered > before)
        asking.cancel_scope.cancel()
    store.hold.set()
    await until(lambda: Void(call="gone") in store.log)
    assert isinstance(await batcher.ask(admit("next", one_slot())), Granted)


async def test_while_the_store_is_away_questions_fail_at_once_and_settlements_are_replayed_once(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    store = FlakyStore()
    batcher = Batcher(StoreSession(store, Journal(tmp_path)))
    await nursery.start(batcher.run)
    assert isinstance(await batcher.ask(admit("c1", one_slot())), Granted)
    store.away = True
    with pytest.raises(StoreUnavailable):
        await batcher.ask(Ping())
    for _ in range(100):
        with pytest.raises(StoreUnavailable):
            await batcher.ask(Ping())
    assert batcher.queued <= 1
    batcher.submit_nowait(Settle(call="c1", record=record()))
    batcher.submit_nowait(Release(holder="h", counters=("s",)))
    await until(lambda: batcher.session.stats.journaled == 1)
    assert len(files_in(tmp_path)) == 1
    store.away = False
    await until(lambda: batcher.up)
    assert (store.booked(), batcher.session.stats.replayed, batcher.session.stats.outages) == (1, 1, 1)
    assert Journal(tmp_path).empty


async def test_a_settlement_whose_answer_was_lost_is_booked_once(nursery: trio.Nursery, tmp_path: Path) -> None:
    store = FlakyStore()
    batcher = Batcher(StoreSession(store, Journal(tmp_path)))
    await nursery.start(batcher.run)
    await batcher.ask(admit("c1"))
    store.loses_answers = True
    batcher.submit_nowait(Settle(call="c1", record=record()))
    await until(lambda: not batcher.up)
    store.loses_answers = False
    await until(lambda: batcher.up)
    assert store.booked() == 1


async def test_a_journal_of_an_earlier_life_is_replayed_at_the_start(tmp_path: Path) -> None:
    earlier = Journal(tmp_path)
    earlier.append([Settle(call=f"c{n}", record=record()) for n in range(300)])
    earlier.close()
    store = FlakyStore()
    async with trio.open_nursery() as nursery:
        batcher = Batcher(StoreSession(store, Journal(tmp_path)))
        await nursery.start(batcher.run)
        assert store.booked() == 300
        nursery.cancel_scope.cancel()
    assert files_in(tmp_path) == []


async def test_a_store_that_is_away_at_the_start_is_found_later(nursery: trio.Nursery) -> None:
    store = FlakyStore(away=True)
    batcher = Batcher(StoreSession(store))
    await nursery.start(batcher.run)
    assert not batcher.up
    with pytest.raises(StoreUnavailable, match="flaky: away"):
        await batcher.ask(Ping())
    store.away = False
    await until(lambda: batcher.up)
    assert await batcher.ask(Ping()) == Pong(now=NOW)


async def test_a_store_that_can_never_work_ends_the_pump() -> None:
    with pytest.RaisesGroup(StoreMisfit):
        async with trio.open_nursery() as nursery:
            await nursery.start(Batcher(StoreSession(FlakyStore(misfit="tables of version 9"))).run)


async def test_what_is_queued_when_the_daemon_stops_is_delivered(tmp_path: Path) -> None:
    store = FlakyStore()
    async with trio.open_nursery() as nursery:
        batcher = Batcher(StoreSession(store, Journal(tmp_path)))
        await nursery.start(batcher.run)
        for number in range(500):
            batcher.submit_nowait(Settle(call=f"c{number}", record=record()))
        nursery.cancel_scope.cancel()
    assert store.booked() == 500


async def test_what_is_queued_when_the_daemon_stops_during_an_outage_is_journaled(tmp_path: Path) -> None:
    store = FlakyStore(away=True)
    async with trio.open_nursery() as nursery:
        batcher = Batcher(StoreSession(store, Journal(tmp_path)))
        await nursery.start(batcher.run)
        for number in range(500):
            batcher.submit_nowait(Settle(call=f"c{number}", record=record()))
        nursery.cancel_scope.cancel()
    journal = Journal(tmp_path)
    assert sum(len(entries) for _, entries in journal.pending()) == 500


@pytest.mark.parametrize("rescue", ["none", "store", "journal"])
async def test_what_waits_in_memory_when_the_daemon_stops_is_tried_once_more_or_said_to_be_lost(
    rescue: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, place = FlakyStore(away=True), tmp_path / "place"
    place.touch()  # no directory can be made there
    async with trio.open_nursery() as nursery:
        batcher = Batcher(StoreSession(store, Journal(place / "journal")))
        await nursery.start(batcher.run)
        batcher.submit_nowait(Settle(call="c", record=record()), urgent=True)
        await until(lambda: batcher.session.losses().waiting == 1)
        store.away = rescue != "store"
        if rescue == "journal":
            place.unlink()
        nursery.cancel_scope.cancel()
    kept = Journal(place / "journal").pending()
    lost = [line for line in caplog.records if line.message == "state.unsaved"]
    assert (store.booked(), len(kept), len(lost)) == (rescue == "store", rescue == "journal", rescue == "none")


async def test_a_fault_of_ours_in_the_store_is_an_outage_and_not_the_end(nursery: trio.Nursery) -> None:
    store = FlakyStore()
    batcher = Batcher(StoreSession(store))
    await nursery.start(batcher.run)
    bad = Settle(call="c", record="no record")  # type: ignore[arg-type]
    answer = await batcher.ask(bad)
    assert isinstance(answer, Failed)
    assert await batcher.ask(Ping()) == Pong(now=NOW)


async def test_submitted_operations_tell_their_answer(nursery: trio.Nursery) -> None:
    batcher = Batcher(StoreSession(FlakyStore()))
    await nursery.start(batcher.run)
    told: list[Answer] = []
    batcher.submit_nowait(Ping(), told.append)
    await until(lambda: told == [Pong(now=NOW)])


async def test_the_loop_is_never_held_up_by_a_stalled_store(nursery: trio.Nursery) -> None:
    """As long as the store stands still, the loop goes round: were it held up, the loop here would not end."""
    store = FlakyStore()
    batcher = Batcher(StoreSession(store))
    await nursery.start(batcher.run)
    store.hold = threading.Event()
    before, answers = store.entered, list[Answer]()

    async def ask() -> None:
        answers.append(await batcher.ask(Ping()))

    async with trio.open_nursery() as inner:
        inner.start_soon(ask)
        await until(lambda: store.entered > before)
        for _ in range(100):
            await trio.sleep(0.001)
        assert answers == []
        store.hold.set()
    assert answers == [Pong(now=NOW)]


async def test_without_a_thread_answers_are_there_at_once_under_a_simulated_clock(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    batcher = Batcher(StoreSession(FlakyStore()), threaded=False)
    await nursery.start(batcher.run)
    assert isinstance(await batcher.ask(admit("c1", one_slot())), Granted)
    assert isinstance(await batcher.ask(admit("c2", one_slot())), Denied)
    batcher.submit_nowait(Settle(call="c1", record=record()))
    assert isinstance(await batcher.ask(admit("c3", one_slot())), Granted)
    assert trio.current_time() == 0
    batcher.session.store.close()


# -- outages -------------------------------------------------------------------------------------------------------


def day_cost(cost: int, limit: int = 10) -> tuple[Term, ...]:
    return (Calendar(counter="key/dev/cost/total", name="", unit="cost", limit=limit, cost=cost, start=0, end=FOREVER),)


async def counting(nursery: trio.Nursery, tmp_path: Path, policy: str) -> tuple[FailsafeStore, FlakyStore, FlakyStore]:
    main, side = FlakyStore(), FlakyStore()
    batchers = Batcher(StoreSession(main, Journal(tmp_path))), Batcher(StoreSession(side))
    for batcher in batchers:
        await nursery.start(batcher.run)
    return FailsafeStore(*batchers, policy=lambda: policy), main, side  # type: ignore[arg-type, return-value]


async def test_deny_refuses_with_503_while_the_store_is_away(nursery: trio.Nursery, tmp_path: Path) -> None:
    count, main, _ = await counting(nursery, tmp_path, "deny")
    assert isinstance(await count.admit(admit("c0")), Granted)
    main.away = True
    for number in range(3):
        with pytest.raises(Refusal) as caught:
            await count.admit(admit(f"c{number}"))
        assert (caught.value.status, caught.value.retry_after) == (503, 5)


async def test_allow_enforces_the_limits_here_and_charges_them_to_the_store_later(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    count, main, side = await counting(nursery, tmp_path, "allow")
    main.away = True
    assert isinstance(await count.admit(admit("c1", day_cost(6))), Granted)
    assert isinstance(await count.admit(admit("c2", day_cost(6))), Denied)
    count.settle("c1", record(cost=4))
    await until(lambda: side.booked() == 1)
    assert isinstance(await count.admit(admit("c3", day_cost(6))), Granted)
    count.settle("c3", record(cost=5))
    main.away = False
    await until(lambda: count.main.up)
    assert main.booked() == 2
    (peeked,) = main.inner.apply([Peek(terms=day_cost(0))])
    assert isinstance(peeked, TermLevels)
    assert peeked.levels[0].used == 9
    # And what is left is enforced by the real store again.
    assert isinstance(await count.admit(admit("c4", day_cost(2))), Denied)


async def test_an_admission_whose_answer_was_lost_is_booked_once_though_it_went_on_elsewhere(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    count, main, _ = await counting(nursery, tmp_path, "allow")
    main.loses_answers = True
    assert isinstance(await count.admit(admit("c1", day_cost(6))), Granted)
    main.loses_answers = False
    count.settle("c1", record(cost=4))
    await until(lambda: count.main.up and main.booked() == 1)
    await until(lambda: Void(call="c1") in main.log)
    (peeked,) = main.inner.apply([Peek(terms=day_cost(0))])
    assert isinstance(peeked, TermLevels)
    assert peeked.levels[0].used == 4


async def test_a_call_that_waits_for_room_may_ask_again_though_an_answer_was_lost_before(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    count, main, side = await counting(nursery, tmp_path, "allow")
    side.inner.apply([admit("other", one_slot())])
    main.loses_answers = True
    assert isinstance(await count.admit(admit("c1", one_slot())), Denied)  # here; there it is voided
    main.loses_answers = False
    await until(lambda: count.main.up and Void(call="c1") in main.log)
    assert isinstance(await count.admit(admit("c1", one_slot())), Granted)
    assert isinstance(await count.admit(admit("c2", one_slot())), Denied)

    lost: list[str] = []
    count.renew({"c1": None, "never": None}, [], lambda gone: lost.extend(gone))
    await until(lambda: lost == ["never"])
    with main.one_at_a_time:  # it is emptied
        main.inner.close()
        main.inner = SqliteStore(":memory:", clock=lambda: NOW)
    count.renew({"c1": None}, [], lambda gone: lost.extend(gone))
    await until(lambda: lost == ["never", "c1"])
    count.restore(admit("c1", one_slot()))
    assert isinstance(await count.admit(admit("c2", one_slot())), Denied)
    count.settle("c1", record(cost=4))
    await until(lambda: main.booked() == 1)
    assert isinstance(await count.admit(admit("c2", one_slot())), Granted)


async def test_allow_serves_on_when_there_is_no_place_to_count_at_all(nursery: trio.Nursery, tmp_path: Path) -> None:
    count, main, side = await counting(nursery, tmp_path, "allow")
    main.away = side.away = True
    assert isinstance(await count.admit(admit("c1", day_cost(6))), Granted)
    count.settle("c1", record())
    main.away = False
    await until(lambda: count.main.up)
    assert main.booked() == 1


async def test_what_a_killed_process_had_admitted_during_an_outage_is_booked_by_the_next(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    side = FlakyStore(inner=SqliteStore(str(tmp_path / "side.db"), clock=lambda: NOW))
    side.inner.apply([Admit(call="c1", terms=one_slot(), orphan=record(), ttl=1000)])
    later = FlakyStore(inner=SqliteStore(str(tmp_path / "side.db"), clock=lambda: NOW + 1000))
    main = FlakyStore()
    batchers = Batcher(StoreSession(main, Journal(tmp_path))), Batcher(StoreSession(later))
    for batcher in batchers:
        await nursery.start(batcher.run)
    count = FailsafeStore(*batchers, policy=lambda: "allow")
    count.reap()
    await until(lambda: main.booked() == 1)
    count.reap()
    await until(lambda: [type(op) for op in later.log].count(Reap) == 2)
    assert main.booked() == 1
    side.inner.close()
    later.inner.close()


async def test_a_heartbeat_goes_where_the_call_was_admitted_and_tells_what_is_lost(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    count, main, side = await counting(nursery, tmp_path, "allow")
    window = (Rolling(counter="r", name="", unit="requests", limit=9, cost=1, window=1000),)
    await count.admit(admit("up", window))
    main.away = True
    await count.admit(admit("down", window))
    main.away = False
    await until(lambda: count.main.up)
    lost: list[str] = []
    count.renew({"up": None, "down": record(), "never": None}, [("slots", "holder")], lambda gone: lost.extend(gone))
    await until(lambda: sorted(lost) == ["holder", "never"])
    await until(lambda: [type(op).__name__ for op in side.log] == ["Admit", "Renew"])


async def test_a_store_that_is_back_is_found_though_settlements_keep_coming(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    store = FlakyStore()
    batcher = Batcher(StoreSession(store, Journal(tmp_path)))
    await nursery.start(batcher.run)
    store.away = True
    with pytest.raises(StoreUnavailable):
        await batcher.ask(Ping())

    async def settle_on() -> None:
        for number in range(10_000):
            batcher.submit_nowait(Settle(call=f"s{number}", record=record()))
            await trio.sleep(0.005)

    nursery.start_soon(settle_on)
    await until(lambda: batcher.session.stats.journaled > 20)
    store.away = False
    await until(lambda: batcher.up)


async def test_the_side_store_lets_go_of_a_call_only_when_its_settlement_is_safe(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    """So whoever kills the process in between leaves a call that is reaped."""
    count, main, _ = await counting(nursery, tmp_path, "allow")
    main.away = True
    await count.admit(admit("c1"))
    main.away = False
    await until(lambda: count.main.up)
    main.hold = threading.Event()
    entered = main.entered
    count.settle("c1", record())
    await until(lambda: main.entered > entered)
    assert await booked_by(count.side) == 0
    main.hold.set()
    await until_booked(count.side, 1)


async def test_whatever_a_dead_node_left_is_reaped_at_once_however_much_it_is(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    main = FlakyStore()
    main.inner.apply([Admit(call=f"c{number}", terms=(), orphan=record(), ttl=0) for number in range(350)])
    batchers = Batcher(StoreSession(main, Journal(tmp_path))), Batcher(StoreSession(FlakyStore()))
    for batcher in batchers:
        await nursery.start(batcher.run)
    FailsafeStore(*batchers, policy=lambda: "allow").reap()
    await until_booked(batchers[0], 350)


async def test_a_store_that_was_replaced_is_told_again_what_it_may_have_lost(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    store = FlakyStore(life="first")
    batcher = Batcher(StoreSession(store, Journal(tmp_path)))
    await nursery.start(batcher.run)
    for number in range(200):
        batcher.submit_nowait(Settle(call=f"s{number}", record=record()))
    await until_booked(batcher, 200)
    before, store.inner = store.inner, SqliteStore(":memory:", clock=lambda: NOW)  # it has forgotten everything
    before.close()
    store.life = "second"
    await until_booked(batcher, 200)
    store.life = "third"  # it has forgotten nothing
    await batcher.ask(Ping())
    await until(lambda: batcher.session.stats.told_again == 400)
    assert await booked_by(batcher) == 200


async def test_an_answer_that_comes_as_patience_ends_is_not_both_taken_and_voided(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    """The loop is held up, so that the answer and the end of the wait are found in one pass, in either order."""
    store = FlakyStore(deadline=0.1)
    batcher = Batcher(StoreSession(store, Journal(tmp_path)))
    await nursery.start(batcher.run)
    granted = 0

    async def call(name: str) -> None:
        nonlocal granted
        with contextlib.suppress(StoreUnavailable):
            await batcher.ask(admit(name))
            granted += 1
            batcher.submit_nowait(Settle(call=name, record=record()))

    for number in range(10):
        async with trio.open_nursery() as asking:
            store.hold = threading.Event()
            asking.start_soon(call, f"c{number}")
            await trio.testing.wait_all_tasks_blocked()
            store.hold.set()
            time.sleep(0.12)  # noqa: ASYNC251 - that is the point
    store.deadline = PATIENCE
    assert await booked_by(batcher) == granted


async def test_a_call_that_two_stores_admitted_is_booked_once_after_its_process_was_killed(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    """The main store answered too late, the side store in time, and the kill came before the Void."""
    main, side = FlakyStore(), FlakyStore()
    for store in (main, side):
        store.inner.apply([Admit(call="c1", terms=one_slot(), orphan=record(), ttl=0)])
    batchers = Batcher(StoreSession(main, Journal(tmp_path))), Batcher(StoreSession(side))
    for batcher in batchers:
        await nursery.start(batcher.run)
    count = FailsafeStore(*batchers, policy=lambda: "allow")
    for _ in range(2):
        count.reap()
        await until_booked(batchers[1], 1)
        await until_booked(batchers[0], 1)


async def test_a_call_that_neither_store_answered_for_is_booked_though_its_process_is_killed(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    count, main, side = await counting(nursery, tmp_path, "allow")
    main.away = True
    side.hold = threading.Event()
    side.deadline = 0.05
    assert isinstance(await count.admit(admit("c1", one_slot())), Granted)
    side.hold.set()
    side.deadline = PATIENCE
    await count.side.ask(Ping())  # the side store has caught up; then the process dies, and its time runs out
    main.away = False
    later = FailsafeStore(count.main, Batcher(StoreSession(FlakyStore(inner=side.inner))), policy=lambda: "allow")
    await nursery.start(later.side.run)
    await until(lambda: later.main.up)
    (told,) = side.inner.apply([Renew(calls=(("c1~", None),), ttl=0)])
    assert told == Renewed()
    later.reap()
    await until_booked(later.side, 1)
    await until_booked(later.main, 1)


async def test_a_call_that_no_store_could_write_down_is_held_by_the_side_store_once_it_is_back(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    count, main, side = await counting(nursery, tmp_path, "allow")
    main.away = side.away = True
    assert isinstance(await count.admit(admit("c1", one_slot())), Granted)
    side.away = False
    await until(lambda: count.side.up)
    lost: list[str] = []
    count.renew({"c1": None}, [], lost.extend)
    await until(lambda: lost == ["c1"])  # by the name that its process knows
    count.restore(admit("c1", one_slot()))
    await count.side.ask(Ping())
    (told,) = side.inner.apply([Renew(calls=(("c1~", None),), ttl=0)])
    assert told == Renewed()  # the process dies, and its time runs out
    later = FailsafeStore(count.main, Batcher(StoreSession(FlakyStore(inner=side.inner))), policy=lambda: "allow")
    await nursery.start(later.side.run)
    main.away = False
    await until(lambda: later.main.up)
    later.reap()
    await until_booked(later.main, 1)


async def booked_by(batcher: Batcher) -> int:
    """The requests in the books, behind whatever was asked before."""
    answer = await batcher.ask(Report(first="2000-01-01", last="2100-01-01"))
    assert isinstance(answer, Reported)
    return sum(row.requests for row in answer.rows)


async def until_booked(batcher: Batcher, requests: int) -> None:
    with trio.fail_after(PATIENCE):
        while await booked_by(batcher) != requests:  # noqa: ASYNC110 - the store's thread books
            await trio.sleep(0.01)


async def test_a_call_that_moves_alone_is_counted_on_the_spot(tmp_path: Path) -> None:
    path, told = str(tmp_path / "relayd.db"), list[str]()
    store, quick = (SqliteStore(path, clock=lambda: NOW, busy=busy, deadline=PATIENCE) for busy in (60_000, 0))
    batcher = Batcher(StoreSession(store), quick=quick, alone=lambda: alone)
    alone = True
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        batcher.submit_nowait(Settle(call="lies", record=record()), kept=lambda: told.append("lies"))
        with trio.testing.assert_no_checkpoints():
            assert isinstance(await batcher.ask(admit("c1")), Granted)
        assert told == ["lies"]  # it went along
        batcher.submit_nowait(Settle(call="c1", record=record()), kept=lambda: told.append("c1"), urgent=True)
        assert told == ["lies", "c1"]

        alone = False
        batcher.submit_nowait(Settle(call="c2", record=record()), kept=lambda: told.append("c2"), urgent=True)
        assert told == ["lies", "c1"]
        await until(lambda: told == ["lies", "c1", "c2"])
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_counted_on_the_spot_goes_to_the_thread(tmp_path: Path) -> None:
    path = str(tmp_path / "relayd.db")
    store, quick = (SqliteStore(path, clock=lambda: NOW, busy=busy, deadline=PATIENCE) for busy in (60_000, 0))
    batcher = Batcher(StoreSession(store), quick=quick, alone=lambda: True)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answers: list[Answer] = []

            async def ask() -> None:
                answers.append(await batcher.ask(admit("c1")))

            nursery.start_soon(ask)
            await until(lambda: len(batcher._waiting) == 1)
            other.execute("COMMIT")
        await until(lambda: len(answers) == 1)
        assert isinstance(answers[0], Granted)
        nursery.cancel_scope.cancel()


async def test_recent_calls_hold_no_call_back(tmp_path: Path) -> None:
    """What the thread does beside calls takes none of them away from the quick way."""
    hold = threading.Event()
    store = FlakyStore(hold=hold)
    quick = SqliteStore(str(tmp_path / "relayd.db"), clock=lambda: NOW, busy=0)
    batcher = Batcher(StoreSession(store), quick=quick, alone=lambda: True)
    hold.set()
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        hold.clear()
        entered = store.entered
        batcher.submit_nowait(Ping(), aside=True)
        await until(lambda: store.entered == entered + 1)  # the thread is at it
        assert isinstance(await batcher.ask(admit("c1")), Granted)
        hold.set()
        nursery.cancel_scope.cancel()
