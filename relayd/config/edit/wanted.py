"""Wanted values: what a person writes into fields, as values of TOML; and a file that is to have them.

Rule: pure. Lists stand with commas or line breaks between their parts. What a value means is for the compiler to judge;
here only its type is.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from relayd.config.edit.toml_edit import EditError, Value, remove_value, set_value
from relayd.config.model.values import Bad, seconds
from relayd.config.snapshot import NAME, KeyPath

Fields = Mapping[str, str]

COUNTS = (
    "concurrency", "tokens_per_minute", "daily_requests", "monthly_requests", "daily_tokens", "monthly_tokens",
)  # fmt: skip
COSTS = ("daily_cost", "monthly_cost", "total_cost")  # USD
# The same limits on a command line: `--limit AMOUNT...`; concurrency has an option of its own.
_OPTIONS = {
    "tokens_per_minute": "{}tokens/1m", "daily_requests": "{}/day", "monthly_requests": "{}/month",
    "daily_tokens": "{}tokens/day", "monthly_tokens": "{}tokens/month", "daily_cost": "{}usd/day",
    "monthly_cost": "{}usd/month", "total_cost": "{}usd/total",
}  # fmt: skip


def words_of(fields: Fields, name: str) -> list[str] | None:
    """A list; None for an empty field."""
    return [part.strip() for part in re.split(r"[,\n]", fields.get(name, "")) if part.strip()] or None


def text_of(fields: Fields, name: str) -> str | None:
    """A text; None for an empty field."""
    return fields.get(name, "").strip() or None


def count_of(fields: Fields, name: str) -> int | None:
    """A whole number; None for an empty field. Raises: EditError."""
    text = fields.get(name, "").strip().replace("_", "").replace(",", "")
    if text and not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise EditError(f"{name}: expected a whole number, found {text[:40]!r}")
    return int(text) if text else None


def limits_of(fields: Fields) -> dict[str, Value | None]:
    """The limits that have a key of their own, by that key; costs are texts, as in the tree. Raises: EditError."""
    counts: dict[str, Value | None] = {name: count_of(fields, name) for name in COUNTS}
    return {**counts, **{name: text_of(fields, name) for name in COSTS}}


def limit_options(limits: Mapping[str, Value | None]) -> list[str]:
    """The same for `relayd key new`."""
    found = []
    for name, value in limits.items():
        if value is not None:
            found += (
                ["--concurrency", str(value)] if name == "concurrency" else ["--limit", _OPTIONS[name].format(value)]
            )
    return found


def id_of(fields: Fields, name: str = "id") -> str:
    """The id of an account, a key or a rule. Raises: EditError."""
    text = fields.get(name, "").strip()
    if not re.fullmatch(NAME, text):
        raise EditError(f"{name}: {text[:80]!r} is not an id (a-z, 0-9, - and _, at most 63 characters)")
    return text


def expiry(text: str, start: datetime.datetime) -> datetime.datetime:
    """A duration from `start` ("90d"), or a date or a time with an offset, in the future. Raises: EditError."""
    found = _expiry(text, start)
    if found <= start:
        raise EditError(f"expires {text}: {found.isoformat().replace('+00:00', 'Z')} is in the past")
    return found


def _expiry(text: str, start: datetime.datetime) -> datetime.datetime:
    try:
        return start + datetime.timedelta(seconds=seconds(text))
    except (Bad, OverflowError):
        pass
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise EditError(f"{text!r} is not a duration (90d), date (2027-11-22) or time (2027-11-22T00:00:00Z)") from None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def set_wanted(text: str, wanted: Mapping[KeyPath, Value | None]) -> str:
    """A file with these values, and without those that are None. What is so already is not touched.

    Raises: EditError.
    """
    for path, value in wanted.items():
        present = value_at(text, path)
        if value is None and present is not None:
            text = remove_value(text, path)
        elif value is not None and present != value:
            text = set_value(text, path, value)
    return text


def value_at(text: str, path: KeyPath) -> Any:
    """What stands in a file; None for nothing. Raises: EditError for what is not TOML."""
    try:
        found: Any = tomllib.loads(text)
    except ValueError as error:
        raise EditError(f"not TOML: {error} (mend it first)") from None
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    return found


def given(values: Mapping[str, Value | None]) -> dict[str, Value]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}
