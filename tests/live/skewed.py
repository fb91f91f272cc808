"""relayd on a machine whose clock is wrong: `python -m skewed run ...`, so many seconds ahead as the environment says,
or a file that it names, which may change.

Only Unix time is; waiting goes by the monotonic clock, which no wrong date moves. relayd asks `time.time` alone
(tests/test_architecture.py), and so do the libraries that it uses for anything that is shared.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from relayd.config.atomic import replace_file

AHEAD = "TEST_CLOCK_AHEAD"


def clock_of(seconds: int | Path) -> dict[str, str]:
    """The environment of a process whose clock is so far ahead, or as far as is written there."""
    return {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}", AHEAD: str(seconds)}


def set_clock(clock: Path, seconds: int) -> None:
    """Have the processes of `clock_of(clock)` be so far ahead from now on; they never find it half written."""
    replace_file(clock, str(seconds).encode())


def ahead(said: str) -> Callable[[], int]:
    """How far it is ahead, s, whenever asked."""
    return (lambda: int(Path(said).read_text())) if said.startswith("/") else (lambda: int(said))


if __name__ == "__main__":
    right, right_ns, found = time.time, time.time_ns, ahead(os.environ[AHEAD])
    time.time = lambda: right() + found()
    time.time_ns = lambda: right_ns() + found() * 1_000_000_000

    from relayd.cli import main

    sys.exit(main(sys.argv[1:]))
