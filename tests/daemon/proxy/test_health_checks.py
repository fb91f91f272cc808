"""Health checks: who is tried, when, and what is learnt from it."""

from __future__ import annotations

import random
from collections.abc import Callable

import trio
from booked import Clock
from builders import account, changed, headers, snapshot
from fakes import NOON, credential_of, upstream_account
from scripted import Conversation, Script, serving
from trio.testing import MockClock

from relayd.config.snapshot import Deny, Routing, Seconds, Snapshot
from relayd.core.balancing.failover import Deliver, judge
from relayd.core.balancing.outcomes import Answered, NodeDefect, Unreachable
from relayd.core.balancing.pool import Pool
from relayd.core.live import Live
from relayd.daemon.accounts.account_test import AccountCheck
from relayd.daemon.accounts.account_test import judge as judge_trial
from relayd.daemon.proxy.health_checks import HealthChecks, due, model_for, outcome_of
from relayd.wire.current_models import SMALL

EVERY = 300.0
REFUSED = Answered(status=401, error_type="authentication_error", message="invalid x-api-key")
COUNTED = b'HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{"input_tokens":8}'
DENIED = (
    b"HTTP/1.1 401 X\r\ncontent-length: 81\r\n\r\n"
    b'{"type":"error","error":{"type":"authentication_error","message":"invalid key"}}\n'
)


def tree(*accounts: object, every: float = EVERY) -> Snapshot:
    return snapshot(accounts=accounts, relay={"routing": Routing(probe=Seconds(every))})  # type: ignore[arg-type]


def rest(pool: Pool, name: str, outcome: Answered, now: float = NOON) -> None:
    lease = pool.begin(name, "", now)
    pool.observe(lease, judge(outcome, cooldown=Routing().cooldown, now=now, model="m"), None, now, random.Random(1))
    pool.end(lease, now)


def pool_of(config: Snapshot) -> Pool:
    pool = Pool()
    pool.adopt(config, NOON)
    return pool


def names(config: Snapshot, pool: Pool, now: float, **probed: float) -> list[str]:
    return [one.id for one in due(config, pool, probed, NOON, now)]


# When.


def test_an_account_that_another_process_of_the_node_uses_is_not_idle() -> None:
    config = tree(account("a"), account("b"))
    pool = pool_of(config)
    pool.hear_used("a", NOON + EVERY)
    pool.hear_used("a", NOON + 1)  # an older report
    pool.hear_used("gone", NOON)

    assert names(config, pool, NOON + EVERY + 1) == ["b"]
    assert names(config, pool, NOON + 2 * EVERY) == ["a", "b"]


def test_nobody_is_probed_where_the_interval_is_zero() -> None:
    config = tree(account("a"), every=0)

    assert names(config, pool_of(config), NOON + 1e6) == []


def test_an_account_is_probed_that_was_not_used_for_an_interval() -> None:
    config = tree(account("a"), account("busy"))
    pool = pool_of(config)
    pool.end(pool.begin("busy", "", NOON + 100), NOON + 101)

    assert names(config, pool, NOON + EVERY - 1) == []
    assert names(config, pool, NOON + EVERY) == ["a"]
    assert names(config, pool, NOON + EVERY + 100) == ["a", "busy"]
    assert names(config, pool, NOON + EVERY + 100, a=NOON + EVERY) == ["busy"]


def test_a_refused_credential_is_probed_and_a_rate_limit_is_left_alone() -> None:
    config = tree(account("denied"), account("limited"))
    pool = pool_of(config)
    rest(pool, "denied", REFUSED)
    rest(pool, "limited", Answered(status=429, headers=headers(retry_after="60")))

    assert names(config, pool, NOON + 1) == ["denied"]
    assert names(config, pool, NOON + 1, denied=NOON) == []


def test_an_account_that_may_not_serve_is_not_probed() -> None:
    config = tree(account("off", enabled=False), account("denied"))
    config = changed(config, deny=Deny(accounts=("denied",)))

    assert names(config, pool_of(config), NOON + 10 * EVERY) == []


# What.


def test_a_trial_is_judged_like_a_call() -> None:
    ok = outcome_of(judge_trial(200, b'{"input_tokens":8}'))
    broke = outcome_of(judge_trial(400, b'{"error":{"type":"x","message":"Your credit balance is too low"}}'))
    other = outcome_of(judge_trial(200, b"<html>"))

    assert isinstance(judge(ok, cooldown=Routing().cooldown, now=NOON), Deliver)
    assert judge(broke, cooldown=Routing().cooldown, now=NOON).reason.startswith("Your credit balance is too low")
    assert other == Answered(status=502)
    assert outcome_of(AccountCheck(ok=False, status=0, message="no", detail="refused")) == Unreachable(
        kind="connect", reason="refused"
    )


def test_the_model_is_one_that_the_account_names() -> None:
    assert model_for(account(models=("claude-opus-*", "claude-sonnet-5"))) == "claude-sonnet-5"
    assert model_for(account(models=("claude-opus-*",))) == SMALL


# Doing it, on a real socket.


def make(config: Snapshot, clock: Clock) -> HealthChecks:
    pool = Pool()
    pool.adopt(config, clock.now)
    return HealthChecks(live=Live(config), pool=pool, credential=credential_of, wall=clock, rng=random.Random(7))


def answering(*answers: bytes) -> Script:
    """One answer a connection, each probe has one of its own."""
    left = list(answers)

    async def script(peer: Conversation) -> None:
        request = await peer.request()
        assert b"POST /v1/messages/count_tokens" in request
        await peer.send(left.pop(0))

    return script


async def until(condition: Callable[[], bool], clock: Clock) -> None:
    """Let the wall clock run, a second in 10 ms, until something has happened."""
    for _ in range(3000):
        if condition():
            return
        clock.now += 1
        await trio.sleep(0.01)
    raise AssertionError("it did not happen")


async def test_a_probe_that_succeeds_brings_the_account_back() -> None:
    async with serving(answering(COUNTED)) as upstream:
        checks = make(tree(upstream_account("a", upstream.port)), clock := Clock())
        rest(checks.pool, "a", REFUSED)
        assert checks.pool.resting("a", NOON) is not None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(checks.run)
            await until(lambda: checks.pool.resting("a", NOON + 1) is None, clock)
            nursery.cancel_scope.cancel()

        assert upstream.accepted == 1
        assert checks.pool.in_flight("a") == 0


async def test_a_probe_that_fails_takes_an_idle_account_out() -> None:
    async with serving(answering(DENIED)) as upstream:
        checks = make(tree(upstream_account("a", upstream.port), every=0.02), clock := Clock())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checks.run)
            await until(lambda: checks.pool.resting("a", clock.now) is not None, clock)
            nursery.cancel_scope.cancel()

        rest_of_a = checks.pool.resting("a", clock.now)
        assert rest_of_a is not None
        assert rest_of_a[0] == "auth"


async def test_never_two_probes_at_once_on_one_account() -> None:
    async def silent(peer: Conversation) -> None:
        await peer.request()
        await peer.until_peer_leaves()

    async with serving(silent) as upstream:
        checks = make(tree(upstream_account("a", upstream.port), every=0.01), clock := Clock())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checks.run)
            await until(lambda: upstream.accepted > 0, clock)
            for _ in range(20):
                clock.now += 1
                await trio.sleep(0.01)
            assert upstream.accepted == 1
            assert checks.pool.in_flight("a") == 1
            nursery.cancel_scope.cancel()
        assert checks.pool.in_flight("a") == 0


async def test_an_answer_that_is_cut_does_not_end_the_probes() -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", COUNTED)) as upstream:
        checks = make(tree(upstream_account("a", upstream.port), every=0.01), clock := Clock())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checks.run)
            await until(lambda: upstream.accepted == 2, clock)
            nursery.cancel_scope.cancel()


async def test_without_an_interval_the_probes_only_look_at_the_config(autojump_clock: MockClock) -> None:
    checks = make(tree(account("a"), every=0), clock := Clock())
    rest(checks.pool, "a", REFUSED)

    with trio.move_on_after(3600):
        await checks.run()

    assert checks.pool.resting("a", clock.now) is not None


def test_a_secret_that_cannot_be_had_is_no_reason_to_ask_the_upstream() -> None:
    from relayd.daemon.proxy.health_checks import _outcome

    found = trio.run(_outcome, account("a"), "no identity", tree(account("a")))

    assert found == NodeDefect(reason="no identity")
