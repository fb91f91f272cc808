"""Limits on the command line: `--limit 1000`, `--limit 60/1m`, `--limit 5usd/day`, into a key's [limits].

Rule: pure. A plain number is requests in a day: whoever gives one number means a budget, and a day's budget bounds what
a leaked or looping key can do. The command says on stderr what was understood.
"""

from __future__ import annotations

import re
from typing import Any

from relayd.config.model.values import MONEY_RE, Bad, seconds

HELP = "AMOUNT[unit][/WINDOW]: 1000 (requests a day), 60/1m, 2000000tokens/5h, 5usd/day, 100usd/total; repeatable"

_LIMIT = re.compile(r"(?P<amount>[0-9][0-9_.]*)\s*(?P<unit>[a-z$]*)(?:/(?P<window>[0-9a-z]+))?", re.IGNORECASE)
_UNITS = {
    "": "requests", "r": "requests", "req": "requests", "request": "requests", "requests": "requests",
    "t": "tokens", "tok": "tokens", "token": "tokens", "tokens": "tokens",
    "$": "cost", "usd": "cost", "dollars": "cost",
}  # fmt: skip
# Limits that have a key of their own; all others go into the general form, `windows`.
_NAMED = {
    ("requests", "day"): "daily_requests",
    ("requests", "month"): "monthly_requests",
    ("tokens", "1m"): "tokens_per_minute",
    ("tokens", "day"): "daily_tokens",
    ("tokens", "month"): "monthly_tokens",
    ("cost", "day"): "daily_cost",
    ("cost", "month"): "monthly_cost",
    ("cost", "total"): "total_cost",
}
_CALENDAR = {"d": "day", "day": "day", "week": "week", "w": "week", "month": "month", "total": "total"}


class BadLimit(ValueError):
    """A limit that cannot be understood; the text says why."""


def read_limits(texts: list[str], concurrency: int | None = None) -> dict[str, Any]:
    """The `[limits]` table that the options ask for. Raises: BadLimit."""
    limits: dict[str, Any] = {}
    if concurrency is not None:
        limits["concurrency"] = concurrency
    for text in texts:
        _add(limits, text, *_understood(text))
    return limits


def describe(limits: dict[str, Any]) -> list[str]:
    """The same in words, for people."""
    words = []
    for name, value in limits.items():
        if name == "rate":
            words.append(f"{value['requests']} requests in any {value['window']}")
        elif name == "windows":
            words += [_window_words(window) for window in value]
        else:
            words.append(f"{name.replace('_', ' ')} {value}" + (" USD" if name.endswith("cost") else ""))
    return words


def _understood(text: str) -> tuple[str, str, str]:
    """Amount, what is counted, window."""
    match = _LIMIT.fullmatch(text.strip())
    unit = _UNITS.get(match["unit"].lower()) if match else None
    if match is None or unit is None:
        raise BadLimit(f"limit {text!r}: expected {HELP}")
    window = match["window"] or "day"
    amount = match["amount"].replace("_", "")
    _check_amount(text, unit, amount)
    return amount, unit, _window(text, window)


def _check_amount(text: str, unit: str, amount: str) -> None:
    if unit == "cost":
        if not MONEY_RE.fullmatch(amount):
            raise BadLimit(f"limit {text!r}: a cost is digits, with at most 6 after the point")
    elif not amount.isdigit():
        raise BadLimit(f"limit {text!r}: {unit} are counted in whole numbers")


def _window(text: str, window: str) -> str:
    if window.lower() in _CALENDAR:
        return _CALENDAR[window.lower()]
    window = {"m": "1m", "min": "1m", "minute": "1m", "h": "1h", "hour": "1h"}.get(window.lower(), window)
    try:
        seconds(window)
    except Bad:
        raise BadLimit(f"limit {text!r}: {window!r} is not a duration (1m, 5h), day, week, month or total") from None
    return window


def _add(limits: dict[str, Any], text: str, amount: str, unit: str, window: str) -> None:
    name = _NAMED.get((unit, window))
    if name is None and window == "total":
        raise BadLimit(f"limit {text!r}: only a cost can be limited over the life of a key")
    value: str | int = amount if unit == "cost" else int(amount)
    if name is not None:
        if name in limits:
            raise BadLimit(f"limit {text!r}: {name} is given twice")
        limits[name] = value
    elif unit == "requests" and window not in ("week",) and "rate" not in limits:
        limits["rate"] = {"requests": value, "window": window}
    else:
        limits.setdefault("windows", []).append({"window": window, unit: value})


def _window_words(window: dict[str, Any]) -> str:
    parts = [f"{value} {'USD' if name == 'cost' else name}" for name, value in window.items() if name != "window"]
    return f"{', '.join(parts)} in a {window['window']}"
