"""Books: usage records of some days, for pages and reports over HTTP.

Rule: rows are added up by the store as far as it can, and what is left is done in the thread that has them: a day of
ten thousand keys is a tenth of a second of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.beside import Made
from relayd.daemon.store.failsafe import RETRY
from relayd.daemon.store.store_reader import StoreReader
from relayd.state.contract import Answer, Report, Reported, StoreUnavailable
from relayd.state.report import grouped
from relayd.wire.refusal import Refusal

NOTHING: Mapping[str, int] = {"calls": 0, "errors": 0, "tokens": 0, "cost": 0}  # what pages show of records


async def from_books(reader: StoreReader, asked: Report, make: Callable[[Sequence[UsageRecord]], Made]) -> Made:
    """What a function makes of usage records, in a thread. Raises: Refusal 503 while the store is away."""

    def made(answer: Answer) -> Made:
        if not isinstance(answer, Reported):
            raise StoreUnavailable(str(answer))
        return make(answer.rows)

    try:
        return await reader.ask_and(asked, made)
    except StoreUnavailable as error:
        raise store_is_away(error) from None


def used_by(rows: Iterable[UsageRecord], field: str) -> dict[str, Mapping[str, int]]:
    """What pages show of records, by one of their fields, the dearest first; cost in micro-USD."""
    return {
        getattr(row, field): {"calls": row.requests, "errors": row.errors, "tokens": row.tokens, "cost": row.cost}
        for row in grouped(rows, (field,))
    }


def store_is_away(error: StoreUnavailable) -> Refusal:
    """What is answered then."""
    return Refusal(status=503, message=f"the state store is away: {error}", retry_after=RETRY)
