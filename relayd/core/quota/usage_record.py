"""Usage records: what a call consumed, as one line of its day.

Rule: integers only, tokens and micro-USD, each from 0 to LARGEST whatever is handed in. A line is made once, from the
receipt; limits are charged with the same numbers that reports show, so that the two cannot drift apart.
"""

from __future__ import annotations

from operator import attrgetter

import attrs

from relayd.core.quota.call_estimate import Estimate
from relayd.core.quota.limits import LARGEST, bounded
from relayd.core.quota.windows import day_of
from relayd.core.receipt import Draft, Receipt
from relayd.noun import noun


@noun(kw_only=True)
class UsageRecord:
    """What one call, or all calls of one day, key, account and model, consumed."""

    day: str  # YYYY-MM-DD in `state.timezone`, the day on which the call began
    key: str
    account: str
    model: str
    requests: int = 1
    errors: int = 0
    unpriced: int = 0  # calls of a model that has no price
    input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0
    web_searches: int = 0
    cost: int = 0

    def __attrs_post_init__(self) -> None:
        counts = _counts_of(self)
        total = sum(counts)  # one look at all of them: a converter for each is what two records a call would pay for
        if type(total) is not int or total > LARGEST or min(counts) < 0:
            for name, amount in zip(COUNTS, counts, strict=True):
                setattr(self, name, bounded(amount))

    @property
    def tokens(self) -> int:
        """Tokens of every kind, as limits count them."""
        return min(self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read + self.output, LARGEST)


DIMENSIONS = ("day", "key", "account", "model")  # what reports are made by
COUNTS = tuple(field.name for field in attrs.fields(UsageRecord))[4:]
_counts_of = attrgetter(*COUNTS)


def record_of(receipt: Receipt | Draft, day: str, model: str) -> UsageRecord:
    """The line of a call that has ended, or of one as far as it is. An answer of 400 and above, and one that was cut,
    is an error.

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
