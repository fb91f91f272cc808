"""Counting tokens stands in nobody's way, and works where the upstream has no counting of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from booked import booked
from builders import snapshot
from fakes import MODEL, Reception, answering, failing, message, relaying, through, upstream_account
from scripted import Conversation, serving
from waiting import until

from relayd.core.quota.count_estimate import IMAGE, estimated_count

COUNT = "/v1/messages/count_tokens"


async def test_counting_takes_no_place_of_an_account_and_needs_none() -> None:
    asked, go = [], trio.Event()

    async def upstream(conversation: Conversation) -> None:
        while request := await conversation.request():
            counts = b"count_tokens" in request.partition(b"\r\n")[0]
            asked.append(counts)
            if len(asked) < 3:
                await go.wait()
            await conversation.send(answering(body=b'{"input_tokens": 5}' if counts else message()))

    async with serving(upstream, upstream, upstream, upstream) as there:
        tree = snapshot(accounts=(upstream_account("a", there.port, max_concurrency=1),))
        async with relaying(tree) as house:
            told = {}

            async def ask(name: str, path: str) -> None:
                told[name] = (await house.ask(path=path)).status

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, "count", COUNT)
                await until(lambda: len(asked) == 1)
                nursery.start_soon(ask, "message", "/v1/messages")  # the count in flight holds no place
                await until(lambda: len(asked) == 2)
                assert house.pool.in_flight("a") == 2
                await ask("second count", COUNT)  # the message holds the only one
                go.set()
            assert told == {"count": 200, "message": 200, "second count": 200}
            assert asked == [True, False, True]


async def test_counting_takes_no_place_on_all_nodes_either(tmp_path: Path) -> None:
    go = trio.Event()

    async def upstream(conversation: Conversation) -> None:
        while request := await conversation.request():
            counts = b"count_tokens" in request.partition(b"\r\n")[0]
            if not counts:
                await go.wait()
            await conversation.send(answering(body=b'{"input_tokens": 5}' if counts else message()))

    async with serving(upstream, upstream) as there:
        tree = snapshot(accounts=(upstream_account("a", there.port, max_concurrency=1),))
        async with booked(tree, tmp_path) as world, trio.open_nursery() as nursery:
            nursery.start_soon(world.house.ask)
            await until(world.state.leases.held)
            assert (await world.house.ask(path=COUNT)).status == 200
            assert len(world.state.leases.held()) == 1
            go.set()


ABSENT = {
    "a page": answering(404, b"<html>not found</html>", content_type="text/html"),
    "a method": answering(405, b""),
    "another gateway": answering(404, b'{"error":{"message":"Invalid URL (POST /v1/messages/count_tokens)"}}'),
    "the form of the API": failing(404, "not_found_error", "Not Found"),
}


@pytest.mark.parametrize("case", ABSENT)
async def test_an_upstream_without_counting_is_no_end_of_it(case: str) -> None:
    async with serving(Reception([ABSENT[case]])) as upstream, through(upstream) as house:
        told = await house.ask(path=COUNT)
    assert (told.status, told["relayd-estimated"], told["content-type"]) == (200, "input_tokens", "application/json")
    assert 10 <= told.json["input_tokens"] <= 60


async def test_a_model_that_an_upstream_has_not_is_a_404_as_before() -> None:
    answer = failing(404, "not_found_error", f"model: {MODEL}")
    async with serving(Reception([answer])) as upstream, through(upstream) as house:
        told = await house.ask(path=COUNT)
    assert told.error == (404, "not_found_error", f"model: {MODEL}")


async def test_a_message_is_never_estimated() -> None:
    async with serving(Reception([ABSENT["a page"]])) as upstream, through(upstream) as house:
        assert (await house.ask()).status == 404


def counted(body: object) -> int:
    return int(json.loads(estimated_count(json.dumps(body).encode()))["input_tokens"])


def test_what_is_in_base64_is_not_measured_by_its_bytes() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 2_000_000}}
    text = {"role": "user", "content": [{"type": "text", "text": "what is this?"}]}
    plain = counted({"model": MODEL, "messages": [text]})
    seen = counted({"model": MODEL, "messages": [{**text, "content": [*text["content"], image]}]})
    assert plain + IMAGE <= seen <= plain + IMAGE + 60
    inner = {"type": "tool_result", "tool_use_id": "t", "content": [image, image]}
    assert counted({"messages": [{"role": "user", "content": [inner]}]}) >= 2 * IMAGE
    document = {"type": "document", "source": {"type": "base64", "data": "A" * 350_000}}
    assert 12_000 <= counted({"messages": [{"role": "user", "content": [document]}]}) <= 12_100


def test_a_body_that_cannot_be_taken_apart_is_measured_whole() -> None:
    assert json.loads(estimated_count(b"[" * 70_000))["input_tokens"] == 20_000


def test_the_estimate_is_rather_too_high() -> None:
    words = "the quick brown fox jumps over the lazy dog " * 100  # 900 words, as many tokens
    assert 900 <= counted({"messages": [{"role": "user", "content": words}]}) <= 1500
