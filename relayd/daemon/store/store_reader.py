"""Store reader: what pages and reports ask of the state store, through a connection of its own.

Rule: it only reads, and no call ever waits for it: a report of ten thousand keys takes a hundred milliseconds, and the
batcher's connection carries admissions meanwhile. While the batcher knows the store to be away, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import attrs

from relayd.daemon.beside import Beside, Made
from relayd.daemon.store.batcher import Batcher
from relayd.state.contract import (
    Answer,
    FindCalls,
    Gather,
    Peek,
    Report,
    Store,
    StoreMisfit,
    StoreUnavailable,
)

REPEATED = 50  # times as long as it took to make, an answer is told again
LONGEST = 10.0  # s
MOST_KNOWN = 16

Reads = FindCalls | Gather | Peek | Report


@attrs.define(eq=False)
class StoreReader:
    """Reads beside calls.

    Args:
        main: who knows whether the store is there.
        store: the same one through another connection; None asks `main`, as a store in memory has to.
        wall: Unix time, s.
    """

    main: Batcher
    store: Store | None
    beside: Beside = attrs.field(repr=False)
    wall: Callable[[], float]
    _turn: Lock = attrs.field(factory=Lock, init=False, repr=False)
    _known: dict[Reads, tuple[float, Answer]] = attrs.field(factory=dict, init=False, repr=False)  # until when

    async def ask(self, op: Reads) -> Answer:
        """The store's answer. Raises: StoreUnavailable."""
        return await self.ask_and(op, _as_it_is)

    async def ask_and(self, op: Reads, then: Callable[[Answer], Made]) -> Made:
        """What a function makes of the store's answer, in the thread that has it. Raises: StoreUnavailable."""
        if self.store is None:
            return then(await self.main.ask(op))
        if not self.main.up:
            raise StoreUnavailable(self.main.session.reason)
        return await self.beside.run(self._read, op, then)

    def _read(self, op: Reads, then: Callable[[Answer], Made]) -> Made:
        assert self.store is not None
        with self._turn:
            until, answer = self._known.get(op, (0.0, None))
            began = self.wall()
            if answer is None or not began <= until <= began + LONGEST:  # also after a clock was set back
                answer = self._asked(self.store, op)
                self._remember(op, answer, began)
        return then(answer)

    def _asked(self, store: Store, op: Reads) -> Answer:
        try:
            (answer,) = store.apply([op])
        except StoreMisfit as error:
            raise StoreUnavailable(str(error)) from None
        return answer

    def _remember(self, op: Reads, answer: Answer, began: float) -> None:
        """A report that took long is told again for a while, so that nobody can keep the store at it."""
        now = self.wall()
        self._known = {known: one for known, one in self._known.items() if one[0] >= now}
        if isinstance(op, Report) and len(self._known) < MOST_KNOWN:
            self._known[op] = now + min(REPEATED * (now - began), LONGEST), answer

    def close(self) -> None:
        """Let go of the connection."""
        if self.store is not None:
            with self._turn:
                self.store.close()


def _as_it_is(answer: Answer) -> Answer:
    return answer
