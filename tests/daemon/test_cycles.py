"""What a call, a reload or a page was made of goes with it: nothing of it waits for the garbage collector.

Where the collector runs rarely (run.tune_memory), it would keep bodies, answers and whole configs until then.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
from fakes import (
    ASK,
    ASK_STREAM,
    STREAM_HEAD,
    Client,
    answering,
    chunked,
    events_of,
    failing,
    message,
    recorded_stream,
    streaming,
)
from fleet import noon_zone
from reload_world import KEY, World, key_of, living, make_tree
from scripted import Conversation, serving

LIMITS = "[limits]\nconcurrency = 100\nmonthly_requests = 1000\ntokens_per_minute = 1_000_000\n"
CHAT = b'{"model":"claude-sonnet-5-5","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}'
TIMES = 3
# All of one month, and nothing is asked of upstreams but what a scene asks.
QUIET = f'[state]\ntimezone = "{noon_zone()}"\n[upstream]\nmodels_every = "0s"\nmax_attempts = 1\n'

Scene = Callable[[World], Awaitable[None]]


@contextmanager
def left_behind() -> Iterator[list[str]]:
    """What relayd has made within the block and only the collector takes away."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
    finally:
        gc.set_debug(0)
        gc.enable()
        kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
        gc.garbage.clear()
        found += [f"{count} x {kind}" for kind, count in kinds.items() if kind.startswith("relayd.")]


async def call(
    world: World, body: bytes = ASK, path: str = "/v1/messages", *, status: int = 200, key: str = KEY
) -> None:
    client = await world.connect()
    told = await client.ask(body, path, key=key)
    assert told.status == status, told
    client.stream.socket.close()


async def plain(world: World) -> None:
    await call(world)


async def stream(world: World) -> None:
    await call(world, ASK_STREAM)


async def counted(world: World) -> None:
    await call(world, ASK, "/v1/messages/count_tokens")


async def chat(world: World) -> None:
    await call(world, CHAT, "/v1/chat/completions")


async def chat_stream(world: World) -> None:
    await call(world, CHAT[:-1] + b',"stream":true}', "/v1/chat/completions")


async def refused(world: World) -> None:
    await call(world, status=401, key="sk-nobody")


async def beyond_its_limit(world: World) -> None:
    await call(world, status=429, key=key_of(1))


async def failed(world: World) -> None:
    await call(world, status=400)


async def unanswered(world: World) -> None:
    await call(world, status=502)


async def cut(world: World) -> None:
    client = await world.connect()
    told = await client.ask(ASK_STREAM)
    assert b"event: error" in told.body
    client.stream.socket.close()


async def timed_out(world: World) -> None:
    world.tree.relay(f'{QUIET}total_timeout = "0.1s"\n')
    await world.reload()
    await call(world, status=504)
    world.tree.relay(QUIET)
    await world.reload()


async def left(world: World) -> None:
    client: Client = await world.connect()
    await client.post(ASK_STREAM)
    await client.head()
    await client.until(b"message_start")
    client.stream.socket.close()


async def reload(world: World) -> None:
    world.tree.key(2, f"[limits]\nconcurrency = {world.generation}\n")
    assert (await world.reload()).result == "applied"


EVENTS = events_of(recorded_stream())
WHOLE = streaming(*EVENTS)
PART = STREAM_HEAD + chunked(*EVENTS[:3])


@attrs.define
class Claude:
    """Answers each request with `answer`; `over`: and closes the connection then. None: it says nothing."""

    answer: bytes | None = None
    over: bool = False

    async def __call__(self, peer: Conversation) -> None:
        while await peer.request():
            if self.answer is None:
                await peer.until_peer_leaves()
            else:
                await peer.send(self.answer)
            if self.over:
                return


SCENES: tuple[tuple[Scene, Claude], ...] = (
    (plain, Claude(answering(body=message()))),
    (stream, Claude(WHOLE)),
    (counted, Claude(answering(body=b'{"input_tokens":3}'))),
    (chat, Claude(answering(body=message()))),
    (chat_stream, Claude(WHOLE)),
    (refused, Claude()),
    (beyond_its_limit, Claude()),
    (failed, Claude(failing(400, "invalid_request_error"))),
    (unanswered, Claude(b"", over=True)),
    (cut, Claude(PART, over=True)),
    (timed_out, Claude()),
    (left, Claude(PART)),
    (reload, Claude()),
)


async def test_nothing_is_left_for_the_garbage_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_CREDENTIALS", str(tmp_path))
    (tmp_path / "secret").write_text("sk-ant-test")
    claude, left_over = Claude(answering(body=message())), {}
    async with serving(claude) as upstream:
        tree = make_tree(tmp_path / "tree")
        account = f'kind = "api-key"\nbase_url = "http://127.0.0.1:{upstream.port}"\n'
        tree.relay(QUIET)
        tree.write("accounts.d/a.toml", f'{account}[credential]\nfile = "{tmp_path}/secret"\n')
        tree.key(0, LIMITS)
        tree.key(1, "[limits]\nmonthly_requests = 1\n")
        async with living(tree, watch=False) as world:
            await call(world, key=key_of(1))
            for scene, claude.answer, claude.over in ((scene, one.answer, one.over) for scene, one in SCENES):
                for _ in range(TIMES):  # what is imported or compiled once
                    await play(world, scene)
                with left_behind() as found:
                    for _ in range(TIMES):
                        await play(world, scene)
                if found:
                    left_over[scene.__name__] = found
    assert (left_over, constants_with_frames()) == ({}, [])


async def play(world: World, scene: Scene) -> None:
    """One scene, until nothing of it is under way."""
    await scene(world)
    await world.until(lambda: not world.sources.calls and not world.sources.connections().open)


def constants_with_frames() -> list[str]:
    """Exceptions that are constants of relayd's modules and hold on to where they were raised."""
    modules = [(name, module) for name, module in sys.modules.items() if name.startswith("relayd.")]
    return [
        f"{name}.{field}"
        for name, module in modules
        for field, value in vars(module).items()
        if isinstance(value, BaseException) and value.__traceback__ is not None
    ]
