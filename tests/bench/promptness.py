"""Benchmark of delays: how soon relayd notices what it must notice. It prints figures and judges none.

`python tests/bench/promptness.py [ROUNDS]`. Wall time, so that it says something on an idle machine only; the tests
themselves count events and never seconds. Each line: the median and the longest of ROUNDS rounds, in ms.

left: from a client's leaving until its upstream is rid of it too. stalled: the longest that the event loop is held up
while the state store stands still. refused, frozen: how long one admission takes when Redis is gone, or stands still
(the store's deadline is 250 ms).
"""

from __future__ import annotations

import logging
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

import builders
from fakes import ASK_STREAM, relaying, upstream_account
from operations import admit
from redis_server import RedisServer, running
from scripted import Conversation, serving
from test_batcher import FlakyStore

from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Ping, StoreUnavailable
from relayd.state.redis import RedisStore


async def left() -> float:
    gone, arrived, times = trio.Event(), trio.Event(), [0.0]

    async def wait(conversation: Conversation) -> None:
        await conversation.request()
        arrived.set()
        await conversation.until_peer_leaves()
        times.append(time.perf_counter())
        gone.set()

    async with (
        serving(wait) as upstream,
        relaying(builders.snapshot(accounts=(upstream_account("a", upstream.port),))) as house,
    ):
        client = await house.connect()
        await client.post(ASK_STREAM)
        await arrived.wait()
        began = time.perf_counter()
        await client.leave("close")
        await gone.wait()
    return times[-1] - began


async def stalled() -> float:
    longest = 0.0
    async with trio.open_nursery() as nursery:
        store = FlakyStore(deadline=0.3)
        batcher = Batcher(StoreSession(store))
        await nursery.start(batcher.run)
        store.hold = threading.Event()

        async def look() -> None:
            nonlocal longest
            while True:
                began = time.perf_counter()
                await trio.sleep(0.001)
                longest = max(longest, time.perf_counter() - began)

        nursery.start_soon(look)
        try:
            await batcher.ask(Ping())
        except StoreUnavailable:
            store.hold.set()
        nursery.cancel_scope.cancel()
    return longest


def without_redis(hurt: Callable[[RedisServer], None]) -> float:
    with running() as server:
        store = RedisStore(server.url, realm="bench")
        store.apply([Ping()])
        hurt(server)
        began = time.perf_counter()
        try:
            store.apply([admit("c")])
        except StoreUnavailable:
            return time.perf_counter() - began
        finally:
            if server.process is not None:
                os.kill(server.process.pid, signal.SIGCONT)
            store.close()
    raise AssertionError("it answered")


def freeze(server: RedisServer) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)


@attrs.frozen
class Row:
    name: str
    measure: Callable[[], float]

    def tell(self, rounds: int) -> None:
        times = sorted(self.measure() * 1e3 for _ in range(rounds))
        print(f"{self.name:8} {statistics.median(times):8.1f} ms {times[-1]:8.1f} ms", flush=True)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    logging.disable()
    os.environ["XDG_CONFIG_HOME"] = tempfile.gettempdir()
    print(f"{'':8} {'median':>11} {'longest':>11}")
    for row in (
        Row("left", lambda: trio.run(left)),
        Row("stalled", lambda: trio.run(stalled)),
        Row("refused", lambda: without_redis(RedisServer.stop)),
        Row("frozen", lambda: without_redis(freeze)),
    ):
        row.tell(rounds)


if __name__ == "__main__":
    main()
