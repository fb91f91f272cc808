"""A tree in a directory, and verbs run on it in this process with streams of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import attrs

from relayd.cli import main
from relayd.config.load import load_tree
from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import Identity, new_identity

RELAY = """\
schema = 1
realm = "example"

[server]
listen = ["127.0.0.1:3000"]   # the reverse proxy is before it
"""


@attrs.frozen(kw_only=True)
class Ran:
    """What a verb said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def all(self) -> str:
        return self.out + self.err


@attrs.frozen
class Tree:
    """A config tree on disk."""

    root: Path

    def run(self, *words: str, stdin: str = "") -> Ran:
        """Run a verb on the tree, as the command line would, without a terminal."""
        out, err = io.StringIO(), io.StringIO()
        before, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = _exit_code([*words, "--config", str(self.root)])
        finally:
            sys.stdin = before
        return Ran(code=code, out=out.getvalue(), err=err.getvalue())

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def compiles(self) -> bool:
        return load_tree(self.root).snapshot is not None

    @property
    def content(self) -> str:
        return "".join(path.read_text() for path in sorted(self.root.rglob("*.toml")))


@attrs.frozen
class SealingTree:
    """A tree with a recipient, and the file of its identity."""

    tree: Tree
    identity: Identity
    file: Path


def make_tree(root: Path, relay: str = RELAY) -> Tree:
    tree = Tree(root / "tree")
    tree.write("relay.toml", relay)
    tree.write("accounts.d/sample.toml", 'kind = "simulator"\n')
    return tree


def make_sealing_tree(root: Path, relay: str = RELAY) -> SealingTree:
    tree = make_tree(root, relay)
    identity = new_identity(os.urandom)
    file = root / "identity"
    write_identity(file, tree.root, identity)
    assert tree.run("secret", "recipients", "add", "prod", identity.public.text).code == 0
    return SealingTree(tree, identity, file)


def _exit_code(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as error:  # argparse, on a usage error
        return int(error.code or 0)
