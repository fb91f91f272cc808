"""A fuzz of settlements with extreme numbers on both stores: nothing is an outage, the honest are counted exactly.

RELAYD_SETTLEMENTS=100000 makes the long run; the default is for every day. A limit is set on the time of each.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import redis
from redis_server import RedisServer

from relayd.core.quota.limits import LARGEST, Calendar, Rolling, Term
from relayd.core.quota.usage_record import COUNTS, UsageRecord
from relayd.core.quota.windows import FOREVER
from relayd.state import contract as c
from relayd.state.redis import RedisStore
from relayd.state.sqlite import SqliteStore

SETTLEMENTS = int(os.environ.get("RELAYD_SETTLEMENTS") or 3000)
DEADLINE = 20 + SETTLEMENTS / 500  # s of this process; some 20 times what it takes
BATCH = 64
T0 = 46_300 * 86_400_000
EXTREME = (
    0, 1, -1, 2**31, 2**53 - 2, 2**53 - 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70, 10**30,
    10**400, -(2**53), -(2**63), -(2**64), -(10**40),
)  # fmt: skip
ODD_TEXTS = ("", "é\x1f\0", "x" * 4000, "lone \ud800", "\U0010ffff", "a/b", "'; DROP TABLE books; --")

Either = SqliteStore | RedisStore


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[Either]:
    made: Either
    if request.param == "sqlite":
        made = SqliteStore(":memory:", clock=lambda: T0)
    else:
        server: RedisServer = request.getfixturevalue("server")
        with server.client() as client:
            client.flushdb()
        made = RedisStore(server.url, realm="extremes", now=lambda: T0, command=10)
    yield made
    made.close()


def terms(cost: int, limit: int) -> tuple[Term, ...]:
    return (
        Rolling(counter="r", name="", unit="tokens", limit=limit, cost=cost, window=60_000),
        Calendar(counter="day", name="", unit="cost", limit=limit, cost=cost, start=T0, end=T0 + 86_400_000),
        Calendar(counter="total", name="", unit="cost", limit=limit, cost=cost, start=0, end=FOREVER),
    )


def wild_record(rng: random.Random) -> UsageRecord:
    counts = {name: rng.choice(EXTREME) for name in COUNTS}
    return UsageRecord(
        day="2096-10-07", key=rng.choice(["wild", *ODD_TEXTS]), account="a", model=rng.choice(ODD_TEXTS), **counts
    )


def wild(rng: random.Random, n: int) -> list[c.Op]:
    """One call: admitted or not, renewed or not, settled once or twice."""
    call = f"w{n}" + (rng.choice(ODD_TEXTS) if rng.random() < 0.1 else "")
    found: list[c.Op] = []
    if rng.random() < 0.5:
        some = terms(rng.choice(EXTREME), rng.choice(EXTREME))
        found.append(c.Admit(call=call, terms=some, orphan=wild_record(rng)))
    if rng.random() < 0.2:
        found.append(c.Renew(calls=((call, wild_record(rng)),)))
    late = terms(rng.choice(EXTREME), rng.choice(EXTREME)) if rng.random() < 0.3 else ()
    at = rng.choice((0, T0, T0 - 1000, *EXTREME)) if late else 0
    settled = c.Settle(call=call, record=wild_record(rng), terms=late, at=at)
    return [*found, settled] + [settled] * (rng.random() < 0.1)


def test_extreme_settlements_disturb_nobody(store: Either) -> None:
    rng = random.Random(13)
    honest = UsageRecord(day="2096-10-08", key="dev", account="main", model="m", input=3, output=2, cost=5)
    began, honest_calls = time.process_time(), 0
    failed: Counter[str] = Counter()
    queue: list[c.Op] = []
    for n in range(SETTLEMENTS):
        queue += wild(rng, n)
        if n % 10 == 0:
            queue.append(c.Settle(call=f"h{n}", record=honest))
            honest_calls += 1
        if len(queue) >= BATCH or n == SETTLEMENTS - 1:
            answers = store.apply(queue)  # an outage would be raised
            assert len(answers) == len(queue)
            for op, answer in zip(queue, answers, strict=True):
                if isinstance(op, c.Settle) and op.call.startswith("h"):
                    assert answer == c.Settled(outcome="unknown")
                if isinstance(answer, c.Failed):
                    failed[answer.reason.split(":")[0]] += 1
            queue = []
            assert time.process_time() - began < DEADLINE

    (told,) = store.apply([c.Report(first="2096-10-08", last="2096-10-08")])
    assert told == c.Reported(
        rows=(
            UsageRecord(
                day="2096-10-08",
                key="dev",
                account="main",
                model="m",
                requests=honest_calls,
                input=3 * honest_calls,
                output=2 * honest_calls,
                cost=5 * honest_calls,
            ),
        )
    )
    assert set(failed) == {"UnicodeEncodeError"}  # the text that nobody can encode, and no number
    (wild_rows,) = store.apply([c.Report(first="2096-10-07", last="2096-10-07")])
    assert isinstance(wild_rows, c.Reported)
    assert max(row.input for row in wild_rows.rows) == LARGEST
    (levels,) = store.apply([c.Peek(terms=terms(0, 5))])
    assert isinstance(levels, c.TermLevels)
    assert all(0 <= level.used <= LARGEST for level in levels.levels)
    assert isinstance(store.apply([c.Ping()])[0], c.Pong)


def test_a_counter_that_is_full_refuses_and_does_not_wrap_around(store: Either) -> None:
    full = UsageRecord(day="2096-10-07", key="k", account="", model="m", input=LARGEST, cost=LARGEST)
    for n in range(3):
        store.apply([c.Settle(call=f"c{n}", record=full, terms=terms(0, 10), at=T0)])
    admit = c.Admit(call="next", terms=terms(1, LARGEST), orphan=full)

    (answer,) = store.apply([admit])
    assert isinstance(answer, c.Denied)
    (levels,) = store.apply([c.Peek(terms=terms(0, 10))])
    assert isinstance(levels, c.TermLevels)
    assert [level.used for level in levels.levels] == [LARGEST] * 3


def test_what_breaks_the_script_is_no_outage(server: RedisServer) -> None:
    store = RedisStore(server.url, realm="broken", command=10)
    for garbage in (b"\xc1garbage", b"\x93", b"\x01"):
        with pytest.raises(redis.ResponseError):
            store._carry_out([garbage])
        assert isinstance(store.apply([c.Ping()])[0], c.Pong)
    store.close()
