"""relayd as a later release might be, for tests of an upgrade: another version, and a state with one more migration.

python -m next_release run ...
"""

from __future__ import annotations

import sys

import relayd

relayd.__version__ = "99.0.0"

from relayd.cli import main  # noqa: E402
from relayd.state import sqlite_file  # noqa: E402

NEXT = (
    "ALTER TABLE books ADD COLUMN region TEXT NOT NULL DEFAULT '';\n"
    "ALTER TABLE open ADD COLUMN region TEXT NOT NULL DEFAULT '';\n"
    "CREATE TABLE regions (name TEXT PRIMARY KEY) WITHOUT ROWID;\n"
    "CREATE INDEX books_key ON books (key)"
)
sqlite_file.MIGRATIONS = (*sqlite_file.MIGRATIONS, NEXT)
sqlite_file.open_file.__defaults__ = (sqlite_file.MIGRATIONS,)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
