"""What grows with what: what Redis does and holds for each call, key, account and node, and a plan made from that.

`python tests/bench/scale.py [NODES CALLS_AN_HOUR]`; about three minutes. Figures are of redis-server's main thread, as
it tells them itself (INFO), with an append-only file and a replica, as docs/scale.md advises; RELAYD_TEST_REDIS names
another server, such as Valkey. First real nodes, idle and with calls; then single operations as nodes send them, so
that what cannot be had here (a hundred nodes) is asked of Redis all the same; then memory, each thing alone; then
SQLite. The plan is arithmetic on these figures and tells what it takes for granted.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()
sys.path.insert(0, str(Path(__file__).parent))

from builders import KEY
from daemon import Daemon, key_text, start, write_tree
from redis_server import RedisServer, running
from state_cost import RESERVE, cpu, key

from relayd.config.snapshot import Server
from relayd.core.quota.limits import Slots, terms
from relayd.core.quota.usage_record import orphan_of
from relayd.daemon.store.batcher import RECENT
from relayd.state import contract as c
from relayd.state.redis import RedisStore
from relayd.state.sqlite import SqliteStore

T0 = 46_300 * 86_400_000  # the clock of what is measured: no real time passes
BEAT = 10.0  # s between two heartbeats of a node
SHARE = 1.0  # s between two looks at the accounts' health
RENEW = 5.0  # s between two heartbeats of an open call
SECONDS = 20.0  # that a planned call lasts, so that it has four of them
PEAK = 3.0  # the busiest minute against the mean
HALF = 0.5  # of one core: what a shard is planned for
LIMITED = (
    'limits = { concurrency = 1000, rate = { requests = 1000000, window = "1m" }, tokens_per_minute = 1000000000, '
    'daily_requests = 10000000, monthly_requests = 100000000, daily_cost = "100000.00" }'
)
_numbers = itertools.count(1)


@attrs.frozen
class Cost:
    """What one thing costs Redis."""

    us: float  # CPU of the main thread
    commands: float  # also those that a script calls
    scripts: float
    came: float  # bytes
    went: float
    replica: float  # bytes for the replica, and about as many for the append-only file

    def __str__(self) -> str:
        return (
            f"{self.us:8.1f} us {self.commands:7.2f} commands {self.scripts:6.3f} scripts {self.came:7.0f} B in"
            f" {self.went:7.0f} B out {self.replica:6.0f} B to the replica"
        )


def read(server: RedisServer) -> Cost:
    with contextlib.closing(server.client()) as client:
        told = client.info("all")
    ours = {"cmdstat_info", "cmdstat_client|setinfo", "cmdstat_replconf", "cmdstat_ping", "cmdstat_memory|usage"}
    counts = {name: one["calls"] for name, one in told.items() if name.startswith("cmdstat_") and name not in ours}
    us = (told["used_cpu_sys_main_thread"] + told["used_cpu_user_main_thread"]) * 1e6
    scripts = counts.get("cmdstat_evalsha", 0)
    came, went = told["total_net_input_bytes"], told["total_net_output_bytes"]
    return Cost(us, sum(counts.values()), scripts, came, went, told["master_repl_offset"])


def measured(server: RedisServer, act: Callable[[], object], times: float) -> Cost:
    """What `act` costs Redis, by each of the `times` that it did something."""
    before = read(server)
    act()
    after = read(server)
    return Cost(*((new - old) / times for old, new in zip(attrs.astuple(before), attrs.astuple(after), strict=True)))


@contextlib.contextmanager
def advised() -> Iterator[RedisServer]:
    """A server as docs/scale.md advises it: an append-only file and a replica."""
    with running("--appendonly", "yes") as server, running("--replicaof", "127.0.0.1", str(server.port)) as replica:
        deadline = time.monotonic() + 30
        while replica.client().info("replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline, "the replica does not follow"
            time.sleep(0.05)
        yield server


# --- real nodes


@contextlib.contextmanager
def nodes(place: Path, server: RedisServer, count: int) -> Iterator[list[Daemon]]:
    found: list[Daemon] = []
    try:
        for number in range(count):
            root = place / f"n{number}"
            accounts = dict.fromkeys(("a", "b"), 'kind = "simulator"\nmax_concurrency = 1000\n')
            tree = write_tree(root, accounts=accounts, keys={"dev": key_text(KEY, LIMITED)})
            control = ("--control", str(root / "control.sock"), "--no-watch", "--node", f"n{number}")
            found.append(start(tree, "--state", server.url, *control))
        yield found
    finally:
        for one in found:
            one.stop()


def calls(daemon: Daemon, count: int, conversation: str) -> None:
    """Ask one node so often, one call after the other."""
    body = {"model": "claude-opus-5-5", "max_tokens": 64}
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    for number in range(count):
        said = [{"role": "user", "content": f"{conversation}.{number}"}]
        headers = {"x-api-key": KEY, "content-type": "application/json"}
        connection.request("POST", "/v1/messages", json.dumps({**body, "messages": said}), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
    connection.close()


def less(cost: Cost, other: Cost) -> Cost:
    return Cost(*(one - two for one, two in zip(attrs.astuple(cost), attrs.astuple(other), strict=True)))


def real_nodes(server: RedisServer) -> tuple[Cost, Cost, str]:
    """What a node costs in a second, and a real call; what a heartbeat says."""
    alone = measured(server, lambda: time.sleep(BEAT), BEAT)
    print(f"no node: a second                      {alone}", flush=True)
    with tempfile.TemporaryDirectory(prefix="relayd-scale-") as place:
        for count in (1, 2, 4):
            with nodes(Path(place), server, count) as running_nodes:
                idle = less(measured(server, lambda: time.sleep(2 * BEAT), 2 * BEAT), alone)
                idle = Cost(*(figure / count for figure in attrs.astuple(idle)))
                with contextlib.closing(server.client()) as look:
                    connections = (look.info("clients")["connected_clients"] - 1) / count
                print(f"idle, {count} nodes: a node and second    {idle}, {connections:g} connections", flush=True)
                if count == 4:
                    calls(running_nodes[0], 20, "warm")
                    four = 4 * 8

                    def load(of: Sequence[Daemon] = running_nodes) -> None:
                        with ThreadPoolExecutor(32) as pool:
                            for done in [pool.submit(calls, of[at % 4], 25, f"c{at}") for at in range(32)]:
                                done.result()
                        time.sleep(1.5)  # what is written a second later

                    each = measured(server, load, four * 25)
                    print(f"real calls, 4 nodes: a call            {each}", flush=True)
                    (alive,) = RedisStore(server.url, realm="test", command=5).apply([c.Nodes()])
                    assert isinstance(alive, c.NodeList)
                    return idle, each, alive.nodes[0].body
    raise AssertionError("unreachable")


# --- operations as nodes send them


def admit(number: int, who: str = "key", now: int = T0) -> tuple[c.Admit, c.Settle]:
    owner = key(number % 8) if who == "key" else attrs.evolve(key(0), id=who)
    orphan = orphan_of(owner.id, "claude-opus-5-5", RESERVE, now, "UTC")
    call = f"req_{number:020d}"
    op = c.Admit(call=call, terms=terms(owner, Server(), "messages", RESERVE, now, "UTC"), orphan=orphan)
    return op, c.Settle(call=call, record=attrs.evolve(orphan, account="main", errors=0, output=500))


def kept(number: int) -> c.KeptCall:
    fields = dict.fromkeys(("model", "sent_model", "key", "account", "client", "path", "peer"), "claude-opus-5-5")
    body = json.dumps({**fields, **{f"count{at}": 123456 for at in range(16)}, "attempts": [{"account": "main"}]})
    return c.KeptCall(id=f"req_{number:020d}", at=T0 + number, key="dev", account="main", outcome="ok", body=body)


def batches(store: RedisStore, make: Callable[[int], Sequence[c.Op]], count: int, size: int) -> None:
    for _ in range(count // size):
        ops = [op for _ in range(size) for op in make(next(_numbers))]
        for answer in store.apply(ops):
            assert not isinstance(answer, c.Failed), answer


def slots(name: str) -> tuple[Slots, ...]:
    return (Slots(counter=f"account/{name}/slots", name="", limit=10**6, ttl=60_000),)


def operations(server: RedisServer, node_body: str) -> dict[str, Cost]:
    """CPU and traffic of each kind of operation; of three rounds the one in the middle."""
    found: dict[str, Cost] = {}
    store = RedisStore(server.url, realm="ops", command=30, now=lambda: T0)
    opened = [admit(next(_numbers))[0] for _ in range(50)]
    store.apply(opened)
    heartbeat = tuple((op.call, op.orphan) for op in opened)
    known = admit(next(_numbers))
    store.apply(known)

    def lease(number: int) -> tuple[c.Op, ...]:
        holder = f"h{number}"
        return (
            c.Acquire(holder=holder, terms=slots("main")),
            c.Release(holder=holder, counters=("account/main/slots",)),
        )

    kinds: list[tuple[str, Callable[[int], Sequence[c.Op]], int, int, int]] = [
        *((f"admit and settle, {size} a script", admit, 960, size, 1) for size in (1, 8, 32)),
        ("lease of an account, and back", lease, 480, 8, 1),
        ("a call kept for the pages", lambda n: (c.KeepCalls(calls=(kept(n),), most=5000),), 480, 8, 1),
        ("a pin looked up", lambda n: (c.GetPin(name=f"affinity/{n % 500}", ttl=3_600_000),), 480, 8, 1),
        ("a pin written", lambda n: (c.Pin(name=f"affinity/{n % 500}", value="main", ttl=3_600_000),), 480, 8, 1),
        ("a settlement told again", lambda _: known[1:], 960, 64, 1),
        ("heartbeat of an open call", lambda n: (c.Renew(calls=heartbeat),), 100, 1, 50),
    ]
    for name, make, count, size, each in kinds:
        found[name] = middle(server, lambda m=make, n=count, s=size: batches(store, m, n, s), count * each)
    for accounts in (10, 100, 1000):
        topic = f"health{accounts}"
        body = json.dumps({"v": 1, "identity": "x" * 16, "account": {"score": 0.1, "rest": T0, "reason": "y" * 40}})
        batches(
            store, lambda n, t=topic, a=accounts, b=body: (c.Publish(topic=t, name=f"a{n % a}", body=b),), accounts, 1
        )
        new = (c.Gather(topic=topic, since=accounts),)  # the latest version: each was published once
        name = f"look at {accounts} accounts, nothing new"
        found[name] = middle(server, lambda o=new: batches(store, lambda n: o, 200, 1), 200)
    for count in (4, 20, 100):
        other = RedisStore(server.url, realm=f"nodes{count}", command=30, now=lambda: T0)
        name = f"heartbeat of a node, {count} there"

        def beat(number: int, of: int = count) -> tuple[c.Op, ...]:
            return (c.Beat(node=f"n{number % of}", body=node_body, ttl=30_000), c.Nodes())

        batches(other, beat, count, 1)
        found[name] = middle(server, lambda o=other, b=beat: batches(o, b, 100, 1), 100)
        other.close()
    for name, cost in found.items():
        print(f"{name:38} {cost}", flush=True)
    store.close()
    return found


def middle(server: RedisServer, act: Callable[[], object], times: float) -> Cost:
    rounds = [attrs.astuple(measured(server, act, times)) for _ in range(3)]
    return Cost(*(median(column) for column in zip(*rounds, strict=True)))


# --- memory


def memory(node_body: str) -> dict[str, float]:
    """Bytes that redis-server holds for each thing, by its used memory before and after many of them."""
    found: dict[str, float] = {}
    with running() as server, contextlib.closing(server.client()) as client:
        moment = T0
        store = RedisStore(server.url, realm="memory", command=30, now=lambda: moment)

        def grown(name: str, act: Callable[[], object], times: int) -> None:
            before = client.info("memory")["used_memory"]
            act()
            found[name] = (client.info("memory")["used_memory"] - before) / times

        def one(number: int, who: str) -> tuple[c.Admit, c.Settle]:
            return admit(number, who, moment)

        batches(store, lambda n: one(n, "first"), 32, 32)
        grown("a call settled (kept for 6 h)", lambda: batches(store, lambda n: one(n, "first"), 3200, 32), 3200)
        grown("a call open", lambda: batches(store, lambda n: one(n, "first")[:1], 3200, 32), 3200)
        settled = found["a call settled (kept for 6 h)"]
        grown("a key with six limits, one call", lambda: batches(store, lambda n: one(n, f"q{n}"), 640, 32), 640)
        found["a key with six limits, one call"] -= settled

        def busy() -> None:
            nonlocal moment
            for _ in range(60):
                moment += 1_000
                for at in range(50):
                    store.apply(one(next(_numbers), f"b{at}"))

        grown("a key busy all the time, and its calls", busy, 50)
        found["a key busy all the time"] = found.pop("a key busy all the time, and its calls") - 60 * settled
        rows = [attrs.evolve(one(0, f"q{at}")[1], call=f"x{at}") for at in range(640)]
        others = [attrs.evolve(op, record=attrs.evolve(op.record, model=f"m{at}")) for at, op in enumerate(rows)]
        grown("a line of the books, and its call", lambda: [store.apply([op]) for op in others], 640)
        found["a line of the books"] = found.pop("a line of the books, and its call") - settled
        grown(
            "a call kept for the pages",
            lambda: batches(store, lambda n: (c.KeepCalls(calls=(kept(n),), most=9**6),), 3200, 32),
            3200,
        )
        grown(
            "a conversation's pin",
            lambda: batches(
                store, lambda n: (c.Pin(name=f"affinity/{n:032d}", value="main", ttl=3_600_000),), 3200, 32
            ),
            3200,
        )
        batches(store, lambda n: (c.Publish(topic="health", name=f"a{n}", body="x" * 250),), 640, 32)
        batches(store, lambda n: (c.Beat(node=f"n{n}", body=node_body, ttl=30_000),), 640, 32)
        for name, at in (("an account's health", "n:health"), ("a node's heartbeat", "nodes")):
            found[name] = client.memory_usage(f"relayd:{{memory}}:{at}", samples=0) / 640
        store.close()
    for name, size in found.items():
        print(f"{name:38} {size:8.0f} B", flush=True)
    return found


# --- SQLite


def one_host() -> None:
    """One process, its file and its CPU."""
    with tempfile.TemporaryDirectory(prefix="relayd-scale-") as place:
        store = SqliteStore(f"{place}/relayd.db", clock=lambda: T0, deadline=30)
        for size in (1, 8, 32):
            began, count = cpu(), 1920
            for _ in range(count // size):
                store.apply([op for _ in range(size) for op in admit(next(_numbers))])
            print(f"SQLite: admit and settle, {size:2} a transaction {(cpu() - began) / count * 1e6:8.1f} us of CPU")
        file = Path(f"{place}/relayd.db")

        def size_of() -> int:
            store.apply([c.Ping()])
            with contextlib.closing(sqlite3.connect(file)) as look:
                look.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return file.stat().st_size

        for name, make in (
            ("a call settled", lambda n: admit(n, "first")),
            ("a key with six limits, one call", lambda n: admit(n, f"q{n}")),
            ("a call kept for the pages", lambda n: (c.KeepCalls(calls=(kept(n),), most=9**6),)),
        ):
            before = size_of()
            for _ in range(100):
                store.apply([op for _ in range(32) for op in make(next(_numbers))])
            print(f"SQLite: {name:40} {(size_of() - before) / 3200:6.0f} B in the file")
        store.close()


# --- the plan


def plan(idle: Cost, call: Cost, ops: dict[str, Cost], held: dict[str, float], count: int, hourly: float) -> None:
    """What so many nodes and calls ask of the one shard that carries a realm."""
    rate, peak = hourly / 3600, hourly / 3600 * PEAK
    renewal = ops["heartbeat of an open call"].us * SECONDS / RENEW
    a_call = call.us + renewal
    # A real node among few with few accounts, and what more accounts and nodes add to it.
    look = less(ops["look at 1000 accounts, nothing new"], ops["look at 10 accounts, nothing new"])
    beat = less(ops["heartbeat of a node, 100 there"], ops["heartbeat of a node, 4 there"])
    more = max(0.0, (count - 4) / 96)
    a_node = idle.us + max(0.0, look.us) / SHARE + more * beat.us / BEAT  # us a second
    resting = a_node * count / 1e6
    at_half = (HALF - resting) / a_call * 1e6
    beats = SECONDS / RENEW * ops["heartbeat of an open call"].went
    network = peak * (call.came + call.went + beats) + count * (idle.came + idle.went + more * beat.went / BEAT)
    stored = {
        "calls of six hours": hourly * 6 * held["a call settled (kept for 6 h)"],
        "open calls": peak * SECONDS * held["a call open"],
        "conversations of an hour": hourly / 5 * held["a conversation's pin"],
        "1,000 busy keys": 1000 * held["a key busy all the time"],
        "the books, 400 days of 3,000 lines": 400 * 3000 * held["a line of the books"],
        "5,000 calls for the pages": 5000 * held["a call kept for the pages"],
        "1,000 accounts": 1000 * held["an account's health"],
        f"{count} nodes": count * held["a node's heartbeat"],
    }
    print(f"\nplan: {count} nodes, {hourly:,.0f} calls an hour of {SECONDS:.0f} s, {PEAK:g} times the mean at the peak")
    print(f"  a call {call.us:.0f} us, its heartbeats {renewal:.0f} us; a node {a_node:.0f} us a second, {count} nodes"
          f" {resting:.1%} of a core")  # fmt: skip
    mean, busiest = (some * a_call / 1e6 + resting for some in (rate, peak))
    print(f"  mean {rate:.0f} calls/s: {mean:.0%} of a core; peak {peak:.0f} calls/s: {busiest:.0%}")
    print(f"  one shard at {HALF:.0%} of a core: {at_half:,.0f} calls/s, {at_half * 3600 / 1e6:.1f} million an hour")
    print(
        f"  network at the peak {network * 8 / 1e6:.0f} Mbit/s, of it the replica {peak * call.replica * 8 / 1e6:.0f}"
    )
    again = rate * RECENT
    spent = again * ops["a settlement told again"].us / 1e6
    print(f"  after a failover {again:,.0f} settlements are told again: {spent:.1f} s of a core")
    for name, size in stored.items():
        print(f"  {name:38} {size / 1e6:8.1f} MB")
    print(f"  memory {sum(stored.values()) / 1e9:.2f} GB; twice that while Redis rewrites its file")


def main() -> None:
    count, hourly = (int(sys.argv[1]), float(sys.argv[2])) if len(sys.argv) > 2 else (100, 1e6)
    with advised() as server:
        idle, call, body = real_nodes(server)
        ops = operations(server, body)
    held = memory(body)
    one_host()
    plan(idle, call, ops, held, count, hourly)


if __name__ == "__main__":
    main()
