"""relayd usage: the limits of keys, what is used of them and when they reset, as `GET /usage` tells a key's holder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from relayd.cli import add_config
from relayd.cli.output import add_json, amount, money, number, print_json, print_table
from relayd.cli.store import StateReader, add_state, open_state
from relayd.cli.tree import compiled, guarded, pick
from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.quota.limit_answers import usage_document
from relayd.core.quota.reservation import shown_terms
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import day_of
from relayd.state.report import totals_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", nargs="?", help="id of an API key (default: all keys)")
    add_config(parser)
    add_state(parser)
    add_json(parser)
    parser.epilog = "exit status: 0 shown, 1 failed, 2 usage"


def main(args: argparse.Namespace) -> int:
    return guarded("usage", usage, args)


def usage(args: argparse.Namespace) -> int:
    """Print the usage of one key or of all."""
    snapshot = compiled(args)
    keys = _keys(args.key, snapshot)
    with open_state(args, snapshot) as state:
        now = state.levels(()).now  # the store's clock decides what day it is; a Ping would write
        day = day_of(now, snapshot.relay.state.timezone)
        rows = state.rows(day, day)
        documents = [_document(state, snapshot, key, now, day, rows) for key in keys]
    state.note_pending()
    if args.json:
        ids = {key.id for key in keys}
        total = totals_of(row for row in rows if row.key in ids)
        print_json({"day": day, **total, "keys": documents, "pending": state.pending})
    else:
        _print_tables(documents, day)
    return 0


def _keys(wanted: str | None, snapshot: Snapshot) -> list[ApiKey]:
    if wanted is None:
        return [key for _, key in sorted(snapshot.keys.items())]
    return [pick(snapshot.keys, "key", wanted)]


def _document(
    state: StateReader, snapshot: Snapshot, key: ApiKey, now: int, day: str, rows: Sequence[UsageRecord]
) -> dict[str, Any]:
    terms = shown_terms(key, snapshot, now)
    levels = state.levels(terms)
    today = totals_of(row for row in rows if row.key == key.id)
    return {**usage_document(key, terms, levels.levels, levels.now), "today": {"day": day, **today}}


def _print_tables(documents: Sequence[dict[str, Any]], day: str) -> None:
    counts = ("requests", "errors", "tokens")
    figures = (*(name.upper() for name in counts), "COST USD")
    print(f"today, {day}")
    today = [
        (one["key"], one["owner"], *(number(one["today"][name]) for name in counts), money(one["today"]["cost"]))
        for one in documents
    ]
    print_table(("KEY", "OWNER", *figures), today, figures=figures)
    rows = [
        (
            one["key"],
            row["limit_name"],
            *(amount(row["unit"], row[name]) for name in ("used", "remaining")),
            row["resets_at"] or "",
        )
        for one in documents
        for row in one["limits"]
    ]
    if rows:
        print()
        print_table(("KEY", "LIMIT", "USED", "LEFT", "RESETS"), rows, figures=("USED", "LEFT"))
