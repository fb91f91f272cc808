"""Recent calls: the receipts of the last calls of all nodes, for people who look for one.

Rule: never in a call's way. A receipt waits here until a second has passed; it is then written out in a thread and kept
by the store's own thread. When the store is away or too slow the newest wait, and the oldest are dropped: what counts
is in the books.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio

from relayd.core.receipt import Receipt
from relayd.daemon.access_log import CallLine, call_document, call_line
from relayd.daemon.beside import Beside
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_reader import StoreReader
from relayd.state.contract import Answer, FindCalls, FoundCalls, KeepCalls, KeptCall, StoreUnavailable

EVERY = 1.0  # s between two writes
TOGETHER = 25  # calls in one operation: half a millisecond of the store, for which a call's own may have to wait
PATIENCE = 0.5  # s that a question waits for what this node has just handed over
ROUNDS = 5  # questions for one answer; each goes through 2,000 calls, and 10,000 are kept by default
MOST_WAITING = 5_000  # receipts of about 1 KB


def _set() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


@attrs.define(eq=False, kw_only=True)
class RecentCalls:
    """This node's calls on their way to the store, and the way back.

    Args:
        most: how many the store shall keep; 0 keeps none.
        beside: where they are written out.
        line_of: the line of a call, which the log has made just before.
    """

    state: Batcher
    reader: StoreReader
    most: Callable[[], int]
    beside: Beside
    line_of: Callable[[Receipt], CallLine] = call_line
    dropped: int = attrs.field(default=0, init=False)  # that were never kept
    _told: int | None = attrs.field(default=None, init=False)  # how many the store was last told to keep
    _waiting: deque[tuple[Receipt, CallLine]] = attrs.field(factory=deque, init=False)
    _writing: trio.Event = attrs.field(factory=_set, init=False)  # the last write that was handed over has ended

    def record(self, receipt: Receipt) -> None:
        """Keep a call. Sync."""
        if self.most() > 0:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((receipt, self.line_of(receipt)))

    async def run(self) -> None:
        """Write until cancelled. What waits then is for `flush`."""
        while True:
            await trio.sleep(EVERY)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits, as far as the store takes it; have it forget what is too many now. Does not wait for the
        store."""
        while self.state.up and (self._waiting or self._told != self.most()):
            some = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
            kept = await self.beside.run(_written, some) if some else ()
            self._told = self.most()
            self._writing = trio.Event()
            self.state.submit_nowait(KeepCalls(calls=kept, most=self._told), self._written_down, aside=True)

    def _written_down(self, _: Answer) -> None:
        self._writing.set()

    async def find(self, wanted: FindCalls) -> FoundCalls:
        """Calls of all nodes, as many as are wanted, or as there are among those that ROUNDS questions look through.
        Those of other nodes' last second may not be among them yet. Raises: StoreUnavailable.
        """
        await self.flush()
        with trio.move_on_after(PATIENCE):
            await self._writing.wait()
        found: tuple[KeptCall, ...] = ()
        after = wanted.before
        for _ in range(ROUNDS):
            answer = await self.reader.ask(attrs.evolve(wanted, before=after, limit=wanted.limit - len(found)))
            if not isinstance(answer, FoundCalls):
                raise StoreUnavailable(str(answer))
            found, after = found + answer.calls, answer.after
            if after is None or len(found) >= wanted.limit:
                break
        return FoundCalls(calls=found, after=after)


def _written(calls: Sequence[tuple[Receipt, CallLine]]) -> tuple[KeptCall, ...]:
    return tuple(kept_call(receipt, line) for receipt, line in calls)


def kept_call(receipt: Receipt, line: CallLine) -> KeptCall:
    """A call as the store keeps it. Pure."""
    return KeptCall(
        id=receipt.call_id,
        at=round(receipt.started * 1000),
        key=receipt.key,
        account=receipt.account,
        model=line.model,
        client=receipt.client,
        outcome=receipt.outcome,
        status=receipt.status,
        body=call_document(receipt, line).decode(),
    )
