"""RedisStore against a real redis-server: restarted, stalled, full, replaced, locked, and asked by several nodes."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from operations import DAY, admit, record
from ports import free_ports
from redis_server import RedisServer, running
from tls_front import TlsFront
from waiting import PATIENCE, until, wait_until

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.failsafe import FailsafeStore
from relayd.daemon.store.journal import Journal
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import (
    Acquire,
    Admit,
    Answer,
    Beat,
    Denied,
    Failed,
    Gather,
    Gathered,
    GetPin,
    Granted,
    NodeList,
    Nodes,
    Op,
    Peek,
    Pin,
    Ping,
    Pinned,
    Pong,
    Publish,
    Published,
    Reap,
    Release,
    Renew,
    Report,
    Reported,
    Settle,
    Settled,
    StoreMisfit,
    StoreUnavailable,
    TermLevels,
    Unpin,
    Void,
)
from relayd.state.redis import RedisStore, script
from relayd.state.sqlite import SqliteStore


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running() as one:
        yield one


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisStore]:
    with contextlib.closing(server.client()) as client:
        client.flushall()
    with contextlib.closing(RedisStore(server.url, realm="test", command=30)) as one:
        yield one


def rolling(limit: int = 100, window: int = 3_600_000) -> tuple[Term, ...]:
    return (Rolling(counter="key/dev/requests/1h", name="", unit="requests", limit=limit, cost=1, window=window),)


def test_time_is_the_servers(store: RedisStore) -> None:
    before = time.time()
    (answer,) = store.apply([Ping()])
    assert isinstance(answer, Pong)
    assert before * 1000 - 1 <= answer.now <= time.time() * 1000


def test_all_keys_are_under_the_realm_in_one_slot_and_expire(server: RedisServer, store: RedisStore) -> None:
    (pong,) = store.apply([Ping()])
    assert isinstance(pong, Pong)
    now = pong.now
    terms: tuple[Term, ...] = (
        *rolling(),
        Slots(counter="key/dev/slots", name="", limit=3),
        Calendar(counter="key/dev/cost/x", name="", unit="cost", limit=99, cost=1, start=0, end=now + 10**7),
    )
    store.apply(
        [
            admit("c1", terms),
            admit("c2", terms),
            Settle(call="c1", record=record()),
            Acquire(holder="h", terms=(Slots(counter="account/main", name="", limit=1),)),
            Pin(name="p", value="x", ttl=600_000),
            Pin(name="for ever", value="x"),
            Publish(topic="health", name="main", body="{}"),
            Beat(node="n1", body="", ttl=600_000),
        ]
    )
    with contextlib.closing(server.client(decode_responses=True)) as client:
        keys = sorted(client.keys("*"))
        assert len(keys) == 16, keys
        assert all(key.startswith("relayd:{test}:") for key in keys)
        assert [key for key in keys if client.ttl(key) < 0] == ["relayd:{test}:p:for ever"]


def test_a_large_report_is_read_in_pages_so_that_redis_can_serve_others_meanwhile(
    server: RedisServer, store: RedisStore
) -> None:
    days = ["2026-11-01", "2026-11-02"]
    keys = [f"key{n:04}" for n in range(1500)]
    store.apply([Settle(call=day + key, record=record(day=day, key=key)) for day in days for key in keys])
    with contextlib.closing(server.client()) as client:
        client.config_resetstat()
        (answer,) = store.apply([Report(first=days[0], last=days[-1])])
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] >= 6
    assert isinstance(answer, Reported)
    assert [(row.day, row.key) for row in answer.rows] == [(day, key) for day in days for key in keys]
    assert {(row.requests, row.input) for row in answer.rows} == {(1, 7)}


def test_a_server_that_forgot_the_script_is_told_again(server: RedisServer, store: RedisStore) -> None:
    store.apply([Pin(name="p", value="x")])
    with contextlib.closing(server.client()) as client:
        client.script_flush()
    store.apply([Pin(name=f"p{n}", value=str(n)) for n in range(200)])
    assert store.apply([GetPin(name=f"p{n}") for n in range(200)]) == [Pinned(value=str(n)) for n in range(200)]


def test_a_connection_that_the_server_closed_is_opened_anew(server: RedisServer, store: RedisStore) -> None:
    assert isinstance(store.apply([admit("c1", rolling(1))])[0], Granted)
    with contextlib.closing(server.client()) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    (again,) = store.apply([admit("c1", rolling(1))])
    assert isinstance(again, Granted)
    assert again.again
    assert isinstance(store.apply([admit("c2", rolling(1))])[0], Denied)


def test_a_server_that_is_gone_is_an_outage_within_the_deadline_and_is_found_again() -> None:
    with running() as server, contextlib.closing(RedisStore(server.url, realm="test", command=30)) as store:
        store.apply([Ping()])
        server.stop()
        with pytest.raises(StoreUnavailable, match="refused"):
            store.apply([Ping()])
        server.start()
        assert isinstance(store.apply([Ping()])[0], Pong)


def test_a_stalled_server_is_an_outage_within_the_deadline_and_nothing_is_repeated() -> None:
    with running() as server, contextlib.closing(RedisStore(server.url, realm="test", command=0.2)) as store:
        assert server.process is not None

        def answers() -> bool:
            with contextlib.suppress(StoreUnavailable):
                return isinstance(store.apply([Ping()])[0], Pong)
            return False

        wait_until(answers, "an answer within the deadline")
        with contextlib.closing(server.client()) as client:
            client.config_resetstat()
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"[Tt]imeout"):
                store.apply([admit("c1", rolling())])
            assert time.monotonic() - began > 0.15
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        with contextlib.closing(server.client()) as client:
            wait_until(lambda: client.exists("relayd:{test}:c:c1") == 1, "the late admission")
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1


def test_a_full_server_is_an_outage() -> None:
    def fill(store: RedisStore) -> None:
        for n in range(2000):
            store.apply([Pin(name=f"p{n}", value="x" * 5000)])

    with (
        running("--maxmemory", "1500kb", "--maxmemory-policy", "noeviction") as server,
        contextlib.closing(RedisStore(server.url, realm="test", command=30)) as store,
    ):
        assert store.check() == []
        with pytest.raises(StoreUnavailable, match=r"OOM|used memory"):
            fill(store)


def test_an_eviction_policy_that_loses_counters_is_warned_of() -> None:
    with (
        running("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server,
        contextlib.closing(RedisStore(server.url, realm="test", command=30)) as store,
    ):
        (warning,) = store.check()
    assert "maxmemory-policy is allkeys-lru, which may drop counters and leases [set it to noeviction]" in warning


def test_a_replica_is_no_place_to_count() -> None:
    with (
        running() as master,
        running("--replicaof", "127.0.0.1", str(master.port)) as replica,
        contextlib.closing(RedisStore(replica.url, realm="test", command=30)) as store,
        pytest.raises(StoreUnavailable, match="read only replica"),
    ):
        store.apply([admit("c1", rolling())])


def test_a_password_is_presented_and_never_shown() -> None:
    with running("--requirepass", "hunter2") as server:
        with contextlib.closing(RedisStore(server.url, realm="test", password="hunter2", command=30)) as store:
            assert isinstance(store.apply([Ping()])[0], Pong)
        for wrong in ("", "wrong-hunter3"):
            store = RedisStore(server.url, realm="test", password=wrong, command=30)
            with pytest.raises(StoreUnavailable, match=r"NOAUTH|WRONGPASS|invalid|Authentication") as caught:
                store.check()
            assert "hunter" not in str(caught.value)


# As docs/state.md tells it.
ALLOWED = (
    "~relayd:* +evalsha +script|load +info +time +get +set +del +exists +incr +incrby +hget +hset +hdel +hgetall"
    " +hscan +pexpire +zadd +zrem +zcard +zcount +zscore +zrange +zrangebyscore +zremrangebyscore"
)


def test_a_user_who_may_do_what_the_docs_say_can_count(server: RedisServer) -> None:
    docs = " ".join((Path(__file__).parents[2] / "docs" / "state.md").read_text().split())
    assert ALLOWED in docs
    with contextlib.closing(server.client()) as client:
        client.execute_command("ACL", "SETUSER", "counter", "on", ">hunter2", *ALLOWED.split())
    url = server.url.replace("//", "//counter@")
    slots, window = Slots(counter="s", name="", limit=3), rolling()[0]
    day = Calendar(counter="k", name="", unit="cost", limit=9, cost=1, start=0, end=2**52)
    everything: list[Op] = [
        admit("c1", (slots, window, day)),
        Renew(calls=(("c1", record()),), leases=(("s", "h"),)),
        Settle(call="c1", record=record()),
        Settle(call="c2", record=record(), terms=(window, day), at=1),
        Admit(call="c3", terms=(window, day), orphan=record(), ttl=0),
        Reap(),
        Settle(call="c3", record=record(cost=8)),
        Acquire(holder="h", terms=(slots,)),
        Peek(terms=(slots, window, day)),
        Release(holder="h", counters=("s",)),
        Pin(name="p", value="x", ttl=1000),
        GetPin(name="p", ttl=1000),
        Unpin(name="p"),
        Publish(topic="t", name="n", body=""),
        Gather(topic="t"),
        Beat(node="n", body="", ttl=0),
        Nodes(),
        Report(first=DAY, last=DAY),
        Void(call="c4"),
    ]
    with contextlib.closing(RedisStore(url, realm="test", password="hunter2", command=30)) as store:
        assert store.check() == []
        answers = store.apply(everything)
        assert store.life
    assert [answer for answer in answers if isinstance(answer, Failed)] == []


class OldRedis:
    """Answers just enough to pass for a Redis 5."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self.sock.accept()
        info = b"redis_version:5.0.14\r\n"
        request = b""
        with connection:
            while piece := connection.recv(65536):
                request += piece
                if b"LOAD" in request and not request.endswith(script()[0][-20:] + b"\r\n"):
                    continue  # the script comes in pieces
                connection.sendall(b"$%d\r\n%s\r\n" % (len(info), info) if b"INFO" in request else b"+OK\r\n")
                request = b""


def test_a_redis_that_is_too_old_is_refused() -> None:
    old = OldRedis()
    with (
        contextlib.closing(RedisStore(f"redis://127.0.0.1:{old.port}", realm="test", command=30)) as store,
        pytest.raises(StoreMisfit, match=r"Redis 5\.0\.14, but 6\.2 or newer is needed"),
    ):
        store.check()
    old.sock.close()


# -- TLS -----------------------------------------------------------------------------------------------------------


def test_tls_checks_the_authority_and_the_host_name(server: RedisServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    right = TlsFront(server, authority.issue_cert("localhost"))
    wrong = TlsFront(server, authority.issue_cert("redis.example"))
    right_url = f"rediss://localhost:{right.port}?ca={ca}"
    with contextlib.closing(RedisStore(right_url, realm="tls", connect=30, command=30)) as store:
        assert isinstance(store.apply([Ping()])[0], Pong)
    for port, ca_option, reason in (
        (wrong.port, f"?ca={ca}", "Hostname mismatch"),
        (right.port, "", "CERTIFICATE_VERIFY_FAILED"),
    ):
        store = RedisStore(f"rediss://localhost:{port}{ca_option}", realm="tls", connect=30, command=30)
        with pytest.raises(StoreUnavailable, match=reason):
            store.apply([Ping()])
    right.sock.close()
    wrong.sock.close()


# -- several nodes -------------------------------------------------------------------------------------------------


def hammer(url: str, limit: int, number: int, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    with contextlib.closing(RedisStore(url, realm="many", command=60)) as store:
        granted = 0
        for batch in range(60):
            ops = [admit(f"p{number}-{batch}-{n}", rolling(limit)) for n in range(16)]
            granted += sum(isinstance(answer, Granted) for answer in store.apply(ops))
    answers.put(granted)


def test_four_nodes_admit_exactly_the_limit(server: RedisServer, store: RedisStore) -> None:
    start = multiprocessing.get_context("spawn")
    answers = start.Queue()
    workers = [start.Process(target=hammer, args=(server.url, 1000, number, answers)) for number in range(4)]
    for worker in workers:
        worker.start()
    granted = [answers.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert sum(granted) == 1000


@asynccontextmanager
async def failsafe(server: RedisServer, tmp_path: Path) -> AsyncIterator[tuple[Batcher, FailsafeStore]]:
    """The way of calls to a server, for the length of the block."""
    store = RedisStore(server.url, realm="test", connect=0.2, command=0.2)
    main = Batcher(StoreSession(store, Journal(tmp_path / "journal")))
    side = Batcher(StoreSession(SqliteStore(":memory:", clock=lambda: time.time_ns() // 10**6)))
    async with trio.open_nursery() as nursery:
        await nursery.start(main.run)
        await nursery.start(side.run)
        yield main, FailsafeStore(main, side, policy=lambda: "allow")
        nursery.cancel_scope.cancel()


async def one_client(count: FailsafeStore, served: set[str], name: int, over: trio.Event) -> None:
    for n in itertools.count():
        if over.is_set():
            return
        call = f"c{name}-{n}"
        assert isinstance(await count.admit(admit(call, rolling(10**6))), Granted)
        await trio.sleep(0.03)
        count.settle(call, record(key=call))
        served.add(call)


@asynccontextmanager
async def load(count: FailsafeStore, served: set[str]) -> AsyncIterator[None]:
    """Eight clients for the length of the block, from the time when each has been served a few times."""
    over = trio.Event()
    async with trio.open_nursery() as clients:
        for name in range(8):
            clients.start_soon(one_client, count, served, name, over)
        await more(served)
        yield
        over.set()


async def more(served: set[str]) -> None:
    """Wait until more calls have been served."""
    wanted = len(served) + 80
    await until(lambda: len(served) >= wanted, "more calls")


async def answered(main: Batcher, op: Op) -> Answer:
    """Ask until the store answers within its deadline."""
    with trio.fail_after(PATIENCE):
        while True:
            with contextlib.suppress(StoreUnavailable):
                return await main.ask(op)
            await trio.sleep(0.02)


async def booked(main: Batcher, served: set[str]) -> dict[str, int]:
    """Wait until each call has its line in the books; how often it is there."""
    with trio.fail_after(PATIENCE):
        while True:
            report = await answered(main, Report(first=DAY, last=DAY))
            assert isinstance(report, Reported)
            rows = {row.key: row.requests for row in report.rows}
            if rows.keys() == served:
                return rows
            await trio.sleep(0.02)


async def test_books_are_whole_after_a_restart_that_lost_everything_under_load(tmp_path: Path) -> None:
    """Redis is killed under load and comes back empty: what was settled is booked once, before and after."""
    served: set[str] = set()
    with running(port=free_ports(1)[0]) as server:
        async with failsafe(server, tmp_path) as (main, count):
            async with load(count, served):
                await trio.to_thread.run_sync(server.stop)
                await until(lambda: not main.up, "an outage")
                await more(served)
                await trio.to_thread.run_sync(server.start)
                await more(served)
            rows = await booked(main, served)  # what had died with the server's memory is told again
        assert set(rows.values()) == {1}


async def test_books_are_whole_after_a_stall_under_load(tmp_path: Path) -> None:
    """Redis stands still for a while: what timed out may have run, and still everything counts exactly once."""
    served: set[str] = set()
    with running() as server:
        assert server.process is not None
        async with failsafe(server, tmp_path) as (main, count):
            async with load(count, served):
                os.kill(server.process.pid, signal.SIGSTOP)
                await until(lambda: not main.up, "an outage")
                await more(served)
                os.kill(server.process.pid, signal.SIGCONT)
                await more(served)
            await until(lambda: main.up)
            rows = await booked(main, served)
            peeked = await answered(main, Peek(terms=rolling()))
        assert isinstance(peeked, TermLevels)
        assert set(rows.values()) == {1}
        assert peeked.levels[0].used == len(served)


DAMAGE = {
    "another type": ("LPUSH", "x"),
    "no number and no MessagePack": ("SET", "\xff nonsense"),
    "MessagePack of something else": ("SET", b"\x93\xa1a\xa1b\xa1c"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "place", ["w:key/dev/requests/1h", "s:key/dev/slots", "k:key/dev/cost/day@0", "clock", "began"]
)
def test_a_damaged_counter_is_set_aside_alone_and_all_else_goes_on(
    damage: str, place: str, server: RedisServer, store: RedisStore
) -> None:
    slots = Slots(counter="key/dev/slots", name="", limit=2, ttl=60_000)
    end = 9_000_000_000_000
    day = Calendar(counter="key/dev/cost/day", name="", unit="cost", limit=100, cost=1, start=0, end=end)
    terms = (*rolling(), slots, day)
    store.apply([admit("before", terms), admit("other", (attrs.evolve(terms[0], counter="key/other/requests/1h"),))])
    word, value = DAMAGE[damage]
    with contextlib.closing(server.client()) as client:
        client.delete(f"{store.prefix}{place}")
        client.execute_command(word, f"{store.prefix}{place}", value)

        (granted, settled, peeked) = store.apply(
            [admit("after", terms), Settle(call="before", record=record()), Peek(terms=terms)]
        )

        assert isinstance(granted, Granted)
        assert settled == Settled(outcome="settled")
        assert isinstance(peeked, TermLevels)
        assert [name.partition(": ")[0] for name in store.damaged] == [place]
        assert client.exists(f"{store.prefix}damaged:{place}")
    assert isinstance(store.apply([Ping()])[0], Pong)
    assert len(store.damaged) == 1


@pytest.mark.parametrize("place", ["c:before", "open", "h:dev", f"u:{DAY}", "p:pin", "n:topic", "v:topic", "nodes"])
def test_no_other_damaged_key_fails_an_operation(place: str, server: RedisServer, store: RedisStore) -> None:
    ops: list[Op] = [
        Settle(call="before", record=record()),
        Renew(calls=(("before", None),), leases=(), ttl=1000),
        Reap(),
        GetPin(name="pin"),
        Pin(name="pin", value="a", ttl=1000),
        Publish(topic="topic", name="a", body="b"),
        Gather(topic="topic"),
        Beat(node="n", body="b", ttl=1000),
        Nodes(),
        Report(first=DAY, last=DAY),
    ]
    reserving = Rolling(counter="key/dev/tokens/1h", name="", unit="tokens", limit=100, cost=9, window=3_600_000)
    store.apply([admit("before", (*rolling(), reserving)), *ops[3:]])
    with contextlib.closing(server.client()) as client:
        client.delete(f"{store.prefix}{place}")
        client.lpush(f"{store.prefix}{place}", "x")

        assert not [answer for answer in store.apply(ops) if isinstance(answer, Failed)]
        assert any(name.startswith(f"{place}: ") for name in store.damaged)


@pytest.mark.parametrize("place", [f"u:{DAY}", "n:topic", "nodes"])
def test_a_damaged_field_costs_no_other_field(place: str, server: RedisServer, store: RedisStore) -> None:
    store.apply(
        [
            Settle(call="a", record=record()),
            Publish(topic="topic", name="a", body="b"),
            Beat(node="a", body="b", ttl=60_000),
        ]
    )
    with contextlib.closing(server.client()) as client:
        client.hset(f"{store.prefix}{place}", "bad", "\xff nonsense")

    gathered, nodes, reported = store.apply([Gather(topic="topic"), Nodes(), Report(first=DAY, last=DAY)])

    assert isinstance(gathered, Gathered)
    assert [note.name for note in gathered.notes] == ["a"]
    assert isinstance(nodes, NodeList)
    assert [one.node for one in nodes.nodes] == ["a"]
    assert isinstance(reported, Reported)
    assert len(reported.rows) == 1
    assert [name.partition(": ")[0] for name in store.damaged] == [place]


def test_a_topic_without_news_is_not_read_however_much_it_holds(server: RedisServer, store: RedisStore) -> None:
    notes = [Publish(topic="health", name=f"a{at}", body="x") for at in range(3)]
    (*_, newest) = store.apply(notes)
    with contextlib.closing(server.client()) as client:
        client.config_resetstat()
        (nothing,) = store.apply([Gather(topic="health", since=3)])
        assert isinstance(nothing, Gathered)
        assert nothing.notes == ()
        quiet = client.info("commandstats")
        (found,) = store.apply([Gather(topic="health", since=2)])
        told = client.info("commandstats")

    assert isinstance(newest, Published)
    assert isinstance(found, Gathered)
    assert found.notes == (newest.note,)
    assert "cmdstat_hgetall" not in quiet
    assert told["cmdstat_hgetall"]["calls"] == 1


def test_who_has_heard_more_than_an_emptied_store_has_said_hears_it_from_the_start(
    server: RedisServer, store: RedisStore
) -> None:
    store.apply([Publish(topic="health", name="a", body=str(at)) for at in range(5)])
    with contextlib.closing(server.client()) as client:
        client.flushall()
    (said, heard) = store.apply([Publish(topic="health", name="b", body="tired"), Gather(topic="health", since=5)])

    assert isinstance(said, Published)
    assert isinstance(heard, Gathered)
    assert heard.notes == (said.note,)
