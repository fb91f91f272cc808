"""Usage rows: records as flat tuples, the form in which stores and journals keep them.

Rule: the order is fixed: day, key, account, model, then COUNTS. apply.lua counts on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from relayd.core.quota.usage_record import COUNTS, UsageRecord

Row = tuple[str | int, ...]

NAMES = ("day", "key", "account", "model", *COUNTS)

_fields = attrgetter(*NAMES)


def to_row(record: UsageRecord) -> Row:
    """A record as a flat tuple."""
    row: Row = _fields(record)
    return row


def from_row(row: Sequence[str | int]) -> UsageRecord:
    """A flat tuple as a record. Raises: ValueError, TypeError, OverflowError when it is not one."""
    if not all(isinstance(name, str) for name in row[:4]):
        raise TypeError("a record's day, key, account and model are texts")
    return UsageRecord(**dict(zip(NAMES, row, strict=True)))  # type: ignore[arg-type]


def negative(row: Row) -> Row:
    """What takes a recorded row back."""
    return (*row[:4], *(-count for count in row[4:] if isinstance(count, int)))


def amount(record: UsageRecord | None, unit: str) -> int:
    """What a record takes of a term with that unit; of none, nothing."""
    if record is None:
        return 0
    if unit == "requests":
        return record.requests
    return record.cost if unit == "cost" else record.tokens
