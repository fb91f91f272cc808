"""What a client is told of its limits: refusals, headers, and the document of `GET /usage`.

Rule: pure. How limits stand is the store's answer.
"""

from __future__ import annotations

from typing import Any

from relayd.config.snapshot import ApiKey
from relayd.core.quota.limits import Calendar, Rolling, Slots, Term, TermLevel, dollars
from relayd.core.quota.windows import FOREVER, rfc3339
from relayd.wire.http import HeaderPairs
from relayd.wire.refusal import Refusal

# Claude Code gives up at once when retry-after exceeds 60 s; the Anthropic SDK for Python sleeps through any.
LONGEST_WAIT = 60
SLOT_RETRY = 2  # s; nobody knows when a call in flight ends, but most end within seconds


def unpriced(key: ApiKey, model: str, sent: str) -> Refusal:
    """The answer to a model without a price where `policy.unknown_model_cost` is "deny". `sent`: its name upstream."""
    what = f"Model {model[:100]!r}" + (f", which is sent as {sent!r}," if sent != model else "")
    return Refusal(
        status=403,
        message=f"{what} has no price, and API key {key.id!r} has a cost limit that needs one.",
        should_retry=False,
        code="unknown_model_cost",
    )


def denial(term: Term, retry_ms: int, now_ms: int, *, held: bool = False) -> Refusal:
    """The "no" of a limit.

    Args:
        term: the one that was exceeded longest.
        retry_ms: until it has room; exact, so a call one second before the `retry-after` is refused again.
        now_ms: the store's clock, Unix ms.
        held: only what calls in flight have reserved is in the way; until they are settled is a guess.
    """
    match term:
        case Slots() if term.counter.startswith("relay/"):
            return Refusal(
                status=529,
                message=f"Overloaded: {term.name}. Try again shortly.",
                retry_after=SLOT_RETRY,
                code="relay_full",
            )
        case Slots():
            return Refusal(
                status=429, message=f"Rate limit exceeded: {term.name}.", retry_after=SLOT_RETRY, code="concurrency"
            )
        case Rolling() | Calendar() if held:
            return _held_denial(term, retry_ms)
        case Rolling() | Calendar():
            return _window_denial(term, retry_ms, now_ms)


def _held_denial(term: Rolling | Calendar, retry_ms: int) -> Refusal:
    wait = min(max(1, -(-retry_ms // 1000)), LONGEST_WAIT)
    return Refusal(
        status=429,
        message=f"Rate limit exceeded: {_with_need(term)}: calls in flight have reserved what is left, and give back"
        f" what they do not use. Try again in {wait} s.",
        retry_after=wait,
        should_retry=True,
        code=term.unit,
    )


def _with_need(term: Rolling | Calendar) -> str:
    """Its name and what the call wanted of it. There may be something left, only not so much: a smaller max_tokens
    helps."""
    if term.unit == "requests":
        return term.name
    return f"{term.name} (this call may need {dollars(term.cost) if term.unit == 'cost' else term.cost})"


def _window_denial(term: Rolling | Calendar, retry_ms: int, now_ms: int) -> Refusal:
    name = _with_need(term)
    if now_ms + retry_ms >= FOREVER:
        return Refusal(
            status=429,
            message=f"Rate limit exceeded: {name}. It does not reset by itself.",
            should_retry=False,
            code=term.unit,
        )
    wait = max(1, -(-retry_ms // 1000))
    hint = f"Try again in {wait} s." if wait <= LONGEST_WAIT else f"Try again at {rfc3339(now_ms + retry_ms)}."
    return Refusal(
        status=429,
        message=f"Rate limit exceeded: {name}. {hint}",
        retry_after=wait,
        should_retry=False if wait > LONGEST_WAIT else None,
        code=term.unit,
    )


def limit_headers(charged: tuple[Term, ...], levels: tuple[TermLevel, ...], now_ms: int) -> HeaderPairs:
    """The key's own `anthropic-ratelimit-*`: for requests and tokens the window with the least left.

    Source: API docs, "Rate limits", response headers.
    """
    pairs: HeaderPairs = []
    for unit in ("requests", "tokens"):
        rows = [
            (term.limit - level.used, term, level)
            for term, level in zip(charged, levels, strict=False)
            if not isinstance(term, Slots) and term.unit == unit and term.counter.startswith("key/")
        ]
        if not rows:
            continue
        left, term, level = min(rows, key=lambda row: row[0])
        stem = b"anthropic-ratelimit-" + unit.encode()
        reset = max(level.resets_at, now_ms)
        pairs.append((stem + b"-limit", b"%d" % term.limit))
        pairs.append((stem + b"-remaining", b"%d" % max(left, 0)))
        pairs.append((stem + b"-reset", rfc3339(reset).encode()))
    return pairs


def usage_document(key: ApiKey, shown: tuple[Term, ...], levels: tuple[TermLevel, ...], now_ms: int) -> dict[str, Any]:
    """`GET /usage`: a key's limits, consumption and reset times, ready for JSON. Costs are exact strings in USD.

    Args:
        shown: `key_terms` and `counting_terms` of the key, with nothing reserved.
        levels: the store's answer to a peek at them, in the same order.
    """
    return {
        "key": str(key.id),
        "name": key.name,
        "owner": key.owner,
        "now": rfc3339(now_ms),
        "limits": [_usage_row(term, level) for term, level in zip(shown, levels, strict=True)],
    }


def _usage_row(term: Term, level: TermLevel) -> dict[str, Any]:
    unit = "concurrent" if isinstance(term, Slots) else term.unit
    left = max(term.limit - level.used, 0)
    resets = not isinstance(term, Slots) and level.used > 0 and level.resets_at < FOREVER
    shape = (lambda amount: dollars(amount)[1:]) if unit == "cost" else (lambda amount: amount)
    return {
        "limit_name": term.name,
        "unit": unit,
        "limit": shape(term.limit),
        "used": shape(level.used),
        "remaining": shape(left),
        "resets_at": rfc3339(level.resets_at) if resets else None,
    }
