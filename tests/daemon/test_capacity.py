"""What a process may have, and what follows from it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from relayd.daemon.capacity import RESERVE, client_connections, memory


@pytest.mark.parametrize("limit", [1, RESERVE, 1024, 4096, 1 << 20])
def test_each_client_leaves_a_descriptor_for_an_upstream_and_a_few_are_kept(limit: int) -> None:
    clients = client_connections(limit)

    assert clients >= 1
    assert clients == 1 or 2 * clients + RESERVE <= limit


def test_the_memory_of_a_process_is_at_most_what_its_limit_allows() -> None:
    here = memory()
    code = "import resource as r; from relayd.daemon.capacity import memory as m; print(m())"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); {code}"
    said = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=True).stdout

    assert int(said) == min(1 << 30, here)


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (100, 900));"
        "from relayd.daemon.capacity import *; raise_descriptor_limit(); print(descriptors())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert int(said) == 900
