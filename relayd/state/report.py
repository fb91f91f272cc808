"""Report: the books added up, for `relayd report`, `relayd usage` and the pages. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from relayd.core.ledger import COUNTS, Record
from relayd.core.limits import dollars
from relayd.state.contract import USAGE_MS

LONGEST = USAGE_MS // 86_400_000  # days

DIMENSIONS = ("day", "key", "account", "model")
# What each row of a report shows, in this order.
FIGURES = (
    "requests",
    "errors",
    "tokens",
    "cost",
    *(name for name in COUNTS if name not in ("requests", "errors", "cost")),
)


def days_between(first: str, last: str) -> list[str]:
    """The days YYYY-MM-DD from `first` to `last`, both included; the latest LONGEST of them. Raises: ValueError."""
    start, end = datetime.date.fromisoformat(first), datetime.date.fromisoformat(last)
    start = max(start, end - datetime.timedelta(days=LONGEST - 1))
    return [(start + datetime.timedelta(days=n)).isoformat() for n in range((end - start).days + 1)]


def grouped(rows: Iterable[Record], by: tuple[str, ...]) -> list[Record]:
    """Rows added up by some of DIMENSIONS; the others are "". Dearest first, then most requests, then by name."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        total = sums.setdefault(
            tuple(getattr(row, name) if name in by else "" for name in DIMENSIONS), [0] * len(COUNTS)
        )
        for position, name in enumerate(COUNTS):
            total[position] += getattr(row, name)
    found = [
        Record(day=day, key=key, account=account, model=model, **dict(zip(COUNTS, total, strict=True)))
        for (day, key, account, model), total in sums.items()
    ]
    return sorted(found, key=lambda row: (row.day, -row.cost, -row.requests, row.key, row.account, row.model))


def report_document(rows: Iterable[Record], first: str, last: str, by: tuple[str, ...] = ("key",)) -> dict[str, Any]:
    """`relayd report --json`: totals at the top level, then the rows by some dimensions. Costs are strings, in USD."""
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
        "rows": [{**{name: getattr(row, name) for name in by}, **_figures(row)} for row in grouped(rows, by)],
    }


def totals_of(rows: Iterable[Record]) -> dict[str, Any]:
    """All rows added up, as the report shows figures."""
    return _figures(_total(rows))


def _total(rows: Iterable[Record]) -> Record:
    return next(iter(grouped(rows, ())), Record(day="", key="", account="", model="", requests=0))


def _figures(row: Record) -> dict[str, Any]:
    return {name: dollars(row.cost)[1:] if name == "cost" else getattr(row, name) for name in FIGURES}
