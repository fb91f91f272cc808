"""A whole process with too little of something; the small version of tests/bench/strain_rounds.py."""

from __future__ import annotations

import os
from pathlib import Path

import bad_disks
import pytest
import scarcity

CI = bool(os.environ.get("CI"))  # there everything that is needed is


async def test_with_few_descriptors_some_are_served_and_the_others_told(tmp_path: Path) -> None:
    await scarcity.without_descriptors(tmp_path, clients=300)


async def test_with_little_memory_some_are_refused_and_the_process_lives(tmp_path: Path) -> None:
    await scarcity.without_memory(tmp_path, bytes_at_most=256 << 20, streams=50, bodies=30, body=8_000_000)


@pytest.mark.skipif(not (CI or scarcity.may_bound() or bad_disks.may_mount()), reason="no mount namespaces here")
async def test_workers_with_little_memory_keep_to_it_together(tmp_path: Path) -> None:
    await scarcity.without_memory(tmp_path, bytes_at_most=256 << 20, streams=50, bodies=12, body=8_000_000, workers=2)


@pytest.mark.skipif(not (CI or bad_disks.may_trace()), reason="no strace here, or it may not trace")
async def test_where_no_fsync_succeeds_calls_go_on_and_it_is_told(tmp_path: Path) -> None:
    await bad_disks.without_fsync(tmp_path, calls=20)


@pytest.mark.skipif(not (CI or bad_disks.may_mount()), reason="no mount namespaces here")
async def test_a_full_disk_of_1_mb_costs_no_call_and_no_line_of_the_books(tmp_path: Path) -> None:
    await bad_disks.without_room(tmp_path, calls=50)


@pytest.mark.skipif(not (CI or bad_disks.may_compile()), reason="no C compiler here")
async def test_a_disk_that_turns_read_only_costs_no_call_and_no_line_of_the_books(tmp_path: Path) -> None:
    await bad_disks.turned_read_only(tmp_path, calls=20)
