"""Making a worker where there is no room for one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from relayd.daemon.net.board import MOST_ROWS
from relayd.daemon.workers.making import WorkerMaker
from relayd.daemon.workers.pace import Restarts
from relayd.daemon.workers.roster import Roster


async def test_where_too_many_finish_their_last_calls_a_new_one_is_put_off_and_nothing_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    roster, restarts, unused = Roster(), Restarts(), SimpleNamespace(hear_end=None)
    leaving: list[Any] = [SimpleNamespace(row=SimpleNamespace(number=number)) for number in range(1, MOST_ROWS)]
    roster.workers.extend(leaving)
    orders: Any = SimpleNamespace(roster=roster)
    hearing: Any = unused
    sockets: Any = unused
    maker = WorkerMaker(
        orders=orders, sockets=sockets, hearing=hearing, restarts=restarts, start_of=str, wall=lambda: 0.0
    )
    async with trio.open_nursery() as nursery:
        scope = await nursery.start(maker.run)
        for _ in range(2):
            maker.make(1)
        assert maker.making == {}
        assert not restarts.due(1, trio.current_time())
        scope.cancel()
    assert [record.getMessage() for record in caplog.records] == ["worker.not_made"] * 2
