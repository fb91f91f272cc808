"""What a process may have, and what follows from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.daemon import capacity
from relayd.daemon.capacity import (
    FORK_SERVER,
    PROGRAM,
    RESERVE,
    WORKER,
    MemoryAllowance,
    calls_in_memory,
    client_connections,
    group_files,
    memory_allowance,
    own_memory,
    processors,
)

MIB = 1 << 20


@pytest.mark.parametrize("limit", [1, RESERVE, 1024, 4096, 1 << 20])
def test_each_client_leaves_a_descriptor_for_an_upstream_and_a_few_are_kept(limit: int) -> None:
    clients = client_connections(limit)

    assert clients >= 1
    assert clients == 1 or 2 * clients + min(RESERVE, limit // 2) <= limit


@pytest.mark.parametrize(("room", "calls"), [(1, 1), (192 << 20, 2048), (448 << 20, 4778), (2 << 30, 21_845)])
def test_open_calls_take_a_quarter_of_the_memory_that_is_left(room: int, calls: int) -> None:
    assert calls_in_memory(room, room // 5) == calls


@pytest.mark.parametrize(("room", "bodies", "share"), [(160, 32, 40), (144, 32, 24), (120, 32, 12), (112, 90, 11.2)])
def test_open_calls_take_less_where_bodies_leave_less_but_a_tenth(room: int, bodies: int, share: float) -> None:
    assert calls_in_memory(room * MIB, bodies * MIB) == int(share * MIB) // (24 << 10)


def test_of_few_descriptors_clients_get_half() -> None:
    assert client_connections(256) == 64


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        ("0::/", ["memory.max", "memory.high"]),
        (
            "0::/system.slice/relayd.service",
            [
                "system.slice/relayd.service/memory.max",
                "system.slice/relayd.service/memory.high",
                "system.slice/memory.max",
                "system.slice/memory.high",
                "memory.max",
                "memory.high",
            ],
        ),
        (
            "9:cpu,cpuacct:/x\n4:memory:/docker/a",
            ["memory/docker/a/m.limit", "memory/docker/m.limit", "memory/m.limit"],
        ),
        ("9:cpu:/x", []),
    ],
)
def test_the_bounds_of_a_control_group_and_of_those_around_it_are_looked_for(ours: str, found: list[str]) -> None:
    files = group_files(ours, Path("/groups"), ("memory.max", "memory.high"), "memory/m.limit")

    assert [str(file.relative_to("/groups")) for file in files] == found


def test_where_there_are_no_control_groups_the_machine_is_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_OURS", Path("/nonexistent"))
    assert memory_allowance().together > MIB
    assert processors() >= 1


def test_the_memory_of_a_process_is_at_most_what_its_limit_allows() -> None:
    here = memory_allowance()
    code = "from relayd.daemon.capacity import memory_allowance as a; print(a().each, a().least, a().together)"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); {code}"
    said = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=True).stdout

    assert [int(word) for word in said.split()] == [1 << 30, min(1 << 30, here.together), here.together]


@pytest.mark.parametrize("processes", [1, 2, 4, 6])
def test_what_the_processes_themselves_take_is_no_room_for_calls(processes: int) -> None:
    group = MemoryAllowance(together=400 * MIB, each=400 * MIB)
    own = PROGRAM if processes == 1 else PROGRAM + FORK_SERVER + processes * WORKER

    assert own_memory(processes) == own
    assert group.room(processes) == 400 * MIB - own


def test_the_limit_of_a_process_is_not_shared_by_all() -> None:
    allowance = MemoryAllowance(together=16 << 30, each=256 * MIB)

    assert allowance.room(8) == allowance.room(1) == 256 * MIB - PROGRAM
    assert allowance.least == 256 * MIB


def test_where_there_is_little_memory_a_quarter_of_it_is_still_for_calls() -> None:
    assert MemoryAllowance(together=80 * MIB, each=80 * MIB).room(4) == 20 * MIB


@pytest.mark.parametrize(
    ("processors", "together", "workers"), [(1, 64, 1), (8, 100, 1), (8, 512, 6), (8, 576, 8), (64, 1024, 17)]
)
def test_there_are_as_many_workers_as_processors_unless_they_would_take_half_of_the_memory(
    processors: int, together: int, workers: int
) -> None:
    assert MemoryAllowance(together=together * MIB, each=1 << 40).workers(processors) == workers


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (100, 900));"
        "from relayd.daemon.capacity import *; raise_descriptor_limit(); print(descriptors())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert int(said) == 900


@pytest.mark.parametrize(("environment", "most"), [({}, 1), ({"MALLOC_ARENA_MAX": "3"}, 3)])
def test_all_threads_share_one_heap_unless_the_environment_says_otherwise(
    environment: dict[str, str], most: int
) -> None:
    """What glibc says of its heaps (malloc_stats(3)), after eight threads that live at once have allocated."""
    code = (
        "import ctypes, threading; from relayd.daemon.capacity import keep_one_heap; keep_one_heap()\n"
        "libc, met = ctypes.CDLL(None), threading.Barrier(8)\n"
        "def allocate(): libc.free(libc.malloc(9999)); met.wait()\n"
        "libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]\n"
        "threads = [threading.Thread(target=allocate) for _ in range(8)]\n"
        "for one in threads: one.start()\n"
        "for one in threads: one.join()\n"
        "libc.malloc_stats()\n"
    )
    plain = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain | environment
    )

    assert done.stderr.count("Arena ") == most
