"""relayd report: requests, errors, tokens and cost of some days, by month, day, owner, key, account or model."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relayd.cli import add_config
from relayd.cli.output import add_json, counted, money, number, print_json, print_table, say
from relayd.cli.store import add_state, now_ms, open_state
from relayd.cli.tree import Stop, compiled, guarded
from relayd.config.snapshot import Snapshot
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import day_of
from relayd.state.report import (
    ASKED,
    FIGURES,
    LONGEST,
    DayError,
    day_of_word,
    days_between,
    owners_of,
    report_document,
    span,
    split_dimensions,
)

USAGE = 2
# Columns of the table beside the dimensions; --csv and --json have every figure.
COUNTED = ("requests", "errors", "tokens", "input", "output", "cache_read")
HEADS = (*(name.upper().replace("_", " ") for name in COUNTED), "COST USD")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_state(parser)
    parser.add_argument(
        "--day", metavar="D", type=_checked, help="one day: YYYY-MM-DD, today (the default) or yesterday"
    )
    parser.add_argument("--from", metavar="D", type=_checked, dest="first", help="first day")
    parser.add_argument("--to", metavar="D", type=_checked, dest="last", help="last day (default: today)")
    parser.add_argument(
        "--by",
        metavar="A,B",
        type=_dimensions,
        default=("key",),
        help=f"rows by {', '.join(ASKED)} (default: key)",
    )
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--csv", action="store_true", help="print the rows as CSV")
    form.add_argument("--html", metavar="FILE", type=Path, help="write a page with charts that needs nothing else")
    parser.epilog = (
        f"Days begin in [state].timezone; {LONGEST} of them are kept. exit status: 0 reported, 1 failed, 2 usage"
    )


def main(args: argparse.Namespace) -> int:
    if args.day and (args.first or args.last):
        say("relayd report: --day is one day, --from and --to are several: give one or the other")
        return USAGE
    return guarded("report", report, args)


def report(args: argparse.Namespace) -> int:
    """Print the report."""
    snapshot = compiled(args)
    try:
        with open_state(args, snapshot) as state:
            today = day_of(now_ms(), snapshot.relay.state.timezone)
            first, last = _kept(*span(args.day or "", args.first or "", args.last or "", today))
            rows = state.rows(first, last)
    except DayError as error:
        raise Stop(str(error)) from None
    document = report_document(rows, first, last, args.by, owners_of(snapshot))
    state.note_pending()
    if args.json:
        print_json({**document, "pending": state.pending})
    elif args.csv:
        _print_csv(document)
    elif args.html:
        _write_page(args.html, rows, (first, last), args.by, snapshot)
    else:
        _print_tables(document)
    return 0


def _write_page(
    file: Path, rows: Sequence[UsageRecord], days: tuple[str, str], by: tuple[str, ...], snapshot: Snapshot
) -> None:
    """Raises: Stop."""
    from relayd.daemon.admin.pages.render import html_file  # much of the daemon comes along: only for who wants a page
    from relayd.daemon.admin.pages.reports import report_page

    try:
        file.write_bytes(html_file(report_page(rows, days, by, owners_of(snapshot))))
    except OSError as error:
        raise Stop(f"{file}: cannot be written: {error.strerror}") from None
    say(f"wrote {file}")


def _kept(first: str, last: str) -> tuple[str, str]:
    """Those of the days that are still recorded. Says so where that is not all of them."""
    kept = days_between(first, last)
    if kept[0] != first:
        say(f"note: {LONGEST} days are kept; the report begins on {kept[0]}")
    return kept[0], last


def _checked(text: str) -> str:
    """A day as it was written; only a report knows which day `today` is."""
    try:
        day_of_word(text, "2000-01-01")
    except DayError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _dimensions(text: str) -> tuple[str, ...]:
    try:
        return split_dimensions(text)
    except DayError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _print_csv(document: Mapping[str, Any]) -> None:
    """RFC 4180: lines end with CR LF."""
    columns = [*document["by"], *FIGURES]
    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in document["rows"])


def _print_tables(document: Mapping[str, Any]) -> None:
    first, last = document["first"], document["last"]
    print(first if first == last else f"{first} to {last}")
    if not document["rows"]:
        print("nothing was recorded")
        return
    _print_rows(document["by"], document["rows"])
    rate = f"{document['error_rate']:.2%} of {number(document['requests'])} requests failed"
    keys = counted(document["unique_keys"], "key")
    print(f"\ntotal: {number(document['tokens'])} tokens, ${money(document['cost'])}, {keys}, {rate}")
    if document["unpriced"]:
        models = ", ".join(document["unpriced_models"][:5])
        calls = counted(document["unpriced"], "call")
        print(f"{calls} used a model without a price ({models}), so their cost is missing here (see prices.toml)")
    if "model" not in document["by"]:
        print("\ntop models")
        _print_rows(["model"], document["top_models"])


def _print_rows(by: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [
        [*(row[name] for name in by), *(number(row[name]) for name in COUNTED), money(row["cost"])] for row in rows
    ]
    print_table([*(name.upper() for name in by), *HEADS], cells, figures=HEADS)
