"""Pushed commits: a repository that is pushed to, its history, and what a commit of it has.

Rule: only reads, also the quarantine of a push. Nothing that was pushed is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import attrs

from relayd.config.source.git import GitError, contents_of, run_git
from relayd.config.source.git_listing import Listing, listing_of


@attrs.frozen(kw_only=True)
class Objects:
    """A repository to read from.

    Args:
        folder: where the tree lies in it, "" for its top.
        objects: see `run_git`.
    """

    root: Path
    folder: str = ""
    objects: Mapping[str, str] = MappingProxyType({})

    def git(self, *words: str) -> str:
        """What git prints. Raises: GitError."""
        return run_git(self.root, *words, more=self.objects).decode("utf-8", "surrogateescape").strip()

    def commit(self, revision: str) -> str:
        """The full name of a commit, "" for none."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except GitError:
            return ""

    def follows(self, old: str, new: str) -> bool:
        """Whether `old` is in the history of `new`. Raises: GitError when either is not there."""
        return self.git("merge-base", old, new) == old if self.commit(old) == old else False

    def listing(self, commit: str) -> Listing:
        """What a commit has. Raises: GitError."""
        tree = f"{commit}:{self.folder}" if self.folder else commit
        if self.folder and not self._has_folder(tree):
            return Listing(commit=commit)
        listed = run_git(self.root, "ls-tree", "-r", "-z", tree, more=self.objects)
        return listing_of(commit, listed, self.contents)

    def contents(self, names: Sequence[str]) -> list[bytes]:
        """The bytes of blobs. Raises: GitError."""
        return contents_of(self.root, names, objects=self.objects)

    def _has_folder(self, tree: str) -> bool:
        try:
            return self.git("cat-file", "-t", tree) == "tree"
        except GitError:
            return False
