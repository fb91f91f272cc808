"""Usage reports: usage records added up, for `relayd report`, `relayd usage` and the pages. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from relayd.config.snapshot import Snapshot
from relayd.core.quota.limits import dollars
from relayd.core.quota.usage_record import COUNTS, DIMENSIONS, UsageRecord
from relayd.state.contract import USAGE_MS

# What reports are made by: what a record has, and what is made of it (of which field).
MADE_OF = {"month": "day", "owner": "key"}
ASKED = ("month", "day", "owner", *DIMENSIONS[1:])
NOBODY: Mapping[str, str] = {}  # owners of keys, where nobody asks for them

LONGEST = USAGE_MS // 86_400_000  # days

# What each row of a report shows, in this order.
FIGURES = (
    "requests",
    "errors",
    "tokens",
    "cost",
    *(name for name in COUNTS if name not in ("requests", "errors", "cost")),
)


WORDS = {"today": 0, "yesterday": 1}  # days ago


class DayError(ValueError):
    """What was asked of a report cannot be read. The text is for whoever asked."""


def span(day: str, first: str, last: str, today: str) -> tuple[str, str]:
    """The days to report on, both included: one `day`, or from `first` to `last`; "" = not said. The default is today.

    Raises: DayError.
    """
    if day and (first or last):
        raise DayError("`day` is one day, `from` and `to` are several: give one or the other")
    end = day_of_word(day or last or "today", today)
    start = day_of_word(first, today) if first else end
    if start > end:
        raise DayError(f"the first day, {start}, is after the last, {end}")
    return start, end


def day_of_word(text: str, today: str) -> str:
    """YYYY-MM-DD from that, "today" or "yesterday". Raises: DayError."""
    try:
        date = datetime.date.fromisoformat(today if text in WORDS else text)
    except ValueError:
        raise DayError(f"{text!r} is not a day (YYYY-MM-DD, today, yesterday)") from None
    return (date - datetime.timedelta(days=WORDS.get(text, 0))).isoformat()


def split_dimensions(text: str) -> tuple[str, ...]:
    """Some of ASKED from their names, separated by commas. Raises: DayError."""
    names = {name.strip() for name in text.split(",")} - {""}
    if not names or not names <= set(ASKED):
        raise DayError(f"{text!r}: expected some of {', '.join(ASKED)}, separated by commas")
    return tuple(name for name in ASKED if name in names)


def owners_of(snapshot: Snapshot) -> Mapping[str, str]:
    """Whose each key is; one without an owner is its own."""
    return {name: key.owner or name for name, key in snapshot.keys.items()}


def name_in(row: UsageRecord, dimension: str, owners: Mapping[str, str]) -> str:
    """What a record is called in one of ASKED."""
    if dimension == "owner":
        return owners.get(row.key, row.key)
    name: str = row.day[:7] if dimension == "month" else getattr(row, dimension)
    return name


def days_between(first: str, last: str) -> list[str]:
    """The days YYYY-MM-DD from `first` to `last`, both included; the latest LONGEST of them. Raises: ValueError."""
    start, end = datetime.date.fromisoformat(first), datetime.date.fromisoformat(last)
    return days_up_to(last, min((end - start).days + 1, LONGEST))


def days_up_to(last: str, count: int) -> list[str]:
    """So many days YYYY-MM-DD, of which `last` is the last. Raises: ValueError; OverflowError before the year 1."""
    end = datetime.date.fromisoformat(last)
    return [(end - datetime.timedelta(days=back)).isoformat() for back in reversed(range(count))]


def grouped(rows: Iterable[UsageRecord], by: tuple[str, ...]) -> list[UsageRecord]:
    """Rows added up by some of DIMENSIONS; the others are "". Dearest first, then most requests, then by name."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        total = sums.setdefault(
            tuple(getattr(row, name) if name in by else "" for name in DIMENSIONS), [0] * len(COUNTS)
        )
        for position, name in enumerate(COUNTS):
            total[position] += getattr(row, name)
    found = [
        UsageRecord(day=day, key=key, account=account, model=model, **dict(zip(COUNTS, total, strict=True)))
        for (day, key, account, model), total in sums.items()
    ]
    return sorted(found, key=lambda row: (row.day, -row.cost, -row.requests, row.key, row.account, row.model))


def report_document(
    rows: Iterable[UsageRecord],
    first: str,
    last: str,
    by: tuple[str, ...] = ("key",),
    owners: Mapping[str, str] = NOBODY,
) -> dict[str, Any]:
    """`relayd report --json`: totals at the top level, then the rows by some of ASKED; costs as texts, in USD."""
    rows = list(rows)
    total = _total(rows)
    models = grouped(rows, ("model",))
    return {
        "first": first,
        "last": last,
        **_figures(total),
        "unique_keys": len({row.key for row in rows}),
        "unpriced_models": sorted(row.model for row in models if row.unpriced),
        "error_rate": round(total.errors / total.requests, 4) if total.requests else 0.0,
        "top_models": [{"model": row.model, **_figures(row)} for row in models[:10]],
        "by": list(by),
        "rows": [{**names, **_figures(row)} for names, row in _named(rows, by, owners)],
    }


def _named(
    rows: Sequence[UsageRecord], by: tuple[str, ...], owners: Mapping[str, str]
) -> Iterator[tuple[dict[str, str], UsageRecord]]:
    """Rows added up by some of ASKED, each with its names. A key that is asked for too says whose it is."""
    instead = {name: field for name, field in MADE_OF.items() if name in by and field not in by}
    if instead:
        renamed: list[dict[str, Any]] = [
            {field: name_in(row, name, owners) for name, field in instead.items()} for row in rows
        ]
        rows = [attrs.evolve(row, **names) for row, names in zip(rows, renamed, strict=True)]
    for row in grouped(rows, tuple(MADE_OF.get(name, name) for name in by)):
        yield {name: name_in(row, instead.get(name, name), owners) for name in by}, row


def totals_of(rows: Iterable[UsageRecord]) -> dict[str, Any]:
    """All rows added up, as the report shows figures."""
    return _figures(_total(rows))


def _total(rows: Iterable[UsageRecord]) -> UsageRecord:
    return next(iter(grouped(rows, ())), UsageRecord(day="", key="", account="", model="", requests=0))


def _figures(row: UsageRecord) -> dict[str, Any]:
    return {name: dollars(row.cost)[1:] if name == "cost" else getattr(row, name) for name in FIGURES}
