"""Pins: many of them are looked up at once."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from relayd.daemon.store.batcher import Batcher
from relayd.state.contract import GetPin, Pinned, StoreUnavailable

TOGETHER = 100  # looked up at once: they travel in one batch


async def pinned(store: Batcher, names: Sequence[str], ttl: int) -> dict[str, str | None]:
    """The values of pins by name; None for one that there is not.

    Args:
        ttl: ms that those which are found hold from now on.
    Raises: StoreUnavailable.
    """
    found: dict[str, str | None] = {}
    away: list[StoreUnavailable] = []

    async def look_up(name: str) -> None:
        """Raises nothing: it runs beside others, in a nursery that would wrap what it raised."""
        try:
            answer = await store.ask(GetPin(name=name, ttl=ttl))
        except StoreUnavailable as error:
            away.append(error)
            return
        if isinstance(answer, Pinned):
            found[name] = answer.value

    for start in range(0, len(names), TOGETHER):
        async with trio.open_nursery() as nursery:
            for name in names[start : start + TOGETHER]:
                nursery.start_soon(look_up, name)
    if away:
        raise away[0]
    return found
