"""Recent calls that are rare: a question goes on until it has found enough, within bounds, and says where to go on."""

from __future__ import annotations

import attrs
import pytest

from relayd.daemon.beside import Beside
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.recent_calls import ROUNDS, RecentCalls
from relayd.daemon.store.store_reader import StoreReader
from relayd.daemon.store.store_session import StoreSession
from relayd.state.contract import MOST_LOOKED_AT, FindCalls, KeepCalls, KeptCall
from relayd.state.sqlite import SqliteStore

KEPT = MOST_LOOKED_AT * ROUNDS + 600
FIRST = 1_800_000_000_000
RARE = (5, 700, KEPT - 1)  # the oldest is beyond what one answer looks through


@attrs.define
class Asked:
    """A store that counts questions."""

    inner: SqliteStore
    questions: int = 0

    def apply(self, batch: list[object]) -> object:
        self.questions += 1
        return self.inner.apply(batch)  # type: ignore[arg-type]


@pytest.fixture
def asked() -> Asked:
    store = SqliteStore(":memory:", clock=lambda: FIRST + KEPT)
    calls = [
        KeptCall(id=f"req_{n:06}", at=FIRST + n, key="rare" if n in RARE else "dev", status=200, body="{}")
        for n in range(KEPT)
    ]
    store.apply([KeepCalls(calls=tuple(calls), most=KEPT)])
    return Asked(store)


async def test_what_is_rare_is_found_behind_many_others_and_no_question_goes_on_for_ever(asked: Asked) -> None:
    main = Batcher(StoreSession(asked.inner))
    main.session.up = True
    reader = StoreReader(main, asked, Beside(), lambda: 0.0)  # type: ignore[arg-type]
    recent = RecentCalls(state=main, reader=reader, most=lambda: 0, beside=Beside())
    recent._told = 0  # nothing to forget

    whole = await recent.find(FindCalls(key="dev", limit=50))
    assert (len(whole.calls), asked.questions) == (50, 1)
    found = await recent.find(FindCalls(key="rare", limit=50))
    assert [call.id for call in found.calls] == [f"req_{KEPT - 1:06}", "req_000700"]
    assert asked.questions == 1 + ROUNDS
    assert found.after is not None
    rest = await recent.find(FindCalls(key="rare", limit=50, before=found.after))
    assert ([call.id for call in rest.calls], rest.after) == (["req_000005"], None)
    one = await recent.find(FindCalls(key="rare", limit=1))
    assert len(one.calls) == 1
    assert one.after is not None
