"""Kept items: what clients of Responses leave here between calls, for them alone to refer to.

Rule: bounded in size for each key and in time, and never in a call's way: keeping is a note to the store that nobody
waits for, and only a request that refers to something is looked up. An item is found by the key that was answered with
it, and by nobody else.

Theory: the AI SDK, unless it is told `store: false`, sends the items of earlier answers as mere ids. Items are pins of
the state store, whichever it is, so that any node can serve the next call; their text is locked under the item's id,
which the client has and the store has not (locked_text.py). How much a key has is counted by each node for what it
wrote itself; what a node wrote before it was started anew goes when its time is up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import attrs

from relayd.config.secrets.locked_text import lock, place, unlock
from relayd.config.snapshot import ApiKey, Snapshot
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.store.failsafe import RETRY
from relayd.daemon.store.pins import pinned
from relayd.daemon.store.state_client import StateClient
from relayd.state.contract import Pin, StoreUnavailable, Unpin
from relayd.wire.refusal import Refusal

LARGEST = 256 << 10  # bytes of an item; a larger one is not kept, and its client is told so when it refers to it
MOST_OF_A_KEY = 4 << 20  # bytes that a node keeps of a key; the oldest item goes first


@attrs.define
class _Shelf:
    """What this node keeps of one key: places and sizes, the oldest first."""

    items: deque[tuple[str, int]] = attrs.field(factory=deque)
    size: int = 0

    def add(self, at: str, size: int) -> list[str]:
        """Note an item; returns the places of those that go for it."""
        self.items.append((at, size))
        self.size += size
        gone: list[str] = []
        while self.size > MOST_OF_A_KEY:
            oldest, freed = self.items.popleft()
            self.size -= freed
            gone.append(oldest)
        return gone


@attrs.define(eq=False, kw_only=True)
class KeptItems:
    """The items that clients have left here.

    Args:
        state: where they are; None keeps nothing.
        large: where large bodies are read.
    """

    state: StateClient | None
    large: LargeBodies
    _shelves: dict[str, _Shelf] = attrs.field(factory=dict, init=False)  # by key id

    def keep(self, items: Iterable[tuple[str, bytes]], key: ApiKey, snapshot: Snapshot) -> None:
        """Keep items of an answer to `key`. Sync; should the store be away, they are not kept."""
        ttl = round(snapshot.relay.state.keep_items * 1000)
        if self.state is None or not ttl:
            return
        shelf = self._shelves.setdefault(key.id, _Shelf())
        for name, item in items:
            if len(item) <= LARGEST:
                at, text = _pin(name, key), lock(name, key.id, item)
                self.state.main.submit_nowait(Pin(name=at, value=text, ttl=ttl))
                for gone in shelf.add(at, len(text)):
                    self.state.main.submit_nowait(Unpin(name=gone))

    async def restored(self, body: bytes, key: ApiKey, snapshot: Snapshot) -> bytes:
        """A request with the items that it refers to, as far as they are kept. Raises: Refusal 503."""
        from relayd.wire.openai.references import may_refer, missing_items, with_items

        if self.state is None or not snapshot.relay.state.keep_items or not may_refer(body):
            return body
        names = await self.large.read(len(body), missing_items, body)
        if not names:
            return body
        places = {name: _pin(name, key) for name in names}
        try:
            texts = await pinned(self.state.main, list(places.values()), round(snapshot.relay.state.keep_items * 1000))
        except StoreUnavailable:
            message = (
                "input: the items that it refers to cannot be had right now: the relay's state store is unavailable."
            )
            raise Refusal(status=503, message=message, retry_after=RETRY, code="state_unavailable") from None
        found: dict[str, bytes] = {}
        for name, at in places.items():
            text = texts.get(at)
            item = unlock(name, key.id, text) if text else None
            if item is not None:
                found[name] = item
        return await self.large.read(len(body), with_items, body, found)


def _pin(name: str, key: ApiKey) -> str:
    return f"item/{place(name, key.id)}"
