"""Git state: the commit of a work tree and what git is doing, read from git's own files; git itself is not run.

Rule: reads, never writes or locks, and never fails: what is not understood is "". Why not `git status`: it takes the
index lock itself, refuses a repository of another user, and cannot tell what happens between two of its runs.

Theory: git makes index.lock before it touches the work tree, and moves the ref 2 to 5 ms after it has let the index go.
So a tree is of one commit if no lock was there before and after reading, and index, HEAD and the ref stayed as they
were. Source: gitrepository-layout(5), and strace of git 2.39 for the order.
"""

from __future__ import annotations

import os
import re

from relayd.config.source.scan import Stamp, stamp_of
from relayd.noun import noun

# A command that goes on after its process has ended: the tree is nobody's commit until it is finished or given up.
MARKERS = {
    "MERGE_HEAD": "merge",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase or am",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "sequencer": "cherry-pick or revert",
}
_OID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LARGEST = 32 << 20  # bytes of packed-refs: half a million refs


@noun(kw_only=True)
class GitState:
    """A repository at one moment.

    Args:
        directory: its git directory.
        ref: what HEAD names, "" when it is detached.
        commit: full object name, "" before the first commit and where it cannot be read (reftable).
        index: stamp of the index.
        lock: name of a lock that is held now, "" for none, and when it was taken (ns).
        marker: the command that is not finished, "" for none.
    """

    directory: str
    ref: str
    commit: str
    index: Stamp | None = None
    lock: str = ""
    locked: int = 0
    marker: str = ""


def find_git(root: str) -> str:
    """The git directory of the work tree that `root` lies in; "" for none.

    In a linked worktree and in a submodule, .git is a file that names it.
    """
    return _find(root)[1]


def place_in_repository(root: str) -> str:
    """Where a directory lies in its work tree, as "config/"; "" at the top of one, and outside."""
    top = _find(root)[0]
    place = os.path.relpath(root, top) if top else "."
    return "" if place == "." else f"{place}/"


def _find(root: str) -> tuple[str, str]:
    """The work tree that `root` lies in and its git directory."""
    folder = root
    while True:
        place = os.path.join(folder, ".git")
        if os.path.isdir(place):
            return folder, place
        text = _text(place)
        if text.startswith("gitdir:"):
            return folder, os.path.normpath(os.path.join(folder, text[7:].strip()))
        above = os.path.dirname(folder)
        if above == folder:
            return "", ""
        folder = above


def git_state(directory: str) -> GitState:
    """Look at a repository by its git directory."""
    shared = _text(os.path.join(directory, "commondir"))
    common = os.path.normpath(os.path.join(directory, shared)) if shared else directory
    head = _text(os.path.join(directory, "HEAD"))
    ref = head[4:].strip() if head.startswith("ref:") else ""
    lock, locked = _lock(directory, common, ref)
    return GitState(
        directory=directory,
        ref=ref,
        commit=_resolve(directory, common, ref) if ref else head if _OID.fullmatch(head) else "",
        index=_stamp(os.path.join(directory, "index")),
        lock=lock,
        locked=locked,
        marker=next((name for name in MARKERS if os.path.lexists(os.path.join(directory, name))), ""),
    )


def _lock(directory: str, common: str, ref: str) -> tuple[str, int]:
    """The first lock that is held, and since when."""
    places = [(directory, "index.lock"), (directory, "HEAD.lock")]
    places += [(common, f"{ref}.lock")] if ref else []
    for folder, name in places:
        if stamp := _stamp(os.path.join(folder, name)):
            return name, stamp[3]
    return "", 0


def _resolve(directory: str, common: str, ref: str, depth: int = 5) -> str:
    """The commit that a ref names; a loose ref is newer than a packed one."""
    if ".." in ref or ref.startswith("/"):
        return ""
    for base in (directory, common):
        text = _text(os.path.join(base, ref))
        if _OID.fullmatch(text):
            return text
        if text.startswith("ref:") and depth:
            return _resolve(directory, common, text[4:].strip(), depth - 1)
    packed = _text(os.path.join(common, "packed-refs"), _LARGEST)
    match = re.search(rf"^([0-9a-f]+) {re.escape(ref)}$", packed, re.MULTILINE)
    return match[1] if match and _OID.fullmatch(match[1]) else ""


def _text(path: str, most: int = 4096) -> str:
    """A small file; "" for none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            return file.read(most).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _stamp(path: str) -> Stamp | None:
    try:
        return stamp_of(os.lstat(path))
    except OSError:
        return None
