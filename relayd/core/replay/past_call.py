"""Past calls: what the access log and the books tell of a call, as far as a config can be judged by it.

Rule: pure. A line that is none of a call is None, never an error: logs hold other events too.

Theory: the fields have the names that they have in the log (`daemon/log.CallLine`), so that a line is decoded in one
step. The books hold sums of a day, key, account and model only: of those a day's calls are made again, each an equal
part and spread evenly, which is good enough for days and months and says nothing of shorter windows (`even`).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from functools import lru_cache
from typing import get_args
from zoneinfo import ZoneInfo

import msgspec

from relayd.core.access.owned_paths import ObjectRequest, asked
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import window_of
from relayd.wire.api_paths import canonical
from relayd.wire.call import Endpoint, ObjectType
from relayd.wire.usage import Usage

CALL = "call.done"  # the event of a call's line

# What a config decides of refusals. The others (a body too large, no account at that moment) would come out the same.
_JUDGED = frozenset({401, 403, 429})
_CAP = "more than this key's cap"  # in the reason of a 400; others are of bodies that cannot be read
_OF_THE_MOMENT = ("no account has room", "request bodies of this key", "this relay did not say")


class PastCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call that was made. A Struct, for a log of a million is decoded into it.

    Args:
        time: when it began.
        model: as the client named it; `sent_model` where it was sent under another name.
        answered: the model that the answer says it is from, where that is another one.
        client: id of the client rule that matched.
        ms: how long it took.
        cost_usd: what it cost then; "" where it had no price.
        parts: inferences with prices of their own, of which the line has the sums only.
        even: it stands for an equal share of a day's calls: when it was, how large and from where is not known.
    """

    time: datetime.datetime
    event: str = CALL
    key: str = ""
    model: str = ""
    sent_model: str = ""
    answered: str = ""
    account: str = ""
    client: str = ""
    peer: str = ""
    path: str = "/v1/messages"
    method: str = "POST"
    dialect: str = "anthropic"
    status: int = 200
    outcome: str = "ok"
    reason: str = ""
    ms: float = 0.0
    max_tokens: int | None = None
    bytes_in: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    web_searches: int = 0
    service_tier: str = ""
    inference_geo: str = ""
    speed: str = ""
    parts: int = 0
    free: bool = False
    cost_usd: str = ""
    even: bool = False

    @property
    def refused(self) -> bool:
        """Whether relayd itself said no."""
        return self.outcome == "refused"

    @property
    def is_judged(self) -> bool:
        """Whether the config decides what becomes of it: it has a key, and was not refused for another reason."""
        if not self.key:
            return False
        if not self.refused:
            return True
        if self.status == 400:
            return _CAP in self.reason
        return self.status in _JUDGED and not any(why in self.reason for why in _OF_THE_MOMENT)

    @property
    def endpoint(self) -> Endpoint:
        """What was asked for."""
        return _endpoint(self.path)

    @property
    def is_made(self) -> bool:
        """Whether it was a call for the limits; what is about an object that is there passes none."""
        return _is_made(self.method, self.path)

    @property
    def usage(self) -> Usage:
        """What it consumed."""
        return Usage(
            input=self.tokens_in,
            output=self.tokens_out,
            cache_write_5m=max(self.cache_write - self.cache_write_1h, 0),
            cache_write_1h=self.cache_write_1h,
            cache_read=self.cache_read,
            web_searches=self.web_searches,
            service_tier=self.service_tier,
            inference_geo=self.inference_geo,
            speed=self.speed,
            free=self.free,
        )

    @property
    def tokens(self) -> int:
        """Tokens of every kind."""
        return self.tokens_in + self.tokens_out + self.cache_write + self.cache_read

    @property
    def cost(self) -> int | None:
        """What it cost then, micro-USD."""
        return _micro(self.cost_usd) if self.cost_usd else None


_calls = msgspec.json.Decoder(PastCall)


def past_call(line: bytes) -> PastCall | None:
    """The call that a line of a log is about; None for another event. Raises: ValueError for what is no such line."""
    if b'"call.done"' not in line:
        if line.lstrip()[:1] != b"{":
            raise ValueError("not a line of JSON")
        return None
    found = _calls.decode(line)
    return found if found.event == CALL else None


def past_calls(row: UsageRecord, tz: str) -> Iterator[PastCall]:
    """The calls that a line of the books adds up, alike and evenly over the day.

    Args:
        tz: in which the days of the books begin (`state.timezone`).
    """
    start, end = _day(row.day, tz)
    shares = {name: _shares(getattr(row, name), row.requests) for name in _SHARED}
    costs = _shares(row.cost, row.requests)
    for number in range(row.requests):
        long = next(shares["cache_write_1h"])
        yield PastCall(
            time=start + (end - start) * (2 * number + 1) / (2 * row.requests),
            key=row.key,
            model=row.model,
            account=row.account,
            cost_usd="" if row.unpriced and not row.cost else _usd(next(costs)),
            cache_write=next(shares["cache_write_5m"]) + long,
            cache_write_1h=long,
            tokens_in=next(shares["input"]),
            tokens_out=next(shares["output"]),
            cache_read=next(shares["cache_read"]),
            web_searches=next(shares["web_searches"]),
            even=True,
        )


_SHARED = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read", "web_searches")


def _shares(total: int, parts: int) -> Iterator[int]:
    """A number in parts that differ by 1 at most and add up to it."""
    return (total * (at + 1) // parts - total * at // parts for at in range(parts))


def _day(day: str, tz: str) -> tuple[datetime.datetime, datetime.datetime]:
    noon = datetime.datetime.combine(datetime.date.fromisoformat(day), datetime.time(12), ZoneInfo(tz))
    start, end = window_of("day", round(noon.timestamp() * 1000), tz)
    return (
        datetime.datetime.fromtimestamp(start / 1000, datetime.UTC),
        datetime.datetime.fromtimestamp(end / 1000, datetime.UTC),
    )


@lru_cache(maxsize=256)
def _endpoint(path: str) -> Endpoint:
    words = path.split("/")
    if words[-1] == "count_tokens":
        return "count_tokens"
    kind = next((kind for kind in get_args(ObjectType) if kind in words), None)
    return kind or ("models" if "models" in words else "messages")


@lru_cache(maxsize=256)
def _is_made(method: str, path: str) -> bool:
    about = asked(method, canonical(path))
    created = isinstance(about, ObjectRequest) and about.makes
    return created or _endpoint(path) in ("messages", "count_tokens")


def _micro(usd: str) -> int:
    whole, _, part = usd.partition(".")
    return int(whole) * 1_000_000 + int(part[:6].ljust(6, "0"))


def _usd(micro: int) -> str:
    return f"{micro // 1_000_000}.{micro % 1_000_000:06d}"
