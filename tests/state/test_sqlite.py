import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from operations import admit, booked, record
from waiting import wait_until

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term
from relayd.state.contract import (
    LONGEST_LEASE_MS,
    SETTLED_MS,
    USAGE_MS,
    Denied,
    GetPin,
    Granted,
    Peek,
    Pin,
    Ping,
    Pinned,
    Pong,
    Settle,
    StoreMisfit,
    StoreUnavailable,
    TermLevels,
    Unpin,
)
from relayd.state.sqlite import SqliteStore
from relayd.state.sqlite_file import LOOK_EVERY, MIGRATIONS, PAGE, WAL_BYTES, WAL_LARGEST, Checkpointer

NOW = 1_800_000_000_000
DAY = 86_400_000


def rolling(limit: int = 100) -> tuple[Term, ...]:
    return (Rolling(counter="r", name="", unit="requests", limit=limit, cost=1, window=3_600_000),)


def used(store: SqliteStore, terms: tuple[Term, ...]) -> int:
    (answer,) = store.apply([Peek(terms=terms)])
    assert isinstance(answer, TermLevels)
    return answer.levels[0].used


def store_at(path: Path, now: int = NOW, **options: object) -> SqliteStore:
    return SqliteStore(str(path / "relayd.db"), clock=lambda: now, **options)  # type: ignore[arg-type]


def test_the_file_is_made_with_its_directory_for_the_owner_alone(tmp_path: Path) -> None:
    store = store_at(tmp_path / "var" / "state")
    assert store.check() == []
    store.apply([Pin(name="p", value="x")])
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "var" / "state").iterdir()}
    assert modes == {"relayd.db": 0o600, "relayd.db-wal": 0o600, "relayd.db-shm": 0o600}
    assert (tmp_path / "var" / "state").stat().st_mode & 0o777 == 0o700
    store.close()


def test_what_was_counted_is_there_after_a_restart(tmp_path: Path) -> None:
    first = store_at(tmp_path)
    first.apply([admit("c1", rolling()), Pin(name="p", value="x")])
    first.close()
    second = store_at(tmp_path)
    assert used(second, rolling()) == 1
    assert second.apply([admit("c1", rolling()), GetPin(name="p")]) == [
        Granted(now=NOW, again=True),
        Pinned(value="x"),
    ]
    second.close()


def test_a_store_can_be_closed_twice_and_opens_again_by_itself(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.close()
    assert store.apply([Ping()]) == [Pong(now=NOW)]
    store.close()
    store.close()
    assert store.apply([Ping()]) == [Pong(now=NOW)]
    store.close()


KILLED = """
import itertools, os, sys
sys.path.insert(0, sys.argv[2]); import import_paths; import_paths.add()
from test_sqlite import Path, Settle, admit, record, rolling, store_at
store = store_at(Path(sys.argv[1]))
for n in itertools.count():
    store.apply([admit(f"c{n}", rolling(10**9))])
    store.apply([Settle(call=f"c{n}", record=record())])
    os.write(1, b"%d\\n" % n)
"""


def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parents[1])]
    told = -1
    for _ in range(3):
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(200):
                told = int(process.stdout.readline())
            process.kill()
            told = max([told, *map(int, process.stdout.read().split(b"\n")[:-1])])
        store = store_at(tmp_path)
        # One more may have been carried out than was told; ids begin anew each round, and count once.
        assert told + 1 <= booked(store) <= told + 2
        store.close()
        (tmp_path / "relayd.db").unlink()


def hammer(path: str, limit: int, number: int, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    store = SqliteStore(path, clock=lambda: NOW, busy=60_000)
    slots: tuple[Term, ...] = (*rolling(limit), Slots(counter="s", name="", limit=limit, ttl=60_000))
    granted = 0
    for batch in range(40):
        ops = [admit(f"p{number}-{batch}-{n}", slots) for n in range(8)]
        granted += sum(isinstance(answer, Granted) for answer in store.apply(ops))
    store.close()
    answers.put(granted)


def test_four_processes_admit_exactly_the_limit(tmp_path: Path) -> None:
    start = multiprocessing.get_context("spawn")
    answers = start.Queue()
    path = str(tmp_path / "relayd.db")
    workers = [start.Process(target=hammer, args=(path, 500, number, answers)) for number in range(4)]
    for worker in workers:
        worker.start()
    granted = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert sum(granted) == 500
    store = SqliteStore(path, clock=lambda: NOW)
    assert used(store, rolling(500)) == 500
    store.close()


def test_tables_of_a_newer_relayd_are_refused(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.apply([Ping()])
    store.close()
    connection = sqlite3.connect(tmp_path / "relayd.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    store = store_at(tmp_path)
    with pytest.raises(
        StoreMisfit, match=rf"version 99, but this relayd knows only {len(MIGRATIONS)} \[run the newer relayd"
    ):
        store.check()


def test_a_lock_held_by_somebody_else_is_an_outage_and_passes(tmp_path: Path) -> None:
    store = store_at(tmp_path, busy=50)
    store.apply([Ping()])
    other = sqlite3.connect(tmp_path / "relayd.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"relayd\.db: database is locked"):
        store.apply([admit("c1")])
    other.execute("COMMIT")
    other.close()
    assert isinstance(store.apply([admit("c1")])[0], Granted)
    store.close()


def test_reading_waits_for_no_writer_and_holds_none_up(tmp_path: Path) -> None:
    store, reader = store_at(tmp_path, busy=0), store_at(tmp_path, busy=0)
    store.apply([admit("c1", rolling()), Settle(call="c1", record=record())])
    other = sqlite3.connect(tmp_path / "relayd.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert (booked(reader), used(reader, rolling())) == (1, 1)
    other.execute("ROLLBACK")
    assert reader._connection is not None
    reader._connection.execute("BEGIN")
    reader._connection.execute("SELECT * FROM books").fetchall()  # a long report
    assert isinstance(store.apply([admit("c2", rolling())])[0], Granted)
    reader._connection.execute("COMMIT")
    other.close()
    reader.close()
    store.close()


def test_a_file_that_is_no_database_is_an_outage_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "relayd.db").write_bytes(b"this is no database, but long enough to be one" * 100)
    store = store_at(tmp_path)
    with pytest.raises(StoreUnavailable, match="file is not a database"):
        store.check()


def test_a_place_that_cannot_be_written_is_an_outage_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SqliteStore(str(tmp_path / "file" / "relayd.db"), clock=lambda: NOW)
    with pytest.raises(StoreUnavailable, match=r"file"):
        store.check()


def test_a_failed_batch_leaves_nothing_behind(tmp_path: Path) -> None:
    """A full disk in the middle of a batch: simulated by a limit on the number of pages."""
    store = store_at(tmp_path)
    store.apply([admit("c0", rolling())])
    assert store._connection is not None
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="full"):
        store.apply([admit("c1", rolling()), *(Pin(name=f"p{n}", value="x" * 3000) for n in range(100))])
    assert used(store, rolling()) == 1
    assert store.apply([GetPin(name="p0")]) == [Pinned(value=None)]
    store.close()


def test_dead_rows_are_swept_a_few_at_a_time_until_none_is_left(tmp_path: Path) -> None:
    moment = NOW
    store = SqliteStore(str(tmp_path / "relayd.db"), clock=lambda: moment, sweep_every=1)
    day = NOW // DAY * DAY
    for n in range(400):
        terms: tuple[Term, ...] = (
            Rolling(counter=f"r{n}", name="", unit="requests", limit=1, cost=1, window=60_000),
            Calendar(counter=f"c{n}", name="", unit="requests", limit=1, cost=1, start=day, end=day + DAY),
            Slots(counter=f"s{n}", name="", limit=1, ttl=60_000),
        )
        store.apply([admit(f"c{n}", terms), Pin(name=f"p{n}", value="x", ttl=1000)])
        store.apply([Settle(call=f"c{n}", record=record())])
    store.apply([Pin(name="kept", value="x")])
    moment += USAGE_MS + 40 * DAY + SETTLED_MS
    store.apply([Unpin(name="anything")])
    moment += LONGEST_LEASE_MS  # so long a leap of the clock is not believed
    for _ in range(10):
        store.apply([Unpin(name="anything")])
    assert store._connection is not None
    left = {
        table: store._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("buckets", "sums", "slots", "pins", "done", "open", "books")
    }
    assert left == {"buckets": 0, "sums": 0, "slots": 0, "pins": 1, "done": 0, "open": 0, "books": 0}
    store.close()


def test_the_log_is_moved_into_the_database_without_the_writer(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    wal = Path(f"{store.path}-wal")
    for n in range(LOOK_EVERY * 2):
        store.apply([Pin(name=f"p{n}-{m}", value="x" * 4000) for m in range(16)])
    written = wal.stat().st_size
    assert written > WAL_BYTES
    wait_until(lambda: Path(store.path).stat().st_size >= WAL_BYTES)
    # The next commits look again, and once all is moved they begin the log anew at its start.
    for _ in range(LOOK_EVERY * 2):
        store.apply([Unpin(name="anything")])
        time.sleep(0.001)
    store.apply([Pin(name=f"q{n}", value="x" * 4000) for n in range(100)])
    assert wal.stat().st_size <= written + WAL_BYTES
    store.close()
    assert not wal.exists()


def test_the_log_shrinks_also_while_somebody_writes_without_a_pause(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    wal, largest, n = Path(f"{store.path}-wal"), 0, 0
    deadline = time.monotonic() + 60
    while largest < WAL_LARGEST or wal.stat().st_size >= WAL_LARGEST:
        assert time.monotonic() < deadline
        store.apply([Pin(name=f"p{(n + m) % 500}", value=str(n) * 800) for m in range(16)])
        largest, n = max(largest, wal.stat().st_size), n + 1
    store.close()


def test_the_checkpointer_ends_when_told(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    checkpointer = Checkpointer(str(tmp_path / "none.db"))
    (thread,) = set(threading.enumerate()) - before
    checkpointer.stop()
    assert not thread.is_alive()


def test_an_admission_after_the_tombstone_is_a_new_call() -> None:
    moment = NOW
    store = SqliteStore(":memory:", clock=lambda: moment)
    store.apply([admit("c", rolling(1)), Settle(call="c", record=record())])
    moment += SETTLED_MS
    assert isinstance(store.apply([admit("c", rolling(1))])[0], Granted)
    assert isinstance(store.apply([admit("d", rolling(1))])[0], Denied)
    store.close()


def test_the_path_appears_in_names_and_errors_but_nothing_of_the_clock() -> None:
    store = SqliteStore("/nowhere/at/all.db", clock=lambda: NOW)
    assert store.name == "sqlite:/nowhere/at/all.db"
    assert "clock" not in repr(store)
    assert os.path.exists("/nowhere") is False


def test_an_error_of_the_disk_on_the_quick_way_waits_for_no_thread(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "state.db"), clock=lambda: NOW, busy=0)
    store.check()
    checkpoint_ends, stopped = threading.Event(), threading.Event()

    class Stuck:
        """A checkpoint that the disk does not finish."""

        def stop(self) -> None:
            checkpoint_ends.wait(60)
            stopped.set()

        def count_batch(self) -> None:
            pass

    assert store._connection is not None
    assert store._checkpointer is not None
    store._checkpointer.stop()
    store._checkpointer = Stuck()  # type: ignore[assignment]
    store._connection.close()
    broken = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)  # which has none of the tables
    store._connection = broken

    with pytest.raises(StoreUnavailable):
        store.apply_at_once([Pin(name="p", value="v")])

    assert not stopped.is_set()
    assert store.apply_at_once([Ping()]) is not None  # through a connection of its own
    checkpoint_ends.set()
    assert stopped.wait(60)
    store.close()


def test_an_operation_at_fault_on_the_quick_way_is_left_to_whoever_may_wait(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "state.db"), clock=lambda: NOW, busy=0)
    wrong = Pin(name="p", value=object())  # type: ignore[arg-type]

    assert store.apply_at_once([wrong]) is None
    assert store.apply_at_once([GetPin(name="p")]) == [Pinned(value=None)]
    store.close()


def test_who_waits_for_another_transaction_looks_every_millisecond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, pauses = store_at(tmp_path, busy=100), list[float]()
    store.apply([Ping()])
    other = sqlite3.connect(tmp_path / "relayd.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr("relayd.state.sqlite.time.sleep", pause)
    assert isinstance(store.apply([admit("c1")])[0], Granted)
    assert pauses == [0.001] * 3
    other.close()
    store.close()


def test_a_checkpoint_leaves_no_sync_to_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes first into an emptied WAL syncs its head; so the checkpoint does."""
    for name in ("WAL_BYTES", "WAL_LARGEST"):
        monkeypatch.setattr(f"relayd.state.sqlite_file.{name}", 1)
    store, wal = store_at(tmp_path), tmp_path / "relayd.db-wal"
    store.apply([admit(f"c{number}") for number in range(50)])
    grown = wal.stat().st_size
    assert store._checkpointer is not None
    store._checkpointer._look()
    head, frame = 32, 24 + PAGE
    assert wal.stat().st_size == head + frame < grown
    assert isinstance(store.apply([admit("c1")])[0], Granted)
    store.close()


def test_a_file_keeps_the_size_of_its_pages(tmp_path: Path) -> None:
    def size() -> int:
        with contextlib.closing(sqlite3.connect(tmp_path / "relayd.db")) as connection:
            found: int = connection.execute("PRAGMA page_size").fetchone()[0]
            return found

    with contextlib.closing(sqlite3.connect(tmp_path / "relayd.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    store = store_at(tmp_path)
    assert isinstance(store.apply([admit("c1")])[0], Granted)
    store.close()
    assert size() == 4096
    (tmp_path / "relayd.db").unlink()
    store.apply([Ping()])
    store.close()
    assert size() == PAGE
