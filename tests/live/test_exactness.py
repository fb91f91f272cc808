"""Two nodes of two workers each, and 64 clients, admit exactly what a key's limit allows on one store, again and again.

The upstream counts too, and what it saw is what is held against the limit. RELAYD_ROUNDS=25 makes a long run of it.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import redis_server
import trio
from daemon import key_text
from fleet import Fleet, fleet, noon_zone
from ledger import Client, Reply, asking, body_length

from relayd.config.secrets.api_keys import mint

NODES, WORKERS, CLIENTS = 2, 2, 64
ROUNDS = int(os.environ.get("RELAYD_ROUNDS", "2"))  # each with windows that nobody has touched, those of another key
REQUESTS = 90  # of each window in a round
SLOTS = 5
OUTPUT = 40  # tokens that are asked for at most
INPUT, USED = 3, 11  # tokens that the upstream reports
PRICE = '{ input = "3", output = "15", cache_write_5m = "3.75", cache_write_1h = "6", cache_read = "0.30" }'

LIMITS = {
    "rate": f'rate = {{ requests = {REQUESTS}, window = "1h" }}',
    "daily": f"daily_requests = {REQUESTS}",
    "tokens": 'windows = [{ window = "1h", tokens = 2500 }]\nreserve = "worst-case"',
    "cost": 'daily_cost = "0.020000"\nreserve = "worst-case"',
    "slots": f"concurrency = {SLOTS}",
}
KEYS = {
    f"{kind}{number}": mint(lambda size, seed=f"{kind}{number}": seed.encode().ljust(size, b"."))
    for kind in LIMITS
    for number in range(ROUNDS)
}


@pytest.fixture(scope="module", params=["redis", "sqlite"])
def state(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path_factory.mktemp('state')}/relayd.db"
        return
    with redis_server.running() as server:
        yield server.url


@pytest.fixture
async def relays(state: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    keys = {name: key_text(key, f"[limits]\n{LIMITS[name.rstrip('0123456789')]}") for name, key in KEYS.items()}
    prices = "\n".join(["[models]", *(f'"cost{number}.all" = {PRICE}' for number in range(ROUNDS))])
    relay = f'[server]\nworkers = {WORKERS}\n[state]\non_outage = "deny"\ntimezone = "{noon_zone()}"\n'
    async with fleet(tmp_path, state, relay=relay, keys=keys, files={"prices.toml": prices}, nodes=NODES) as running:
        yield running


async def test_limits_are_exact_over_processes(relays: Fleet) -> None:
    clients = [Client(relays.nodes[number % NODES].port) for number in range(CLIENTS)]
    rounds = ROUNDS if relays.state.startswith("redis") else -(-ROUNDS // 2)
    for number in range(rounds):
        await requests_are_exact(relays, clients, f"rate{number}", "90 requests per 1h", 3600)
        await requests_are_exact(relays, clients, f"daily{number}", "daily requests 90", until_midnight())
        await amounts_are_exact(relays, clients, f"tokens{number}", 2500, tokens_of)
        await amounts_are_exact(relays, clients, f"cost{number}", 20_000, cost_of)
        await slots_are_exact(relays, clients, f"slots{number}")
    for client in clients:
        await client.close()


async def everyone(clients: list[Client], group: str, calls: int, **play: float) -> list[Reply]:
    """So many calls by all clients at once, each with its share.

    A store that does not answer in time, on a machine that is busy with other tests, is asked again: its 503 is no
    answer to whether there is room, and takes none.
    """
    replies: list[Reply] = []

    async def one(number: int, client: Client) -> None:
        for n in range(number, calls, len(clients)):
            model = f"{group}.all" if group.startswith("cost") else f"{group}.{n:05}"
            request = asking(KEYS[group], model, max_tokens=OUTPUT, prompt=INPUT, output=USED, **play)
            while (reply := await client.ask(request)).status == 503:  # noqa: ASYNC110 - nobody here can tell when
                await trio.sleep(0.2)
            replies.append(reply)

    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            nursery.start_soon(one, number, client)
    return replies


async def until_full(clients: list[Client], group: str, calls: int, **play: float) -> list[Reply]:
    """So many calls at once, and more until nobody is served any more.

    Settlements may be on their way meanwhile; what a process is asked next comes behind its own, so all are asked.
    """
    replies = await everyone(clients, group, calls, **play)
    full = 0
    while full < 3:
        more = await everyone(clients, group, CLIENTS)
        replies += more
        full = 0 if served(more) else full + 1
        await trio.sleep(0.05 * full)
    return replies


async def requests_are_exact(relays: Fleet, clients: list[Client], group: str, name: str, longest: float) -> None:
    replies = await until_full(clients, group, 2 * REQUESTS)
    assert served(replies) == seen(relays, group) == REQUESTS
    for reply in refused(replies):
        assert reply.status == 429, (reply.status, reply.body)
        assert f"Rate limit exceeded: {name}. Try again at " in reply.message
        assert reply.headers["x-should-retry"] == "false"
        assert longest - 300 <= int(reply.headers["retry-after"]) <= longest + 60  # a bucket is a minute


def tokens_of(request: bytes) -> tuple[int, int]:
    """What a call reserves and what it uses."""
    return -(-body_length(request) * 2 // 7) + OUTPUT, INPUT + USED


def cost_of(request: bytes) -> tuple[int, int]:
    """The same in micro-USD: a prompt may be written to the dearest cache."""
    return -(-body_length(request) * 2 // 7) * 6 + OUTPUT * 15, INPUT * 3 + USED * 15


async def amounts_are_exact(
    relays: Fleet, clients: list[Client], group: str, limit: int, of: Callable[[bytes], tuple[int, int]]
) -> None:
    """What is reserved is given back but for what was used, so as many calls fit as the used amounts allow."""
    replies = await until_full(clients, group, 128, pause=0.01)
    assert {reply.status for reply in replies} == {200, 429}
    for reply in refused(replies):
        assert reply.message.startswith("Rate limit exceeded: ")
        assert 1 <= int(reply.headers["retry-after"]) <= 86_400
    model = f"{group}.all" if group.startswith("cost") else f"{group}.00000"
    reserved, used = of(asking(KEYS[group], model, max_tokens=OUTPUT, prompt=INPUT, output=USED))
    assert served(replies) == seen(relays, group) == (limit - reserved) // used + 1


async def slots_are_exact(relays: Fleet, clients: list[Client], group: str) -> None:
    replies = await everyone(clients, group, 4 * CLIENTS, pause=0.03)
    assert served(replies) == seen(relays, group) >= SLOTS
    for reply in refused(replies):
        assert reply.status == 429, (reply.status, reply.body)
        assert (reply.message, reply.headers["retry-after"]) == (
            f"Rate limit exceeded: {SLOTS} concurrent requests.",
            "2",
        )
    with trio.fail_after(60):  # every slot has come back, and all of them can be had at once
        while served(await everyone(clients[:SLOTS], group, SLOTS, pause=0.3)) < SLOTS or peak(relays, group) < SLOTS:
            await trio.lowlevel.checkpoint()
    assert peak(relays, group) == SLOTS


def served(replies: list[Reply]) -> int:
    return sum(reply.status == 200 for reply in replies)


def refused(replies: list[Reply]) -> list[Reply]:
    return [reply for reply in replies if reply.status != 200]


def seen(relays: Fleet, group: str) -> int:
    return sum(one.times for one in relays.ledger.of(group).values())


def peak(relays: Fleet, group: str) -> int:
    return relays.ledger.peak[group]


def until_midnight() -> float:
    now = datetime.datetime.now(ZoneInfo(noon_zone()))
    return (datetime.datetime.combine(now.date(), datetime.time.max, now.tzinfo) - now).total_seconds()
