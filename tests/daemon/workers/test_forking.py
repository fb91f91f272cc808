"""The fork server as its client meets it: gone, too poor for another process, of another version."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest
import trio

from relayd.daemon.workers import forking
from relayd.daemon.workers.forking import Exited, ForkClient, ForkFailed

# What stands in for relayd.daemon.fork_server: it forks what ends at once, without loading relayd's wings.
POOR = """
import os, runpy, sys, types
def fail(): raise OSError(11, "Resource temporarily unavailable")
os.fork = fail
worker = types.ModuleType("relayd.daemon.worker")
worker.run_worker = None
sys.modules["relayd.daemon.worker"] = worker
from relayd.daemon.fork_server import main
main(int(sys.argv[1]))
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(forking, "SERVER", "stand_in_fork_server")


def stand_in(tmp_path: object, text: str) -> None:
    with open(f"{tmp_path}/stand_in_fork_server.py", "w") as file:
        file.write(text)


async def ask(client: ForkClient, nursery: trio.Nursery, fds: Sequence[int] = ()) -> str:
    """Why no worker could be made."""
    with pytest.raises(ForkFailed) as failed:
        await client.fork("start", fds or [0], nursery)
    return str(failed.value)


@pytest.mark.usefixtures("server")
async def test_a_machine_that_has_no_room_for_a_process_is_named_and_the_fork_server_lives_on(tmp_path: object) -> None:
    stand_in(tmp_path, POOR)
    client = ForkClient(lambda ended: None)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            assert await ask(client, nursery) == "no process can be made: Resource temporarily unavailable"
        client.close()


@pytest.mark.usefixtures("server")
async def test_workers_are_of_no_other_version_than_their_supervisor(tmp_path: object) -> None:
    stand_in(tmp_path, POOR)
    client = ForkClient(lambda ended: None, version="relayd 0.0.1")
    async with trio.open_nursery() as nursery:
        assert "is installed now, and this is relayd 0.0.1" in await ask(client, nursery)
        client.close()


@pytest.mark.usefixtures("server")
async def test_a_fork_server_that_does_not_start_is_said_and_tried_anew(tmp_path: object) -> None:
    stand_in(tmp_path, "raise SystemExit(3)\n")
    client = ForkClient(lambda ended: None)
    async with trio.open_nursery() as nursery:
        assert await ask(client, nursery) == "the fork server does not answer: EndOfChannel"
        stand_in(tmp_path, POOR)
        assert "no process can be made" in await ask(client, nursery)
        client.close()


@pytest.mark.usefixtures("server")
async def test_a_fork_server_that_hangs_is_killed_and_the_next_one_serves(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, POOR)
    heard: list[Exited] = []
    client = ForkClient(heard.append)
    async with trio.open_nursery() as nursery:
        await ask(client, nursery)
        assert client._process is not None
        hung = client._process
        os.kill(hung.pid, signal.SIGSTOP)
        monkeypatch.setattr(forking, "PATIENCE", 0.05)
        assert await ask(client, nursery) == "the fork server does not answer: TooSlowError"
        assert await trio.to_thread.run_sync(hung.wait) == -signal.SIGKILL
        monkeypatch.setattr(forking, "PATIENCE", 60.0)
        assert "no process can be made" in await ask(client, nursery)
        client.close()
