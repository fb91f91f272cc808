"""After `kill -9` a node that starts again on the same store frees its own slots and books its calls at once."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from builders import KEY
from daemon import Daemon, key_text, start, write_tree
from patient import FOUND, PROGRAM
from redis_server import running as redis_running

ASK = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}
SLOW = 'kind = "simulator"\nmax_concurrency = 1\n'


@contextlib.contextmanager
def state(kind: str, tmp_path: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:{tmp_path}/state/relayd.db"
    else:
        with redis_running() as server:
            yield server.url


def begin_stream(daemon: Daemon) -> socket.socket:
    """A stream that lasts, once its first event is here."""
    body = json.dumps({**ASK, "max_tokens": 500, "stream": True}).encode()
    sock = socket.create_connection(("127.0.0.1", daemon.port), timeout=60)
    head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\n"
    head += f"x-simulate-between: 0.1\r\nx-simulate-words: 400\r\ncontent-length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    told = b""
    while b"content_block_delta" not in told:
        told += (piece := sock.recv(65536))
        assert piece, told
    return sock


def ask(daemon: Daemon) -> int:
    return httpx2.post(f"{daemon.url}/v1/messages", json=ASK, headers={"x-api-key": KEY}, timeout=60).status_code


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_key_with_one_slot_is_served_at_once_after_a_kill(kind: str, tmp_path: Path) -> None:
    with state(kind, tmp_path) as url:
        keys = {"dev": key_text(KEY, "[limits]\nconcurrency = 1\n")}
        tree = write_tree(tmp_path, relay=f'[state]\nurl = "{url}"\nlease = "1h"\n', accounts={"a": SLOW}, keys=keys)
        killed = start(tree, program=PROGRAM, environment=FOUND)
        try:
            with contextlib.closing(begin_stream(killed)):
                assert ask(killed) == 429
                killed.kill()
        finally:
            killed.kill()

        daemon = start(tree, program=PROGRAM, environment=FOUND)
        try:
            assert ask(daemon) == 200
            (buried,) = daemon.wait_for("state.buried")
            assert buried["calls"] == 1
            daemon.stop()
        finally:
            daemon.kill()
        words = [sys.executable, "-m", "relayd", "report", "--from", "yesterday", "--json", "--config", str(tree)]
        report = json.loads(subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout)
        assert (report["requests"], report["errors"]) == (2, 1)
