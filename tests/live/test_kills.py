"""What `kill -9` costs: what a stream said since its last checkpoint, the slots for the length of a lease, and no more.

The short version of tests/bench/kill_rounds.py, and what it cannot show.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import redis_server
import trio
from builders import KEY
from daemon import key_text
from fleet import Fleet, eventually, fleet, noon_zone
from kills import Victim, kill_rounds
from ledger import EACH, Client, asking, group_of
from patient import FOUND

from relayd.daemon.store.journal import decode_lines
from relayd.state.contract import Settle

LEASE = 3.0  # s
LONG = 8.0  # s; a lease where a node that stands still for a while on a busy machine must not lose its slots


@pytest.mark.parametrize(
    ("kind", "rounds", "nodes", "workers", "victims"),
    [
        ("redis", 3, 2, 1, ("node",)),
        ("sqlite", 2, 2, 1, ("node",)),
        ("redis", 2, 1, 2, ("worker",)),
        ("sqlite", 4, 1, 2, ("worker", "worker", "supervisor")),
    ],
)
async def test_every_call_is_in_the_books_once_though_processes_are_killed_under_load(
    kind: str, rounds: int, nodes: int, workers: int, victims: tuple[Victim, ...], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        state = f"sqlite:{tmp_path}/state/relayd.db"
        if kind == "redis":
            state = stack.enter_context(redis_server.running()).url
        tally = await kill_rounds(
            tmp_path, state, rounds=rounds, nodes=nodes, workers=workers, victims=victims, rate=40, lease=LEASE
        )
    print(tally.text())
    assert not tally.faults, tally.text()
    assert not tally.leaked, tally.text()
    assert tally.settled > 50
    assert tally.reaped > 0


async def test_another_node_settles_what_a_dead_one_had_open_and_its_slots_are_free_again(tmp_path: Path) -> None:
    slots, pause = 3, 0.05
    relay = f'[state]\ntimezone = "{noon_zone()}"\nlease = "{LONG:g}s"\n'
    keys = {"dev": key_text(KEY, f"[limits]\nconcurrency = {slots}\n")}
    with redis_server.running() as redis:
        named = [f"long.{number}" for number in range(slots)]
        patient = dict.fromkeys(range(2), "patient")
        found = dict.fromkeys(range(2), FOUND)
        more: dict[str, Any] = {"named": named, "nodes": 2, "modules": patient, "environments": found}
        async with fleet(tmp_path, redis.url, keys=keys, relay=relay, **more) as relays:
            other = Client(relays.nodes[1].port)

            async def is_answered(status: int) -> bool:
                return (await other.ask(asking(KEY, "short.1"))).status == status

            async with trio.open_nursery() as nursery:
                for number in range(slots):
                    request = asking(KEY, f"long.{number}", stream=True, pause=pause, events=10_000)
                    nursery.start_soon(Client(relays.nodes[0].port).ask, request)
                await running(relays, "long", slots)
                with contextlib.closing(redis.client()) as client:
                    client.flushall()  # which forgets the slots, until the next heartbeat
                await eventually(lambda: is_answered(429), "the slots to be taken again")
                await trio.sleep(LONG + 1)  # longer than a lease: heartbeats hold it
                assert await is_answered(429)
                await relays.kill(0)
            assert await is_answered(429)
            await eventually(lambda: is_answered(200), "a slot")
            said = {model: seen.output for model, seen in relays.ledger.of("long").items()}
            rows = await relays.books_with(said.keys(), 1)
            for model, output in said.items():
                row = rows[model]
                assert (row["requests"], row["errors"], row["input"]) == (1, 1, 7)
                # A checkpoint comes with each heartbeat, four in a lease; later than a lease the call would be dead.
                assert output - EACH * LONG / pause - 50 <= row["output"] <= output + EACH
            await other.close()


async def test_a_node_that_is_killed_in_an_outage_loses_nothing(tmp_path: Path) -> None:
    """What it had settled waits in its journal, what it had open in its side store."""
    relay = f'[state]\ntimezone = "{noon_zone()}"\nlease = "{LEASE:g}s"\n'
    named = [f"open.{number}" for number in range(3)]
    with redis_server.running() as redis:
        async with fleet(tmp_path, redis.url, keys={"dev": key_text(KEY)}, relay=relay, named=named, nodes=1) as relays:
            await ask(relays.nodes[0].port, "before", 3)
            await trio.to_thread.run_sync(redis.stop)
            await ask(relays.nodes[0].port, "during", 5)
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    request = asking(KEY, f"open.{number}", stream=True, pause=0.05, events=10_000)
                    nursery.start_soon(Client(relays.nodes[0].port).ask, request)
                await running(relays, "open", 3)
                await eventually(lambda: journaled(relays, "during", 5), "five settlements in the journal")
                await relays.kill(0)
            await relays.start(0)
            await ask(relays.nodes[0].port, "after", 2)
            await trio.to_thread.run_sync(redis.start)  # empty: what was booked before died with both
            exact = {f"during.{n}": 12 for n in range(5)} | {f"after.{n}": 12 for n in range(2)}
            left = {f"open.{n}" for n in range(3)}
            await relays.books_hold(exact)
            rows = await relays.books_with(exact.keys() | left)
            assert {model for model, row in rows.items() if row["errors"]} == left
            assert {row["requests"] for row in rows.values()} == {1}


async def journaled(relays: Fleet, group: str, calls: int) -> bool:
    """Whether so many settlements wait on node 0's disk."""
    files = (relays.tree(0) / "var" / "journal").glob("settlements-*.journal")
    entries = [entry for file in files for entry in decode_lines(file.read_bytes())]
    return sum(isinstance(entry, Settle) and group_of(entry.record.model) == group for entry in entries) == calls


async def running(relays: Fleet, group: str, calls: int) -> None:
    async def are() -> bool:
        return relays.ledger.running[group] == calls

    await eventually(are, f"{calls} calls to reach the upstream")


async def ask(port: int, group: str, calls: int) -> None:
    client = Client(port)
    for number in range(calls):
        reply = await client.ask(asking(KEY, f"{group}.{number}"))
        assert reply.status == 200, reply
    await client.close()


async def test_a_journal_that_cannot_be_written_is_told_and_nothing_falls_over(tmp_path: Path) -> None:
    """The settlements wait in memory; once the store is back they are booked all the same."""
    relay = f'[state]\ntimezone = "{noon_zone()}"\n'
    with redis_server.running() as redis:
        async with fleet(tmp_path, redis.url, keys={"dev": key_text(KEY)}, relay=relay, nodes=1) as relays:
            journal = relays.tree(0) / "var" / "journal"
            journal.rmdir()
            journal.write_text("a file where the directory should be")
            await trio.to_thread.run_sync(redis.stop)
            await ask(relays.nodes[0].port, "call", 4)
            (told,) = await trio.to_thread.run_sync(relays.nodes[0].wait_for, "state.journal_problem")
            assert str(journal) in told["reason"]
            assert "exists" in told["reason"].lower() or "directory" in told["reason"]
            await ask(relays.nodes[0].port, "more", 2)
            await trio.to_thread.run_sync(redis.start)
            await relays.books_hold({f"call.{n}": 12 for n in range(4)} | {f"more.{n}": 12 for n in range(2)})
            assert len(relays.nodes[0].events("state.journal_problem")) == 1
