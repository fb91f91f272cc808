"""Crowds: scenes in which a great many peers behave as badly as TCP allows.

Figures are s, bytes and counts; what must hold is asserted.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from signal import SIGTERM

import trio
from builders import KEY
from deaf import go_deaf
from ledger import EACH, Client, Reply, asking, body_length, getting
from load import PROMPT, name_of, names_of
from scripted import Conversation, serving
from strain import Figures, Node, asked, begin, connected, ended, fate, node, until, until_still

SEND_BUFFER = 128 << 10  # what the kernel makes of the 64 KiB that the server asks for


# -- SIGTERM -----------------------------------------------------------------------------------------------------------


async def drained(place: Path, *, streams: int, rounds: int = 1, patience: float = 2.0, seed: int = 1) -> Figures:
    """SIGTERM at a random moment with many streams, short, long, and not yet sent; then whether each ended properly,
    the process too, and whether each stands in the books. `patience`: of the drain, s.
    """
    rng = random.Random(seed)
    named = names_of("drain", streams * rounds)
    ends: dict[str, str] = {}
    longest = 0.0
    async with node(place, server=f'drain_timeout = "{patience:g}s"', named=named) as here:
        for number in range(rounds):
            if number:
                await begin(here.relays)
            models = named[number * streams : (number + 1) * streams]
            took, fates = await _drain(here, models, rng, patience)
            longest = max(longest, took)
            ends |= fates
        await _all_booked(here, ends)
    return {"streams": streams * rounds, **Counter(ends.values()), "longest stop": longest}


async def _drain(here: Node, models: list[str], rng: random.Random, patience: float) -> tuple[float, dict[str, str]]:
    """One SIGTERM, once so many of the calls were sent."""
    clients = [Client(here.port) for _ in models]
    moment, sent, told = rng.randrange(1, len(models)), 0, trio.Event()
    replies: dict[str, Reply] = {}
    ends: dict[str, float] = {}
    early: set[str] = set()

    async def one(client: Client, model: str) -> None:
        nonlocal sent
        await client.open()
        await trio.sleep(rng.uniform(0, 0.5))
        events = 100_000 if rng.random() < 0.25 else rng.randrange(40)
        if not told.is_set():
            early.add(model)
        sent += 1
        if sent == moment:
            told.set()
        request = asking(KEY, model, stream=True, prompt=PROMPT, output=9, pause=0.05, events=events)
        replies[model] = await client.ask(request)
        ends[model] = trio.current_time()
        await client.close()

    daemon = here.relays.nodes[0]
    async with trio.open_nursery() as nursery:
        for client, model in zip(clients, models, strict=True):
            nursery.start_soon(one, client, model)
        await told.wait()
        began = trio.current_time()
        daemon.signal(SIGTERM)
        code = await trio.to_thread.run_sync(daemon.wait)
        took = trio.current_time() - began
    assert code == 0, daemon.text()
    fates = {model: fate(reply) for model, reply in replies.items()}
    wrong = {model: (how, replies[model]) for model, how in fates.items() if how == "cut"}
    assert not wrong, wrong
    # Whose request is still on its way when the time of the drain is over may find the connection closed.
    silent = [model for model, how in fates.items() if how == "unasked" and ends[model] < began + patience]
    lost = [model for model in silent if model in early]
    assert not lost, f"asked before SIGTERM and never answered: {[(model, replies[model]) for model in lost]}"
    unseen = [model for model in silent if model in here.relays.ledger.calls]
    assert not unseen, f"sent upstream for a client that got nothing: {unseen}"
    return took, fates


async def _all_booked(here: Node, ends: dict[str, str]) -> None:
    """Every call that the upstream saw stands in the books once; with its figures where the client got all of it."""
    rows = await here.relays.report()
    wrong = []
    for model, seen in here.relays.ledger.of("drain").items():
        row = rows.get(model, {"requests": 0, "tokens": 0})
        known = row["tokens"] == seen.tokens if ends[model] == "whole" else row["tokens"] >= (ends[model] == "error")
        if row["requests"] != 1 or seen.times != 1 or not known:
            wrong.append(f"{model}: {ends[model]}, upstream {seen}, books {row}")
    assert not wrong, wrong


# -- an upstream that blasts -------------------------------------------------------------------------------------------


async def blasted(place: Path, *, streams: int) -> Figures:
    """An upstream sends as fast as it can to clients that read nothing: it is held back, and memory with it."""
    async with node(place, server='write_timeout = "1h"') as here:
        await here.is_well()
        before = here.memory()
        calls = here.relays.ledger.calls
        async with trio.open_nursery() as nursery:
            for number in range(streams):
                request = asking(KEY, name_of("blast", number), stream=True, events=10**9, width=60_000)
                nursery.start_soon(_never_read, here.port, request)
            await until(lambda: here.running("blast") == streams, "all streams")
            blocked = await until_still(lambda: sum(seen.output for seen in calls.values()))
            grown = here.memory() - before
            glance = await asked(here.port, getting("/livez"))
            nursery.cancel_scope.cancel()
        assert glance.status == 200
        assert grown <= streams * ((64 << 10) + SEND_BUFFER), f"{grown} bytes for {streams} streams"
        await until(lambda: here.running("blast") == 0, "the upstream to be rid of them")
        await here.is_idle()
        await here.is_well("good.1")
    return {
        "streams": streams,
        "KiB of memory a stream": grown / streams / 1024,
        "KiB that the upstream got rid of, a stream": blocked / EACH * 60_000 / streams / 1024,
    }


async def _never_read(port: int, request: bytes) -> None:
    async with await connected(port, room=4096) as stream:
        await stream.send_all(request)
        await trio.sleep_forever()


# -- clients that stop reading -----------------------------------------------------------------------------------------


async def stalled(place: Path, *, clients: int, patience: float = 1.0) -> Figures:
    """Half of the clients stop reading in the middle: these are let go of, upstream too; the others notice nothing."""
    half = clients // 2
    replies: list[Reply] = []
    async with node(place, server=f'write_timeout = "{patience:g}s"') as here:

        async def read(number: int) -> None:
            request = asking(KEY, name_of("read", number), stream=True, pause=0.1, events=30, output=9, width=3000)
            replies.append(await asked(here.port, request))

        async def stall(number: int) -> None:
            stream = await connected(here.port, room=4096)
            request = asking(KEY, name_of("stall", number), stream=True, pause=0.02, events=10**9, width=20_000)
            await stream.send_all(request)
            await stream.receive_some(100)
            stalling.append(stream)

        stalling: list[trio.SocketStream] = []
        async with trio.open_nursery() as nursery:
            for number in range(half):
                nursery.start_soon(stall, number)
                nursery.start_soon(read, number)
            await until(lambda: len(stalling) == half, "all to stall")
            began = trio.current_time()
            await until(lambda: here.running("stall") == 0, "the upstream to be rid of them")
            took = trio.current_time() - began
        fates = Counter(fate(reply) for reply in replies)
        assert fates == {"whole": half}, fates
        await here.leaks_nothing()
        booked = await here.relays.report()
        assert sum(row["requests"] for model, row in booked.items()) == 2 * half, booked
        for stream in stalling:
            await trio.aclose_forcefully(stream)
    return {"clients": clients, "until the upstream was rid of the last": took}


# -- slow readers, and many --------------------------------------------------------------------------------------------


async def slow_readers(place: Path, *, slow: int, fast: int) -> Figures:
    """Clients that read 100 bytes a second beside some that read at once: what the latter notice of it.

    Both take the same streams; a fast one's figure is by how much its stream took longer than the upstream paused.
    """
    async with node(place) as here:
        alone = await _late(here, "alone", fast)
        before = here.memory()
        async with trio.open_nursery() as nursery:
            for number in range(slow):
                request = asking(KEY, name_of("slow", number), stream=True, pause=0.05, events=10**9, width=3000)
                nursery.start_soon(_read_slowly, here.port, request)
            await until(lambda: here.running("slow") == slow, "the slow ones")
            beside = await _late(here, "beside", fast)
            grown = here.memory() - before
            nursery.cancel_scope.cancel()
        await here.is_idle()
    worst = int(fast * 0.99)
    assert grown <= slow * (256 << 10), f"{grown} bytes for {slow} slow readers"
    return {
        "slow": slow,
        "fast": fast,
        "99 % of the fast alone late by": alone[worst],
        "beside the slow": beside[worst],
        "KiB of memory a slow one": max(0, grown) / slow / 1024,
    }


async def _late(here: Node, group: str, count: int) -> list[float]:
    """By how much so many streams at once took longer than their upstream paused, in order."""
    late: list[float] = []

    async def read(number: int) -> None:
        request = asking(KEY, name_of(group, number), stream=True, pause=0.2, events=20, output=9, width=300)
        reply = await asked(here.port, request)
        assert fate(reply) == "whole", reply
        late.append(reply.seconds - 4.0)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(read, number)
    return sorted(late)


async def _read_slowly(port: int, request: bytes) -> None:
    async with await connected(port, room=4096) as stream:
        await stream.send_all(request)
        while await stream.receive_some(100):  # noqa: ASYNC110 - being slow is its purpose
            await trio.sleep(1.0)


async def many_open(place: Path, *, streams: int) -> Figures:
    """So many open streams with an event each 10 s, opened some at a time, and all closed at once: nothing is left."""
    async with node(place) as here:
        await here.is_well()
        before, files = here.memory(), here.open_files()
        opened: list[float] = []
        async with trio.open_nursery() as nursery:

            async def hold(number: int) -> None:
                began = trio.current_time()
                async with await connected(here.port) as stream:
                    await stream.send_all(asking(KEY, name_of("open", number), stream=True, pause=10.0, events=10**9))
                    head = await stream.receive_some(65536)
                    assert head.startswith(b"HTTP/1.1 200 "), head
                    opened.append(trio.current_time() - began)
                    while await stream.receive_some(65536):
                        pass
                raise AssertionError("a stream ended")

            for number in range(streams):
                nursery.start_soon(hold, number)
                if number % 50 == 49:
                    await until(lambda n=number: len(opened) > n - 100, "streams to open")  # type: ignore[misc]
            await until(lambda: len(opened) == streams, "all streams to be open")
            await trio.sleep(20.0)  # two events of each
            held, most = here.memory(), here.open_files()
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        await here.is_idle()
        took = trio.current_time() - began
        await until(lambda: here.open_files() <= files + 5, "descriptors to be closed")
        await here.leaks_nothing()
        opened.sort()
        return {
            "streams": streams,
            "MiB of memory": held / 2**20,
            "KiB a stream": (held - before) / streams / 1024,
            "descriptors": most,
            "99 % opened within": opened[int(streams * 0.99)],
            "until all calls had ended": took,
            "MiB afterwards": here.memory() / 2**20,
        }


# -- clients that send slowly ------------------------------------------------------------------------------------------


async def trickled(place: Path, *, clients: int, head: float = 5.0, body: float = 6.0) -> Figures:
    """Clients that send a head or a body byte by byte, or nothing at all, beside some that call: calls are served all
    the while, and each of the others is let go of when its time is over.
    """
    server = f'header_timeout = "{head:g}s"\nbody_timeout = "{head:g}s"\nbody_deadline = "{body:g}s"'
    served: list[Reply] = []
    lasted: list[float] = []
    async with node(place, server=server) as here:
        await here.is_well()
        before, ask = here.memory(), asking(KEY, "slow.0", output=5)
        half_a_head, no_body = ask[:60], ask[: -body_length(ask)]
        most = 0

        async def trickle(first: bytes, drip: bytes) -> None:
            stream = await connected(here.port)
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drip, stream, first, drip)
                await ended(stream)
                lasted.append(trio.current_time() - began)
                nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)

        async def call() -> None:
            client = Client(here.port)
            while len(lasted) < clients:
                served.append(await client.ask(asking(KEY, "good.1", output=5)))
                nonlocal most
                most = max(most, here.memory())
                await trio.sleep(0.02)
            await client.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            kinds = ((half_a_head, b"x"), (no_body, b" "), (b"", b""))
            for number in range(clients):
                nursery.start_soon(trickle, *kinds[number % 3])
                if number % 50 == 49:
                    await trio.sleep(0.05)  # 1,000 a second
        assert {reply.status for reply in served} == {200}, served
        assert here.relays.ledger.of("slow") == {}, "half a request reached the upstream"
        await here.is_well("good.2")
    took = sorted(reply.seconds for reply in served)
    return {
        "clients": clients,
        "longest that one lasted": max(lasted),
        "KiB of memory a client": max(0, most - before) / clients / 1024,
        "calls served meanwhile": len(served),
        "their median": took[len(took) // 2],
        "99 % of them within": took[int(len(took) * 0.99)],
    }


async def _drip(stream: trio.SocketStream, first: bytes, drip: bytes) -> None:
    try:
        if first:
            await stream.send_all(first)
        while drip:
            await trio.sleep(0.3)
            await stream.send_all(drip)
    except trio.BrokenResourceError:
        pass


# -- links that go down ------------------------------------------------------------------------------------------------


async def deaf_clients(place: Path, *, clients: int, patience: float = 1.0) -> Figures:
    """The links of clients go down, in the middle of a stream or while its upstream is silent: their calls end."""
    keepalive = 'sse_keepalive = "200ms"\nsse_head_after = "200ms"'
    async with node(place, server=f'write_timeout = "{patience:g}s"\n{keepalive}') as here:

        async def lose(number: int) -> None:
            stream = await connected(here.port)
            pause = 1e6 if number % 2 else 0.05  # every other upstream says nothing after its first word
            model = name_of("deaf", number)
            await stream.send_all(asking(KEY, model, stream=True, pause=pause, events=10**9))
            await stream.receive_some(100)
            go_deaf(stream)
            deaf.append(stream)

        deaf: list[trio.SocketStream] = []
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(lose, number)
        began = trio.current_time()
        await here.left("deaf", clients, 60 + patience)
        took = trio.current_time() - began
        await here.is_idle()
        for stream in deaf:
            await trio.aclose_forcefully(stream)
    return {"clients": clients, "until the last call ended": took}


async def deaf_upstreams(place: Path) -> Figures:
    """The way of an idle connection to an upstream is gone: the next call, which takes that connection, is sent again
    on another one after DEAD_AFTER.
    """
    conversations: list[Conversation] = []

    async def first(conversation: Conversation) -> None:
        conversations.append(conversation)
        while await conversation.request():
            await conversation.send(_ANSWER)
        await trio.sleep_forever()

    async with serving(first) as upstream:
        account = f'kind = "api-key"\npriority = 1\nbase_url = "http://127.0.0.1:{upstream.port}"\nmodels = ["*"]\n'
        accounts = {"accounts.d/first.toml": f'{account}[credential]\nfile = "{place}/secret"\n'}
        relay = '[routing]\nstrategy = "priority"\n[upstream]\nmodels_every = "0s"\n'
        async with node(place, relay=relay, files=accounts) as here:
            client = Client(here.port)
            answer = await client.ask(asking(KEY, "idle.0"))
            assert answer.status == 200
            assert len(conversations) == 1, "the call went elsewhere"
            stream = conversations[0].stream
            assert isinstance(stream, trio.SocketStream)
            go_deaf(stream)
            answer = await client.ask(asking(KEY, "idle.1", output=5))
            await client.close()
            assert answer.status == 200, answer
            assert len(conversations) == 2
            return {"until the call was answered on another connection": answer.seconds}


_BODY = b'{"id":"msg_1","type":"message","role":"assistant","content":[],"usage":{"input_tokens":1,"output_tokens":1}}'
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
