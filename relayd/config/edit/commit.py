"""Commits: an edit that was written becomes a commit of its own, and goes to a remote where that is wished.

Rule: only the paths of the edit are committed, and only where the commit will be found: on a branch, with nothing else
going on in those files. Git runs with a command line made here and no hook. May block: call it in a thread.

Theory: filters and line ends of the repository count, because git-crypt and its like would else be undone; so git adds
the files itself. A commit is made under its author's name, also as the committer, whose machine nobody asks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from relayd.config.source.git import GitError, run_git
from relayd.config.source.git_state import MARKERS, find_git, git_state, place_in_repository
from relayd.noun import noun

PUSH_TIMEOUT = 60.0  # s
_LITERAL = {"GIT_LITERAL_PATHSPECS": "1"}
_BRANCH = "refs/heads/"


@noun(kw_only=True)
class Author:
    """Whose edit it is."""

    name: str
    email: str = ""

    def environment(self) -> dict[str, str]:
        """For git. What its format of names has no room for is left out."""
        name = re.sub(r"[<>]|[^\w\s.,;:'()@+-]", "", " ".join(self.name.split())).strip(" .,;:'-") or "relayd"
        email = self.email or f"{re.sub(r'[^A-Za-z0-9._-]', '', name) or 'nobody'}@relayd.invalid"
        return {
            "GIT_AUTHOR_NAME": name,
            "GIT_AUTHOR_EMAIL": email,
            "GIT_COMMITTER_NAME": name,
            "GIT_COMMITTER_EMAIL": email,
        }


def why_not_committed(root: Path, paths: Sequence[str]) -> str:
    """Why an edit of these files cannot be written and committed here; "" when it can."""
    real = Path(os.path.realpath(root))
    place = find_git(str(real))
    if not place:
        return f"{root} is in no git repository"
    if os.stat(place).st_uid != os.geteuid():
        return f"the repository of {root} belongs to another user of this machine"
    return _not_writable(real, place, paths) or _not_ready(real, place, paths)


def _not_writable(root: Path, place: str, paths: Sequence[str]) -> str:
    for path in paths:
        folder = (root / path).parent
        while not folder.exists():
            folder = folder.parent
        if not os.access(folder, os.W_OK):
            return f"{folder} is read-only here"
        if (root / path).is_symlink():
            return f"{path} is a link"
    return "" if os.access(place, os.W_OK) else f"{place} is read-only here"


def _not_ready(root: Path, place: str, paths: Sequence[str]) -> str:
    state = git_state(place)
    if state.marker:
        return f"a {MARKERS[state.marker]} is not finished in the repository"
    if not state.ref.startswith(_BRANCH):
        return "the repository is on no branch, so that a commit would be lost"
    try:
        said = run_git(root, "status", "--porcelain=v1", "-z", "--no-renames", "--", *paths, more=_LITERAL)
    except GitError as error:
        return f"git: {error}"
    folder = place_in_repository(str(root))
    changed = [line[3:].decode("utf-8", "replace").removeprefix(folder) for line in said.split(b"\0") if line]
    return f"uncommitted changes in {', '.join(sorted(changed))}" if changed else ""


def commit_paths(root: Path, paths: Sequence[str], message: str, author: Author) -> str:
    """Commit these files as they are now. Returns the commit's name. Raises: GitError; nothing is staged then."""
    try:
        run_git(root, "add", "--all", "--", *paths, more=_LITERAL)
        run_git(
            root,
            "commit", "--only", "--no-verify", "--no-gpg-sign", "--quiet", "--cleanup=verbatim", "--file=-", "--",
            *paths,
            stdin=message.encode(),
            more=_LITERAL | author.environment(),
        )  # fmt: skip
        return run_git(root, "rev-parse", "--verify", "HEAD").decode().strip()
    except GitError:
        _unstage(root, paths)
        raise


def _unstage(root: Path, paths: Sequence[str]) -> None:
    try:
        run_git(root, "reset", "--quiet", "--", *paths, more=_LITERAL)
    except GitError:
        return  # what is staged is shown by `git status`, and the caller tells of the first error


def push(root: Path, remote: str) -> str:
    """Push the branch that is checked out. Returns what came of it, in words."""
    place = find_git(os.path.realpath(root))
    ref = git_state(place).ref if place else ""
    more = {
        "GIT_ALLOW_PROTOCOL": "file:https:ssh",
        "GIT_ASKPASS": "true",
        "SSH_ASKPASS": "true",
        "SSH_ASKPASS_REQUIRE": "force",
    }
    try:
        run_git(
            root,
            "push",
            "--quiet",
            "--no-verify",
            "--no-recurse-submodules",
            "--",
            remote,
            f"{ref}:{ref}",
            more=more,
            timeout=PUSH_TIMEOUT,
        )
    except GitError as error:
        plain = "".join(char if char.isprintable() else " " for char in str(error))
        return f"not pushed to {remote}: {re.sub(r'//[^/@ ]*@', '//', plain)[:300]}"
    return ""
