"""A push over a real sshd, and one push to two nodes on one Redis."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from daemon import Daemon, running
from push_node import Laptop, PushNode, make_laptop, make_node, relayd
from redis_server import running as redis_running
from ssh_server import SshServer, serving_ssh
from waiting import wait_until


@attrs.frozen
class Site:
    """Two nodes on one Redis; the laptop reaches the first over ssh, the second over the file system."""

    nodes: tuple[PushNode, PushNode]
    daemons: tuple[Daemon, Daemon]
    ssh: SshServer
    laptop: Laptop


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    nodes = make_node(root / "n1"), make_node(root / "n2")
    with serving_ssh(root / "ssh") as ssh, redis_running() as redis:
        laptop = make_laptop(root / "laptop", ssh.url(nodes[0].bare), environment={"GIT_SSH_COMMAND": ssh.command})
        for url in (ssh.url(nodes[0].bare), str(nodes[1].bare)):
            laptop.git("remote", "set-url", "--add", "--push", "node", url)
        first = laptop.push()
        assert first.code == 0, first.all
        with (
            running(nodes[0].tree, "--state", redis.url, "--node", "n1") as one,
            running(nodes[1].tree, "--state", redis.url, "--node", "n2") as two,
        ):
            yield Site(nodes, (one, two), ssh, laptop)


def test_one_push_reaches_both_nodes_and_each_prints_its_verdict(site: Site) -> None:
    site.laptop.key("both")
    commit = site.laptop.commit()
    pushed = site.laptop.push()

    assert pushed.code == 0, pushed.all
    assert pushed.said.count("relayd: applied generation 2: key both added") == 2
    assert [node.commit() for node in site.nodes] == [commit, commit]

    def agree() -> bool:
        status = json.loads(relayd("status", "--json", "--config", str(site.nodes[0].tree)).stdout)
        return [one["commit"] for one in status["nodes"]] == [commit, commit] and status["drift"] is None

    wait_until(agree, "both nodes on one commit")


def test_a_broken_push_is_refused_over_ssh_in_the_pushers_terminal(site: Site) -> None:
    site.laptop.undo()
    before = [node.commit() for node in site.nodes]
    site.laptop.write("accounts.d/b.toml", 'kind = "simulator"\n\n\nweight = true\n')
    site.laptop.commit()
    pushed = site.laptop.push()

    assert pushed.code != 0
    assert pushed.said.count("accounts.d/b.toml:4:10: error[E-TYPE]") == 2
    assert [node.commit() for node in site.nodes] == before


def test_a_node_that_is_down_takes_the_tree_and_says_that_nothing_runs_it(site: Site, tmp_path: Path) -> None:
    site.laptop.undo()
    down = make_node(tmp_path / "n3")
    site.laptop.git("remote", "add", "third", site.ssh.url(down.bare))
    pushed = site.laptop.push(remote="third")

    assert pushed.code == 0
    assert "no daemon answers, so nothing runs it yet" in pushed.said
    assert down.commit() == site.laptop.head()


def test_the_key_opens_git_and_no_shell(site: Site, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    words = [*site.ssh.command.split(), "-p", str(site.ssh.port), "127.0.0.1", f"touch {trap}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode != 0
    assert not trap.exists()
