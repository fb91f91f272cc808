"""The state store on the command line: how verbs open it, and what it tells them of keys.

Rule: each question is one short transaction of its own, so a daemon may run meanwhile; what is written is what a daemon
would write (wake.py). A store that
does not exist is not made: whoever asks for it looks in the wrong place, or has not started the daemon yet.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from relayd.cli.output import say
from relayd.cli.tree import Stop
from relayd.config.snapshot import Snapshot, State
from relayd.core.balancing.pool import Pool
from relayd.core.cluster import steadied
from relayd.core.quota.limits import Term
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import day_of
from relayd.daemon.paths import state_directory, state_login
from relayd.noun import noun
from relayd.state.contract import (
    Answer,
    Gather,
    Gathered,
    Op,
    Peek,
    Report,
    Reported,
    Store,
    StoreMisfit,
    StoreUnavailable,
    TermLevels,
)
from relayd.state.opening import open_store
from relayd.state.report import days_between, totals_of

PATIENCE = 5.0  # s


@noun(kw_only=True)
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

    def levels(self, terms: Sequence[Term]) -> TermLevels:
        """How much of these limits is used. Raises: Stop."""
        answer = self.ask(Peek(terms=tuple(terms)))
        if not isinstance(answer, TermLevels):
            raise Stop(f"{self.store.name}: {answer}")
        return answer

    def rows(self, first: str, last: str) -> list[UsageRecord]:
        """The records of some days, both included; day by day, because Redis does nothing else while it reads.

        Raises: Stop.
        """
        found: list[UsageRecord] = []
        for day in days_between(first, last):
            answer = self.ask(Report(first=day, last=day))
            if not isinstance(answer, Reported):
                raise Stop(f"{self.store.name}: {answer}")
            found += answer.rows
        return found

    def note_pending(self) -> None:
        """Say what the figures do not hold yet."""
        if self.pending:
            text = "settlements wait in the journal and are not in these figures (the store was away)"
            say(f"note: {self.pending} {text}")


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


def store_of(args: argparse.Namespace, realm: str, state: State) -> Store:
    """The store that `--state` names, else the tree; nothing is connected yet. Raises: StoreMisfit, ValueError."""
    url, password = state_login(args.state, state, os.environ)
    return open_store(url, realm=realm, clock=now_ms, password=password, base=args.config, patience=PATIENCE)


@contextmanager
def open_state(args: argparse.Namespace, snapshot: Snapshot) -> Iterator[StateReader]:
    """The store of a tree, for as long as it is needed. Raises: Stop that names the place and what to do."""
    reader = _opened(args, snapshot)
    try:
        yield reader
    finally:
        reader.store.close()


def load_health(state: StateReader, pool: Pool, now: float) -> float:
    """Tell a pool what the daemons have noted of their accounts. Raises: Stop.

    Returns: how far the store's clock is ahead of ours, s; the notes go by it.
    """
    answer = state.ask(Gather(topic="health"))
    if not isinstance(answer, Gathered):
        return 0.0
    ahead = steadied(0.0, answer.now / 1000 - now)
    for note in answer.notes:
        try:
            pool.load_health(note.name, msgspec.json.decode(note.body, type=dict), now, ahead)
        except msgspec.DecodeError:
            continue
    return ahead


def _opened(args: argparse.Namespace, snapshot: Snapshot) -> StateReader:
    base: Path = args.config
    url = args.state or snapshot.relay.state.url
    _refuse_missing(url, base)
    try:
        store = store_of(args, snapshot.relay.realm, snapshot.relay.state)
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


def _pending(url: str, base: Path) -> int:
    from relayd.daemon.store.journal import decode_lines

    found = 0
    for path in sorted((state_directory(url, base) / "journal").glob("settlements-*.journal")):
        try:
            found += sum(entry is not None for entry in decode_lines(path.read_bytes()))
        except OSError:
            continue  # it was replayed and deleted just now
    return found


class NoUsage(Exception):
    """Why there is nothing to show; "" when nothing has ever been recorded."""


def consumption(args: argparse.Namespace, snapshot: Snapshot) -> Mapping[str, dict[str, Any]]:
    """By key id: `today` and `month` so far, each with requests, errors, tokens and cost.

    A store that cannot be read is a note, not an error: what a key may do is in the tree.

    Args:
        args: of a verb with `--config` and `--state`.
    Raises: NoUsage.
    """
    scheme, _, rest = (args.state or snapshot.relay.state.url).partition(":")
    if scheme == "sqlite" and not (args.config / rest.removeprefix("//")).exists():
        raise NoUsage("")
    today = day_of(now_ms(), snapshot.relay.state.timezone)
    by_key: dict[str, list[UsageRecord]] = {key: [] for key in snapshot.keys}
    try:
        with open_state(args, snapshot) as state:
            for row in state.rows(f"{today[:8]}01", today):
                by_key.get(row.key, []).append(row)
    except Stop as error:
        raise NoUsage(str(error)) from None
    return {
        key: {"today": totals_of(row for row in rows if row.day == today), "month": totals_of(rows)}
        for key, rows in by_key.items()
    }
