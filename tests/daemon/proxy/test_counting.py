"""What a call counts as: every limit over HTTP, to the second; what is booked; what is told of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from booked import Booked, booked
from builders import account, api_key, snapshot
from fakes import ASK, NOON, Told
from trio.testing import MockClock
from waiting import until

from relayd.config.snapshot import Limits, MicroUsd, Policy, Rate, Seconds, Server, Simulator, Snapshot, Window
from relayd.core.quota.model_names import MOST, OTHER
from relayd.core.quota.usage_record import UsageRecord
from relayd.state.contract import Report, Reported
from relayd.wire.anthropic import Native
from relayd.wire.openai.chat import ChatDialect
from relayd.wire.openai.request import PLAIN_TOKENS
from relayd.wire.peek import LARGE

CHAT = "/openai/v1/chat/completions"
HOUR = 3600.0


def tree(limits: Limits | None = None, *, relay: Any = None, key: Any = None, **fields: Any) -> Snapshot:
    """A key with limits, and a simulated account with some settings."""
    return snapshot(
        keys=(api_key(limits=limits or Limits(), **(key or {})),), accounts=(account("a", **fields),), relay=relay or {}
    )


def asking(model: str = "claude-haiku-4-5", **fields: Any) -> bytes:
    """A request for a short answer."""
    return json.dumps(
        {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}], **fields}
    ).encode()


def rows(world: Booked) -> tuple[UsageRecord, ...]:
    answer = world.ask(Report(first="2000-01-01", last="2100-01-01"))
    assert isinstance(answer, Reported)
    return answer.rows


def error(told: Told) -> tuple[int, str, str]:
    """Status, type and message of a refusal, in either dialect."""
    return told.status, told.json["error"]["type"], told.json["error"]["message"]


async def limits_of(world: Booked) -> dict[str, dict[str, Any]]:
    """The limits of GET /usage, by name."""
    told = await world.house.get("/usage")
    return {row["limit_name"]: row for row in told.json["limits"]}


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"rate": Rate(requests=1, window=Seconds(90))}, "1 requests per 90s"),
        ({"tokens_per_minute": 15}, "15 tokens per 1m"),
        ({"daily_requests": 1}, "daily requests 1"),
        ({"monthly_requests": 1}, "monthly requests 1"),
        ({"daily_tokens": 15}, "daily tokens 15"),
        ({"monthly_tokens": 15}, "monthly tokens 15"),
        ({"daily_cost": MicroUsd(50)}, "daily cost $0.00005"),
        ({"monthly_cost": MicroUsd(50)}, "monthly cost $0.00005"),
        ({"total_cost": MicroUsd(50)}, "total cost $0.00005"),
        ({"windows": (Window(window="2h", requests=1, tokens=9000, cost=MicroUsd(900_000)),)}, "1 requests per 2h"),
        ({"windows": (Window(window="week", tokens=15),)}, "weekly tokens 15"),
        ({"windows": (Window(window="5h", cost=MicroUsd(50)),)}, "$0.00005 per 5h"),
        ({"windows": (Window(window="month", requests=9), Window(window="day", requests=1))}, "daily requests 1"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", CHAT])
async def test_each_limit_is_named_when_it_refuses_and_what_it_refuses_counts_as_nothing(
    limits: dict[str, Any], name: str, path: str, tmp_path: Path
) -> None:
    async with booked(tree(Limits(**limits)), tmp_path) as world:
        assert (await world.house.ask(asking(), path)).status == 200
        before = await limits_of(world)
        refused = [await world.house.ask(asking(), path) for _ in range(3)]

        assert [error(one)[:2] for one in refused] == [(429, "rate_limit_error")] * 3
        assert f"Rate limit exceeded: {name}" in error(refused[0])[2]
        assert await limits_of(world) == before
        assert sum(row.requests for row in rows(world)) == 1


async def test_a_limit_of_none_lets_everything_pass(tmp_path: Path) -> None:
    none = Limits(rate=Rate(requests=0), count_tokens=0)
    async with booked(tree(none), tmp_path) as world:
        assert {(await world.house.ask(ASK)).status for _ in range(20)} == {200}
        assert await limits_of(world) == {}


@pytest.mark.parametrize(
    ("limits", "begin"),
    [
        ({"rate": Rate(requests=2, window=Seconds(7))}, NOON),
        ({"rate": Rate(requests=2, window=Seconds(40 * HOUR))}, NOON + 0.3),
        ({"daily_requests": 2}, NOON + 0.7),
        ({"windows": (Window(window="week", requests=2),)}, NOON),
        ({"monthly_requests": 2, "rate": Rate(requests=2, window=Seconds(60))}, NOON + 0.001),
    ],
)
async def test_retry_after_is_exact_to_the_second(limits: dict[str, Any], begin: float, tmp_path: Path) -> None:
    async with booked(tree(Limits(**limits)), tmp_path) as world:
        world.clock.now = begin
        for _ in range(2):
            assert (await world.house.ask(ASK)).status == 200
        wait = int((await world.house.ask(ASK))["retry-after"])
        asked = world.clock.now

        world.clock.now = asked + wait - 1
        early = await world.house.ask(ASK)
        world.clock.now = asked + wait

        assert (early.status, early["retry-after"]) == (429, "1")
        assert (await world.house.ask(ASK)).status == 200


async def test_a_client_is_told_not_to_retry_what_waiting_does_not_help(tmp_path: Path) -> None:
    soon = Limits(rate=Rate(requests=1, window=Seconds(60)))
    late = Limits(rate=Rate(requests=1, window=Seconds(61)))
    for limits, told in ((soon, []), (late, ["false"])):
        async with booked(tree(limits), tmp_path) as world:
            await world.house.ask(ASK)
            assert (await world.house.ask(ASK)).all("x-should-retry") == told


async def test_the_stores_clock_decides_which_day_it_is(tmp_path: Path) -> None:
    async with booked(tree(Limits(daily_requests=2)), tmp_path) as world:
        world.clock.now += 20 * 24 * HOUR  # the relay's own clock stays behind
        told = await world.house.ask(ASK)
        await world.house.ask(ASK)

        assert told["anthropic-ratelimit-requests-reset"] == "2027-02-05T00:00:00Z"
        assert (await world.house.ask(ASK)).status == 429
        assert [(row.day, row.requests) for row in rows(world)] == [("2027-02-04", 2)]


async def test_a_keys_own_headers_agree_with_its_usage(tmp_path: Path) -> None:
    limits = Limits(daily_requests=9, rate=Rate(requests=50, window=Seconds(60)), monthly_tokens=5000)
    async with booked(tree(limits), tmp_path) as world:
        await world.house.ask(asking())
        told = await world.house.ask(asking(stream=True))
        day = (await limits_of(world))["daily requests 9"]
        stem = "anthropic-ratelimit-requests"

        assert told[f"{stem}-limit"] == str(day["limit"]) == "9"
        assert told[f"{stem}-remaining"] == str(day["remaining"]) == "7"
        assert told[f"{stem}-reset"] == day["resets_at"]
        assert told["anthropic-ratelimit-tokens-limit"] == "5000"
        chat = await world.house.ask(asking(), CHAT)
        assert (chat["x-ratelimit-limit-requests"], chat["x-ratelimit-remaining-requests"]) == ("9", "6")


async def in_flight(world: Booked, count: int) -> None:
    await until(lambda: world.house.in_flight() >= count)


@pytest.mark.parametrize("path", ["/v1/messages", CHAT])
async def test_the_relay_as_a_whole_answers_529_over_its_concurrency(
    path: str, tmp_path: Path, jumping_clock: MockClock
) -> None:
    server = Server(max_concurrent_requests=1)
    async with booked(tree(relay={"server": server}), tmp_path) as world:
        client = await world.house.connect()
        await client.post(x_simulate_first_byte="30")
        await in_flight(world, 1)
        full = await world.house.ask(asking(), path)

        assert error(full)[:2] == (529, "overloaded_error")
        assert full["retry-after"] == "2"
        await client.leave("close")
        await world.house.receipt(2)
        assert (await world.house.ask(asking(), path)).status == 200


@pytest.mark.parametrize(("cap", "room"), [(0, PLAIN_TOKENS), (500, 500)])
@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
async def test_of_a_client_that_names_no_maximum_is_reserved_what_is_sent_for_it(
    path: str, cap: int, room: int, tmp_path: Path
) -> None:
    body = json.dumps({"model": "claude-haiku-4-5", "input" if path != CHAT else "messages": "Hello"}).encode()
    if path == CHAT:
        body = asking(max_tokens=None)
    async with booked(
        tree(Limits(daily_tokens=100_000, reserve="worst-case"), key={"max_tokens": cap}), tmp_path
    ) as world:
        told = await world.house.ask(body, path)
        prompt = 100_000 - room - int(told["x-ratelimit-remaining-tokens"])

        assert told.status == 200
        assert 0 < prompt < 100
        assert (await limits_of(world))["daily tokens 100000"]["used"] < room


async def test_the_relay_as_a_whole_has_a_rate_in_which_token_counts_are_not(tmp_path: Path) -> None:
    server = Server(rate=Rate(requests=2, window=Seconds(60)))
    async with booked(tree(Limits(count_tokens=3), relay={"server": server}), tmp_path) as world:
        counts = [await world.house.ask(ASK, "/v1/messages/count_tokens") for _ in range(4)]
        calls = [await world.house.ask(ASK) for _ in range(3)]

        assert [one.status for one in counts] == [200, 200, 200, 429]
        assert "3 token counts per 1m" in counts[-1].error[2]
        assert [one.status for one in calls] == [200, 200, 429]
        assert "2 requests per 1m for the whole relay" in calls[-1].error[2]
        assert sum(row.requests for row in rows(world)) == 2  # counting tokens is in no book


async def test_a_batch_and_a_file_are_a_request_each_and_looking_at_them_is_none(tmp_path: Path) -> None:
    limits = Limits(daily_requests=3)
    batch = json.dumps({"requests": [{"custom_id": "x", "params": json.loads(asking())}]}).encode()
    key = {"endpoints": ("messages", "batches", "files", "models")}
    async with booked(tree(limits, key=key), tmp_path) as world:
        made = await world.house.ask(batch, "/v1/messages/batches")
        assert made.status == 200
        for path in ("/v1/messages/batches", f"/v1/messages/batches/{made.json['id']}", "/v1/models", "/v1/files"):
            assert (await world.house.get(path)).status == 200
        assert (await limits_of(world))["daily requests 3"]["used"] == 1
        assert [(row.requests, row.tokens, row.model) for row in rows(world)] == [(1, 0, "claude-haiku-4-5")]


# -- the books -------------------------------------------------------------------------------------------------------


async def test_an_upstreams_refusal_is_a_request_and_an_error_and_no_tokens(tmp_path: Path) -> None:
    async with booked(tree(Limits(daily_tokens=10_000)), tmp_path) as world:
        assert (await world.house.ask(asking(), x_simulate_status="400")).status == 400
        (row,) = rows(world)
        assert (row.requests, row.errors, row.tokens, row.cost) == (1, 1, 0, 0)
        assert (await limits_of(world))["daily tokens 10000"]["used"] == 0


async def test_a_call_that_no_upstream_saw_gives_its_place_back(tmp_path: Path) -> None:
    key = {"models": ("claude-haiku-*",)}
    async with booked(tree(Limits(daily_requests=5), key=key, models=("claude-opus-*",)), tmp_path) as world:
        assert (await world.house.ask(asking())).status == 403  # the account does not serve it
        assert (await world.house.ask(asking("claude-opus-5"))).status == 403  # the key may not have it
        assert (await limits_of(world))["daily requests 5"]["used"] == 0
        assert rows(world) == ()


async def test_a_client_that_leaves_before_anything_was_heard_is_booked_with_its_prompt(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with booked(tree(Limits(concurrency=1)), tmp_path) as world:
        client = await world.house.connect()
        body = asking(system="x" * 700)
        await client.post(body, x_simulate_first_byte="30")
        await in_flight(world, 1)
        await client.leave("close")
        await world.house.receipt()
        (row,) = rows(world)

        assert (row.requests, row.account, row.model) == (1, "a", "claude-haiku-4-5")
        assert row.input == -(-len(body) * 2 // 7)
        assert row.cost > 0
        assert (await world.house.ask(asking())).status == 200  # its slot is free


async def test_what_a_long_stream_has_used_goes_with_the_heartbeat_and_stands_if_the_process_dies(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with booked(tree(), tmp_path) as world:
        client = await world.house.connect()
        await client.post(asking(stream=True, max_tokens=500), x_simulate_between="0.01", x_simulate_words="400")
        await client.head()
        await client.until(b"content_block_delta")
        for _ in range(20):
            assert await client.more()
        ((_, call),) = world.state.in_flight.admitted()
        checkpoint = call.consumed()
        await world.state._renew()
        world.clock.now += 61  # nobody renews it any more

        world.state.failsafe.reap()

        (row,) = rows(world)
        assert row.output >= checkpoint.output > 5
        assert (row.account, row.model) == ("a", "claude-haiku-4-5")
        await client.leave("close")


async def test_a_call_that_is_tried_twice_is_one_request(tmp_path: Path) -> None:
    first, second = account("a", priority=1, simulator=Simulator(status=529)), account("b", priority=2)
    async with booked(
        snapshot(accounts=(first, second), keys=(api_key(limits=Limits(daily_requests=9)),)), tmp_path
    ) as world:
        assert (await world.house.ask(asking())).status == 200
        assert [(row.account, row.requests, row.errors) for row in rows(world)] == [("b", 1, 0)]
        assert (await limits_of(world))["daily requests 9"]["used"] == 1


@pytest.mark.parametrize("fault", ["cut_after", "error_after"])
@pytest.mark.parametrize("path", ["/v1/messages", CHAT])
async def test_a_stream_that_breaks_is_an_error_and_what_had_passed_is_booked(
    fault: str, path: str, tmp_path: Path
) -> None:
    simulator = Simulator(**{fault: 20})
    async with booked(tree(Limits(daily_tokens=100_000), simulator=simulator), tmp_path) as world:
        client = await world.house.connect()
        await client.post(asking(stream=True, max_tokens=200), path)
        await client.answer()
        await world.house.receipt()
        (row,) = rows(world)

        assert (row.requests, row.errors) == (1, 1)
        assert row.output > 5
        assert (await limits_of(world))["daily tokens 100000"]["used"] == row.tokens


@pytest.mark.parametrize("status", ["404", "200"])
async def test_names_that_a_client_makes_up_do_not_grow_the_books(status: str, tmp_path: Path) -> None:
    async with booked(tree(), tmp_path) as world:
        client = await world.house.connect()
        for number in range(MOST + 30):
            for model in (f"made-up-{number}", f"claude-opus-4-5-{number:08d}"):
                assert (await client.ask(asking(model), x_simulate_status=status)).status == int(status)
        names = {row.model for row in rows(world)}

        assert OTHER in names
        assert len(names) == (1 if status == "404" else MOST + 1)
        assert sum(row.requests for row in rows(world)) == 2 * (MOST + 30)


async def test_a_model_without_a_price_is_counted_and_flagged(tmp_path: Path) -> None:
    async with booked(tree(Limits(daily_cost=MicroUsd(5_000_000))), tmp_path) as world:
        assert (await world.house.ask(asking("claude-next"))).status == 200
        receipt = await world.house.receipt()
        (row,) = rows(world)

        assert (receipt.cost, receipt.unpriced) == (None, True)
        assert (row.model, row.unpriced, row.cost) == ("claude-next", 1, 0)
        assert row.tokens > 0


@pytest.mark.parametrize("path", ["/v1/messages", CHAT])
async def test_a_policy_may_deny_it_to_keys_with_a_cost_limit(path: str, tmp_path: Path) -> None:
    relay = {"policy": Policy(unknown_model_cost="deny")}
    async with booked(tree(Limits(daily_cost=MicroUsd(5_000_000)), relay=relay), tmp_path) as world:
        denied = await world.house.ask(asking("claude-next"), path)
        assert denied.status == 403
        assert "'claude-next' has no price" in error(denied)[2]
        assert (await world.house.ask(asking("claude-haiku-4-5-20251001"), path)).status == 200
        assert [row.requests for row in rows(world)] == [1]
    async with booked(tree(Limits(daily_tokens=5_000), relay=relay), tmp_path) as world:
        assert (await world.house.ask(asking("claude-next"), path)).status == 200


async def test_what_an_account_makes_of_a_model_decides_what_is_reserved_and_denied(tmp_path: Path) -> None:
    relay = {"policy": Policy(unknown_model_cost="deny")}
    limits = Limits(daily_cost=MicroUsd(1000), reserve="worst-case")
    names = {"cheap": "claude-opus-5", "claude-haiku-4-5": "unknown"}
    async with booked(tree(limits, relay=relay, model_map=names), tmp_path) as world:
        denied = await world.house.ask(asking())
        assert error(denied)[2].startswith("Model 'claude-haiku-4-5', which is sent as 'unknown', has no price")

        assert (await world.house.ask(asking("cheap"))).status == 200  # it has a price: the one of what is sent
        refused = await world.house.ask(asking("cheap", max_tokens=30))
        assert "daily cost $0.001 (this call may need $0.001)" in error(refused)[2]
        (row,) = rows(world)
        assert (row.model, row.unpriced) == ("claude-opus-5", 0)
        assert row.cost > 200


# --- large bodies


def large(**fields: Any) -> bytes:
    return asking(system="x" * LARGE, **fields)


def threads_that_parse(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each body that is parsed from now on: not on the loop's thread?"""
    parsed: list[bool] = []
    before, loop = Native.parse, threading.get_ident()

    def parse(self: Native, *args: Any, **more: Any) -> Any:
        parsed.append(threading.get_ident() != loop)
        return before(self, *args, **more)

    monkeypatch.setattr(Native, "parse", parse)
    return parsed


async def test_a_large_translated_body_is_read_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bool] = []
    before, loop = ChatDialect.parse, threading.get_ident()

    def parse(self: ChatDialect, *args: Any, **more: Any) -> Any:
        read.append(threading.get_ident() != loop)
        return before(self, *args, **more)

    monkeypatch.setattr(ChatDialect, "parse", parse)
    body = json.dumps({"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "x" * LARGE}]}).encode()
    async with booked(tree(), tmp_path) as world:
        assert (await world.house.ask(body, CHAT)).status == 200

    assert read == [True]


async def test_a_large_body_is_read_in_a_thread_and_a_small_one_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = threads_that_parse(monkeypatch)
    async with booked(tree(), tmp_path) as world:
        assert (await world.house.ask(large())).status == 200
        assert (await world.house.ask(asking())).status == 200

    assert parsed == [True, False]


async def test_no_large_body_is_read_of_a_key_that_has_no_request_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = threads_that_parse(monkeypatch)
    rate = Rate(requests=1, window=Seconds(60.0))
    async with booked(tree(Limits(rate=rate)), tmp_path) as world:
        assert (await world.house.ask(asking())).status == 200
        refused = await world.house.ask(large())

        assert refused.status == 429
        assert refused["retry-after"] == "60"
        assert len(parsed) == 1
        world.clock.now += 61
        assert (await world.house.ask(large())).status == 200
        assert sum(row.requests for row in rows(world)) == 2


async def test_no_body_is_read_of_a_key_that_may_not_use_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = threads_that_parse(monkeypatch)
    async with booked(tree(key={"endpoints": ("openai",)}), tmp_path) as world:
        assert (await world.house.ask(b"{")).status == 403

    assert not parsed
