"""Reading: how verbs that only look get a tree: as it was at one moment, or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

from relayd.config.source.git import commit_of, files_at
from relayd.config.source.git_state import place_in_repository
from relayd.config.source.tree import Git, Tree, Unstable, read_coherent

UNSTABLE = 4  # exit status of verbs that look at a tree which does not hold still
_PATIENCE = 10.0  # s; a checkout of a large tree takes less than one


def read_steadily(directory: Path) -> Tree | Unstable:
    """The tree, once nobody is writing it. An unfinished merge or rebase is no hindrance: people check what they merge.

    In a git hook the index is locked by the very commit that waits for us, so locks mean nothing there.
    """
    in_hook = "GIT_INDEX_FILE" in os.environ or "GIT_DIR" in os.environ
    git: Git = "ignore" if in_hook else "locks"
    deadline = time.time() + _PATIENCE
    return read_coherent(directory, wall=time.time, sleep=time.sleep, deadline=deadline, git=git)


def at_revision(directory: Path, revision: str) -> tuple[str, dict[str, bytes]]:
    """The commit that a revision names, and the files of the tree as they are in it. Raises: GitError."""
    commit = commit_of(directory, revision)
    return commit, files_at(directory, commit)


def folder_of(directory: Path) -> str:
    """Where a tree lies in its repository, "config/" or "": what counts paths from the repository's root needs it."""
    return place_in_repository(os.path.realpath(directory))
