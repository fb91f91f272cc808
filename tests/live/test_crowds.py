"""A great many peers that behave as badly as TCP allows, against a whole process; the small version of
tests/bench/strain_rounds.py.
"""

from __future__ import annotations

from pathlib import Path

import crowds


async def test_at_sigterm_each_stream_ends_properly_and_is_booked(tmp_path: Path) -> None:
    figures = await crowds.drained(tmp_path, streams=60, patience=1.0)
    assert figures["error"] > 0, "no stream was long enough"


async def test_an_upstream_faster_than_its_clients_is_held_back_and_memory_with_it(tmp_path: Path) -> None:
    await crowds.blasted(tmp_path, streams=20)


async def test_clients_that_stop_reading_are_let_go_of_and_the_others_notice_nothing(tmp_path: Path) -> None:
    await crowds.stalled(tmp_path, clients=40)


async def test_calls_are_served_beside_clients_that_send_byte_by_byte_or_nothing(tmp_path: Path) -> None:
    await crowds.trickled(tmp_path, clients=150)


async def test_a_client_whose_link_is_down_is_let_go_of(tmp_path: Path) -> None:
    await crowds.deaf_clients(tmp_path, clients=6)
