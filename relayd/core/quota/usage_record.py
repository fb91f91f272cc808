"""Usage records: what a call consumed, as one line of its day.

Rule: integers only, tokens and micro-USD, each from 0 to LARGEST whatever is handed in. A line is made once, from the
receipt; limits are charged with the same numbers that reports show, so that the two cannot drift apart.
"""

from __future__ import annotations

import attrs

from relayd.core.quota.limits import LARGEST, Estimate, bounded, day_of
from relayd.core.receipt import Receipt


def _count(default: int = 0) -> int:
    """A counted field."""
    field: int = attrs.field(default=default, converter=bounded)
    return field


@attrs.frozen(kw_only=True)
class UsageRecord:
    """What one call, or all calls of one day, key, account and model, consumed."""

    day: str  # YYYY-MM-DD in `state.timezone`, the day on which the call began
    key: str
    account: str
    model: str
    requests: int = _count(1)
    errors: int = _count()
    unpriced: int = _count()  # calls of a model that has no price
    input: int = _count()
    cache_write_5m: int = _count()
    cache_write_1h: int = _count()
    cache_read: int = _count()
    output: int = _count()
    web_searches: int = _count()
    cost: int = _count()

    @property
    def tokens(self) -> int:
        """Tokens of every kind, as limits count them."""
        return min(self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read + self.output, LARGEST)


COUNTS = tuple(field.name for field in attrs.fields(UsageRecord))[4:]


def record_of(receipt: Receipt, day: str, model: str) -> UsageRecord:
    """The line of a call that has ended. An answer of 400 and above, and one that was cut, is an error.

    Args:
        day: `day_of` its beginning.
        model: its name in the reports (model_names.py).
    """
    usage = receipt.usage
    return UsageRecord(
        day=day,
        key=receipt.key,
        account=receipt.account,
        model=model,
        errors=int(receipt.status >= 400 or receipt.outcome in ("cut", "failed")),
        unpriced=int(receipt.unpriced),
        input=usage.input,
        cache_write_5m=usage.cache_write_5m,
        cache_write_1h=usage.cache_write_1h,
        cache_read=usage.cache_read,
        output=usage.output,
        web_searches=usage.web_searches,
        cost=receipt.cost or 0,
    )


def orphan_of(key: str, model: str, reserved: Estimate, now_ms: int, tz: str) -> UsageRecord:
    """What is booked for a call that nobody settles, say after a power cut: its prompt, by estimate.

    Args:
        model: its name in the reports.
    """
    return UsageRecord(
        day=day_of(now_ms, tz),
        key=key,
        account="",
        model=model,
        errors=1,
        unpriced=int(reserved.cost is None),
        input=reserved.input,
        cost=reserved.input_cost or 0,
    )
