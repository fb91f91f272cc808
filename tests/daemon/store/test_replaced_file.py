"""A SQLite file that is deleted or replaced under the daemon is noticed, and the last minutes are told again."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from operations import admit, booked, record
from waiting import PATIENCE, until

from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import Granted, Settle
from relayd.state.sqlite import SqliteStore

NOW = 1_800_000_000_000


def store_at(path: Path, busy: int = 60_000) -> SqliteStore:
    return SqliteStore(str(path), clock=lambda: NOW, busy=busy, deadline=PATIENCE)


@asynccontextmanager
async def batching(path: Path, *, quick: bool) -> AsyncIterator[Batcher]:
    batcher = Batcher(StoreSession(store_at(path)), quick=store_at(path, 0) if quick else None)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        yield batcher
        nursery.cancel_scope.cancel()


def requests_in(path: Path) -> int:
    store = store_at(path)
    try:
        return booked(store)
    finally:
        store.close()


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for one in path.parent.glob("relayd.db*"):
        one.unlink()


def put_back(path: Path) -> None:
    """An older copy, renamed over it, as a restore does."""
    os.replace(path.with_name("copy"), path)


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "thread"])
@pytest.mark.parametrize("replace", [delete, delete_all, put_back])
async def test_what_was_settled_in_the_last_minutes_is_in_the_new_file(
    replace: Callable[[Path], None], quick: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "relayd.db"
    fresh = store_at(path)
    fresh.check()
    fresh.close()
    shutil.copy(path, tmp_path / "copy")
    async with batching(path, quick=quick) as batcher:
        for number in range(5):
            assert isinstance(await batcher.ask(admit(f"c{number}")), Granted)
            batcher.submit_nowait(Settle(call=f"c{number}", record=record()))
        await until(lambda: requests_in(path) == 5)

        replace(path)
        assert isinstance(await batcher.ask(admit("after")), Granted)
        batcher.submit_nowait(Settle(call="after", record=record()))

        await until(lambda: path.exists() and requests_in(path) == 6)
        assert batcher.session.stats.told_again == 5
        assert batcher.up
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == ["state.replaced"]


async def test_a_file_that_stays_is_told_nothing_twice(tmp_path: Path) -> None:
    async with batching(tmp_path / "relayd.db", quick=True) as batcher:
        for number in range(50):
            await batcher.ask(admit(f"c{number}"))
            batcher.submit_nowait(Settle(call=f"c{number}", record=record()))
    assert batcher.session.stats.told_again == 0
    assert requests_in(tmp_path / "relayd.db") == 50
