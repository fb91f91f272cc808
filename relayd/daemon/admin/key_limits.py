"""Key limits: what is used of the limits of keys, for /metrics.

Rule: the store is asked a few limits at a time, by its own thread, so that calls get in between; where it does not
answer in time, the metrics are left out and the scrape goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

import trio

from relayd.config.snapshot import Snapshot
from relayd.core.quota.call_estimate import NOTHING
from relayd.core.quota.limits import Slots, Term, TermLevel, key_terms
from relayd.daemon.admin import metric_list as m
from relayd.daemon.admin.exposition import Family
from relayd.daemon.store.batcher import Batcher
from relayd.noun import noun
from relayd.state.contract import Answer, Peek, TermLevels

MOST_KEYS = 1000  # that have series of their own
TOGETHER = 64  # limits in one question: about 1 ms
MICRO = 1_000_000


@noun(kw_only=True)
class KeyLimit:
    """One limit of one key."""

    key: str
    term: Term

    @property
    def label(self) -> str:
        """What it is called among those of its key, as "tokens/day"."""
        return self.term.counter.removeprefix(f"key/{self.key}/")

    def shown(self, amount: int) -> float:
        """An amount in the unit of the metric: money in USD."""
        return amount / MICRO if not isinstance(self.term, Slots) and self.term.unit == "cost" else amount


LimitLevels = Sequence[tuple[KeyLimit, TermLevel]]


def limited_keys(snapshot: Snapshot, called: Collection[str], now_ms: int) -> list[KeyLimit]:
    """The limits of keys that have some on messages; of very many, those of keys that have called come first."""
    zone = snapshot.relay.state.timezone
    ranked = sorted(snapshot.keys.values(), key=lambda key: (key.id not in called, key.id))
    each = ((str(key.id), key_terms(key, NOTHING, now_ms, zone)) for key in ranked)
    limited = islice(((name, terms) for name, terms in each if terms), MOST_KEYS)
    return [KeyLimit(key=name, term=term) for name, terms in limited for term in terms]


async def ask_levels(state: Batcher, limits: Sequence[KeyLimit]) -> LimitLevels | None:
    """How they stand; None where the store does not say."""
    found: list[tuple[KeyLimit, TermLevel]] = []
    for start in range(0, len(limits), TOGETHER):
        some = limits[start : start + TOGETHER]
        answer = await _ask(state, Peek(terms=tuple(one.term for one in some)))
        if not isinstance(answer, TermLevels):
            return None
        found += zip(some, answer.levels, strict=True)
    return found


async def _ask(state: Batcher, question: Peek) -> Answer | None:
    if not state.up:
        return None
    answers: list[Answer] = []
    answered = trio.Event()

    def take(answer: Answer) -> None:
        answers.append(answer)
        answered.set()

    state.submit_nowait(question, take, aside=True)
    with trio.move_on_after(state.session.store.deadline):
        await answered.wait()
    return answers[0] if answers else None


def limit_families(levels: LimitLevels) -> list[Family]:
    """`relayd_key_limit_...`."""
    return [
        m.LIMIT_USED.by({(one.key, one.label): one.shown(level.used) for one, level in levels}),
        m.LIMIT_ALLOWED.by({(one.key, one.label): one.shown(one.term.limit) for one, _ in levels}),
    ]
