"""Occurrences and targets with dull defaults, and one book driven by a clock that the test sets."""

from __future__ import annotations

import random
from typing import Any

import attrs

from relayd.config.snapshot import Alert
from relayd.core.alerts.book import AlertBook, Notice
from relayd.core.alerts.occurrence import Occurrence


def target(**fields: Any) -> Alert:
    return Alert(**{"url_file": "hook", **fields})


def said(condition: str = "account/main", turn: str = "begins", **fields: Any) -> Occurrence:
    words = {"begins": "account.out", "ends": "account.recovered", "once": "price.unknown"}
    base = {
        "event": words[turn],
        "turn": turn,
        "condition": condition,
        "severity": "warning",
        "text": f"{condition} {turn}",
        "at": 0.0,
        "node": "n1",
    }
    return Occurrence(**{**base, **fields})


@attrs.define
class World:
    """A book and its targets; `now` moves by hand."""

    targets: dict[str, Alert] = attrs.field(factory=lambda: {"ops": target()})
    now: float = 1_000_000.0
    book: AlertBook = attrs.field(factory=lambda: AlertBook(born="b"))
    rng: random.Random = attrs.field(factory=lambda: random.Random(1))

    def hear(self, *occurrences: Occurrence) -> None:
        self.book.follow(self.targets, {name: repr(one) for name, one in self.targets.items()}, self.now)
        for one in occurrences:
            self.book.hear(attrs.evolve(one, at=self.now), self.targets, self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.book.tick(self.targets, self.now)

    def due(self, name: str = "ops") -> Notice | None:
        return self.book.due(name, self.targets[name], self.now)

    def told(self, name: str = "ops") -> list[str]:
        """What goes out now, and arrives: `saying condition`."""
        notice = self.due(name)
        if notice is None:
            return []
        self.book.sent(notice, self.now)
        return [f"{item.saying} {item.occurrence.condition}" for item in notice.items]

    def fail(self, name: str = "ops", **how: Any) -> Notice:
        notice = self.due(name)
        assert notice is not None
        self.book.failed(notice, "status 500", self.now, self.rng, **how)
        return notice


@attrs.define
class Receiver:
    """Who is told. What comes again under the same id it has already.

    Args:
        told: each saying, and of which condition.
        believed: conditions that last, by what it was told.
    """

    told: list[tuple[str, str]] = attrs.field(factory=list)
    believed: set[str] = attrs.field(factory=set)
    had: dict[str, Notice] = attrs.field(factory=dict)

    def take(self, notice: Notice) -> None:
        if notice.id in self.had:
            return
        self.had[notice.id] = notice
        for one in notice.items:
            condition = one.occurrence.condition
            self.told.append((one.saying, condition))
            if one.saying != "once":
                (self.believed.discard if one.saying == "ends" else self.believed.add)(condition)
