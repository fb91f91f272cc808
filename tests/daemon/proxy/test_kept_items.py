"""Items of Responses answers, left here by a client that later sends only their ids."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from booked import Booked, booked
from builders import OTHER_KEY, api_key, snapshot
from fakes import Asked, Reception, Told, answering, streaming, upstream_account
from scripted import serving

from relayd.config.model.types import Seconds
from relayd.config.snapshot import State
from relayd.daemon.proxy import kept_items
from relayd.state.contract import Pin, Unpin

RESPONSES = "/openai/v1/responses"
DAY = 86_400
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
SAID = {"type": "text", "text": "A secret word."}
USED = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"q": 1}}
USAGE = {"input_tokens": 1, "output_tokens": 1}
IDS = ("rs_Ab9_0", "msg_Ab9_1", "fc_Ab9_2")
USER = {"role": "user", "content": "Hello"}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def answer(*blocks: dict[str, Any], stream: bool) -> bytes:
    if not stream:
        body = {"type": "message", "id": "msg_Ab9", "content": blocks, "stop_reason": "end_turn", "usage": USAGE}
        return answering(200, json.dumps(body).encode())
    said = b"".join(
        event("content_block_start", index=at, content_block=block) + event("content_block_stop", index=at)
        for at, block in enumerate(blocks)
    )
    ending = event("message_delta", delta={"stop_reason": "end_turn"}, usage=USAGE) + event("message_stop")
    return streaming(event("message_start", message={"id": "msg_Ab9", "usage": USAGE}) + said + ending)


def body(*items: Any, **fields: Any) -> bytes:
    return json.dumps({"model": "claude-sonnet-4-6", "input": [USER, *items], **fields}).encode()


def references(*ids: str) -> list[dict[str, str]]:
    return [{"type": "item_reference", "id": one} for one in ids]


@asynccontextmanager
async def relay(
    tmp_path: Path, *blocks: dict[str, Any], stream: bool = False, **relay: Any
) -> AsyncIterator[tuple[Booked, list[Asked]]]:
    reception = Reception([answer(*(blocks or (THOUGHT, SAID, USED)), stream=stream)])
    async with serving(reception) as upstream:
        keys = (api_key(), api_key(OTHER_KEY, id="other"))
        made = snapshot(keys=keys, accounts=(upstream_account("main", upstream.port),), **relay)
        async with booked(made, tmp_path) as world:
            yield world, reception.asked
            world.house.upstreams.close()


async def asked(world: Booked, given: bytes, path: str = RESPONSES, **options: Any) -> Told:
    return await world.house.ask(given, path, **options)


@pytest.mark.parametrize("stream", [False, True])
async def test_items_of_an_answer_may_be_named_instead_of_sent(tmp_path: Path, stream: bool) -> None:
    async with relay(tmp_path, stream=stream) as (world, seen):
        assert (await asked(world, body(stream=stream))).status == 200
        result = {"type": "function_call_output", "call_id": "toolu_1", "output": "r"}
        told = await asked(world, body(*references(*IDS), result, stream=stream))
        assert told.status == 200
        turns = json.loads(seen[1].body)["messages"]
        assert turns[1] == {"role": "assistant", "content": [THOUGHT, SAID, USED]}
        assert turns[2]["content"][0]["content"] == "r"
        counted = await asked(world, body(*references(*IDS)), f"{RESPONSES}/input_tokens")
        assert counted.status in (200, 502), "what this upstream answers is no count; but the items were found"
        assert json.loads(seen[2].body)["messages"][1]["content"][:2] == [THOUGHT, SAID]


async def test_nobody_else_can_name_them_and_the_store_cannot_read_them(tmp_path: Path) -> None:
    async with relay(tmp_path) as (world, _):
        assert (await asked(world, body())).status == 200
        told = await asked(world, body(*references(IDS[1])), key=OTHER_KEY)
        assert (told.status, told.json["error"]["code"]) == (400, "item_not_found")
        assert (await asked(world, body(*references(IDS[1])))).status == 200
        kept = [op for op in world.store.asked if isinstance(op, Pin) and op.name.startswith("item/")]
        assert len({op.name for op in kept}) == 3
        for op in kept:
            assert "secret" not in op.value
            assert not any(one in op.name + op.value for one in IDS)


async def test_they_go_when_they_were_not_named_for_a_day(tmp_path: Path) -> None:
    async with relay(tmp_path) as (world, _):
        await asked(world, body())
        world.clock.now += DAY - 1
        assert (await asked(world, body(*references(IDS[1])))).status == 200
        world.clock.now += DAY - 1
        assert (await asked(world, body(*references(IDS[1])))).status == 200
        world.clock.now += DAY + 1
        assert (await asked(world, body(*references(IDS[1])))).status == 400


async def test_nothing_is_kept_of_a_client_that_says_so_nor_where_the_operator_wants_none(tmp_path: Path) -> None:
    async with relay(tmp_path) as (world, _):
        await asked(world, body(store=False))
        assert (await asked(world, body(*references(IDS[1])))).status == 400
        assert not [op for op in world.store.asked if isinstance(op, Pin) and op.name.startswith("item/")]
    (tmp_path / "off").mkdir()
    async with relay(tmp_path / "off", relay={"state": State(keep_items=Seconds(0.0))}) as (world, _):
        await asked(world, body())
        assert (await asked(world, body(*references(IDS[1])))).status == 400


async def test_a_key_has_so_much_and_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_items, "MOST_OF_A_KEY", 700)
    long = {"type": "text", "text": "x" * 200}
    async with relay(tmp_path, THOUGHT, long) as (world, _):
        await asked(world, body())
        assert (await asked(world, body(*references("msg_Ab9_1")))).status == 200
        thought = next(op.name for op in world.store.asked if isinstance(op, Pin) and op.name.startswith("item/"))
        assert next(op.name for op in world.store.asked if isinstance(op, Unpin)) == thought


async def test_an_item_larger_than_its_place_is_not_kept(tmp_path: Path) -> None:
    async with relay(tmp_path, {"type": "text", "text": "x" * kept_items.LARGEST}) as (world, _):
        assert (await asked(world, body())).status == 200
        assert (await asked(world, body(*references("msg_Ab9_0")))).status == 400


async def test_while_the_store_is_away_answers_come_and_references_wait(tmp_path: Path) -> None:
    async with relay(tmp_path) as (world, _):
        world.store.away = True
        assert (await asked(world, body())).status == 200
        told = await asked(world, body(*references(IDS[1])))
        assert (told.status, told.json["error"]["code"]) == (503, "state_unavailable")
