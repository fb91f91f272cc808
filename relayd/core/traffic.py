"""Traffic: what calls came to over the last hour, day, week and month, by client, and when keys were last used.

Rule: sync and bounded: four rings of intervals, some months of days, fed with receipts. Nodes tell each other theirs,
as JSON values (`document`); what they say together is added up by `added_up`. The books know every call exactly, by the
day; this is for the shape of the last hours and for what books do not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

from relayd.core.receipt import Receipt

Span = Literal["hour", "day", "week", "month"]

MINUTE = 60  # s, of which all intervals are made
# Length of an interval, s, and how many make the span.
INTERVALS: dict[Span, tuple[int, int]] = {
    "hour": (MINUTE, 60),
    "day": (900, 96),
    "week": (7200, 84),
    "month": (28_800, 93),
}
DAYS = 92  # of which clients are told apart
MOST_CLIENTS = 200  # a day; they are ids of client rules, and so of the config
MOST_OF_KEY = 20  # clients of a key


@attrs.define(kw_only=True)
class Interval:
    """The calls that ended within one interval.

    Args:
        start: Unix time, s.
        errors: calls that ended with an error of the upstream, cut, or by a fault of ours.
        refused: by relayd.
        cost: micro-USD, of calls that have a price.
        seconds, first_byte: sums over calls that relayd did not refuse; `begun` of them sent a first byte.
    """

    start: int
    calls: int = 0
    errors: int = 0
    refused: int = 0
    tokens: int = 0
    cost: int = 0
    seconds: float = 0.0
    first_byte: float = 0.0
    begun: int = 0

    def add(self, receipt: Receipt) -> None:
        """Count one call."""
        self.calls += 1
        self.errors += failed(receipt)
        self.refused += receipt.outcome == "refused"
        self.tokens += receipt.usage.total
        self.cost += receipt.cost or 0
        self.seconds += receipt.seconds if receipt.outcome != "refused" else 0.0
        if receipt.first_byte is not None:
            self.first_byte += receipt.first_byte
            self.begun += 1

    def plus(self, other: Interval) -> Interval:
        """Both together."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        return Interval(start=self.start, **sums)

    @property
    def latency(self) -> float | None:
        """Mean duration of a call that was not refused, s: refusals take no time, and would make calls look fast."""
        tried = self.calls - self.refused
        return self.seconds / tried if tried > 0 else None

    @property
    def first_byte_latency(self) -> float | None:
        """Mean time to the first byte, s."""
        return self.first_byte / self.begun if self.begun else None


_SUMS = tuple(field.name for field in attrs.fields(Interval))[1:]
_FIELDS = ("start", *_SUMS)


@attrs.define(eq=False)
class Traffic:
    """Rings of intervals, the newest last; and of each day what each client did: calls, errors, tokens, cost."""

    _rings: dict[Span, list[Interval]] = attrs.field(factory=lambda: {span: [] for span in INTERVALS})
    _clients: dict[str, dict[str, list[int]]] = attrs.field(factory=dict)
    _minute: Interval = attrs.field(factory=lambda: Interval(start=0), init=False)  # that is not yet in the rings

    def record(self, receipt: Receipt, day: str) -> None:
        """Count one call, at its end. `day`: YYYY-MM-DD, as the books have it."""
        minute = int(receipt.started + receipt.seconds) // MINUTE * MINUTE
        if self._minute.start != minute:
            self._settle()
            self._minute = Interval(start=minute)
        self._minute.add(receipt)
        self._record_client(receipt, day)

    def _settle(self) -> None:
        """Add the minute to the rings: when another one begins, and before they are read."""
        minute, self._minute = self._minute, Interval(start=self._minute.start)
        for span, (length, count) in INTERVALS.items() if minute.calls else ():
            ring = self._rings[span]
            start = minute.start // length * length
            while ring and ring[-1].start > start:  # the clock was set back
                ring.pop()
            if not ring or ring[-1].start != start:
                ring.append(Interval(start=start))
                del ring[:-count]
            ring[-1] = ring[-1].plus(minute)

    def _record_client(self, receipt: Receipt, day: str) -> None:
        if not receipt.key or receipt.outcome == "refused":
            return
        today = self._clients.setdefault(day, {})
        while len(self._clients) > DAYS:
            del self._clients[min(self._clients)]
        if len(today) >= MOST_CLIENTS and receipt.client not in today:
            return
        row = today.setdefault(receipt.client, [0, 0, 0, 0])
        row[0] += 1
        row[1] += failed(receipt)
        row[2] += receipt.usage.total
        row[3] += receipt.cost or 0

    def of(self, span: Span, now: float) -> Sequence[Interval]:
        """Every interval of a span up to now, the quiet ones too."""
        return added_up([self], span, now)

    def known(self, span: Span) -> Mapping[int, Interval]:
        """The intervals of a span in which there were calls, by their start."""
        self._settle()
        return {one.start: one for one in self._rings[span]}

    @property
    def clients(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """By day and client: calls, errors, tokens, cost."""
        return self._clients

    @property
    def newest(self) -> int:
        """When the newest interval began; 0 when there is none."""
        self._settle()
        return max((ring[-1].start for ring in self._rings.values() if ring), default=0)

    def continued(self, before: Traffic) -> Traffic:
        """This, with what was known before a restart."""
        rings: dict[Span, list[Interval]] = {}
        for span, (_, count) in INTERVALS.items():
            found = _together([before, self], span)
            rings[span] = [found[start] for start in sorted(found)][-count:]
        clients = {day: {name: list(row) for name, row in rows.items()} for day, rows in before.clients.items()}
        for day, rows in self.clients.items():
            known = clients.setdefault(day, {})
            for name, row in rows.items():
                known[name] = [one + more for one, more in zip(known.get(name, (0, 0, 0, 0)), row, strict=True)]
        return Traffic(rings, clients)

    def document(self) -> dict[str, Any]:
        """All of it as JSON values; a copy."""
        self._settle()
        rings = {span: [[getattr(one, name) for name in _FIELDS] for one in ring] for span, ring in self._rings.items()}
        clients = {day: {name: list(row) for name, row in found.items()} for day, found in self._clients.items()}
        return {"v": 1, "rings": rings, "clients": clients}


def read_traffic(document: Any) -> Traffic:
    """What `Traffic.document` gave. Raises: ValueError for anything else."""
    try:
        if document["v"] != 1:
            raise ValueError("another version")
        rings: dict[Span, list[Interval]] = {
            span: [Interval(**dict(zip(_FIELDS, map(_figure, row), strict=True))) for row in document["rings"][span]]
            for span in INTERVALS
        }
        clients = {
            str(day): {str(name): [int(_figure(one)) for one in row[:4]] for name, row in found.items()}
            for day, found in document["clients"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no traffic: {error}") from None
    return Traffic(rings, clients)


def _figure(value: Any) -> Any:
    if type(value) not in (int, float):
        raise TypeError("a figure is a number")
    return value


def added_up(parts: Iterable[Traffic], span: Span, now: float) -> Sequence[Interval]:
    """Every interval of a span up to now, of several nodes together."""
    length, count = INTERVALS[span]
    last = int(now) // length * length
    found = _together(parts, span)
    return [found.get(start) or Interval(start=start) for start in range(last - (count - 1) * length, last + 1, length)]


def _together(parts: Iterable[Traffic], span: Span) -> dict[int, Interval]:
    """The intervals that any of some have, by their start, each added up."""
    found: dict[int, Interval] = {}
    for part in parts:
        for start, one in part.known(span).items():
            found[start] = found[start].plus(one) if start in found else one
    return found


def failed(receipt: Receipt) -> bool:
    """Whether a call ended with an error of the upstream, was cut, or failed by a fault of ours."""
    return receipt.outcome in ("upstream", "cut", "failed")


@attrs.define(eq=False)
class KeyUses:
    """When each key was last used by which client, Unix time, s; "" for one that no rule knows."""

    _at: dict[str, dict[str, int]] = attrs.field(factory=dict)
    changed: bool = False

    def record(self, receipt: Receipt) -> None:
        """Note one call, at its end."""
        if receipt.key:
            self._note(receipt.key, receipt.client, int(receipt.started))

    def _note(self, key: str, client: str, at: int) -> None:
        clients = self._at.setdefault(key, {})
        if at > clients.get(client, 0):
            clients[client] = at
            self.changed = True
            if len(clients) > MOST_OF_KEY:
                del clients[min(clients, key=lambda name: clients[name])]

    def of(self, key: str) -> Mapping[str, int]:
        """By client, the latest first."""
        return dict(sorted(self._at.get(key, {}).items(), key=lambda pair: -pair[1]))

    def last(self, key: str) -> int | None:
        """The latest use of a key."""
        return max(self._at.get(key, {}).values(), default=None)

    def keep_only(self, keys: Mapping[str, Any]) -> None:
        """Forget keys that are gone."""
        for name in [name for name in self._at if name not in keys]:
            del self._at[name]

    def document(self) -> dict[str, Any]:
        """All of it as JSON values; a copy."""
        return {"v": 1, "uses": {key: dict(clients) for key, clients in self._at.items()}}

    def merge(self, document: Any) -> None:
        """Take in what another node, or this one before a restart, knew. Raises: ValueError when it cannot be read."""
        try:
            for key, clients in document["uses"].items():
                for client, at in clients.items():
                    self._note(str(key), str(client), int(_figure(at)))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no uses of keys: {error}") from None
