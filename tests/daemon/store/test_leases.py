"""An account's max_concurrency and pace hold over all processes that share a state store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from booked import Booked, booked
from builders import account, api_key, snapshot
from fakes import ASK, Client, Told
from trio.testing import MockClock
from waiting import until

from relayd.config.snapshot import Account, Pace, Snapshot, State
from relayd.core.in_flight import AdmittedCall
from relayd.core.quota.call_estimate import NOTHING
from relayd.core.quota.reservation import Quota, account_terms
from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.store.state_client import TOGETHER
from relayd.state.contract import Acquire, Admit, Peek, Reap, Reaped, Renew, Report, Reported, TermLevels
from relayd.state.sqlite import SqliteStore

NOTHING_HEARD = UsageRecord(day="2027-01-15", key="dev", account="", model="claude-haiku-4-5")


def tree(*accounts: Account, **relay: Any) -> Snapshot:
    return snapshot(keys=(api_key(),), accounts=accounts, relay=relay)


@asynccontextmanager
async def two(config: Snapshot, tmp_path: Path) -> AsyncIterator[tuple[Booked, Booked]]:
    """Two processes' relays on one store."""
    async with booked(config, tmp_path / "one") as one, booked(config, tmp_path / "two", beside=one) as other:
        yield one, other


async def begun(world: Booked, seconds: str = "30") -> Client:
    """A call that is in flight, and stays so for some seconds."""
    client = await world.house.connect()
    await client.post(x_simulate_first_byte=seconds)
    await until(world.house.in_flight)
    return client


def slots(world: Booked, one: Account) -> int:
    answer = world.ask(Peek(terms=account_terms(one)))
    assert isinstance(answer, TermLevels)
    return answer.levels[0].used


def paced(world: Booked, one: Account) -> int:
    answer = world.ask(Peek(terms=account_terms(one)))
    assert isinstance(answer, TermLevels)
    return answer.levels[1].used


async def statuses(worlds: tuple[Booked, ...], count: int) -> list[Told]:
    return [await worlds[number % len(worlds)].house.ask(ASK) for number in range(count)]


async def test_an_account_that_is_full_elsewhere_takes_no_call_and_is_free_again_afterwards(tmp_path: Path) -> None:
    only = account("a", max_concurrency=1)
    async with two(tree(only), tmp_path) as (one, other):
        client = await begun(one)

        refused = await other.house.ask(ASK)

        assert refused.error[:2] == (429, "rate_limit_error")
        assert "a: 1 calls in flight on all nodes" in refused.error[2]
        assert slots(one, only) == 1
        await client.leave("close")  # cancels the call
        await until(lambda: not slots(one, only))
        assert (await other.house.ask(ASK)).status == 200
        assert slots(one, only) == 0


async def test_a_call_goes_to_another_account_when_the_first_is_full_elsewhere(tmp_path: Path) -> None:
    first, second = account("a", max_concurrency=1, priority=1), account("b", priority=2)
    async with two(tree(first, second), tmp_path) as (one, other):
        await begun(one)

        assert (await other.house.ask(ASK)).status == 200
        assert [receipt.account for receipt in other.house.receipts.receipts] == ["b"]


async def test_a_pace_is_kept_over_both_and_the_refusal_says_when(tmp_path: Path, jumping_clock: MockClock) -> None:
    only = account("a", pace=Pace(requests_per_minute=5))
    async with two(tree(only), tmp_path) as worlds:
        told = await statuses(worlds, 8)

        assert [one.status for one in told] == [200] * 5 + [429] * 3
        assert "5 calls started in a minute" in told[-1].error[2]
        assert 55 <= int(told[-1]["retry-after"]) <= 60


async def test_while_the_store_is_away_the_ceiling_holds_on_this_host(tmp_path: Path) -> None:
    only = account("a", max_concurrency=1, pace=Pace(requests_per_minute=3))
    async with booked(tree(only), tmp_path) as world:
        world.store.away = True
        assert [(await world.house.ask(ASK)).status for _ in range(4)] == [200, 200, 200, 429]


async def test_deny_refuses_when_the_store_goes_away_between_admission_and_attempt(tmp_path: Path) -> None:
    only = account("a", max_concurrency=1)
    async with booked(tree(only, state=State(on_outage="deny")), tmp_path) as world:
        world.store.away_for = (Acquire,)
        refused = await world.house.ask(ASK)

        assert refused.error[:2] == (503, "api_error")
        assert world.house.pool.in_flight("a") == 0


async def test_a_long_call_keeps_its_slot_by_the_heartbeat(tmp_path: Path) -> None:
    only = account("a", max_concurrency=1)
    async with booked(tree(only), tmp_path) as world:
        client = await begun(world)
        for _ in range(4):
            world.clock.now += 30  # a lease lasts a minute
            await world.state._renew()
        assert slots(world, only) == 1
        await client.leave("close")


async def test_an_emptied_store_is_told_again_which_slots_are_taken(tmp_path: Path) -> None:
    only = account("a", max_concurrency=1, pace=Pace(requests_per_minute=9))
    async with booked(tree(only), tmp_path) as world:
        client = await begun(world)
        world.store.inner.close()
        world.store.inner = SqliteStore(":memory:", clock=world.clock.ms)
        assert slots(world, only) == 0

        await world.state._renew()
        assert slots(world, only) == 1
        assert paced(world, only) == 0, "the pace was charged when the call began"
        await client.leave("close")
        await until(lambda: not slots(world, only))


async def test_the_heartbeat_of_many_calls_goes_a_few_at_a_time_and_leaves_none_out(tmp_path: Path) -> None:
    one = account("a", max_concurrency=500)
    ids = [f"req_{number:03d}" for number in range(173)]
    async with booked(tree(one), tmp_path) as world:
        for name in ids:
            world.ask(Admit(call=name, terms=(), orphan=NOTHING_HEARD))
            assert await world.state.leases.take(f"{name}.0", "a", account_terms(one))
        consumed = attrs.evolve(NOTHING_HEARD, account="a", output=7)
        quota = Quota(terms=(), orphan=NOTHING_HEARD, most=NOTHING, reserved=NOTHING)
        for name in ids:
            world.state.in_flight.admit(name, AdmittedCall(quota=quota, consumed=lambda: consumed))

        world.clock.now += 45
        await world.state._renew()
        world.clock.now += 45

        assert world.ask(Reap()) == Reaped(calls=())
        assert slots(world, one) == len(ids)
        largest = max(len(op.calls) + len(op.leases) for op in world.store.asked if isinstance(op, Renew))
        assert largest <= 2 * TOGETHER
        world.clock.now += 60  # as if the process had died: another one settles them all in one go
        world.state.failsafe.reap()
        report = world.ask(Report(first="2027-01-15", last="2027-01-15"))
        assert report == Reported(rows=(attrs.evolve(consumed, requests=len(ids), output=7 * len(ids)),))
