"""Shared traffic: what this node has seen of calls, told to the others by way of the store, and kept over restarts.

Rule: never in a call's way. A receipt is added to sums in memory; every few seconds they are written out in a thread
and published. What a killed process had not told is missing here, and is in the books all the same.

Theory: each node publishes its own sums and nobody else's, so nothing is counted twice; whoever asks adds up the notes
of all. When keys were last used is one fact for all nodes: their notes are merged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import msgspec
import trio

from relayd.core.live import Live
from relayd.core.quota.windows import day_of
from relayd.core.receipt import Receipt
from relayd.core.traffic import KeyUses, Traffic, read_traffic
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_reader import StoreReader
from relayd.state.contract import Answer, Gather, Gathered, Note, Publish, StoreUnavailable

EVERY = 10.0  # s between two tellings: some 15 KB
USES_EVERY = 6  # of those: the uses of ten thousand keys are some 300 KB
FRESH = 2.0  # s for which what others said is not asked anew
OLD = 40 * 86_400.0  # s after which the note of a node that is gone is emptied
TRAFFIC, USES = "traffic", "key-uses"

log = logging.getLogger("relayd.state")


@attrs.define(eq=False, kw_only=True)
class SharedTraffic:
    """Traffic of all nodes.

    Args:
        node: this node's name.
        wall: Unix time, s.
        own: what this node has seen.
        uses: of keys, on all nodes.
    """

    live: Live
    state: Batcher
    reader: StoreReader
    node: str
    wall: Callable[[], float]
    own: Traffic = attrs.field(factory=Traffic)
    uses: KeyUses = attrs.field(factory=KeyUses)
    complete: bool = attrs.field(default=False, init=False)  # the last question was answered: it is that of all nodes
    _others: dict[str, Traffic] = attrs.field(factory=dict, init=False)
    _heard: dict[str, int] = attrs.field(factory=lambda: {TRAFFIC: 0, USES: 0}, init=False)  # versions, by topic
    _asked: float = attrs.field(default=0.0, init=False)
    _restored: bool = attrs.field(default=False, init=False)
    _changed: bool = attrs.field(default=False, init=False)
    _day: tuple[int, str] = attrs.field(default=(0, ""), init=False)  # the quarter of an hour, and its day

    def record(self, receipt: Receipt) -> None:
        """Count one call, at its end. Sync."""
        quarter = int(receipt.started) // 900  # time zones differ by whole quarters
        if self._day[0] != quarter:
            self._day = quarter, day_of(quarter * 900_000, self.live.snapshot.relay.state.timezone)
        self.own.record(receipt, self._day[1])
        self.uses.record(receipt)
        self._changed = True

    async def run(self) -> None:
        """Tell until cancelled."""
        rounds = 0
        while True:
            await trio.sleep(EVERY)
            rounds += 1
            await self.tell(uses=rounds % USES_EVERY == 0)

    async def tell(self, *, uses: bool = True) -> None:
        """Tell what is new. Before the first time, what this node had told before it was started is taken up."""
        if not self.state.up or not (await self._restore()):
            return
        if self._changed:
            self._changed = False
            await self._publish(TRAFFIC, self.own.document())
        if uses and self.uses.changed:
            self.uses.changed = False
            self.uses.keep_only(self.live.snapshot.keys)
            await self._publish(USES, self.uses.document())

    async def _publish(self, topic: str, document: dict[str, Any]) -> None:
        body = await self.reader.beside.run(msgspec.json.encode, document)
        self.state.submit_nowait(Publish(topic=topic, name=self.node, body=body.decode()), aside=True)

    async def all(self) -> list[Traffic]:
        """That of each node, this one first. While the store is away, what is known (see `complete`)."""
        await self._restore()
        if self.wall() - self._asked >= FRESH or self._asked > self.wall():
            await self._gather()
        return [self.own, *self._others.values()]

    async def _restore(self) -> bool:
        """Take up what this node told before; whether that is done."""
        if not self._restored:
            await self._gather()
        return self._restored

    async def _gather(self) -> None:
        self._asked = self.wall()
        try:
            traffic = await self.reader.ask_and(Gather(topic=TRAFFIC, since=self._heard[TRAFFIC]), _notes)
            uses = await self.reader.ask_and(Gather(topic=USES, since=self._heard[USES]), _notes)
        except StoreUnavailable:
            self.complete = False
            return
        self.complete = True
        for note, document in uses:
            self._heard[USES] = note.version
            self._take(note, document, self.uses.merge)
        for note, document in traffic:
            self._heard[TRAFFIC] = note.version
            self._take(note, document, partial(self._hear, note.name))
        self._restored = True

    def _hear(self, name: str, document: Any) -> None:
        found = read_traffic(document)
        if name == self.node:
            if not self._restored:
                self.own = self.own.continued(found)
        elif found.newest < self.wall() - OLD:
            self._others.pop(name, None)
            self.state.submit_nowait(Publish(topic=TRAFFIC, name=name, body=""), aside=True)
        else:
            self._others[name] = found

    def _take(self, note: Note, document: Any, take: Callable[[Any], None]) -> None:
        if document is None:
            return
        try:
            take(document)
        except ValueError as error:
            log.warning("traffic.unreadable", extra={"node": note.name, "reason": str(error)[:200]})


def _notes(answer: Answer) -> list[tuple[Note, Any]]:
    """Notes with what they say; None for one that is empty or is not JSON."""
    if not isinstance(answer, Gathered):
        raise StoreUnavailable(str(answer))
    return [(note, _decoded(note.body)) for note in answer.notes]


def _decoded(body: str) -> Any:
    try:
        return msgspec.json.decode(body) if body else None
    except msgspec.DecodeError:
        return None
