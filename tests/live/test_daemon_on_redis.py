"""Whole daemons that count in a Redis with a password, which one has from a file and the other from its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
from builders import KEY
from daemon import Daemon, key_text, running, write_tree
from patient import FOUND, PROGRAM
from redis_server import running as redis_running

PASSWORD = "the-redis-password-7c1e"
ASK = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}
LIMITS = '[limits]\nwindows = [{ window = "1h", requests = 5 }]\n'


def status_of(daemon: Daemon) -> int:
    return httpx2.post(f"{daemon.url}/v1/messages", json=ASK, headers={"x-api-key": KEY}, timeout=60).status_code


def test_two_nodes_share_limits_and_books_and_the_password_is_shown_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\nsecond line\n")
    with redis_running("--requirepass", PASSWORD) as server:
        keys = {"dev": key_text(KEY, LIMITS)}
        state = f'[state]\nurl = "{server.url}"\non_outage = "deny"\n'
        one = write_tree(tmp_path / "one", relay=f'{state}password_file = "{secret}"\n', keys=keys)
        two = write_tree(tmp_path / "two", relay=state, keys=keys)
        environment = {"RELAYD_STATE_PASSWORD": PASSWORD}
        with (
            running(one, environment=FOUND, program=PROGRAM) as first,
            running(two, environment={**FOUND, **environment}, program=PROGRAM) as second,
        ):
            told = [status_of((first, second)[number % 2]) for number in range(8)]
            assert told == [200] * 5 + [429] * 3
            logs = first.text() + second.text()

        report, usage = (
            subprocess.run(
                [sys.executable, "-m", "relayd", *words, "--json", "--config", str(two)],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=60,
            )
            for words in (("report", "--from", "yesterday"), ("usage", "dev"))
        )
        assert json.loads(report.stdout)["requests"] == 5
        (limit, _) = json.loads(usage.stdout)["keys"][0]["limits"]
        assert (limit["used"], limit["remaining"]) == (5, 0)
        assert PASSWORD not in logs + report.stdout + report.stderr + usage.stdout + usage.stderr

    ran = subprocess.run(  # the server has gone, and so has the password
        [sys.executable, "-m", "relayd", "report", "--config", str(two)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"relayd report: {server.url}")
