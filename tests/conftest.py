"""Lets the tests of one room use what stands beside the tests of another."""

import math
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

sys.path.insert(0, str(Path(__file__).parent))
import import_paths

import_paths.add()

from relayd.daemon.net import polled_stream  # noqa: E402

# No test sees or makes an identity of the person who runs it; commands that a test starts inherit this.
_OWN = tempfile.TemporaryDirectory(prefix="relayd-tests-")
os.environ["XDG_CONFIG_HOME"] = _OWN.name

# Nor does a proxy of theirs come between a test and what it serves on this machine.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1,localhost,::1")))

# A shell starts a background job with SIGINT ignored, nohup with SIGHUP, and every process that a test starts would
# inherit it: it would then not hear what the test tells it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("relayd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relayd")


@pytest.fixture(params=["polled", "waiting"])
def both_forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test twice: with streams that the poller tells of their edges, and with streams that wait as trio does."""
    if request.param == "waiting":
        monkeypatch.setattr(polled_stream, "current_poller", lambda: None)


def clock_of(threshold: float, monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """A clock that jumps once nothing has happened for `threshold` s, and stands still while a thread of trio's works.

    Trio's own sees no thread at work, and jumps over what one was about to answer.
    """
    clock, run_sync, at_work = MockClock(autojump_threshold=threshold), trio.to_thread.run_sync, set[object]()

    async def watched(*args: Any, **kwargs: Any) -> Any:
        one = object()
        at_work.add(one)
        clock.autojump_threshold = math.inf
        try:
            return await run_sync(*args, **kwargs)
        finally:
            at_work.discard(one)
            if not at_work:
                clock.autojump_threshold = threshold

    monkeypatch.setattr(trio.to_thread, "run_sync", watched)
    return clock


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """Time stands still while anything happens, threads included, and jumps to the next deadline once nothing does."""
    return clock_of(0.0, monkeypatch)


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """As `autojump_clock`, once nothing has happened for 50 ms.

    For tests on real sockets within one process: what was sent is there at once, so that whoever waits for longer waits
    for time. Not for tests with other processes, which nobody sees at work.
    """
    return clock_of(0.05, monkeypatch)
