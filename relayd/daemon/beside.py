"""Work beside calls: long pieces of Python in a thread, while the loop is let in again at once.

Theory: Python runs one thread at a time, and a thread that has work keeps its turn for 5 ms while the loop waits; a
call passes the loop a dozen times, so that one page would cost it dozens of milliseconds. While such work is under way
turns are therefore short. They cost nothing otherwise, and little then: a turn is only cut where somebody waits for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import attrs
import trio

TURN = 0.0002  # s; below that changing turns costs more than it gives

Given = TypeVarTuple("Given")
Made = TypeVar("Made")


@attrs.define(eq=False)
class Beside:
    """A few threads for such work.

    Args:
        threads: how many pieces run at once; further ones wait.
    """

    threads: int = 2
    _room: trio.CapacityLimiter = attrs.field(init=False, repr=False)
    _under_way: int = attrs.field(default=0, init=False)
    _usual: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._room = trio.CapacityLimiter(self.threads)

    async def run(self, function: Callable[[Unpack[Given]], Made], *given: *Given) -> Made:
        """What a function makes, in a thread."""
        if not self._under_way:
            self._usual = sys.getswitchinterval()
            sys.setswitchinterval(TURN)
        self._under_way += 1
        try:
            return await trio.to_thread.run_sync(function, *given, limiter=self._room)
        finally:
            self._under_way -= 1
            if not self._under_way:
                sys.setswitchinterval(self._usual)
