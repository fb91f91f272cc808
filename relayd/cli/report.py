"""relayd report: requests, errors, tokens and cost of some days, by key, account, model or day."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from relayd.cli.books import add_state, now_ms, open_books, pending_note
from relayd.cli.editing import Stop, compiled, guarded, print_json, print_table, say
from relayd.cli.options import add_config, add_json
from relayd.core.limits import day_of
from relayd.state.contract import Report, Reported
from relayd.state.report import (
    DIMENSIONS,
    LONGEST,
    DayError,
    day_of_word,
    days_between,
    report_document,
    span,
    split_dimensions,
)

USAGE = 2
# Columns of the table beside the dimensions; --csv and --json have every figure.
SHOWN = ("requests", "errors", "tokens", "input", "output", "cache_read", "cost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_state(parser)
    parser.add_argument(
        "--day", metavar="D", type=_checked, help="one day: YYYY-MM-DD, today (the default) or yesterday"
    )
    parser.add_argument("--from", metavar="D", type=_checked, dest="first", help="first day")
    parser.add_argument("--to", metavar="D", type=_checked, dest="last", help="last day (default: today)")
    parser.add_argument(
        "--by", metavar="A,B", type=_dimensions, default=("key",), help=f"rows by {', '.join(DIMENSIONS)} (key)"
    )
    form = parser.add_mutually_exclusive_group()
    add_json(form)  # type: ignore[arg-type]  # a group takes arguments as a parser does
    form.add_argument("--csv", action="store_true", help="print the rows as CSV")
    parser.epilog = (
        f"Days begin in [state].timezone and are kept for {LONGEST} of them. exit status: 0 reported, 1 failed, 2 usage"
    )


def main(args: argparse.Namespace) -> int:
    if args.day and (args.first or args.last):
        say("relayd report: --day is one day, --from and --to are several: give one or the other")
        return USAGE
    return guarded("report", report, args)


def report(args: argparse.Namespace) -> int:
    """Print the report."""
    snapshot = compiled(args)
    books = open_books(args, snapshot)
    try:
        today = day_of(now_ms(), snapshot.relay.state.timezone)
        first, last = _kept(*span(args.day or "", args.first or "", args.last or "", today))
        answer = books.ask(Report(first=first, last=last))
    except DayError as error:
        raise Stop(str(error)) from None
    finally:
        books.store.close()
    if not isinstance(answer, Reported):
        raise Stop(f"{books.store.name}: {answer}")
    document = report_document(answer.rows, first, last, args.by)
    if note := pending_note(books):
        say(f"note: {note}")
    if args.json:
        print_json({**document, "pending": books.pending})
    elif args.csv:
        _print_csv(document)
    else:
        _print_tables(document)
    return 0


def _kept(first: str, last: str) -> tuple[str, str]:
    """The days of these that the books still have. Says so where that is not all of them."""
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
    rows: Sequence[Mapping[str, Any]] = document["rows"]
    columns = list(rows[0]) if rows else [*document["by"], *SHOWN]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)


def _print_tables(document: Mapping[str, Any]) -> None:
    first, last = document["first"], document["last"]
    print(first if first == last else f"{first} to {last}")
    if not document["rows"]:
        print("nothing was booked")
        return
    print_table(_head(document["by"]), [_cells(row, document["by"]) for row in document["rows"]])
    rate = f"{document['error_rate']:.2%} of {document['requests']} requests failed"
    print(f"\ntotal: {document['tokens']} tokens, ${document['cost']}, {document['unique_keys']} keys, {rate}")
    if document["unpriced"]:
        print(f"{document['unpriced']} calls had a model without a price; their cost is not in here (prices.toml)")
    if "model" not in document["by"]:
        print("\ntop models")
        print_table(_head(["model"]), [_cells(row, ["model"]) for row in document["top_models"]])


def _head(by: Sequence[str]) -> list[str]:
    return [name.upper().replace("_", " ") for name in (*by, *SHOWN)]


def _cells(row: Mapping[str, Any], by: Sequence[str]) -> list[str]:
    return [str(row[name]) for name in (*by, *SHOWN)]
