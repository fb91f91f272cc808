"""Large bodies: what is computed from one runs in a thread, so that the other calls go on meanwhile.

Compressed ones are decoded here, since a small one may become large.

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

from relayd.noun import noun
from relayd.wire.content_coding import BodyDecoder, is_loaded
from relayd.wire.peek import LARGE

P = ParamSpec("P")
T = TypeVar("T")
AT_ONCE = 2
PORTION = 1 << 20  # bytes that are decoded before they are counted


@noun(eq=False)
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

    async def decode(self, coding: str, data: bytes, limit: int, took: Callable[[int], None]) -> bytes:
        """A compressed body as it was before.

        Args:
            limit: bytes that it may have then.
            took: told of bytes as they are decoded; may refuse them.
        Raises: Refusal 400, 413; what `took` raises.
        """
        decoder = await self.read(0 if is_loaded(coding) else LARGE, BodyDecoder, coding, data, limit)
        took(await self.read(len(data), decoder.run, LARGE))
        while not decoder.ended:
            took(await self.read(LARGE, decoder.run, PORTION))
        return await self.read(decoder.size, decoder.whole)
