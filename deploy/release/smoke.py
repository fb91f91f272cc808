#!/usr/bin/env python3
"""Smoke test: does an installed relayd do what it is for? Needs nothing but Python and the program.

    smoke.py 'relayd 0.1.0 (commit 0123456789ab)' relayd

A tree with the simulator and a key of its own, then: the version, `check`, a start, a plain call, a stream to its last
word, a call without a key, metrics, and a good end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # s for a start
ASK = {"model": "claude-sonnet-5-5", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}


def main() -> None:
    version, *program = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="relayd-smoke-") as folder:
        tree = Path(folder) / "tree"
        assert said(program, "--version") == version, said(program, "--version")
        key = make_tree(program, tree)
        said(program, "check", "--config", str(tree))
        with (Path(folder) / "log").open("w+b") as output:
            command = [*program, "run", "--config", str(tree), "--listen", "127.0.0.1:0"]
            daemon = subprocess.Popen(
                [*command, "--admin-listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                try_out(daemon, Path(output.name), key)
            except BaseException:
                daemon.kill()
                print(Path(output.name).read_text(), file=sys.stderr)
                raise
    print(f"{version}: plain call, stream, refusal, metrics and stop are well")


def make_tree(program: list[str], tree: Path) -> str:
    """A tree with one simulator and one key, which is returned."""
    (tree / "accounts.d").mkdir(parents=True)
    (tree / "relay.toml").write_text('schema = 1\nrealm = "smoke"\n[log]\nformat = "json"\n')
    (tree / "accounts.d/sim.toml").write_text('kind = "simulator"\n')
    told = said(program, "key", "new", "dev", "--config", str(tree))
    found = re.search(r"sk-relay-[0-9A-Za-z]+", told)
    assert found, "`relayd key new` shows no key"
    return found[0]


def try_out(daemon: subprocess.Popen[bytes], log: Path, key: str) -> None:
    listening = wait_for(daemon, log)
    url, admin = listening["listen"][0], listening["admin"][0]
    url, admin = (one if "://" in one else f"http://{one}" for one in (url, admin))

    status, body = post(url, ASK, key)
    assert status == 200, (status, body)
    assert json.loads(body)["usage"]["output_tokens"] > 0, body
    status, body = post(url, {**ASK, "stream": True}, key)
    assert status == 200, (status, body)
    assert body.startswith("event: message_start"), body[:200]
    assert body.rstrip().endswith('data: {"type":"message_stop"}'), body[-200:]
    assert post(url, ASK, "sk-relay-wrong")[0] == 401
    with urllib.request.urlopen(f"{admin}/metrics", timeout=30) as answer:
        assert 'relayd_attempts_total{account="sim",status="200"} 2' in answer.read().decode()

    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(PATIENCE) == 0, "it did not end well"


def wait_for(daemon: subprocess.Popen[bytes], log: Path) -> Any:
    """The log line of a daemon that listens."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and daemon.poll() is None:
        for line in log.read_text().splitlines():
            if '"daemon.listening"' in line:
                return json.loads(line)
        time.sleep(0.05)
    raise AssertionError("it did not begin to listen")


def post(url: str, body: object, key: str) -> tuple[int, str]:
    headers = {"x-api-key": key, "content-type": "application/json", "anthropic-version": "2023-06-01"}
    request = urllib.request.Request(f"{url}/v1/messages", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def said(program: list[str], *words: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RELAYD_", "PYTHON"))}
    done = subprocess.run([*program, *words], capture_output=True, text=True, env=kept, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
