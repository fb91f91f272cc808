"""Books: how verbs that look into the state store open it. No verb of its own.

Rule: only questions are asked, each in one short transaction of its own, so a daemon may run meanwhile. A store that
does not exist is not made: whoever asks of it has the wrong place, or has not started the daemon yet.
"""

from __future__ import annotations

import argparse
import os
import time
from decimal import Decimal
from pathlib import Path

import attrs

from relayd.cli.tree import Stop
from relayd.config.snapshot import Snapshot
from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.paths import state_directory, state_password
from relayd.state.contract import Answer, Op, Report, Reported, Store, StoreMisfit, StoreUnavailable
from relayd.state.opening import open_store
from relayd.state.report import days_between

PATIENCE = 5.0  # s


@attrs.frozen(kw_only=True)
class StateReader:
    """An open store.

    Args:
        pending: settlements that wait in this node's journal: they are not in the figures yet.
    """

    store: Store
    pending: int = 0

    def ask(self, op: Op) -> Answer:
        """Raises: Stop."""
        try:
            return self.store.apply([op])[0]
        except (StoreUnavailable, StoreMisfit) as error:
            raise Stop(f"{error} (is the store up?)") from None

    def rows(self, first: str, last: str) -> list[UsageRecord]:
        """The lines of some days, both included. Day by day, for a Redis does nothing else while it reads.

        Raises: Stop.
        """
        found: list[UsageRecord] = []
        for day in days_between(first, last):
            answer = self.ask(Report(first=day, last=day))
            if not isinstance(answer, Reported):
                raise Stop(f"{self.store.name}: {answer}")
            found += answer.rows
        return found


def add_state(parser: argparse.ArgumentParser) -> None:
    """`--state URL`, else RELAYD_STATE_URL, else [state].url."""
    parser.add_argument(
        "--state",
        metavar="URL",
        default=os.environ.get("RELAYD_STATE_URL", ""),
        help="state store instead of [state].url (RELAYD_STATE_URL)",
    )


def now_ms() -> int:
    """Unix ms: a command is its own composition root, so it asks the clock here."""
    return round(time.time() * 1000)


def open_state(args: argparse.Namespace, snapshot: Snapshot) -> StateReader:
    """The store of a tree. Raises: Stop that names the place and what to do."""
    url = args.state or snapshot.relay.state.url
    base: Path = args.config
    _refuse_missing(url, base)
    try:
        store = open_store(
            url,
            realm=snapshot.relay.realm,
            clock=now_ms,
            password=_password(url, snapshot),
            base=base,
            patience=PATIENCE,
        )
        store.check()
    except (StoreUnavailable, StoreMisfit, ValueError) as error:
        raise Stop(str(error)) from None
    return StateReader(store=store, pending=_pending(url, base))


def _refuse_missing(url: str, base: Path) -> None:
    scheme, _, rest = url.partition(":")
    path = base / rest.removeprefix("//")
    if scheme == "sqlite" and rest and not path.exists():
        raise Stop(
            f"{path}: there is no state yet (the daemon makes it when it first runs;"
            " --state or RELAYD_STATE_URL name another place)"
        )


def _password(url: str, snapshot: Snapshot) -> str:
    """Raises: ValueError."""
    if url.startswith("sqlite:"):
        return ""
    return state_password(snapshot.relay.state.password_file, os.environ)


def _pending(url: str, base: Path) -> int:
    from relayd.daemon.store.journal import decode_lines

    found = 0
    for path in sorted((state_directory(url, base) / "journal").glob("settlements-*.journal")):
        try:
            found += sum(entry is not None for entry in decode_lines(path.read_bytes()))
        except OSError:
            continue  # it was replayed and deleted just now
    return found


def pending_note(books: StateReader) -> str:
    """What is to be said of the journal; "" where it is empty."""
    if not books.pending:
        return ""
    return f"{books.pending} settlements wait in the journal and are not in these figures (the store was away)"


def number(count: int) -> str:
    """A count for people: 1,234,567."""
    return f"{count:,}"


def money(usd: str) -> str:
    """An exact cost for people: to a hundredth of a cent, so that a column of them lines up."""
    amount = Decimal(usd)
    return "<0.0001" if 0 < amount < Decimal("0.0001") else f"{amount:,.4f}"
