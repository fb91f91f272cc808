"""Every await of a call is cancelled once. After it: no lease is open, one receipt is written, nothing is connected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import attrs
import builders
import pytest
import trio
from fakes import (
    ASK,
    ASK_STREAM,
    NO_TLS,
    NOON,
    STREAM_HEAD,
    Pair,
    Receipts,
    Reception,
    answering,
    chunked,
    clock_from_noon,
    events_of,
    exchanging,
    failing,
    make_app,
    message,
    recorded_stream,
    upstream_account,
)
from scripted import Conversation, Script, back_to, cancelled_at, descriptors, serving

from relayd.config.snapshot import Cooldown, Routing, Seconds, Server, Snapshot
from relayd.core.balancing.pool import Pool
from relayd.core.live import Live
from relayd.core.receipt import Receipt
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.proxy.app import PublicApp
from relayd.daemon.proxy.routes import MESSAGES

EVENTS = events_of(recorded_stream())


async def paced(conversation: Conversation) -> None:
    """A stream with pauses, so that each of its waits is a real one."""
    while await conversation.request():
        await conversation.send(STREAM_HEAD)
        for at in range(0, len(EVENTS), 6):
            await trio.sleep(0.002)
            await conversation.send(chunked(*EVENTS[at : at + 6]))
        await conversation.send(b"0\r\n\r\n")


async def cut(conversation: Conversation) -> None:
    await conversation.request()
    await conversation.send(STREAM_HEAD + chunked(EVENTS[0]))
    await trio.sleep(0.002)


LARGE = answering(body=b'{"x":"' + b"y" * 2_000_000 + b'"}')

CASES: dict[str, tuple[bytes, tuple[Script, ...], str]] = {
    "a whole answer": (ASK, (Reception([answering(body=message())]),), "ok"),
    "a large answer": (ASK, (Reception([LARGE]),), "ok"),
    "a stream": (ASK_STREAM, (paced,), "ok"),
    "a stream on the third account": (
        ASK_STREAM,
        (Reception([failing(500)]), Reception([failing(503)]), paced),
        "ok",
    ),
    "an answer after a wait": (
        ASK,
        (Reception([failing(529, "overloaded_error")]), Reception([answering(body=message())])),
        "ok",
    ),
    "a stream that is cut": (ASK_STREAM, (cut,), "cut"),
    "an error passed on": (ASK, (Reception([failing(500)]), Reception([failing(503)])), "upstream"),
    "no answer": (ASK, (Reception([b""]),), "refused"),
    "nothing that could be asked": (b"[", (Reception([answering()]),), "refused"),
}


def tree(ports: list[int]) -> Snapshot:
    accounts = [upstream_account(name, port) for name, port in zip("abc", ports, strict=False)]
    cooldown = Cooldown(overloaded=Seconds(0.0), server_error=Seconds(0.0), unreachable=Seconds(0.0))
    return builders.snapshot(
        accounts=tuple(attrs.evolve(one, priority=place) for place, one in enumerate(accounts)),
        relay={
            "routing": Routing(strategy="priority", affinity=Seconds(0.0), cooldown=cooldown),
            "server": Server(sse_keepalive=Seconds(0.001)),
        },
    )


@attrs.define(eq=False)
class Scene:
    """One call that is about to be served, and all it could leave behind."""

    app: PublicApp
    pool: Pool
    upstreams: Upstreams
    receipts: Receipts
    pair: Pair
    body: bytes

    async def serve(self) -> None:
        await self.app.calls.serve_call(self.pair.exchange, MESSAGES)

    async def client(self) -> None:
        """Send the body in two parts, and read whatever comes."""
        half = len(self.body) // 2
        await self.pair.client.send(self.body[:half])
        await trio.sleep(0.001)
        await self.pair.client.send(self.body[half:])
        while await self.pair.client.more():
            pass

    def leftovers(self) -> tuple[int, int]:
        """Leases that are open, and receipts."""
        accounts = self.app.calls.live.snapshot.accounts
        return sum(self.pool.in_flight(name) for name in accounts), len(self.receipts.receipts)


async def play(ports: list[int], body: bytes, act: Callable[[Scene], Awaitable[bool]]) -> tuple[bool, Receipt]:
    """Set a scene, let `act` serve its call, and see that nothing is left. Returns what `act` did, and the receipt."""
    receipts, upstreams = Receipts(), Upstreams(lambda: NO_TLS, lambda: NOON)
    pool = Pool()
    app = make_app(Live(tree(ports)), receipts, pool=pool, upstreams=upstreams, wall=clock_from_noon())
    head = attrs.evolve(builders.head(x_api_key=builders.KEY), content_length=len(body))
    async with exchanging(head) as pair, trio.open_nursery() as nursery:
        scene = Scene(app, pool, upstreams, receipts, pair, body)
        nursery.start_soon(scene.client)
        cancelled = await act(scene)
        assert scene.leftovers() == (0, 1)
        nursery.cancel_scope.cancel()
    upstreams.close()
    return cancelled, receipts.receipts[0]


@pytest.mark.parametrize("case", CASES)
async def test_a_call_cancelled_at_any_wait_leaves_nothing_behind(case: str) -> None:
    body, scripts, outcome = CASES[case]
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(serving(script)) for script in scripts]
        ports = [one.port for one in upstreams]
        await play(ports, body, _undisturbed)  # whatever is loaded or opened once
        for upstream in upstreams:
            await upstream.all_closed()
        before = descriptors()
        for step in range(1, 400):
            cancelled, receipt = await play(ports, body, lambda scene, step=step: cancelled_at(step, scene.serve))
            for upstream in upstreams:
                await upstream.all_closed()
            await back_to(before)
            if not cancelled:
                break
            assert receipt.outcome == "cut", f"cancelled in wait {step}"
        assert step > (1 if case == "nothing that could be asked" else 3)
        assert receipt.outcome == outcome


async def _undisturbed(scene: Scene) -> bool:
    await scene.serve()
    return False


@pytest.mark.parametrize("case", ["a stream", "a stream on the third account", "a whole answer"])
async def test_a_client_that_leaves_at_any_wait_leaves_nothing_behind(case: str) -> None:
    body, scripts, outcome = CASES[case]
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(serving(script)) for script in scripts]
        ports = [one.port for one in upstreams]
        for step in range(1, 400):
            left, receipt = await play(ports, body, lambda scene, step=step: leaving_at(step, scene))
            for upstream in upstreams:
                await upstream.all_closed()
            if not left:
                break
            assert receipt.outcome == "left", f"left in wait {step}"
        assert step > 3
        assert receipt.outcome == outcome


class LeaveAtStep(trio.abc.Instrument):
    """Tells the exchange that its client has left, in the n-th wait of the call."""

    def __init__(self, task: trio.lowlevel.Task, scene: Scene, steps: int) -> None:
        self.task, self.scene, self.left = task, scene, steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scene.pair.exchange._client_left()  # what the watch for disconnects does


async def leaving_at(step: int, scene: Scene) -> bool:
    instrument = LeaveAtStep(trio.lowlevel.current_task(), scene, step)
    trio.lowlevel.add_instrument(instrument)
    try:
        await scene.serve()
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return instrument.left <= 0
