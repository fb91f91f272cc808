"""Every alert event: one definition for the log, the notices, the config and docs/alerts.md."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import logging
import os
import re
import time
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from alert_world import said, target
from builders import account, api_key, snapshot
from event_examples import EXAMPLES, REPORT
from hypothesis import given
from hypothesis import strategies as st

from relayd.config.alert_events import ALERT_EVENT_NAMES
from relayd.config.secrets.secret import Secret
from relayd.core.ailments import AccountFacts, ServiceFacts
from relayd.core.alerts.address_rule import is_global
from relayd.core.alerts.book import Notice, NoticeItem
from relayd.core.alerts.events import AccountCredential, AccountOut, KeyExpiring, LimitNear, LimitReached
from relayd.core.alerts.limit_watch import LimitWatch
from relayd.core.alerts.node_events import ALERT_EVENTS
from relayd.core.alerts.notice import SHOWN, discord, document, slack, text, title
from relayd.core.alerts.occurrence import Occurrence, is_gone, is_wanted, occurrence_of
from relayd.core.alerts.outlook import Outlook
from relayd.core.alerts.schedule import ending_keys, ending_tokens, report_day, report_figures
from relayd.core.alerts.signature import BadKey, key_bytes, signed_headers
from relayd.core.balancing.explain import Block
from relayd.core.inventory import take_inventory
from relayd.core.quota.limits import Calendar, Rolling, Slots, TermLevel
from relayd.core.quota.windows import FOREVER
from relayd.core.traffic import Interval
from relayd.daemon.events import MOST, Events
from relayd.daemon.log import clean

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "alerts.md"
BEGIN, END = "<!-- begin alert-events -->\n", "<!-- end alert-events -->"
NOW = 1_790_000_000.0


def occurrence(event: object, **config: object) -> Occurrence:
    return occurrence_of(event, NOW, "n1", snapshot(**config), clean)  # type: ignore[arg-type]


# --- one definition


def table() -> str:
    lines = ["| event | severity | turn | example |", "|---|---|---|---|"]
    for one in EXAMPLES:
        severity = one.severity if one.turn != "ends" else ""
        shown = one.text.replace("\n", "; ").replace("|", "\\|")
        lines.append(f"| `{one.name}` | {severity} | {one.turn} | {shown} |")
    return "\n".join(lines) + "\n"


def test_the_page_has_every_event_with_its_example() -> None:
    before, rest = PAGE.read_text().split(BEGIN)
    page = before + BEGIN + table() + END + rest.split(END, 1)[1]
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page)

    assert PAGE.read_text() == page, "docs/alerts.md is out of date (UPDATE_DOCS=1)"


def test_the_config_the_code_and_the_examples_know_the_same_events() -> None:
    names = [one.name for one in ALERT_EVENTS]

    assert len(set(names)) == len(names)
    assert {type(one) for one in EXAMPLES} == set(ALERT_EVENTS)
    assert set(ALERT_EVENT_NAMES) == set(names)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.name)
def test_an_event_is_a_log_line_and_crosses_to_another_node_whole(
    event: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Events().tell(event)  # type: ignore[arg-type]
    (line,) = caplog.records
    made = occurrence(event)

    assert line.message == event.name  # type: ignore[attr-defined]
    assert made.text
    assert msgspec.json.decode(msgspec.json.encode(made), type=Occurrence) == made
    for name, value in event.fields().items():  # type: ignore[attr-defined]
        assert getattr(line, name) == value


def test_each_beginning_has_an_end_of_the_same_condition() -> None:
    ends = {one.condition for one in EXAMPLES if one.turn == "ends"}

    assert {one.condition for one in EXAMPLES if one.turn == "begins"} == ends


def test_the_snippet_of_the_page_verifies_what_is_sent() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    space: dict[str, object] = {}
    exec(snippet, space)
    key, body = b"a key of sixteen bytes or more", b'{"version": 1}'
    pairs = signed_headers("b-1", body, time.time(), key_bytes(Secret(key.decode())))
    headers = {name.decode(): value.decode() for name, value in pairs}

    space["verify"](key, headers, body)  # type: ignore[operator]
    with pytest.raises(ValueError, match="not signed"):
        space["verify"](key, headers, body + b" ")  # type: ignore[operator]
    with pytest.raises(ValueError, match="too old"):
        space["verify"](key, headers | {"webhook-timestamp": "1"}, body)  # type: ignore[operator]


def test_the_json_of_the_page_has_the_fields_that_are_sent() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    item = NoticeItem(occurrence=said(account="main", groups=("default",)), saying="begins", since=1.0, queued=1.0)
    sent = document(Notice(id="b-1", target="ops", items=(item,)), "example", NOW)
    example = json.loads(shown)

    assert example.keys() == sent.keys()
    assert example["events"][0].keys() == sent["events"][0].keys()


def test_keys_to_sign_with() -> None:
    assert key_bytes(Secret("whsec_" + base64.b64encode(b"k" * 24).decode())) == b"k" * 24
    for bad in ("short", "whsec_not base64", "whsec_c2hvcnQ="):
        with pytest.raises(BadKey) as caught:
            key_bytes(Secret(bad))
        assert bad not in str(caught.value)
    ((_, _), (_, _), (name, value)) = signed_headers("i", b"b", 5.9, b"k" * 16)
    assert name == b"webhook-signature"
    assert value == b"v1," + base64.b64encode(hmac.new(b"k" * 16, b"i.5.b", hashlib.sha256).digest())


def test_events_that_nobody_takes_are_bounded_and_counted() -> None:
    events = Events()
    for _ in range(MOST + 3):
        events.tell(EXAMPLES[0])

    assert (events.lost, len(events.take()), events.take()) == (3, MOST, [])


def test_a_secret_in_a_reason_does_not_reach_a_notice() -> None:
    event = next(one for one in EXAMPLES if one.name == "account.out")
    import attrs

    made = occurrence(attrs.evolve(event, reason="bad sk-ant-api03-abcdefgh12345678"))

    assert "abcdefgh" not in str(made)


# --- filters


def test_an_event_about_a_key_has_its_owner_and_groups() -> None:
    made = occurrence(EXAMPLES[0], keys=(api_key(id="dev", owner="dev-team", groups=("eu",)),))

    assert (made.key, made.owner, made.groups) == ("dev", "dev-team", ("eu",))
    assert is_wanted(target(owners=("dev-*",), groups=("eu",)), made)
    assert not is_wanted(target(owners=("other",)), made)
    assert not is_wanted(target(keys=("ci",)), made)
    assert is_wanted(target(accounts=("main",)), made)  # it is about none


def test_what_the_config_no_longer_has_is_gone() -> None:
    out = occurrence(next(one for one in EXAMPLES if one.name == "account.out"))

    assert is_gone(out, snapshot())
    assert is_gone(out, snapshot(accounts=(account("main", enabled=False),)))
    assert not is_gone(out, snapshot(accounts=(account("main"),)))
    assert not is_gone(occurrence(next(one for one in EXAMPLES if one.name == "state.unavailable")), snapshot())


# --- notices


def notice(*occurrences: Occurrence) -> Notice:
    items = [NoticeItem(occurrence=one, saying="begins", since=1.0, queued=1.0) for one in occurrences]
    return Notice(id="b-1", target="ops", items=tuple(items))


def test_many_events_are_one_notice_with_the_worst_first_and_the_rest_counted() -> None:
    many = [said(f"account/{number}") for number in range(SHOWN + 5)] + [said("group/x", severity="critical")]
    shown = text(notice(*many)).splitlines()

    assert shown[0].startswith("FIRING account.out: CRITICAL group/x begins")
    assert shown[-1].startswith("and 6 more events")
    assert title(notice(*many), "r") == f"[r] {SHOWN + 6} events: account.out"


@given(st.text(max_size=3000))
def test_no_text_becomes_markup_or_too_long_for_its_receiver(told: str) -> None:
    one = notice(said(text=told), *(said(f"c/{number}", text=told) for number in range(5)))
    section, embed = slack(one, "r")["blocks"][1]["text"]["text"], discord(one, "r")["embeds"][0]

    assert len(section) <= 3000
    assert not re.search(r"[<>*`]", section)
    assert len(embed["description"]) <= 4096
    assert not re.search(r"(?<!\\)[@*`\[]", embed["description"].replace("\\\\", ""))


# --- where it may go


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_global(address)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.1.1",
     "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "fec0::1", "ff0e::1", "::ffff:10.0.0.1",
     "::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "localhost", "", "2001:0:a00:1::1"],
)  # fmt: skip
def test_addresses_of_somebody_else(address: str) -> None:
    assert not is_global(address)


# --- when


def at(text: str, zone: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_a_report_is_due_once_a_day_at_its_local_time() -> None:
    zone, known = "Asia/Seoul", at("2026-11-01T00:00", "Asia/Seoul")

    assert report_day("08:30", "", known, at("2026-11-29T08:29", zone), zone) == ""
    assert report_day("08:30", "", known, at("2026-11-29T08:30", zone), zone) == "2026-11-28"
    assert report_day("08:30", "2026-11-28", known, at("2026-11-29T23:59", zone), zone) == ""
    assert report_day("08:30", "2026-11-28", known, at("2026-11-30T12:00", zone), zone) == "2026-11-29"


def test_a_target_that_was_added_later_in_the_day_waits_for_the_next_and_a_skipped_hour_is_made_up_for() -> None:
    zone = "Europe/Berlin"
    added = at("2026-03-29T12:00", zone)

    assert report_day("08:30", "", added, at("2026-03-29T13:00", zone), zone) == ""
    assert report_day("08:30", "", added, at("2026-03-30T08:30", zone), zone) == "2026-03-29"
    # At 02:30 of that day the clocks went from 2 to 3.
    assert report_day("02:30", "", 0.0, at("2026-03-29T03:31", zone), zone) == "2026-03-28"


def test_keys_and_tokens_that_end_soon() -> None:
    end = datetime.datetime.fromtimestamp(NOW + 6 * 86400, datetime.UTC)
    config = snapshot(keys=(api_key(expires=end, owner="o"),))
    inventory = take_inventory(config)

    assert [one.left for one in ending_keys(config, inventory, NOW)] == ["a week"]
    assert [one.left for one in ending_keys(config, inventory, NOW + 5.5 * 86400)] == ["a day"]
    assert list(ending_keys(config, inventory, NOW - 2 * 86400)) == []
    assert list(ending_keys(config, inventory, NOW + 7 * 86400)) == []
    assert [one.left for one in ending_tokens([("a", NOW + 3600), ("b", NOW + 1e7)], NOW)] == ["a day"]
    assert isinstance(next(ending_keys(config, inventory, NOW)), KeyExpiring)


def test_the_figures_of_a_report_are_those_of_relayd_report() -> None:
    by_key = {**REPORT, "rows": [{"key": "dev", "requests": 9, "tokens": 9, "cost": "0.10", "errors": 0}]}

    assert report_figures({**by_key, "top_models": []})["top_keys"] == [
        {"key": "dev", "requests": 9, "tokens": 9, "cost": "0.10"}
    ]


# --- limits


DAY = Calendar(counter="key/dev/requests/day", name="daily requests 100", unit="requests", limit=100, cost=0,
               start=0, end=86_400_000)  # fmt: skip
COST = Calendar(counter="key/dev/cost/total", name="total cost $1.00", unit="cost", limit=1_000_000, cost=0, start=0,
                end=FOREVER)  # fmt: skip
MINUTE = Rolling(counter="key/dev/requests/1m", name="10 requests per 1m", unit="requests", limit=10, cost=0,
                 window=60_000)  # fmt: skip
SLOTS = Slots(counter="key/dev/slots", name="2 concurrent requests", limit=2)


def seen(watch: LimitWatch, term: Calendar | Rolling, used: int, now_ms: int = 1000) -> list[type]:
    level = TermLevel(used=used, resets_at=2000)
    return [type(one) for one in watch.look(api_key(), [term], [level], now_ms)]


def test_a_limit_is_near_at_80_percent_and_reached_at_all_of_it_once_each() -> None:
    watch = LimitWatch()

    assert seen(watch, DAY, 79) == []
    assert seen(watch, DAY, 80) == [LimitNear]
    assert seen(watch, DAY, 85) == []
    assert seen(watch, DAY, 100) == [LimitReached]
    assert seen(watch, DAY, 100, now_ms=86_300_000) == []


def test_what_is_reserved_of_a_cost_limit_is_near_and_only_a_refusal_reaches_it() -> None:
    watch = LimitWatch()

    assert seen(watch, COST, 1_000_000) == [LimitNear]
    watch.note_refusal("dev", COST)
    assert seen(watch, COST, 990_000) == [LimitReached]


def test_of_a_limit_of_minutes_only_the_refusal_is_told_and_once_an_hour() -> None:
    watch = LimitWatch()

    assert seen(watch, MINUTE, 9) == []
    assert seen(watch, MINUTE, 10) == [LimitReached]
    assert seen(watch, MINUTE, 10, now_ms=3_500_000) == []
    assert seen(watch, MINUTE, 10, now_ms=3_700_000) == [LimitReached]


def test_keys_are_looked_at_while_they_are_near_and_slots_are_no_limit_to_tell_of() -> None:
    watch, known = LimitWatch(), {"dev": api_key()}
    watch.note("dev", [SLOTS, DAY], [TermLevel(used=2, resets_at=0), TermLevel(used=10, resets_at=0)])
    watch.note_refusal("dev", SLOTS)
    assert watch.next_keys(known, 9) == []  # type: ignore[arg-type]
    watch.note("dev", [SLOTS, DAY], [TermLevel(used=1, resets_at=0), TermLevel(used=80, resets_at=0)])
    assert [key.id for key in watch.next_keys(known, 9)] == ["dev"]  # type: ignore[arg-type]
    seen(watch, DAY, 70)
    assert watch.next_keys(known, 9)  # type: ignore[arg-type]
    seen(watch, DAY, 10)
    assert watch.next_keys(known, 9) == []  # type: ignore[arg-type]


def test_of_many_keys_each_gets_its_turn() -> None:
    watch, known = LimitWatch(), {name: api_key(id=name) for name in "abc"}
    for name in "abc":
        watch.note(name, [DAY], [TermLevel(used=99, resets_at=0)])

    assert [[key.id for key in watch.next_keys(known, 2)] for _ in range(3)] == [["a", "b"], ["c", "a"], ["b", "c"]]


def test_a_rest_of_less_than_a_minute_is_in_the_log_alone_unless_the_credential_was_rejected() -> None:
    assert AccountOut(account="a", reason="r", until="u", rest=59.0).brief
    assert not AccountOut(account="a", reason="r", until="u", rest=60.0).brief
    assert not AccountCredential(account="a", reason="r", until="u", rest=5.0).brief


# --- what nobody announces


def service(*, resting: bool) -> ServiceFacts:
    rest = Block("a", "cooling down", NOW + 600, "overload") if resting else None
    return ServiceFacts(
        now=NOW,
        accounts=(AccountFacts(id="a", groups=("g",), rest=rest),),
        configured=1,
        used_groups=frozenset({"g"}),
    )


def test_a_group_that_nobody_serves_begins_and_ends_once() -> None:
    outlook = Outlook("n1")
    looks = [service(resting=False), *[service(resting=True)] * 2, *[service(resting=False)] * 2]

    assert [one.name for facts in looks for one in outlook.look(facts, [])] == ["group.down", "group.up"]


def test_failing_calls_begin_at_a_quarter_of_enough_calls_and_end_below_a_tenth() -> None:
    outlook, well = Outlook("n1"), service(resting=False)

    def told(calls: int, errors: int, refused: int = 0) -> list[str]:
        minutes = [Interval(start=0, calls=999, errors=999)] + [Interval(start=60)] * 4
        minutes.append(Interval(start=300, calls=calls, errors=errors, refused=refused))
        return [one.name for one in outlook.look(well, minutes)]

    assert told(19, 19) == []
    assert told(100, 20) == []
    assert told(100, 20, refused=60) == ["errors.high"]
    assert told(100, 12) == []
    assert told(100, 9) == ["errors.normal"]
