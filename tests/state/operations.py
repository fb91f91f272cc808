"""Operations of a state store, with dull defaults."""

from __future__ import annotations

from relayd.core.quota.usage_record import UsageRecord
from relayd.state.contract import Admit, Report, Reported, Store, Term

DAY = "2027-01-15"  # of 1_800_000_000 s


def record(**changes: object) -> UsageRecord:
    values = {"day": DAY, "key": "dev", "account": "main", "model": "claude-opus-5-5", "input": 7, "cost": 3}
    return UsageRecord(**{**values, **changes})  # type: ignore[arg-type]


def admit(call: str, terms: tuple[Term, ...] = ()) -> Admit:
    return Admit(call=call, terms=terms, orphan=record())


def booked(store: Store) -> int:
    """The requests in a store's books."""
    (answer,) = store.apply([Report(first="2000-01-01", last="2100-01-01")])
    assert isinstance(answer, Reported)
    return sum(row.requests for row in answer.rows)
