"""A repository that somebody pushes to, and nodes that pull from it: real git, real keys, no network but loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
from reload_world import Tree, World, living, make_tree

from relayd.config.source.source_url import parse_source
from relayd.daemon.source.settings import SourceSettings


def new_key(place: Path, name: str) -> Path:
    """An ssh key that signs. Returns: its private file; the public one lies beside it."""
    path = place / name
    if not path.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def allowed(place: Path, *keys: Path) -> Path:
    """A file of allowed signers."""
    path = place / "allowed_signers"
    lines = [f'{key.name} namespaces="git" {key.with_suffix(".pub").read_text()}' for key in keys]
    path.write_text("".join(lines))
    return path


@attrs.define
class Origin:
    """A bare repository, and the clone of a person who works on the tree."""

    place: Path
    tree: Tree

    @property
    def bare(self) -> Path:
        return self.place / "origin.git"

    @property
    def url(self) -> str:
        return f"git+file://{self.bare}#main"

    def commit(self, message: str = "change", *, key: Path | None = None) -> str:
        """Commit what lies there, signed if a key is given. Returns: the commit."""
        self.tree.git("add", "--all")
        sign = ["-c", "gpg.format=ssh", "-c", f"user.signingkey={key}"] if key is not None else []
        signed = ["-S"] if key is not None else []
        self.tree.git(*sign, "commit", "--quiet", "--allow-empty", *signed, "-m", message)
        return self.head()

    def configure(self, value: str, *names: str) -> None:
        """Set something in the bare repository's own config."""
        for name in names:
            subprocess.run(["git", "-C", str(self.bare), "config", name, value], check=True)

    def head(self) -> str:
        return self.tree.git("rev-parse", "HEAD")

    def push(self, *words: str) -> str:
        """Push the branch. Returns: its head."""
        self.tree.git("push", "--quiet", *words, str(self.bare), "HEAD:main")
        return self.head()

    def publish(self, priority: int, *, key: Path | None = None) -> str:
        """A change that a daemon shows, committed and pushed. Returns: the commit."""
        self.tree.account(more=f"priority = {priority}")
        self.commit(f"priority {priority}", key=key)
        return self.push()

    def settings(self, place: Path, **more: Any) -> SourceSettings:
        """Of a node that pulls from here and is quick about it."""
        return SourceSettings(**{"at": parse_source(self.url), "directory": place, "interval": 0.05, **more})


def make_origin(place: Path, *, key: Path | None = None) -> Origin:
    """A repository with one commit: a tree with account `a` and one key."""
    origin = Origin(place, make_tree(place / "laptop"))
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(origin.bare)], check=True)
    origin.tree.git("init", "--quiet", "-b", "main")
    origin.publish(1, key=key)
    return origin


def pulling(origin: Origin, name: str = "node", **more: Any) -> AbstractAsyncContextManager[World]:
    """A daemon that pulls. What it keeps is kept under its name, for one that comes after it."""
    place = origin.place / name
    place.mkdir(exist_ok=True)
    return living(Tree(place), source=origin.settings(origin.place / f"{name}.node" / "source", **more))


def gpg_home(place: Path, name: str) -> tuple[dict[str, str], Path]:
    """A PGP key that signs. Returns: the environment of its owner, and the armoured public key."""
    home = Path(tempfile.mkdtemp(suffix=f"gnupg-{name}"))  # short: its sockets have names of at most 108 bytes
    environ = {**os.environ, "GNUPGHOME": str(home)}
    user = f"{name} <{name}@example.com>"
    command = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", user, "ed25519", "sign", "never"]
    subprocess.run(command, env=environ, check=True, capture_output=True)
    public = place / f"{name}.asc"
    exported = subprocess.run(["gpg", "--armor", "--export"], env=environ, check=True, capture_output=True).stdout
    public.write_bytes(exported)
    return environ, public


def stop_agent(environ: dict[str, str]) -> None:
    """End the agent that gpg has started for a home, and the home."""
    subprocess.run(["gpgconf", "--kill", "all"], env=environ, check=False, capture_output=True)
    shutil.rmtree(environ["GNUPGHOME"], ignore_errors=True)
