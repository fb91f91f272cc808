"""The channel between a supervisor and a worker: in order, with descriptors, never waiting, and its end."""

from __future__ import annotations

import os
import resource

import pytest
import trio

from relayd.core.receipt import Attempt, Receipt
from relayd.daemon.workers.channel import MOST_WAITING, Channel, channel_pair
from relayd.daemon.workers.messages import AskReport, EndedCalls, Follow, OrderDone
from relayd.wire.usage import Usage

RECEIPT = Receipt(
    call_id="req_1", started=1.5, method="POST", path="/v1/messages", dialect="anthropic", client="", peer="192.0.2.1",
    usage=Usage(input=3, output=4), attempts=(Attempt(account="a", status=200, reason="ok", seconds=0.1),), cost=12,
)  # fmt: skip


async def test_messages_come_in_order_and_whole() -> None:
    one, two = map(Channel, channel_pair())
    one.post(EndedCalls(receipts=(RECEIPT,)))
    one.post(OrderDone(number=3, reasons=("no identity",)))

    first, second = await two.receive(), await two.receive()
    assert first is not None
    assert first[0] == EndedCalls(receipts=(RECEIPT,))
    assert second == (OrderDone(number=3, reasons=("no identity",)), [])
    one.close()
    assert await two.receive() is None
    two.close()
    two.post(AskReport(number=1))  # nobody hears it, and nothing happens


async def test_a_descriptor_stays_with_its_message_though_both_have_to_wait() -> None:
    one, two = map(Channel, channel_pair())
    fd = os.memfd_create("test")
    os.write(fd, b"config")
    sent = 0
    while not one._waiting:  # until the kernel holds no more
        one.post(AskReport(number=sent))
        sent += 1
    one.post(Follow(number=sent), [fd])
    os.close(fd)  # the queue has its own
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.deliver)
        for number in range(sent):
            assert await two.receive() == (AskReport(number=number), [])
        found = await two.receive()
        nursery.cancel_scope.cancel()
    assert found is not None
    assert found[0] == Follow(number=sent)
    assert os.pread(found[1][0], 100, 0) == b"config"
    os.close(found[1][0])
    one.close()
    two.close()


async def test_who_does_not_listen_is_told_less() -> None:
    one, two = map(Channel, channel_pair())
    while not one.crowded:
        one.post(AskReport(number=1))
    assert len(one._waiting) == MOST_WAITING
    one.close()
    two.close()


async def test_a_message_may_be_of_any_length_and_keeps_its_place_and_its_descriptors() -> None:
    one, two = map(Channel, channel_pair())
    long = OrderDone(number=1, reasons=("x" * 2_000_000,))
    fd = os.memfd_create("test")
    one.post(AskReport(number=7))
    one.post(long, [fd])
    one.post(OrderDone(number=2))
    assert await two.receive() == (AskReport(number=7), [])
    found = await two.receive()
    assert found is not None
    assert (found[0], len(found[1])) == (long, 1)
    assert os.fstat(found[1][0]).st_ino == os.fstat(fd).st_ino
    assert await two.receive() == (OrderDone(number=2), [])
    for descriptor in (fd, *found[1]):
        os.close(descriptor)
    one.close()
    two.close()


async def test_who_speaks_without_end_leaves_the_others_their_turn() -> None:
    one, two = map(Channel, channel_pair())
    one.post(AskReport(number=1))
    one.post(AskReport(number=2))
    async with trio.open_nursery() as nursery:
        turns: list[int] = []
        nursery.start_soon(_turn, turns)
        await two.receive()
        await two.receive()
        assert turns
    one.close()
    two.close()


async def _turn(turns: list[int]) -> None:
    turns.append(1)


async def test_without_descriptors_a_message_is_said_to_be_lost_and_nothing_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = map(Channel, channel_pair())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard[1]))  # what is open stays open
    try:
        one.post(OrderDone(number=1, reasons=("x" * 200_000,)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, hard)
    one.post(OrderDone(number=2))
    assert await two.receive() == (OrderDone(number=2), [])
    assert [record.getMessage() for record in caplog.records] == ["worker.not_told"]
    one.close()
    two.close()


async def test_whoever_has_no_room_for_descriptors_is_told_so_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    one, two = map(Channel, channel_pair())
    fd = os.memfd_create("test")
    one.post(OrderDone(number=1, reasons=("x" * 200_000,)))
    one.post(Follow(number=2), [fd])
    os.close(fd)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard[1]))
    try:
        assert await two.receive() == (Follow(number=2), [])  # the first one cannot be read without its own
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, hard)
    assert [record.getMessage() for record in caplog.records] == ["worker.not_heard"] * 2
    one.close()
    two.close()
