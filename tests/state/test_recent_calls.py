"""Recent calls on both stores: found as a list in memory would find them, bounded in number and in age."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import redis
from redis_server import RedisServer

from relayd.state import contract as c
from relayd.state.redis import CALLS_PAGE, RedisStore
from relayd.state.sqlite import SqliteStore

T0 = 1_800_000_000_000
Either = SqliteStore | RedisStore


@attrs.define
class Clock:
    now: int = T0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Either]:
    made: Either
    if request.param == "sqlite":
        made = SqliteStore(str(tmp_path / "state.db"), clock=clock)
    else:
        server: RedisServer = request.getfixturevalue("server")
        with server.client() as client:
            client.flushdb()
        made = RedisStore(server.url, realm="calls", now=clock, command=10)
    yield made
    made.close()


def call(number: int, **fields: object) -> c.KeptCall:
    dull = {"id": f"req_{number:06}", "at": T0 + number, "key": "dev", "status": 200, "body": f'{{"n": {number}}}'}
    return c.KeptCall(**{**dull, **fields})  # type: ignore[arg-type]


def keep(store: Either, *calls: c.KeptCall, most: int = 10_000) -> None:
    assert store.apply([c.KeepCalls(calls=calls, most=most)]) == [c.Done()]


def find(store: Either, **wanted: object) -> c.FoundCalls:
    (answer,) = store.apply([c.FindCalls(**wanted)])  # type: ignore[arg-type]
    assert isinstance(answer, c.FoundCalls), answer
    return answer


def test_calls_come_back_whole_the_newest_first(store: Either) -> None:
    odd = call(2, key="k", account="a", model="é\U0001f600", client="claude_code", outcome="left", status=499, body="")
    keep(store, call(1), odd, call(3))
    assert find(store).calls == (call(3), odd, call(1))
    assert find(store, id="req_000002").calls == (odd,)
    assert find(store, id="req_999999").calls == ()


def test_a_call_told_again_takes_its_own_place(store: Either) -> None:
    keep(store, call(1), call(2))
    keep(store, call(1, outcome="cut"))
    assert find(store).calls == (call(2), call(1, outcome="cut"))


def test_only_the_newest_are_kept(store: Either) -> None:
    keep(store, *(call(n) for n in range(30)), most=10)
    assert [one.at - T0 for one in find(store).calls] == list(range(29, 19, -1))
    keep(store, call(100), most=3)
    assert [one.at - T0 for one in find(store).calls] == [100, 29, 28]
    keep(store, most=0)
    assert find(store).calls == ()


def test_a_week_is_kept(store: Either, clock: Clock) -> None:
    keep(store, call(0), call(5000))
    clock.now = T0 + c.CALLS_MS + 1
    assert [one.at - T0 for one in find(store).calls] == [5000]
    keep(store, call(6000))
    assert [one.at - T0 for one in find(store).calls] == [6000, 5000]


def test_pages_go_through_all_of_them_once(store: Either) -> None:
    rng = random.Random(7)
    calls = [
        call(n, at=T0 + rng.randrange(40), key=rng.choice("ab"), model=rng.choice("xy"), status=rng.choice([200, 429]))
        for n in range(200)
    ]
    keep(store, *calls)
    in_order = sorted(calls, key=lambda one: (one.at, one.id), reverse=True)
    for wanted in ({}, {"key": "a"}, {"model": "x", "status": 429}, {"key": "nobody"}, {"account": "none"}):
        found: list[c.KeptCall] = []
        before = None
        while True:
            page = find(store, limit=7, before=before, **wanted)
            found += page.calls
            before = page.after
            if before is None:
                break
        expected = [one for one in in_order if all(getattr(one, name) == value for name, value in wanted.items())]
        assert found == expected


def test_a_question_looks_at_so_many_and_says_where_to_go_on(store: Either) -> None:
    rare = call(0, key="rare")
    for start in range(0, c.MOST_LOOKED_AT, 500):
        keep(store, *(call(n) for n in range(start + 1, start + 501)))
    keep(store, rare)
    first = find(store, key="rare")
    assert first.calls == ()
    assert first.after is not None
    assert find(store, key="rare", before=first.after).calls == (rare,)


def test_a_damaged_call_does_not_hide_the_older_ones(server: RedisServer) -> None:
    with server.client() as client:
        client.flushdb()
        store = RedisStore(server.url, realm="calls", now=Clock(), command=10)
        calls = [call(n) for n in range(CALLS_PAGE + 2)]
        keep(store, *calls)
        client.hset(f"{store.prefix}call", calls[-1].id, b"\xc1")
        for _ in range(2):  # it is set aside by the first
            assert find(store, limit=1000).calls == tuple(reversed(calls[:-1]))
        assert store.damaged
        store.close()


def test_no_script_of_a_question_reads_more_than_a_page(server: RedisServer) -> None:
    """While a script runs, Redis serves nobody else; and whoever wants few calls is not sent thousands."""
    with server.client() as client:
        client.flushdb()
        store = RedisStore(server.url, realm="calls", now=Clock(), command=10)
        keep(store, *(call(n) for n in range(CALLS_PAGE * 3)))
        reads = [reads_of(client, store, limit=limit, key=key) for limit, key in ((50, "dev"), (50, "rare"))]
        store.close()
    assert reads == [CALLS_PAGE, CALLS_PAGE * 3]


def reads_of(client: redis.Redis, store: RedisStore, **wanted: object) -> int:
    """Calls that Redis reads for a question."""
    client.config_resetstat()
    find(store, **wanted)
    return client.info("commandstats")["cmdstat_hget"]["calls"]  # type: ignore[index, no-any-return]


def test_what_cannot_be_sent_fails_alone(store: Either) -> None:
    odd, pong = store.apply([c.FindCalls(id="\ud800"), c.Ping()])
    assert isinstance(odd, c.Failed)
    assert isinstance(pong, c.Pong)
