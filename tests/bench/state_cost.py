"""What counting costs: CPU of admission and settlement per call, and the latency of one alone, on both back ends.

`python tests/bench/state_cost.py [SECONDS]`. Each back end is asked through the pump by 1 and by 32 tasks at once, each
call six limits (slots, two rolling windows, three calendar ones). CPU is this process's, both threads; "server" is
redis-server's. "without" is the same loop with an answer that costs nothing; what a back end adds to it at 32 in flight
is to stay below 120 us. Machines and moments differ, so that is told as a multiple of a fixed piece of Python too.
"""

from __future__ import annotations

import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from redis_server import running

from relayd.config.snapshot import ApiKey, Limits, MicroUsd, ObjectId, Rate, Server
from relayd.core.quota.call_estimate import Estimate
from relayd.core.quota.limits import terms
from relayd.core.quota.usage_record import orphan_of
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Admit, Answer, Granted, Ping, Settle, Store
from relayd.state.redis import RedisStore
from relayd.state.sqlite import SqliteStore

LIMITS = Limits(
    concurrency=10_000,
    rate=Rate(requests=10**9),
    tokens_per_minute=10**12,
    daily_requests=10**9,
    monthly_requests=10**9,
    daily_cost=MicroUsd(10**15),
)
RESERVE = Estimate(input=1000, output=1000, cost=25_000, input_cost=5000)


def key(number: int) -> ApiKey:
    return ApiKey(id=ObjectId(f"key{number}"), hashes=(), limits=LIMITS)


async def one_call(pump: Batcher | None, number: int, who: ApiKey, times: list[float]) -> None:
    now = time.time_ns() // 10**6
    orphan = orphan_of(who.id, "claude-opus-5-5", RESERVE, now, "UTC")
    op = Admit(call=f"bench{number}", terms=terms(who, Server(), "messages", RESERVE, now, "UTC"), orphan=orphan)
    began = time.perf_counter()
    if pump is None:
        await trio.lowlevel.checkpoint()
    else:
        answer: Answer = await pump.ask(op)
        assert isinstance(answer, Granted), answer
    times.append(time.perf_counter() - began)
    settle = Settle(call=op.call, record=orphan)
    if pump is not None:
        pump.submit_nowait(settle)


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def measure(pump: Batcher | None, tasks: int, seconds: float, pause: float) -> tuple[float, int, list[float]]:
    times: list[float] = []
    numbers = itertools.count(time.time_ns())
    end = time.perf_counter() + seconds

    async def client(who: ApiKey) -> None:
        while time.perf_counter() < end:
            await one_call(pump, next(numbers), who, times)
            if pause:
                await trio.sleep(pause)

    began = cpu()
    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(client, key(number % 8))
    if pump is not None:
        await pump.ask(Ping())  # behind the last settlement
    return cpu() - began, len(times), sorted(times)


def calibration() -> float:
    """us of CPU that a fixed piece of Python takes now."""
    began = time.process_time()
    sum(number * number for number in range(1_000_000))
    return (time.process_time() - began) * 1e6


async def bench(
    name: str, store: Store | None, seconds: float, without: dict[int, float], server_pid: int | None = None
) -> None:
    """Print a line for each number of tasks. The rows of no store at all are kept in `without`."""
    async with trio.open_nursery() as nursery:
        pump = None
        if store is not None:
            quick = SqliteStore(store.path, clock=store.clock, busy=0) if isinstance(store, SqliteStore) else None
            pump = Batcher(StoreSession(store), quick=quick)
            await nursery.start(pump.run)
        for tasks, pause in ((1, 0.002), (32, 0.0)):
            before = cpu_of(server_pid) if server_pid else 0.0
            used, calls, times = await measure(pump, tasks, seconds, pause)
            line = f"{name:8} {tasks:3} in flight: {calls / seconds:7.0f} calls/s"
            each = used / calls * 1e6
            line += f", {each:6.1f} us CPU a call"
            if pump is None:
                without[tasks] = each
            else:
                adds = each - without[tasks]
                line += f" (adds {adds:.1f} us, {adds / calibration() * 1000:.1f} thousandths of the calibration)"
            line += f", ask p50 {times[calls // 2] * 1e3:.3f} ms p99 {times[int(calls * 0.99)] * 1e3:.3f} ms"
            if server_pid:
                line += f", server {(cpu_of(server_pid) - before) / calls * 1e6:.1f} us"
            if pump is not None:
                line += f", largest batch {pump.session.stats.largest}"
            print(line, flush=True)
        nursery.cancel_scope.cancel()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    without: dict[int, float] = {}
    print(f"calibration {calibration():.0f} us")
    trio.run(bench, "without", None, seconds, without)
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore(f"{directory}/relayd.db", clock=lambda: time.time_ns() // 10**6, deadline=30, busy=30_000)
        trio.run(bench, "sqlite", store, seconds, without)
    with running() as server:
        assert server.process is not None
        redis = RedisStore(server.url, realm="bench", command=5)
        trio.run(bench, "redis", redis, seconds, without, server.process.pid)


if __name__ == "__main__":
    main()
