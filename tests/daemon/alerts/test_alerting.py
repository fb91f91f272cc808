"""Alerting on two nodes with one real SQLite store and a receiver that answers in memory; time is trio's own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from builders import account, api_key, snapshot
from trio.testing import MockClock

from relayd.config.snapshot import Alert
from relayd.core.ailments import ServiceFacts
from relayd.core.alerts.book import REFRESH, SILENT, Notice
from relayd.core.alerts.events import AccountOut, AccountRecovered, GroupDown, GroupUp
from relayd.core.alerts.limit_watch import LimitWatch
from relayd.core.balancing.failover import Retry
from relayd.core.balancing.pool import Pool
from relayd.core.inventory import take_inventory
from relayd.core.live import Live
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.traffic import Traffic
from relayd.daemon.admin.alerts import alert_families, target_rows, try_target
from relayd.daemon.alerts.alerting import TURN, AlertFacts, Alerting
from relayd.daemon.alerts.destination import Undelivered
from relayd.daemon.alerts.shared_book import LEASE_MS, SharedBook
from relayd.daemon.alerts.teller import Teller
from relayd.daemon.events import Events
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Answer, Op, Settle, StoreUnavailable
from relayd.state.sqlite import SqliteStore

START = 1_790_000_000.0  # 2026-09-21, 14:13:20 UTC
OPS = Alert(url_file="x", gather=1.0, calm=5.0, repeat=0.0)  # type: ignore[arg-type]


class Store(SqliteStore):
    """A store that can be away."""

    away = False

    def apply(self, batch: Sequence[Op]) -> list[Answer]:
        if self.away:
            raise StoreUnavailable("gone")
        return super().apply(batch)


@attrs.define(eq=False)
class World:
    """One store, and what arrives. `fails`: what sending comes to, while it is not None."""

    path: Path
    zero: float = attrs.field(factory=trio.current_time)
    arrived: list[tuple[str, str, str]] = attrs.field(factory=list)  # target, saying, condition
    notices: list[Notice] = attrs.field(factory=list)
    fails: Undelivered | None = None
    slow: float = 0.0

    def wall(self) -> float:
        return START + trio.current_time() - self.zero

    def node(self, name: str, rank: int = 0, **relay: Any) -> Node:
        config = snapshot(
            accounts=(account("main"),), keys=(api_key(owner="o"),), relay={"alerts": {"ops": OPS}, **relay}
        )
        pool, live, events = Pool(), Live(config), Events()
        store = Store(str(self.path / "s.db"), clock=lambda: round(self.wall() * 1000))
        state = Batcher(StoreSession(store, events=events), threaded=False)
        pool.adopt(config, self.wall())
        facts = AlertFacts(
            live=live,
            pool=pool,
            traffic=Traffic,
            limits=LimitWatch(),
            service=lambda now: ServiceFacts(now=now, accounts=(), configured=0),
            inventory=take_inventory,
            token_ends=list,
            rank=lambda: rank,
        )
        teller = Teller(sender=self, wall=self.wall, rng=random.Random(1))  # type: ignore[arg-type]
        shared = SharedBook(state=state, life=name * 4, wall=self.wall)
        alerting = Alerting(
            events=events, facts=facts, state=state, shared=shared, teller=teller, node=name, wall=self.wall
        )
        return Node(alerting=alerting, store=store, state=state, events=events, live=live)

    async def send(self, notice: Notice, target: Alert, relay: Any) -> Undelivered | None:
        """In the place of a Sender."""
        await trio.sleep(self.slow)
        self.notices.append(notice)
        if self.fails is None:
            self.arrived += [(notice.target, one.saying, one.occurrence.condition) for one in notice.items]
        return self.fails

    def told(self) -> list[str]:
        return [f"{saying} {condition}" for _, saying, condition in self.arrived]


@attrs.define(eq=False)
class Node:
    alerting: Alerting
    store: Store
    state: Batcher
    events: Events
    live: Live
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.state.run)
            with self.scope:
                task_status.started()
                await self.alerting.run()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        yield
        for node in nodes:
            node.scope.cancel()


def out(until: str = "later") -> AccountOut:
    return AccountOut(account="main", reason="429", until=until)


def rests(*nodes: Node) -> None:
    """The account rests, as the nodes' pools know it."""
    for node in nodes:
        pool, now = node.alerting.facts.pool, node.alerting.wall()
        verdict = Retry(reason="429", scope="account", cooldown=3600.0, kind="rate")
        pool.observe(pool.begin("main", "", now), verdict, None, now, random.Random(1))
        assert pool.ailing("main", now)


@pytest.fixture
def world(tmp_path: Path) -> Callable[[], World]:
    return lambda: World(tmp_path)


async def test_two_nodes_that_see_the_same_tell_it_once_and_its_end_once(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    a, b = one.node("a"), one.node("b", rank=1)
    async with running(a, b):
        await trio.sleep(3)
        a.events.tell(GroupDown(group="g", reason="x"))
        b.events.tell(GroupDown(group="g", reason="x"))
        await trio.sleep(10)
        assert one.told() == ["begins group/g"]
        a.events.tell(GroupUp(group="g"))
        await trio.sleep(20)
        assert one.told() == ["begins group/g"]  # b still sees it
        b.events.tell(GroupUp(group="g"))
        await trio.sleep(20)
    assert one.told() == ["begins group/g", "ends group/g"]


async def test_when_the_teller_dies_the_other_goes_on_within_the_lease_and_tells_nothing_twice(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    a, b = one.node("a"), one.node("b")
    rests(a, b)
    async with running(a):
        await trio.sleep(3)
        a.events.tell(out())
        await trio.sleep(5)
        assert a.alerting.shared.book is not None
        a.store.away = True  # as after a kill -9, the lease is not given back
        a.scope.cancel()
    async with running(b):
        b.events.tell(out())
        b.events.tell(GroupDown(group="g", reason="x"))
        await trio.sleep(LEASE_MS / 1000 - 10)
        assert one.told() == ["begins account/main"]
        await trio.sleep(20)
    assert one.told() == ["begins account/main", "begins group/g"]


async def test_a_notice_under_way_at_the_end_arrives_and_is_not_sent_again_by_the_next(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    one.slow = 1.0
    a, b = one.node("a"), one.node("b")
    async with running(a):
        await trio.sleep(3)
        a.events.tell(GroupDown(group="g", reason="x"))
        while not a.alerting.teller._under_way:  # noqa: ASYNC110
            await trio.sleep(0.1)
        a.scope.cancel()
    async with running(b):
        await trio.sleep(10)
        b.events.tell(GroupDown(group="h", reason="x"))
        await trio.sleep(10)
    assert one.told() == ["begins group/g", "begins group/h"]


async def test_what_the_pool_knows_to_be_well_ends_though_nobody_says_so(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    a = one.node("a")
    rests(a)
    async with running(a):
        a.events.tell(out())
        await trio.sleep(30)
        assert one.told() == ["begins account/main"]
        a.alerting.facts.pool.restore("main", one.wall())
        await trio.sleep(30)
        a.events.tell(AccountRecovered(account="main"))
        await trio.sleep(30)
    assert one.told() == ["begins account/main", "ends account/main"]


async def test_a_target_that_is_added_is_told_what_lasts_and_no_target_asks_nothing_of_the_store(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    a = one.node("a", alerts={})
    async with running(a):
        a.events.tell(GroupDown(group="g", reason="x"))
        await trio.sleep(30)
        assert a.state.session.stats.operations == 0
        (seen,) = [condition for book in await a.alerting.books() for condition, _ in book.firing()]
        assert seen.last.condition == "group/g"
        a.live.swap(attrs.evolve(a.live.snapshot, relay=one.node("x").live.snapshot.relay))
        await trio.sleep(10)
    assert one.told() == ["begins group/g"]


async def test_a_node_that_says_nothing_any_more_is_forgotten_and_one_that_lives_says_it_again(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    a, b = one.node("a"), one.node("b")
    async with running(a):
        async with running(b):
            await trio.sleep(3)
            a.events.tell(GroupDown(group="of-a", reason="x"))
            b.events.tell(GroupDown(group="of-b", reason="x"))
            await trio.sleep(10)
        await trio.sleep(SILENT + REFRESH + 30)
    assert sorted(one.told()) == ["begins group/of-a", "begins group/of-b", "ends group/of-b"]


async def test_an_outage_is_told_by_each_node_in_its_turn_and_what_happens_meanwhile_is_told_too(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    a, b = one.node("a"), one.node("b", rank=1)
    async with running(a, b):
        await trio.sleep(3)
        for node in (a, b):
            node.store.away = True
        await trio.sleep(2)
        a.events.tell(GroupDown(group="g", reason="x"))
        await trio.sleep(20)
        assert one.told() == ["begins state", "begins group/g"]
        await trio.sleep(TURN)
        assert one.told() == ["begins state", "begins group/g", "begins state"]
        for node in (a, b):
            node.store.away = False
            node.state.session.connect()
        a.events.tell(GroupUp(group="g"))
        await trio.sleep(30)
    assert sorted(one.told()[3:]) == ["ends group/g", "ends state", "ends state"]


async def test_a_report_comes_at_its_time_once_from_the_books(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    target = attrs.evolve(OPS, daily_report="14:20", events=("state.*",))
    nodes = [one.node(name, alerts={"ops": target}) for name in ("a", "b")]
    async with running(*nodes):
        record = UsageRecord(day="2026-09-20", key="dev", account="main", model="m", requests=7, output=3, cost=120_000)
        nodes[0].state.submit_nowait(Settle(call="c", record=record))
        await trio.sleep(300)
        assert one.told() == []
        await trio.sleep(200)
    assert one.told() == ["once report.daily/2026-09-20"]
    shown = one.notices[0].items[0].occurrence.text
    assert shown.startswith("2026-09-20: 7 requests, 3 tokens, $0.12, 0.0% failed, 1 keys")


async def test_a_target_that_fails_is_seen_and_tried_until_it_takes_all_of_it(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    a = one.node("a")
    one.fails = Undelivered(reason="status 500")
    async with running(a):
        a.events.tell(GroupDown(group="g", reason="x"))
        await trio.sleep(100)
        assert a.alerting.failing()["ops"][1] == "status 500"
        assert a.alerting.queued() == {"ops": 1}
        now = one.wall()
        (ailment,) = a.alerting.ailments(now)
        assert ailment.startswith("alerts do not reach ops since 2026-09-21T14:13:")
        assert ailment.endswith("status 500 [relayd alert test ops]")
        assert a.alerting.ailments(START + 30) == ()
        (row,) = target_rows(a.alerting, now)
        assert (row["queued"], row["reason"]) == (1, "status 500")
        values = {one.metric.name: dict(one.samples) for one in alert_families(a.alerting)}
        assert values["relayd_alert_failing"] == {("ops",): 1}
        assert values["relayd_alert_notices_total"]["failed", "ops"] >= 4
        a.events.tell(GroupDown(group="h", reason="x"))
        one.fails = None
        await trio.sleep(200)
        assert a.alerting.failing() == {}
    assert one.told() == ["begins group/g", "begins group/h"]
    assert a.alerting.teller.failed["ops"] >= 4


async def test_a_target_that_failed_and_takes_a_test_ails_no_more_though_nothing_waits_for_it(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    a = one.node("a")
    one.fails = Undelivered(reason="status 500")
    async with running(a):
        a.events.tell(GroupDown(group="g", reason="x"))
        await trio.sleep(100)
        a.events.tell(GroupUp(group="g"))
        await trio.sleep(200)
        assert a.alerting.queued() == {"ops": 0}  # it was over before it could be told
        assert await try_target(a.alerting, "ops", one.wall()) == {
            "target": "ops", "delivered": False, "reason": "status 500",
        }  # fmt: skip
        assert a.alerting.ailments(one.wall()) != ()
        one.fails = None
        assert (await try_target(a.alerting, "ops", one.wall()))["delivered"]
        assert a.alerting.ailments(one.wall()) == ()


async def test_whoever_lost_the_lease_unnoticed_cannot_undo_what_the_next_wrote(
    world: Callable[[], World], autojump_clock: MockClock
) -> None:
    one = world()
    a, b = one.node("a"), one.node("b")
    for node in (a, b):
        node.state.session.up = True
    old = await a.alerting.shared.lead()
    assert old is not None
    assert await a.alerting.shared.save()
    assert await b.alerting.shared.lead() is None
    await trio.sleep(LEASE_MS / 1000 + 1)  # a stands still

    new = await b.alerting.shared.lead()
    assert new is not None
    new.number = 7
    assert await b.alerting.shared.save()
    old.number = 1
    assert not await a.alerting.shared.save()
    assert a.alerting.shared.book is None
    found = await a.alerting.shared.look()
    assert found is not None
    assert found.number == 7
    for node in (a, b):
        node.store.close()
