"""Streams on sockets, in both forms: waits end when they should, lose nothing and can be cancelled."""

from __future__ import annotations

import gc
import math
import random
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import pytest
import trio
from deaf import go_deaf
from trio.testing import MockClock

from relayd.daemon.net.connect import connect_tcp
from relayd.daemon.net.patience import Patience
from relayd.daemon.net.polled_stream import PolledStream, open_stream
from relayd.daemon.net.poller import IN, current_poller
from relayd.daemon.net.stream import READ_SIZE, PlainStream, send_all, tune

PATIENCE = 30.0  # s; on an idle machine nothing here takes more than a fraction of it


@attrs.define(eq=False)
class Ends:
    """A stream of ours, and the socket at its other end."""

    ours: PlainStream
    theirs: socket.socket


def over_tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


@pytest.fixture(params=[socket.socketpair, over_tcp], ids=["unix", "tcp"])
async def ends(request: pytest.FixtureRequest, both_forms: None) -> AsyncIterator[Ends]:
    one, other = request.param()
    tune(one)
    tune(other)
    found = Ends(open_stream(one), other)
    with trio.fail_after(PATIENCE):
        yield found
    found.ours.close()
    other.close()


@pytest.fixture
async def polled() -> AsyncIterator[Ends]:
    """The form that the poller serves, alone."""
    one, other = over_tcp()
    tune(one)
    tune(other)
    found = Ends(open_stream(one), other)
    assert isinstance(found.ours, PolledStream)
    with trio.fail_after(PATIENCE):
        yield found
    found.ours.close()
    other.close()


async def received(stream: PlainStream, size: int) -> bytes:
    """The next `size` bytes, or those up to the end."""
    read = b""
    while len(read) < size:
        data = stream.recv()
        if data is None:
            await stream.readable()
        elif data:
            read += data
        else:
            break
    return read


def fill(stream: PlainStream) -> int:
    """Send until nothing is taken; the number of bytes."""
    total = 0
    while taken := stream.send(b"x" * 65536):
        total += taken
    return total


async def settled() -> None:
    """Until edges on their way have been told."""
    for _ in range(5):
        await trio.lowlevel.checkpoint()


# Waking up.


async def test_what_came_while_nobody_waited_is_noticed(ends: Ends) -> None:
    ends.theirs.send(b"early")
    await settled()
    assert await received(ends.ours, 5) == b"early"
    ends.theirs.send(b"late")
    assert await received(ends.ours, 4) == b"late"


class Waits(trio.abc.Instrument):
    """Counts the loop's waits for events."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_who_is_woken_has_its_turn_right_after_the_wait(polled: Ends) -> None:
    waits = Waits()

    async def send() -> None:
        await settled()
        polled.theirs.send(b"a")
        trio.lowlevel.add_instrument(waits)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await received(polled.ours, 1) == b"a"
        trio.lowlevel.remove_instrument(waits)
    assert waits.count == 1


def test_a_stream_that_raises_when_it_is_told_ends_the_run() -> None:
    """Better than a loop that turns while no stream hears of anything."""

    def broken(flags: int) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        one, other = socket.socketpair()
        with one, other, trio.fail_after(PATIENCE):
            poller = current_poller()
            assert poller is not None
            poller.add(one.fileno(), broken)
            await trio.sleep_forever()

    with pytest.raises(trio.TrioInternalError) as caught:
        trio.run(run)
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert cause.subgroup(ZeroDivisionError)


class BetweenTheWaits(trio.abc.Instrument):
    """Sends once, when it is told to: after the loop's wait for events, before the poller looks."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.due = False

    def after_io_wait(self, timeout: float) -> None:
        if self.due:
            self.due = False
            self.end.send(b"a")


def test_it_does_so_when_the_edge_came_between_the_waits() -> None:
    def broken(flags: int) -> None:
        if flags & IN:
            raise ZeroDivisionError

    async def run() -> None:
        one, other = socket.socketpair()
        with one, other, trio.fail_after(PATIENCE):
            between = BetweenTheWaits(other)
            trio.lowlevel.add_instrument(between)  # before the poller's own, so it is called before it
            poller = current_poller()
            assert poller is not None
            poller.add(one.fileno(), broken)
            await settled()
            between.due = True
            await trio.lowlevel.checkpoint()
            await trio.sleep_forever()

    with pytest.raises(trio.TrioInternalError) as caught:
        trio.run(run)
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert cause.subgroup(ZeroDivisionError)


async def test_what_comes_between_a_read_and_the_wait_is_noticed(ends: Ends) -> None:
    for number in range(50):
        ends.theirs.send(b"a")
        assert await received(ends.ours, 1) == b"a"
        ends.theirs.send(b"b")  # after the short read that told us of nothing more
        if number % 2:
            await settled()
        assert await received(ends.ours, 1) == b"b"


async def test_as_much_as_one_read_takes_and_more_is_read_to_its_end(ends: Ends) -> None:
    for size in (READ_SIZE - 1, READ_SIZE, READ_SIZE + 1, 5 * READ_SIZE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, ends.theirs, b"x" * size)
            assert len(await received(ends.ours, size)) == size


async def _send(sock: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


@pytest.mark.parametrize("told_before", [False, True])
async def test_the_end_comes_after_what_was_sent_before_it(ends: Ends, told_before: bool) -> None:
    ends.theirs.send(b"last words")
    ends.theirs.shutdown(socket.SHUT_WR)
    if told_before:
        await settled()
    assert await received(ends.ours, 100) == b"last words"
    assert ends.ours.recv() == b""
    assert ends.ours.send(b"half-closed: the other way is open") > 0


async def test_a_reset_ends_every_wait(ends: Ends) -> None:
    fill(ends.ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.ours.readable)
        nursery.start_soon(ends.ours.writable)
        await settled()
        ends.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends.theirs.close()


def send_until_it_fails(stream: PlainStream, how: str) -> None:
    while True:
        if how == "send":
            stream.send(b"more")
        else:
            stream.send_two(b"mo", b"re")


@pytest.mark.parametrize("how", ["send", "send_two"])
async def test_what_was_said_before_a_reset_is_read_though_no_edge_has_told_of_it(polled: Ends, how: str) -> None:
    """An upstream that answers 413 and closes: both are there before the loop's next wait."""
    await settled()
    fill(polled.ours)
    polled.theirs.send(b"last words")
    polled.theirs.close()  # over unread bytes, so it is a reset
    with pytest.raises(OSError):
        send_until_it_fails(polled.ours, how)
    assert polled.ours.recv() == b"last words"


async def test_a_full_socket_wakes_its_writer_when_there_is_room(ends: Ends) -> None:
    await settled()
    full = fill(ends.ours)
    woken = trio.Event()

    async def write() -> None:
        await ends.ours.writable()  # no try before: what TCP acknowledges late makes a little room, which wakes nobody
        while not ends.ours.send(b"y"):
            await ends.ours.writable()
        woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await settled()
        assert not woken.is_set()
        await _receive(ends.theirs, full)


@pytest.mark.parametrize("by", ["input", "room"])
async def test_whoever_waits_for_either_is_woken_by_the_first(ends: Ends, by: str) -> None:
    full = fill(ends.ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.ours.ready)
        await settled()
        if by == "input":
            ends.theirs.send(b"z")
        else:
            await _receive(ends.theirs, full)
    assert (await received(ends.ours, 1) if by == "input" else ends.ours.send(b"y")) in (b"z", 1)


async def _receive(sock: socket.socket, size: int) -> None:
    while size > 0:
        try:
            size -= len(sock.recv(1 << 20))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)


async def _within(stream: PlainStream, seconds: float) -> None:
    assert await stream.readable_within(seconds)


# Patience.


async def test_a_wait_with_a_time_ends_by_itself_or_by_what_comes(ends: Ends) -> None:
    began = trio.current_time()
    assert not await ends.ours.readable_within(0.01)
    assert trio.current_time() >= began + 0.01
    ends.theirs.send(b"a")
    assert await ends.ours.readable_within(PATIENCE)
    assert await received(ends.ours, 1) == b"a"
    assert not await ends.ours.readable_within(0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_within, ends.ours, math.inf)
        await settled()
        ends.theirs.send(b"b")


async def test_waits_end_in_the_order_of_their_times_and_those_that_ended_early_do_not(
    autojump_clock: MockClock,
) -> None:
    patience, rung = Patience(), list[tuple[str, float]]()

    def ring(name: str) -> Callable[[], None]:
        return lambda: rung.append((name, trio.current_time()))

    early = ring("early")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patience.run)
        for name, seconds in (("long", 50.0), ("short", 5.0), ("same", 5.0), ("none", 0.0)):
            patience.begin(seconds, ring(name))
        patience.begin(20.0, early)
        await trio.sleep(3)
        patience.begin(5.0, ring("later"))
        patience.end(20.0, early)
        patience.end(20.0, early)
        await trio.sleep(100)
        patience.begin(1.0, ring("afterwards"))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert rung == [("none", 0), ("short", 5), ("same", 5), ("later", 8), ("long", 50), ("afterwards", 104)]


# Cancellation and closing.


@pytest.mark.parametrize("wait", ["readable", "readable_within", "writable", "ready", "carry"])
async def test_every_wait_can_be_cancelled_and_loses_nothing(ends: Ends, wait: str) -> None:
    full = fill(ends.ours)
    waits: dict[str, Callable[[], Awaitable[None]]] = {
        "readable": ends.ours.readable,
        "readable_within": lambda: _within(ends.ours, PATIENCE),
        "writable": ends.ours.writable,
        "ready": ends.ours.ready,
        "carry": lambda: ends.ours.carry(lambda: ends.ours.recv() is not None),
    }
    for _ in range(3):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waits[wait])
                await settled()
                scope.cancel()
        assert scope.cancelled_caught
    ends.theirs.send(b"still here")
    assert await received(ends.ours, 10) == b"still here"
    await _receive(ends.theirs, full)
    await ends.ours.writable()
    assert ends.ours.send(b"y") == 1


async def test_a_wait_for_what_is_there_already_can_be_cancelled_too(ends: Ends) -> None:
    ends.theirs.send(b"x")
    await settled()
    for wait in (ends.ours.readable, ends.ours.writable, ends.ours.ready):
        with trio.CancelScope() as scope:
            scope.cancel()
            await wait()
        assert scope.cancelled_caught
    assert await received(ends.ours, 1) == b"x"


@pytest.mark.parametrize("wait", ["readable", "writable"])
async def test_closing_wakes_whoever_waits(ends: Ends, wait: str) -> None:
    fill(ends.ours)

    async def closed() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await getattr(ends.ours, wait)()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(closed)
        await settled()
        ends.ours.close()
        ends.ours.close()
    with pytest.raises(OSError):
        ends.ours.recv()
    with pytest.raises(OSError):
        ends.ours.send(b"x")


async def test_two_readers_are_one_too_many(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.ours.readable)
        await settled()
        with pytest.raises(trio.BusyResourceError):
            await ends.ours.readable()
        nursery.cancel_scope.cancel()


# Carrying.


async def test_a_stream_is_carried_until_its_function_has_something_to_say(ends: Ends) -> None:
    read: list[bytes] = []

    def turn() -> bool:
        while data := ends.ours.recv():
            read.append(data)
        return b"".join(read).endswith(b".")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.ours.carry, turn)
        for word in (b"one ", b"two ", b"three."):
            await settled()
            ends.theirs.send(word)
    assert b"".join(read) == b"one two three."


async def test_what_a_carrying_function_does_not_take_brings_it_back(ends: Ends) -> None:
    """A TLS record may be all of one read and no text."""
    turns = 0

    def turn() -> bool:
        nonlocal turns
        turns += 1
        data = ends.ours.recv()
        return data is not None and not data

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.ours.carry, turn)
        await settled()
        await _send(ends.theirs, b"x" * (10 * READ_SIZE))
        ends.theirs.shutdown(socket.SHUT_WR)
    assert turns > 10


async def test_an_exception_in_a_carrying_function_ends_that_stream_alone(ends: Ends, both_forms: None) -> None:
    one, other = socket.socketpair()
    tune(one)
    bystander = open_stream(one)

    def fail() -> bool:
        if ends.ours.recv() is not None:
            raise RuntimeError("in the middle")
        return False

    async def carried() -> None:
        with pytest.raises(RuntimeError, match="in the middle"):
            await ends.ours.carry(fail)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carried)
        await settled()
        ends.theirs.send(b"x")
    other.send(b"goes on")
    assert await received(bystander, 7) == b"goes on"
    bystander.close()
    other.close()


async def test_a_carried_stream_leaves_no_cycle_behind(ends: Ends) -> None:
    class Carrier:
        def turn(self) -> bool:
            return ends.ours.recv() is not None

    gc.collect()
    gc.disable()
    try:
        for cancelled in (False, True):
            carrier = Carrier()
            gone = weakref.ref(carrier)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ends.ours.carry, carrier.turn)
                    await settled()
                    if cancelled:
                        scope.cancel()
                    else:
                        ends.theirs.send(b"x")
            del carrier
            await settled()
            assert gone() is None
    finally:
        gc.enable()


async def test_a_carrying_function_that_cancels_its_own_task_is_called_no_more(polled: Ends) -> None:
    turns = 0

    def turn() -> bool:
        nonlocal turns
        turns += 1
        if polled.ours.recv() is not None:
            scope.cancel()
        return False

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(polled.ours.carry, turn)
            await settled()
            polled.theirs.send(b"x")
    assert scope.cancelled_caught
    before = turns
    polled.theirs.send(b"y")
    await settled()
    assert turns == before
    assert await received(polled.ours, 1) == b"y"


# Hang-ups.


async def test_a_hang_up_is_told_once_to_whoever_asked_last(polled: Ends) -> None:
    told: list[str] = []
    polled.ours.on_hangup(lambda: told.append("first"))
    polled.ours.on_hangup(None)
    polled.ours.on_hangup(lambda: told.append("second"))
    polled.theirs.send(b"unread")
    polled.theirs.shutdown(socket.SHUT_WR)
    await settled()
    assert told == ["second"]
    polled.ours.on_hangup(lambda: told.append("third"))  # it has hung up already
    assert told == ["second", "third"]
    assert await received(polled.ours, 6) == b"unread"


async def test_a_child_that_holds_a_closed_socket_tells_its_number_nothing(polled: Ends) -> None:
    number = polled.ours.fileno()
    child = await trio.lowlevel.open_process(["sleep", "60"], pass_fds=[number])
    try:
        polled.ours.close()
        one, other = socket.socketpair()
        tune(one)
        assert one.fileno() == number
        stream, told = open_stream(one), []
        stream.on_hangup(lambda: told.append(True))
        polled.theirs.close()  # the child's copy hangs up now
        await settled()
        assert not told
        other.send(b"ours")
        assert await received(stream, 4) == b"ours"
        stream.close()
        other.close()
    finally:
        child.kill()
        await child.wait()


async def test_a_peer_that_acknowledges_nothing_any_more_has_hung_up(both_forms: None) -> None:
    one, other = over_tcp()
    tune(one, dead_after=0.3)
    stream = open_stream(one)
    go_deaf(other)
    stream.send(b"lost")
    with trio.fail_after(PATIENCE):
        await stream.readable()
    with pytest.raises(TimeoutError):
        stream.recv()
    stream.close()
    other.close()


async def test_an_upstream_is_dead_after_a_minute_without_a_sign_of_life() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = await connect_tcp((socket.AF_INET, listener.getsockname()))
    idle, interval, count, dead = (
        sock.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    )
    assert (idle + interval * count, dead) == (60, 60_000)
    sock.close()


# All of it at random.


async def test_nothing_is_lost_however_it_is_cut_and_cancelled(ends: Ends) -> None:
    await pass_at_random(ends.ours, ends.theirs, events=3000, rng=random.Random(7))


async def pass_at_random(ours: PlainStream, theirs: socket.socket, *, events: int, rng: random.Random) -> None:
    """Both ways at once: pieces of random sizes, random pauses, random cancellations of every wait."""
    tune(theirs)
    peer = open_stream(theirs)
    async with trio.open_nursery() as nursery:
        for source, sink in ((peer, ours), (ours, peer)):
            nursery.start_soon(_write_at_random, source, events, random.Random(rng.random()))
            nursery.start_soon(_read_at_random, sink, events, random.Random(rng.random()))


async def _write_at_random(stream: PlainStream, events: int, rng: random.Random) -> None:
    for number in range(events):
        size = rng.choice((0, 0, 1, 7, 300, 300, 300, READ_SIZE, 3 * READ_SIZE) if number % 50 == 0 else (0, 9, 80))
        rest = memoryview(struct.pack(">II", number, size) + b"x" * size)
        while rest:
            rest = rest[stream.send(rest) :]
            if rest:
                await _maybe_cancelled(stream.writable, rng)
        if rng.random() < 0.3:
            await trio.lowlevel.checkpoint()


async def _read_at_random(stream: PlainStream, events: int, rng: random.Random) -> None:
    read, number = bytearray(), 0

    def turn() -> bool:
        while number < events and (data := stream.recv()) is not None:
            assert data, "the end came early"
            read.extend(data)
            take_events()
            if rng.random() < 0.1:
                return True
        return number == events

    def take_events() -> None:
        nonlocal number
        while len(read) >= 8:
            found, size = struct.unpack_from(">II", read)
            if len(read) < 8 + size:
                return
            assert found == number
            assert read.count(b"x", 8, 8 + size) == size
            del read[: 8 + size]
            number += 1

    while number < events:
        if rng.random() < 0.5:
            await _maybe_cancelled(lambda: stream.carry(turn), rng)
        elif not turn():
            await _maybe_cancelled(stream.readable, rng)


async def _maybe_cancelled(wait: Callable[[], Awaitable[None]], rng: random.Random) -> None:
    """A wait, one in four of which is cancelled within a turn or two."""
    if rng.random() < 0.75:
        await wait()
        return
    with trio.CancelScope() as scope:
        if rng.random() < 0.5:
            scope.deadline = trio.current_time() + rng.choice((0.0, 0.0001, 0.001))
        else:
            scope.cancel()
        await wait()


async def test_send_all_sends_all(ends: Ends) -> None:
    data = random.Random(1).randbytes(3_000_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, ends.ours, data)
        read = b""
        while len(read) < len(data):
            try:
                read += ends.theirs.recv(1 << 20)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(ends.theirs)
    assert read == data
