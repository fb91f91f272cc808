"""A node that is pushed to, with or without a daemon, and the laptop that pushes: real git, real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import attrs
from builders import KEY
from daemon import SIMULATOR, key_text

RELAYD = (sys.executable, "-m", "relayd")
PATIENCE = 120.0  # s
SCENARIO = """\
[[scenario]]
name = "dev is served"
key = "dev"
model = "claude-sonnet-4-5"
expect = "allow"
"""


@attrs.frozen
class Pushed:
    """How a push ended. `said`: the lines of the other side, without git's "remote: "."""

    code: int
    said: str
    all: str


@attrs.frozen
class Laptop:
    """A working copy with a remote `node`."""

    root: Path
    environment: Mapping[str, str] = attrs.field(default=MappingProxyType({}), repr=False)

    def git(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        config = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "RELAYD_"))}
        done = subprocess.run(
            ["git", *config, "-C", str(self.root), *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**inherited, **self.environment},
        )
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def write(self, path: str, text: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def key(self, name: str, more: str = "") -> None:
        """keys.d/NAME.toml for a key that nobody has."""
        digest = f"{sum(name.encode()):064x}"
        self.write(f"keys.d/{name}.toml", f'hashes = [{{ sha256 = "{digest}" }}]\n{more}')

    def commit(self, message: str = "change") -> str:
        """Commit everything; its name."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.head()

    def head(self) -> str:
        return self.git("rev-parse", "HEAD").stdout.strip()

    def push(self, *options: str, refs: str = "HEAD:main", remote: str = "node") -> Pushed:
        done = self.git("push", *options, remote, refs, check=False)
        said = "\n".join(line.rstrip() for line in re.findall(r"^remote: (.*)$", done.stderr, re.MULTILINE))
        return Pushed(done.returncode, said, done.stdout + done.stderr)

    def undo(self) -> None:
        """Back to what the node has."""
        self.git("fetch", "--quiet", "node")
        self.git("reset", "--quiet", "--hard", "node/main")
        self.git("clean", "--quiet", "-ffdx")


@attrs.frozen
class PushNode:
    """A tree at `tree` with `tree`.git to push to."""

    tree: Path

    @property
    def bare(self) -> Path:
        return self.tree.with_name(f"{self.tree.name}.git")

    @property
    def versions(self) -> Path:
        return self.tree.with_name(f"{self.tree.name}.trees")

    def commit(self) -> str:
        """What is in place."""
        return os.path.basename(os.readlink(self.tree))

    def tip(self) -> str:
        return relayd_git(self.bare, "rev-parse", "refs/heads/main")

    def serve(self, *options: str) -> subprocess.CompletedProcess[str]:
        """`relayd serve-git`."""
        return relayd("serve-git", str(self.tree), *options)


def relayd(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a verb as a process."""
    return subprocess.run([*RELAYD, *words], capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=cwd)


def relayd_git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()


def make_node(root: Path, *options: str) -> PushNode:
    """A node that nobody has pushed to."""
    root.mkdir(parents=True, exist_ok=True)
    node = PushNode(root / "relay")
    done = node.serve(*options)
    assert done.returncode == 0, done.stderr
    return node


def make_laptop(root: Path, url: str, *, keys: int = 1, environment: Mapping[str, str] | None = None) -> Laptop:
    """A tree in its first commit, with key `dev` for KEY, and `url` as the remote `node`."""
    laptop = Laptop(root, environment or {})
    laptop.write("relay.toml", 'schema = 1\nrealm = "test"\n[admin]\nlisten = ""\n')
    laptop.write("accounts.d/sim.toml", SIMULATOR)
    laptop.write("keys.d/dev.toml", key_text(KEY))
    for number in range(1, keys):
        laptop.key(f"k{number}")
    laptop.write("tests.d/dev.toml", SCENARIO)
    laptop.git("init", "--quiet", "--initial-branch=main")
    laptop.git("remote", "add", "node", url)
    laptop.commit("a tree")
    return laptop


def clone(root: Path, node: PushNode) -> Laptop:
    """A second person's working copy."""
    subprocess.run(["git", "clone", "--quiet", "--origin=node", str(node.bare), str(root)], check=True)
    return Laptop(root)
