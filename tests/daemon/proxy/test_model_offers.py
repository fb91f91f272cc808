"""What upstreams list: who is asked, when, and what clients then see."""

from __future__ import annotations

import json
import random
from contextlib import AsyncExitStack

import trio
from builders import account, snapshot
from fakes import NO_TLS, NOON, Asked, Reception, answering, credential_of, relaying, upstream_account
from scripted import serving

from relayd.config.snapshot import Routing, Seconds, Snapshot, Upstream
from relayd.core.balancing.failover import judge
from relayd.core.balancing.outcomes import Answered
from relayd.core.balancing.pool import Pool
from relayd.core.live import Live
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.model_offers import AGAIN, LONGEST, ModelOffers, Offer, OfferBook, to_be_asked

HOUR = 3600.0
LISTED = {"data": [{"id": "claude-next-1", "display_name": "Next", "created_at": "2026-11-01T00:00:00Z"}]}
LIST = answering(200, json.dumps(LISTED).encode())
REFUSED = Answered(status=401, error_type="authentication_error", message="invalid x-api-key")


def tree(*accounts: object, every: float = HOUR) -> Snapshot:
    return snapshot(accounts=accounts, relay={"upstream": Upstream(models_every=Seconds(every))})  # type: ignore[arg-type]


def offer(config: Snapshot, name: str, at: float, *, answered: bool = True) -> Offer:
    return Offer(base_url=config.accounts[name].base_url, asked=at, answered=answered)


def names(config: Snapshot, offers: dict[str, Offer], now: float, pool: Pool | None = None) -> list[str]:
    if pool is None:
        pool = Pool()
        pool.adopt(config, NOON)
    return [one.id for one in to_be_asked(config, pool, offers, now)]


def test_each_account_is_asked_at_the_start_and_then_hourly() -> None:
    config = tree(upstream_account("a", 1), upstream_account("b", 1), account("sim", kind="simulator"))
    assert names(config, {}, NOON) == ["a", "b"]
    offers = {"a": offer(config, "a", NOON), "b": offer(config, "b", NOON + 5)}
    assert names(config, offers, NOON + HOUR - 1) == []
    assert names(config, offers, NOON + HOUR) == ["a"]
    assert names(config, offers, NOON - 1) == ["a", "b"], "a clock that was ahead holds nothing up"


def test_one_that_did_not_answer_is_asked_again_sooner_and_one_at_another_address_at_once() -> None:
    config = tree(upstream_account("a", 1))
    offers = {"a": offer(config, "a", NOON, answered=False)}
    assert names(config, offers, NOON + AGAIN - 1) == []
    assert names(config, offers, NOON + AGAIN) == ["a"]
    assert names(tree(upstream_account("a", 2)), {"a": offer(config, "a", NOON)}, NOON + 1) == ["a"]


def test_accounts_that_rest_or_are_off_are_not_asked_nor_anyone_where_it_is_never() -> None:
    config = tree(upstream_account("a", 1), upstream_account("off", 1, enabled=False))
    pool = Pool()
    pool.adopt(config, NOON)
    lease = pool.begin("a", "", NOON)
    verdict = judge(REFUSED, cooldown=Routing().cooldown, now=NOON, model="m")
    pool.observe(lease, verdict, None, NOON, random.Random(1))
    pool.end(lease, NOON)
    assert names(config, {}, NOON + 1, pool) == []
    assert names(tree(upstream_account("a", 1), every=0), {}, NOON) == []


async def listed_after(*answers: bytes) -> tuple[list[list[str]], list[Asked]]:
    """What clients see before, and after each answer of the one upstream to the question."""
    async with AsyncExitStack() as stack:
        reception = Reception(list(answers))
        upstream = await stack.enter_async_context(serving(reception))
        config = tree(upstream_account("a", upstream.port))
        house = await stack.enter_async_context(relaying(config))
        upstreams = Upstreams(lambda: NO_TLS, house.wall)
        offers = ModelOffers(
            live=house.live,
            pool=house.pool,
            upstreams=upstreams,
            book=OfferBook(house.live),
            credential=credential_of,
            large=LargeBodies(),
            wall=house.wall,
        )
        house.app.offers = offers.book.known

        async def seen() -> list[str]:
            told = await house.get("/v1/models", anthropic_version="2023-06-01")
            return [one["id"] for one in told.json["data"]]

        found = [await seen()]
        for _ in answers:
            await offers.ask(config.accounts["a"], config)
            found.append(await seen())
        one = await house.get("/v1/models/claude-next-1")
        assert (one.status == 200) == ("claude-next-1" in found[-1])
        if one.status == 200:
            assert one.json["created"] == 1793491200
        upstreams.close()
        house.upstreams.close()
        return found, reception.asked


async def test_clients_see_what_the_upstream_lists_and_go_on_seeing_it_when_it_fails() -> None:
    found, asked = await listed_after(LIST, answering(500, b"{}"))
    assert "claude-next-1" not in found[0]
    assert found[1:] == [["claude-next-1"], ["claude-next-1"]]
    assert asked[0].line == "GET /v1/models?limit=1000 HTTP/1.1"
    assert asked[0].all("x-api-key")
    assert asked[0].body == b""


async def test_what_is_no_list_or_too_long_changes_nothing() -> None:
    long = answering(200, b'{"data":[' + b" " * (2 * LONGEST) + b"]}")
    found, asked = await listed_after(answering(200, b"<html>"), long, answering(404, b"{}"), b"")
    assert len(asked) >= 4
    assert all(one == found[0] for one in found)


async def test_it_asks_by_itself_as_soon_as_it_runs() -> None:
    heard = trio.Event()
    async with serving(Reception([LIST], before=lambda asked: heard.set())) as upstream:
        config = tree(upstream_account("a", upstream.port))
        upstreams = Upstreams(lambda: NO_TLS, lambda: NOON)
        live = Live(config)
        offers = ModelOffers(
            live=live,
            pool=Pool(),
            upstreams=upstreams,
            book=OfferBook(live),
            credential=credential_of,
            large=LargeBodies(),
            wall=lambda: NOON,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(offers.run)
            await heard.wait()
            while not offers.book.known():
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert list(offers.book.known()["a"]) == ["claude-next-1"]
        upstreams.close()
