"""The failover table: each outcome, plain and streamed, with one, two and five accounts."""

from __future__ import annotations

import attrs
import pytest
from builders import headers
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_world import GOOD, MODEL, NOW, World, accounts, answered, first_error, snapshot, unreachable

from relayd.config.snapshot import Cooldown
from relayd.core.balancing.account_failures import ACCOUNT_FAILURES, regained_at
from relayd.core.balancing.blame import TABLE
from relayd.core.balancing.explain import refusal_of
from relayd.core.balancing.failover import Deliver, Retry, judge, last_word, may_retry, thinking_is_stale
from relayd.core.balancing.outcomes import Answered, NodeDefect, Outcome, Unreachable
from relayd.core.balancing.pool import Picked, Unavailable
from relayd.core.balancing.retry_budget import RetryBudget

COOLDOWN = Cooldown()
REVOKED = "OAuth token has been revoked. Please obtain a new token."
LONG = "Extra usage is required for long context requests."


def verdict_of(outcome: Outcome, **fields: object) -> Deliver | Retry:
    return judge(outcome, **{"cooldown": COOLDOWN, "now": NOW, "model": "m", **fields})  # type: ignore[arg-type]


def retry_of(outcome: Outcome, **fields: object) -> Retry:
    verdict = verdict_of(outcome, **fields)
    assert isinstance(verdict, Retry)
    return verdict


# What another account may not have: (name, outcome, scope, kind, strike).
FAILURES = [
    ("401", answered(401, "authentication_error"), "account", "auth", False),
    ("401 without a body", answered(401), "account", "outage", True),
    ("402", answered(402, "billing_error"), "account", "auth", False),
    ("402 with a page", answered(402), "account", "outage", True),
    ("403 of the credential", answered(403, "permission_error", REVOKED), "account", "auth", False),
    ("403 of who knows what", answered(403, "permission_error"), "account", "outage", True),
    ("403 with a page", answered(403), "account", "outage", True),
    ("403 forbidden", answered(403, "forbidden", "Request not allowed"), "account", "outage", True),
    ("429 bare", answered(429, "rate_limit_error"), "model", "rate", False),
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
    ("stream: rate_limit_error", first_error("rate_limit_error"), "model", "rate", False),
    ("stream: rate_limit_error, timed", first_error("rate_limit_error", retry_after="9"), "account", "rate", False),
    ("stream: authentication_error", first_error("authentication_error"), "account", "auth", False),
    ("stream: unknown type", first_error("brand_new_error"), "account", "outage", True),
    ("stream: no event", Answered(status=200, first_event=""), "account", "outage", True),
    ("200: overloaded", Answered(status=200, error_type="overloaded_error"), "upstream", "overload", True),
    ("200: api_error", Answered(status=200, error_type="api_error"), "account", "outage", True),
    ("200: authentication_error", Answered(status=200, error_type="authentication_error"), "account", "auth", False),
    ("200: a page", Answered(status=200, unfit="an HTML page"), "account", "outage", True),
    ("200: nothing", Answered(status=200, unfit="an empty body"), "account", "outage", True),
]
# What is the client's, or a success.
DELIVERED = [
    ("200", Answered(status=200)),
    ("200 stream", GOOD),
    ("200 stream of something new", Answered(status=200, first_event="brand_new_event")),
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
def test_a_failure_everywhere_is_tried_on_two_accounts_or_three_and_passed_on(
    outcome: Outcome, scope: str, kind: str, strike: bool, size: int
) -> None:
    world = World(snapshot(*accounts(*names[:size])))

    done = world.deliver(lambda account: outcome)

    # What the call itself may have caused is believed to be so once a second account says it.
    verdict = retry_of(outcome)
    doubted = verdict.doubt and kind != "overload" and verdict.status < 500
    assert len(done.attempts) == min(size, 2 if doubted else 3)
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
    denied = answered(401, "authentication_error", "invalid x-api-key")

    assert retry_of(denied, session_key=True).reason == "Invalid session key or expired (401)"
    assert retry_of(denied).reason == "invalid x-api-key (401)"


def test_an_oauth_401_asks_for_one_refresh_on_the_same_account() -> None:
    denied = answered(401, "authentication_error")
    first = retry_of(denied, renewable=True)
    second = retry_of(denied, renewable=False)

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
        (Answered(status=200, unfit="an HTML page"), 502),
        (unreachable("timeout"), 504),
        (Unreachable(kind="timeout", bytes_sent=False), 504),
    ],
)
def test_what_cannot_be_relayed_becomes_our_refusal(outcome: Outcome, status: int) -> None:
    refusal = last_word(retry_of(outcome), "a")

    assert refusal.status == status
    assert refusal.message.startswith("account a: ")


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
def test_rows_that_rest_at_once_are_free(name: str) -> None:
    assert TABLE[name].free or TABLE[name].strike


# What is about the account although it looks like the client's.

KNOWN = [
    (400, "invalid_request_error", "This organization has been disabled.", "account", COOLDOWN.auth),
    (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Claude API.",
        "account",
        COOLDOWN.auth,
    ),
    (400, "invalid_request_error", "The long context beta is not yet available for this subscription.", "none", None),
    (429, "rate_limit_error", LONG, "none", None),
    (403, "permission_error", REVOKED, "account", COOLDOWN.auth),
    (403, "permission_error", "OAuth authentication is currently not allowed for this organization.", "account", 1800),
    (
        403,
        "permission_error",
        "Account is no longer a member of the organization associated with this token.",
        *("account", 1800),
    ),
    (404, "not_found_error", "model: claude-opus-9", "model", COOLDOWN.auth),
]


@pytest.mark.parametrize(("status", "kind", "message", "scope", "cooldown"), KNOWN)
def test_another_account_is_asked_where_the_text_is_about_this_one(
    status: int, kind: str, message: str, scope: str, cooldown: float | None
) -> None:
    outcome = answered(status, kind, message)
    verdict = retry_of(outcome)
    world = World(snapshot(*accounts("a", "b")))
    done = world.deliver(lambda account: outcome if account == "a" else GOOD, affinity="a")

    assert verdict.scope == scope
    assert cooldown is None or verdict.cooldown == cooldown
    assert done.served_by == "b"


def test_every_known_text_stands_at_the_beginning_and_quoting_one_rests_nobody() -> None:
    for status, kind, message, _, _ in KNOWN:
        quoting = answered(status, kind, f"Unexpected value(s) `{message}` for the `anthropic-beta` header")
        found = verdict_of(quoting)
        assert isinstance(found, Deliver) or found.doubt or status in (401, 403)
    assert all(one.pattern.match(f" {one.pattern.pattern}") is None for one in ACCOUNT_FAILURES)


def test_a_spend_limit_rests_until_the_date_in_its_text() -> None:
    text = "You have reached your specified API usage limits. You will regain access on 2026-10-01 at 00:00 UTC."
    verdict = retry_of(answered(400, "invalid_request_error", text))

    assert (verdict.scope, verdict.kind) == ("account", "rate")
    assert NOW + verdict.cooldown == regained_at(text) == 1_790_812_800
    assert retry_of(answered(400, "invalid_request_error", text[:50])).cooldown == COOLDOWN.auth
    assert retry_of(answered(400, "invalid_request_error", text.replace("2026", "2036"))).cooldown == 32 * 86400
    assert retry_of(answered(400, "invalid_request_error", text.replace("2026", "2016"))).cooldown == 0
    assert regained_at("2026-13-45") is None


def test_a_model_that_no_account_has_is_the_clients_mistake_and_one_that_another_has_is_not() -> None:
    missing = answered(404, "not_found_error", "model: claude-opus-9")
    nowhere, elsewhere, alone = (World(snapshot(*accounts(*names))) for names in ("abc", "abc", "a"))

    assert nowhere.deliver(lambda account: missing).outcome is missing
    assert elsewhere.deliver(lambda account: missing if account == "a" else GOOD, affinity="a").served_by != "a"
    assert alone.deliver(lambda account: missing).outcome is missing

    assert unwell(nowhere) == unwell(alone) == []
    assert unwell(elsewhere) == ["a"]
    assert unwell(elsewhere, "claude-haiku-4-5") == []


# Blame, where it is in doubt.


def unwell(world: World, model: str = MODEL) -> list[str]:
    """The accounts that would not serve now."""
    return [one.account for one in world.pool.explain(world.snapshot, ("default",), model, now=world.now) if not one.ok]


def health(world: World) -> list[object]:
    return [world.pool.snapshot_health(account.id) for account in world.snapshot.accounts.values()]


STATUSES = st.sampled_from([200, 301, 400, 401, 402, 403, 404, 407, 408, 409, 413, 418, 422, 429, 451])
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)
ANSWERS = st.builds(
    Answered,
    status=STATUSES,
    error_type=st.sampled_from(
        ["", "forbidden", "permission_error", "invalid_request_error", "rate_limit_error", "new"]
    ),
    message=WORDS | st.sampled_from(["Request not allowed", LONG, "model: x", "no access to this model", "a page"]),
    unfit=st.sampled_from(["", "an HTML page", "an empty body"]),
    first_event=st.sampled_from([None, None, "", "error", "message_start"]),
)


@given(outcome=ANSWERS, size=st.integers(2, 5), calls=st.integers(1, 12))
@settings(deadline=None, max_examples=300)
def test_an_answer_that_is_the_same_for_every_account_changes_no_accounts_health(
    outcome: Answered, size: int, calls: int
) -> None:
    world = World(snapshot(*accounts(*names[:size])), budget=RetryBudget(1e9))
    before = health(world)

    for _ in range(calls):
        done = world.deliver(lambda account: outcome)
        assert done.outcome is outcome
        assert len(done.attempts) <= 3

    assert health(world) == before
    assert unwell(world) == []


@pytest.mark.parametrize("outcome", [answered(500, "api_error"), answered(503), answered(529), unreachable("timeout")])
def test_one_call_that_fails_alike_everywhere_strikes_no_account(outcome: Outcome) -> None:
    world = World(snapshot(*accounts(*names)))
    for _ in range(9):
        world.deliver(lambda account: outcome)

    assert all(not state.whole.gate.strikes and state.whole.gate.open for state in world.pool._states.values())


def test_ids_numbers_and_dates_do_not_make_two_answers_different() -> None:
    one = retry_of(answered(500, "api_error", "Internal server error (req_011CXF1SZ3S3oXChsdxhoUwV), 17 s"))
    other = retry_of(answered(500, "api_error", "internal server error (req_011CXqcQZGUZMEZKxosRVajr), 4 s"))
    third = retry_of(answered(500, "api_error", "out of disk"))

    assert one.signature == other.signature != third.signature


def test_an_account_is_struck_once_another_one_serves_the_same_call() -> None:
    world = World(snapshot(*accounts("a", "b")))
    page = answered(403)
    for _ in range(5):
        assert world.deliver(lambda account: page if account == "a" else GOOD, affinity="a").served_by == "b"

    assert unwell(world) == ["a"]
    assert world.pool._states["a"].whole.gate.until <= NOW + 12  # a short rest, and a soft one
    assert world.pool._states["a"].whole.gate.soft


def test_an_account_that_stands_alone_is_struck_and_still_asked() -> None:
    world = World(snapshot(*accounts("a")))
    for _ in range(9):
        assert world.deliver(lambda account: answered(403)).tried == ["a"]


def test_a_bare_429_rests_the_model_on_that_account_and_nothing_else() -> None:
    world = World(snapshot(*accounts("a", "b")))
    world.deliver(lambda account: answered(429, "rate_limit_error") if account == "a" else GOOD, affinity="a")

    assert unwell(world) == ["a"]
    assert unwell(world, "claude-haiku-4-5") == []


def test_what_this_node_lacks_is_told_to_nobody_else_and_to_no_client() -> None:
    world = World(snapshot(*accounts("a")))
    before = health(world)
    why = "sealed for recipient k2, but only k1 is loaded (see RELAYD_IDENTITY)"
    world.attempt("a", NodeDefect(reason=why))
    found = world.pick()
    assert isinstance(found, Unavailable)
    refusal = refusal_of(found, now=NOW)

    assert (refusal.status, refusal.kind) == (529, "overloaded_error")
    assert refusal.message == "Overloaded: no account can serve now (a: cannot be used on this node)"
    assert world.pool.explain(world.snapshot, ("default",), MODEL, now=NOW)[0].text.endswith(why)
    assert health(world) == before
    assert "a" not in world.pool.take_changed()
    assert "recipient" not in last_word(retry_of(NodeDefect(reason=why)), "a").message

    world.pool.set_defects({}, NOW)
    assert world.pick() == Picked("a", "balanced")


def test_an_unreachable_upstream_names_its_cause_and_no_place() -> None:
    outcome = unreachable("connect", reason="https://10.0.0.5:8443: proxy http://p.internal:3128: connection refused")

    assert retry_of(outcome).reason == "upstream unreachable: connection refused"
    assert last_word(retry_of(outcome), "main").message == "account main: upstream unreachable: connection refused"


def test_an_account_that_is_woken_serves_at_once_and_on_every_node() -> None:
    world, other = (World(snapshot(*accounts("a"))) for _ in range(2))
    spent = headers(
        anthropic_ratelimit_unified_5h_utilization="1.0", anthropic_ratelimit_unified_5h_reset=str(NOW + 99)
    )
    world.attempt("a", Answered(status=200, headers=spent))
    world.attempt("a", answered(401, "authentication_error"))
    other.pool.load_health("a", world.pool.snapshot_health("a"), NOW)
    assert unwell(world) == unwell(other) == ["a"]

    world.pool.wake("a", NOW + 1)

    assert "a" in world.pool.take_changed()
    assert other.pool.load_health("a", world.pool.snapshot_health("a"), NOW + 1)
    assert unwell(world) == unwell(other) == []


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
