"""`relayd status` and /readyz of a whole daemon whose state store is away."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import httpx2
from builders import KEY
from daemon import Daemon, key_text, running, write_tree
from redis_server import running as redis_running


def status(daemon: Daemon) -> tuple[int, dict[str, object]]:
    ran = subprocess.run(
        [sys.executable, "-m", "relayd", "status", "--json", "--config", str(daemon.tree)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, json.loads(ran.stdout)


def readyz(daemon: Daemon) -> tuple[int, dict[str, object]]:
    answer = httpx2.get(f"{daemon.url}/readyz", timeout=30)
    return answer.status_code, answer.json()


def test_a_store_that_was_never_reached_makes_a_node_unwell_and_unready_where_calls_are_refused(tmp_path: Path) -> None:
    state = '[state]\nurl = "redis://127.0.0.1:1"\n'
    keys = {"dev": key_text(KEY)}
    with running(write_tree(tmp_path / "one", relay=state, keys=keys)) as daemon:
        code, found = status(daemon)
        assert (code, found["well"], found["ready"]) == (1, False, True)
        assert str(found["ailments"]).count("the state store was never reached: ") == 1
        assert readyz(daemon)[0] == 200
    with running(write_tree(tmp_path / "two", relay=f'{state}on_outage = "deny"\n', keys=keys)) as daemon:
        assert readyz(daemon) == (503, {"status": "unready", "reasons": ["state_unavailable"]})
        assert status(daemon)[1]["unready"] == ["state_unavailable"]


def test_a_store_that_went_away_is_said_to_be_down(tmp_path: Path) -> None:
    with redis_running() as server:
        tree = write_tree(tmp_path, relay=f'[state]\nurl = "{server.url}"\n', keys={"dev": key_text(KEY)})
        with running(tree) as daemon:
            daemon.wait_until(lambda: status(daemon)[0] == 0, "a node that is well")
            server.stop()
            daemon.wait_for("state.unavailable")
            code, found = status(daemon)
            assert code == 1
            assert "the state store is down: " in str(found["ailments"])


def test_a_damaged_counter_is_named_and_everything_else_goes_on(tmp_path: Path) -> None:
    with redis_running() as server:
        tree = write_tree(tmp_path, relay=f'[state]\nurl = "{server.url}"\n', keys={"dev": key_text(KEY)})
        with running(tree) as daemon, contextlib.closing(server.client()) as client:
            daemon.wait_until(lambda: bool(client.keys("relayd:*:clock")), "the store's clock")
            (clock,) = client.keys("relayd:*:clock")
            client.pipeline().delete(clock).lpush(clock, "x").execute()
            assert daemon.wait_for("state.damaged")[0]["set_aside"] == ["clock: it is a list"]
            code, found = status(daemon)
            assert code == 1
            assert "was set aside and begins anew: clock: it is a list" in str(found["ailments"])
            assert readyz(daemon)[0] == 200
