"""Notices as receivers read them: JSON for programs, text for people, the dialects of Slack and Discord.

Rule: pure. What comes from elsewhere (an upstream's reason, a file's name) is text and never markup.
Source: Slack, "Sending messages using incoming webhooks" and "Formatting text"; Discord, "Execute Webhook", "Embed
Limits" and "Allowed Mentions".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from relayd.core.alerts.book import Notice, NoticeItem
from relayd.core.alerts.events import SEVERITIES
from relayd.core.oauth import utc

LONGEST_LINE = 1_000  # characters of one event in a text
LONGEST_SLACK = 3_000  # characters of a section block
LONGEST_DISCORD = 4_000  # of 4,096 characters of an embed's description
SHOWN = 20  # events in a text; JSON has them all

_SAYS = {"begins": "FIRING", "still": "STILL", "ends": "OVER", "once": ""}
_COLOURS = {"critical": 0xC0392B, "warning": 0xE67E22, "info": 0x2E86C1, "over": 0x27AE60}


def document(notice: Notice, realm: str, at: float) -> dict[str, Any]:
    """A notice for programs. Fields are only ever added. `at`: Unix time, s, at which it is sent."""
    return {
        "version": 1,
        "id": notice.id,
        "sent": utc(at),
        "realm": realm,
        "target": notice.target,
        "severity": worst(notice.items),
        "title": title(notice, realm),
        "text": text(notice),
        "events": [_event(item) for item in notice.items],
    }


def _event(item: NoticeItem) -> dict[str, Any]:
    one = item.occurrence
    about = {name: value for name in ("key", "owner", "account") if (value := getattr(one, name))}
    return {
        "event": one.event,
        "saying": item.saying,
        "condition": one.condition,
        "severity": one.severity,
        "text": one.text,
        "at": utc(one.at),
        "since": utc(item.since),
        "node": one.node,
        **about,
        "groups": list(one.groups),
        "not_told": item.more,
        "fields": dict(one.fields),
    }


def worst(items: Sequence[NoticeItem]) -> str:
    """The severity of a notice: of what is not over, else "info"."""
    found = [SEVERITIES.index(item.occurrence.severity) for item in items if item.saying != "ends"]
    return SEVERITIES[max(found, default=0)]


def title(notice: Notice, realm: str) -> str:
    """One line: what it is about."""
    items = notice.items
    if len(items) == 1:
        return f"[{realm}] {_head(items[0])}"
    over = sum(item.saying == "ends" for item in items)
    named = list(dict.fromkeys(item.occurrence.event for item in items))
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    ended = f", {over} over" if over else ""
    return f"[{realm}] {len(items)} events{ended}: {', '.join(named[:3])}{more}"


def text(notice: Notice) -> str:
    """All of it for people, the worst first."""
    ranked = sorted(notice.items, key=lambda one: (one.saying == "ends", -SEVERITIES.index(one.occurrence.severity)))
    lines = [_line(item) for item in ranked[:SHOWN]]
    if len(ranked) > SHOWN:
        lines.append(f"and {len(ranked) - SHOWN} more events (relayd alert list, and the log)")
    return "\n".join(lines)


def _head(item: NoticeItem) -> str:
    return f"{_SAYS[item.saying]} {item.occurrence.event}".strip()


def _line(item: NoticeItem) -> str:
    one, since = item.occurrence, ""
    if item.saying in ("still", "ends"):
        since = f" [since {utc(item.since)}]"
    more = f" [{item.more} more since it was last told]" if item.more else ""
    told = one.text if len(one.text) <= LONGEST_LINE else f"{one.text[:LONGEST_LINE]}..."
    severity = "" if item.saying == "ends" else f"{one.severity.upper()} "
    return f"{_head(item)}: {severity}{_shown(told)}{since}{more} ({one.node})"


def _shown(told: str) -> str:
    """Without control characters, but for line breaks."""
    return "".join(char if char == "\n" or char.isprintable() else "?" for char in told)


def slack(notice: Notice, realm: str) -> dict[str, Any]:
    """The body of a Slack incoming webhook."""
    head, body = _escaped_for_slack(title(notice, realm)), _escaped_for_slack(_cut(text(notice), LONGEST_SLACK - 600))
    section = {"type": "section", "text": {"type": "mrkdwn", "text": body[:LONGEST_SLACK], "verbatim": True}}
    header = {"type": "section", "text": {"type": "mrkdwn", "text": f"*{head[:1000]}*", "verbatim": True}}
    return {"text": head, "blocks": [header, section]}


def discord(notice: Notice, realm: str) -> dict[str, Any]:
    """The body of a Discord webhook. Nobody is mentioned by it, whatever a text holds."""
    over = all(item.saying == "ends" for item in notice.items)
    embed = {
        "title": _escaped_for_discord(title(notice, realm))[:256],
        "description": _escaped_for_discord(_cut(text(notice), LONGEST_DISCORD // 2))[:LONGEST_DISCORD],
        "color": _COLOURS["over" if over else worst(notice.items)],
    }
    return {"embeds": [embed], "allowed_mentions": {"parse": []}}


def _cut(told: str, most: int) -> str:
    return told if len(told) <= most else f"{told[:most]}\n(cut)"


def _escaped_for_slack(told: str) -> str:
    return told.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("*", "∗").replace("`", "'")


def _escaped_for_discord(told: str) -> str:
    return re.sub(r"([\\*_~`|>#\[\]()@])", r"\\\1", told)
