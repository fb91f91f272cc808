"""Rate limits and quotas: which counters a call touches, what they allow, and what to say when they do not.

Rule: no clock, no store. A call's limits become a list of terms; the store checks all of them and then charges all of
them, or none; its answer is put into words here.

Theory: three kinds of term are enough. A *rolling* window holds at most `limit` within any span of its length. A
*calendar* window is a counter with a beginning and an end, computed here from the time zone and verified by the store
against its own clock. *Slots* are leases with a time to live: calls in flight. Tokens and money are not known before
the answer, so an upper estimate is reserved and the difference is given back at settlement.
"""

from __future__ import annotations

import datetime
from functools import lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo

import attrs

from relayd.config.model.types import write_seconds
from relayd.config.model.values import seconds
from relayd.config.snapshot import ApiKey, Limits, Price, Rate, Server, Window
from relayd.wire.call import Endpoint
from relayd.wire.http import HeaderPairs
from relayd.wire.refusal import Refusal

Unit = Literal["requests", "tokens", "cost"]

# 2^53 - 1: the largest integer that Lua, JSON readers and SQLite agree on. As a time (ms) it means "never".
FOREVER = (1 << 53) - 1

# The largest number that is counted: tokens, micro-USD, requests.
LARGEST = FOREVER

LEASE_MS = 60_000  # a call's slots stay its own this long without a renewal

# A Claude model's prompt holds at most 1,000,000 tokens (API docs, models overview); a larger estimate is never true.
LARGEST_PROMPT = 1_000_000

# English prose has about 4 bytes a token, source code about 3.5 (API docs, glossary: "approximately 3.5 English
# characters"); the JSON around the text costs bytes but few tokens, and images cost far fewer tokens than base64 bytes.
# So 2 tokens for 7 bytes is an upper bound for what clients of this API send in ASCII. Beyond it a character has 2 to 4
# bytes and may be more than a token: 1 more for 3 bytes beyond a character's first makes 1.5 for a Chinese one. No
# tokenizer is run on the way of a call; settlement puts the real number in its place.
TOKENS, BYTES, WIDE = 2, 7, 3

# Output reserved for a call that sets no max_tokens. The API refuses it, so nothing will come of that.
DEFAULT_OUTPUT = 4096

# Claude Code gives up at once when retry-after exceeds 60 s; the Anthropic SDK for Python sleeps through any.
LONGEST_WAIT = 60
SLOT_RETRY = 2  # s; nobody knows when a call in flight ends, but most end within seconds


def bounded(amount: int) -> int:
    """A count that every store can hold: 0 to LARGEST. Raises: ValueError, TypeError, OverflowError on no number."""
    if type(amount) is int and 0 <= amount <= LARGEST:  # nearly always, and asked some twenty times a call
        return amount
    return min(max(int(amount), 0), LARGEST)


@attrs.frozen(kw_only=True)
class Rolling:
    """At most `limit` within any `window` ms. `cost` is what this call takes."""

    counter: str
    name: str
    unit: Unit
    limit: int = attrs.field(converter=bounded)
    cost: int = attrs.field(converter=bounded)
    window: int = attrs.field(converter=bounded)


@attrs.frozen(kw_only=True)
class Calendar:
    """At most `limit` from `start` up to, not including, `end` (Unix ms)."""

    counter: str
    name: str
    unit: Unit
    limit: int = attrs.field(converter=bounded)
    cost: int = attrs.field(converter=bounded)
    start: int
    end: int


@attrs.frozen(kw_only=True)
class Slots:
    """At most `limit` holders at once, each for `ttl` ms unless renewed."""

    counter: str
    name: str
    limit: int = attrs.field(converter=bounded)
    ttl: int = LEASE_MS


Term = Rolling | Calendar | Slots


@attrs.frozen
class TermLevel:
    """How a term stands: what is used, and when the window is empty again (Unix ms) if nothing more comes."""

    used: int
    resets_at: int


@attrs.frozen(kw_only=True)
class Estimate:
    """An upper estimate of what a call will consume. Costs are micro-USD; None for a model without a price."""

    input: int
    output: int
    cost: int | None
    input_cost: int | None

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input + self.output


NOTHING = Estimate(input=0, output=0, cost=0, input_cost=0)


def prompt_bound(length: int, wide: int) -> int:
    """An upper bound on the prompt tokens of a request body.

    Args:
        length: bytes.
        wide: how many of them are not the first of a character.
    """
    return min(-(-length * TOKENS // BYTES) - (-wide // WIDE), LARGEST_PROMPT)


def dearest_percent(price: Price, *, fast: bool) -> int:
    """The share of its token prices that a call may cost: kept in the US, which a workspace may ask for unseen, and in
    fast mode, where the call asks for it."""
    return max(price.us_percent, 100) * (max(price.fast_percent, 100) if fast else 100) // 100


def estimate(prompt: int, max_tokens: int | None, price: Price | None, percent: int = 100) -> Estimate:
    """What a message call is going to consume at most.

    Args:
        prompt: tokens, as `prompt_bound`.
        max_tokens: the cap on output that is sent.
        price: of the model; None when it has none.
        percent: of the token prices, as `dearest_percent`.
    """
    output = DEFAULT_OUTPUT if max_tokens is None else max(max_tokens, 0)
    if price is None:
        return Estimate(input=prompt, output=output, cost=None, input_cost=None)
    # Any part of the prompt may be written to the one-hour cache, the dearest kind; and it may be a long prompt.
    long = price.long_context
    each = max(price.input, price.cache_write_5m, price.cache_write_1h)
    answer = int(price.output)
    if long.above and prompt > long.above:
        each = max(each, long.input, long.cache_write_5m, long.cache_write_1h)
        answer = max(answer, long.output)
    input_cost = -(-prompt * each * percent // 100_000_000)
    output_cost = -(-output * answer * percent // 100_000_000)
    return Estimate(input=prompt, output=output, cost=input_cost + output_cost, input_cost=input_cost)


@attrs.frozen(kw_only=True)
class _Template:
    """One limit of a key, without the call: window is ms for a rolling window, else a calendar word or "total"."""

    unit: Unit
    window: int | str
    label: str  # "1m", "day": part of the counter's name
    name: str
    limit: int


def terms(
    key: ApiKey,
    server: Server,
    endpoint: Endpoint,
    reserve: Estimate,
    now_ms: int,
    tz: str,
    lease_ms: int = LEASE_MS,
) -> tuple[Term, ...]:
    """Every limit that a call has to pass, the relay's own first.

    Args:
        endpoint: "count_tokens" has a bound of its own and none of the others, for clients fire dozens at once.
        now_ms: Unix ms; with `tz` it says which day, week and month it is.
        lease_ms: how long slots are held without a renewal.
    """
    if endpoint == "count_tokens":
        return counting_terms(key, 1)
    return relay_terms(server, lease_ms) + key_terms(key, reserve, now_ms, tz, lease_ms)


def relay_terms(server: Server, lease_ms: int = LEASE_MS) -> tuple[Term, ...]:
    """The limits of the whole relay: `[server] max_concurrent_requests` and `rate`."""
    found: list[Term] = []
    if server.max_concurrent_requests:
        name = f"{server.max_concurrent_requests} concurrent requests for the whole relay"
        found.append(Slots(counter="relay/slots", name=name, limit=server.max_concurrent_requests, ttl=lease_ms))
    if server.rate.requests:
        found.append(_rolling_requests("relay/requests", server.rate, " for the whole relay"))
    return tuple(found)


def counting_terms(key: ApiKey, cost: int) -> tuple[Term, ...]:
    """The bound on token counting."""
    limit = key.limits.count_tokens
    if not limit:
        return ()
    name = f"{limit} token counts per 1m"
    counter = f"key/{key.id}/counts/1m"
    return (Rolling(counter=counter, name=name, unit="requests", limit=limit, cost=cost, window=60_000),)


def key_terms(key: ApiKey, reserve: Estimate, now_ms: int, tz: str, lease_ms: int = LEASE_MS) -> tuple[Term, ...]:
    """The limits of a key on message calls.

    A call whose estimate is larger than a whole window is charged just the whole window: it gets in when nothing else
    is in there, instead of never.
    """
    found: list[Term] = []
    if key.limits.concurrency:
        name = f"{key.limits.concurrency} concurrent requests"
        counter = f"key/{key.id}/slots"
        found.append(Slots(counter=counter, name=name, limit=key.limits.concurrency, ttl=lease_ms))
    wanted = {"requests": 1, "tokens": reserve.tokens, "cost": reserve.cost or 0}
    for one in _templates(key.limits):
        counter = f"key/{key.id}/{one.unit}/{one.label}"
        cost = min(wanted[one.unit], one.limit)
        if isinstance(one.window, int):
            found.append(
                Rolling(counter=counter, name=one.name, unit=one.unit, limit=one.limit, cost=cost, window=one.window)
            )
            continue
        start, end = window_of(one.window, now_ms, tz)
        found.append(
            Calendar(counter=counter, name=one.name, unit=one.unit, limit=one.limit, cost=cost, start=start, end=end)
        )
    return tuple(found)


def pace_term(scope: str, requests: int, window_ms: int = 60_000) -> Rolling:
    """A ceiling on requests of something that is not a key, such as an account's `pace`."""
    label = _spelled(window_ms)
    name = f"{requests} requests per {label} for {scope}"
    counter = f"{scope}/requests/{label}"
    return Rolling(counter=counter, name=name, unit="requests", limit=requests, cost=1, window=window_ms)


def has_cost_limit(limits: Limits) -> bool:
    """Whether any limit is counted in money, so that an unknown price matters."""
    return any(one.unit == "cost" for one in _templates(limits))


def unpriced(key: ApiKey, model: str, sent: str) -> Refusal:
    """The answer to a model without a price where `policy.unknown_model_cost` is "deny". `sent`: its name upstream."""
    what = f"Model {model[:100]!r}" + (f", which is sent as {sent!r}," if sent != model else "")
    return Refusal(
        status=403,
        message=f"{what} has no price, and API key {key.id!r} has a cost limit that needs one.",
        should_retry=False,
        code="unknown_model_cost",
    )


def _rolling_requests(scope: str, rate: Rate, suffix: str) -> Rolling:
    window = round(rate.window * 1000)
    label = _spelled(window)
    name = f"{rate.requests} requests per {label}{suffix}"
    counter = f"{scope}/{label}"
    return Rolling(counter=counter, name=name, unit="requests", limit=rate.requests, cost=1, window=window)


@lru_cache(maxsize=4096)
def _templates(limits: Limits) -> tuple[_Template, ...]:
    """All windows of a key. Of two limits on one window and unit the smaller is kept: one counter, one charge."""
    windows: list[tuple[Unit, int | str, int]] = [
        ("requests", round(limits.rate.window * 1000), limits.rate.requests),
        ("tokens", 60_000, limits.tokens_per_minute),
        ("requests", "day", limits.daily_requests),
        ("requests", "month", limits.monthly_requests),
        ("tokens", "day", limits.daily_tokens),
        ("tokens", "month", limits.monthly_tokens),
        ("cost", "day", limits.daily_cost),
        ("cost", "month", limits.monthly_cost),
        ("cost", "total", limits.total_cost),
    ]
    for window in limits.windows:
        windows += _parts(window)
    smallest: dict[tuple[Unit, int | str], int] = {}
    for unit, length, limit in windows:
        if limit:
            smallest[unit, length] = min(limit, smallest.get((unit, length), limit))
    return tuple(_template(unit, length, limit) for (unit, length), limit in smallest.items())


def _parts(window: Window) -> list[tuple[Unit, int | str, int]]:
    length = window_length(window.window)
    return [("requests", length, window.requests), ("tokens", length, window.tokens), ("cost", length, window.cost)]


def _template(unit: Unit, length: int | str, limit: int) -> _Template:
    label = _spelled(length) if isinstance(length, int) else length
    return _Template(unit=unit, window=length, label=label, name=_name(unit, length, label, limit), limit=limit)


_ADJECTIVE = {"day": "daily", "week": "weekly", "month": "monthly", "total": "total"}


def _name(unit: Unit, length: int | str, label: str, limit: int) -> str:
    """What people call it: "100 requests per 1m", "daily cost $5.00"."""
    amount = dollars(limit) if unit == "cost" else str(limit)
    if isinstance(length, str):
        return f"{_ADJECTIVE[length]} {unit} {amount}"
    return f"{amount} per {label}" if unit == "cost" else f"{amount} {unit} per {label}"


def dollars(micro: int) -> str:
    """Micro-USD for people: at least two decimals, none lost. `5_000_000` is "$5.00"."""
    whole, rest = divmod(micro, 1_000_000)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"${whole}.{decimals}"


def _spelled(ms: int) -> str:
    return write_seconds(ms / 1000)


def window_length(text: str) -> int | str:
    """A window as written: ms of a duration ("5h", "1h30m"), or one of "day", "week", "month"."""
    if text in ("day", "week", "month"):
        return text
    return round(seconds(text) * 1000)


def day_of(now_ms: int, tz: str) -> str:
    """The calendar day in that time zone, YYYY-MM-DD: to which a call is booked."""
    return _date(now_ms // 1000, tz).isoformat()


def window_of(kind: str, now_ms: int, tz: str) -> tuple[int, int]:
    """[start, end) of the calendar window that holds `now_ms`, in Unix ms. Weeks begin on Monday (ISO 8601)."""
    if kind == "total":
        return 0, FOREVER
    return _window(kind, _date(now_ms // 1000, tz), tz)


@lru_cache(maxsize=64)
def _date(second: int, tz: str) -> datetime.date:
    return datetime.datetime.fromtimestamp(second, ZoneInfo(tz)).date()


@lru_cache(maxsize=64)
def _window(kind: str, date: datetime.date, tz: str) -> tuple[int, int]:
    one_day = datetime.timedelta(days=1)
    if kind == "day":
        first, after = date, date + one_day
    elif kind == "week":
        first = date - one_day * date.weekday()
        after = first + one_day * 7
    else:
        first = date.replace(day=1)
        after = (first + one_day * 31).replace(day=1)
    return _midnight(first, tz), _midnight(after, tz)


def _midnight(date: datetime.date, tz: str) -> int:
    """The first instant of a local day, Unix ms. Where clocks skip midnight, zoneinfo counts on from the old offset,
    which is that instant (PEP 495)."""
    return int(datetime.datetime(date.year, date.month, date.day, tzinfo=ZoneInfo(tz)).timestamp()) * 1000


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


def rfc3339(ms: int) -> str:
    """Unix ms as RFC 3339 in UTC, rounded up to a whole second, as the API writes its reset times."""
    return datetime.datetime.fromtimestamp(-(-ms // 1000), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
