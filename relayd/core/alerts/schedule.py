"""Schedule: what is told at a time: daily reports, and what will end soon.

Rule: pure; `now` is an argument.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

from relayd.config.snapshot import Snapshot
from relayd.core.alerts.events import DAY, KeyExpiring, OAuthExpiring
from relayd.core.inventory import Inventory, ending_within
from relayd.core.oauth import utc

SOON = ((DAY, "a day"), (7 * DAY, "a week"))  # s before an end at which it is told, the nearest first
SHOWN = 5  # models and keys in a daily report


def report_day(at: str, reported: str, known_since: float, now: float, zone: str) -> str:
    """The day, YYYY-MM-DD, that a target is to have a report of now; "" for none.

    Args:
        at: "HH:MM" in `zone`.
        reported: the last day that it had, "" for none.
        known_since: Unix time, s, of the target's first look; a report that was due before then is not made up for.
    """
    tz = ZoneInfo(zone)
    local = datetime.datetime.fromtimestamp(now, tz)
    hour, minute = map(int, at.split(":"))
    # A time that clocks skip is the first that comes after it (PEP 495 counts on from the old offset).
    due = datetime.datetime.combine(local.date(), datetime.time(hour, minute), tz).timestamp()
    day = (local.date() - datetime.timedelta(days=1)).isoformat()
    if now < due or day <= reported or (not reported and known_since > due):
        return ""
    return day


def report_figures(report: dict[str, Any]) -> dict[str, Any]:
    """What a notice tells of a report by key (`report_document`)."""
    names = ("first", "requests", "errors", "tokens", "cost", "error_rate", "unique_keys")
    return {name: report[name] for name in names} | {
        "top_models": [_brief(row, "model") for row in report["top_models"][:SHOWN]],
        "top_keys": [_brief(row, "key") for row in report["rows"][:SHOWN]],
        "unpriced_models": report["unpriced_models"][:SHOWN],
    }


def _brief(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {field: row[field] for field in (name, "requests", "tokens", "cost")}


def ending_keys(snapshot: Snapshot, inventory: Inventory, now: float) -> Iterator[KeyExpiring]:
    """Keys that end soon."""
    for name, end in ending_within(inventory, SOON[-1][0], now):
        owner = snapshot.keys[name].owner if name in snapshot.keys else ""
        yield KeyExpiring(key=name, owner=owner or None, expires=utc(end), left=_left(end, now))


def ending_tokens(ends: Iterable[tuple[str, float]], now: float) -> Iterator[OAuthExpiring]:
    """Access tokens that end soon, given the accounts of those that cannot be refreshed, and their ends."""
    for account, end in ends:
        if now < end <= now + SOON[-1][0]:
            yield OAuthExpiring(account=account, expires=utc(end), left=_left(end, now))


def _left(end: float, now: float) -> str:
    return next(word for before, word in SOON if end <= now + before)
