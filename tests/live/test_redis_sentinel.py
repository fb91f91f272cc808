"""RedisStore under Sentinel: the master is found through any sentinel, and the new one after a failover."""

from __future__ import annotations

import contextlib
import time

import pytest
from redis_server import sentinels

from relayd.core.quota.usage_record import UsageRecord
from relayd.state.contract import Ping, Pong, Settle, Settled, StoreUnavailable
from relayd.state.redis import RedisStore

# s. A sentinel that was held up for two seconds mistrusts its clock, and does nothing for thirty (TILT).
FAILOVER = 240.0  # s; sentinels that stood still for 2 s do nothing for 30 s (TILT)


def settle(call: str) -> Settle:
    return Settle(call=call, record=UsageRecord(day="2026-11-22", key="dev", account="", model=""))


def test_the_new_master_is_found_after_a_failover() -> None:
    with sentinels(down_after=3000) as (servers, watchers):
        hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
        url = f"redis+sentinel://{hosts}/mymaster"
        with contextlib.closing(RedisStore(url, realm="s", connect=30, command=30)) as store:
            assert store.apply([settle("c1")]) == [Settled(outcome="unknown")]
            with contextlib.closing(servers[0].client()) as client:
                assert client.execute_command("WAIT", 1, 20_000) == 1
            watchers[0].stop()  # one sentinel less is no matter
            servers[0].stop()
            deadline = time.monotonic() + FAILOVER
            while True:
                try:
                    answers = store.apply([settle("c1"), Ping()])
                    break
                except StoreUnavailable:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            # What the replica had got is known there.
            assert answers[0] == Settled(outcome="again")
            assert isinstance(answers[1], Pong)


def test_a_name_that_the_sentinels_do_not_know_is_said() -> None:
    with sentinels() as (_, watchers):
        url = f"redis+sentinel://127.0.0.1:{watchers[0].port}/other"
        with (
            contextlib.closing(RedisStore(url, realm="s", connect=30, command=30)) as store,
            pytest.raises(StoreUnavailable, match="the sentinels know no master 'other'"),
        ):
            store.check()
