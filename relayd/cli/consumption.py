"""Consumption of keys, as the state store has booked it: for `key list` and `key show`.

Rule: nothing is counted, reaped or made here, and a store that cannot be read is a note, not an error: what a key may
do is in the tree. It works beside a running daemon; one report is one short transaction.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from relayd.cli.store import now_ms, open_state
from relayd.cli.tree import Stop
from relayd.config.snapshot import Snapshot
from relayd.core.quota.limits import day_of
from relayd.core.quota.usage_record import UsageRecord
from relayd.state.report import totals_of


class NoUsage(Exception):
    """Why there is nothing to show; "" when nothing has ever been booked."""


def consumption(args: argparse.Namespace, snapshot: Snapshot) -> Mapping[str, dict[str, Any]]:
    """By key id: `today` and `month` so far, each with requests, errors, tokens and cost.

    Args:
        args: of a verb with `--config` and `--state`.
    Raises: NoBooks.
    """
    scheme, _, rest = (args.state or snapshot.relay.state.url).partition(":")
    if scheme == "sqlite" and not (args.config / rest.removeprefix("//")).exists():
        raise NoUsage("")
    today = day_of(now_ms(), snapshot.relay.state.timezone)
    by_key: dict[str, list[UsageRecord]] = {key: [] for key in snapshot.keys}
    for row in _booked(args, snapshot, today):
        by_key.get(row.key, []).append(row)
    return {
        key: {"today": totals_of(row for row in rows if row.day == today), "month": totals_of(rows)}
        for key, rows in by_key.items()
    }


def _booked(args: argparse.Namespace, snapshot: Snapshot, today: str) -> Sequence[UsageRecord]:
    """The lines of the month. Raises: NoBooks."""
    try:
        books = open_state(args, snapshot)
    except Stop as error:
        raise NoUsage(str(error)) from None
    try:
        return books.rows(f"{today[:8]}01", today)
    except Stop as error:
        raise NoUsage(str(error)) from None
    finally:
        books.store.close()
