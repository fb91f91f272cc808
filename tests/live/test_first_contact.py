"""A store that will have nothing of this daemon is a fault of its configuration: exit 78 with a line that says why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from daemon import running, write_tree
from redis_server import RedisServer
from redis_server import running as redis_running
from tls_front import TlsFront

from relayd.daemon.run import EX_CONFIG

PASSWORD = "the-redis-password-7c1e"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_running("--requirepass", PASSWORD) as found:
        with found.client(password=PASSWORD) as client:
            client.execute_command("ACL", "SETUSER", "half", "on", f">{PASSWORD}", "~relayd:*", "+info", "+time")
        yield found


def ended(tree: Path, **environment: str) -> str:
    """What a daemon says that does not start."""
    words = [sys.executable, "-m", "relayd", "run", "--config", str(tree), "--listen", "127.0.0.1:0"]
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    assert done.returncode == EX_CONFIG, done.stderr
    assert "daemon.listening" not in done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1, done.stderr
    assert PASSWORD not in done.stderr
    assert "Traceback" not in done.stderr
    return said[0]


def redis_tree(tmp_path: Path, url: str) -> Path:
    return write_tree(tmp_path, relay=f'[state]\nurl = "{url}"\non_outage = "allow"\n')


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_wrong_password(password: str, server: RedisServer, tmp_path: Path) -> None:
    said = ended(redis_tree(tmp_path, server.url), RELAYD_STATE_PASSWORD=password)
    assert said.startswith(f"relayd: {server.url}: ")
    assert said.endswith("[see state.password_file and RELAYD_STATE_PASSWORD]")


def test_a_user_who_may_not(server: RedisServer, tmp_path: Path) -> None:
    url = server.url.replace("redis://", "redis://half@")
    assert "docs/state.md" in ended(redis_tree(tmp_path, url), RELAYD_STATE_PASSWORD=PASSWORD)


def test_a_certificate_that_nobody_vouches_for(server: RedisServer, tmp_path: Path) -> None:
    front = TlsFront(server, trustme.CA().issue_cert("localhost"))
    tree = redis_tree(tmp_path, f"rediss://localhost:{front.port}")
    said = ended(tree, RELAYD_STATE_PASSWORD=PASSWORD)
    assert "certificate verify failed" in said
    assert "rediss:// or redis://" in said


def test_an_authority_that_is_not_there(server: RedisServer, tmp_path: Path) -> None:
    url = server.url.replace("redis://", "rediss://") + "?ca=/nowhere/ca.pem"
    said = ended(redis_tree(tmp_path, server.url), RELAYD_STATE_URL=url, RELAYD_STATE_PASSWORD=PASSWORD)
    assert "ca, cert and key" in said


def test_a_state_directory_that_cannot_be_written_to(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tree = write_tree(tmp_path, relay=f'[state]\nurl = "sqlite:{tmp_path}/file/relayd.db"\n')
    said = ended(tree)
    assert said.startswith(f"relayd: state directory {tmp_path}/file: Not a directory")

    tree = redis_tree(tmp_path / "redis", server.url)
    said = ended(tree, RELAYD_STATE_PASSWORD=PASSWORD, STATE_DIRECTORY=f"{tmp_path}/file")
    assert said.startswith(f"relayd: state directory {tmp_path}/file: ")


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "relayd.db").write_bytes(b"not a database " * 100)
    tree = write_tree(tmp_path, relay=f'[state]\nurl = "sqlite:{tmp_path}/relayd.db"\n')
    assert "file is not a database" in ended(tree)


def test_a_store_that_is_only_away_is_waited_for(tmp_path: Path) -> None:
    with running(redis_tree(tmp_path, "redis://127.0.0.1:1/0")) as daemon:
        assert daemon.wait_for("state.unavailable")
