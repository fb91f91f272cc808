"""Failover: what one attempt's outcome means for the call, for the account and for the next attempt.

Rule: decided here once, by one table (`TABLE`), plain answers and streams alike. No clock, no I/O, nothing remembered:
`pool` remembers. A row that names a time is a *rest* and holds from the first time on; a row without one is a *strike*,
and only strikes that pile up (`breaker`) become a rest. So no single 5xx takes an account away from its conversations.

Theory: blame has a scope. A spent window or a dead credential is the account's; some limits are one model's on it; an
overload or a refused connection is the upstream's, whichever account asked.
"""

from __future__ import annotations

import re
from typing import Literal, assert_never

import attrs

from relayd.config.snapshot import Cooldown
from relayd.core.balancing.headroom import limited, retry_after
from relayd.core.balancing.retry_budget import RetryBudget
from relayd.wire.http import Headers
from relayd.wire.refusal import KIND_BY_STATUS, Refusal

Scope = Literal["account", "model", "upstream", "none"]
FailureKind = Literal["rate", "overload", "outage", "auth"]
ConnectionFault = Literal["connect", "timeout", "reset", "protocol", "proxy", "node"]

AUTH_REASON = "Invalid session key or expired"


@attrs.frozen(kw_only=True)
class FirstEvent:
    """The first event of a stream that counts (a ping does not); `name` is "" when the stream ended before one."""

    name: str
    error_type: str = ""


@attrs.frozen(kw_only=True)
class Answered:
    """An answer's head, with as much of its body as was looked at.

    Args:
        first_event: of an event stream; None for a plain answer.
        error_type, error_code, message: of a plain error body; "" where unknown.
    """

    status: int
    headers: Headers = attrs.field(factory=Headers)
    first_event: FirstEvent | None = None
    error_type: str = ""
    error_code: str = ""
    message: str = attrs.field(default="", repr=False)


@attrs.frozen(kw_only=True)
class Unreachable:
    """No answer came.

    Args:
        kind: "connect" name look-up, connect or TLS; "timeout" and "reset" while waiting for the head; "protocol" what
            came is not HTTP; "proxy" the account's proxy refused; "node" this node has no descriptor left.
        reason: the transport's words, for the log.
        bytes_sent: whether the upstream may have read the request, and may therefore be working on it.
    """

    kind: ConnectionFault
    reason: str = ""
    bytes_sent: bool = attrs.field(
        default=attrs.Factory(lambda self: self.kind in ("timeout", "reset", "protocol"), takes_self=True)
    )


@attrs.frozen(kw_only=True)
class NoCredential:
    """Nothing was sent: the account's secret cannot be had here (no identity opens it, its file is missing)."""

    reason: str


Outcome = Answered | Unreachable | NoCredential


@attrs.frozen(kw_only=True)
class Deliver:
    """This answer is the client's: a success, or an error that is the client's own."""

    reason: str = "ok"


@attrs.frozen(kw_only=True)
class Retry:
    """This attempt failed for a reason that another account (or another try) may not have.

    Args:
        scope: who is to blame.
        kind: what it is called when nobody can serve: rate limits are 429, the rest is 529.
        reason: for the receipt, the log and `explain`.
        cooldown: s. The rest itself, or with `strike` the rest once the breaker opens.
        strike: one failure among several that open a breaker, rather than a rest from now on.
        free: the next attempt costs no token of the retry budget: this account rests, so it cannot go on.
        backoff: s to wait before the next attempt, where waiting helps.
        renew: refresh the account's token and ask the same account again. Nobody is blamed; it does not count as an
            attempt.
        final: not to be tried again, though there is blame: it may already have been done.
        relayable: whether the client may see this answer when it is the last. A redirect is not passed on.
        ours: this node itself is what failed: nothing was asked of anybody, and no account would do better.
        status: of the answer; 0 when there was none.
    """

    scope: Scope
    kind: FailureKind
    reason: str
    cooldown: float = 0.0
    strike: bool = False
    free: bool = False
    backoff: float = 0.0
    renew: bool = False
    final: bool = False
    relayable: bool = True
    ours: bool = False
    status: int = 0


Verdict = Deliver | Retry


@attrs.frozen(kw_only=True)
class Rule:
    """One line of the table.

    Args:
        default: the key of `[routing].cooldown` that gives the time where the answer names none.
        named: whether `retry-after` (and the reset headers of a rate limit) count.
        waits: whether the next attempt backs off.
    """

    scope: Scope
    kind: FailureKind
    default: Literal["overloaded", "server_error", "unreachable", "auth", "rate_limited"]
    strike: bool
    free: bool = False
    named: bool = False
    waits: bool = False


# THE TABLE. What falls through it is delivered. Sources: API = the Claude API's documentation, "Errors" and "Rate
# limits"; SDK = what the official SDKs retry (408, 409, 429, >= 500, connection errors, x-should-retry).
TABLE: dict[str, Rule] = {
    # 429: the account's window, or one model's. API: "retry-after" and reset headers say how long. The account rests
    # at once, so that further attempts cannot pile up on it: no token is asked.
    "rate_limit": Rule(scope="account", kind="rate", default="rate_limited", strike=False, free=True, named=True),
    # 429 of a monthly spend limit, 402: it fails until a person acts. API: no retry-after comes with it.
    "billing": Rule(scope="account", kind="auth", default="auth", strike=False, free=True),
    # 401, 403: our credential, not the client's key. RFC 9110 section 15.5.2; API: "authentication_error".
    "credential": Rule(scope="account", kind="auth", default="auth", strike=False, free=True),
    # 403 that speaks of the model: this account may not use it. API: "permission_error".
    "permission": Rule(scope="model", kind="auth", default="auth", strike=False, free=True),
    # 529, and overloaded_error in any status or first event: the API as a whole, though some accounts may still be
    # served (the pool strikes both). API: "Errors", 529. SDK: backs off.
    "overloaded": Rule(scope="upstream", kind="overload", default="overloaded", strike=True, named=True, waits=True),
    # 5xx. API: 500 api_error, 504 timeout_error. It may be one organization's, so the account is blamed. SDK: retried.
    "server_error": Rule(scope="account", kind="outage", default="server_error", strike=True, named=True),
    # 3xx: a wrong base_url or a captive proxy; never followed, for the credential belongs to its origin (RFC 9110
    # section 15.4 allows, and security forbids).
    "redirect": Rule(scope="account", kind="outage", default="server_error", strike=True),
    # No connection: nothing was asked, nothing can be billed. The origin's fault. RFC 9110 section 9.2.2.
    "connect": Rule(scope="upstream", kind="outage", default="unreachable", strike=True),
    # A proxy is one account's own way out.
    "proxy": Rule(scope="account", kind="outage", default="unreachable", strike=True),
    # Sent, but no answer: RFC 9110 section 9.2.2 leaves repeating to who knows the request; generating twice is waste,
    # not harm. One slow or broken connection may be the path of this account, so the account is blamed.
    "silent": Rule(scope="account", kind="outage", default="unreachable", strike=True),
}

# An error's type decides before its status: "also seen with other statuses" (API, 529) and it is all that an error
# event in a stream has. Types that are the client's own fault are not here.
_ROW_BY_TYPE = {
    "overloaded_error": "overloaded",
    "rate_limit_error": "rate_limit",
    "billing_error": "billing",
    "authentication_error": "credential",
    "permission_error": "credential",
    "api_error": "server_error",
    "timeout_error": "server_error",
}
_CLIENTS_FAULT = frozenset({"invalid_request_error", "not_found_error", "request_too_large", "conflict_error"})
# Codes of `error.details.error_code`. Source: types of the official SDK.
_BILLING_CODES = frozenset({"contract_spend_limit_reached", "enforced_spend_limit_reached", "organization_on_hold"})
# An account without credit answers 400 invalid_request_error, in these words. Source: API support pages.
_NO_CREDIT = "credit balance is too low"

# 5xx and 529 that name a time are believed up to this long, s; a longer one would be an outage of its own making.
_LONGEST_NAMED = 300.0
# First wait after an overload, s; doubles to the second. More than two would cost the client more than they give.
_BACKOFF = 0.2


def judge(
    outcome: Outcome,
    *,
    cooldown: Cooldown,
    now: float,
    model: str = "",
    attempt: int = 0,
    repeatable: bool = True,
    renewable: bool = False,
) -> Verdict:
    """What to do about one attempt's outcome, before a byte has gone to the client.

    Args:
        cooldown: `[routing].cooldown`.
        now: Unix time, s.
        model: as it was sent; "" for endpoints whose limits are not the model's (token counting, files, lists).
        attempt: attempts before this one, from 0.
        repeatable: whether doing it twice is harmless; False for what creates an object (a batch, a file).
        renewable: whether the account's token can be refreshed, and was not yet in this attempt.
    """
    match outcome:
        case Answered():
            return _judge_answer(outcome, cooldown, now, model, attempt, renewable)
        case Unreachable():
            return _judge_silence(outcome, cooldown, repeatable)
        case NoCredential():
            row = TABLE["credential"]
            return Retry(
                scope=row.scope,
                kind=row.kind,
                reason=outcome.reason,
                cooldown=cooldown.auth,
                free=row.free,
                relayable=False,
            )
        case _:
            assert_never(outcome)


def _judge_answer(
    answer: Answered, cooldown: Cooldown, now: float, model: str, attempt: int, renewable: bool
) -> Verdict:
    name = _row_of(answer)
    if name is None:
        return Deliver(reason="ok" if answer.status < 400 else f"{_said(answer)}: the client's own")
    if renewable and name == "credential" and answer.status == 401:
        return Retry(scope="none", kind="auth", reason=_why(name, answer), renew=True, free=True, status=401)
    row = TABLE[name]
    default: float = getattr(cooldown, row.default)
    scope, rest, strike = row.scope, default, row.strike
    if name == "rate_limit":
        scope, rest = _limit(answer.headers, default, now, model)
    elif row.named:
        named = retry_after(answer.headers, now)
        if named:  # a time was named to this account alone; whether the others are served, they find out
            scope, rest, strike = "account", min(named, _LONGEST_NAMED), False
    return Retry(
        scope=scope,
        kind=row.kind,
        reason=_why(name, answer),
        cooldown=rest,
        strike=strike,
        free=row.free,
        backoff=min(_BACKOFF * 2**attempt, 2 * _BACKOFF) if row.waits else 0.0,
        relayable=name != "redirect" and not _empty_stream(answer),
        status=answer.status,
    )


def _row_of(answer: Answered) -> str | None:
    """The table's row for an answer; None when it is to be delivered."""
    status = answer.status
    if status < 300 or status == 304:
        return _row_of_stream(answer.first_event) if answer.first_event is not None else None
    if status < 400:
        return "redirect"
    if answer.error_type == "overloaded_error" or status == 529:
        return "overloaded"
    if answer.error_code in _BILLING_CODES or status == 402 or _NO_CREDIT in answer.message.lower():
        return "billing"
    if status in (401, 403):
        return _row_of_denial(answer)
    if status == 429:
        return "rate_limit"
    # "x-should-retry: false" on a 5xx: the request itself is what fails, here as anywhere. Source: SDK.
    if status >= 500 and answer.headers.get(b"x-should-retry") != b"false":
        return "server_error"
    return None


def _row_of_stream(first: FirstEvent) -> str | None:
    if first.name == "":
        return "silent"
    if first.name != "error" or first.error_type in _CLIENTS_FAULT:
        return None
    return _ROW_BY_TYPE.get(first.error_type, "server_error")


def _row_of_denial(answer: Answered) -> str | None:
    """401 and 403: whose fault? A body that blames the request is the client's; one that speaks of the model is about
    the model on this account; anything else (also a page of HTML) denies our credential."""
    if answer.error_type in _CLIENTS_FAULT:
        return None
    if answer.status == 403 and answer.error_type == "permission_error" and "model" in answer.message.lower():
        return "permission"
    return "credential"


def _limit(headers: Headers, default: float, now: float, model: str) -> tuple[Scope, float]:
    """Scope and rest of a 429. A limit of one model says nothing where no model was asked: then nobody rests."""
    found = limited(headers, now)
    if found is None:
        return ("account" if model else "none"), default
    if found.scope == "model" and not model:
        return "none", 0.0
    return found.scope, max(0.0, found.until - now)


def _empty_stream(answer: Answered) -> bool:
    return answer.first_event is not None and answer.first_event.name == "" and answer.status < 300


def _judge_silence(outcome: Unreachable, cooldown: Cooldown, repeatable: bool) -> Retry:
    if outcome.kind == "node":
        return Retry(scope="none", kind="outage", reason=outcome.reason, final=True, relayable=False, ours=True)
    name = outcome.kind if outcome.kind in ("connect", "proxy") or outcome.bytes_sent else "connect"
    row = TABLE[name if name in TABLE else "silent"]
    return Retry(
        scope=row.scope,
        kind=row.kind,
        reason=_SILENCE[outcome.kind],
        cooldown=getattr(cooldown, row.default),
        strike=row.strike,
        final=outcome.bytes_sent and not repeatable,
        relayable=False,
    )


_SILENCE: dict[ConnectionFault, str] = {
    "connect": "upstream unreachable",
    "timeout": "no answer from upstream in time",
    "reset": "upstream closed the connection without an answer",
    "protocol": "upstream did not speak HTTP",
    "proxy": "the account's proxy refused",
}


def _why(name: str, answer: Answered) -> str:
    if name == "credential":
        return f"{AUTH_REASON} ({answer.status})"
    if name == "silent":
        return "upstream ended the stream before its first event"
    return f"{_said(answer)} from upstream"


_WORD = re.compile(r"[a-z_]{1,40}")


def _said(answer: Answered) -> str:
    """The answer in a word: its status, and an error type that the status does not imply."""
    first = answer.first_event
    kind = first.error_type if first is not None else answer.error_type
    kind = kind if _WORD.fullmatch(kind) else ""  # it goes to the log
    if first is not None and answer.status < 300:
        return kind or "error event"
    return f"{answer.status} {kind}" if kind and kind != KIND_BY_STATUS.get(answer.status) else str(answer.status)


def may_retry(verdict: Retry, *, attempts_left: int, budget: RetryBudget, deadline: float, now: float) -> bool:
    """Whether another account is tried. Takes a token from `budget` when it says yes, unless the retry is free.

    Args:
        attempts_left: accounts that may still be tried.
        deadline, now: s on one clock; the end of the call as a whole always wins.
    """
    if attempts_left <= 0 or verdict.final or now + verdict.backoff >= deadline:
        return False
    return verdict.free or budget.spend()


def last_word(verdict: Retry) -> Refusal:
    """Our answer in place of a last outcome that cannot be passed on (no answer came, or a redirect)."""
    if verdict.ours:
        return Refusal(status=503, message=verdict.reason, retry_after=1, code="no_descriptors")
    if verdict.status:
        return Refusal(status=502, message=f"upstream error: {verdict.reason}", code="upstream_error")
    if verdict.reason == _SILENCE["timeout"]:
        return Refusal(status=504, message=verdict.reason, code="upstream_timeout")
    return Refusal(status=502, message=verdict.reason, code="upstream_unreachable")
