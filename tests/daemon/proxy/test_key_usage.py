"""GET /usage: a key's own limits and consumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from booked import booked
from builders import KEY, OTHER_KEY, api_key, snapshot
from fakes import ASK, relaying

from relayd.config.snapshot import Limits, MicroUsd, Rate, Seconds, State, Window


def limited(**fields: Any) -> Any:
    limits = Limits(
        concurrency=4,
        rate=Rate(requests=100, window=Seconds(60)),
        daily_requests=10,
        monthly_cost=MicroUsd(5_000_000),
        total_cost=MicroUsd(50_000_000),
        windows=(Window(window="5h", tokens=1_000_000),),
    )
    return api_key(limits=limits, name="Dev", owner="crew", **fields)


async def test_it_tells_each_limit_with_what_is_used_and_when_it_resets(tmp_path: Path) -> None:
    async with booked(snapshot(keys=(limited(),)), tmp_path) as world:
        for _ in range(3):
            assert (await world.house.ask(ASK)).status == 200
        told = await world.house.get("/usage")

    document = told.json
    rows = {row["limit_name"]: row for row in document["limits"]}
    assert told.status == 200
    assert told["content-type"] == "application/json"
    assert told["cache-control"] == "no-store"
    assert (document["key"], document["name"], document["owner"]) == ("dev", "Dev", "crew")
    day = rows["daily requests 10"]
    assert (day["limit"], day["used"], day["remaining"]) == (10, 3, 7)
    assert day["resets_at"] == "2027-01-16T00:00:00Z"
    assert rows["100 requests per 1m"]["used"] == 3
    assert rows["4 concurrent requests"]["used"] == 0
    assert float(rows["monthly cost $5.00"]["used"]) > 0
    assert rows["total cost $50.00"]["resets_at"] is None
    assert rows["1000000 tokens per 5h"]["used"] == document["today"]["tokens"] > 0
    assert rows["600 token counts per 1m"]["used"] == 0
    assert (document["today"]["day"], document["today"]["requests"]) == ("2027-01-15", 3)


@pytest.mark.parametrize("path", ["/usage", "/api/usage"])
@pytest.mark.parametrize("header", ["x_api_key", "authorization"])
async def test_either_header_carries_the_key(tmp_path: Path, path: str, header: str) -> None:
    value = KEY if header == "x_api_key" else f"Bearer {KEY}"
    async with booked(snapshot(), tmp_path) as world:
        told = await world.house.get(path, key="", **{header: value})

    assert told.json["key"] == "dev"


async def test_asking_costs_nothing_and_shows_nobody_elses_consumption(tmp_path: Path) -> None:
    keys = (limited(), api_key(OTHER_KEY, id="other"))
    async with booked(snapshot(keys=keys), tmp_path) as world:
        await world.house.ask(ASK, key=OTHER_KEY)
        for _ in range(3):
            told = await world.house.get("/usage")

    assert {row["used"] for row in told.json["limits"]} <= {0, "0.00"}
    assert told.json["today"]["requests"] == 0


async def test_without_a_key_there_is_no_answer(tmp_path: Path) -> None:
    async with booked(snapshot(), tmp_path) as world:
        assert (await world.house.get("/usage", key="")).error[:2] == (401, "authentication_error")
        assert (await world.house.get("/usage", key=OTHER_KEY)).error[:2] == (401, "authentication_error")
        assert (await world.house.get("/usage", method="DELETE")).status == 405


async def test_at_midnight_the_stores_day_counts(tmp_path: Path) -> None:
    async with booked(snapshot(keys=(limited(),)), tmp_path) as world:
        world.clock.now += 86_400 * 20  # of the store; the relay's own clock stays where it was
        told = await world.house.get("/usage")

    rows = {row["limit_name"]: row for row in told.json["limits"]}
    assert told.json["today"]["day"] == "2027-02-04"
    assert rows["daily requests 10"]["remaining"] == 10


@pytest.mark.parametrize("on_outage", ["allow", "deny"])
async def test_it_is_503_while_the_store_is_away(tmp_path: Path, on_outage: Any) -> None:
    async with booked(snapshot(relay={"state": State(on_outage=on_outage)}), tmp_path) as world:
        world.store.away = True
        told = await world.house.get("/usage")

    assert told.error[:2] == (503, "api_error")
    assert told["retry-after"] == "5"


async def test_a_relay_without_books_says_so() -> None:
    async with relaying(snapshot()) as house:
        assert (await house.get("/usage")).error[:2] == (503, "api_error")
