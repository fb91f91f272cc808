"""Limit watch: which keys are near a limit, or at it.

Rule: sync. `note` is asked with every admission and costs a comparison for each limit; what is near is looked at later,
when calls in flight have given back what they do not use.

Theory: what is used includes what calls in flight have reserved of tokens and cost. So such a limit is "reached" when
it has refused a call for what is really used, and not when a large call holds the rest of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from relayd.config.snapshot import ApiKey
from relayd.core.alerts.events import HOUR, LimitNear, LimitReached
from relayd.core.quota.limits import Calendar, Rolling, Term, TermLevel, dollars
from relayd.core.quota.windows import FOREVER, rfc3339
from relayd.noun import noun

NEAR = 80  # % of a limit
CALM = 60  # % below which a key is no longer looked at


@noun(kw_only=True)
class NearLimits:
    """Keys that are near a limit, and the limits (key, counter) that have refused a call."""

    keys: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


@attrs.define(eq=False)
class LimitWatch:
    """The keys that are looked at, and what of them was told: Unix ms until which it is not told again."""

    _near: dict[str, None] = attrs.field(factory=dict, init=False)  # a set that is in order
    _refused: set[tuple[str, str]] = attrs.field(factory=set, init=False)
    _told: dict[str, float] = attrs.field(factory=dict, init=False)

    def note(self, key: str, terms: Sequence[Term], levels: Sequence[TermLevel]) -> None:
        """A call was admitted."""
        for term, level in zip(terms, levels, strict=False):
            if level.used * 100 >= term.limit * NEAR and isinstance(term, Rolling | Calendar):
                self._near[key] = None
                return

    def note_refusal(self, key: str, term: Term) -> None:
        """A call was refused for a limit that calls in flight are not to blame for."""
        if isinstance(term, Rolling | Calendar) and term.counter.startswith(f"key/{key}/"):
            self._near[key] = None
            self._refused.add((key, term.counter))

    def take(self) -> NearLimits:
        """What was noted, to be heard by the watch of another process; forgotten here."""
        taken = NearLimits(keys=tuple(self._near), refused=tuple(sorted(self._refused)))
        self._near.clear()
        self._refused.clear()
        return taken

    def hear(self, noted: NearLimits) -> None:
        """What the watch of another process has noted."""
        self._near.update(dict.fromkeys(noted.keys))
        self._refused.update(noted.refused)

    def next_keys(self, known: Mapping[str, ApiKey], most: int) -> list[ApiKey]:
        """Those to be looked at now: at most so many, so that the others are next."""
        self._near = {name: None for name in self._near if name in known}
        names = list(self._near)[:most]
        for name in names:
            del self._near[name]
            self._near[name] = None
        return [known[name] for name in names]

    def look(self, key: ApiKey, terms: Sequence[Term], levels: Sequence[TermLevel], now_ms: int) -> Iterator[LimitNear]:
        """What there is to tell of a key, given how its limits stand."""
        self._told = {name: until for name, until in self._told.items() if until > now_ms}
        for event in self._seen(key, terms, levels, now_ms):
            if event.condition not in self._told:
                self._told[event.condition] = now_ms + event.again * 1000
                yield event

    def _seen(
        self, key: ApiKey, terms: Sequence[Term], levels: Sequence[TermLevel], now_ms: int
    ) -> Iterator[LimitNear]:
        calm = True
        for term, level in zip(terms, levels, strict=True):
            if not isinstance(term, Rolling | Calendar):
                continue
            calm = calm and level.used * 100 < term.limit * CALM
            refused = (key.id, term.counter) in self._refused
            self._refused.discard((key.id, term.counter))
            if refused or (term.unit == "requests" and level.used >= term.limit):
                yield _event(LimitReached, key, term, level, now_ms)
            elif level.used * 100 >= term.limit * NEAR and not _brief(term):
                yield _event(LimitNear, key, term, level, now_ms)
        if calm:
            self._near.pop(key.id, None)


def _brief(term: Rolling | Calendar) -> bool:
    """Whether it is a limit of minutes, of which most is used in any busy one."""
    return isinstance(term, Rolling) and term.window < HOUR * 1000


def _event(kind: type[LimitNear], key: ApiKey, term: Rolling | Calendar, level: TermLevel, now_ms: int) -> LimitNear:
    if isinstance(term, Calendar):
        start, again = term.start, max(term.end - now_ms, 0) / 1000
    else:  # while it rolls, once in its length, and not every minute
        start, again = 0, max(term.window / 1000, HOUR)
    resets = None if not level.used or level.resets_at >= FOREVER else rfc3339(level.resets_at)
    return kind(
        key=key.id,
        owner=key.owner or None,
        limit=term.name,
        used=_amount(term, level.used),
        most=_amount(term, term.limit),
        resets=resets,
        window=f"{term.counter.removeprefix(f'key/{key.id}/')}/{term.limit}/{start}",
        again=min(again, 366 * 86_400.0),
    )


def _amount(term: Rolling | Calendar, amount: int) -> str:
    return dollars(amount) if term.unit == "cost" else f"{amount:,} {term.unit}"
