"""Git commands: the few things that are asked of the git program: which blobs a commit has, and their bytes.

Rule: reads only, takes no lock, runs no hook, asks no network, and ends within its time; config/edit/commit.py alone
asks for more. The repository may belong to somebody else and its config may be hostile: everything in it that would
start a program is switched off.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from relayd.config.model.document import classify

TIMEOUT = 20.0  # s
MAX_TREE = 64 << 20  # bytes
_SAFE = (
    "--no-optional-locks",
    "--no-replace-objects",
    "-c", "safe.directory=*",  # relayd often runs as another user than the one who pulls
    "-c", "core.fsmonitor=false",
    "-c", "core.hooksPath=/dev/null",
    "-c", "protocol.allow=never",  # a partial clone would fetch what it lacks
)  # fmt: skip


class GitError(Exception):
    """Git is missing, or it refused. The text is git's own, one line."""


def run_git(
    root: str | Path,
    *words: str,
    stdin: bytes = b"",
    timeout: float = TIMEOUT,
    more: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """What git prints. `more`: environment for this command. Raises: GitError."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", **more}
    try:
        done = subprocess.run(
            ["git", *_SAFE, "-C", str(root), *words],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env=environ,
            check=False,
        )
    except FileNotFoundError:
        raise GitError("there is no git program on this machine") from None
    except subprocess.TimeoutExpired:
        raise GitError(f"git {words[0]} took longer than {timeout:g} s") from None
    except OSError as error:
        raise GitError(f"git cannot be run: {error.strerror}") from None
    if done.returncode:
        raise GitError(_complaint(done.stderr.decode("utf-8", "replace")) or f"git {words[0]} failed")
    return done.stdout


def quarantine(environ: Mapping[str, str]) -> dict[str, str]:
    """Where git keeps what is being pushed until its pre-receive hook has accepted it, from that hook's environment.

    Source: git-receive-pack(1), "QUARANTINE ENVIRONMENT".
    """
    names = ("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH")
    return {name: environ[name] for name in names if name in environ}


def _complaint(said: str) -> str:
    """What git ended with, among what it warns of besides."""
    lines = said.strip().splitlines()
    complaint = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[0] if lines else "")
    return re.sub(r"^(?:fatal|error): ", "", complaint)


def commit_of(root: str | Path, revision: str) -> str:
    """The full name of a commit. Raises: GitError."""
    if not revision:
        raise GitError("expected a revision, found nothing")
    words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    try:
        return run_git(root, *words).decode().strip()
    except GitError as error:
        if "failed" in str(error):
            raise GitError(f"{revision}: no such revision{_if_shallow(root)}") from None
        raise


def _if_shallow(root: str | Path) -> str:
    """A hint where the clone has only the newest commits."""
    try:
        shallow = run_git(root, "rev-parse", "--is-shallow-repository") == b"true\n"
    except GitError:
        return ""
    return " here (a shallow clone: `git fetch --unshallow`; actions/checkout has fetch-depth: 0)" if shallow else ""


def blobs_of(root: str | Path, commit: str, *, timeout: float = TIMEOUT) -> dict[str, str]:
    """The object name of each file of the tree at `root` in a commit, by POSIX path in the tree. Raises: GitError."""
    listed = run_git(root, "ls-tree", "-r", "-z", "--end-of-options", commit, timeout=timeout)
    blobs = {}
    for line in listed.split(b"\0"):
        head, _, path = line.partition(b"\t")
        if head.startswith(b"100") and classify(name := os.fsdecode(path)) != "ignored":  # 100644, 100755: plain files
            blobs[name] = head.split(b" ")[2].decode()
    return blobs


def contents_of(
    root: str | Path, names: Sequence[str], *, objects: Mapping[str, str] = MappingProxyType({})
) -> list[bytes]:
    """The bytes of blobs, 64 MiB in all at most. Raises: GitError. Source: git-cat-file(1), "BATCH OUTPUT"."""
    if not names:
        return []
    wanted = "\n".join(names).encode() + b"\n"
    sizes = run_git(root, "cat-file", "--batch-check=%(objectsize)", stdin=wanted, more=objects)
    if sum(int(size) for size in sizes.split() if size.isdigit()) > MAX_TREE:
        raise GitError("the tree is larger than 64 MiB")
    raw = run_git(root, "cat-file", "--batch", stdin=wanted, more=objects)
    contents, at = [], 0
    for name in names:
        end = raw.find(b"\n", at)
        words = raw[at:end].split(b" ")
        if len(words) != 3 or words[1] != b"blob":
            raise GitError(f"the object {name[:12]} is missing (a shallow or partial clone?)")
        at = end + 1 + int(words[2])
        contents.append(raw[end + 1 : at])
        at += 1
    return contents
