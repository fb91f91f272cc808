"""Headroom: what an upstream's own headers say is left, and when it comes back.

Rule: read-only and forgiving. These headers are advice; one that cannot be read is skipped, never an error.

Theory: two families describe one account. `anthropic-ratelimit-{requests,tokens,...}-{limit,remaining,reset}` are the
minute windows of an API key, kept per model; `anthropic-ratelimit-unified-*` are the long windows of a subscription,
most of them per account. Both are brought to one noun, the Gauge: which share of a window is left until when.
Source: API docs, "Rate limits" (response headers; limits apply per model) and "Errors"; RFC 9110 section 10.2.3
(retry-after); the unified family as subscription accounts are seen to answer (it has no public reference).
"""

from __future__ import annotations

import datetime
import email.utils
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from relayd.noun import noun
from relayd.wire.http import Headers

GaugeScope = Literal["account", "model"]

# Window lengths, seconds; they are the names of the windows. A window of unknown length is held against its share only.
LENGTHS = {"5h": 5 * 3600.0, "7d": 7 * 86400.0}
# No window of the API is longer than a week, s; a later reset is a misreading, or somebody's clock is wrong.
LATEST = 7 * 86400.0

_PREFIX = b"anthropic-ratelimit-"
_PLAIN = re.compile(rb"anthropic-ratelimit-(requests|tokens|input-tokens|output-tokens)-(limit|remaining|reset)")
_UNIFIED = re.compile(rb"anthropic-ratelimit-unified-(.+)-(utilization|reset|status)")
# Not windows of the plan: pay-as-you-go on top of it, grace, and the slow lane.
_BESIDE = ("overage", "grace", "slow")
# Claims of a rejection that name the whole account. Any other, such as seven_day_opus, is about a family of models.
_WHOLE_ACCOUNT = frozenset({"", "five_hour", "seven_day", "overage"})


@noun
class Gauge:
    """One window of an upstream.

    Args:
        window: its name in the headers: "requests", "input-tokens", "5h", "7d", ...
        left: share that is unspent, 0 to 1.
        resets: Unix time, s, when it is whole again.
        scope: whether it binds the account or only the model that was asked for.
    """

    window: str
    left: float
    resets: float
    scope: GaugeScope


@noun
class Limited:
    """What a 429 says of itself: rest until `until` (Unix time, s), and who."""

    until: float
    scope: GaugeScope


def read_gauges(headers: Headers, now: float) -> tuple[Gauge, ...]:
    """The windows that an answer describes and that have not yet reset."""
    said: dict[str, dict[str, str]] = {}
    for name, value in headers.pairs:
        if name.startswith(_PREFIX) and (place := _place(name)) is not None:
            said.setdefault(place[0], {})[place[1]] = value.decode("latin-1")
    if not said:
        return ()
    beyond = _overage_serves(headers)
    gauges = []
    for window, fields in said.items():
        if "limit" in fields or "remaining" in fields:
            gauges.append(_plain_gauge(window, fields, now))
        elif not beyond:
            gauges.append(_unified_gauge(window, fields, now))
    return tuple(gauge for gauge in gauges if gauge is not None)


@lru_cache(maxsize=256)
def _place(name: bytes) -> tuple[str, str] | None:
    """The window and the field that a header is about; None for other headers. There are few different ones."""
    match = _UNIFIED.fullmatch(name) or _PLAIN.fullmatch(name)
    return None if match is None else (match[1].decode("latin-1"), match[2].decode())


def _plain_gauge(window: str, said: dict[str, str], now: float) -> Gauge | None:
    limit, remaining = _number(said.get("limit", "")), _number(said.get("remaining", ""))
    resets = reset_time(said.get("reset", ""), now)
    if limit is None or remaining is None or resets is None or limit <= 0 or resets <= now:
        return None
    return Gauge(window, _share(remaining / limit), resets, "model")


def _unified_gauge(window: str, said: dict[str, str], now: float) -> Gauge | None:
    used, resets = _number(said.get("utilization", "")), reset_time(said.get("reset", ""), now)
    if said.get("status") == "rejected":
        used = 1.0
    if window.startswith(_BESIDE) or used is None or resets is None or resets <= now:
        return None
    return Gauge(window, _share(1.0 - used), resets, "account" if window in LENGTHS else "model")


def _overage_serves(headers: Headers) -> bool:
    """Whether calls beyond the plan's windows are being served, so that a spent window holds nothing up."""
    return (
        headers.text(b"anthropic-ratelimit-unified-overage-in-use").lower() == "true"
        and headers.text(b"anthropic-ratelimit-unified-status") != "rejected"
    )


def limited(headers: Headers, now: float) -> Limited | None:
    """How long a 429 asks to rest; None when it does not say.

    `retry-after` first, it is the API's own summary; else the unified reset, else the reset of what is spent.
    """
    scope = _scope(headers)
    named = retry_after(headers, now)
    if named is not None:
        return Limited(now + named, scope)
    if headers.text(b"anthropic-ratelimit-unified-status") == "rejected":
        until = reset_time(headers.text(b"anthropic-ratelimit-unified-reset"), now)
        if until is not None and until > now:
            return Limited(until, scope)
    spent = [gauge.resets for gauge in read_gauges(headers, now) if gauge.left <= 0.0]
    return Limited(max(spent), scope) if spent else None


def _scope(headers: Headers) -> GaugeScope:
    """Whom a 429 is about. One without any of these headers names nobody less than the account."""
    if headers.text(b"anthropic-ratelimit-unified-status"):
        claim = headers.text(b"anthropic-ratelimit-unified-representative-claim")
        return "account" if claim in _WHOLE_ACCOUNT else "model"
    return "model" if any(_PLAIN.fullmatch(name) for name, _ in headers.pairs) else "account"


def retry_after(headers: Headers, now: float) -> float | None:
    """Seconds that `retry-after` asks for, as a number or a date; None when absent or unreadable.

    Source: RFC 9110 section 10.2.3; `retry-after-ms` as the official SDKs read it.
    """
    milliseconds = _number(headers.text(b"retry-after-ms"))
    if milliseconds is not None and milliseconds >= 0:
        return min(milliseconds / 1000, LATEST)
    text = headers.text(b"retry-after").strip()
    seconds = _number(text)
    if seconds is None and text:
        seconds = _until_date(text, now)
    return min(seconds, LATEST) if seconds is not None and seconds >= 0 else None


def _until_date(text: str, now: float) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, _timestamp(moment) - now)


def reset_time(text: str, now: float) -> float | None:
    """A reset header as Unix time, s, within LATEST: RFC 3339, or epoch seconds. None when unreadable."""
    moment = _number(text)
    if moment is None:
        try:
            moment = _timestamp(datetime.datetime.fromisoformat(text.strip()))
        except (ValueError, OverflowError):
            return None
    return min(moment, now + LATEST) if moment >= 0 else None


def _timestamp(moment: datetime.datetime) -> float:
    """Unix time; what has no offset is read as UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


# How strongly the state of a window may bend an account's share of the calls, either way. 16 sends about 19 of 20 new
# conversations to the one account of two whose quota would else go to waste, and still spreads them when it is busy.
_PULL = 16.0


def pull(gauges: Iterable[Gauge], now: float) -> float:
    """The factor by which an account's weight is to be multiplied, 1/16 to 16.

    A long window that is spent more slowly than its time runs out pulls (its rest would go to waste at the reset): the
    sooner it resets with much left, the more. One that is spent too fast pushes away. A short window counts with the
    share that is left. The tightest window of each sort decides.
    """
    long, short = _PULL, 1.0
    any_long = False
    for gauge in gauges:
        length = LENGTHS.get(gauge.window)
        if gauge.resets <= now:
            continue
        if length is None:
            short = min(short, gauge.left)
        else:
            any_long = True
            time_left = max(1e-3, (gauge.resets - now) / length)
            long = min(long, (gauge.left / time_left) ** 2)
    return min(_PULL, max(1 / _PULL, (long if any_long else 1.0) * max(short, 1 / _PULL)))
