"""Saying why."""

from __future__ import annotations

import datetime
import math

import pytest
from pool_world import MODEL, NOW, World, accounts, answered, snapshot

from relayd.config.snapshot import Deny, Pace
from relayd.core.balancing.explain import Block, clock, refusal_of, summary, unavailable
from relayd.core.balancing.pool import Unavailable

NOON = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.UTC).timestamp()


def test_each_account_of_the_keys_groups_gives_its_reason_the_soonest_first() -> None:
    world = World(
        snapshot(
            *accounts("a"),
            *accounts("b", models=("claude-haiku-*",)),
            *accounts("c", groups=("elsewhere",)),
        ),
        now=NOON,
        model="claude-opus-4-1",
    )
    world.attempt("a", answered(429, retry_after="190"))
    found = world.pick()
    assert isinstance(found, Unavailable)
    refusal = refusal_of(found, now=NOON)

    until = clock(found.until, NOON)
    assert "12:03:10" <= until <= "12:03:40"
    assert refusal.message == (
        "Rate limit exceeded: no account has room now "
        f"(a: cooling down until {until}, 429 from upstream; b: does not serve claude-opus-4-1)"
    )
    assert (refusal.status, refusal.kind) == (429, "rate_limit_error")
    assert refusal.retry_after == math.ceil(found.until - NOON)


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [
        (answered(429, retry_after="40"), 429, "429 from upstream"),
        (answered(529, retry_after="40"), 529, "529 from upstream"),
        (answered(503, retry_after="40"), 529, "503 from upstream"),
        (answered(401, "authentication_error", "invalid x-api-key"), 529, "invalid x-api-key (401)"),
    ],
)
def test_rate_limits_are_429_and_overload_or_outage_529(outcome: object, status: int, words: str) -> None:
    world = World(snapshot(*accounts("a")))
    world.attempt("a", outcome)  # type: ignore[arg-type]
    found = world.pick()
    assert isinstance(found, Unavailable)
    refusal = refusal_of(found, now=world.now)

    assert refusal.status == status
    assert words in refusal.message
    assert refusal.retry_after is not None
    assert refusal.should_retry is (False if refusal.retry_after > 300 else None)


def test_when_no_account_may_ever_serve_it_is_403_without_a_time() -> None:
    world = World(
        snapshot(
            *accounts("a", enabled=False),
            *accounts("b"),
            *accounts("c", models=("x",)),
            deny=Deny(accounts=("b",)),  # type: ignore[arg-type]
        )
    )
    found = world.pick()
    assert isinstance(found, Unavailable)
    refusal = refusal_of(found, now=NOW)

    assert (refusal.status, refusal.kind, refusal.retry_after) == (403, "permission_error", None)
    assert refusal.message == (
        f"no account of this key's groups serves model {MODEL} "
        f"(a: disabled; b: denied by deny.toml; c: does not serve {MODEL})"
    )


def test_an_empty_group_is_403_too() -> None:
    found = World(snapshot(*accounts("a")), groups=("none",), model="").pick()
    assert isinstance(found, Unavailable)

    assert refusal_of(found, now=NOW).message == "no account of this key's groups serves this call"


def test_long_lists_are_shortened() -> None:
    blocks = [Block(f"a{n}", "rate", NOW + n, "full") for n in range(12)]

    assert summary(blocks, NOW) == "a0: full; a1: full; a2: full; a3: full; a4: full; and 7 more"


def test_the_wait_is_at_least_a_second_and_a_long_one_tells_clients_to_give_up() -> None:
    for seconds, wait, should in ((0.2, 1, None), (299.5, 300, None), (301.0, 301, False)):
        found = unavailable([Block("a", "rate", NOW + seconds, "full")], "m")
        refusal = refusal_of(found, now=NOW)
        assert (refusal.retry_after, refusal.should_retry) == (wait, should)


def test_a_clients_model_name_is_made_fit_for_a_message() -> None:
    world = World(snapshot(*accounts("a", models=("x",))), model="evil\n" + "é" * 500)
    found = world.pick()
    assert isinstance(found, Unavailable)
    message = refusal_of(found, now=NOW).message

    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 1500


def test_the_time_of_day_has_its_date_when_it_is_another_day_and_follows_the_zone() -> None:
    tokyo = datetime.timezone(datetime.timedelta(hours=9))

    assert clock(NOON + 10.2, NOON) == "12:00:11"
    assert clock(NOON + 86400, NOON) == "2026-11-23 12:00:00"
    assert clock(NOON, NOON, tokyo) == "21:00:00"


def test_explain_tells_of_every_account_of_the_groups_whether_and_why() -> None:
    world = World(
        snapshot(
            *accounts("busy", max_concurrency=1),
            *accounts("fine", weight=3),
            *accounts("off", enabled=False),
            *accounts("paced", pace=Pace(requests_per_minute=1)),
            *accounts("sick"),
        ),
        now=NOON,
    )
    world.pool.begin("busy", MODEL, NOON)
    world.pool.end(world.pool.begin("paced", MODEL, NOON), NOON)
    for _ in range(5):
        world.attempt("sick", answered(500))
    reasons = world.pool.explain(world.snapshot, ("default",), MODEL, now=NOON)

    assert [(reason.account, reason.ok) for reason in reasons] == [
        ("fine", True),
        ("busy", False),
        ("paced", False),
        ("sick", False),
        ("off", False),
    ]
    texts = {reason.account: reason.text for reason in reasons}
    assert texts["fine"] == "free, priority 50, weight 3, 0 in flight"
    assert texts["busy"] == "1 of 1 calls in flight"
    assert texts["paced"] == "1 calls started in a minute, next at 12:01:00"
    assert texts["sick"].startswith("cooling down until 12:00:1")
    assert texts["sick"].endswith(", 500 from upstream")
    assert texts["off"] == "disabled"


def test_a_dry_window_and_a_recovery_are_told_in_words() -> None:
    world = World(snapshot(*accounts("dry", "slow")), now=NOON)
    world.attempt("dry", answered(429, retry_after="1"))
    spent = {"5h_utilization": "0.99", "5h_reset": str(int(NOON) + 600)}
    world.now += 2
    world.pool.restore("dry", world.now)
    world.attempt("dry", answered(200, **{f"anthropic_ratelimit_unified_{name}": text for name, text in spent.items()}))
    world.attempt("slow", answered(429, retry_after="1"))
    world.now += 2
    world.pool.begin("slow", MODEL, world.now)
    found = world.pick()
    assert isinstance(found, Unavailable)

    assert {block.account: block.text(world.now) for block in found.blocks} == {
        "dry": "5h window is spent down to the reserve, resets 12:10:00",
        "slow": "recovering, 1 on trial, 429 from upstream",
    }
