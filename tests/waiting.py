"""Polling: how a test waits for what tells nobody that it has happened.

Rule: wait for the event, never for the clock. The patience is for a machine that is busy with other things; whoever
needs all of it has failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

PATIENCE = 120.0  # s


async def until(condition: Callable[[], object], what: str = "that") -> None:
    """Let the loop run until something has become so. Raises: AssertionError."""
    with trio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - it looks at the world, which has no event
            await trio.sleep(0.005)
        return
    raise AssertionError(f"waited {PATIENCE:g} s in vain for {what}")


def wait_until(condition: Callable[[], object], what: str = "that") -> None:
    """The same without a loop; what cannot be reached yet is waited for too. Raises: AssertionError."""
    deadline = time.monotonic() + PATIENCE
    while not _holds(condition):
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s in vain for {what}"
        time.sleep(0.02)


def _holds(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except OSError:
        return False
