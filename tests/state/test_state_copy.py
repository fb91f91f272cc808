"""Copies of a state: file to Redis and back, each asked the same questions afterwards."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from operations import admit
from redis_server import RedisServer
from redis_server import running as redis_running
from test_redis_store import ALLOWED

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import FOREVER
from relayd.state.contract import (
    Admit,
    Answer,
    Beat,
    Denied,
    FindCalls,
    Gather,
    GetPin,
    KeepCalls,
    KeptCall,
    Nodes,
    Peek,
    Pin,
    Publish,
    Reap,
    Renew,
    Report,
    Settle,
    Settled,
    Store,
    StoreUnavailable,
    Void,
)
from relayd.state.portable import window_of_counter
from relayd.state.redis import RedisStore
from relayd.state.redis_copy import delete_realm, keys_of, read_realm, write_realm
from relayd.state.sqlite import SqliteStore
from relayd.state.sqlite_copy import bring_up_to_date, copy_file, read_rows, write_rows

ROOT = Path(__file__).parents[2]
NOW = round(time.time() * 1000)
LATER = NOW + 3_600_000
TERMS: tuple[Term, ...] = (
    Rolling(counter="key/dev/tokens/5h", name="", unit="tokens", limit=1_000_000, cost=900, window=5 * 3_600_000),
    Rolling(counter="key/dev/requests/1m", name="", unit="requests", limit=100, cost=1, window=60_000),
    Calendar(counter="key/dev/cost/day", name="", unit="cost", limit=10**9, cost=500, start=NOW - 5000, end=LATER),
    Calendar(counter="key/dev/cost/total", name="", unit="cost", limit=10**9, cost=500, start=0, end=FOREVER),
    Slots(counter="key/dev/slots", name="", limit=5, ttl=60_000),
)
LONG = "claude-" + "x" * 60  # longer than MessagePack's short strings


def record(**fields: object) -> UsageRecord:
    known = {"day": "2026-11-22", "key": "dev", "account": "main", "model": LONG, "requests": 1, "input": 10}
    return UsageRecord(**{**known, **fields})  # type: ignore[arg-type]


def fill(store: Store) -> None:
    """Calls that ended, one that was reaped, one that is open, and all else that is kept."""
    kept = tuple(
        KeptCall(id=f"call{n}", at=NOW - n * 1000, key="dev", account="main", model=LONG, status=200, body="{}")
        for n in range(5)
    )
    answers = store.apply(
        [
            Admit(call="ended", terms=TERMS, orphan=record(), likely=1000),
            Settle(call="ended", record=record(output=90, cost=77)),
            Admit(call="dead_1", terms=TERMS, orphan=record(), likely=1000),
            Reap(owner="dead_"),
            Admit(call="open", terms=TERMS, orphan=record(input=600), likely=1000),
            Renew(calls=(("open", record(input=1, output=4)),)),
            Settle(call="late", record=record(key="é", cost=3), terms=TERMS, at=NOW - 30_000),
            Pin(name="object/file_1", value="main dev"),
            Pin(name="affinity", value="main", ttl=3_600_000),
            Publish(topic="health", name="main", body="{}"),
            Publish(topic="health", name="other", body="b"),
            Publish(topic="health", name="main", body="c"),
            Beat(node="n1", body="{}", ttl=30_000),
            KeepCalls(calls=kept, most=100),
            Void(call="void"),
        ]
    )
    assert not any(type(answer).__name__ in ("Failed", "Denied", "Stale") for answer in answers)


def questions(store: Store) -> list[Answer]:
    """What a daemon could see of all that, and what happens to calls that were under way."""
    seen = store.apply(
        [
            Peek(terms=TERMS),
            Report(first="2026-11-01", last="2026-11-30"),
            GetPin(name="object/file_1"),
            GetPin(name="affinity"),
            Gather(topic="health"),
            FindCalls(limit=10),
            Reap(look=True, owner="open"),
            Publish(topic="health", name="third", body="d"),
        ]
    )
    asked = [
        Admit(call="open", terms=TERMS, orphan=record()),
        Admit(call="ended", terms=TERMS, orphan=record()),
        Settle(call="ended", record=record(cost=5)),
        Settle(call="late", record=record(cost=5)),
        Settle(call="dead_1", record=record(output=1, cost=1)),
        Settle(call="open", record=record(output=8, cost=2)),
        Peek(terms=TERMS),
        Report(first="2026-11-01", last="2026-11-30"),
        Admit(call="more", terms=(TERMS[0],), orphan=record()),
    ]
    return seen + store.apply(asked)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_running() as found:
        yield found


@contextlib.contextmanager
def in_redis(server: RedisServer, realm: str) -> Iterator[RedisStore]:
    store = RedisStore(server.url, realm=realm, command=10.0, now=lambda: NOW)
    with contextlib.closing(store):
        yield store


def in_file(path: Path) -> SqliteStore:
    return SqliteStore(str(path), clock=lambda: NOW)


def filled(path: Path) -> Path:
    with contextlib.closing(in_file(path)) as store:
        fill(store)
    return path


def answers_of(path: Path) -> list[Answer]:
    with contextlib.closing(in_file(path)) as store:
        return questions(store)


def test_a_file_in_use_is_copied_whole_as_one_file(tmp_path: Path) -> None:
    with contextlib.closing(in_file(tmp_path / "a.db")) as store:
        fill(store)
        copy_file(tmp_path / "a.db", tmp_path / "b.db")
        store.apply([Settle(call="after", record=record(cost=1_000_000))])
    assert [path.name for path in tmp_path.glob("b.db*")] == ["b.db"]
    assert answers_of(tmp_path / "b.db") == answers_of(filled(tmp_path / "c.db"))


def test_redis_answers_as_the_file_that_was_put_into_it(tmp_path: Path, server: RedisServer) -> None:
    path = filled(tmp_path / "a.db")
    with in_redis(server, "from-file") as store:
        write_realm(store, read_rows(path))
        assert questions(store) == answers_of(path)
        assert all(
            server.client().pttl(key) != -1 for keys in keys_of(store) for key in keys if b":p:object" not in key
        )


def test_a_file_answers_as_the_redis_that_was_put_into_it(tmp_path: Path, server: RedisServer) -> None:
    with in_redis(server, "to-file") as store:
        fill(store)
        write_rows(tmp_path / "b.db", read_realm(store))
        assert answers_of(tmp_path / "b.db") == questions(store)


def test_there_and_back_again_loses_nothing(tmp_path: Path, server: RedisServer) -> None:
    path = filled(tmp_path / "a.db")
    with in_redis(server, "both") as store:
        write_realm(store, read_rows(path))
        write_rows(tmp_path / "b.db", read_realm(store))
    assert answers_of(tmp_path / "b.db") == answers_of(path)


def test_other_realms_and_what_is_damaged_are_left_alone(tmp_path: Path, server: RedisServer) -> None:
    with in_redis(server, "mine") as mine, in_redis(server, "mine-too") as other:
        fill(mine)
        other.apply([Pin(name="theirs", value="x")])
        client = server.client()
        client.set(f"{mine.prefix}p:broken", b"\xc1\xff")
        client.hset(f"{mine.prefix}w:key/dev/tokens/1h", "not", "ours")
        write_rows(tmp_path / "b.db", read_realm(mine))
        delete_realm(mine)
        assert list(keys_of(mine)) == []
        assert len(list(keys_of(other))) == 1
    with contextlib.closing(in_file(tmp_path / "b.db")) as store:
        assert store.apply([GetPin(name="object/file_1")])[0].value == "main dev"  # type: ignore[union-attr]
        assert store.apply([GetPin(name="theirs")])[0].value is None  # type: ignore[union-attr]


def test_a_user_who_may_do_what_the_docs_say_can_copy(tmp_path: Path, server: RedisServer) -> None:
    assert "`relayd backup` and `restore` need `+scan +pttl` too" in (ROOT / "docs/state.md").read_text()
    with contextlib.closing(server.client()) as client:
        client.execute_command("ACL", "SETUSER", "copier", "on", ">hunter2", *ALLOWED.split(), "+scan", "+pttl")
        client.execute_command("ACL", "SETUSER", "counter", "on", ">hunter2", *ALLOWED.split())
    url = server.url.replace("//", "//{}@")
    path = filled(tmp_path / "a.db")
    with contextlib.closing(RedisStore(url.format("copier"), realm="acl", password="hunter2", command=5)) as store:
        write_realm(store, read_rows(path))
        write_rows(tmp_path / "b.db", read_realm(store))
        delete_realm(store)
    assert answers_of(tmp_path / "b.db")[1] == answers_of(path)[1]
    with contextlib.closing(RedisStore(url.format("counter"), realm="acl", password="hunter2", command=5)) as store:
        with pytest.raises(StoreUnavailable, match="scan") as caught:
            list(keys_of(store))
        assert "hunter" not in str(caught.value)


def test_more_keys_than_go_at_once_all_go(tmp_path: Path, server: RedisServer) -> None:
    with contextlib.closing(in_file(tmp_path / "a.db")) as store:
        store.apply([Pin(name=f"pin{n}", value="v") for n in range(700)])
        store.apply([Settle(call=f"s{n}", record=record(key=f"k{n}")) for n in range(700)])
    with in_redis(server, "many") as target:
        write_realm(target, read_rows(tmp_path / "a.db"))
        write_rows(tmp_path / "b.db", read_realm(target))
        assert target.apply([Settle(call="s699", record=record())]) == [Settled(outcome="again")]
    with contextlib.closing(sqlite3.connect(tmp_path / "b.db")) as connection:
        for table in ("pins", "books", "done"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (700,)


@pytest.mark.parametrize("script", sorted(Path(__file__).parent.glob("v*.sql")), ids=lambda path: path.stem)
def test_a_copy_of_an_older_version_can_be_brought_up_to_date_and_into_redis(
    script: Path, tmp_path: Path, server: RedisServer
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript(script.read_text())
    copy_file(tmp_path / "old.db", tmp_path / "copy.db")
    bring_up_to_date(tmp_path / "copy.db")
    with in_redis(server, script.stem) as store:
        write_realm(store, read_rows(tmp_path / "copy.db"))
        (found,) = store.apply([Report(first="2027-01-01", last="2027-01-31")])
        assert [row.cost for row in found.rows] == [3]  # type: ignore[union-attr]


def test_a_full_window_is_still_full(tmp_path: Path, server: RedisServer) -> None:
    full = (Rolling(counter="key/dev/requests/1h", name="", unit="requests", limit=2, cost=1, window=3_600_000),)
    with contextlib.closing(in_file(tmp_path / "a.db")) as store:
        store.apply([admit("one", full), admit("two", full)])
        (denied,) = store.apply([admit("three", full)])
    with in_redis(server, "full") as target:
        write_realm(target, read_rows(tmp_path / "a.db"))
        assert isinstance(denied, Denied)
        assert target.apply([admit("three", full)]) == [denied]
        assert target.apply([Nodes()])[0].nodes == ()  # type: ignore[union-attr]


def test_the_window_is_the_last_word_of_a_counter() -> None:
    assert window_of_counter("key/dev/tokens/1h30m") == 5_400_000
    assert window_of_counter("relay/requests/250ms") == 250
    assert [window_of_counter(name) for name in ("key/dev/cost/day", "key/dev/slots", "", "a/b/total")] == [None] * 4
