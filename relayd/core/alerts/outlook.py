"""Outlook: conditions that nobody announces, seen by looking now and then: groups that nobody serves, failing calls.

Rule: sync; facts come in, events come out, those of a condition once when it begins and once when it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from relayd.core.ailments import ServiceFacts, service_ailments
from relayd.core.alerts.events import AlertEvent, ErrorsHigh, ErrorsNormal, GroupDown, GroupUp
from relayd.core.traffic import Interval

MANY, FEW = 0.25, 0.1  # shares of failed calls at which it is told, and below which it is over
LEAST_CALLS = 20  # of which a share says something
MINUTES = 5


@attrs.define(eq=False)
class Outlook:
    """What one node has seen. `node`: its name."""

    node: str
    _down: set[str] = attrs.field(factory=set, init=False)
    _failing: bool = attrs.field(default=False, init=False)

    def look(self, service: ServiceFacts, minutes: Sequence[Interval]) -> Iterator[AlertEvent]:
        """What is new. `minutes`: of calls, the newest last."""
        yield from self._groups(service)
        yield from self._errors(minutes[-MINUTES:])

    def _groups(self, service: ServiceFacts) -> Iterator[AlertEvent]:
        down = {one.subject: one.text for one in service_ailments(service) if one.kind == "group"}
        for group, text in down.items():
            if group not in self._down:
                yield GroupDown(group=group, reason=text)
        for group in sorted(self._down - down.keys()):
            yield GroupUp(group=group)
        self._down = set(down)

    def _errors(self, minutes: Sequence[Interval]) -> Iterator[AlertEvent]:
        calls = sum(one.calls - one.refused for one in minutes)
        errors = sum(one.errors for one in minutes)
        share = errors / calls if calls else 0.0
        if not self._failing and calls >= LEAST_CALLS and share >= MANY:
            self._failing = True
            yield ErrorsHigh(errors=errors, calls=calls, node=self.node)
        elif self._failing and share < FEW:
            self._failing = False
            yield ErrorsNormal(node=self.node)
