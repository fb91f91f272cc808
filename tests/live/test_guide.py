"""docs/guide.md, followed from nothing: the laptop's blocks in order in an empty home, the others looked at.

What needs root, a domain or the internet is held against the product all the same: its syntax, each `relayd` command
by relayd's own parser, each file of deploy/ that it names, and the Caddyfile as it is after the page's changes.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from page_blocks import DOCS, RELAYD, Blocks, blocks_of, wrapper
from ports import free_ports
from upstream_api import upstream

from relayd.cli import VERBS, build_parser
from relayd.config.compile import compile_tree
from relayd.config.secrets.api_keys import KEY_PATTERN

ROOT = DOCS.parent
PAGE = (DOCS / "guide.md").read_text()
KOREAN = (DOCS / "guide.ko.md").read_text()
ROLES = {"laptop", "laptop background", "laptop outside", "server"}
SECRETS = {
    "account ": "sk-ant-api03-guide-0123456789\n",
    "secret password": "correct horse battery staple\n",
    "secret seal": "https://hooks.example.com/services/T0/B0/secret\n",
}
NODE = "ssh://relay@n1.example.com/etc/relayd/pushed/tree.git"
LOOKED_AT = [text for role, text in blocks_of(PAGE) if role in ("laptop outside", "server")]


def stdin_of(text: str) -> str:
    """What a person types: the secret that the block asks for."""
    return next((secret for words, secret in SECRETS.items() if words in text), "")


@attrs.frozen
class Own:
    """What is of this run: addresses that are free here, and an upstream that is not the real one."""

    root: Path
    port: int
    upstream: str
    server: str  # the public half of the server's identity

    def fill(self, text: str, every: str) -> str:
        """A block with what a person would have put in."""
        keys = re.findall(KEY_PATTERN, every)
        here = {
            "--realm example": f"--realm example --listen 127.0.0.1:{self.port}",
            "127.0.0.1:3000": f"127.0.0.1:{self.port}",
            "--kind api-key": f"--kind api-key --base-url {self.upstream}",
            "sk-relay-...": keys[-1] if keys else "",
            "RLPUB_OF_THE_SERVER": self.server,
            NODE: str(self.root / "pushed" / "tree.git"),
        }
        for old, new in here.items():
            text = text.replace(old, new)
        return text


def a_server(root: Path) -> str:
    """What the page sets up as root on a server: a place to push to, and an identity, whose public half is returned."""
    (root / "pushed").mkdir()
    relayd = str(root / "bin" / "relayd")
    subprocess.run([relayd, "serve-git", str(root / "pushed" / "tree")], check=True, capture_output=True)
    made = subprocess.run([relayd, "secret", "keygen", str(root / "identity")], check=True, capture_output=True)
    return made.stdout.decode().strip()


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocks]:
    """The laptop's blocks, all of them."""
    root = tmp_path_factory.mktemp("guide")
    (root / "laptop").mkdir()
    wrapper(root / "bin" / "relayd", RELAYD)
    port, admin = free_ports(2)
    with upstream() as (url, _):
        own = Own(root, port, url, a_server(root))
        blocks = Blocks(root, own.fill, {"RELAYD_ADMIN_LISTEN": f"127.0.0.1:{admin}"})
        try:
            for role, text in blocks_of(PAGE):
                if "rm -rf ~/relay" in text:
                    blocks.stop()  # "after Ctrl-C where the daemon runs"
                if role in ("laptop", "laptop background"):
                    blocks.run(role, text, stdin_of(text))
                if "relayd init ~/relay" in text:  # the check before each commit has spoken at the first one
                    without = ["git", "-C", str(root / "laptop" / "relay"), "config", "core.hooksPath", "/dev/null"]
                    subprocess.run(without, check=True)
            yield blocks
        finally:
            blocks.stop()


@pytest.mark.parametrize(
    "line",
    [
        "You said: Hello",
        "main: 200: the account works",
        "applied: generation 2: account main added",
        "account simulator removed, key demo removed",
        "+ main: free, priority 50",
        '"output_tokens": 1',
        "the tree is in place at",
        "+ key ci: is accepted from the next request",
        "the old key works until",
        "memory",
        "ops     slack",
        "whole; ",
    ],
)
def test_the_steps_did_what_the_page_says(walked: Blocks, line: str) -> None:
    assert line in "\n".join(walked.said)


def test_nothing_is_left_of_it_after_the_last_step(walked: Blocks) -> None:
    left = {str(path.relative_to(walked.root)) for path in (walked.root / "laptop").rglob("*") if path.is_file()}
    assert [path for path in left if not path.startswith("laptop/.cache/")] == []


def test_both_languages_have_the_same_blocks() -> None:
    fences = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    assert fences.findall(KOREAN) == fences.findall(PAGE)


def test_both_languages_have_the_same_steps_and_links() -> None:
    pages = [re.sub(r"guide(\.ko)?\.md|troubleshooting(\.ko)?\.md", "", page) for page in (PAGE, KOREAN)]
    links = [re.findall(r"\]\((\w[^)]*)\)", page) for page in pages]
    assert sorted(links[0]) == sorted(links[1])
    assert (
        len(re.findall(r"^## \d+\.", PAGE, re.MULTILINE)) == len(re.findall(r"^## \d+\.", KOREAN, re.MULTILINE)) == 14
    )


def test_every_shell_block_has_a_role() -> None:
    assert {role for role, _ in blocks_of(PAGE)} == ROLES
    assert len(blocks_of(PAGE)) > 30


@pytest.mark.parametrize("text", LOOKED_AT, ids=lambda text: text.split("\n")[0][:40])
def test_a_block_for_elsewhere_is_a_shell_program_with_commands_that_exist(text: str) -> None:
    assert subprocess.run(["sh", "-n", "-c", text], check=False).returncode == 0
    for verb, words in relayd_commands(text):
        assert verb in VERBS, verb
        build_parser(verb).parse_args([verb, *words])  # exits with what is wrong
    for path in re.findall(r"\bdeploy/\S+", text):
        assert list(ROOT.glob(path)), path
    for unit in re.findall(r"\brelayd[\w-]*\.(?:socket|service|timer)\b(?!\.d)", text):
        assert (ROOT / "deploy" / "systemd" / unit).exists(), unit


def relayd_commands(text: str) -> list[tuple[str, list[str]]]:
    """Verb and arguments of each `relayd` command in a block."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(re.sub(r"[|>&].*", "", line) if "relayd" in line else "")
        at = [place for place, word in enumerate(words) if word == "relayd" or word.endswith("/bin/relayd")]
        if at and words[0] not in ("ln", "rm", "systemctl", "echo") and words[at[-1] + 1 :]:
            found.append((words[at[-1] + 1], words[at[-1] + 2 :]))
    return found


def test_the_settings_that_the_page_shows_are_a_tree_without_errors() -> None:
    shown = re.findall(r"^```toml relay\.toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for text in shown:
        found = compile_tree({"relay.toml": f'schema = 1\nrealm = "example"\n{text}'.encode()})
        assert [str(problem) for problem in found.problems if problem.severity == "error"] == []
    assert shown


def test_the_caddyfile_is_right_after_the_changes_of_the_page(tmp_path: Path) -> None:
    (block,) = [text for text in LOOKED_AT if "caddy validate" in text]
    lines = [line for line in block.splitlines() if line.startswith(("cp ", "sed ", "caddy "))]
    script = "\n".join(lines).replace("/etc/caddy/", f"{tmp_path}/")
    environment = {"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-ec", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "10.0.0" not in (tmp_path / "Caddyfile").read_text()
