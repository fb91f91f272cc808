"""Tables: one noun for the rows of a page, which is HTML, JSON and CSV under one URL.

Rule: pure. Values are plain: texts, numbers, times as Unix seconds, money in micro-USD, None for unknown; each form
writes them in its own way. A cell of CSV never begins a formula.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from relayd.core.quota.limits import dollars
from relayd.noun import noun

# "share" is of a limit that is used, "left" of one that is free; a "moment" is a time that is RFC 3339 already.
ColumnKind = Literal["text", "number", "money", "time", "moment", "duration", "share", "left", "bytes"]

# What a spreadsheet takes for a formula. Source: OWASP, "CSV Injection".
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@noun(kw_only=True)
class Column:
    """One column.

    Args:
        name: its field in JSON, its head in CSV; `column.NAME` is its head in HTML.
        link: field of the row that holds the URL behind the text; "" for none.
    """

    name: str
    kind: ColumnKind = "text"
    link: str = ""


@noun(kw_only=True)
class PageTable:
    """Rows of one kind.

    Args:
        rows: fields by the columns' names, and what templates want besides.
        after: the URL of the next rows; "" when these are the last.
    """

    name: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    after: str = ""

    def as_json(self) -> dict[str, Any]:
        """`{"rows": [...], "next": URL or null}`, fields in the order of the columns."""
        rows = [{column.name: plain(row.get(column.name), column.kind) for column in self.columns} for row in self.rows]
        return {"rows": rows, "next": self.after or None}

    def as_csv(self) -> str:
        """With a head. Source: RFC 4180."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow([column.name for column in self.columns])
        for row in self.rows:
            writer.writerow([_cell(plain(row.get(column.name), column.kind)) for column in self.columns])
        return out.getvalue()


def plain(value: Any, kind: ColumnKind) -> Any:
    """A value as programs read it: times as RFC 3339, money in USD as a text."""
    if value is None or value == "":
        return value
    if kind == "time":
        return datetime.datetime.fromtimestamp(value, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if kind == "money":
        return dollars(value)[1:]
    return value


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value
