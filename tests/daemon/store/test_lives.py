"""A process that died is told from one that lives, and what it left is settled before anybody waits for its lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from booked import Booked, booked
from builders import account, api_key, snapshot
from fakes import ASK
from operations import record

from relayd.config.snapshot import Limits
from relayd.core.quota.limits import Slots
from relayd.core.quota.reservation import account_slots
from relayd.daemon.store.lives import LifeLock, owner_of
from relayd.state.contract import Acquire, Admit, Peek, Report, Reported, TermLevels

HOLDER = """
import sys, time
from pathlib import Path
from relayd.daemon.store.lives import LifeLock
lock = LifeLock(Path(sys.argv[1]), sys.argv[2])
lock.claim()
print("ready", flush=True)
time.sleep(600)
"""


def alive(directory: Path, life: str) -> subprocess.Popen[str]:
    """A process of that name, once it has its lock."""
    words = [sys.executable, "-c", HOLDER, str(directory), life]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def dead_seen_by(directory: Path, life: str) -> tuple[str, ...]:
    lock = LifeLock(directory, life)
    lock.claim()
    return lock.dead


def test_who_was_killed_is_dead_and_who_runs_is_not(tmp_path: Path) -> None:
    with alive(tmp_path, "11111111") as process:
        assert dead_seen_by(tmp_path, "22222222") == ()
        process.send_signal(signal.SIGKILL)
    assert dead_seen_by(tmp_path, "22222222") == ("11111111",)

    lock = LifeLock(tmp_path, "33333333")
    lock.claim()
    lock.bury("11111111")
    assert dead_seen_by(tmp_path, "44444444") == ()
    assert sorted(os.listdir(tmp_path)) == ["22222222.lock", "33333333.lock", "44444444.lock"]


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        LifeLock(tmp_path / "file" / "lives", "11111111").claim()


def left_behind(directory: Path, life: str) -> None:
    """As `alive`, and killed."""
    with alive(directory, life) as process:
        process.send_signal(signal.SIGKILL)


def booked_requests(world: Booked) -> int:
    answer = world.ask(Report(first="2000-01-01", last="2100-01-01"))
    assert isinstance(answer, Reported)
    return sum(row.requests for row in answer.rows)


async def test_slots_and_calls_of_a_dead_process_are_settled_at_once(tmp_path: Path) -> None:
    """Also those of an account; what another process holds stays."""
    one = account("a", max_concurrency=2)
    config = snapshot(keys=(api_key(limits=Limits(concurrency=2)),), accounts=(one,))
    left_behind(tmp_path / "lives", "11111111")
    lock = LifeLock(tmp_path / "lives", "22222222")
    lock.claim()
    ours, theirs = owner_of("11111111"), owner_of("33333333")
    slots = Slots(counter="key/dev/slots", name="", limit=2)
    (ceiling,) = account_slots([one])
    account_slot = Slots(counter=ceiling, name="", limit=2)
    async with booked(config, tmp_path) as world:
        for owner in (ours, theirs):
            world.ask(Admit(call=f"{owner}abc", terms=(slots,), orphan=record()))
            world.ask(Acquire(holder=f"{owner}abc.0", terms=(account_slot,)))
        assert (await world.house.ask(ASK)).status == 429

        world.state.life, world.state.ceilings = lock, lambda: (ceiling,)
        await world.state._bury()

        assert lock.dead == ()
        answer = world.ask(Peek(terms=(slots, account_slot)))
        assert isinstance(answer, TermLevels)
        assert [level.used for level in answer.levels] == [1, 1]
        assert booked_requests(world) == 1
        assert (await world.house.ask(ASK)).status == 200


async def test_while_the_store_is_away_the_dead_wait(tmp_path: Path) -> None:
    left_behind(tmp_path / "lives", "11111111")
    lock = LifeLock(tmp_path / "lives", "22222222")
    lock.claim()
    async with booked(snapshot(), tmp_path) as world:
        world.ask(Admit(call=owner_of("11111111") + "abc", terms=(), orphan=record()))
        world.state.life = lock
        world.store.away = True
        await world.state._bury()
        assert lock.dead == ("11111111",)

        world.come_back()
        await world.state._bury()
        assert lock.dead == ()
        assert booked_requests(world) == 1
