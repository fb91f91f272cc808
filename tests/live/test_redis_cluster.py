"""RedisStore on a cluster of three masters: the slot of the realm is found, and followed when it moves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from redis_server import RedisServer, cluster
from waiting import wait_until

from relayd.core.quota.limits import Rolling, Term
from relayd.core.quota.usage_record import UsageRecord
from relayd.core.quota.windows import FOREVER
from relayd.state.contract import Admit, Denied, Granted, Peek, Ping, Pong, TermLevels
from relayd.state.redis import RedisStore
from relayd.state.redis_copy import delete_realm, read_realm, write_realm


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RedisServer]]:
    with cluster(3) as three:
        yield three


def terms(limit: int) -> tuple[Term, ...]:
    return (Rolling(counter="r", name="", unit="requests", limit=limit, cost=1, window=3_600_000),)


def admit(call: str, limit: int) -> Admit:
    return Admit(call=call, terms=terms(limit), orphan=UsageRecord(day="2026-11-22", key="", account="", model=""))


@pytest.mark.parametrize("realm", ["a", "b", "c", "d", "e", "f"])
def test_any_node_leads_to_the_realms_master(servers: list[RedisServer], realm: str) -> None:
    for number, server in enumerate(servers):
        with contextlib.closing(
            RedisStore(f"redis+cluster://127.0.0.1:{server.port}", realm=realm, command=30)
        ) as store:
            assert store.check() == []
            (answer,) = store.apply([admit(f"c{number}", 2)])
            assert isinstance(answer, Granted if number < 2 else Denied)


@pytest.mark.parametrize("realm", ["a", "b", "c", "d"])
def test_a_realm_is_copied_from_its_master_whichever_node_is_named(servers: list[RedisServer], realm: str) -> None:
    name = f"copy-{realm}"
    for server in servers:
        with contextlib.closing(
            RedisStore(f"redis+cluster://127.0.0.1:{server.port}", realm=name, command=30)
        ) as store:
            delete_realm(store)
            write_realm(store, [("pins", [(f"p{n}", "v", FOREVER) for n in range(300)])])
            assert len(list(read_realm(store))) == 300


def test_a_slot_that_moves_is_followed_with_its_counters(servers: list[RedisServer]) -> None:
    urls = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    with contextlib.closing(RedisStore(f"redis+cluster://{urls}", realm="moving", command=30)) as store:
        store.apply([admit("c1", 9)])
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(contextlib.closing(server.client())) for server in servers]
            slot = clients[0].execute_command("CLUSTER", "KEYSLOT", "relayd:{moving}:clock")
            owners = [int(slot) // -(-16384 // 3), (int(slot) // -(-16384 // 3) + 1) % 3]
            source, target = (clients[owner] for owner in owners)
            ids = [client.execute_command("CLUSTER", "MYID") for client in (source, target)]
            target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
            assert keys
            source.execute_command("MIGRATE", "127.0.0.1", servers[owners[1]].port, "", 0, 5000, "KEYS", *keys)
            # Half-way: the old owner answers ASK, which is followed for the one batch.
            assert isinstance(store.apply([Ping()])[0], Pong)
            for client in (target, source):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
            wait_until(lambda: source.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0, "the move")
        store.apply([admit("c2", 9)])
        (peeked,) = store.apply([Peek(terms=terms(9))])
        assert isinstance(peeked, TermLevels)
        assert peeked.levels[0].used == 2
