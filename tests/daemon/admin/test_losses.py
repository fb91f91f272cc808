"""A daemon whose journal holds what no store takes starts, serves, and says so."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from reload_world import living, make_tree

from relayd.daemon.admin.metrics import metrics_text


def line(payload: bytes) -> bytes:
    return b"%08x %08x %s\n" % (len(payload), zlib.crc32(payload), payload)


def settlement(call: str, key: str | None, count: object, *terms: object) -> bytes:
    row = ["2026-11-22", key, "a", "m", 1, 0, 0, count, 0, 0, 0, 0, 0, 1]
    return line(json.dumps(["settle", call, row, terms, 10**15]).encode())


def letters(path: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in Path(path).read_text().splitlines()]


async def test_a_poisoned_journal_does_not_stop_a_daemon_and_shows_in_status_and_metrics(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    journal = tmp_path / "tree.node" / "journal"
    journal.mkdir(parents=True)
    huge, keyless, torn = settlement("c1", "k0", 2**70), settlement("c2", None, 5), b"00000010 00000000 torn\n"
    refused = settlement("c4", "k0", 6, ["R", ["no name"], "tokens", 5, 60_000, 0])
    entries = huge + keyless + torn + refused + settlement("c3", "k0", 7)
    (journal / "settlements-0.journal").write_bytes(entries)

    async with living(tree) as world:
        assert (await world.call()).status == 200
        await world.until(lambda: world.status()["losses"]["dead_letters"] == 3, "all that is set aside")
        status = world.status()
        assert not status["well"]
        assert status["losses"]["dead_letters"] == status["losses"]["set_aside"] == 3
        assert status["losses"]["journal_damaged"] == 2
        assert status["losses"]["path"] in status["ailments"][0]
        metrics = metrics_text(world.sources, 0.0)
        assert "relayd_state_dead_letters 3\n" in metrics
        assert "relayd_state_journal_damaged_total 2\n" in metrics
        told = letters(status["losses"]["path"])
        assert [letter["operation"] for letter in told] == ["settle", "journal-line", "journal-line"]
        assert told[0]["record"]["input"] == 6
        os.unlink(status["losses"]["path"])
        assert world.status()["losses"]["dead_letters"] == 0


async def test_log_lines_that_nobody_took_are_counted(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        assert "relayd_log_lines_lost_total 0\n" in metrics_text(world.sources, 0.0)
        world.daemon.output.count_lost()
        assert "relayd_log_lines_lost_total 1\n" in metrics_text(world.sources, 0.0)
