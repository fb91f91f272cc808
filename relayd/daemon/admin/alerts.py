"""Alerts, watched: how telling goes, for status, metrics and `relayd alert`.

Rule: reads only. Nothing of a target but its name, its format and how it went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relayd.config.snapshot import Alert, Snapshot
from relayd.core.alerts.book import AlertBook, Notice, NoticeItem
from relayd.core.alerts.node_events import AlertTest
from relayd.core.alerts.occurrence import is_wanted, occurrence_of
from relayd.core.oauth import utc
from relayd.daemon.admin import metric_list as m
from relayd.daemon.admin.exposition import Family
from relayd.daemon.alerts.alerting import Alerting
from relayd.daemon.alerts.delivery import Sender
from relayd.daemon.log import clean


def target_rows(alerting: Alerting | None, now: float) -> list[dict[str, Any]]:
    """Each target, as this node knows it. `now`: Unix time, s."""
    if alerting is None:
        return []
    failing, queued, teller = alerting.failing(), alerting.queued(), alerting.teller
    return [
        {
            "target": name,
            "format": target.format,
            "delivered": teller.delivered[name],
            "failed": teller.failed[name],
            "queued": queued[name],
            "failing_since": utc(failing[name][0]) if name in failing else None,
            "reason": failing[name][1] if name in failing else "",
        }
        for name, target in sorted(alerting.facts.live.snapshot.relay.alerts.items())
    ]


def alert_families(alerting: Alerting | None) -> list[Family]:
    """Notices and events of this node, for /metrics."""
    if alerting is None:
        return []
    names, teller = sorted(alerting.facts.live.snapshot.relay.alerts), alerting.teller
    failing = alerting.failing()
    results = (("delivered", teller.delivered), ("failed", teller.failed))
    books = alerting.own_books()
    dropped = {name: sum(book.targets[name].dropped for book in books if name in book.targets) for name in names}
    return [
        m.ALERT_NOTICES.by({(result, name): count[name] for result, count in results for name in names}),
        m.ALERT_DROPPED.each(dropped),
        m.ALERT_QUEUED.each(alerting.queued()),
        m.ALERT_FAILING.each({name: name in failing for name in names}),
        m.ALERT_EVENTS_LOST.at(alerting.events.lost),
    ]


async def alerts_document(alerting: Alerting) -> dict[str, Any]:
    """`relayd alert list`, from a running daemon."""
    books = await alerting.books()
    return book_document(books, alerting.facts.live.snapshot.relay.alerts)


def book_document(books: Sequence[AlertBook], targets: Mapping[str, Alert]) -> dict[str, Any]:
    """Targets, and what lasts."""
    return {
        "targets": [_target_document(name, target, books) for name, target in sorted(targets.items())],
        "firing": [
            {
                "event": condition.last.event,
                "condition": condition.last.condition,
                "severity": condition.last.severity,
                "text": condition.last.text,
                "since": utc(condition.since),
                "nodes": sorted(condition.speakers),
                "told": sorted(told),
                "wanted_by": sorted(name for name, target in targets.items() if is_wanted(target, condition.last)),
            }
            for book in books
            for condition, told in book.firing()
        ],
    }


def _target_document(name: str, target: Alert, books: Sequence[AlertBook]) -> dict[str, Any]:
    known = [book.targets[name] for book in books if name in book.targets]
    failing = [one for one in known if one.failing]
    return {
        "target": name,
        "format": target.format,
        "severity": target.severity,
        "events": list(target.events),
        "delivered": sum(one.delivered for one in known),
        "failed": sum(one.failed for one in known),
        "dropped": sum(one.dropped for one in known),
        "queued": sum(len(one.waiting) for one in known),
        "failing_since": utc(min(one.failing for one in failing)) if failing else None,
        "reason": failing[0].reason if failing else "",
    }


async def try_target(alerting: Alerting, name: str, now: float) -> dict[str, Any]:
    """Send a test to a target; how that went. Where it arrives, what waits for the target is told at once."""
    notice_id, snapshot = f"test-{alerting.shared.life}-{round(now * 1000):x}", alerting.facts.live.snapshot
    tested = await send_test(alerting.teller.sender, snapshot, name, notice_id, alerting.node, now)
    if tested["delivered"]:
        alerting.works(name)
    return tested


async def send_test(
    sender: Sender, snapshot: Snapshot, name: str, notice_id: str, node: str, now: float
) -> dict[str, Any]:
    """Send a test to a target of a config, from a node; how that went."""
    said = occurrence_of(AlertTest(target=name), now, node, snapshot, clean)
    item = NoticeItem(occurrence=said, saying="once", since=now, queued=now)
    notice = Notice(id=notice_id, target=name, items=(item,))
    outcome = await sender.send(notice, snapshot.relay.alerts[name], snapshot.relay)
    return {"target": name, "delivered": outcome is None, "reason": "" if outcome is None else outcome.reason}
