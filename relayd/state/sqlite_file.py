"""The file under the embedded back end: making it, its tables, and its checkpoints.

Theory of durability: `synchronous = NORMAL`. A commit is then a write to the WAL without fsync: it survives the death
of the process (`kill -9`), because the kernel has the bytes, and a power cut costs at most the commits since the last
checkpoint, never the integrity of the file (SQLite docs, "Write-Ahead Logging", section 6). What is counted here may
be lost with no worse than a fresher window, so an fsync for each batch (5 to 20 ms on common disks) would be a poor
bargain. Checkpoints do fsync: they run on a thread and a connection of their own, once the WAL has grown.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from pathlib import Path

from relayd.core.quota.usage_record import COUNTS
from relayd.noun import noun
from relayd.state.contract import StoreMisfit

MEMORY = ":memory:"
WAL_BYTES = 4 << 20  # a checkpoint is worth its fsync from here on (SQLite's own default is 1000 pages, about the same)
WAL_LARGEST = 64 << 20  # from here on writers are made to wait, so that the file shrinks for certain
PAGE = 2048  # bytes: a call changes a row on each of some nine pages, and whole pages are written
LOOK_EVERY = 64  # batches between two looks at the size of the WAL
TRIES = 100  # at emptying it, each a passive checkpoint of what has come meanwhile
ROUNDS = 2  # of passive checkpoints before writers wait: the first takes long, and much is written meanwhile
SPACING = 5.0  # s between checkpoints: under steady load the WAL never empties, and each syncs twice (see Checkpointer)

_TABLES = f"""
CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 1), seen INTEGER NOT NULL);
INSERT INTO clock VALUES (1, 0);
CREATE TABLE buckets (counter TEXT, bucket INTEGER, amount INTEGER NOT NULL, expires INTEGER NOT NULL,
  PRIMARY KEY (counter, bucket)) WITHOUT ROWID;
CREATE TABLE sums (counter TEXT, start INTEGER, amount INTEGER NOT NULL, expires INTEGER NOT NULL,
  PRIMARY KEY (counter, start)) WITHOUT ROWID;
CREATE TABLE slots (counter TEXT, holder TEXT, expires INTEGER NOT NULL, PRIMARY KEY (counter, holder)) WITHOUT ROWID;
CREATE TABLE open (id TEXT PRIMARY KEY, expires INTEGER NOT NULL, terms BLOB NOT NULL, orphan BLOB NOT NULL,
  checkpoint BLOB) WITHOUT ROWID;
CREATE TABLE done (id TEXT PRIMARY KEY, expires INTEGER NOT NULL, terms BLOB, record BLOB) WITHOUT ROWID;
CREATE INDEX done_expires ON done (expires);
CREATE TABLE books (day TEXT, key TEXT, account TEXT, model TEXT, {" INTEGER NOT NULL, ".join(COUNTS)} INTEGER NOT NULL,
  PRIMARY KEY (day, key, account, model)) WITHOUT ROWID;
CREATE TABLE pins (name TEXT PRIMARY KEY, value TEXT NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE notes (topic TEXT, name TEXT, version INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (topic, name))
  WITHOUT ROWID;
CREATE TABLE nodes (node TEXT PRIMARY KEY, body TEXT NOT NULL, seen INTEGER NOT NULL, expires INTEGER NOT NULL)
  WITHOUT ROWID;
"""
_HOLDING = """
ALTER TABLE open ADD COLUMN key TEXT NOT NULL DEFAULT '';
ALTER TABLE open ADD COLUMN likely INTEGER NOT NULL DEFAULT 0;
CREATE INDEX open_key ON open (key, likely) WHERE key <> '';
"""
_CALLS = """
CREATE TABLE calls (id TEXT PRIMARY KEY, at INTEGER NOT NULL, key TEXT NOT NULL, account TEXT NOT NULL,
  model TEXT NOT NULL, client TEXT NOT NULL, outcome TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX calls_at ON calls (at, id);
"""
# MIGRATIONS[n] leads from version n to n + 1; a new file walks through all of them. None that was released is changed:
# tests/state/test_migrations.py opens files of every version.
MIGRATIONS: tuple[str, ...] = (_TABLES, _HOLDING, _CALLS)


def open_file(path: str, busy: int, migrations: tuple[str, ...] = MIGRATIONS) -> sqlite3.Connection:
    """A connection to the state file, which is made with its directory if it is missing, for its owner alone.

    Args:
        busy: ms to wait for a lock.
    Raises: sqlite3.Error, OSError, StoreMisfit.
    """
    if path != MEMORY:
        _create(Path(path))
    connection = sqlite3.connect(
        path, timeout=busy / 1000, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        connection.execute(f"PRAGMA page_size = {PAGE}")  # of a new file; one that is there keeps its own
        if path != MEMORY:
            connection.execute("PRAGMA journal_mode = WAL")
        for pragma in ("synchronous = NORMAL", "wal_autocheckpoint = 0", "temp_store = MEMORY", "cache_size = -8192"):
            connection.execute(f"PRAGMA {pragma}")
        _migrate(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


@noun
class FileIdentity:
    """Which file a path named when it was opened, and its WAL. Two zeros: none, as of a database in memory.

    A path costs one stat(2) to look at, some 2 us.
    """

    device: int = 0
    inode: int = 0
    wal: int = 0

    @classmethod
    def of(cls, path: str) -> FileIdentity:
        """The file there now. Raises: OSError."""
        if path == MEMORY:
            return cls()
        found = os.stat(path)
        return cls(found.st_dev, found.st_ino, _inode(f"{path}-wal"))

    def replaced(self, path: str) -> bool:
        """Whether the path names another file by now, or none."""
        if not self.inode:
            return False
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False  # whoever writes will find out more
        return (found.st_dev, found.st_ino) != (self.device, self.inode)

    def remove_remains(self, path: str) -> None:
        """Remove the WAL of a file that is gone, before another file takes it for its own (SQLite docs, "How To
        Corrupt", 1.4)."""
        if self.wal and _inode(f"{path}-wal") == self.wal:
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(OSError):
                    os.unlink(f"{path}{suffix}")


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _create(path: Path) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives the WAL and the shared memory file the mode of the database. A file that is there must not be opened:
    # closing any descriptor of it drops every lock that this process has on it (fcntl(2), POSIX record locks; SQLite
    # docs, "How To Corrupt", 2.2), and then the next process to leave takes itself for the last one and deletes the WAL
    # under our connections.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass


def _migrate(connection: sqlite3.Connection, path: str, migrations: tuple[str, ...]) -> None:
    """Bring the tables up to date, in one transaction. Several processes may try at once."""
    newest = len(migrations)
    if _version(connection) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        if version > newest:
            raise StoreMisfit(
                f"sqlite:{path}: tables of version {version}, but this relayd knows only {newest}"
                " [run the newer relayd, or point state.url to another file]"
            )
        for script in migrations[version:]:
            for statement in script.split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # an error of the disk has ended it already
            connection.execute("ROLLBACK")
        raise


def set_aside_newer(path: str) -> str:
    """Move the file of a newer relayd out of the way. Where it is now; "" where there was none. Raises: OSError."""
    place = Path(path).absolute().as_uri()
    try:
        with contextlib.closing(sqlite3.connect(f"{place}?mode=ro", uri=True, timeout=1.0)) as connection:
            version = _version(connection)
    except sqlite3.Error:
        return ""  # none, or none that can be read: whoever opens it will say so
    if version <= len(MIGRATIONS):
        return ""
    aside = f"{path}.tables-{version}"
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


class Checkpointer:
    """Moves the WAL into the database when it has grown, on a thread of its own.

    A passive checkpoint waits for nobody and nobody waits for it, but for the disk. It empties the WAL only where there
    is a pause in the writing; without one the WAL grows to WAL_LARGEST and is then emptied while writers wait, for
    three syncs of little: some 10 ms on a disk that does nothing else. WAL_LARGEST is such that under the load of one
    core this comes every ten seconds, and so to fewer than one call in a hundred.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._wal = f"{path}-wal"
        self._batches = 0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._last = -SPACING
        self._thread = threading.Thread(target=self._work, name="relayd-checkpoint", daemon=True)
        self._thread.start()

    def count_batch(self) -> None:
        """A batch was committed."""
        self._batches += 1
        if self._batches % LOOK_EVERY == 0:
            self._wake.set()

    def stop(self) -> None:
        """End the thread, after the checkpoint that may be under way."""
        self._stop.set()
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(sqlite3.Error, OSError):
                self._look()

    def _look(self) -> None:
        size = os.stat(self._wal).st_size
        now = time.monotonic()
        spaced = now - self._last >= SPACING or size > WAL_LARGEST
        if size < WAL_BYTES or not spaced or self._stop.is_set():
            return
        self._last = now
        with contextlib.closing(sqlite3.connect(self._path, timeout=0, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            _move(connection, "PASSIVE")
            if size > WAL_LARGEST:
                for _ in range(ROUNDS):  # so that little is left for the time that writers wait
                    _move(connection, "PASSIVE")
                self._truncate(connection)
            _begin_anew(connection)

    def _truncate(self, connection: sqlite3.Connection) -> None:
        """Empty the WAL while writers wait, as soon as none is at it. SQLite's own waiting sleeps too long to find a
        gap. RESTART, which does not cut the file off, takes a third of the time, but leaves the beginning to the next
        writer: one without pauses was seen to go on at the end."""
        for _ in range(TRIES):
            if self._stop.is_set() or _move(connection, "TRUNCATE"):
                return
            time.sleep(0.001)


def _move(connection: sqlite3.Connection, how: str) -> bool:
    """A checkpoint. Whether nobody was in its way."""
    return not connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()[0]


def _begin_anew(connection: sqlite3.Connection) -> None:
    """Write something, for whoever writes first when all of the WAL was moved waits for the disk: SQLite syncs its new
    head. What is written is what is there; a row would be left alone then, a field of the file's head is not."""
    with contextlib.suppress(sqlite3.OperationalError):  # somebody else was first
        connection.execute("PRAGMA application_id = 0")


def inspect_file(path: str) -> tuple[int, str]:
    """The version of a file's tables, and what is wrong with the file ("" for nothing). It is not changed."""
    place = Path(path).absolute().as_uri()
    try:
        with contextlib.closing(sqlite3.connect(f"{place}?mode=ro", uri=True, timeout=1.0)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            return _version(connection), "" if found == "ok" else str(found)
    except sqlite3.Error as error:
        return 0, str(error)
