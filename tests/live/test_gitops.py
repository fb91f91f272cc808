"""docs/gitops.md, followed to the letter: every shell block of it, in order, by a person with a laptop and a node.

Only what nobody can know beforehand is put in: the host's name, where /srv is, the port, and the values that an earlier
step has printed. ssh is the real one, with the keys and the line of authorized_keys that the page makes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from ports import free_port
from ssh_server import serving_ssh
from waiting import wait_until

PAGE = (Path(__file__).parents[2] / "docs" / "gitops.md").read_text()
BLOCK = re.compile(r"^```sh(?P<role>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE = 120.0  # s


@attrs.define
class Blocks:
    """Runs blocks, and remembers what they printed."""

    root: Path
    port: int
    ssh_port: int
    said: list[str] = attrs.field(factory=list)
    daemons: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    def home(self, role: str) -> Path:
        return self.root / role.split()[0]

    def environment(self, role: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELAYD_", "GIT_"))}
        home = self.home(role)
        people = {f"GIT_{who}_{what}": f"{what}@example.com" for who in ("AUTHOR", "COMMITTER") for what in NAMES}
        return {
            **inherited,
            **people,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": "/dev/null",
        }

    def filled(self, text: str) -> str:
        """A block with what a person would have put in."""
        every = "\n".join(self.said)
        found = {
            "RLPUB_OF_THE_NODE": re.findall(r"rlpub1\.\S+", every),
            " KEY'": re.findall(r"^ssh-ed25519 .*$", every, re.MULTILINE),
            "DIGEST": re.findall(r"relayd\.accept=([0-9a-f]{12})", every),
        }
        for name, values in found.items():
            if name in text:
                text = text.replace(name, f" {values[-1]}'" if name.endswith("'") else values[-1])
        text = text.replace("--realm example", f"--realm example --listen 127.0.0.1:{self.port}")
        return re.sub(r"\bn[12]\.example\.com(?=/)", f"127.0.0.1:{self.ssh_port}", text).replace(
            "/srv/", f"{self.root}/srv/"
        )

    def run(self, role: str, text: str) -> None:
        """One block. Raises: AssertionError when it does not end as its mark says."""
        if role.endswith("background"):
            self.background(role, text)
            return
        done = subprocess.run(
            ["bash", "-e", "-c", self.filled(text)], capture_output=True, text=True, check=False, timeout=PATIENCE,
            env=self.environment(role), cwd=self.home(role), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = done.stdout + done.stderr
        self.said.append(said)
        assert (done.returncode != 0) == role.endswith("refused"), (text, said)

    def background(self, role: str, text: str) -> None:
        log = self.root / "daemon.log"
        command = ["bash", "-c", f"exec {self.filled(text)}"]
        with log.open("wb") as file:
            self.daemons.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.home(role),
                    env=self.environment(role),
                )
            )  # fmt: skip
        wait_until(lambda: "daemon.listening" in log.read_text() or self.daemons[-1].poll() is not None, "the daemon")
        assert self.daemons[-1].poll() is None, log.read_text()


NAMES = ("NAME", "EMAIL")


def wrapper(path: Path, words: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocks]:
    """The whole page, walked through."""
    root = tmp_path_factory.mktemp("gitops")
    for name in ("laptop/.ssh", "node/.ssh", "srv"):
        (root / name).mkdir(parents=True, mode=0o700)
    wrapper(root / "bin" / "relayd", f"{sys.executable} -m relayd")
    with serving_ssh(root / "ssh", authorized=root / "node" / ".ssh" / "authorized_keys") as ssh:
        options = f"-F none -i {root}/laptop/.ssh/relay-deploy -o IdentitiesOnly=yes -o BatchMode=yes"
        known = f"-o UserKnownHostsFile={root}/ssh/known -o User={os.environ.get('USER', 'root')}"
        wrapper(root / "bin" / "ssh", f"/usr/bin/ssh {options} {known}")
        blocks = Blocks(root, free_port(), ssh.port)
        try:
            for block in BLOCK.finditer(PAGE):
                text = block["text"].replace("ssh://relay@", f"ssh://{ssh.user}@")
                blocks.run(block["role"].strip(), text)
            yield blocks
        finally:
            for daemon in blocks.daemons:
                daemon.terminate()
                daemon.wait(PATIENCE)


def test_every_shell_block_of_the_page_has_a_role() -> None:
    fences = re.findall(r"^```(.*)\n", PAGE, re.MULTILINE)[::2]
    roles = {"sh laptop", "sh node", "sh laptop refused", "sh node background"}

    assert {fence for fence in fences if fence.startswith("sh")} == roles
    assert set(fences) - roles == {"mermaid", ""}
    assert len(list(BLOCK.finditer(PAGE))) >= 18


def test_the_page_ends_with_both_nodes_on_the_laptops_commit(walked: Blocks) -> None:
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
        "deny changed",
    ],
)
def test_what_the_page_shows_is_what_was_printed(walked: Blocks, line: str) -> None:
    assert line in "\n".join(walked.said)


def test_who_was_revoked_is_refused_and_the_demo_key_came_back(walked: Blocks) -> None:
    key = re.findall(r"sk-relay-\S+", "\n".join(walked.said))
    demo, alice = key[0], next(one for one in key if one != key[0])
    body = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]})

    def ask(one: str) -> str:
        words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{walked.port}/v1/messages"]
        head = ["-H", f"x-api-key: {one}", "-H", "anthropic-version: 2023-06-01", "-d", body]
        return subprocess.run([*words, *head], capture_output=True, text=True, check=True).stdout

    assert (ask(demo), ask(alice)) == ("200", "401")
