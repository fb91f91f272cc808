"""Every token that the upstream bills is in the books, whatever shape the usage has; limits see all of it."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from booked import Booked, booked
from builders import api_key, snapshot
from fakes import Reception, answering, streaming, upstream_account
from scripted import serving

from relayd.config.snapshot import Limits, MicroUsd
from relayd.core.quota.prices import cost_at, price_of
from relayd.core.quota.usage_record import UsageRecord
from relayd.state.contract import Report, Reported
from relayd.wire.usage import Usage

FABLE, OPUS = "claude-fable-5-1", "claude-opus-5-5"


def asking(*, stream: bool = False) -> bytes:
    return json.dumps(
        {"model": OPUS, "max_tokens": 500, "stream": stream, "messages": [{"role": "user", "content": "Hello " * 50}]}
    ).encode()


def entry(kind: str, model: str | None, into: int, out: int) -> dict[str, Any]:
    return {"type": kind, "model": model, "input_tokens": into, "output_tokens": out}


def whole(usage: object, model: str = OPUS) -> bytes:
    return json.dumps({"type": "message", "model": model, "content": [], "usage": usage}).encode()


def stream(usage: dict[str, Any], model: str = OPUS) -> bytes:
    start = {"type": "message_start", "message": {"model": model, "usage": {**usage, "output_tokens": 1}}}
    events = [start, {"type": "message_delta", "delta": {}, "usage": usage}, {"type": "message_stop"}]
    return b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)  # type: ignore[attr-defined]


@asynccontextmanager
async def answered(tmp_path: Path, *bodies: bytes, limits: Limits | None = None) -> AsyncIterator[Booked]:
    """A relay whose upstream gives these answers, one a call; what begins with an event is a stream."""
    answers = [streaming(body) if body.startswith(b"event") else answering(200, body) for body in bodies]
    async with serving(Reception(answers)) as upstream:
        tree = snapshot(keys=(api_key(limits=limits or Limits()),), accounts=(upstream_account("a", upstream.port),))
        async with booked(tree, tmp_path) as world:
            yield world
            world.house.upstreams.close()


def row(world: Booked) -> UsageRecord:
    answer = world.ask(Report(first="2000-01-01", last="2100-01-01"))
    assert isinstance(answer, Reported)
    (found,) = answer.rows
    return found


def price(model: str, **counts: int) -> int:
    found = price_of(model, {})
    assert found is not None
    return cost_at(Usage(**counts), found)  # type: ignore[arg-type]


ADVISED = {
    "input_tokens": 412,
    "output_tokens": 531,
    "iterations": [
        entry("message", None, 412, 89), entry("advisor_message", FABLE, 823, 1612), entry("message", None, 1348, 442)
    ],
}  # fmt: skip


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_each_inference_is_booked_at_the_price_of_its_own_model(how: str, tmp_path: Path) -> None:
    body = whole(ADVISED) if how == "whole" else stream(ADVISED)
    async with answered(tmp_path, body) as world:
        assert (await world.house.ask(asking(stream=how == "stream"))).status == 200
        found = row(world)

    assert (found.model, found.input, found.output) == (OPUS, 412 + 1348 + 823, 531 + 1612)
    own = price(OPUS, input=412 + 1348, output=531)
    assert abs(found.cost - own - price(FABLE, input=823, output=1612)) <= 1


async def test_an_answer_of_a_fallback_is_booked_as_the_model_that_served(tmp_path: Path) -> None:
    listed = [entry("message", OPUS, 9000, 40), entry("fallback_message", FABLE, 100, 50)]
    async with answered(
        tmp_path, whole({"input_tokens": 100, "output_tokens": 50, "iterations": listed}, FABLE)
    ) as world:
        await world.house.ask(asking())
        found = row(world)

    assert (found.model, found.input, found.output) == (FABLE, 9100, 90)
    assert abs(found.cost - price(FABLE, input=100, output=50) - price(OPUS, input=9000, output=40)) <= 1


async def test_a_cost_limit_sees_a_compaction(tmp_path: Path) -> None:
    usage = {
        "input_tokens": 23000,
        "output_tokens": 1000,
        "iterations": [entry("compaction", None, 180_000, 3500), entry("message", None, 23_000, 1000)],
    }
    limits = Limits(daily_cost=MicroUsd(800_000), daily_tokens=10**6)
    async with answered(tmp_path, *[whole(usage)] * 4, limits=limits) as world:
        statuses = [(await world.house.ask(asking())).status for _ in range(2)]

        assert statuses == [200, 429]
        assert row(world).tokens == 207_500
        assert row(world).cost == price(OPUS, input=203_000, output=4500)


async def test_a_part_without_a_price_is_flagged_and_the_rest_is_charged(tmp_path: Path) -> None:
    listed = [entry("message", None, 100, 50), entry("advisor_message", "gpt-9", 70, 30)]
    async with answered(tmp_path, whole({"input_tokens": 100, "output_tokens": 50, "iterations": listed})) as world:
        await world.house.ask(asking())
        found = row(world)

    assert (found.unpriced, found.tokens, found.cost) == (1, 250, price(OPUS, input=100, output=50))


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_what_cannot_be_read_is_booked_with_the_estimate_and_warned_of_once(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = {"input_tokens": "12", "cache_read_input_tokens": 8.0, "output_tokens": 10**30, "service_tier": 5}
    body = whole(odd) if how == "whole" else stream(odd).replace(b'"output_tokens": 1}', b'"output_tokens": []}')
    with caplog.at_level(logging.WARNING):
        async with answered(tmp_path, *[body] * 3) as world:
            for _ in range(3):
                assert (await world.house.ask(asking(stream=how == "stream"))).status == 200
            found = row(world)

    assert (found.requests, found.input, found.cache_read, found.output) == (3, 36, 24, 1500)
    assert found.cost == 3 * price(OPUS, input=12, cache_read=8, output=500)
    (warning,) = [one for one in caplog.records if one.getMessage() == "usage.unreadable"]
    assert (warning.account, warning.fields) == ("a", "output, service_tier")  # type: ignore[attr-defined]


async def test_an_unreadable_prompt_is_booked_with_its_estimate(tmp_path: Path) -> None:
    async with answered(tmp_path, whole({"input_tokens": -5, "output_tokens": 7})) as world:
        await world.house.ask(asking())
        found = row(world)

    assert found.output == 7
    assert 50 < found.input < 200  # 400 bytes


async def test_a_refusal_before_any_output_costs_nothing_where_the_api_does_not_bill_it(tmp_path: Path) -> None:
    def refused(category: str) -> bytes:
        document = json.loads(whole({"input_tokens": 106, "output_tokens": 0}))
        details = {"type": "refusal", "category": category}
        return json.dumps({**document, "stop_reason": "refusal", "stop_details": details}).encode()

    for category, cost in (("cyber", 0), ("bio", price(OPUS, input=106))):
        async with answered(tmp_path, refused(category)) as world:
            await world.house.ask(asking())
            assert (row(world).input, row(world).cost, row(world).unpriced) == (106, cost, 0)


async def test_a_model_beyond_what_the_key_may_use_is_booked_as_such_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = whole({"input_tokens": 1000, "output_tokens": 100}, model=FABLE)
    async with serving(Reception([answering(200, answer)])) as upstream:
        key = api_key(models=(OPUS,))
        tree = snapshot(keys=(key,), accounts=(upstream_account("a", upstream.port),))
        async with booked(tree, tmp_path) as world:
            for _ in range(3):
                assert (await world.house.ask(asking())).status == 200
            said = [one for one in caplog.records if one.message == "call.model_beyond_key"]
            assert [(one.__dict__["key"], one.__dict__["model"]) for one in said] == [("dev", FABLE)]
            assert row(world).model == FABLE
            world.house.upstreams.close()


async def test_a_request_that_names_a_model_goes_to_an_account_that_serves_it(tmp_path: Path) -> None:
    here = Reception([answering(200, whole({"input_tokens": 1, "output_tokens": 1}))])
    async with serving(here) as upstream:
        few = upstream_account("a", upstream.port, models=(OPUS,), priority=1)
        all_models = upstream_account("b", upstream.port)
        async with booked(snapshot(accounts=(few, all_models)), tmp_path) as world:
            naming = json.dumps({**json.loads(asking()), "fallbacks": [{"model": FABLE}]}).encode()
            for _ in range(3):
                assert (await world.house.ask(naming)).status == 200
            assert {asked.all("x-api-key")[0] for asked in here.asked} == {"sk-ant-test-b"}
            world.house.upstreams.close()
