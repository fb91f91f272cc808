"""One machine drives both stores and the oracle with the same operations at the same moments: all answers are equal.

RELAYD_EXAMPLES=4000 makes a long run of it, without shrinking. The mutants in mutants.py prove that it would notice.
"""

from __future__ import annotations

import atexit
import functools
import os

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from oracle import Oracle
from redis_server import RedisServer

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import FOREVER
from relayd.state import contract as c
from relayd.state.redis import RedisStore
from relayd.state.sqlite import SqliteStore

# The real clock must not reach the TTLs by which Redis sweeps up, so the simulated one runs far ahead of it.
T0 = 46_300 * 86_400_000  # midnight, in 2096
DAY = 86_400_000

NOTHING_READ = {"input": 0, "cache_write_1h": 0, "output": 0}

nth = st.integers(0, 7)  # which of the latest calls
holders = st.sampled_from(["h1", "h2", "h3"])
small = st.integers(0, 6)
ttls = st.sampled_from([1, 700, 5000, 60_000, c.LONGEST_LEASE_MS])
waits = st.one_of(
    st.integers(0, 150),
    st.integers(0, 7000),
    st.sampled_from(
        [6, 7, 8, 699, 700, 983, 999, 1000, 1001, 1017, 4999, 5000, 5001, 59_999, 60_000, 61_000, DAY, 6 * DAY]
    ),
    st.integers(-4000, -1),
)
records = st.builds(
    UsageRecord,
    day=st.sampled_from(["2096-10-01", "2096-10-02", "2096-10-03"]),
    key=st.sampled_from(["dev", "ops"]),
    account=st.sampled_from(["", "main"]),
    model=st.sampled_from(["claude-opus-5-5", "é\x1f\0"]),
    requests=st.integers(0, 1),
    errors=st.integers(0, 1),
    input=small,
    cache_write_1h=st.integers(0, 1),
    output=small,
    cost=st.one_of(small, st.just(10**12)),
)


@functools.cache
def shared_server() -> RedisServer:
    server = RedisServer().start()
    atexit.register(server.remove)
    return server


def calendar(counter: str, now: int, limit: int, cost: int, *, shift: int = 0) -> Calendar:
    start = (now // DAY + shift) * DAY
    return Calendar(counter=counter, name="", unit="cost", limit=limit, cost=cost, start=start, end=start + DAY)


def rolling(counter: str, window: int, limit: int, cost: int, unit: str) -> Rolling:
    return Rolling(counter=counter, name="", unit=unit, limit=limit, cost=cost, window=window)  # type: ignore[arg-type]


class Machine(RuleBasedStateMachine):
    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.now = T0 + data.draw(st.sampled_from([0, DAY - 1000, DAY - 7]))
        self.calls = ["c0"]
        self.oracle = Oracle()
        self.sqlite = SqliteStore(":memory:", clock=lambda: self.now, sweep_every=3)
        self.redis = RedisStore(shared_server().url, realm="test", now=lambda: self.now, command=10)
        with shared_server().client() as client:
            client.flushdb()
        self.limits = data.draw(st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(5, 30)] * 3))

    def teardown(self) -> None:
        if hasattr(self, "sqlite"):
            self.sqlite.close()
            self.redis.close()

    def do(self, *ops: c.Op) -> list[c.Answer]:
        expected = [self.oracle.apply(self.now, op) for op in ops]
        assert self.sqlite.apply(ops) == expected
        assert self.redis.apply(ops) == expected
        return expected

    def some_terms(self, data: st.DataObject) -> tuple[Term, ...]:
        requests, slots, tokens, cost, total = self.limits
        amount = data.draw(small)
        everything: list[Term] = [
            Slots(counter="slots", name="", limit=slots, ttl=data.draw(ttls)),
            rolling("r7", 7, requests, 1, "requests"),
            rolling("r1000", 1000, requests, 1, "requests"),
            rolling("t60000", 60_000, tokens, amount * 3, "tokens"),
            calendar("c", self.oracle_now(), cost, amount, shift=data.draw(st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1]))),
            Calendar(counter="total", name="", unit="cost", limit=total, cost=amount, start=0, end=FOREVER),
        ]
        return tuple(term for term in everything if data.draw(st.booleans()))

    def oracle_now(self) -> int:
        return self.oracle.seen if self.now < self.oracle.seen <= self.now + 5000 else self.now

    @rule(wait=waits)
    def time_passes_or_steps_back(self, wait: int) -> None:
        # Steps back stay within what the stores hold out against: more is believed, and may revive what was swept.
        self.now = max(self.now + wait, self.oracle.seen - c.BACKWARD_MS, T0)

    def call(self, n: int) -> str:
        return self.calls[-1 - n % len(self.calls)]

    def new_call(self) -> str:
        self.calls.append(f"c{len(self.calls)}")
        return self.calls[-1]

    @rule(data=st.data(), n=st.none() | nth, ttl=ttls, orphan=records, likely=waits.filter(lambda ms: ms >= 0))
    def admit(self, data: st.DataObject, n: int | None, ttl: int, orphan: UsageRecord, likely: int) -> None:
        call = self.new_call() if n is None else self.call(n)
        terms = self.some_terms(data)
        answer = self.do(c.Admit(call=call, terms=terms, orphan=orphan, ttl=ttl, likely=likely))[0]
        self.is_right(answer, terms, call)

    def is_right(self, answer: c.Answer, terms: tuple[Term, ...], holder: str) -> None:
        """What admission promises, told without any bookkeeping."""
        match answer:
            case c.Granted(again=False):
                for term in terms:
                    if isinstance(term, Rolling):
                        assert self.oracle.true_rolling(term) <= term.limit
                    if isinstance(term, Slots):
                        assert len(self.oracle.held(term.counter)) <= term.limit
            case c.Denied(retry=retry, held=True):
                assert 0 < retry < FOREVER
            case c.Denied(term=index, retry=retry, now=now) if now + retry < FOREVER:
                assert retry > 0
                assert not self.oracle.room_at(terms[index], holder, now + retry - 1)
                assert self.oracle.room_at(terms[index], holder, now + retry)

    @rule(data=st.data(), orphan=records, gaps=st.lists(st.integers(0, 400), min_size=1, max_size=6))
    def a_window_fills_up_little_by_little(self, data: st.DataObject, orphan: UsageRecord, gaps: list[int]) -> None:
        terms = self.some_terms(data)
        for gap in gaps:
            self.now += gap
            if not any(isinstance(term, Calendar) for term in terms):
                call = self.new_call()
                self.is_right(self.do(c.Admit(call=call, terms=terms, orphan=orphan))[0], terms, call)

    @rule(orphan=records, gap=st.integers(1, 60), offset=st.integers(0, 16))
    def an_event_leaves_its_window_with_its_bucket(self, orphan: UsageRecord, gap: int, offset: int) -> None:
        term = rolling("r1000", 1000, 10**6, 1, "requests")
        began = self.now = self.oracle_now() + offset
        self.do(c.Admit(call=self.new_call(), terms=(term,), orphan=orphan))
        self.now += gap
        self.do(c.Admit(call=self.new_call(), terms=(term,), orphan=orphan))
        self.now = began + 1000
        self.do(c.Peek(terms=(term,)))

    @rule(data=st.data(), orphan=records)
    def a_denied_call_gets_in_at_its_retry_time_and_not_before(self, data: st.DataObject, orphan: UsageRecord) -> None:
        terms = self.some_terms(data)
        op = c.Admit(call=self.new_call(), terms=terms, orphan=orphan)
        answer = self.do(op)[0]
        if isinstance(answer, c.Denied) and answer.retry <= DAY and not any(isinstance(t, Calendar) for t in terms):
            if answer.held:
                return
            self.now = answer.now + answer.retry - 1
            assert isinstance(self.do(op)[0], c.Denied)
            self.now += 1
            after = self.do(op)[0]  # another term may wait for open calls still
            assert isinstance(after, c.Granted) or (isinstance(after, c.Denied) and after.held)

    @rule(
        orphan=records,
        amounts=st.lists(st.integers(0, 9) | st.integers(1, 4), min_size=1, max_size=4),
        wanted=st.integers(1, 9),
        likely=st.lists(st.integers(0, 3000), min_size=4, max_size=4),
        settled=st.integers(0, 3),
        gap=st.sampled_from([0, 1, 500, 59_000, 60_000]),
        late=st.booleans(),
        other=st.booleans(),
    )
    def a_call_is_refused_for_what_others_have_reserved(
        self,
        orphan: UsageRecord,
        amounts: list[int],
        wanted: int,
        likely: list[int],
        settled: int,
        gap: int,
        late: bool,
        other: bool,
    ) -> None:
        """It gets in once they give everything back, and is told when that will likely be."""

        def terms(amount: int) -> tuple[Term, ...]:
            held = rolling("held", 60_000, 12, amount, "tokens")
            requests = rolling("held requests", 60_000, 3, 1, "requests")  # of which nothing is given back
            return (held, calendar("held cost", self.oracle_now(), 10, amount), requests)

        opened = []
        for amount, end in zip(amounts, likely, strict=False):
            call = self.new_call()
            op = c.Admit(call=call, terms=terms(amount), orphan=orphan, likely=end)
            if isinstance(self.do(op)[0], c.Granted):
                opened.append(call)
        if len(opened) > settled:
            self.do(c.Settle(call=opened[settled], record=orphan))
        self.now = self.oracle_now() + gap
        who = attrs.evolve(orphan, key="other") if other else orphan
        asked = c.Admit(call=self.new_call(), terms=terms(wanted), orphan=who)
        answer = self.do(asked)[0]
        self.is_right(answer, asked.terms, asked.call)
        if isinstance(answer, c.Denied) and answer.held and not late:
            self.do(*(c.Void(call=call) for call in opened))
            self.do(asked)

    @rule(n=nth, record=records)
    def settle(self, n: int, record: UsageRecord) -> None:
        self.do(c.Settle(call=self.call(n), record=record))

    @rule(data=st.data(), n=st.none() | nth, record=records, ago=st.sampled_from([0, 10, 990, 59_990, DAY, -500]))
    def settle_what_was_admitted_elsewhere(
        self, data: st.DataObject, n: int | None, record: UsageRecord, ago: int
    ) -> None:
        call = self.new_call() if n is None else self.call(n)
        self.do(c.Settle(call=call, record=record, terms=self.some_terms(data), at=self.now - ago))

    @rule(data=st.data(), orphan=records, other=st.none() | records, record=records, late=st.integers(0, 60_000))
    def a_reaped_call_is_settled_after_all(
        self, data: st.DataObject, orphan: UsageRecord, other: UsageRecord | None, record: UsageRecord, late: int
    ) -> None:
        checkpoint = other or attrs.evolve(orphan, errors=1 - orphan.errors, **NOTHING_READ)
        call, terms = self.new_call(), self.some_terms(data)
        self.do(c.Admit(call=call, terms=terms, orphan=orphan, ttl=1000))
        self.do(c.Renew(calls=((call, checkpoint),), ttl=2))
        self.now = self.oracle_now() + 2
        self.do(c.Reap(limit=1000), c.Peek(terms=terms))
        self.now += late
        self.do(c.Settle(call=call, record=record), c.Peek(terms=terms))

    @rule(record=records, offset=st.integers(0, 999), orphan=records)
    def a_late_charge_does_not_revive_what_left_the_window(
        self, record: UsageRecord, offset: int, orphan: UsageRecord
    ) -> None:
        began = self.now = (self.oracle_now() // 1000 + 1) * 1000
        terms = (rolling("t60000", 60_000, 10**9, 3, "tokens"),)
        self.do(
            c.Admit(call=self.new_call(), terms=terms, orphan=orphan),
            c.Settle(call=self.new_call(), record=record, terms=terms, at=began),
        )
        self.now += 60_000
        self.do(c.Settle(call=self.new_call(), record=record, terms=terms, at=began + offset), c.Peek(terms=terms))

    @rule(orphan=records, early=st.integers(0, 1))
    def a_calendar_window_ends_with_its_last_millisecond(self, orphan: UsageRecord, early: int) -> None:
        term = calendar("c", self.oracle_now(), self.limits[3], 1)
        self.now = term.end - early
        self.do(c.Admit(call=self.new_call(), terms=(term,), orphan=orphan))

    @rule(data=st.data(), record=records, early=st.integers(0, 1), reaped=st.booleans())
    def a_call_is_remembered_for_so_long(
        self, data: st.DataObject, record: UsageRecord, early: int, reaped: bool
    ) -> None:
        call = self.new_call()
        if reaped:
            self.do(c.Admit(call=call, terms=(), orphan=record, ttl=1))
            self.now = self.oracle_now() + 1
            self.do(c.Reap(limit=1000))
        else:
            self.do(c.Settle(call=call, record=record))
        self.now = self.oracle_now() + (c.REAPED_MS if reaped else c.SETTLED_MS) - early
        self.do(data.draw(st.sampled_from([c.Admit(call=call, terms=(), orphan=record), c.Void(call=call)])))

    @rule(n=nth)
    def void(self, n: int) -> None:
        self.do(c.Void(call=self.call(n)))

    @rule(chosen=st.lists(st.tuples(nth, st.none() | records), max_size=3), who=st.lists(holders, max_size=2), ttl=ttls)
    def renew(self, chosen: list[tuple[int, UsageRecord | None]], who: list[str], ttl: int) -> None:
        leases = tuple(("slots", holder) for holder in who)
        calls = tuple((self.call(n), record) for n, record in chosen)
        self.do(c.Renew(calls=calls, leases=leases, ttl=ttl))

    @rule(data=st.data(), holder=holders)
    def lease(self, data: st.DataObject, holder: str) -> None:
        terms = self.some_terms(data)
        self.is_right(self.do(c.Acquire(holder=holder, terms=terms))[0], terms, holder)

    @rule(ttl=ttls, early=st.integers(0, 1), again=st.sampled_from(["no", "lease", "renew"]))
    def a_slot_is_free_when_its_time_is_up_and_not_before(self, ttl: int, early: int, again: str) -> None:
        solo = (Slots(counter="solo", name="", limit=1, ttl=ttl),)
        self.do(c.Release(holder="h1", counters=("solo",)), c.Release(holder="h2", counters=("solo",)))
        self.do(c.Acquire(holder="h1", terms=solo))
        self.now = self.oracle_now() + ttl - early
        if again == "lease":
            self.do(c.Acquire(holder="h1", terms=solo))
        if again == "renew":
            self.do(c.Renew(leases=(("solo", "h1"),), ttl=ttl))
        self.do(c.Acquire(holder="h2", terms=solo))

    @rule(holder=holders | nth)
    def release(self, holder: str | int) -> None:
        who = self.call(holder) if isinstance(holder, int) else holder
        self.do(c.Release(holder=who, counters=("slots", "other")))

    @rule(limit=st.integers(1, 3), look=st.booleans(), owner=st.sampled_from(["", "", "", "c1", "c", "h1", "nobody"]))
    def reap(self, limit: int, look: bool, owner: str) -> None:
        self.do(c.Reap(limit=limit, look=look, owner=owner, leases=("slots", "solo")))

    @rule(data=st.data(), record=records, chosen=st.lists(st.none() | nth, min_size=2, max_size=5))
    def several_at_once(self, data: st.DataObject, record: UsageRecord, chosen: list[int | None]) -> None:
        terms = self.some_terms(data)
        ops: list[c.Op] = []
        for n in chosen:
            call = self.new_call() if n is None else self.call(n)
            ops.append(c.Admit(call=call, terms=terms, orphan=record))
            if data.draw(st.booleans()):
                ops.append(c.Settle(call=call, record=record))
        self.do(*ops, c.Reap(), c.Peek(terms=terms))

    @rule(name=st.sampled_from("pq"), value=st.sampled_from("xyz"), ttl=st.none() | ttls, keep=st.booleans())
    def pin(self, name: str, value: str, ttl: int | None, keep: bool) -> None:
        self.do(c.Pin(name=name, value=value, ttl=ttl, keep=keep))

    @rule(name=st.sampled_from("pq"), ttl=st.none() | ttls, unpin=st.booleans())
    def get_pin(self, name: str, ttl: int | None, unpin: bool) -> None:
        self.do(c.GetPin(name=name, ttl=ttl))
        if unpin:
            self.do(c.Unpin(name=name))

    @rule(
        name=st.sampled_from("ab"),
        topic=st.sampled_from(["health", "tokens"]),
        body=st.sampled_from(["", "{}", "é"]),
        expect=st.none() | st.integers(0, 4),
        since=st.integers(0, 3),
    )
    def publish(self, name: str, topic: str, body: str, expect: int | None, since: int) -> None:
        self.do(c.Publish(topic=topic, name=name, body=body, expect=expect), c.Gather(topic=topic, since=since))

    @rule(node=st.sampled_from(["n1", "n2"]), ttl=ttls)
    def heartbeat(self, node: str, ttl: int) -> None:
        self.do(c.Beat(node=node, body=node, ttl=ttl), c.Nodes())

    @invariant()
    def everything_reads_the_same(self) -> None:
        if not hasattr(self, "oracle"):
            return
        today = calendar("c", self.oracle_now(), 1, 0)
        terms = (
            Slots(counter="slots", name="", limit=1),
            rolling("r7", 7, 1, 0, "requests"),
            rolling("r1000", 1000, 1, 0, "requests"),
            rolling("t60000", 60_000, 1, 0, "tokens"),
            today,
            Calendar(counter="total", name="", unit="cost", limit=1, cost=0, start=0, end=FOREVER),
        )
        day = {"first": "2096-10-01", "last": "2096-10-02"}
        self.do(
            c.Peek(terms=terms),
            c.Report(**day),
            c.Report(**day, keys=("ops",)),
            c.Report(**day, by=("key", "model"), keys=("ops", "dev")),
            c.Report(**day, account="main", by=("day",)),
            c.Report(**day, by=("key",), most=1),
            c.Report(**day, by=()),
            c.Nodes(),
        )


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=int(os.environ.get("RELAYD_EXAMPLES", "60")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    phases=[Phase.generate] if "RELAYD_EXAMPLES" in os.environ else list(Phase),
)


def test_an_operation_that_cannot_be_carried_out_fails_alone() -> None:
    """The others of its batch are carried out, in both stores."""
    redis = RedisStore(shared_server().url, realm="alone", command=10)
    sqlite = SqliteStore(":memory:", clock=lambda: T0)
    bad = c.Pin(name="p", value=1 << 70)  # type: ignore[arg-type]
    for store in (sqlite,):
        first, second, third = store.apply([c.Pin(name="q", value="x"), bad, c.GetPin(name="q")])
        assert (first, third) == (c.Pinned(value="x"), c.Pinned(value="x"))
        assert isinstance(second, c.Failed)
    first, second, third = redis.apply(
        [c.Pin(name="q", value="x"), c.Gather(topic="t", since="no number"), c.GetPin(name="q")]  # type: ignore[arg-type]
    )
    assert (first, third) == (c.Pinned(value="x"), c.Pinned(value="x"))
    redis.close()
    sqlite.close()


@pytest.mark.parametrize("length", [1, 7, 60, 61, 1000, 60_000])
def test_no_bucket_is_longer_than_its_window(length: int) -> None:
    assert 1 <= c.bucket_length(length) <= length
    assert c.bucket_length(length) * 60 >= length
