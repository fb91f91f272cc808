"""What calls notice of a reload: nothing. Streams, connections upstream, health, counters, memory."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from fakes import (
    STREAM_HEAD,
    Cut,
    Reception,
    Told,
    answering,
    chunked,
    events_of,
    failing,
    message,
    recorded_stream,
)
from fleet import noon_zone
from reload_world import FAST, World, key_of, living, make_tree, texts_of
from scripted import Conversation, Upstream, serving

from relayd.config.secrets.api_keys import key_hash
from relayd.config.snapshot import Server as ServerSettings
from relayd.config.snapshot import Simulator
from relayd.daemon.accounts.simulator import SimulatorApplication
from relayd.daemon.net.listen import open_listener
from relayd.daemon.net.server import HttpServer


@attrs.frozen
class Origin:
    """A Claude API on a real socket."""

    port: int
    server: HttpServer

    @property
    def account(self) -> str:
        return f'base_url = "http://127.0.0.1:{self.port}"\n'


@asynccontextmanager
async def origin(**settings: object) -> AsyncIterator[Origin]:
    sockets = open_listener("127.0.0.1:0")
    server = HttpServer(SimulatorApplication(Simulator(**settings), lambda: 1.8e9), ServerSettings)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, sockets)
        yield Origin(sockets[0].getsockname()[1], server)
        nursery.cancel_scope.cancel()


def api_key_account(secret: Path, base_url: str, more: str = "") -> str:
    return f'kind = "api-key"\n{base_url}{more}\n[credential]\nfile = "{secret}"\n'


@pytest.fixture(autouse=True)
def permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this node permits the tree to name."""
    monkeypatch.setenv("RELAYD_CREDENTIALS", str(tmp_path))
    monkeypatch.setenv("RELAYD_ORIGINS", "https://upstream.invalid")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    place = tmp_path / "secret"
    place.write_text("sk-ant-test-first")
    return place


EVENTS = events_of(recorded_stream())


@asynccontextmanager
async def holding() -> AsyncIterator[tuple[Upstream, trio.Event]]:
    """A Claude API whose streams stand still behind their beginning until they are told to go on."""
    go_on = trio.Event()

    async def claude(peer: Conversation) -> None:
        while request := await peer.request():
            if b'"stream"' not in request:
                await peer.send(answering(body=message()))
                continue
            await peer.send(STREAM_HEAD + chunked(*EVENTS[:4]))
            await go_on.wait()
            await peer.send(chunked(*EVENTS[4:]) + b"0\r\n\r\n")

    async with serving(claude) as upstream:
        yield upstream, go_on


async def gather(tasks: list[Callable[[], Awaitable[Told]]]) -> list[Told]:
    told: list[Told] = []

    async def one(task: Callable[[], Awaitable[Told]]) -> None:
        told.append(await task())

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(one, task)
    return told


# --- streams


async def test_fifty_streams_over_twenty_reloads_are_whole_and_their_connections_upstream_stay(
    tmp_path: Path, secret: Path
) -> None:
    tree = make_tree(tmp_path / "tree")
    async with holding() as (upstream, go_on):
        account = f'base_url = "http://127.0.0.1:{upstream.port}"\n'
        tree.write("accounts.d/a.toml", api_key_account(secret, account))
        async with living(tree, watch=False, pace=attrs.evolve(FAST, quiet=0.0)) as world:
            clients = [await world.stream() for _ in range(50)]
            for number in range(1, 21):
                more = f"weight = {number}\npriority = {number}"
                tree.write("accounts.d/a.toml", api_key_account(secret, account, more))
                tree.relay(
                    f"[limits]\nconcurrency = {100 + number}\n[routing]\nreserve = 0.{number:02d}\n"
                    f"[clients.rule{number}]\nuser_agent = '^x{number}'"
                )
                assert (await world.reload()).result == "applied"
            go_on.set()
            told = await gather([client.rest for client in clients])

            assert world.generation == 21
            assert {one.body for one in told} == {b"".join(EVENTS)}
            assert upstream.accepted == 50
            assert (await world.call()).status == 200
            assert upstream.accepted == 50  # a pooled connection, twenty-one generations later
            assert (await world.reload()).result == "unchanged"
            assert world.metric("last_reload_successful") == 1


async def test_a_removed_account_finishes_its_stream_and_new_calls_go_elsewhere(tmp_path: Path, secret: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with origin(words=40, between=0.01) as old, origin() as new:
        tree.write("accounts.d/a.toml", api_key_account(secret, old.account))
        async with living(tree, watch=False) as world:
            client = await world.stream()
            tree.write("accounts.d/b.toml", api_key_account(secret, new.account))
            tree.remove("accounts.d/a.toml")
            held = await world.reload()  # it was the only one
            assert (await world.reload(accept=held.digest)).result == "applied"
            told = [await world.call() for _ in range(3)]
            stream = await client.rest()

            assert [one.status for one in told] == [200] * 3
            assert (old.server.statistics.accepted, new.server.statistics.accepted) == (1, 1)
            assert len(texts_of(stream.body)) == 40
            assert b"message_stop" in stream.body
            later = trio.current_time() + 5.0  # idle connections live for less
            for transport in world.daemon.upstreams._by_proxy.values():
                transport.sweep(later)
            await world.until(lambda: not old.server.statistics.open, "the end of the last connection there")


async def test_an_account_whose_proxy_changes_leaves_nothing_of_the_old_one_but_calls_in_flight(
    tmp_path: Path, secret: Path
) -> None:
    tree = make_tree(tmp_path / "tree")
    async with origin(words=40, between=0.01) as claude:
        tree.write("accounts.d/a.toml", api_key_account(secret, claude.account))
        async with living(tree, watch=False) as world:
            client = await world.stream()
            for number in (1, 2):
                proxy = f'proxy = "http://127.0.0.1:{number}"\n'  # nobody is there
                elsewhere = 'base_url = "https://upstream.invalid"\n'
                tree.write("accounts.d/a.toml", api_key_account(secret, elsewhere, proxy))
                assert (await world.reload()).result == "applied"
                assert (await world.call()).status == 502
            stream = await client.rest()

            assert b"message_stop" in stream.body
            assert list(world.daemon.upstreams._by_proxy) == ["http://127.0.0.1:2"]
            await world.until(lambda: not claude.server.statistics.open, "the end of the stream's connection")


async def test_a_live_stream_of_a_revoked_key_finishes_by_default_and_the_next_call_is_refused(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    tree.write("accounts.d/a.toml", 'kind = "simulator"\n[simulator]\nwords = 30\nbetween = "10ms"\n')
    async with living(tree) as world:
        client = await world.stream(1)
        tree.deny(1)
        await world.until_generation(2)
        told = await client.rest()
        after = await client.ask(key=key_of(1))

        assert b"message_stop" in told.body
        assert after.status == 401


async def test_calls_in_flight_of_a_revoked_key_are_cut_where_the_policy_says_so(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=4)
    tree.relay('[policy]\non_revoke = "cut"')
    async with living(tree, watch=False) as world:
        cut: list[str] = []
        calls = world.daemon.sources.in_flight
        with (
            calls.revocable("k1", lambda new: "k1" in new.keys and "k1" not in new.deny.keys, lambda: cut.append("k1")),
            calls.revocable("k2", lambda new: "k2" in new.keys, lambda: cut.append("k2")),
            calls.revocable("k3", lambda new: new.keys["k3"].enabled, lambda: cut.append("k3")),
        ):
            assert world.status()["calls"] == 3
            tree.write("accounts.d/a.toml", "kind = ")  # the rest of the tree is broken
            tree.deny(1)
            assert (await world.reload()).result == "rejected"
            assert cut == ["k1"]

            tree.account()
            tree.key(3, "enabled = false\n")
            assert (await world.reload()).result == "applied"
            assert cut == ["k1", "k3"]
        assert world.status()["calls"] == 0


# --- credentials and health


async def test_another_credential_goes_out_with_the_next_call_and_ends_the_rest_of_its_account_alone(
    tmp_path: Path, secret: Path
) -> None:
    tree = make_tree(tmp_path / "tree")
    other = tmp_path / "other"
    other.write_text("sk-ant-test-second")
    desk = Reception([failing(401, "authentication_error", "invalid x-api-key"), answering(200, message())])
    full = Reception([failing(429, "rate_limit_error", "wait", retry_after="3600")])
    async with serving(desk) as first, serving(full) as second:
        tree.write("accounts.d/a.toml", api_key_account(secret, f'base_url = "http://127.0.0.1:{first.port}"\n'))
        tree.write("accounts.d/b.toml", api_key_account(secret, f'base_url = "http://127.0.0.1:{second.port}"\n'))
        async with living(tree, watch=False) as world:
            assert (await world.call()).status >= 400
            rows = {row["id"]: row["serves"] for row in world.status()["accounts"]}
            assert rows == {"a": False, "b": False}
            transports = list(world.daemon.upstreams._by_proxy.values())

            tree.write("accounts.d/a.toml", api_key_account(other, f'base_url = "http://127.0.0.1:{first.port}"\n'))
            assert (await world.reload()).result == "applied"
            rows = {row["id"]: row["serves"] for row in world.status()["accounts"]}

            assert rows == {"a": True, "b": False}
            assert (await world.call()).status == 200
            assert [one.all("x-api-key") for one in desk.asked] == [["sk-ant-test-first"], ["sk-ant-test-second"]]
            assert list(world.daemon.upstreams._by_proxy.values()) == transports


async def test_a_credential_that_cannot_be_had_rejects_the_tree_and_names_the_account(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        place = tmp_path / "late"
        tree.write("accounts.d/b.toml", api_key_account(place, 'base_url = "http://127.0.0.1:1"\n'))
        rejected = await world.reload()
        place.write_text("sk-ant-test-canary")
        applied = await world.reload()

        assert (rejected.result, applied.result) == ("rejected", "applied")
        assert rejected.reasons[0].startswith("account b: ")
        assert "sk-ant-test-canary" not in world.log()
        assert (await world.call()).status == 200


# --- limits


async def test_a_lower_concurrency_ends_nobody_and_counts_until_it_is_raised(tmp_path: Path, secret: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with holding() as (upstream, go_on):
        tree.write("accounts.d/a.toml", api_key_account(secret, f'base_url = "http://127.0.0.1:{upstream.port}"\n'))
        tree.key(0, "[limits]\nconcurrency = 10\n")
        async with living(tree, watch=False) as world:
            clients = [await world.stream() for _ in range(8)]
            tree.key(0, "[limits]\nconcurrency = 2\n")
            await world.reload()
            ninth = await world.call()
            tree.key(0, "[limits]\nconcurrency = 20\n")
            await world.reload()
            tenth = await world.call()
            go_on.set()
            told = await gather([client.rest for client in clients])

            assert (ninth.status, tenth.status) == (429, 200)
            assert all(b"message_stop" in one.body for one in told)


async def test_what_was_consumed_outlives_reloads_a_moved_file_and_a_new_hash(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.relay(f'[state]\ntimezone = "{noon_zone()}"')  # all of one day
    tree.key(0, "[limits]\ndaily_requests = 4\n")
    async with living(tree, watch=False) as world:
        assert [(await world.call()).status for _ in range(2)] == [200, 200]
        for number in range(1, 31):
            tree.account(more=f"priority = {number}")
            assert (await world.reload()).result == "applied"
        (tree.root / "keys.d/team").mkdir()
        (tree.root / "keys.d/k0.toml").rename(tree.root / "keys.d/team/k0.toml")
        assert (await world.reload()).result == "unchanged"
        assert [(await world.call()).status for _ in range(3)] == [200, 200, 429]

        text = (tree.root / "keys.d/team/k0.toml").read_text()
        tree.write("keys.d/team/k0.toml", text.replace("daily_requests = 4", "daily_requests = 5"))
        assert (await world.reload()).result == "applied"
        assert [(await world.call()).status for _ in range(2)] == [200, 429]

        tree.write("keys.d/team/k0.toml", text.replace("daily_requests = 4", "daily_requests = 3"))
        assert (await world.reload()).result == "applied"
        assert (await world.call()).status == 429
        old = key_hash(key_of(0))
        both = (
            f'hashes = [{{ sha256 = "{old}", expires = 2099-01-01T00:00:00Z }}, {{ sha256 = "{key_hash(key_of(7))}" }}]'
        )
        tree.write("keys.d/team/k0.toml", f"{both}\n[limits]\ndaily_requests = 6\n")
        assert (await world.reload()).result == "applied"
        assert [(await world.call(number)).status for number in (7, 0)] == [200, 429], "one counter for both keys"


# --- many reloads


def standing() -> tuple[int, int, int]:
    """Descriptors, threads and tasks of this process, without the idle threads that trio keeps for a while."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    threads = [thread for thread in threading.enumerate() if not thread.name.lower().startswith("trio")]
    return len(os.listdir("/proc/self/fd")), len(threads), tasks


async def at_rest(world: World) -> tuple[int, ...]:
    """`standing` without what comes and goes: the least of each number over a while."""
    await world.until(lambda: not world.status()["connections"]["open"])
    seen = []
    for _ in range(20):
        seen.append(standing())
        await trio.sleep(0.02)
    return tuple(map(min, zip(*seen, strict=True)))


async def test_two_hundred_reloads_to_and_fro_leave_nothing_behind(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=5)
    async with living(tree, watch=False, pace=attrs.evolve(FAST, quiet=0.0, proof=60.0)) as world:

        async def there_and_back() -> None:
            tree.write("accounts.d/b.toml", 'kind = "simulator"\npriority = 7\n')
            tree.key(9)
            assert (await world.reload()).result == "applied"
            assert (await world.call(9)).status == 200
            tree.remove("accounts.d/b.toml")
            tree.remove("keys.d/k9.toml")
            assert (await world.reload()).result == "applied"
            assert "k9" not in world.daemon.live.snapshot.keys

        for _ in range(3):
            await there_and_back()
        files, threads, tasks = await at_rest(world)
        for _ in range(97):
            await there_and_back()
        gc.collect()

        assert world.generation == 201
        after = await at_rest(world)
        assert after[0] <= files + 1, "SQLite keeps the descriptor of the first checkpoint for the next one"
        assert after[1] <= threads
        assert after[2] <= tasks + 4, "two pumps of the state store wait with none or two tasks each"
        assert world.daemon.live.alive() <= 2
        assert world.metric("generations_live") <= 2


async def test_calls_during_reloads_all_succeed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=3)
    async with living(tree) as world:
        statuses: list[int] = []
        stop = trio.Event()

        async def callers() -> None:
            client = await world.connect()
            while not stop.is_set():
                statuses.append((await client.ask()).status)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(callers)
            for number in range(1, 9):
                tree.account(more=f"priority = {number}")
                await world.until_generation(number + 1)
                await world.until(lambda number=number: len(statuses) > 7 * number)
            stop.set()

        assert set(statuses) == {200}


@pytest.mark.parametrize("how", ["denied", "disabled"])
async def test_a_live_stream_of_a_revoked_key_is_cut_with_an_error_event_where_the_policy_says_so(
    tmp_path: Path, secret: Path, how: str
) -> None:
    tree = make_tree(tmp_path / "tree", keys=3)
    tree.relay('[policy]\non_revoke = "cut"')
    async with holding() as (upstream, go_on):
        tree.write("accounts.d/a.toml", api_key_account(secret, f'base_url = "http://127.0.0.1:{upstream.port}"\n'))
        async with living(tree) as world:
            revoked, other = await world.stream(1), await world.stream(2)
            if how == "denied":
                tree.write("relay.toml", "schema = ")  # the rest of the tree is broken
                tree.deny(1)
            else:
                tree.key(1, "enabled = false\n")
            with pytest.raises(Cut) as cut:
                await revoked.rest()
            go_on.set()

            assert b"this key has been revoked" in cut.value.told.body
            assert b"event: error" in cut.value.told.body
            assert b"message_stop" in (await other.rest()).body
            await world.until(lambda: world.status()["calls"] == 0, "the end of both calls")
