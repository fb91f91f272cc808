"""Pull mode as an operator has it: `relayd run` as a process, over a real sshd, two nodes on one Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
from builders import KEY
from daemon import PATIENCE, SIMULATOR, Daemon, control_answer, running, write_tree
from redis_server import running as redis_running
from ssh_server import SshServer, serving_ssh


@attrs.frozen
class Server:
    """An sshd, the key that may sign in there, and the file that knows it."""

    sshd: SshServer
    key: Path
    known_hosts: Path

    def source(self, repository: Path) -> str:
        return f"git+{self.sshd.url(repository)}#main"


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("ssh") / "server"
    with serving_ssh(place) as server:
        yield Server(server, place / "client", place / "known")


@attrs.frozen
class Repository:
    """The laptop's tree and the bare repository that it is pushed to."""

    tree: Path
    bare: Path

    def git(self, *words: str) -> None:
        own = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *own, "-C", str(self.tree), *words], check=True, capture_output=True)

    def publish(self, priority: int) -> None:
        (self.tree / "accounts.d" / "sim.toml").write_text(f"{SIMULATOR}priority = {priority}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", f"priority {priority}")
        self.git("push", "--quiet", str(self.bare), "HEAD:main")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(write_tree(tmp_path), tmp_path / "origin.git")
    subprocess.run(["git", "init", "--quiet", "--bare", str(made.bare)], check=True)
    made.git("init", "--quiet", "-b", "main")
    made.publish(1)
    return made


def relayd(node: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command on a node."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
    command = [sys.executable, "-m", "relayd", *words, "--config", str(node)]
    return subprocess.run(
        command, env={**inherited, **environment}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def status(node: Path) -> Any:
    """What its daemon says of itself."""
    return control_answer(node / "var" / "relayd.sock", "status")["status"]


def settings(ssh: Server, repository: Repository, **more: str) -> dict[str, str]:
    return {
        "RELAYD_SOURCE": ssh.source(repository.bare),
        "RELAYD_SOURCE_KEY": str(ssh.key),
        "RELAYD_SOURCE_KNOWN_HOSTS": str(ssh.known_hosts),
        "RELAYD_SOURCE_INTERVAL": "1s",
        **more,
    }


def make_node(place: Path) -> Path:
    """The directory of a node; what it prints is written beside it."""
    (place / "node").mkdir(parents=True)
    return place / "node"


def test_two_nodes_on_one_redis_pull_over_ssh_and_agree(tmp_path: Path, ssh: Server, repository: Repository) -> None:
    one, two = make_node(tmp_path / "one"), make_node(tmp_path / "two")
    with redis_running() as redis:
        environment = settings(ssh, repository, RELAYD_STATE_URL=redis.url)
        first = running(one, "--node", "one", "--no-watch", environment=environment)
        second = running(two, "--node", "two", environment=environment)
        with first as asked, second as following:
            repository.publish(2)

            done = relayd(one, "reload", RELAYD_STATE_URL=redis.url)
            following.wait_for("reload.applied")

            assert (done.returncode, done.stdout.splitlines()[-1].partition(":")[0]) == (0, "applied"), done
            assert asked.wait_for("reload.applied")[0]["trigger"] == "command"
            assert following.events("reload.applied")[0]["trigger"] == "source"
            following.wait_until(lambda: _agree(two), "agreement")


def _agree(node: Path) -> bool:
    found = status(node)
    return len(found["nodes"]) == 2 and found["drift"] is None and len({one["commit"] for one in found["nodes"]}) == 1


def test_a_host_that_is_not_known_and_a_key_that_is_not_welcome_are_told(
    tmp_path: Path, ssh: Server, repository: Repository
) -> None:
    nobody = tmp_path / "nobody"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(nobody)], check=True)
    empty = tmp_path / "empty"
    empty.write_text("")
    node = make_node(tmp_path / "node")

    stranger = relayd(node, "run", **settings(ssh, repository, RELAYD_SOURCE_KNOWN_HOSTS=str(empty)))
    unwelcome = relayd(node, "run", **settings(ssh, repository, RELAYD_SOURCE_KEY=str(nobody)))

    assert (stranger.returncode, unwelcome.returncode) == (78, 78)
    assert "Host key verification failed" in stranger.stderr
    assert "Permission denied" in unwelcome.stderr
    assert "no stored generation can be taken" in stranger.stderr
    assert "Traceback" not in stranger.stderr + unwelcome.stderr


def test_a_first_start_without_the_repository_is_exit_78_with_the_reason(tmp_path: Path) -> None:
    node = make_node(tmp_path / "node")

    done = relayd(node, "run", "--source", f"git+file://{tmp_path}/nowhere.git#main")

    assert done.returncode == 78
    assert f"git+file://{tmp_path}/nowhere.git#main: it could not be fetched: " in done.stderr
    assert "does not appear to be a git repository" in done.stderr
    assert "no stored generation can be taken" in done.stderr


def test_status_text_and_metrics_show_the_source_and_a_held_push(tmp_path: Path, repository: Repository) -> None:
    node = make_node(tmp_path / "node")
    environment = {"RELAYD_SOURCE": f"git+file://{repository.bare}#main", "RELAYD_SOURCE_INTERVAL": "1s"}
    with running(node, environment=environment) as daemon:
        assert _serves(daemon)
        repository.git("commit", "--quiet", "--amend", "-m", "forced")
        repository.git("push", "--quiet", "--force", str(repository.bare), "HEAD:main")
        held = relayd(node, "reload")
        text = relayd(node, "status").stdout

        assert held.returncode == 3
        assert "to apply it all the same: relayd reload --accept " in held.stdout
        assert "HELD: the head of the branch" in text
        word = held.stdout.split("--accept ")[1].strip()
        assert relayd(node, "reload", "--accept", word).returncode == 0
        assert relayd(node, "status").returncode == 0
        repository.bare.rename(tmp_path / "away.git")
        daemon.signal(signal.SIGHUP)
        failed = daemon.wait_for("source.failed")
        assert "repository" in failed[0]["reason"]


def _serves(daemon: Daemon) -> bool:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    answer = httpx2.post(
        f"{daemon.url}/v1/messages", json=body, headers={"x-api-key": KEY}, trust_env=False, timeout=PATIENCE
    )
    return answer.status_code == 200 and answer.headers["relayd-config"] != ""
