"""Failover: what one attempt's outcome means for the call, for the account and for the next attempt.

Rule: decided here once, by one table (blame.py), plain answers and streams alike. No clock, no I/O, nothing remembered:
`pool` remembers. A row that names a time is a *rest* and holds from the first time on; a row without one is a *strike*,
and only strikes that pile up (`breaker`) become a rest. So no single 5xx takes an account away from its conversations.

Theory: blame has a scope. A spent window or a dead credential is the account's; some limits are one model's on it; an
overload or a refused connection is the upstream's, whichever account asked; what this node lacks is nobody's but its
own. Most failures may as well be the request's: those rows are in *doubt*, and what another account answers decides
(suspects.py). Only what names the credential, a time or a known state of the account (account_failures.py) is certain.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import assert_never

import attrs

from relayd.config.snapshot import Cooldown
from relayd.core.balancing.account_failures import account_failure, regained_at
from relayd.core.balancing.blame import TABLE, Doubt, FailureKind, Scope
from relayd.core.balancing.headroom import limited, retry_after
from relayd.core.balancing.outcomes import Answered, ConnectionFault, NodeDefect, Outcome, Unreachable
from relayd.core.balancing.retry_budget import RetryBudget
from relayd.noun import noun
from relayd.wire.refusal import KIND_BY_STATUS, Refusal, status_of_kind

AUTH_REASON = "Invalid session key or expired"


@noun(kw_only=True)
class Deliver:
    """This answer is the client's: a success (`served`), or an error that is the client's own."""

    reason: str = "ok"
    served: bool = True


@noun(kw_only=True)
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
        status: of the answer, or what its error event means; 0 when there was none.
        doubt: when the account is not to be blamed; "" leaves no doubt.
        signature: what an answer to the same call that means the same has, too.
        alike: an earlier attempt of the call had this signature.
        late: the answer did not come in time.
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
    doubt: Doubt = ""
    signature: str = attrs.field(default="", repr=False)
    alike: bool = False
    late: bool = False


Verdict = Deliver | Retry


_CLIENTS_FAULT = frozenset({"invalid_request_error", "not_found_error", "request_too_large", "conflict_error"})
# Codes of `error.details.error_code`. Source: types of the official SDK.
_BILLING_CODES = frozenset({"contract_spend_limit_reached", "enforced_spend_limit_reached", "organization_on_hold"})
# How a permission_error says that the credential, and not what was asked for, is at fault.
_OF_THE_CREDENTIAL = re.compile(
    r"(credential|\bkey|token|oauth|authentication|session|organization|account)\b.{0,60}"
    r"\b(revoked|expired|invalid|disabled|deactivated|suspended|banned|not (allowed|supported|valid|recognized))"
    r"|\binvalid\b.{0,20}(credential|key|token|session)",
    re.IGNORECASE | re.DOTALL,
)

_STALE_THINKING = re.compile(r"signature\W.{0,20}thinking\W|thinking\W.{0,80}cannot be modified", re.IGNORECASE)

# 5xx and 529 that name a time are believed up to this long, s; a longer one would be an outage of its own making.
_LONGEST_NAMED = 300.0
# A date in a text is believed up to this long, s: a spend limit is a month's. One day of slack for clocks.
_LONGEST_DATED = 32 * 86400.0
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
    session_key: bool = False,
    heard: Collection[str] = (),
) -> Verdict:
    """What to do about one attempt's outcome, before a byte has gone to the client.

    Args:
        cooldown: `[routing].cooldown`.
        now: Unix time, s.
        model: as it was sent; "" for endpoints whose limits are not the model's (token counting, files, lists).
        attempt: attempts before this one, from 0.
        repeatable: whether doing it twice is harmless; False for what creates an object (a batch, a file).
        renewable: whether the account's token can be refreshed, and was not yet in this attempt.
        session_key: whether the account's credential is a session key.
        heard: signatures of what other accounts said to the same call.
    """
    match outcome:
        case Answered():
            found = _judge_answer(outcome, cooldown, now, model, attempt, renewable, session_key)
        case Unreachable():
            found = _judge_silence(outcome, cooldown, repeatable)
        case NodeDefect():
            return Retry(scope="node", kind="outage", reason=outcome.reason, free=True, relayable=False)
        case _:
            assert_never(outcome)
    if not isinstance(found, Retry) or not found.doubt or found.signature not in heard:
        return found
    if found.kind == "overload":  # the API's own, not the call's
        return attrs.evolve(found, alike=True)
    if found.status >= 500:  # the call's, or an outage that has not reached every account
        return attrs.evolve(found, alike=True, scope="none")
    reason = f"{found.reason}, from another account as well: the call's own"
    relayable = found.relayable or found.status == 403
    return attrs.evolve(found, alike=True, scope="none", final=True, reason=reason, relayable=relayable)


def thinking_is_stale(outcome: Outcome) -> bool:
    """Whether the upstream refuses thinking blocks of an earlier answer: another model or account signed them.

    Source: the API's "Invalid `signature` in `thinking` block" and "`thinking` blocks in the latest assistant message
    cannot be modified", both 400 invalid_request_error.
    """
    return (
        isinstance(outcome, Answered)
        and outcome.status == 400
        and outcome.error_type == "invalid_request_error"
        and _STALE_THINKING.search(outcome.message) is not None
    )


def _judge_answer(
    answer: Answered, cooldown: Cooldown, now: float, model: str, attempt: int, renewable: bool, session_key: bool
) -> Verdict:
    status = _meant(answer)
    name = _row_of(answer, status, now)
    if name is None:
        served = status < 400
        return Deliver(reason="ok" if served else f"{_said(answer)}: the client's own", served=served)
    if renewable and status == 401 and name in ("credential", "refused"):
        reason = _why(name, answer, status, session_key)
        return Retry(scope="none", kind="auth", reason=reason, renew=True, free=True, status=401)
    row = TABLE[name]
    scope, rest, strike = _blame(name, answer, getattr(cooldown, row.default), now, model)
    return Retry(
        scope=scope,
        kind=row.kind,
        reason=_why(name, answer, status, session_key),
        cooldown=rest,
        strike=strike,
        free=row.free,
        backoff=min(_BACKOFF * 2**attempt, 2 * _BACKOFF) if row.waits else 0.0,
        relayable=status >= 400 and not _means_our_key(name, answer, status),
        status=status,
        doubt=row.doubt,
        signature=_signature(name, answer, status),
    )


def _means_our_key(name: str, answer: Answered, status: int) -> bool:
    """Whether the answer denies us: the client would take its own key to be meant, and ask its user to log in."""
    if status == 401:
        return True
    ours = TABLE[name].kind == "auth" and TABLE[name].scope == "account"
    return status == 403 and (ours or (name == "refused" and answer.error_type == "permission_error"))


def _blame(name: str, answer: Answered, default: float, now: float, model: str) -> tuple[Scope, float, bool]:
    """Scope, rest in s, and whether that is only a strike."""
    row = TABLE[name]
    if name == "rate_limit":
        return *_limit(answer, default, now, model), False
    if name == "spent":
        until = regained_at(answer.message)
        return row.scope, default if until is None else min(max(0.0, until - now), _LONGEST_DATED), False
    if row.named and (named := retry_after(answer.headers, now)):
        # A time was named to this account alone; whether the others are served, they find out.
        return "account", min(named, _LONGEST_NAMED), False
    return ("none" if row.scope == "model" and not model else row.scope), default, row.strike


def _meant(answer: Answered) -> int:
    """An answer's status; of a success that holds an error, the one that goes with it. Source: API docs, "Errors"."""
    if answer.status >= 300 or not (answer.error_type or answer.first_event == "error"):
        return answer.status
    return status_of_kind(answer.error_type)


def _row_of(answer: Answered, status: int, now: float) -> str | None:
    """The table's row for an answer; None when it is to be delivered."""
    if answer.first_event == "":
        return "silent"
    if answer.unfit:
        return "unfit"
    if status < 300 or status == 304:
        return None
    if status < 400:
        return "redirect"
    if answer.error_type == "overloaded_error" or status == 529:
        return "overloaded"
    known = account_failure(status, answer.message) if answer.error_type else None
    if known is not None:
        return known
    if answer.error_code in _BILLING_CODES or (status == 402 and answer.error_type == "billing_error"):
        return "billing"
    if status in (401, 402, 403):
        return _row_of_denial(answer)
    if status == 429:
        return "rate_limit" if limited(answer.headers, now) is not None else "bare_limit"
    # "x-should-retry: false" on a 5xx: the request itself is what fails, here as anywhere. Source: SDK.
    if status >= 500 and answer.headers.get(b"x-should-retry") != b"false":
        return "server_error"
    return None


def _row_of_denial(answer: Answered) -> str | None:
    """401, 402, 403: whose fault? A body that blames the request is the client's; the API's own words may deny our
    credential, or the model on this account; anything else may be anybody's (also a page of HTML)."""
    if answer.error_type in _CLIENTS_FAULT:
        return None
    if answer.error_type == "authentication_error":
        return "credential"
    if answer.error_type == "permission_error":
        if "model" in answer.message.lower():
            return "no_model"
        if _OF_THE_CREDENTIAL.search(answer.message):
            return "credential"
    return "refused"


def _limit(answer: Answered, default: float, now: float, model: str) -> tuple[Scope, float]:
    """Scope and rest of a 429. A limit of one model says nothing where no model was asked: then nobody rests."""
    found = limited(answer.headers, now)
    assert found is not None, "a 429 that names nothing has another row"
    if found.scope == "model" and not model:
        return "none", 0.0
    return found.scope, max(0.0, found.until - now)


# What differs between two answers that mean the same: ids, numbers and dates.
_PARTICULARS = re.compile(r"\b[a-z]+_[0-9a-z]{8,}\b|[0-9a-f-]{16,}|\d+", re.IGNORECASE)


def _signature(name: str, answer: Answered, status: int) -> str:
    said = " ".join(_PARTICULARS.sub("#", answer.message.lower()).split())[:200]
    return f"{name} {status} {answer.error_type} {answer.unfit} {said}"


def _judge_silence(outcome: Unreachable, cooldown: Cooldown, repeatable: bool) -> Retry:
    if outcome.kind == "node":
        return Retry(scope="none", kind="outage", reason=outcome.reason, final=True, relayable=False, ours=True)
    unasked = "proxy" if outcome.kind == "proxy" else "connect"
    name = "silent" if outcome.bytes_sent else unasked
    row = TABLE[name]
    why = cause_of(outcome.reason)
    return Retry(
        scope=row.scope,
        kind=row.kind,
        reason=f"{_SILENCE[outcome.kind]}: {why}" if why else _SILENCE[outcome.kind],
        cooldown=getattr(cooldown, row.default),
        strike=row.strike,
        final=outcome.bytes_sent and not repeatable,
        relayable=False,
        doubt=row.doubt,
        signature=f"{name} {outcome.kind}",
        late=outcome.kind == "timeout",
    )


_SILENCE: dict[ConnectionFault, str] = {
    "connect": "upstream unreachable",
    "timeout": "no answer from upstream in time",
    "reset": "upstream closed the connection without an answer",
    "protocol": "upstream did not speak HTTP",
    "proxy": "the account's proxy refused",
}
_PLACE = re.compile(r"(?:proxy )?[a-z0-9+.-]+://\S+: ")


def cause_of(reason: str) -> str:
    """A transport's words without the places, which may be internal: "dns: name or service not known"."""
    return _printable(_PLACE.sub("", reason))


def _why(name: str, answer: Answered, status: int, session_key: bool) -> str:
    if name == "credential":
        return f"{AUTH_REASON if session_key else _printable(answer.message) or 'credential refused'} ({status})"
    if name in ("disabled", "billing", "spent", "entitlement", "refused"):
        return f"{_printable(answer.message)} ({status})" if answer.message else f"{_said(answer)} from upstream"
    if name == "silent":
        return "upstream ended the stream before its first event"
    if name == "unfit":
        return f"{answer.status} with {answer.unfit} from upstream"
    return f"{_said(answer)} from upstream"


def _printable(text: str) -> str:
    """An upstream's words, fit for a log line and a client."""
    return " ".join("".join(char if char.isprintable() else " " for char in text[:300]).split())[:200]


_WORD = re.compile(r"[a-z_]{1,40}")


def _said(answer: Answered) -> str:
    """The answer in a word: its status, and an error type that the status does not imply."""
    kind = answer.error_type if _WORD.fullmatch(answer.error_type) else ""  # it goes to the log
    if answer.status < 300:
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


def last_word(verdict: Retry, account: str) -> Refusal:
    """Our answer in place of a last outcome that cannot be passed on: no answer of the API, or one that denies us."""
    if verdict.ours:
        return Refusal(status=503, message=verdict.reason, retry_after=1, code="no_descriptors")
    if verdict.scope == "node":
        return Refusal(
            status=529,
            message=f"Overloaded: no account can serve now (account {account}: {NOT_HERE})",
            code="no_account",
        )
    message = f"account {account}: {verdict.reason}"
    if verdict.kind == "auth" or verdict.status in (401, 403):
        said = f"account {account}: the upstream rejected its credential: {verdict.reason}"
        return Refusal(status=502, message=said, code="upstream_credential")
    if verdict.status:
        return Refusal(status=502, message=message, code="upstream_error")
    if verdict.late:
        return Refusal(status=504, message=message, code="upstream_timeout")
    return Refusal(status=502, message=message, code="upstream_unreachable")


# What a client is told of a defect of this node; the operator is told what it is.
NOT_HERE = "cannot be used on this node"
