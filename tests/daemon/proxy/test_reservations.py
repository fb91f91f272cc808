"""What calls in flight reserve: small budgets serve large askers, and what is only reserved is waited for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from booked import Booked, booked
from builders import account, api_key, snapshot
from fakes import Client, Told
from trio.testing import MockClock
from waiting import until

from relayd.config.snapshot import Limits, MicroUsd, Seconds, Simulator, Snapshot
from relayd.daemon.proxy.admission_queue import MOST_IN_ALL, MOST_IN_LINE, AdmissionQueues
from relayd.state.contract import Report, Reported

OPUS = "claude-opus-5-5"
USD = 1_000_000
SLOW = {"x_simulate_between": "1", "x_simulate_words": "5"}  # some 5 s in few steps: each jump of the clock takes 50 ms


def tree(**limits: Any) -> Snapshot:
    return snapshot(keys=(api_key(limits=Limits(**limits)),), accounts=(account("a", simulator=Simulator(words=2)),))


def asking(max_tokens: int = 64_000, **fields: Any) -> bytes:
    said = [{"role": "user", "content": "Hello"}]
    return json.dumps({"model": OPUS, "max_tokens": max_tokens, "messages": said, **fields}).encode()


async def open_streams(world: Booked, count: int, max_tokens: int = 64_000) -> list[Client]:
    """Streams of some seconds each, under way."""
    clients = []
    for _ in range(count):
        client = await world.house.connect()
        await client.post(asking(max_tokens, stream=True), **SLOW)
        await client.head()
        clients.append(client)
    return clients


async def test_a_dollar_a_day_serves_many_small_calls_that_may_be_large(tmp_path: Path) -> None:
    async with booked(tree(daily_cost=MicroUsd(USD)), tmp_path) as world:
        assert [(await world.house.ask(asking())).status for _ in range(20)] == [200] * 20


async def test_three_calls_at_once_fit_into_five_dollars(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with booked(tree(daily_cost=MicroUsd(5 * USD)), tmp_path) as world:
        told = [await client.rest() for client in await open_streams(world, 3)]
        assert [one.status for one in told] == [200] * 3


async def test_worst_case_reserves_all_that_a_call_may_write(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with booked(tree(daily_cost=MicroUsd(USD), reserve="worst-case"), tmp_path) as world:
        (client,) = await open_streams(world, 1)
        refused = await world.house.ask(asking())
        assert refused.status == 429
        assert "daily cost $1.00 (this call may need $1.00)" in refused.error[2]
        await client.leave("close")


async def test_a_refusal_that_only_reservations_cause_says_so_and_may_be_tried_again(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with booked(tree(daily_tokens=10_000), tmp_path) as world:
        clients = await open_streams(world, 2)
        refused = await world.house.ask(asking())

        assert refused.status == 429
        assert "calls in flight have reserved what is left" in refused.error[2]
        assert "Try again in 10 s." in refused.error[2]  # nothing is known yet of how long calls take
        assert (refused["retry-after"], refused["x-should-retry"]) == ("10", "true")
        for client in clients:
            await client.leave("close")


async def test_what_is_used_up_is_refused_as_such(tmp_path: Path) -> None:
    async with booked(tree(daily_tokens=60), tmp_path) as world:
        while (told := await world.house.ask(asking())).status == 200:
            pass
        assert "reserved" not in told.error[2]
        assert told["x-should-retry"] == "false"


async def learn_that_calls_are_short(world: Booked) -> None:
    for _ in range(5):
        assert (await world.house.ask(asking())).status == 200


async def test_a_call_waits_a_moment_for_what_others_have_reserved(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with booked(tree(daily_tokens=10_000), tmp_path) as world:
        await learn_that_calls_are_short(world)
        first, second = await open_streams(world, 2)
        answers: list[Told] = []

        async def ask() -> None:
            answers.append(await world.house.ask(asking()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1)
            assert not answers
            await first.leave("close")
        assert [one.status for one in answers] == [200]
        await second.leave("close")


async def test_it_does_not_wait_for_long(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with booked(tree(daily_tokens=10_000), tmp_path) as world:
        await learn_that_calls_are_short(world)
        clients = await open_streams(world, 2)
        began = trio.current_time()
        refused = await world.house.ask(asking())
        assert refused.status == 429
        assert 2 <= trio.current_time() - began < 3
        for client in clients:
            await client.leave("close")


# --- a queue for slots


async def queue_up(world: Booked, count: int, served: list[int], nursery: trio.Nursery) -> None:
    """Calls that come one after the other and wait; their numbers are noted when they are served."""

    async def ask(number: int) -> None:
        told = await world.house.ask(asking(10))
        if told.status == 200:
            served.append(number)

    for number in range(count):
        nursery.start_soon(ask, number)
        await trio.sleep(0.1)


async def test_without_a_wait_a_call_beyond_the_limit_is_refused_at_once(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with booked(tree(concurrency=1), tmp_path) as world:
        (client,) = await open_streams(world, 1)
        refused = await world.house.ask(asking())
        assert (refused.status, refused["retry-after"]) == (429, "2")
        await client.leave("close")


async def test_calls_wait_for_a_slot_and_are_served_in_the_order_in_which_they_came(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with booked(tree(concurrency=1, wait=Seconds(20.0)), tmp_path) as world:
        (client,) = await open_streams(world, 1)
        served: list[int] = []
        async with trio.open_nursery() as nursery:
            await queue_up(world, 6, served, nursery)
            assert served == []
            assert (await client.rest()).status == 200
        assert served == list(range(6))


async def test_a_call_that_waited_for_so_long_is_refused(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with booked(tree(concurrency=1, wait=Seconds(2.0)), tmp_path) as world:
        (client,) = await open_streams(world, 1)
        began = trio.current_time()
        refused = await world.house.ask(asking())
        assert (refused.status, refused.error[2]) == (429, "Rate limit exceeded: 1 concurrent requests.")
        assert 2 <= trio.current_time() - began < 2.5
        await client.leave("close")


async def test_a_client_that_leaves_the_line_holds_up_nobody(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with booked(tree(concurrency=1, wait=Seconds(20.0)), tmp_path) as world:
        (client,) = await open_streams(world, 1)
        impatient = await world.house.connect()
        await impatient.post(asking())
        await trio.sleep(0.1)
        served: list[int] = []
        async with trio.open_nursery() as nursery:
            await queue_up(world, 1, served, nursery)
            await impatient.leave("close")
            await world.house.receipts.wait_for(1)
            assert (await client.rest()).status == 200
        assert served == [0]
        assert [one.outcome for one in world.house.receipts.receipts].count("left") == 1


async def test_a_slot_that_comes_free_on_another_node_is_noticed(tmp_path: Path, jumping_clock: MockClock) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    config = tree(concurrency=1, wait=Seconds(20.0))
    async with booked(config, here) as world, booked(config, there, beside=world) as other:
        (client,) = await open_streams(other, 1)
        async with trio.open_nursery() as nursery:
            served: list[int] = []
            await queue_up(world, 1, served, nursery)
            assert (await client.rest()).status == 200
            ended = trio.current_time()
        assert served == [0]
        assert trio.current_time() - ended < 0.5


async def test_a_line_is_bounded() -> None:
    queues = AdmissionQueues()
    held = [queues.place("slots/dev") for _ in range(MOST_IN_LINE)]
    for one in held:
        assert one.__enter__() is not None
    with queues.place("slots/dev") as full:
        assert full is None
    others = [queues.place(f"slots/{number}") for number in range(MOST_IN_ALL - MOST_IN_LINE)]
    for one in others:
        assert one.__enter__() is not None
    with queues.place("slots/new") as none_left:
        assert none_left is None
    for one in (*held, *others):
        one.__exit__(None, None, None)
    assert not queues.busy("slots/dev")
    with queues.place("slots/dev") as place:
        assert place is not None


# --- leaving early


def output_booked(world: Booked) -> int:
    answer = world.ask(Report(first="2000-01-01", last="2100-01-01"))
    assert isinstance(answer, Reported)
    return sum(row.output for row in answer.rows)


@pytest.mark.parametrize(("max_tokens", "least", "most"), [(64_000, 960, 1100), (500, 500, 500)])
async def test_thinking_that_is_not_shown_is_booked_by_its_time_when_the_client_leaves(
    max_tokens: int, least: int, most: int, tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with booked(tree(), tmp_path) as world:
        client = await world.house.connect()
        await client.post(asking(max_tokens, stream=True), x_simulate_between="1000")
        await client.head()
        await client.until(b"message_start")
        await trio.sleep(20)
        await client.leave("close")
        await world.house.receipt()
        assert least <= output_booked(world) <= most


async def test_a_plain_answer_that_nobody_waited_for_is_booked_by_its_time(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with booked(tree(), tmp_path) as world:
        client = await world.house.connect()
        await client.post(asking(), x_simulate_first_byte="1000")
        await until(lambda: world.house.in_flight() == 1)
        await trio.sleep(10)
        await client.leave("close")
        await world.house.receipt()
        assert 460 <= output_booked(world) <= 600
