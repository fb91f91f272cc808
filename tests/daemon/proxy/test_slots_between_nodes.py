"""Whoever has its whole answer asks again at once, on another node, and is not refused for the slot of that call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from booked import booked
from builders import account, api_key, snapshot
from redis_server import RedisServer

from relayd.config.snapshot import Limits, Simulator
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_session import StoreSession
from relayd.state.redis import RedisStore

CALLS = 100


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    found = RedisServer().start()
    yield found
    found.remove()


@pytest.mark.parametrize(
    ("path", "stream"), [("/v1/messages", False), ("/v1/messages", True), ("/openai/v1/chat/completions", True)]
)
async def test_two_nodes_that_are_asked_in_turn_refuse_nobody(
    path: str, stream: bool, server: RedisServer, tmp_path: Path
) -> None:
    config = snapshot(
        keys=(api_key(limits=Limits(concurrency=1)),), accounts=(account("a", simulator=Simulator(words=2)),)
    )
    body = json.dumps(
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 10,
            "stream": stream,
            "messages": [{"role": "user", "content": "Hello"}],
        }
    ).encode()
    stores = [Batcher(StoreSession(RedisStore(server.url, realm=f"{path}{stream}", command=10))) for _ in range(2)]
    async with (
        booked(config, tmp_path / "one", main=stores[0]) as one,
        booked(config, tmp_path / "two", main=stores[1], ids="req_two") as two,
    ):
        clients = [await node.house.connect() for node in (one, two)]
        with trio.fail_after(60):
            statuses = [(await clients[number % 2].ask(body, path)).status for number in range(CALLS)]
    assert statuses == [200] * CALLS
