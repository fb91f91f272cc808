"""Consumption of keys, as the state store has booked it: for `key list` and `key show`.

Rule: nothing is counted, reaped or made here, and a store that cannot be read is a note, not an error: what a key may
do is in the tree. It works beside a running daemon; one report is one short transaction.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relayd.config.snapshot import Snapshot
from relayd.core.ledger import Record
from relayd.core.limits import day_of
from relayd.state.contract import Report, Reported, StoreMisfit, StoreUnavailable
from relayd.state.opening import open_store
from relayd.state.report import totals_of


class NoBooks(Exception):
    """Why there is nothing to show; "" when nothing has ever been booked."""


def consumption(snapshot: Snapshot, tree: Path) -> Mapping[str, dict[str, Any]]:
    """By key id: `today` and `month` so far, each with requests, errors, tokens and cost. Raises: NoBooks."""
    state = snapshot.relay.state
    url = os.environ.get("RELAYD_STATE_URL") or state.url
    if url.startswith("sqlite:") and not (tree / url.removeprefix("sqlite:").removeprefix("//")).exists():
        raise NoBooks("")
    today = day_of(_now_ms(), state.timezone)
    try:
        rows = _booked(url, snapshot, tree, today)
    except (StoreUnavailable, StoreMisfit, ValueError) as error:
        raise NoBooks(str(error)) from None
    by_key: dict[str, list[Record]] = {key: [] for key in snapshot.keys}
    for row in rows:
        by_key.get(row.key, []).append(row)
    return {
        key: {"today": totals_of(row for row in lines if row.day == today), "month": totals_of(lines)}
        for key, lines in by_key.items()
    }


def _booked(url: str, snapshot: Snapshot, tree: Path, today: str) -> Sequence[Record]:
    """The lines of the month. Raises: StoreUnavailable, StoreMisfit; ValueError for a password that cannot be read."""
    from relayd.daemon.run import state_password  # the daemon's own way to it

    store = open_store(url, realm=snapshot.relay.realm, clock=_now_ms, password=state_password(snapshot), base=tree)
    try:
        store.check()
        (answer,) = store.apply([Report(first=f"{today[:8]}01", last=today)])
    finally:
        store.close()
    if not isinstance(answer, Reported):
        raise StoreUnavailable(f"{store.name}: no report")
    return answer.rows


def _now_ms() -> int:
    return round(time.time() * 1000)
