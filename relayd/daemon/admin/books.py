"""Books: usage records of some days, for reports over HTTP.

Rule: days are asked for one by one, for a Redis does nothing else while it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.failsafe import RETRY
from relayd.state.contract import Report, Reported, StoreUnavailable
from relayd.state.report import days_between, grouped
from relayd.wire.refusal import Refusal

NOTHING: Mapping[str, int] = {"calls": 0, "errors": 0, "tokens": 0, "cost": 0}  # what pages show of records


async def usage_rows(state: Batcher, first: str, last: str, key: str = "") -> list[UsageRecord]:
    """The records of the days from `first` to `last`, both included; of one key, or ("") of all.

    Raises: Refusal 503 while the store is away.
    """
    rows: list[UsageRecord] = []
    for day in days_between(first, last):
        try:
            answer = await state.ask(Report(first=day, last=day, key=key))
        except StoreUnavailable as error:
            raise store_is_away(error) from None
        if not isinstance(answer, Reported):
            raise store_is_away(StoreUnavailable(str(answer)))
        rows += answer.rows
    return rows


def used_by(rows: Iterable[UsageRecord], field: str) -> dict[str, Mapping[str, int]]:
    """What pages show of records, by one of their fields, the dearest first; cost in micro-USD."""
    return {
        getattr(row, field): {"calls": row.requests, "errors": row.errors, "tokens": row.tokens, "cost": row.cost}
        for row in grouped(rows, (field,))
    }


def store_is_away(error: StoreUnavailable) -> Refusal:
    """What is answered then."""
    return Refusal(status=503, message=f"the state store is away: {error}", retry_after=RETRY)
