"""What passes in a moment: stale connections, short waits; and what does not: a refused credential."""

from __future__ import annotations

import logging
import random

import pytest
import trio
from builders import account, snapshot
from fakes import ASK, Cut, relaying, upstream_account
from scripted import Conversation, Script, serving
from trio.testing import MockClock
from waiting import until

from relayd.config.snapshot import Pace, Routing, Simulator

MESSAGE = b'{"id":"msg_1","type":"message","usage":{"input_tokens":1,"output_tokens":1}}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(MESSAGE) + MESSAGE


def denial(status: int, kind: str, message: str) -> bytes:
    body = b'{"type":"error","error":{"type":"%s","message":"%s"}}' % (kind.encode(), message.encode())
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body


TIMED = denial(429, "rate_limit_error", "slow down").replace(b" X\r\n", b" X\r\nretry-after: 30\r\n")


def always(answer: bytes) -> Script:
    async def script(peer: Conversation) -> None:
        while await peer.request():
            await peer.send(answer)

    return script


@pytest.mark.parametrize("seed", range(4))
async def test_a_connection_that_the_upstream_closed_while_idle_costs_no_call(seed: int) -> None:
    """One account: nobody else could serve. The upstream closes after some answers, or when the next request comes."""
    rng = random.Random(seed)

    async def script(peer: Conversation) -> None:
        for _ in range(rng.randint(1, 4)):
            if not await peer.request():
                return
            await peer.send(ANSWER)
        match rng.randrange(4):
            case 0:
                return  # at once
            case 1:
                await peer.more()  # as the next request arrives
            case 2:
                await peer.request()
                peer.reset()  # once it is read
            case _:
                await peer.request()

    async with (
        serving(script) as upstream,
        relaying(snapshot(accounts=(upstream_account("a", upstream.port),))) as house,
    ):
        client = await house.connect()
        statuses = [(await client.ask()).status for _ in range(60)]
        assert upstream.accepted > 10

        assert statuses == [200] * 60
        assert all(len(one.attempts) == 1 for one in house.receipts.receipts)


# A short wait.


async def test_a_call_waits_a_moment_for_an_account_that_is_full(jumping_clock: MockClock) -> None:
    slow = account("a", max_concurrency=1, simulator=Simulator(first_byte=0.4))
    async with relaying(snapshot(accounts=(slow,))) as house:
        first, second = await house.connect(), await house.connect()
        await first.post()
        await until(house.in_flight)

        told = await second.ask()

        assert told.status == 200
        assert (await first.answer()).status == 200


async def test_it_does_not_wait_for_ever(jumping_clock: MockClock) -> None:
    slow = account("a", max_concurrency=1, simulator=Simulator(first_byte=30.0))
    async with relaying(snapshot(accounts=(slow,))) as house:
        first, second = await house.connect(), await house.connect()
        await first.post()
        await until(house.in_flight)
        began = trio.current_time()

        told = await second.ask()

        assert told.error[:2] == (429, "rate_limit_error")
        assert "1 of 1 calls in flight" in told.error[2]
        assert 0.9 <= trio.current_time() - began <= 2.6
        await first.leave("close")
        await house.receipts.wait_for(2)


async def test_a_longer_hold_is_told_at_once(jumping_clock: MockClock) -> None:
    paced = account("a", pace=Pace(requests_per_minute=1))
    async with relaying(snapshot(accounts=(paced,))) as house:
        assert (await house.ask()).status == 200
        began = trio.current_time()
        told = await house.ask()

        assert told.status == 429
        assert 50 <= int(told["retry-after"]) <= 60
        assert trio.current_time() - began < 0.5


async def test_a_client_that_leaves_while_it_waits_is_let_go(jumping_clock: MockClock) -> None:
    slow = account("a", max_concurrency=1, simulator=Simulator(first_byte=30.0))
    async with relaying(snapshot(accounts=(slow,))) as house:
        first, second = await house.connect(), await house.connect()
        await first.post()
        await until(house.in_flight)
        await second.post()
        await trio.sleep(0.05)
        await second.leave("close")

        receipt = await house.receipt()

        assert (receipt.status, receipt.outcome, receipt.attempts) == (499, "left", ())
        await first.leave("close")
        await house.receipts.wait_for(2)


# Turns of an account's health.


async def test_turns_of_an_accounts_health_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    answers = [TIMED, denial(401, "authentication_error", "no")]

    async def script(peer: Conversation) -> None:
        while await peer.request():
            await peer.send(answers.pop(0))

    async with serving(script) as upstream:
        accounts = (
            upstream_account("limited", upstream.port, priority=1),
            upstream_account("refused", upstream.port, priority=2),
            account("well", priority=3),
        )
        with caplog.at_level(logging.INFO, "relayd"):
            async with relaying(snapshot(accounts=accounts)) as house:
                assert (await house.ask()).status == 200

    turned = [
        (one.message, one.__dict__["account"], one.levelname) for one in caplog.records if "account" in one.__dict__
    ]
    assert turned == [("account.out", "limited", "WARNING"), ("account.credential", "refused", "WARNING")]
    record = caplog.records[-1].__dict__
    assert record["reason"] == "no (401)"
    assert record["until"].endswith("Z")


async def test_a_recovery_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    simulated = account("a", simulator=Simulator(status=500, every=2))
    with caplog.at_level(logging.INFO, "relayd"):
        async with relaying(snapshot(accounts=(simulated,))) as house:
            house.pool.adopt(house.live.snapshot, house.wall())
            gate = house.pool._states["a"].whole.gate
            gate.rest(0.0, "rate", "test", house.wall(), random.Random(1))
            house.pool._states["a"].measure(0.02, house.wall())
            for _ in range(24):
                await house.ask()

    assert "account.recovered" in [one.message for one in caplog.records]


# A refused credential.


@pytest.mark.parametrize("status", [401, 403])
async def test_an_upstreams_denial_of_our_credential_is_not_the_clients(status: int) -> None:
    script = always(denial(status, "authentication_error", "invalid x-api-key"))
    async with (
        serving(script) as upstream,
        relaying(snapshot(accounts=(upstream_account("a", upstream.port),))) as house,
    ):
        told = await house.ask()
        again = await house.ask()
        receipt = await house.receipt(2)

    assert told.error[:2] == (502, "api_error")
    assert told.error[2] == (f"account a: the upstream rejected its credential: invalid x-api-key ({status})")
    assert again.error[:2] == (529, "overloaded_error")
    assert receipt.outcome == "refused"


async def test_a_denial_that_speaks_of_the_model_is_passed_on() -> None:
    script = always(denial(403, "permission_error", "this model is not for you"))
    async with (
        serving(script) as upstream,
        relaying(snapshot(accounts=(upstream_account("a", upstream.port),))) as house,
    ):
        told = await house.ask()

    assert told.error == (403, "permission_error", "this model is not for you")


async def test_another_account_serves_when_one_is_denied() -> None:
    script = always(denial(401, "authentication_error", "no"))
    async with serving(script) as upstream:
        accounts = (upstream_account("a", upstream.port, priority=1), account("b", priority=2))
        async with relaying(snapshot(accounts=accounts, relay={"routing": Routing(strategy="priority")})) as house:
            try:
                assert (await house.ask(ASK)).status == 200
            except Cut as cut:
                raise AssertionError(cut.told) from None
