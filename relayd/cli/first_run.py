"""The first run: what `relayd init` does around the files of a new tree, to identity, git repository and newcomer.

Rule: an identity that is there is used and never overwritten; a repository is made only where there is none.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from relayd.config.secrets.identity import identity_paths, read_identities, usual_identity, write_identity
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import Identity, new_identity
from relayd.noun import noun
from relayd.wire.current_models import USUAL


@noun
class Kept:
    """The identities of a new tree: their files, and whether the one file was made just now."""

    paths: tuple[Path, ...]
    identities: tuple[Identity, ...]
    made: bool

    def as_json(self) -> dict[str, object]:
        return {
            "identity": [str(path) for path in self.paths],
            "identity_made": self.made,
            "recipients": [identity.public.text for identity in self.identities],
        }


NOBODY = Kept((), (), False)


def keep_identity(directory: Path, realm: str, named: Path | None, post_quantum: bool) -> Kept:
    """The identities that commands on this machine use for the realm, or a new one. Raises: SealError; OSError."""
    paths = [named] if named else identity_paths(None, os.environ, realm)
    there = [path for path in paths if path.exists()]
    if there:
        found = [identity for path in there for identity in read_identities(path, directory)]
        return Kept(tuple(there), tuple(dict.fromkeys(found)), False)
    path = paths[0] if paths else usual_identity(realm, directory, os.environ)
    made = new_identity(os.urandom, 2 if post_quantum else 1)
    try:
        write_identity(path, directory, made)
    except OSError as error:
        reason = (error.strerror or "cannot be written").lower()
        raise SealError(
            "E-IDENTITY-FILE",
            f"{error.filename or path}: {reason} (another place: --identity FILE; none: --no-identity)",
        ) from None
    return Kept((path,), (made,), True)


def found_by_itself(kept: Kept, realm: str) -> bool:
    """Whether commands find these identities without being told."""
    return list(kept.paths) == identity_paths(None, os.environ, realm)


def make_repository(directory: Path) -> str:
    """Make the directory a git repository with the hook on, unless it is in one.

    Returns: "made"; the top directory of the repository that it is in; "" where there is no git, or it fails.
    """
    if not shutil.which("git"):
        return ""
    top = ask_git(directory, "rev-parse", "--show-toplevel")
    if top is not None:
        return top or str(directory)
    made = ask_git(directory, "init", "--quiet") is not None
    return "made" if made and ask_git(directory, "config", "core.hooksPath", ".githooks") is not None else ""


def hook_is_off(directory: Path) -> bool:
    """Whether this is a clone of a tree with a hook that nobody has switched on: git takes no hooks along.

    In CI and inside a hook the question does not arise.
    """
    if {"CI", "GIT_DIR", "GIT_INDEX_FILE"} & os.environ.keys() or not (directory / ".githooks/pre-commit").exists():
        return False
    hooks = ask_git(directory, "rev-parse", "--git-path", "hooks")
    return hooks is not None and not (directory / hooks / "pre-commit").exists()


def ask_git(directory: Path, *words: str) -> str | None:
    """What git prints; None when it fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(directory), *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout.strip() if done.returncode == 0 else None


def farewell(directory: Path, realm: str, listen: str, key: str, kept: Kept, git: str, found: bool) -> str:
    """What was made, and what to do next."""
    where = shlex.quote(str(directory))
    option = "" if found or not kept.paths else f" --identity {shlex.quote(':'.join(map(str, kept.paths)))}"
    return f"""\
Made a config tree in {directory}, realm {realm}.

{_about_identity(kept, found)}
The demo key, shown this once (the tree has its hash):

  {key}

Next:

  relayd check {where}
  relayd run --config {where}{option}
  curl {curl_target(listen)}/v1/messages -H "x-api-key: {key}" -H "anthropic-version: 2023-06-01" \\
    -H "content-type: application/json" \\
    -d '{{"model": "{USUAL}", "max_tokens": 64, "messages": [{{"role": "user", "content": "Hello"}}]}}'

Then a real account, and a key that may use it; the demo can go. Where the daemon runs, each ends with its verdict:

  relayd account add main --kind api-key --config {where}
  relayd key new alice --config {where}
  relayd demo remove --config {where}

{_about_git(directory, git)}{_warning(git, kept)}"""


def _about_identity(kept: Kept, found: bool) -> str:
    if not kept.paths:
        return (
            "It has no identity yet; `relayd secret keygen` and `relayd secret recipients add` come before sealing.\n"
        )
    files = ", ".join(map(str, kept.paths))
    what = "Its identity, which opens sealed credentials, is new" if kept.made else "Its identity was there and is used"
    finding = (
        "Commands find it there by the realm" if found else "Name it to commands with --identity or RELAYD_IDENTITY"
    )
    backup = "; keep a copy offline: without it, sealed values are lost" if kept.made else ""
    return f"{what}:\n\n  {files}\n\n{finding}{backup}.\n"


def _about_git(directory: Path, git: str) -> str:
    where = shlex.quote(str(directory))
    commit = f'cd {where} && git add . && git commit -m "relayd tree"'
    if git == "made":
        return (
            f"It is a git repository; its pre-commit hook runs the check and the tests. First commit:\n\n  {commit}\n"
        )
    switch_on = "git config core.hooksPath .githooks"
    if not git:
        return (
            f"To keep the tree in git, with the check before each commit:\n\n  cd {where} && git init && {switch_on}\n"
        )
    if Path(git) == directory.resolve():
        return f"To have each commit checked, and the first commit:\n\n  cd {where} && {switch_on}\n  {commit}\n"
    return (
        f"It lies in the repository {git}: GitHub reads workflows, and git hooks, from the top of a repository only,\n"
        f"so move .github and .githooks there if it has none of its own (and let them name this directory).\n"
    )


def _warning(git: str, kept: Kept) -> str:
    """An identity is outside the tree, and may still be in the same repository."""
    inside = [path for path in kept.paths if git not in ("", "made") and path.resolve().is_relative_to(git)]
    return f"\nwarning: {inside[0]} is in that repository too: see that it is never committed\n" if inside else ""


def curl_target(listen: str) -> str:
    """Where curl finds what listens there."""
    if listen.startswith("unix:"):
        return f"--unix-socket {shlex.quote(listen.removeprefix('unix:'))} http://relayd"
    host, _, port = listen.rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1", "*": "127.0.0.1"}.get(host, host)
    return f"http://{local}:{port}"
