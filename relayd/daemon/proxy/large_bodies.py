"""Large bodies: what is computed from one runs in a thread, so that the other calls go on meanwhile.

Rule: what is handed in is pure and sync; it may run to its end after the client that it was for has left.

Theory: the interpreter takes turns of 5 ms between threads, so each further thread takes a share of the loop's time.
Two at once are enough to keep a short reading from waiting behind a long one. A single step of the decoder is not
interrupted: it skips 200 MB/s at the least.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import attrs
import trio

from relayd.wire.peek import LARGE

P = ParamSpec("P")
T = TypeVar("T")
AT_ONCE = 2


@attrs.frozen(eq=False)
class LargeBodies:
    """Where bodies are read."""

    places: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(AT_ONCE))

    async def read(self, size: int, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `act` makes of a body of `size` bytes. A small one is read at once, without a checkpoint.

        Raises: what `act` raises.
        """
        if size < LARGE:
            return act(*args, **kwargs)
        return await trio.to_thread.run_sync(partial(act, *args, **kwargs), abandon_on_cancel=True, limiter=self.places)
