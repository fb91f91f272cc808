"""Sockets that systemd holds: a restart refuses nobody, and with a second process nobody waits either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from activation import held_sockets
from daemon import PATIENCE, write_tree
from held_streams import BESIDE_HELD, held_streams
from steady_calls import StreamedCall, Way, steady_calls

from relayd.daemon.inherited import take_inherited

ADMIN = '[admin]\nlisten = "127.0.0.1:1"\n'  # nobody can listen there
LONG = {"x-simulate-words": "10000", "x-simulate-between": "50ms"}


def test_a_restart_under_load_refuses_nobody_and_loses_no_call(tmp_path: Path) -> None:
    """What comes while the old process drains waits in the queue; how long is told in docs/production.md."""
    with held_streams() as streams, held_sockets("public", "admin") as held:
        accounts = {"sim": BESIDE_HELD, "held": streams.account(tmp_path)}
        tree = write_tree(tmp_path, relay=f'{ADMIN}[upstream]\nmodels_every = "0s"\n', accounts=accounts)
        first = held.start(tree, "--node", "n", log="first.log")
        with steady_calls(Way(held.url())) as calls:
            stream = StreamedCall(Way(held.url()), model="held-1")
            first.signal(signal.SIGTERM)
            first.wait_for("daemon.draining")
            asked = httpx2.get(f"{held.url('admin')}/metrics", trust_env=False, timeout=PATIENCE)
            assert stream.running()
            assert asked.status_code == 200  # a drain is worth watching
            assert "relayd_draining 1" in asked.text
            streams.over.set()
            assert first.wait() == 0
            second = held.start(tree, "--node", "n", log="second.log")
            calls.wait_for(20)
        assert stream.whole()
        assert httpx2.get(f"{held.url('admin')}/metrics", trust_env=False, timeout=PATIENCE).status_code == 200
        second.stop()

    assert calls.failures == []
    print(f"{len(calls.took)} calls, longest {max(calls.took):.2f} s")
    assert {event["outcome"] for event in first.events("call.done") + second.events("call.done")} == {"ok"}


def test_with_a_second_process_on_the_same_sockets_nobody_waits_for_the_first_one_to_end(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay=ADMIN)
    with held_sockets("public", "admin") as held:
        first = held.start(tree, "--node", "n", log="first.log")
        stream = StreamedCall(Way(held.url()), LONG)
        with steady_calls(Way(held.url())) as calls:
            other = tmp_path / "standby.sock"
            second = held.start(tree, "--node", "n", "--control", str(other), log="second.log")
            first.signal(signal.SIGTERM)
            first.wait_for("daemon.draining")
            calls.wait_for(50)
        assert stream.running()
        first.signal(signal.SIGTERM)  # the stream has shown what it was for
        assert first.wait() == 0
        second.stop()

    assert calls.failures == []
    assert second.events("call.done")


def test_sockets_that_are_not_ours_are_left_alone_and_the_variables_go_no_further(tmp_path: Path) -> None:
    other = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "public", "HOME": "/root"}

    assert take_inherited(other, 2) == take_inherited({}, 2)
    assert other == {"HOME": "/root"}


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"LISTEN_FDS": "many"}, "LISTEN_FDS: 'many' is not a number of descriptors"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "ftp"}, "LISTEN_FDNAMES: 'ftp' is not a listener of relayd"),
    ],
)
def test_what_is_handed_over_must_be_understood(environ: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        take_inherited(environ, 1)


def test_a_descriptor_that_is_not_there_ends_the_start_with_78(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "run", "--config", str(tmp_path)],
        env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "admin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == 78
    assert "relayd: LISTEN_FDS: descriptor 3: bad file descriptor" in done.stderr
