"""The same process begins anew: what is asked of it meanwhile is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# A process that begins anew as one that says whether it was told to stop.
ANEW = """
import os, signal, sys
from relayd.daemon.signals import EarlySignals
if "anew" in sys.argv:
    early = EarlySignals()
    early.hear_stops()
    print(os.getpid(), early.stop)
else:
    from relayd.daemon.hand_over import begin_anew
    if sys.argv[2] == "late":  # between the last look at what was noted and the new program
        os.execve, execve = lambda *how: (os.kill(os.getpid(), signal.SIGTERM), execve(*how)), os.execve
    print(os.getpid(), flush=True)
    sys.orig_argv[1:] = [*sys.orig_argv[1:], "anew"]
    workers = [0] if sys.argv[2] == "making" else []  # no pid yet
    begin_anew({}, workers, [], stop=sys.argv[2] == "early")
"""


@pytest.mark.parametrize(
    ("when", "told"), [("never", "False"), ("making", "False"), ("early", "True"), ("late", "True")]
)
def test_the_program_begins_anew_and_a_stop_that_comes_meanwhile_is_heard_by_the_new_one(when: str, told: str) -> None:
    done = subprocess.run([sys.executable, "-c", ANEW, "-", when], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    before, after, stop = done.stdout.split()
    assert before == after
    assert stop == told


def test_nothing_is_blocked_where_nothing_was_handed_over() -> None:
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert "RELAYD_HANDED_OVER" not in os.environ
