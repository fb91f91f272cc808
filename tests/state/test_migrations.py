"""State files of every version open, with all that is in them. vN.sql is such a file, as it was written then."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import FOREVER
from relayd.state.contract import (
    Admit,
    Denied,
    Gather,
    Gathered,
    GetPin,
    Granted,
    NodeList,
    Nodes,
    Peek,
    Pinned,
    Reap,
    Reaped,
    Report,
    Reported,
    Settle,
    Settled,
    TermLevels,
)
from relayd.state.sqlite import SqliteStore
from relayd.state.sqlite_file import MIGRATIONS, open_file, set_aside_newer

OLD = sorted(Path(__file__).parent.glob("v*.sql"), key=lambda path: int(path.stem[1:]))
NOW = 1_800_000_000_000  # when they were written, ms
BOOKED = UsageRecord(day="2027-01-15", key="dev", account="main", model="claude-opus-5-5", input=7, output=5, cost=3)
TERMS: tuple[Term, ...] = (
    Rolling(counter="key/dev/requests/1h", name="", unit="requests", limit=2, cost=1, window=3_600_000),
    Calendar(counter="key/dev/cost/total", name="", unit="cost", limit=99, cost=10, start=0, end=FOREVER),
    Slots(counter="key/dev/slots", name="", limit=4),
)


def old_file(path: Path, script: Path) -> str:
    """The file that `script` describes."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script.read_text())
    return str(path)


def version(path: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def test_there_is_a_file_of_every_version() -> None:
    assert [path.stem for path in OLD] == [f"v{number}" for number in range(1, len(MIGRATIONS) + 1)]


@pytest.mark.parametrize("script", OLD, ids=lambda path: path.stem)
def test_an_old_file_is_brought_up_to_date_and_nothing_in_it_is_lost(script: Path, tmp_path: Path) -> None:
    """It holds a call that is settled, one that is open with a checkpoint, a pin, a note and a node."""
    path = old_file(tmp_path / "relayd.db", script)
    moment = NOW
    with contextlib.closing(SqliteStore(path, clock=lambda: moment)) as store:
        assert store.apply([Report(first="2027-01-01", last="2027-01-31")]) == [Reported(rows=(BOOKED,))]
        peeked, pin, notes, nodes = store.apply(
            [Peek(terms=TERMS), GetPin(name="object/file_1"), Gather(topic="health"), Nodes()]
        )
        assert isinstance(peeked, TermLevels)
        assert [level.used for level in peeked.levels] == [2, 13, 1]
        assert pin == Pinned(value="main dev")
        assert isinstance(notes, Gathered)
        assert [note.body for note in notes.notes] == ["{}"]
        assert isinstance(nodes, NodeList)
        assert [node.node for node in nodes.nodes] == ["n1"]

        full, again, settled = store.apply(
            [
                Admit(call="new", terms=TERMS, orphan=BOOKED),
                Admit(call="open", terms=TERMS, orphan=BOOKED),
                Settle(call="settled", record=BOOKED),
            ]
        )
        assert isinstance(full, Denied)
        assert isinstance(again, Granted)
        assert again.again
        assert settled == Settled(outcome="again")

        moment += 60_000
        assert store.apply([Reap()]) == [Reaped(calls=(("open", BOOKED),))]
    assert version(path) == len(MIGRATIONS)


NEXT = (
    *MIGRATIONS,
    'ALTER TABLE books ADD COLUMN region TEXT NOT NULL DEFAULT "x";\nCREATE INDEX books_key ON books (key);',
)


def test_a_migration_is_carried_out_once_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = old_file(tmp_path / "relayd.db", OLD[-1])
    for _ in range(2):
        with contextlib.closing(open_file(path, 1000, NEXT)) as connection:
            rows = connection.execute("SELECT key, cost, region FROM books").fetchall()
            assert rows == [("dev", 3, "x")]
    assert version(path) == len(NEXT)


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = old_file(tmp_path / "relayd.db", OLD[-1])
    with pytest.raises(sqlite3.OperationalError, match="nothing"):
        open_file(path, 1000, (*NEXT, "DROP TABLE nothing"))
    assert version(path) == len(MIGRATIONS)
    with contextlib.closing(SqliteStore(path, clock=lambda: NOW)) as store:
        assert store.apply([Report(first="2027-01-15", last="2027-01-15")]) == [Reported(rows=(BOOKED,))]


def test_a_disk_that_ends_the_transaction_of_a_migration_is_named_and_not_what_came_of_it(tmp_path: Path) -> None:
    path = old_file(tmp_path / "relayd.db", OLD[-1])
    with pytest.raises(sqlite3.OperationalError, match="nothing"):
        open_file(path, 1000, (*NEXT, "ROLLBACK;\nDROP TABLE nothing"))  # as SQLite does by itself after such an error


def test_only_the_file_of_a_newer_relayd_is_moved_out_of_the_way(tmp_path: Path) -> None:
    path = old_file(tmp_path / "side.db", OLD[-1])
    assert set_aside_newer(path) == set_aside_newer(str(tmp_path / "none.db")) == ""
    open_file(path, 1000, NEXT).close()
    aside = set_aside_newer(path)
    assert aside == f"{path}.tables-{len(NEXT)}"
    assert {file.name.removesuffix("-wal").removesuffix("-shm") for file in tmp_path.iterdir()} == {Path(aside).name}
    assert version(aside) == len(NEXT)
