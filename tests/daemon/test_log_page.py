"""docs/logs.md and what relayd logs say the same: every event with its level and fields, every area, every field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

import httpx2
from builders import KEY
from daemon import PATIENCE, SIMULATOR, running, write_tree
from log_events import call_fields, logged_events
from steady_calls import ASK

from relayd.config.snapshot import LogArea

PAGE = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
ALWAYS = {"time", "level", "event"}
BY_THE_LOG = {"call", "repeated", "traceback"}  # daemon/log.py adds them to any line
DENIED = {"keys", "sha256", "accounts", "ips"}  # made of config.snapshot.Deny


def undocumented(entries: Iterable[Mapping[str, object]]) -> set[tuple[str, str]]:
    """Events of a log, each with a field that the page does not give it."""
    fields = {row[0].strip("`"): words(row[3].rstrip("|")) if len(row) > 3 else set() for row in table("Events")}
    fields["call.done"] = {word for row in table("A call") for word in words(row[0])}
    return {
        (str(entry["event"]), name)
        for entry in entries
        for name in entry.keys() - ALWAYS - BY_THE_LOG - fields.get(str(entry["event"]), set())
    }


def table(heading: str) -> list[list[str]]:
    """The rows of the table in a section."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [row.strip("| ").split(" | ") for row in section.splitlines() if row.startswith("| `")]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_every_event_is_on_the_page_with_its_levels_and_fields() -> None:
    logged = logged_events()
    told = {row[0].strip("`"): row for row in table("Events") if row[0] != "`call.done`"}
    assert sorted(told) == sorted(logged)
    for name, event in logged.items():
        row = told[name]
        fields = words(row[3].rstrip("|")) if len(row) > 3 else set()
        expected = event.fields | (DENIED if name == "reload.denied" else set())
        assert (name, fields) == (name, expected)
        assert event.levels - {""} <= set(row[1].split("/")), name


def test_what_cannot_be_read_from_the_source_is_known() -> None:
    assert [name for name, event in logged_events().items() if not event.whole] == ["reload.denied"]


def test_the_lines_of_a_daemon_have_the_fields_of_the_page(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay='[log]\nlevel = "debug"\n', accounts={"sim": SIMULATOR, "other": SIMULATOR})
    with running(tree) as daemon:
        for key in (KEY, "sk-relay-none"):
            headers = {"x-api-key": key, "x-request-id": "one"}
            for status in ("200", "401"):
                simulated = headers | {"x-simulate-status": status}
                httpx2.post(f"{daemon.url}/v1/messages", json=ASK, headers=simulated, trust_env=False, timeout=PATIENCE)
        (tree / "accounts.d" / "other.toml").write_text("wrong = 1\n")
        daemon.wait_for("reload.rejected")
        (tree / "accounts.d" / "other.toml").unlink()
        daemon.wait_for("reload.applied")
    entries = daemon.events()

    assert {"call.done", "access.refused", "account.credential", "reload.rejected", "reload.applied"} <= {
        entry["event"] for entry in entries
    }
    assert undocumented(entries) == set()


def test_every_field_is_explained_and_nothing_else() -> None:
    logged = set().union(*(event.fields for event in logged_events().values()))
    assert {word for row in table("Fields") for word in words(row[0])} == logged | BY_THE_LOG | DENIED


def test_every_field_of_a_call_is_explained() -> None:
    assert {word for row in table("A call") for word in words(row[0])} == call_fields() - ALWAYS


def test_every_area_has_a_level_and_is_explained() -> None:
    areas = {name.partition(".")[0] for name in logged_events()}
    assert set(get_args(LogArea)) == areas
    assert [words(row[0]) for row in table("Levels by area")] == [{area} for area in get_args(LogArea)]
