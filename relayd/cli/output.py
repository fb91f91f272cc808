"""Output: what commands print, as text, tables and JSON, and how they write amounts and times.

Rule: results on stdout, talk on stderr. No control character of a name reaches the terminal.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any


def add_json(parser: argparse._ActionsContainer) -> None:
    """`--json`: the result as one JSON object on stdout."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_format(parser: argparse.ArgumentParser) -> None:
    """`--format`: reports for people, programs, code scanning, the workflows of GitHub, and comments on a change."""
    forms = ("text", "json", "sarif", "github", "markdown")
    parser.add_argument("--format", choices=forms, default="text", help="format of the report (default: text)")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")


def say(text: str) -> None:
    """Talk: to stderr."""
    print(text, file=sys.stderr)


def print_report(text: str) -> None:
    """Text that quotes files, of which the terminal may not be able to show every character."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(text)


def print_json(value: Any) -> None:
    """A value as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def print_result(args: argparse.Namespace, result: Mapping[str, Any]) -> int:
    """What a command did, which only --json prints. Returns the exit code 0."""
    if args.json:
        print_json(result)
    return 0


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, figures: Collection[str] = ()) -> None:
    """The lines of `table_lines`."""
    for line in table_lines(head, rows, figures=figures):
        print(line)


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]], *, figures: Collection[str] = ()) -> list[str]:
    """Columns padded to their longest entry; nothing but the head when there are no rows.

    Args:
        figures: heads of the columns that hold numbers, which stand at the right.
    """
    drawn = []
    lines = [list(head), *([_visible(cell) for cell in row] for row in rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(head))]
    right = [name in figures for name in head]
    for line in lines:
        padded = [
            " " * (width - _width(cell)) + cell if at_right else cell + " " * (width - _width(cell))
            for cell, width, at_right in zip(line, widths, right, strict=True)
        ]
        drawn.append("  ".join(padded).rstrip())
    return drawn


def clipped(line: str, columns: int) -> str:
    """As much of a line as fits; what cannot be shown is a question mark."""
    line = "".join(char if char.isprintable() else "?" for char in line)
    if _width(line) <= columns:
        return line
    while line and _width(line) > columns - 1:
        line = line[:-1]
    return f"{line}…"


def moment(when: datetime.datetime | None) -> str:
    """A time for people and scripts, to the second; "" for none."""
    return "" if when is None else when.isoformat(timespec="seconds").replace("+00:00", "Z")


def read_moment(text: str) -> datetime.datetime:
    """A time that `moment` wrote."""
    return datetime.datetime.fromisoformat(text)


def span(seconds: float) -> str:
    """The two largest units that matter."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def number(count: int) -> str:
    """A count for people: 1,234,567."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """`1 file`, `1,200 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def money(usd: str) -> str:
    """An exact cost for people: to a hundredth of a cent, so that a column of them lines up."""
    amount = Decimal(usd)
    return "<0.0001" if 0 < amount < Decimal("0.0001") else f"{amount:,.4f}"


def amount(unit: str, value: Any) -> str:
    """How much of a limit: `$0.2500` of cost, `1,200` of requests or tokens."""
    return f"${money(value)}" if unit == "cost" else number(value)


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _visible(cell: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in cell) or "-"


def _plain(value: object) -> Any:
    if isinstance(value, datetime.datetime):
        return moment(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
