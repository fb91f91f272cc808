"""Threads and containers belong to the account and the owner that made them, as files and batches do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from booked import Booked, booked
from builders import OTHER_KEY, api_key, snapshot
from fakes import Asked, Reception, answering, streaming, upstream_account
from scripted import serving

from relayd.config.secrets.api_keys import mint

THIRD_KEY = mint(lambda size: b"\x03" * size)
CREATE = {"type": "create"}


def after(message: str) -> dict[str, str]:
    return {"type": "continue", "previous_message_id": message}


def asking(*, stream: bool = False, **fields: Any) -> bytes:
    body = {"model": "claude-sonnet-5-5", "max_tokens": 9, "stream": stream, "messages": [], **fields}
    return json.dumps(body).encode()


def event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps({"type": name, **fields}).encode())


def answer(message: str, container: str, *, stream: bool) -> bytes:
    used = {"container": {"id": container}} if container else {}
    usage = {"input_tokens": 1, "output_tokens": 1}
    if not stream:
        return answering(200, json.dumps({"type": "message", "id": message, "usage": usage, **used}).encode())
    start = event("message_start", message={"id": message, "usage": usage})
    return streaming(start, event("message_delta", delta=used, usage=usage), event("message_stop"))


@asynccontextmanager
async def two_upstreams(tmp_path: Path, *, stream: bool) -> AsyncIterator[tuple[Booked, dict[str, list[Asked]]]]:
    """Accounts a and b; a's next answer is msg_a in container_a, and so on. Keys dev and third have one owner."""
    async with AsyncExitStack() as stack:
        accounts, asked = [], {}
        for name in "ab":
            reception = Reception([answer(f"msg_{name}", f"container_{name}", stream=stream)])
            upstream = await stack.enter_async_context(serving(reception))
            accounts.append(upstream_account(name, upstream.port))
            asked[name] = reception.asked
        keys = (api_key(owner="crew"), api_key(OTHER_KEY, id="other"), api_key(THIRD_KEY, id="third", owner="crew"))
        world = await stack.enter_async_context(booked(snapshot(keys=keys, accounts=tuple(accounts)), tmp_path))
        yield world, asked
        world.house.upstreams.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_goes_on_goes_to_where_it_is_kept_and_for_its_owner_only(tmp_path: Path, stream: bool) -> None:
    async with two_upstreams(tmp_path, stream=stream) as (world, asked):
        ask = world.house.ask
        assert (await ask(asking(stream=stream, thread=CREATE))).status == 200
        home = "a" if asked["a"] else "b"
        message, container = f"msg_{home}", f"container_{home}"
        going_on = {
            "thread": {"thread": after(message)},
            "container": {"container": container},
            "with skills": {"container": {"id": container}},
        }
        for fields in going_on.values():
            for _ in range(4):  # two accounts are used in turn, but for these
                assert (await ask(asking(stream=stream, **fields))).status == 200
            assert (await ask(asking(**fields), "/v1/messages/count_tokens")).status == 200
            assert (await ask(asking(stream=stream, **fields), key=THIRD_KEY)).status == 200
            theirs = await ask(asking(stream=stream, **fields), key=OTHER_KEY)
            assert theirs.error[:2] == (404, "not_found_error")
        assert (len(asked[home]), len(asked["b" if home == "a" else "a"])) == (1 + 3 * 6, 0)


async def test_a_client_of_a_lost_thread_is_told_in_the_words_that_it_goes_on_by(tmp_path: Path) -> None:
    async with two_upstreams(tmp_path, stream=False) as (world, asked):
        told = await world.house.ask(asking(thread=after("msg_unknown")))
        assert told.status == 404
        assert told.json["error"]["details"] == {"error_code": "thread_not_found"}
        assert (await world.house.ask(asking(container="container_unknown"))).status == 404
        assert asked == {"a": [], "b": []}


async def test_an_answer_outside_a_thread_is_none(tmp_path: Path) -> None:
    async with two_upstreams(tmp_path, stream=False) as (world, asked):
        assert (await world.house.ask(asking())).status == 200
        home = "a" if asked["a"] else "b"
        assert (await world.house.ask(asking(thread=after(f"msg_{home}")))).status == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstream_that_repeats_an_id_moves_no_thread_to_another_owner(tmp_path: Path, stream: bool) -> None:
    async with two_upstreams(tmp_path, stream=stream) as (world, asked):
        ask = world.house.ask
        while not asked["a"]:
            assert (await ask(asking(stream=stream, thread=CREATE))).status == 200
        taken = [await ask(asking(stream=stream, thread=CREATE), key=OTHER_KEY) for _ in range(4)]
        assert {told.status for told in taken} <= {200, 502}
        assert (await ask(asking(stream=stream, thread=after("msg_a")))).status == 200
        assert (await ask(asking(stream=stream, thread=after("msg_a")), key=OTHER_KEY)).status == 404
