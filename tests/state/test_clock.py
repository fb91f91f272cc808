"""A clock that is years ahead for a moment locks nothing until that date, on either store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term
from relayd.core.quota.usage_record import UsageRecord
from relayd.state import contract as c
from relayd.state.redis import RedisStore
from relayd.state.sqlite import SqliteStore

Either = SqliteStore | RedisStore

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
TODAY = 46_300 * DAY
YEARS = 1500 * DAY


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.remove()


class Clocked:
    """A store and its clock, which can be set."""

    def __init__(self, kind: str, server: RedisServer, path: Path) -> None:
        self.now = TODAY
        self.made: list[Either] = []
        self.kind, self.server, self.path = kind, server, path
        with server.client() as client:
            client.flushdb()
        self.start()

    def start(self) -> None:
        """Open the store, as another process would."""
        if self.kind == "sqlite":
            self.store: Either = SqliteStore(str(self.path / "relayd.db"), clock=lambda: self.now, sweep_every=1)
        else:
            self.store = RedisStore(self.server.url, realm="clock", now=lambda: self.now, command=10)
        self.made.append(self.store)

    def ask(self, op: c.Op) -> c.Answer:
        return self.store.apply([op])[0]

    def admit(self, call: str, *terms: Term) -> c.Answer:
        orphan = UsageRecord(day="2096-10-07", key="dev", account="a", model="m", requests=1, input=5)
        return self.ask(c.Admit(call=call, terms=terms, orphan=orphan, ttl=MINUTE))


@pytest.fixture(params=["sqlite", "redis"])
def clocked(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> Iterator[Clocked]:
    found = Clocked(request.param, server, tmp_path)
    yield found
    for store in found.made:
        store.close()


def rate(window: int = MINUTE, limit: int = 1, unit: str = "requests") -> Rolling:
    return Rolling(counter=f"r{window}{unit}", name="", unit=unit, limit=limit, cost=1, window=window)  # type: ignore[arg-type]


SLOT = Slots(counter="slots", name="", limit=1, ttl=MINUTE)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("term", [rate(), rate(7), rate(5 * HOUR), rate(7 * DAY), SLOT], ids=str)
def test_what_a_wrong_clock_admitted_locks_nothing_once_it_is_right(
    clocked: Clocked, term: Term, restart: bool
) -> None:
    clocked.now = TODAY + YEARS
    assert isinstance(clocked.admit("future", term), c.Granted)
    assert isinstance(clocked.admit("too many", term), c.Denied)
    clocked.now = TODAY + 2000
    if restart:
        clocked.start()

    assert isinstance(clocked.admit("now", term), c.Granted)
    denied = clocked.admit("one more", term)  # the limit itself is what it was
    assert isinstance(denied, c.Denied)
    assert denied.retry <= (term.window if isinstance(term, Rolling) else term.ttl if isinstance(term, Slots) else 0)
    levels = clocked.ask(c.Peek(terms=(term,)))
    assert isinstance(levels, c.TermLevels)
    assert levels.levels[0].used == 1
    assert levels.levels[0].resets_at <= clocked.now + 7 * DAY


@pytest.mark.parametrize("term", [rate(), rate(5 * HOUR), SLOT], ids=str)
@pytest.mark.parametrize("step", [1000, 5000, 6000, 30_000])
def test_a_small_step_back_forgets_nothing(clocked: Clocked, term: Term, step: int) -> None:
    assert isinstance(clocked.admit("one", term), c.Granted)
    clocked.now -= step

    assert isinstance(clocked.admit("two", term), c.Denied)


def test_a_call_that_a_wrong_clock_admitted_is_reaped_before_that_date(clocked: Clocked) -> None:
    clocked.now = TODAY + YEARS
    clocked.admit("lost", rate(limit=9))
    clocked.admit("kept", rate(limit=9))
    clocked.now = TODAY + 2000
    assert clocked.ask(c.Renew(calls=(("kept", None),), leases=(), ttl=2 * HOUR)) == c.Renewed(lost=())

    clocked.now += HOUR + MINUTE
    reaped = clocked.ask(c.Reap(limit=10))
    assert isinstance(reaped, c.Reaped)
    assert [call for call, _ in reaped.calls] == ["lost"]


def test_a_node_that_a_wrong_clock_saw_is_not_alive_until_that_date(clocked: Clocked) -> None:
    clocked.now = TODAY + YEARS
    clocked.ask(c.Beat(node="gone", body="x", ttl=30_000))
    clocked.now = TODAY + 2000
    clocked.ask(c.Beat(node="here", body="x", ttl=30_000))

    nodes = clocked.ask(c.Nodes())
    assert isinstance(nodes, c.NodeList)
    assert [node.node for node in nodes.nodes] == ["here"]


def ask(store: SqliteStore, op: c.Op) -> c.Answer:
    return store.apply([op])[0]


def admit(store: SqliteStore, call: str) -> c.Answer:
    """A call that wants the only slot, and holds it for a minute."""
    orphan = UsageRecord(day="2096-10-07", key="dev", account="a", model="m", requests=1)
    return ask(store, c.Admit(call=call, terms=(SLOT,), orphan=orphan, ttl=MINUTE))


def reaped(store: SqliteStore) -> list[str]:
    answer = ask(store, c.Reap(limit=10))
    assert isinstance(answer, c.Reaped)
    return [call for call, _ in answer.calls]


class Steadied:
    """Two processes on one SQLite file, their clock, and a steady one beside it."""

    def __init__(self, path: str) -> None:
        self.now, self.up = TODAY + 12 * HOUR, 0
        self.stores = [SqliteStore(path, clock=lambda: self.now, steady=lambda: self.up / 1000) for _ in range(2)]
        for store in self.stores:
            ask(store, c.Ping())

    def later(self, ms: int) -> None:
        self.now, self.up = self.now + ms, self.up + ms


@pytest.fixture
def steadied(tmp_path: Path) -> Iterator[Steadied]:
    found = Steadied(str(tmp_path / "relayd.db"))
    yield found
    for store in found.stores:
        store.close()


@pytest.mark.parametrize("step", [HOUR, -HOUR, DAY, -DAY, 10_000, -10_000])
def test_what_is_held_when_the_clock_is_set_is_held_for_as_long_as_it_had_left(steadied: Steadied, step: int) -> None:
    """By two processes that share a file. Nobody gets a slot twice, nobody's call is settled as a dead one's."""
    first, second = steadied.stores
    assert isinstance(admit(first, "held"), c.Granted)
    assert isinstance(admit(second, "before"), c.Denied)
    ask(first, c.Ping())
    steadied.now += step
    steadied.later(1000)

    for number, process in enumerate((second, first, second)):
        assert isinstance(admit(process, f"after {number}"), c.Denied)
        assert reaped(process) == []
    assert ask(first, c.Renew(calls=(("held", None),), leases=(), ttl=MINUTE)) == c.Renewed(lost=())

    steadied.later(MINUTE - 1000)
    assert isinstance(admit(second, "a minute later"), c.Denied)
    steadied.later(1000)
    assert reaped(first) == ["held"]


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_clock_that_was_set_is_set_right_once_however_long_the_next_process_takes(
    steadied: Steadied, step: int
) -> None:
    first, second = steadied.stores
    assert isinstance(admit(first, "held"), c.Granted)
    steadied.now += step
    ask(first, c.Ping())
    steadied.later(30_000)
    ask(second, c.Ping())  # it notices the step now

    steadied.later(MINUTE - 30_000)
    assert isinstance(admit(second, "next"), c.Granted)


@pytest.mark.parametrize("step", [10_000, -10_000])
def test_a_small_step_counts_though_nobody_has_written_for_longer(steadied: Steadied, step: int) -> None:
    first, second = steadied.stores
    assert isinstance(admit(first, "held"), c.Granted)
    steadied.later(30_000)
    steadied.now += step
    ask(first, c.Ping())

    steadied.later(29_000)
    assert isinstance(admit(second, "too early"), c.Denied)
    steadied.later(1_000)
    assert isinstance(admit(second, "next"), c.Granted)


def test_a_slot_of_a_dead_process_is_not_held_again_by_a_clock_that_is_set_back(steadied: Steadied) -> None:
    first, second = steadied.stores
    assert isinstance(admit(first, "dead"), c.Granted)
    steadied.later(MINUTE + 1000)
    ask(second, c.Ping())
    steadied.now -= HOUR
    assert isinstance(admit(second, "next"), c.Granted)
    reaped = ask(second, c.Reap(limit=10))
    assert isinstance(reaped, c.Reaped)
    assert [call for call, _ in reaped.calls] == ["dead"]


def test_a_moment_in_the_future_throws_no_books_and_no_sums_away(clocked: Clocked) -> None:
    month = Calendar(counter="month", name="", unit="cost", limit=100, cost=7, start=TODAY, end=TODAY + 30 * DAY)
    clocked.admit("one", month)
    record = UsageRecord(day="2096-10-07", key="dev", account="a", model="m", requests=1, cost=7)
    clocked.ask(c.Settle(call="one", record=record))
    clocked.now = TODAY + YEARS
    for n in range(20):
        clocked.admit(f"future {n}", rate(limit=99))
    clocked.now = TODAY + 2000
    for n in range(20):
        clocked.admit(f"now {n}", rate(limit=99))

    reported = clocked.ask(c.Report(first="2096-10-01", last="2096-10-31"))
    assert isinstance(reported, c.Reported)
    assert [row.cost for row in reported.rows if row.cost] == [7]
    levels = clocked.ask(c.Peek(terms=(month,)))
    assert isinstance(levels, c.TermLevels)
    assert levels.levels[0].used == 7
