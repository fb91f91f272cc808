"""The request queue: when a round is due, and whom it serves."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from relayd.daemon.reload.requests import ReloadRequest, ReloadResult, RequestQueue, Resume


def queue(*, interval: float = 1.0, stagger: float = 0.0) -> RequestQueue:
    return RequestQueue(interval=interval, stagger=lambda: stagger)


async def after(seconds: float, requests: RequestQueue, trigger: str, **fields: bool) -> None:
    await trio.sleep(seconds)
    requests.request(trigger, **fields)  # type: ignore[arg-type]


async def test_a_round_serves_every_request_there_is_and_bears_the_name_of_one_made_by_hand() -> None:
    requests = queue()
    noticed = requests.request("poll")
    resume = requests.request("resume", Resume())

    assert await requests.take() == [resume, noticed]
    assert requests.pending == []


async def test_what_comes_while_a_round_runs_is_for_the_next_one(autojump_clock: MockClock) -> None:
    requests = queue()
    requests.request("command")
    await requests.take()
    later = requests.request("command")

    assert await requests.take() == [later]
    assert trio.current_time() == 0.0


async def test_changes_that_are_noticed_are_brought_together(autojump_clock: MockClock) -> None:
    requests = queue(interval=5.0)
    requests.request("event")
    assert len(await requests.take()) == 1
    assert trio.current_time() == 0.0

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(after, number + 0.5, requests, "event")
        assert len(await requests.take()) == 4
    assert trio.current_time() == 5.0


async def test_who_asks_by_hand_or_in_a_hurry_does_not_wait(autojump_clock: MockClock) -> None:
    requests = queue(interval=60.0, stagger=60.0)
    for number, (trigger, hurry) in enumerate([("command", False), ("sighup", False), ("event", True)], 1):
        requests.request("event")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda t=trigger, h=hurry: after(1.0, requests, t, hurry=h))
            assert len(await requests.take()) == 2
        assert trio.current_time() == float(number)


async def test_a_change_that_is_noticed_waits_for_its_share_of_the_spread(autojump_clock: MockClock) -> None:
    requests = queue(stagger=1.5)
    requests.request("poll")
    await requests.take()

    assert trio.current_time() == 1.5


async def test_a_request_is_answered_once() -> None:
    request = ReloadRequest("command", Resume())
    first = ReloadResult(result="applied", generation=2)
    request.answer(first)
    request.answer(ReloadResult(result="rejected", generation=2))

    assert await request.wait() is first
