"""The pool: choosing, resting, recovering, remembering."""

from __future__ import annotations

import collections
import json
import random
from typing import Any

import pytest
from builders import headers
from pool_world import GOOD, MODEL, NOW, World, accounts, answered, observe_alone, snapshot, unreachable

from relayd.config.snapshot import Credential, Deny, Pace, Routing, Url
from relayd.core.balancing.failover import Retry
from relayd.core.balancing.outcomes import Answered, Outcome
from relayd.core.balancing.pool import Lease, Picked, Pool, Unavailable


def picked(found: Picked | Unavailable) -> str:
    assert isinstance(found, Picked), found
    return found.account


def refused(found: Picked | Unavailable) -> Unavailable:
    assert isinstance(found, Unavailable), found
    return found


def world_of(*members: Any, routing: Routing | None = None, **fields: Any) -> World:
    return World(snapshot(*members, routing=routing), **fields)


def chi_square(counts: dict[str, int], shares: dict[str, float]) -> float:
    total = sum(counts.values())
    return sum((counts.get(name, 0) - total * share) ** 2 / (total * share) for name, share in shares.items())


def tally(world: World, calls: int, **fields: Any) -> dict[str, int]:
    return dict(collections.Counter(picked(world.pick(**fields)) for _ in range(calls)))


def served(world: World, **fields: Any) -> str:
    """Who is chosen and serves a call."""
    name = picked(world.pick(**fields))
    world.attempt(name, GOOD)
    return name


# --- who may serve


def test_disabled_denied_and_foreign_accounts_never_serve() -> None:
    world = World(
        snapshot(
            *accounts("off", enabled=False),
            *accounts("denied"),
            *accounts("foreign", groups=("other",)),
            *accounts("ok"),
            deny=Deny(accounts=("denied",)),  # type: ignore[arg-type]
        )
    )

    assert set(tally(world, 50)) == {"ok"}


def test_the_keys_groups_are_asked_in_order_and_the_next_only_when_the_first_cannot() -> None:
    world = world_of(*accounts("a", groups=("first",)), *accounts("b", groups=("second", "first2")))
    world.groups = ("first", "second")

    assert set(tally(world, 30)) == {"a"}
    world.attempt("a", answered(429, retry_after="60"))
    assert set(tally(world, 30)) == {"b"}


def test_models_are_matched_by_glob_and_by_map() -> None:
    world = world_of(
        *accounts("haiku", models=("claude-haiku-*",)),
        *accounts("mapped", models=("other",), model_map={MODEL: "vendor-model"}),
        *accounts("opus", models=("claude-opus-?-?",)),
    )

    assert set(tally(world, 20)) == {"mapped"}
    assert set(tally(world, 20, model="claude-opus-4-1")) == {"opus"}
    assert set(tally(world, 200, model="")) == {"haiku", "mapped", "opus"}


def test_lower_priority_numbers_go_first() -> None:
    world = world_of(*accounts("spare", priority=90), *accounts("main", priority=10))

    assert set(tally(world, 30)) == {"main"}
    assert picked(world.pick(excluded={"main"})) == "spare"


def test_a_full_account_is_passed_over_until_a_lease_ends() -> None:
    world = world_of(*accounts("a", max_concurrency=2, priority=1), *accounts("b", priority=2))
    leases = [world.pool.begin("a", MODEL, NOW) for _ in range(2)]

    assert picked(world.pick()) == "b"
    world.pool.end(leases[0], NOW)
    world.pool.end(leases[0], NOW)  # twice is once
    assert world.pool.in_flight("a") == 1
    assert picked(world.pick()) == "a"


def test_a_pace_counts_starts_in_any_minute() -> None:
    world = world_of(*accounts("a", pace=Pace(requests_per_minute=3)))
    for second in (0, 10, 20):
        world.now = NOW + second
        world.pool.end(world.pool.begin(picked(world.pick()), MODEL, world.now), world.now)
    found = refused(world.pick())

    assert (found.kind, found.until) == ("rate", NOW + 60)
    world.now = NOW + 60
    assert picked(world.pick()) == "a"


# --- affinity


def test_a_conversation_stays_on_its_account_whatever_the_priority_and_load() -> None:
    world = world_of(*accounts("a", priority=1), *accounts("b", priority=99))
    for _ in range(5):
        world.pool.begin("b", MODEL, NOW)

    assert world.pick(affinity="b") == Picked("b", "affinity")


@pytest.mark.parametrize("gone", ["tried", "resting", "disabled", "unknown"])
def test_affinity_gives_way_when_its_account_cannot_serve(gone: str) -> None:
    world = world_of(*accounts("a", enabled=gone != "disabled"), *accounts("b"))
    if gone == "resting":
        world.pick()
        world.attempt("a", answered(429, retry_after="60"))
    affinity = "nobody" if gone == "unknown" else "a"
    excluded = {"a"} if gone in ("tried", "unknown") else set()

    assert picked(world.pick(affinity=affinity, excluded=excluded)) == "b"


def test_one_5xx_does_not_move_later_calls_of_a_conversation() -> None:
    world = world_of(*accounts("a", "b"))
    for outcome in (answered(500), answered(529), unreachable("reset")):
        world.attempt("a", outcome)

    assert world.pick(affinity="a") == Picked("a", "affinity")


# --- resting and recovering


def test_a_429_rests_the_account_and_the_next_one_serves() -> None:
    world = world_of(*accounts("a", "b"))

    assert world.deliver(lambda account: answered(429, retry_after="60") if account == "a" else GOOD, affinity="a")
    assert set(tally(world, 20, affinity="a")) == {"b"}
    world.now += 59
    assert set(tally(world, 20, affinity="a")) == {"b"}
    world.now += 14  # 60 s and a fifth
    assert picked(world.pick(affinity="a")) == "a"


def test_a_person_lets_an_account_rest_and_others_hear_of_it() -> None:
    world = world_of(*accounts("a", "b"))
    world.pool.rest("a", 600.0, "at the wish of anna", NOW)
    assert {served(world) for _ in range(20)} == {"b"}
    assert world.pool.rested_since("a", NOW) == NOW
    other = world_of(*accounts("a", "b"))
    assert world.pool.take_changed() == {"a"}
    assert other.pool.load_health("a", world.pool.snapshot_health("a"), NOW)
    kind, until, reason = other.pool.resting("a", NOW) or ("", 0.0, "")
    assert (kind, until, reason) == ("rate", NOW + 600.0, "at the wish of anna")
    assert other.pool.rested_since("a", NOW + 601.0) is None
    world.pool.wake("a", NOW + 1)
    assert "a" in {served(world) for _ in range(50)}


def test_a_limit_of_one_model_rests_that_model_only() -> None:
    world = world_of(*accounts("a"))
    rejected = answered(
        429,
        retry_after="600",
        anthropic_ratelimit_unified_status="rejected",
        anthropic_ratelimit_unified_representative_claim="seven_day_opus",
    )
    world.attempt("a", rejected)

    assert refused(world.pick()).kind == "rate"
    assert picked(world.pick(model="claude-haiku-4-5")) == "a"


def test_a_dead_credential_is_out_until_it_changes() -> None:
    sealed = [Credential(sealed=f"rlsec1{n}") for n in range(2)]
    world = world_of(*accounts("a", credential=sealed[0]))
    world.attempt("a", answered(401, "authentication_error"))
    assert refused(world.pick()).kind == "outage"

    world.snapshot = snapshot(*accounts("a", credential=sealed[0], weight=7))
    assert refused(world.pick()).kind == "outage"  # another change does not help it
    world.snapshot = snapshot(*accounts("a", credential=sealed[1]))
    assert picked(world.pick()) == "a"


def test_a_late_401_of_the_old_credential_does_not_hurt_the_new_one() -> None:
    world = world_of(*accounts("a", credential=Credential(sealed="rlsec1old")))
    lease = world.pool.begin("a", MODEL, NOW)
    world.snapshot = snapshot(*accounts("a", credential=Credential(sealed="rlsec1new")))
    world.pick()
    assert (
        world.pool.observe(lease, world.judge(answered(401, "authentication_error")), headers(), NOW, world.rng) is None
    )
    world.pool.end(lease, NOW)

    assert picked(world.pick()) == "a"
    assert world.pool.in_flight("a") == 0


def test_a_tested_account_serves_again_at_once() -> None:
    world = world_of(*accounts("a"))
    world.attempt("a", answered(401, "authentication_error"))
    assert world.pool.resting("a", NOW) is not None
    world.pool.restore("a", NOW)

    assert world.pool.resting("a", NOW) is None
    assert picked(world.pick()) == "a"


def test_a_failing_account_is_benched_by_its_breaker_and_tried_by_one_call_at_a_time_later() -> None:
    world = world_of(*accounts("bad", priority=1), *accounts("good", priority=2))
    for _ in range(5):
        world.attempt("bad", answered(500))
    assert set(tally(world, 20)) == {"good"}

    world.now += 13
    lease = world.pool.begin(picked(world.pick()), MODEL, world.now)
    assert lease.account == "bad"
    assert set(tally(world, 20)) == {"good"}  # the probe is out
    world.pool.observe(lease, world.judge(GOOD), headers(), world.now, world.rng)
    assert picked(world.pick()) == "bad"
    world.pool.end(lease, world.now)


def test_the_last_account_is_never_benched_by_a_breaker() -> None:
    world = world_of(*accounts("a", "b"))
    world.attempt("b", answered(401, "authentication_error"))
    for _ in range(50):
        assert picked(world.pick()) == "a"
        world.attempt("a", answered(500))
        world.now += 0.1
    assert world.pick() == Picked("a", "last resort")
    world.attempt("a", GOOD)
    assert world.pick() == Picked("a", "balanced")  # the guess was wrong, and is forgotten


def test_a_refused_connection_is_the_origins_fault_and_accounts_elsewhere_are_preferred() -> None:
    world = world_of(*accounts("a", "b"), *accounts("c", base_url=Url("https://other.example"), priority=99))
    for _ in range(5):
        world.attempt("a", unreachable("connect"))

    assert set(tally(world, 30)) == {"c"}  # b has the same way as a
    world.attempt("c", answered(401, "authentication_error"))
    assert set(tally(world, 60)) == {"a", "b"}


def test_one_overloaded_account_does_not_bench_its_origin_while_others_are_served() -> None:
    world = world_of(*accounts("a", "b"))
    for _ in range(60):
        done = world.deliver(lambda account: answered(529) if account == "a" else GOOD)
        assert done.served_by == "b"
    assert set(tally(world, 30)) == {"b"}


def test_any_answer_shows_that_the_origin_is_there() -> None:
    world = world_of(*accounts("a"), *accounts("b"))
    for _ in range(4):
        world.attempt("a", unreachable("connect"))
    world.attempt("b", answered(401, "authentication_error"))
    world.attempt("a", unreachable("connect"))

    assert world.pick() == Picked("a", "balanced")


def test_as_a_last_resort_those_go_first_whose_own_gate_is_open() -> None:
    world = world_of(*accounts("sick", "well"))
    for _ in range(5):
        world.attempt("sick", answered(500))
    for _ in range(5):
        world.attempt("well", unreachable("connect"))

    assert {world.pick() for _ in range(40)} == {Picked("well", "last resort")}
    assert picked(world.pick(excluded={"well"})) == "sick"


def test_a_success_from_before_the_second_rest_does_not_end_it() -> None:
    world = world_of(*accounts("a"))
    world.attempt("a", answered(429, retry_after="10"))
    world.now += 13
    world.attempt("a", GOOD)
    slow, limited = (world.pool.begin(picked(world.pick()), MODEL, world.now) for _ in range(2))
    assert isinstance(world.pick(), Unavailable)  # two may be on trial by now, and are
    world.pool.observe(limited, world.judge(answered(429, retry_after="60")), headers(), world.now, world.rng)
    world.pool.observe(slow, world.judge(GOOD), headers(), world.now, world.rng)

    world.now += 59
    assert isinstance(world.pick(), Unavailable)


@pytest.mark.parametrize("first", ["observe", "end"])
def test_a_trial_is_over_once_whichever_way_it_ends(first: str) -> None:
    world = world_of(*accounts("a"))
    world.attempt("a", answered(429, retry_after="10"))
    world.now += 13
    for _ in range(3):
        lease = world.pool.begin(picked(world.pick()), MODEL, world.now)
        if first == "observe":  # an attempt that blames nobody: the gate learns nothing
            world.pool.observe(lease, Retry(scope="none", kind="outage", reason="stale"), None, world.now, world.rng)
        world.pool.end(lease, world.now)
    world.pool.begin(picked(world.pick()), MODEL, world.now)

    assert isinstance(world.pick(), Unavailable)


@pytest.mark.parametrize("strategy", ["balanced", "priority", "round-robin"])
def test_ten_accounts_limited_at_once_recover_without_a_stampede(strategy: Any) -> None:
    names = "abcdefghij"
    world = world_of(*accounts(*names), routing=Routing(strategy=strategy))
    for name in names:
        world.attempt(name, answered(429, retry_after="30"))
    waiting, running, probes = 500, [], collections.Counter[str]()
    ends = {name: world.pool._states[name].whole.gate.until for name in names}
    assert len({round(end, 3) for end in ends.values()}) == 10  # they do not come back at one instant
    served: dict[str, float] = {}
    while waiting or running:
        world.now = round(world.now + 0.1, 3)
        for done, lease in [entry for entry in running if entry[0] <= world.now]:
            running.remove((done, lease))
            world.pool.observe(lease, world.judge(GOOD), headers(), world.now, world.rng)
            world.pool.end(lease, world.now)
            served.setdefault(lease.account, world.now)
        while waiting and isinstance(found := world.pick(), Picked):
            assert world.now >= ends[found.account]
            if world.now < ends[found.account] + 2:
                probes[found.account] += 1
            running.append((world.now + 2.0, world.pool.begin(found.account, MODEL, world.now)))
            waiting -= 1
        assert world.now < NOW + 120, "stuck"

    assert set(probes.values()) == {1}
    assert world.now < NOW + 36 + 15


# --- headroom


def windows(left: float, resets: float, window: str = "5h") -> Answered:
    said = {f"{window}_utilization": str(1 - left), f"{window}_reset": str(NOW + resets)}
    values = {f"anthropic_ratelimit_unified_{name}": value for name, value in said.items()}
    return Answered(status=200, headers=headers(**values), first_event="message_start")


def test_an_account_is_left_alone_before_its_window_is_spent() -> None:
    world = world_of(*accounts("a", "b"), routing=Routing(reserve=0.1))
    world.attempt("a", windows(0.11, 600))
    assert "a" in tally(world, 60)
    world.now += 1  # headers of good answers are read a few times a second
    world.attempt("a", windows(0.10, 600))
    assert set(tally(world, 30)) == {"b"}
    world.now += 601
    assert "a" in tally(world, 60)


def test_the_reserve_of_a_new_config_counts_at_once() -> None:
    world = world_of(*accounts("a"), routing=Routing(reserve=0.02))
    world.attempt("a", windows(0.3, 600))
    assert picked(world.pick()) == "a"

    world.snapshot = snapshot(*accounts("a"), routing=Routing(reserve=0.5))
    found = refused(world.pick())
    assert (found.kind, found.until) == ("rate", NOW + 600)


def test_the_window_that_resets_soonest_is_drained_first() -> None:
    world = world_of(*accounts("soon", "late"))
    world.attempt("soon", windows(0.5, 900))
    world.attempt("late", windows(0.5, 4 * 3600))

    assert tally(world, 1000)["soon"] > 940


def test_a_spent_model_window_holds_that_model_only() -> None:
    world = world_of(*accounts("a"))
    said = {
        "anthropic_ratelimit_requests_limit": "50",
        "anthropic_ratelimit_requests_remaining": "0",
        "anthropic_ratelimit_requests_reset": str(NOW + 20),
    }
    world.attempt("a", Answered(status=200, headers=headers(**said)))

    assert refused(world.pick()).until == NOW + 20
    assert picked(world.pick(model="claude-haiku-4-5")) == "a"


def test_what_an_answer_says_of_its_model_is_heard_also_right_after_one_of_another_model() -> None:
    world = world_of(*accounts("a"))
    kinds = ("limit", "50"), ("remaining", "0"), ("reset", str(NOW + 20))
    said = {f"anthropic_ratelimit_requests_{name}": value for name, value in kinds}
    world.attempt("a", Answered(status=200, headers=headers(**{**said, "anthropic_ratelimit_requests_remaining": "9"})))
    world.model = "claude-haiku-4-5"
    world.attempt("a", Answered(status=200, headers=headers(**said)))

    assert refused(world.pick()).until == NOW + 20
    assert picked(world.pick(model=MODEL)) == "a"


# --- distribution. Critical values of chi-square at 0.1 %: 13.8 for 2 degrees of freedom, 148.2 for 99.


def test_idle_accounts_get_their_share_of_the_weights() -> None:
    world = world_of(*accounts("a", weight=1), *accounts("b", weight=3), *accounts("c", weight=6))

    assert chi_square(tally(world, 6000), {"a": 0.1, "b": 0.3, "c": 0.6}) < 13.8


def test_a_hundred_accounts_get_their_share_too() -> None:
    members = [account for n in range(100) for account in accounts(f"a{n}", weight=1 + n % 4)]
    world = world_of(*members)
    shares = {account.id: account.weight / 250 for account in members}

    assert chi_square(tally(world, 20000), shares) < 148.2


@pytest.mark.parametrize("size", [3, 60])
def test_calls_in_flight_spread_by_weight(size: int) -> None:
    members = [account for n in range(size) for account in accounts(f"a{n}", weight=1 + n % 3)]
    world = world_of(*members)
    for _ in range(size * 20):
        world.pool.begin(picked(world.pick()), MODEL, NOW)
    loads = [world.pool.in_flight(account.id) / account.weight for account in members]

    assert max(loads) - min(loads) <= 6
    assert min(loads) >= 6


def test_many_nodes_do_not_herd_on_one_account() -> None:
    members = accounts(*(f"a{n}" for n in range(10)))
    config = snapshot(*members)
    first = collections.Counter(
        picked(World(config, pool=Pool(), rng=random.Random(seed)).pick()) for seed in range(500)
    )

    assert chi_square(first, {account.id: 0.1 for account in members}) < 27.9  # 9 degrees of freedom


def test_round_robin_is_exact_and_smooth() -> None:
    world = world_of(*accounts("a", weight=3), *accounts("b"), routing=Routing(strategy="round-robin"))
    assert len({world.pick() for _ in range(5)}) == 1  # asking is not yet a turn
    order = [served(world) for _ in range(40)]

    assert collections.Counter(order) == {"a": 30, "b": 10}
    assert all("b" in order[at : at + 5] for at in range(35))


def test_one_that_was_away_does_not_catch_up_in_a_burst() -> None:
    world = world_of(*accounts("a", "b"), routing=Routing(strategy="round-robin"))
    for _ in range(100):
        served(world, excluded={"b"})

    assert collections.Counter(served(world) for _ in range(20)) == {"a": 10, "b": 10}


def test_strategy_priority_fills_the_heaviest_first() -> None:
    world = world_of(
        *accounts("light"), *accounts("heavy", weight=5, max_concurrency=3), routing=Routing(strategy="priority")
    )
    order = []
    for _ in range(5):
        order.append(picked(world.pick()))
        world.pool.begin(order[-1], MODEL, NOW)

    assert order == ["heavy"] * 3 + ["light"] * 2


# --- what is told when nobody can


def test_nobody_to_ask_is_told_from_nobody_free() -> None:
    world = world_of(*accounts("a"))

    assert refused(world.pick(groups=("empty",))).kind == "none"
    assert refused(world_of(*accounts("a", models=("x",))).pick()).kind == "none"
    assert refused(world_of(*accounts("a", enabled=False)).pick()).kind == "none"


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (answered(429, retry_after="40"), "rate"),
        (answered(529, retry_after="40"), "overload"),
        (answered(503, retry_after="40"), "outage"),
        (answered(401, "authentication_error"), "outage"),
    ],
)
def test_what_holds_the_accounts_is_told_with_the_soonest_time(outcome: Outcome, kind: str) -> None:
    world = world_of(*accounts("a", "b"))
    world.attempt("a", outcome)
    world.attempt("b", answered(401, "authentication_error"))
    found = refused(world.pick())

    assert found.kind == kind
    assert found.until == min(block.until for block in found.blocks)
    world.now = found.until
    assert isinstance(world.pick(), Picked)  # the time was true


# --- remembering


def test_an_unchanged_account_keeps_its_rest_and_its_calls_over_a_reload() -> None:
    world = world_of(*accounts("a", "b"))
    lease = world.pool.begin("b", MODEL, NOW)
    world.attempt("a", answered(429, retry_after="60"))
    world.snapshot = snapshot(*accounts("a", "b", "c", weight=9))

    assert set(tally(world, 60)) == {"b", "c"}
    assert world.pool.in_flight("b") == 1
    world.snapshot = snapshot(*accounts("c"))
    world.pick()
    world.pool.end(lease, NOW)  # its account is gone from the config; that is no error
    assert world.pool.in_flight("b") == 0


def test_health_survives_a_restart_as_json() -> None:
    before = world_of(*accounts("a", "b"), routing=Routing(reserve=0.2))
    before.attempt("a", answered(429, retry_after="60"))
    before.attempt("b", windows(0.1, 600))
    saved = {name: json.loads(json.dumps(before.pool.snapshot_health(name))) for name in before.pool.take_changed()}
    assert set(saved) == {"a", "b"}
    assert before.pool.take_changed() == set()

    after = world_of(*accounts("a", "b"), routing=Routing(reserve=0.2))
    for name, state in saved.items():
        assert after.pool.load_health(name, state, NOW)
        assert not after.pool.load_health(name, state, NOW)  # a second time nothing is new
    assert refused(after.pick()) == refused(before.pick())


def test_the_later_knowledge_of_two_nodes_stands() -> None:
    here, there = world_of(*accounts("a")), world_of(*accounts("a"))
    here.attempt("a", answered(401, "authentication_error"))
    there.now += 5
    there.attempt("a", answered(429, retry_after="10"))

    assert not there.pool.load_health("a", here.pool.snapshot_health("a"), there.now)
    assert here.pool.load_health("a", there.pool.snapshot_health("a"), there.now)
    assert refused(here.pick()).kind == "rate"
    there.pool.restore("a", there.now + 1)
    assert here.pool.load_health("a", there.pool.snapshot_health("a"), there.now)
    assert picked(here.pick()) == "a"


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
def test_nodes_whose_clocks_differ_share_a_rest_and_its_end(ahead: float) -> None:
    here, there = world_of(*accounts("a")), world_of(*accounts("a"))
    there.now += ahead  # the store's clock is `here`'s
    there.attempt("a", answered(429, retry_after="10"))

    note = there.pool.snapshot_health("a", -ahead)
    assert here.pool.load_health("a", note, here.now)
    assert refused(here.pick()).until == pytest.approx(here.now + 10, abs=2.1)
    assert not there.pool.load_health("a", note, there.now, -ahead)  # its own
    here.now, there.now = here.now + 1, there.now + 1
    here.pool.restore("a", here.now)
    assert there.pool.load_health("a", here.pool.snapshot_health("a"), there.now, -ahead)
    assert picked(there.pick()) == "a"


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"v": 2},
        {"v": 1, "identity": "of another credential", "account": {}, "models": {}},
        {"v": 1, "identity": None, "account": {"gate": {"changed": 1e12}, "gauges": [], "seen": 0}, "models": {}},
        {"v": 1, "identity": None, "account": {"gate": {}, "gauges": [["5h"]], "seen": 1e12}, "models": {}},
        {"v": 1, "identity": None, "account": None, "models": []},
        {"v": 1, "identity": None, "account": {"gate": {}, "gauges": [], "seen": "soon"}, "models": {}},
    ],
)
def test_a_state_that_cannot_be_used_is_not_taken(state: dict[str, Any]) -> None:
    world = world_of(*accounts("a"))
    if "identity" in state and state["identity"] is None:
        state = {**state, "identity": world.pool.snapshot_health("a")["identity"]}

    assert not world.pool.load_health("a", state, NOW)
    assert picked(world.pick()) == "a"


def test_turns_are_reported_once_each_for_alerts() -> None:
    world = world_of(*accounts("a"))
    turns = []

    def attempt(outcome: Outcome) -> None:
        lease = world.pool.begin("a", MODEL, world.now)
        turns.append(observe_alone(world.pool, lease, world.judge(outcome), outcome, world.now, world.rng))
        assert (
            world.pool.observe(lease, world.judge(answered(401, "authentication_error")), None, world.now, world.rng)
            is None
        )
        world.pool.end(lease, world.now)

    for _ in range(6):
        attempt(answered(500))
    world.now += 60
    for _ in range(6):
        attempt(GOOD)
    attempt(answered(401, "authentication_error"))

    assert [turn and turn.what for turn in turns] == [
        *([None] * 4 + ["out", None]),
        *([None] * 4 + ["recovered", None]),
        "credential",
    ]


def test_nothing_is_learnt_from_a_lease_that_has_ended() -> None:
    world = world_of(*accounts("a"))
    lease: Lease = world.pool.begin("a", MODEL, NOW)
    world.pool.end(lease, NOW)
    world.pool.observe(lease, world.judge(answered(401, "authentication_error")), None, NOW, world.rng)

    assert picked(world.pick()) == "a"


def test_models_that_clients_make_up_do_not_grow_the_pool_without_bound() -> None:
    world = world_of(*accounts("a"))
    said = headers(
        anthropic_ratelimit_requests_limit="50",
        anthropic_ratelimit_requests_remaining="40",
        anthropic_ratelimit_requests_reset=str(NOW + 20),
    )
    for n in range(2000):
        world.model = f"made-up-{n}"
        world.pick()
        world.attempt("a", Answered(status=200, headers=said))

    assert len(world.pool._states["a"].models) <= 64
    assert len(world.pool._kept) <= 512


# --- clocks

YEARS = 4 * 365 * 86400.0
DAY = 86400.0


RESTING = pytest.mark.parametrize(
    "outcome",
    [answered(429, retry_after="60"), answered(429), answered(401, "authentication_error", "invalid x-api-key")],
)


@RESTING
def test_a_rest_from_a_moment_in_the_future_is_not_taken_over_from_before_a_restart(outcome: Outcome) -> None:
    world = world_of(*accounts("a"))
    world.now = NOW + YEARS
    world.attempt("a", outcome)
    refused(world.pick())
    note = json.loads(json.dumps(world.pool.snapshot_health("a")))

    world = world_of(*accounts("a"), now=NOW + 2)
    assert not world.pool.load_health("a", note, NOW + 2)
    assert served(world) == "a"


@RESTING
@pytest.mark.parametrize("step", [3600.0, DAY, YEARS])
def test_a_rest_lasts_no_longer_for_a_clock_that_is_set_back(outcome: Outcome, step: float) -> None:
    world = world_of(*accounts("a"))
    world.attempt("a", outcome)
    left = refused(world.pick()).until - world.now

    world.now += 2.0 - step
    world.pool.review(world.now)
    assert left - 2.0 <= refused(world.pick()).until - world.now <= left
    world.now += left
    assert served(world) == "a"


def test_who_looks_by_the_time_of_a_while_ago_shortens_no_rest() -> None:
    """A page that has waited for an upstream or the books is of the moment when it was asked for."""
    world = world_of(*accounts("a"))
    world.attempt("a", answered(429, retry_after="60"))
    until = refused(world.pick()).until

    assert set(world.pool.rests(world.snapshot, world.now - 30.0)) == {"a"}
    world.pool.explain(world.snapshot, ("default",), "", now=world.now - 30.0)
    assert refused(world.pick()).until == until


def test_a_rest_that_others_hear_of_after_the_clock_was_set_back_lasts_no_longer_either() -> None:
    """A process that starts then knows it from the state store alone, where it was dated before."""
    world = world_of(*accounts("a"))
    world.attempt("a", answered(429, retry_after="18000"))
    left = refused(world.pick()).until - world.now
    published = {name: world.pool.snapshot_health(name) for name in world.pool.take_changed()}

    world.now -= 3600.0
    world.pool.review(world.now)
    published |= {name: world.pool.snapshot_health(name) for name in world.pool.take_changed()}
    heir = world_of(*accounts("a"), now=world.now)
    assert heir.pool.load_health("a", published["a"], heir.now)
    assert refused(heir.pick()).until - heir.now <= left


def test_a_rest_of_hours_is_over_when_it_would_have_been_though_nobody_called_meanwhile() -> None:
    world = world_of(*accounts("a"))
    world.attempt("a", answered(429, retry_after="18000"))
    until = refused(world.pick()).until - NOW
    for _ in range(3):
        world.now -= 3600.0
        world.pool.review(world.now)

    assert until - 0.1 <= refused(world.pick()).until - world.now <= until + 15.0


def test_what_a_wrong_clock_learnt_does_not_stand_against_what_a_right_one_learns() -> None:
    world, other = world_of(*accounts("a")), world_of(*accounts("a"))
    spent = {"anthropic_ratelimit_unified_7d_utilization": "1.0"}
    world.now = NOW + YEARS
    world.attempt("a", answered(200, anthropic_ratelimit_unified_7d_reset=str(world.now + 5 * DAY), **spent))
    refused(world.pick())
    world.now = other.now = NOW + 60
    assert served(world) == "a"

    other.attempt("a", answered(429, retry_after="300"))
    assert world.pool.load_health("a", other.pool.snapshot_health("a"), world.now)
    refused(world.pick())


def test_a_pace_used_up_in_the_future_is_free_a_minute_after_the_clock_is_right() -> None:
    world = world_of(*accounts("a", pace=Pace(requests_per_minute=1)))
    world.now = NOW + YEARS
    assert served(world) == "a"
    refused(world.pick())

    world.now = NOW
    refused(world.pick())
    world.now = NOW + 60.0
    assert served(world) == "a"
    refused(world.pick())


def test_a_rest_of_years_is_one_of_days_and_questioned_daily_by_one_call() -> None:
    world = world_of(*accounts("a"))
    world.attempt("a", answered(429, retry_after="118756561"))
    assert NOW < refused(world.pick()).until <= NOW + 7 * DAY + 31

    world.now = NOW + DAY - 1
    refused(world.pick())
    world.now = NOW + DAY + 1
    first = world.pool.begin(picked(world.pick()), MODEL, world.now)
    refused(world.pick())
    world.pool.end(first, world.now)
    world.attempt(picked(world.pick()), answered(429, retry_after="600"))
    refused(world.pick())
    world.now += DAY + 1
    assert served(world) == "a"
    assert served(world) == "a"


def test_a_window_that_is_spent_for_a_week_is_asked_about_daily() -> None:
    world = world_of(*accounts("a"))
    spent = {"anthropic_ratelimit_unified_7d_utilization": "1.0"}
    said = answered(200, anthropic_ratelimit_unified_7d_reset=str(NOW + 6 * DAY), **spent)
    world.attempt("a", said)
    refused(world.pick())

    world.now = NOW + DAY + 1
    lease = world.pool.begin(picked(world.pick()), MODEL, world.now)
    refused(world.pick())
    world.pool.end(lease, world.now)
    world.attempt(picked(world.pick()), said)
    refused(world.pick())
