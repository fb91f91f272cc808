"""Recent calls: the receipts of the last calls of all nodes, for people who look for one.

Rule: never in a call's way. A receipt waits here until a second has passed; it is then written out in a thread and kept
by the store's own thread. When the store is away or too slow the newest wait, and the oldest are dropped: what counts
is in the books.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
import trio

from relayd.core.receipt import Receipt
from relayd.daemon.log import call_fields, scrub
from relayd.daemon.store.batcher import Batcher
from relayd.state.contract import FindCalls, FoundCalls, KeepCalls, KeptCall, StoreUnavailable

EVERY = 1.0  # s between two writes
TOGETHER = 100  # calls in one operation: about 2 ms of the store
MOST_WAITING = 5_000  # receipts of about 1 KB


@attrs.define(eq=False, kw_only=True)
class RecentCalls:
    """This node's calls on their way to the store, and the way back.

    Args:
        most: how many the store shall keep; 0 keeps none.
    """

    state: Batcher
    most: Callable[[], int]
    dropped: int = attrs.field(default=0, init=False)  # that were never kept
    _told: int | None = attrs.field(default=None, init=False)  # how many the store was last told to keep
    _waiting: deque[Receipt] = attrs.field(factory=deque, init=False)

    def record(self, receipt: Receipt) -> None:
        """Keep a call. Sync."""
        if self.most() > 0:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(receipt)

    async def run(self) -> None:
        """Write until cancelled. What waits then is for `flush`."""
        while True:
            await trio.sleep(EVERY)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits, as far as the store takes it; have it forget what is too many now."""
        while self.state.up and (self._waiting or self._told != self.most()):
            some = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
            kept = await trio.to_thread.run_sync(_written, some) if some else ()
            self._told = self.most()
            self.state.submit_nowait(KeepCalls(calls=kept, most=self._told), aside=True)

    async def find(self, wanted: FindCalls) -> FoundCalls:
        """Calls of all nodes; those of the last second may not be among them yet. Raises: StoreUnavailable."""
        await self.flush()
        answer = await self.state.ask(wanted)
        if not isinstance(answer, FoundCalls):
            raise StoreUnavailable(str(answer))
        return answer


def _written(receipts: Sequence[Receipt]) -> tuple[KeptCall, ...]:
    return tuple(kept_call(receipt) for receipt in receipts)


def kept_call(receipt: Receipt) -> KeptCall:
    """A receipt as the store keeps it. Pure."""
    return KeptCall(
        id=receipt.call_id,
        at=round(receipt.started * 1000),
        key=receipt.key,
        account=receipt.account,
        model=scrub(receipt.model),
        client=receipt.client,
        outcome=receipt.outcome,
        status=receipt.status,
        body=msgspec.json.encode(call_document(receipt)).decode(),
    )


def call_document(receipt: Receipt) -> dict[str, Any]:
    """All of a receipt as JSON values: the fields of the access log, and each attempt."""
    fields = {name: value for name, value in call_fields(receipt).items() if name not in ("level", "event")}
    fields["attempts"] = [
        {"account": one.account, "status": one.status, "reason": scrub(one.reason), "ms": round(one.seconds * 1000, 2)}
        for one in receipt.attempts
    ]
    return fields
