"""Copies of a state file: a whole one of a file in use, and a new one of rows that came from elsewhere.

Rule: a copy is one file, without a WAL, that nobody else writes. The file that is copied goes on being used.
Source: SQLite docs, "SQLite Backup API": a copy in one step is of one moment.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from relayd.state.sqlite_file import open_file

BUSY_MS = 5000
ROWS = 1000  # read at a time
TABLES = ("books", "buckets", "calls", "done", "notes", "open", "pins", "slots", "sums")


def copy_file(source: Path, target: Path) -> None:
    """A copy of a state file, with the tables that it has. Raises: OSError, also for what SQLite says."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            old.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise OSError(0, str(error), str(source)) from None


def write_rows(target: Path, rows: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
    """A new state file with these rows, each with its table; a row that comes again replaces itself."""
    with contextlib.closing(open_file(str(target), BUSY_MS)) as connection:
        connection.execute("BEGIN")
        for table, row in rows:
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = DELETE")


def bring_up_to_date(path: Path) -> None:
    """Give a copy the tables of this relayd. Raises: StoreMisfit for one of a newer relayd; OSError."""
    try:
        with contextlib.closing(open_file(str(path), BUSY_MS)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise OSError(0, str(error), str(path)) from None


def read_rows(path: Path) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """The rows of a copy, some at a time, each with its table. All rows of one rolling counter come together."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in TABLES:
            found = connection.execute(f"SELECT * FROM {table} ORDER BY 1")
            if table == "buckets":
                for _, rows in groupby(found, key=lambda row: row[0]):
                    yield table, list(rows)
            else:
                while some := list(islice(found, ROWS)):
                    yield table, some
