"""Windows of time that limits count in: calendar days, weeks and months of a time zone, and durations.

Rule: no clock. What time it is, is an argument.
"""

from __future__ import annotations

import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from relayd.config.model.values import seconds

# 2^53 - 1: the largest integer that Lua, JSON readers and SQLite agree on. As a time (ms) it means "never".
FOREVER = (1 << 53) - 1


def window_length(text: str) -> int | str:
    """A window as written: ms of a duration ("5h", "1h30m"), or one of "day", "week", "month"."""
    if text in ("day", "week", "month"):
        return text
    return round(seconds(text) * 1000)


def day_of(now_ms: int, tz: str) -> str:
    """The calendar day in that time zone, YYYY-MM-DD: to which a call is booked."""
    return _day(now_ms // 1000, tz)


def window_of(kind: str, now_ms: int, tz: str) -> tuple[int, int]:
    """[start, end) of the calendar window that holds `now_ms`, in Unix ms. Weeks begin on Monday (ISO 8601)."""
    if kind == "total":
        return 0, FOREVER
    return _window(kind, _date(now_ms // 1000, tz), tz)


@lru_cache(maxsize=64)
def _day(second: int, tz: str) -> str:
    return _date(second, tz).isoformat()


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


def rfc3339(ms: int) -> str:
    """Unix ms as RFC 3339 in UTC, rounded up to a whole second, as the API writes its reset times."""
    return datetime.datetime.fromtimestamp(-(-ms // 1000), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
