"""docs/gitops.md, followed to the letter: every shell block of it, in order, by a person with a laptop and a node.

Only what nobody can know beforehand is put in: the host's name, where /srv is, the port, and the values that an earlier
step has printed. ssh is the real one, with the keys and the line of authorized_keys that the page makes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from page_blocks import DOCS, RELAYD, Blocks, blocks_of, wrapper
from ports import free_port
from ssh_server import serving_ssh

PAGE = (DOCS / "gitops.md").read_text()


def filled(root: Path, port: int, ssh_port: int) -> Callable[[str, str], str]:
    """A block with what a person would have put in."""

    def fill(text: str, every: str) -> str:
        found = {
            "RLPUB_OF_THE_NODE": re.findall(r"rlpub1\.\S+", every),
            " KEY'": re.findall(r"^ssh-ed25519 .*$", every, re.MULTILINE),
            "DIGEST": re.findall(r"relayd\.accept=([0-9a-f]{12})", every),
        }
        for name, values in found.items():
            if name in text:
                text = text.replace(name, f" {values[-1]}'" if name.endswith("'") else values[-1])
        text = text.replace("--realm example", f"--realm example --listen 127.0.0.1:{port}")
        return re.sub(r"\bn[12]\.example\.com(?=/)", f"127.0.0.1:{ssh_port}", text).replace("/srv/", f"{root}/srv/")

    return fill


def clone_by_hand(root: Path) -> None:
    """What a node had before pushes: a clone, with the state of a daemon in it."""
    subprocess.run(["git", "clone", "--quiet", str(root / "srv/relay.git"), str(root / "srv/clone")], check=True)
    (root / "srv/clone/var").mkdir()
    (root / "srv/clone/var/relayd.db").write_text("the books")


@attrs.frozen
class Walk:
    """The page, walked through: who ran it, and where its first daemon listens."""

    blocks: Blocks
    port: int

    @property
    def root(self) -> Path:
        return self.blocks.root

    @property
    def said(self) -> list[str]:
        return self.blocks.said


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """The whole page, walked through."""
    root = tmp_path_factory.mktemp("gitops")
    for name in ("laptop/.ssh", "node/.ssh", "srv"):
        (root / name).mkdir(parents=True, mode=0o700)
    wrapper(root / "bin" / "relayd", RELAYD)
    with serving_ssh(root / "ssh", authorized=root / "node" / ".ssh" / "authorized_keys") as ssh:
        options = f"-F none -i {root}/laptop/.ssh/relay-deploy -o IdentitiesOnly=yes -o BatchMode=yes"
        known = f"-o UserKnownHostsFile={root}/ssh/known -o User={ssh.user}"
        wrapper(root / "bin" / "ssh", f"/usr/bin/ssh {options} {known}")
        port = free_port()
        blocks = Blocks(root, filled(root, port, ssh.port))
        try:
            for role, block in blocks_of(PAGE):
                if "/srv/clone" in block:
                    clone_by_hand(root)
                text = block.replace("ssh://relay@", f"ssh://{ssh.user}@")
                blocks.run(role, text)
                if "relayd init" in text:  # the check before each commit has spoken at the first one
                    without = ["git", "-C", str(root / "laptop/relay"), "config", "core.hooksPath", "/dev/null"]
                    subprocess.run(without, check=True)
            yield Walk(blocks, port)
        finally:
            blocks.stop()


def test_every_shell_block_of_the_page_has_a_role() -> None:
    fences = re.findall(r"^```(.*)\n", PAGE, re.MULTILINE)[::2]
    roles = {"sh laptop", "sh node", "sh laptop refused", "sh node background"}

    assert {fence for fence in fences if fence.startswith("sh")} == roles
    assert set(fences) - roles == {"mermaid", ""}
    assert len(blocks_of(PAGE)) >= 18


def test_the_page_ends_with_both_nodes_on_the_laptops_commit(walked: Walk) -> None:
    commit = subprocess.run(
        ["git", "-C", str(walked.root / "laptop/relay"), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()

    assert {os.path.basename(os.readlink(walked.root / "srv" / name)) for name in ("relay", "second")} == {commit}


@pytest.mark.parametrize(
    "line",
    [
        "no daemon answers, so nothing runs it yet",
        "+ key alice: is accepted from the next request",
        "relayd: applied generation 2: key alice added",
        "unknown key `wieght` (did you mean `weight`?)",
        "relayd: refused: 1 error",
        "relayd: refused: HELD: no enabled key would be left of 2",
        "relayd: applied generation 5: deny.toml changed",
        "\napplied: generation 6: deny.toml changed\n",
        "scenarios: 2 passed, 0 failed",
    ],
)
def test_what_the_page_shows_is_what_was_printed(walked: Walk, line: str) -> None:
    assert line in "\n".join(walked.said)


def test_a_clone_that_was_made_by_hand_became_a_served_tree_with_its_state(walked: Walk) -> None:
    tree = walked.root / "srv/clone"
    versions = tree.with_name("clone.trees")

    assert os.readlink(tree) == f"clone.trees/{os.readlink(walked.root / 'srv/relay').rpartition('/')[2]}"
    assert (tree / "var/relayd.db").read_text() == "the books"
    assert {path.name for path in versions.iterdir() if path.is_dir()} == {os.readlink(tree)[12:], "var"}


def test_who_was_revoked_is_refused_and_the_demo_key_came_back(walked: Walk) -> None:
    key = re.findall(r"sk-relay-\S+", "\n".join(walked.said))
    demo, alice = key[0], next(one for one in key if one != key[0])
    body = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]})

    def ask(one: str) -> str:
        words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{walked.port}/v1/messages"]
        head = ["-H", f"x-api-key: {one}", "-H", "anthropic-version: 2023-06-01", "-d", body]
        return subprocess.run([*words, *head], capture_output=True, text=True, check=True).stdout

    assert (ask(demo), ask(alice)) == ("200", "401")
