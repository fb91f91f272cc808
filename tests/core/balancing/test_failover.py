"""The failover table: each outcome, plain and streamed, with one, two and five accounts."""

from __future__ import annotations

import attrs
import pytest
from builders import headers
from pool_world import GOOD, NOW, World, accounts, answered, first_error, snapshot, unreachable

from relayd.config.snapshot import Cooldown
from relayd.core.balancing.failover import (
    TABLE,
    Answered,
    Deliver,
    FirstEvent,
    Outcome,
    Retry,
    Unreachable,
    judge,
    last_word,
    may_retry,
    thinking_is_stale,
)
from relayd.core.balancing.retry_budget import RetryBudget

COOLDOWN = Cooldown()


def verdict_of(outcome: Outcome, **fields: object) -> Deliver | Retry:
    return judge(outcome, **{"cooldown": COOLDOWN, "now": NOW, "model": "m", **fields})  # type: ignore[arg-type]


def retry_of(outcome: Outcome, **fields: object) -> Retry:
    verdict = verdict_of(outcome, **fields)
    assert isinstance(verdict, Retry)
    return verdict


# What another account may not have: (name, outcome, scope, kind, strike).
FAILURES = [
    ("401", answered(401, "authentication_error"), "account", "auth", False),
    ("401 without a body", answered(401), "account", "auth", False),
    ("402", answered(402, "billing_error"), "account", "auth", False),
    ("403 of the credential", answered(403, "permission_error"), "account", "auth", False),
    ("403 with a page", answered(403), "account", "auth", False),
    ("403 forbidden", answered(403, "forbidden"), "account", "auth", False),
    ("429 bare", answered(429, "rate_limit_error"), "account", "rate", False),
    ("429 retry-after", answered(429, "rate_limit_error", retry_after="30"), "account", "rate", False),
    ("429 overloaded", answered(429, "overloaded_error"), "upstream", "overload", True),
    ("500", answered(500, "api_error"), "account", "outage", True),
    ("500 overloaded", answered(500, "overloaded_error"), "upstream", "overload", True),
    ("502 with a page", answered(502), "account", "outage", True),
    ("503", answered(503), "account", "outage", True),
    ("503 retry-after", answered(503, retry_after="20"), "account", "outage", False),
    ("504", answered(504, "timeout_error"), "account", "outage", True),
    ("520", answered(520), "account", "outage", True),
    ("529", answered(529, "overloaded_error"), "upstream", "overload", True),
    ("529 retry-after", answered(529, "overloaded_error", retry_after="5"), "account", "overload", False),
    ("301", answered(301, location="https://elsewhere.example/"), "account", "outage", True),
    ("307", answered(307, location="https://elsewhere.example/"), "account", "outage", True),
    ("connect", unreachable("connect"), "upstream", "outage", True),
    ("proxy", unreachable("proxy"), "account", "outage", True),
    ("timeout", unreachable("timeout"), "account", "outage", True),
    ("reset", unreachable("reset"), "account", "outage", True),
    ("protocol", unreachable("protocol"), "account", "outage", True),
    ("stream: overloaded", first_error("overloaded_error"), "upstream", "overload", True),
    ("stream: api_error", first_error("api_error"), "account", "outage", True),
    ("stream: timeout_error", first_error("timeout_error"), "account", "outage", True),
    ("stream: rate_limit_error", first_error("rate_limit_error"), "account", "rate", False),
    ("stream: authentication_error", first_error("authentication_error"), "account", "auth", False),
    ("stream: unknown type", first_error("brand_new_error"), "account", "outage", True),
    ("stream: no event", Answered(status=200, first_event=FirstEvent(name="")), "account", "outage", True),
]
# What is the client's, or a success.
DELIVERED = [
    ("200", Answered(status=200)),
    ("200 stream", GOOD),
    ("200 stream of something new", Answered(status=200, first_event=FirstEvent(name="brand_new_event"))),
    ("304", Answered(status=304)),
    ("400", answered(400, "invalid_request_error")),
    ("404", answered(404, "not_found_error")),
    ("405", answered(405)),
    ("408", answered(408)),
    ("409", answered(409, "conflict_error")),
    ("413", answered(413, "request_too_large")),
    ("413 from the edge", answered(413)),
    ("422", answered(422)),
    ("403 about the request", answered(403, "invalid_request_error")),
    ("500 of this request", answered(500, "api_error", x_should_retry="false")),
    ("stream: invalid_request_error", first_error("invalid_request_error")),
    ("stream: request_too_large", first_error("request_too_large")),
]
names = "abcde"


def cases(rows: list) -> list:  # type: ignore[type-arg]
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


@pytest.mark.parametrize(("outcome", "scope", "kind", "strike"), cases(FAILURES))
def test_each_failure_blames_who_is_to_blame(outcome: Outcome, scope: str, kind: str, strike: bool) -> None:
    verdict = retry_of(outcome)

    assert (verdict.scope, verdict.kind, verdict.strike) == (scope, kind, strike)
    assert verdict.cooldown > 0
    assert verdict.reason


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("outcome", "scope", "kind", "strike"), cases(FAILURES))
def test_a_failure_on_one_account_is_made_good_by_another(
    outcome: Outcome, scope: str, kind: str, strike: bool, size: int
) -> None:
    world = World(snapshot(*accounts(*names[:size])))

    done = world.deliver(lambda account: outcome if account == "a" else GOOD, affinity="a")

    assert done.tried[0] == "a"
    assert len(done.attempts) == min(size, 2)
    assert done.outcome is (outcome if size == 1 else GOOD)  # with nobody left the last answer passes on as it was
    assert world.pool.in_flight("a") == 0


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("outcome", "scope", "kind", "strike"), cases(FAILURES))
def test_a_failure_everywhere_is_tried_on_three_accounts_and_passed_on(
    outcome: Outcome, scope: str, kind: str, strike: bool, size: int
) -> None:
    world = World(snapshot(*accounts(*names[:size])))

    done = world.deliver(lambda account: outcome)

    assert len(done.attempts) == min(size, 3)
    assert len(set(done.tried)) == len(done.tried)
    assert done.outcome is outcome


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("outcome", cases(DELIVERED))
def test_what_is_the_clients_passes_through_at_once_and_blames_nobody(outcome: Outcome, size: int) -> None:
    world = World(snapshot(*accounts(*names[:size])))

    done = world.deliver(lambda account: outcome)

    assert len(done.attempts) == 1
    assert done.outcome is outcome
    assert all(reason.ok for reason in world.pool.explain(world.snapshot, ("default",), "m", now=NOW))


def test_attempts_are_bounded_by_the_config_also_when_more_accounts_are_there() -> None:
    world = World(snapshot(*accounts(*names)))

    assert len(world.deliver(lambda account: answered(500), attempts=2).attempts) == 2
    assert len(world.deliver(lambda account: answered(500), attempts=1).attempts) == 1


def test_an_overload_backs_off_longer_before_the_second_retry_and_other_faults_do_not() -> None:
    assert [retry_of(answered(529), attempt=attempt).backoff for attempt in range(4)] == [0.2, 0.4, 0.4, 0.4]
    assert retry_of(answered(500), attempt=1).backoff == 0.0
    assert retry_of(answered(429), attempt=1).backoff == 0.0


def test_a_429_rests_for_what_its_headers_say() -> None:
    assert retry_of(answered(429)).cooldown == COOLDOWN.rate_limited
    assert retry_of(answered(429, retry_after="7")).cooldown == 7.0
    five_hours = answered(
        429,
        anthropic_ratelimit_unified_status="rejected",
        anthropic_ratelimit_unified_reset=str(int(NOW) + 9000),
        anthropic_ratelimit_unified_representative_claim="five_hour",
    )
    assert (retry_of(five_hours).scope, retry_of(five_hours).cooldown) == ("account", 9000.0)


def test_a_429_about_one_family_of_models_rests_only_the_model() -> None:
    verdict = retry_of(
        answered(
            429,
            retry_after="600",
            anthropic_ratelimit_unified_status="rejected",
            anthropic_ratelimit_unified_representative_claim="seven_day_opus",
        )
    )

    assert (verdict.scope, verdict.cooldown) == ("model", 600.0)


def test_a_429_of_token_counting_rests_nobody() -> None:
    verdict = retry_of(answered(429, retry_after="30", anthropic_ratelimit_requests_limit="10"), model="")

    assert verdict.scope == "none"


def test_a_spend_limit_takes_the_account_out_as_a_credential_does() -> None:
    for answer in (
        Answered(status=429, error_type="rate_limit_error", error_code="enforced_spend_limit_reached"),
        Answered(status=400, error_type="invalid_request_error", message="Your credit balance is too low to ..."),
    ):
        assert retry_of(answer).cooldown == COOLDOWN.auth


def test_a_403_about_the_model_takes_out_the_model_only() -> None:
    answer = Answered(status=403, error_type="permission_error", message="no access to model claude-x")

    assert retry_of(answer).scope == "model"


def test_a_refused_credential_says_so_in_words_that_operators_look_for() -> None:
    assert retry_of(answered(401)).reason == "Invalid session key or expired (401)"


def test_an_oauth_401_asks_for_one_refresh_on_the_same_account() -> None:
    first = retry_of(answered(401), renewable=True)
    second = retry_of(answered(401), renewable=False)

    assert (first.renew, first.scope) == (True, "none")
    assert (second.renew, second.scope, second.cooldown) == (False, "account", COOLDOWN.auth)


def test_a_long_retry_after_of_a_5xx_is_not_believed_beyond_five_minutes() -> None:
    assert retry_of(answered(503, retry_after="86400")).cooldown == 300.0


def test_what_makes_an_object_is_not_made_twice() -> None:
    asked = retry_of(unreachable("timeout"), repeatable=False)
    never_sent = retry_of(unreachable("connect"), repeatable=False)

    assert asked.final
    assert not never_sent.final


def test_a_redirect_and_silence_are_never_relayed_but_errors_are() -> None:
    assert not retry_of(answered(302, location="https://x.example")).relayable
    assert not retry_of(unreachable("connect")).relayable
    assert retry_of(answered(529)).relayable


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (answered(302), 502),
        (unreachable("connect"), 502),
        (unreachable("reset"), 502),
        (unreachable("timeout"), 504),
        (Unreachable(kind="timeout", bytes_sent=False), 504),
    ],
)
def test_what_cannot_be_relayed_becomes_our_refusal(outcome: Outcome, status: int) -> None:
    assert last_word(retry_of(outcome)).status == status


def test_an_upstreams_odd_error_type_does_not_reach_the_log() -> None:
    assert retry_of(answered(500, "evil\nline")).reason == "500 from upstream"
    assert retry_of(answered(500, "odd_error")).reason == "500 odd_error from upstream"


def test_messages_of_the_upstream_are_not_in_the_repr() -> None:
    assert "secret" not in repr(Answered(status=400, message="secret", headers=headers(x_token="secret")))


def test_nothing_is_retried_after_the_last_attempt_or_the_deadline_or_without_a_token() -> None:
    verdict = retry_of(answered(500))
    rest = {"attempts_left": 2, "budget": RetryBudget(), "deadline": 10.0, "now": 0.0}

    assert may_retry(verdict, **rest)
    assert not may_retry(verdict, **{**rest, "attempts_left": 0})
    assert not may_retry(verdict, **{**rest, "now": 10.0})
    assert not may_retry(attrs.evolve(verdict, backoff=11.0), **rest)
    assert not may_retry(attrs.evolve(verdict, final=True), **rest)
    assert not may_retry(verdict, **{**rest, "budget": RetryBudget(0.9)})
    assert may_retry(retry_of(answered(429)), **{**rest, "budget": RetryBudget(0.0)})


@pytest.mark.parametrize("name", sorted(TABLE))
def test_only_rows_that_rest_at_once_are_free(name: str) -> None:
    assert TABLE[name].free == (not TABLE[name].strike)


@pytest.mark.parametrize(
    ("status", "kind", "message", "stale"),
    [
        (400, "invalid_request_error", "messages.1.content.0: Invalid `signature` in `thinking` block", True),
        (400, "invalid_request_error", "messages.3.content.13: Invalid signature in thinking block", True),
        (
            400,
            "invalid_request_error",
            "messages.5.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be "
            "modified. These blocks must remain as they were in the original response.",
            True,
        ),
        (400, "invalid_request_error", "thinking.budget_tokens: Input should be at least 1024", False),
        (400, "api_error", "Invalid `signature` in `thinking` block", False),
        (500, "invalid_request_error", "Invalid `signature` in `thinking` block", False),
    ],
)
def test_thinking_is_stale_where_the_api_refuses_its_signature(
    status: int, kind: str, message: str, stale: bool
) -> None:
    assert thinking_is_stale(Answered(status=status, error_type=kind, message=message)) is stale
    assert not thinking_is_stale(unreachable("connect"))
